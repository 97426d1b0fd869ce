//! What must hold of all replicas at every moment: each is looked at after each step.
//!
//! The names are those of the catalogue of invariants: one record per offset and epoch, and the
//! same records below the high watermark (S1), a leader has all that is committed (S2), one leader
//! per epoch (S5), high watermarks never go back at a leader (S7), sequences are gapless (S10), a
//! start finds what was synced and nothing that was never written (S13), who leads no more answers
//! the writes that wait (L2). *Committed* is what any leader has let consumers read. What it knows
//! comes from logs and marks, never from an answer.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use strandline_broker::partition::{ObservedReplica, PartitionsObserver};
use strandline_client::protocol::{
    BrokerId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TopicPartition,
};
use strandline_core::{invariants, replica::Role};

use super::{
    super::{Trace, checks::Checks, machines::Machine},
    batches::{Batch, Crc, parse},
    placement::Placed,
    rot::Rot,
};
use crate::history::Mark;

/// How long writes may wait at a replica that does not lead.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) leaders: u64,
    pub(super) cuts: u64,
    pub(super) zombies: u64,
    pub(super) batches: u64,
    pub(super) committed: u64,
    pub(super) restarts: u64,
    pub(super) waiting_max: u64,
    pub(super) rotten: u64,
    pub(super) repaired: u64,
}

/// What is known of the replica on one machine.
#[derive(Debug, Default)]
pub(super) struct Replica {
    /// In the start of that number; 0 before the first.
    start: u32,
    role: Option<(Role, LeaderEpoch)>,
    /// Whether it led when it was looked at before.
    led: bool,
    high_watermark: Offset,
    pub(super) log: BTreeMap<Offset, Batch>,
    pub(super) log_start: Offset,
    end: Offset,
    pub(super) durable: Offset,
    /// Up to where it was held against what is committed.
    compared: Offset,
    /// Whether metadata has taken it away since its start.
    pub(super) is_removed: bool,
    /// Where its log ended when its epoch was over and it did not know yet.
    replaced: Option<(LeaderEpoch, Offset)>,
    /// Since when writes wait for it although it does not lead.
    waits_since: Option<Duration>,
}

/// What is known of one partition.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// By base offset and epoch: whoever leads an epoch writes an offset once.
    written: BTreeMap<(Offset, LeaderEpoch), Batch>,
    pub(super) committed: BTreeMap<Offset, Batch>,
    committed_end: Offset,
    /// The newest epoch whose leader need not have had everything: what it had is taken from there.
    lossy: LeaderEpoch,
    sequences: BTreeMap<(ProducerId, ProducerEpoch), (i32, Sequence)>,
    /// On which machine who led which epoch, and in which of its starts.
    leaders: BTreeMap<LeaderEpoch, (usize, u32)>,
    pub(super) replicas: BTreeMap<usize, Replica>,
}

impl Watched {
    /// Whether a later leader has something else there, so that whoever has it cuts it: perhaps it
    /// just did when its machine went off.
    fn is_to_be_cut(&self, batch: &Batch) -> bool {
        let newest = self.leaders.last_key_value();
        newest.is_some_and(|(epoch, (leader, _))| {
            let replica = self.replicas.get(leader);
            *epoch > batch.epoch && replica.is_some_and(|it| it.log.get(&batch.base) != Some(batch))
        })
    }
}

/// See the module.
pub(super) struct Replicas {
    pub(super) trace: Trace,
    checks: Rc<Checks>,
    pub(super) partitions: RefCell<BTreeMap<TopicPartition, Watched>>,
    /// Partitions whose leader was elected although it need not have everything.
    unclean: RefCell<BTreeMap<TopicPartition, LeaderEpoch>>,
    /// What has gone bad where it lies, by partition and machine, until it is repaired.
    pub(super) rotten: RefCell<BTreeMap<(TopicPartition, usize), Rot>>,
    pub(super) seen: Cell<Seen>,
}

/// Who is looked at.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    pub(super) machine: &'a Machine,
    pub(super) now: &'a ObservedReplica,
}

impl Replicas {
    pub(super) fn new(trace: Trace, checks: Rc<Checks>) -> Self {
        Self {
            trace,
            checks,
            partitions: RefCell::default(),
            unclean: RefCell::default(),
            rotten: RefCell::default(),
            seen: Cell::default(),
        }
    }

    /// Which leaders need not have everything.
    pub(super) fn set_lossy(&self, lossy: BTreeMap<TopicPartition, LeaderEpoch>) {
        self.unclean.replace(lossy);
    }

    /// Whether a record was readable at an offset.
    pub(super) fn is_committed(&self, id: TopicPartition, offset: i64, mark: Mark) -> bool {
        let partitions = self.partitions.borrow();
        let Some(watched) = partitions.get(&id) else {
            return false;
        };
        let batch = watched.committed.range(..=Offset(offset)).next_back();
        batch.is_some_and(|(base, batch)| {
            let at = usize::try_from(offset - base.0).ok();
            at.and_then(|at| batch.marks.get(at)) == Some(&Some(mark))
        })
    }

    /// Takes in where replicas are to be; counts leaders that have written since another one was
    /// elected, each once.
    pub(super) fn follow_placement(&self, placed: &[(usize, TopicPartition, Placed)]) {
        let mut partitions = self.partitions.borrow_mut();
        for (_, id, placed) in placed {
            let Some(watched) = partitions.get_mut(id) else {
                continue;
            };
            for (machine, replica) in &mut watched.replicas {
                let is_its = |broker: &BrokerId| usize::try_from(broker.0 - 1) == Ok(*machine);
                replica.is_removed |= !placed.replicas.iter().any(is_its);
                let Some((Role::Leader, epoch)) = replica.role else {
                    replica.replaced = None;
                    continue;
                };
                if epoch >= placed.leader_epoch {
                    replica.replaced = None;
                    continue;
                }
                let (since, at) = *replica.replaced.get_or_insert((epoch, replica.end));
                if since == epoch && replica.end > at {
                    self.count(|seen| seen.zombies += 1);
                    let what = format_args!("{id}: wrote in epoch {epoch} that is over");
                    self.trace.note("replicas", what);
                    replica.replaced = Some((epoch, Offset(i64::MAX)));
                }
            }
        }
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Seen)) {
        let mut seen = self.seen.get();
        change(&mut seen);
        self.seen.set(seen);
    }

    fn violation(&self, what: String) {
        self.checks.violation(what);
    }

    /// Looks at every replica of one broker that the run knows the topic of.
    pub(super) fn look(
        &self,
        machine: &Machine,
        observer: &PartitionsObserver,
        is_ours: impl Fn(&str) -> bool,
    ) {
        for now in observer.replicas() {
            if is_ours(&now.topic) {
                self.look_at(Look { machine, now: &now });
            }
        }
    }

    fn look_at(&self, look: Look<'_>) {
        let (id, index) = (look.now.id, look.machine.index);
        if let Err(violation) = invariants::marks_are_ordered(&look.now.marks) {
            self.violation(format!("{} {id}: {violation}", look.machine.host));
        }
        let mut partitions = self.partitions.borrow_mut();
        let watched = partitions.entry(id).or_default();
        let mut replica = watched.replicas.remove(&index).unwrap_or_default();
        let is_new = replica.start != look.machine.incarnation();
        if is_new {
            self.check_restart(look, watched, &mut replica);
        }
        self.follow_log(look, watched, &mut replica);
        // Who led at the last look may have committed something before it heard of another leader.
        replica.led = matches!(replica.role, Some((Role::Leader, _)));
        self.check_role(look, watched, &mut replica);
        self.check_committed(look, watched, &mut replica);
        self.check_rot(look, &replica);
        self.check_answered(look, &mut replica);
        replica.durable = look.now.marks.durable_end;
        watched.replicas.insert(index, replica);
        let waiting = look.now.waiting as u64;
        self.count(|seen| seen.waiting_max = seen.waiting_max.max(waiting));
    }

    /// L2: whoever waits for a leader that leads no more hears so.
    fn check_answered(&self, look: Look<'_>, replica: &mut Replica) {
        let (Look { machine, now }, at) = (look, self.trace.now());
        if now.role == Role::Leader || now.waiting == 0 {
            replica.waits_since = None;
            return;
        }
        let since = *replica.waits_since.get_or_insert(at);
        if at > since + ANSWERED_WITHIN {
            self.violation(format!(
                "L2: {} {}: {} writes wait for {:?}, and it is {:?} in epoch {}",
                machine.host,
                now.id,
                now.waiting,
                at - since,
                now.role,
                now.leader_epoch
            ));
            replica.waits_since = Some(at);
        }
    }

    /// S13: a start finds what was durable, and nothing that was never written.
    fn check_restart(&self, look: Look<'_>, watched: &Watched, replica: &mut Replica) {
        let Look { machine, now } = look;
        let (id, marks, host) = (now.id, now.marks, &machine.host);
        let before = std::mem::take(replica);
        replica.start = machine.incarnation();
        replica.log_start = marks.log_start;
        replica.end = marks.log_start;
        // What was taken away owes nothing when it comes back.
        if before.start == 0 || before.is_removed {
            return;
        }
        self.count(|seen| seen.restarts += 1);
        let mut lost = before
            .log
            .range(marks.log_end..before.durable.max(marks.log_end));
        if marks.log_end < before.durable && !lost.all(|(_, batch)| watched.is_to_be_cut(batch)) {
            self.violation(format!(
                "S13: {host} {id}: durable up to {} before its end, and {} is found",
                before.durable, marks.log_end
            ));
        }
        if let Some(rot) = self.rotten.borrow_mut().get_mut(&(id, machine.index)) {
            // What it holds is looked at once it is repaired.
            rot.is_open = true;
            replica.log = before.log;
            replica.log_start = before.log_start;
            replica.end = before.end;
            return;
        }
        let (found, whole) = parse(&now.batches(marks.log_start, marks.log_end), Crc::Checked);
        if let Err(error) = whole {
            self.violation(format!("S13: {host} {id}: {error}"));
        }
        for batch in &found {
            // What was being written when it ended may be there or not.
            let was = before.log.get(&batch.base);
            if batch.end <= before.end && was != Some(batch) {
                self.violation(format!(
                    "S13: {host} {id}: {batch:?} is found, and was {was:?}"
                ));
            }
        }
    }

    /// Keeps in step with its log; S1: nobody wrote anything else there in that epoch.
    fn follow_log(&self, look: Look<'_>, watched: &mut Watched, replica: &mut Replica) {
        let Look { machine, now } = look;
        let (id, host, marks) = (now.id, &machine.host, now.marks);
        let before = replica.end;
        while let Some((base, last)) = replica.log.last_key_value()
            && (last.end > marks.log_end || now.epoch_at(*base) != Some(last.epoch))
            && *base >= marks.log_start
        {
            replica.end = *base;
            replica.log.pop_last();
        }
        if marks.log_end < before {
            self.count(|seen| seen.cuts += 1);
            self.trace.note(
                host,
                format_args!("{id}: its log is cut from {before} to {}", marks.log_end),
            );
        }
        if marks.log_start > replica.log_start {
            replica.log.retain(|_, batch| batch.end > marks.log_start);
        }
        replica.log_start = marks.log_start;
        replica.end = replica.end.clamp(marks.log_start, marks.log_end);
        replica.compared = replica.compared.min(replica.end);
        if replica.end == marks.log_end {
            return;
        }
        let (batches, whole) = parse(&now.batches(replica.end, marks.log_end), Crc::Believed);
        if let Err(error) = whole {
            self.violation(format!("S1: {host} {id}: its log cannot be read: {error}"));
        }
        for batch in batches {
            self.count(|seen| seen.batches += 1);
            let known = watched.written.entry((batch.base, batch.epoch));
            let known = known.or_insert_with(|| batch.clone());
            if *known != batch {
                self.violation(format!(
                    "S1: {host} {id} has {batch:?}, where {known:?} was written in that epoch"
                ));
            }
            let last = replica.log.last_key_value().map(|(_, last)| last);
            if let Some(last) = last
                && (last.end != batch.base || last.epoch > batch.epoch)
            {
                self.violation(format!("S1: {host} {id} has {batch:?} behind {last:?}"));
            }
            replica.end = batch.end;
            replica.log.insert(batch.base, batch);
        }
    }

    /// S5, S2 and S7: what is asked of a leader.
    fn check_role(&self, look: Look<'_>, watched: &mut Watched, replica: &mut Replica) {
        let Look { machine, now } = look;
        let (id, host, epoch) = (now.id, &machine.host, now.leader_epoch);
        let role = (now.role, epoch);
        let is_new = replica.role.replace(role) != Some(role);
        if now.role != Role::Leader {
            replica.high_watermark = now.marks.high_watermark;
            return;
        }
        let own = (machine.index, machine.incarnation());
        let known = *watched.leaders.entry(epoch).or_insert(own);
        if known != own {
            self.violation(format!(
                "S5: {id}: machine and start {own:?} lead epoch {epoch}, which {known:?} led"
            ));
        }
        if is_new {
            self.count(|seen| seen.leaders += 1);
            self.trace.note(
                host,
                format_args!("{id}: leads epoch {epoch} from {}", now.marks.log_end),
            );
            let newest = watched.leaders.last_key_value();
            if newest.is_some_and(|(newest, _)| *newest == epoch) {
                self.check_complete(look, watched, replica);
            }
        } else if now.marks.high_watermark < replica.high_watermark {
            self.violation(format!(
                "S7: {host} {id}: the high watermark of epoch {epoch} goes back from {} to {}",
                replica.high_watermark, now.marks.high_watermark
            ));
        }
        replica.high_watermark = now.marks.high_watermark;
    }

    /// S2: who leads has everything that was committed.
    fn check_complete(&self, look: Look<'_>, watched: &mut Watched, replica: &Replica) {
        let Look { machine, now } = look;
        let epoch = now.leader_epoch;
        let unclean = self.unclean.borrow().get(&now.id).copied();
        if let Some(since) = unclean
            && since > watched.lossy
            && since <= epoch
        {
            // What it does not have is lost, as it was asked for: from the first batch on that it
            // has otherwise, or not.
            watched.lossy = since;
            let lost = watched
                .committed
                .range(now.marks.log_start..)
                .find(|(base, batch)| replica.log.get(base) != Some(batch))
                .map(|(base, _)| *base);
            if let Some(lost) = lost {
                watched.committed.split_off(&lost);
                watched.committed_end = watched.committed_end.min(lost);
            }
            watched.committed_end = watched.committed_end.min(now.marks.log_end);
            watched.sequences.clear();
            for other in watched.replicas.values_mut() {
                other.compared = Offset::ZERO;
            }
            return;
        }
        let missing = watched
            .committed
            .range(now.marks.log_start..)
            .find(|(base, batch)| replica.log.get(base) != Some(batch));
        if let Some((base, batch)) = missing {
            self.violation(format!(
                "S2: {} {} leads epoch {epoch} and has {:?} where {batch:?} is committed",
                machine.host,
                now.id,
                replica.log.get(base)
            ));
        }
    }

    /// S1 and S10: what is below a high watermark is the same everywhere, and follows on each
    /// other.
    fn check_committed(&self, look: Look<'_>, watched: &mut Watched, replica: &mut Replica) {
        let Look { machine, now } = look;
        let (id, host, mark) = (now.id, &machine.host, now.marks.high_watermark);
        if (now.role == Role::Leader || replica.led) && mark > watched.committed_end {
            let from = watched.committed_end;
            let fresh: Vec<_> = replica
                .log
                .range(from..mark)
                .map(|(_, it)| it.clone())
                .collect();
            let seen = fresh.last().map(|last| last.end);
            for batch in fresh {
                self.commit(look, watched, batch);
            }
            if seen != Some(mark) {
                // Its disk went off before all of that was looked at.
                watched.sequences.clear();
            }
            watched.committed_end = watched.committed_end.max(mark);
        } else if mark > watched.committed_end && !self.unclean.borrow().contains_key(&id) {
            self.violation(format!(
                "S7: {host} {id}: the high watermark is {mark}, and {} is committed",
                watched.committed_end
            ));
        }
        // Who has nothing of a lossy leader yet may still have what that leader has not.
        let last = replica.log.last_key_value().map(|(_, last)| last.epoch);
        if last.is_some_and(|last| last < watched.lossy) && replica.compared == Offset::ZERO {
            return;
        }
        for (base, batch) in replica.log.range(replica.compared..mark) {
            let committed = watched.committed.get(base);
            if committed.is_some_and(|committed| committed != batch) {
                self.violation(format!(
                    "S1: {host} {id} has {batch:?} below its high watermark {mark}, and \
                     {committed:?} is committed"
                ));
            }
        }
        replica.compared = replica.compared.max(mark.min(replica.end));
    }

    fn commit(&self, look: Look<'_>, watched: &mut Watched, batch: Batch) {
        let Look { machine, now } = look;
        self.count(|seen| seen.committed += batch.marks.len() as u64);
        // Whoever leads a later epoch must have it, however late its leader comes to know of it.
        let later = watched.leaders.range(now.leader_epoch..).nth(1);
        if let Some((epoch, (newest, start))) = later
            && !self.unclean.borrow().contains_key(&now.id)
            && let Some(leader) = watched.replicas.get(newest)
            && leader.start == *start
            && leader.log_start <= batch.base
            && leader.log.get(&batch.base) != Some(&batch)
        {
            self.violation(format!(
                "S2: {} {} commits {batch:?} in epoch {}, and the leader of epoch {epoch} has {:?}",
                machine.host,
                now.id,
                now.leader_epoch,
                leader.log.get(&batch.base)
            ));
        }
        if batch.producer.0 >= 0 {
            let key = (batch.producer, batch.producer_epoch);
            let next = (batch.records(), batch.sequence);
            if let Some((records, sequence)) = watched.sequences.insert(key, next)
                && let Err(violation) =
                    invariants::sequences_are_gapless(sequence, records, batch.sequence)
            {
                self.violation(format!("{}: {violation}: {batch:?}", now.id));
            }
        }
        watched.committed.insert(batch.base, batch);
    }
}
