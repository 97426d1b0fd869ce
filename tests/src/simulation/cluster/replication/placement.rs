//! Where partitions lie and who leads them, as committed images tell it from version to version:
//! what happened, and what must hold of it.
//!
//! Epochs never go back (S6); a broker that was without power is in sync again only once it has
//! caught up, as far as what it had may be lost (S15).

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use strandline_client::protocol::{
    BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch, PartitionId, TopicPartition,
};
use strandline_core::metadata::{Image, Partition};

use super::{
    super::{Trace, checks::Checks},
    topics::TopicPlan,
};

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changes {
    pub(super) leaders: u64,
    pub(super) shrinks: u64,
    pub(super) expands: u64,
    pub(super) eligible_elected: u64,
    pub(super) unclean_elected: u64,
    pub(super) excluded: u64,
    pub(super) reassigned: u64,
    pub(super) leaderless: u64,
}

/// A partition as an image tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) replicas: Vec<BrokerId>,
    pub(super) isr: Vec<BrokerId>,
    /// Who may be elected although it is not in sync.
    pub(super) eligible: Vec<BrokerId>,
    pub(super) adding: Vec<BrokerId>,
    pub(super) removing: Vec<BrokerId>,
    pub(super) leader: Option<BrokerId>,
    pub(super) leader_epoch: LeaderEpoch,
    pub(super) epoch: PartitionEpoch,
}

impl Placed {
    fn of(partition: &Partition) -> Self {
        Self {
            replicas: partition.replicas.iter().map(|it| it.broker).collect(),
            isr: partition.isr.clone(),
            eligible: partition.elr.clone(),
            adding: partition.adding.clone(),
            removing: partition.removing.clone(),
            leader: partition.leader,
            leader_epoch: partition.leader_epoch,
            epoch: partition.partition_epoch,
        }
    }

    /// Whether it is being moved.
    pub(super) const fn is_moving(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// Who can be elected without a loss.
    pub(super) fn electable(&self) -> impl Iterator<Item = BrokerId> + '_ {
        self.isr.iter().chain(&self.eligible).copied()
    }
}

/// A partition, with the number of its topic in the run.
pub(super) type PlacedPartition = (usize, TopicPartition, Placed);

/// What a registration has left of a broker that may lack what it had.
#[derive(Debug, Default)]
struct Registered {
    violations: Vec<String>,
    excluded: u64,
}

/// See the module.
pub(super) struct Placement {
    trace: Trace,
    checks: Rc<Checks>,
    topics: Vec<TopicPlan>,
    last: RefCell<Option<Arc<Image>>>,
    /// What the last image places.
    newest: RefCell<Rc<[PlacedPartition]>>,
    /// Brokers whose power has gone since they registered last.
    lost: RefCell<BTreeSet<BrokerId>>,
    /// What is to be said of a registration, by broker and epoch, once it is known to be of a start
    /// after the power went: one that was under way before may be committed behind it.
    registered: RefCell<BTreeMap<(BrokerId, BrokerEpoch), Registered>>,
    /// Since which epoch what was acknowledged before need not be there.
    lossy: RefCell<BTreeMap<TopicPartition, LeaderEpoch>>,
    pub(super) changes: Cell<Changes>,
}

impl Placement {
    pub(super) fn new(trace: Trace, checks: Rc<Checks>, topics: Vec<TopicPlan>) -> Self {
        Self {
            trace,
            checks,
            topics,
            last: RefCell::default(),
            newest: RefCell::new(Rc::new([])),
            lost: RefCell::default(),
            registered: RefCell::default(),
            lossy: RefCell::default(),
            changes: Cell::default(),
        }
    }

    fn count(&self, change: impl FnOnce(&mut Changes)) {
        let mut changes = self.changes.get();
        change(&mut changes);
        self.changes.set(changes);
    }

    /// The partitions of the run's topics, as the newest committed image has them.
    pub(super) fn partitions(&self) -> Rc<[PlacedPartition]> {
        Rc::clone(&self.newest.borrow())
    }

    fn placed(&self, image: &Image) -> Rc<[PlacedPartition]> {
        let mut placed = Vec::new();
        for (index, plan) in self.topics.iter().enumerate() {
            let Some(topic) = image.topic(plan.name) else {
                continue;
            };
            for (number, partition) in topic.partitions() {
                let id = TopicPartition {
                    topic: topic.id,
                    partition: number,
                };
                placed.push((index, id, Placed::of(partition)));
            }
        }
        placed.into()
    }

    /// The identity of a partition.
    pub(super) fn id(&self, topic: usize, partition: i32) -> Option<TopicPartition> {
        let last = self.last.borrow();
        let topic = last.as_ref()?.topic(self.topics.get(topic)?.name)?.id;
        Some(TopicPartition {
            topic,
            partition: PartitionId(partition),
        })
    }

    /// Partitions whose leader was elected although it need not have everything, with its epoch.
    pub(super) fn lossy(&self) -> BTreeMap<TopicPartition, LeaderEpoch> {
        self.lossy.borrow().clone()
    }

    /// The power of a broker has gone: what it had not synced may be lost.
    pub(super) fn lost_power(&self, broker: BrokerId) {
        self.lost.borrow_mut().insert(broker);
    }

    /// The broker that runs now has registered under this epoch.
    pub(super) fn has_registered(&self, broker: BrokerId, epoch: BrokerEpoch) {
        let known = self.registered.borrow_mut().remove(&(broker, epoch));
        let Some(known) = known else {
            return;
        };
        self.lost.borrow_mut().remove(&broker);
        self.count(|changes| changes.excluded += known.excluded);
        for violation in known.violations {
            self.checks.violation(violation);
        }
    }

    /// Takes in the newest committed image.
    pub(super) fn follow(&self, image: &Arc<Image>) {
        let before = self.last.borrow().clone();
        if before
            .as_ref()
            .is_some_and(|it| it.version() >= image.version())
        {
            return;
        }
        self.last.replace(Some(Arc::clone(image)));
        let newest = self.placed(image);
        let old = self.newest.replace(Rc::clone(&newest));
        let Some(before) = before else {
            return;
        };
        let old: BTreeMap<_, _> = old.iter().map(|(_, id, was)| (*id, was)).collect();
        for (topic, id, now) in newest.iter() {
            if let Some(was) = old.get(id)
                && *was != now
            {
                self.compare((*topic, *id), was, now);
            }
        }
        self.check_excluded((&before, image), &old, &newest);
    }

    fn compare(&self, (topic, id): (usize, TopicPartition), was: &Placed, now: &Placed) {
        let name = format!("{}-{}", self.topics[topic].name, id.partition);
        self.trace
            .note("placement", format_args!("{name}: {now:?}"));
        if now.leader_epoch < was.leader_epoch || now.epoch <= was.epoch {
            self.checks
                .violation(format!("S6: {name} was {was:?} and is {now:?}"));
        }
        let gone = was.isr.iter().any(|it| !now.isr.contains(it));
        let come = now.isr.iter().any(|it| !was.isr.contains(it));
        let is_led = now.leader_epoch > was.leader_epoch && now.leader.is_some();
        // What happened in between is not seen: who leads may have been eligible by then.
        let is_electable = |leader: BrokerId| {
            was.electable().any(|it| it == leader) || now.epoch.0 > was.epoch.0 + 1
        };
        let is_unclean = is_led && now.leader.is_some_and(|it| !is_electable(it));
        let is_eligible = is_led
            && now
                .leader
                .is_some_and(|leader| !was.isr.contains(&leader) && was.eligible.contains(&leader));
        if is_unclean {
            self.lossy.borrow_mut().insert(id, now.leader_epoch);
        }
        let is_reassigned = was.is_moving() && !now.is_moving();
        self.count(|changes| {
            changes.shrinks += u64::from(gone && !is_unclean);
            changes.expands += u64::from(come && !is_unclean);
            changes.leaders += u64::from(now.leader.is_some() && now.leader != was.leader);
            changes.leaderless += u64::from(now.leader.is_none() && was.leader.is_some());
            changes.eligible_elected += u64::from(is_eligible);
            changes.unclean_elected += u64::from(is_unclean);
            changes.reassigned += u64::from(is_reassigned);
        });
    }

    /// S15: who registers again after its power went is not in sync where it may lack what it had.
    fn check_excluded(
        &self,
        (before, image): (&Image, &Image),
        old: &BTreeMap<TopicPartition, &Placed>,
        newest: &[PlacedPartition],
    ) {
        for broker in image.brokers() {
            let id = broker.registration.broker;
            let Some(was) = before.broker(id) else {
                continue;
            };
            if was.epoch == broker.epoch || !self.lost.borrow().contains(&id) {
                continue;
            }
            let mut registered = Registered::default();
            for (topic, partition, now) in newest {
                let plan = &self.topics[*topic];
                // A lone copy has nobody beside it that could have more.
                if plan.flush == "ack" || now.replicas.len() < 2 {
                    continue;
                }
                let was = old.get(partition);
                if now.electable().any(|it| it == id) {
                    registered.violations.push(format!(
                        "S15: broker {id} lost power, and is still in sync in {}-{}: {now:?}",
                        plan.name, partition.partition
                    ));
                } else if was.is_some_and(|was| was.electable().any(|it| it == id)) {
                    registered.excluded += 1;
                }
            }
            let key = (id, broker.epoch);
            self.registered.borrow_mut().insert(key, registered);
        }
    }
}
