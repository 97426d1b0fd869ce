//! What is asked for once nothing goes wrong any more: every partition that can be led is led and
//! takes writes (L1), every request was answered (L2), every copy becomes the same (L3) and is it,
//! byte for byte (H14), and reassignments come to their end (L5).

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use strandline_client::protocol::{
    BrokerId,
    messages::{Acks, Election},
};
use strandline_core::metadata::BrokerState;
use tokio::time::sleep;

use super::{
    super::machines::Machines,
    Replication,
    batches::{Crc, parse},
    ledger::Place,
    placement::Placed,
    topics::PARTITIONS,
};
use crate::random::Random;

impl Replication {
    /// Somebody who elects unclean leaders where nothing else is left, once all brokers are there.
    pub(in crate::simulation::cluster) async fn rescue(self: Rc<Self>) -> turmoil::Result {
        let mut random = Random::new(self.plan.seed, 870);
        // Writers wait for what they have sent to a partition that nobody leads.
        while !self.stop.get() || self.writers_left.get() > 0 {
            sleep(Duration::from_millis(500)).await;
            for &(_, id, ref placed) in self.placement.partitions().iter() {
                if placed.leader.is_none() && self.is_lost(placed) {
                    self.elect_one(id, Election::Unclean, &mut random).await;
                }
            }
        }
        Ok(())
    }

    /// Whether nobody who lives has everything that was acknowledged.
    fn is_lost(&self, placed: &Placed) -> bool {
        let Some(image) = self.checks.newest_image() else {
            return false;
        };
        let lives = |broker: BrokerId| {
            let known = image.broker(broker);
            known.is_some_and(|it| it.state == BrokerState::Active)
        };
        !placed.electable().any(lives)
    }

    /// What is missing until every partition takes writes: something was acknowledged in it after
    /// `since`.
    pub(in crate::simulation::cluster) fn missing_writes(&self, since: Duration) -> Option<String> {
        let ledger = self.ledger.borrow();
        let all = self.placement.partitions();
        if all.len() < self.topics.len() * PARTITIONS.unsigned_abs() as usize {
            return Some("there are not all topics".to_owned());
        }
        for &(topic, id, ref placed) in all.iter() {
            let plan = &self.topics[topic];
            let place: Place = (topic, id.partition.0);
            if plan.acks == Acks::All && self.alive(placed) < plan.min_isr {
                continue;
            }
            if ledger.last_acknowledged(place).is_none_or(|at| at < since) {
                return Some(format!(
                    "nothing is acknowledged in {}-{}: {placed:?}",
                    plan.name, id.partition
                ));
            }
        }
        None
    }

    /// How many of its replicas lie on brokers that live.
    fn alive(&self, placed: &Placed) -> usize {
        let image = self.checks.newest_image();
        let lives = |broker: &&BrokerId| {
            let known = image.as_ref().and_then(|image| image.broker(**broker));
            known.is_some_and(|it| it.state == BrokerState::Active)
        };
        placed.replicas.iter().filter(lives).count()
    }

    /// What is missing until every copy on a machine that is left is the same.
    pub(in crate::simulation::cluster) fn missing_copies(
        &self,
        machines: &Machines,
    ) -> Option<String> {
        for &(topic, id, ref placed) in self.placement.partitions().iter() {
            let name = format!("{}-{}", self.topics[topic].name, id.partition);
            let is_left = |broker: &BrokerId| machines.left().any(|it| it.broker == *broker);
            let left: Vec<_> = placed.replicas.iter().copied().filter(is_left).collect();
            if placed.is_moving() && left.len() == placed.replicas.len() {
                return Some(format!("{name} is being moved: {placed:?}"));
            }
            if let Some(out) = left.iter().find(|it| !placed.isr.contains(it)) {
                return Some(format!("{name}: broker {out} is not in sync: {placed:?}"));
            }
            let mut first = None;
            for machine in machines.left().filter(|it| left.contains(&it.broker)) {
                let partitions = machine.partitions().map(|it| it.replicas());
                let replica = partitions.into_iter().flatten().find(|it| it.id == id);
                let Some(replica) = replica else {
                    return Some(format!("{name} is not open on {}", machine.host));
                };
                let marks = replica.marks;
                let now = (marks.high_watermark, marks.log_end);
                if marks.high_watermark != marks.log_end || *first.get_or_insert(now) != now {
                    return Some(format!(
                        "{name} on {} is at {marks:?}, others at {first:?}",
                        machine.host
                    ));
                }
                if replica.waiting > 0 {
                    return Some(format!("{name} on {}: writes wait", machine.host));
                }
            }
        }
        None
    }

    /// What is missing until everything that went bad is repaired where it still counts.
    pub(in crate::simulation::cluster) fn missing_repair(
        &self,
        machines: &Machines,
    ) -> Option<String> {
        for &(topic, id, ref placed) in self.placement.partitions().iter() {
            let mut left = machines.left();
            let bad = left.find(|machine| {
                placed.replicas.contains(&machine.broker) && self.replicas.is_bad(id, machine.index)
            });
            if let Some(machine) = bad {
                let name = self.topics[topic].name;
                return Some(format!(
                    "{name}-{} is bad on {}",
                    id.partition, machine.host
                ));
            }
        }
        None
    }

    /// H14: every copy on a machine that is left holds the same, byte for byte, and it is whole.
    /// To be asked once nothing is missing.
    pub(in crate::simulation::cluster) fn compare_copies(&self, machines: &Machines) {
        let mut held = BTreeMap::new();
        for machine in machines.left() {
            let replicas = machine.partitions().map(|it| it.replicas());
            for replica in replicas.into_iter().flatten() {
                let is_ours = self.topics.iter().any(|it| *it.name == *replica.topic);
                if !is_ours {
                    continue;
                }
                let (id, marks) = (replica.id, replica.marks);
                let (batches, whole) = parse(
                    &replica.batches(marks.log_start, marks.log_end),
                    Crc::Checked,
                );
                if let Err(error) = whole {
                    self.violation(format!("S14: {} {id}: {error}", machine.host));
                }
                let end = batches.last().map_or(marks.log_start, |last| last.end);
                if end != marks.log_end {
                    self.violation(format!(
                        "H14: {} {id} reads up to {end} and ends at {}",
                        machine.host, marks.log_end
                    ));
                }
                for batch in batches {
                    let known = held.entry((id, batch.base));
                    let known = known.or_insert_with(|| batch.clone());
                    if *known != batch {
                        self.violation(format!(
                            "H14: {} {id} holds {batch:?}, and another copy {known:?}",
                            machine.host
                        ));
                    }
                }
            }
        }
    }

    /// L2, and that nothing was acknowledged that no consumer could ever read.
    pub(in crate::simulation::cluster) fn judge(&self) {
        let ledger = self.ledger.borrow();
        let unanswered = ledger.counts().unanswered;
        if unanswered > 0 {
            self.violation(format!(
                "L2: {unanswered} records were sent and never answered"
            ));
        }
        for &(topic, id, _) in self.placement.partitions().iter() {
            let place = (topic, id.partition.0);
            if self.topics[topic].acks != Acks::All || self.is_lossy(place) {
                continue;
            }
            for (mark, offset) in ledger.acknowledged(place) {
                if !self.replicas.is_committed(id, offset, mark) {
                    self.violation(format!(
                        "S2: {place:?}: {mark:?} was acknowledged at {offset}, and no leader has \
                         committed it"
                    ));
                }
            }
        }
    }

    /// How often what happened.
    pub(in crate::simulation::cluster) fn counts(&self) -> Vec<(&'static str, u64)> {
        let (seen, changes) = (self.replicas.seen.get(), self.placement.changes.get());
        let (moves, records) = (self.moves.get(), self.ledger.borrow().counts());
        vec![
            ("changes of a partition's leader", changes.leaders),
            ("partitions left without a leader", changes.leaderless),
            ("ISR shrinks", changes.shrinks),
            ("ISR expands", changes.expands),
            (
                "elections from the eligible replicas",
                changes.eligible_elected,
            ),
            ("unclean elections", changes.unclean_elected),
            (
                "replicas excluded after an unclean shutdown",
                changes.excluded,
            ),
            ("reassignments completed", changes.reassigned),
            ("leaderships taken up", seen.leaders),
            ("divergent logs cut", seen.cuts),
            ("leaders that wrote after they were replaced", seen.zombies),
            ("starts that found a replica", seen.restarts),
            ("batches that went bad", seen.rotten),
            ("batches that were repaired", seen.repaired),
            ("batches that a replica took", seen.batches),
            ("records committed", seen.committed),
            ("most writes that waited at once", seen.waiting_max),
            ("elections asked for", moves.elections),
            ("drains and undrains asked for", moves.drains),
            ("reassignments asked for", moves.reassignments),
            ("deletions of records", moves.deletions),
            ("moves refused", moves.refused),
            ("replicated records acknowledged", records.acknowledged),
            ("replicated records of unknown outcome", records.unknown),
            ("replicated records refused", records.refused),
            (
                "replicated records read",
                self.ledger.borrow().offsets_read(),
            ),
            ("replicated records found in the end", self.found.get()),
            ("answers where partitions end", self.ends_asked.get()),
        ]
    }
}
