//! Everything that the metadata log tells, up to one offset.
//!
//! *Patterns: replicated log, versioned value, state watch.* An image is never changed in place
//! once it is shared: the driver clones it (cheap, see [`SharedMap`]), applies an entry and
//! publishes it.

mod apply;
mod kept;
mod snapshot;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use strandline_protocol::{
    BrokerEpoch, BrokerId, ClusterId, DirectoryId, LeaderEpoch, Offset, ProducerId, TopicId,
    TopicPartition, messages::Duty,
};

use self::kept::Kept;
pub use self::snapshot::{
    ImageBuilder, SnapshotCounts, SnapshotError, SnapshotPartition, SnapshotRecord,
};
use super::{
    entry::Entry,
    record::{Membership, Registration, Replica},
    topic::{Partition, Topic},
};
use crate::shared_map::SharedMap;

/// The largest image that [`Image::apply`] checks as a whole in debug builds, in partitions.
const CHECKED_PARTITIONS_MAX: usize = 1_000;

/// A broker as the log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Its last registration.
    pub registration: Registration,
    /// The offset of that.
    pub epoch: BrokerEpoch,
    /// Whether it takes part.
    pub state: BrokerState,
    /// The entry that said so.
    pub since: Offset,
    /// What it is to do while it takes part, which outlasts its starts.
    pub duty: Duty,
}

/// Whether a broker takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokerState {
    /// It may lead, and is given partitions to keep.
    Active,
    /// It leads nothing: it was not heard of, or has not caught up since it started.
    Fenced,
    /// It is about to stop: it is given nothing more, and leads what nobody else can lead.
    Stopping,
}

/// An entry that cannot follow those before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// It is not the next one, or its term is older than that of the one before.
    #[error("entry {offset} of term {term} cannot follow {after} of term {after_term}")]
    Order {
        /// Where it stands.
        offset: Offset,
        /// Its term.
        term: LeaderEpoch,
        /// The last one that was applied; `-1` before the first.
        after: Offset,
        /// The term of that.
        after_term: LeaderEpoch,
    },
    /// It creates a topic that there is.
    #[error("entry {offset} creates topic {name} ({id}) a second time")]
    CreatedTwice {
        /// Where it stands.
        offset: Offset,
        /// The name of the topic.
        name: String,
        /// Its identity.
        id: TopicId,
    },
    /// It tells of a broker or a partition what cannot be.
    #[error("entry {offset} {what}")]
    Impossible {
        /// Where it stands.
        offset: Offset,
        /// What it does that cannot be done.
        what: String,
    },
}

/// The state of the cluster's metadata. Two images that applied the same entries are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    applied: Option<Offset>,
    term: LeaderEpoch,
    membership: Option<Arc<Membership>>,
    metadata_version: u16,
    topics: SharedMap<Arc<str>, Arc<Topic>>,
    names: SharedMap<TopicId, Arc<str>>,
    brokers: BTreeMap<BrokerId, Arc<Broker>>,
    /// How many copies lie in each directory; a directory without any is not listed.
    loads: BTreeMap<Replica, usize>,
    /// What each broker keeps; one that keeps nothing is not listed.
    kept: BTreeMap<BrokerId, Kept>,
    partition_count: usize,
    leaderless_count: usize,
    next_producer_id: i64,
    wanted_voters: Vec<BrokerId>,
    /// In bytes a second; 0 for none.
    replication_throttle: u64,
}

impl Image {
    /// Takes in the entry at `offset`, which was written in `term`. Facts about what is not there
    /// (which no controller writes) change nothing.
    ///
    /// # Panics
    /// As [`Image::try_apply`] has errors: for entries that this process has decided itself.
    pub fn apply(&mut self, offset: Offset, term: LeaderEpoch, entry: &Entry) {
        let applied = self.try_apply(offset, term, entry);
        assert!(applied.is_ok(), "{applied:?}");
    }

    /// The same for an entry that was read from a disk or from a peer. The only way by which an
    /// image changes.
    ///
    /// # Errors
    /// [`Contradiction`], if the entry cannot follow what was applied before: no controller wrote
    /// it so. The image is then good for nothing.
    pub fn try_apply(
        &mut self,
        offset: Offset,
        term: LeaderEpoch,
        entry: &Entry,
    ) -> Result<(), Contradiction> {
        let expected = self.applied.map_or(Offset::ZERO, |applied| applied.plus(1));
        if offset != expected || term < self.term {
            let after = self.version();
            return Err(Contradiction::Order {
                offset,
                term,
                after,
                after_term: self.term,
            });
        }
        match entry {
            Entry::Blank => {}
            Entry::Membership(membership) => {
                self.membership = Some(Arc::new(membership.clone()));
            }
            Entry::Command(records) => {
                for record in records {
                    self.apply_record(offset, record)?;
                }
            }
        }
        self.applied = Some(offset);
        self.term = term;
        // The predicate walks over everything, so it is asked in debug builds and of small images.
        debug_assert!(
            self.partition_count > CHECKED_PARTITIONS_MAX || self.is_consistent(),
            "after {offset}: {entry:?}"
        );
        Ok(())
    }

    /// The last offset that is reflected; `-1` before the first.
    #[must_use]
    pub fn version(&self) -> Offset {
        self.applied.unwrap_or(Offset(-1))
    }

    /// The term of the last entry: the controller's epoch.
    #[must_use]
    pub const fn term(&self) -> LeaderEpoch {
        self.term
    }

    /// The cluster; zeros before it is founded.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.membership
            .as_ref()
            .map(|membership| membership.cluster)
            .unwrap_or_default()
    }

    /// Who keeps the metadata log.
    #[must_use]
    pub fn membership(&self) -> Option<&Membership> {
        self.membership.as_deref()
    }

    /// What the log may hold; 0 before it is founded.
    #[must_use]
    pub const fn metadata_version(&self) -> u16 {
        self.metadata_version
    }

    /// A topic by its name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// A topic by its identity.
    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(&id)?.as_ref())
    }

    /// One partition.
    #[must_use]
    pub fn partition(&self, of: TopicPartition) -> Option<&Arc<Partition>> {
        self.topic_by_id(of.topic)?.partition(of.partition)
    }

    /// Every topic, in the order of their names.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.iter().map(|(_, topic)| topic)
    }

    /// The topics whose name is `first` or comes after it.
    pub fn topics_from(&self, first: &str) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.iter_from(first).map(|(_, topic)| topic)
    }

    /// How many topics there are.
    #[must_use]
    pub const fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// How many partitions there are in all topics together.
    #[must_use]
    pub const fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// A broker that has registered.
    #[must_use]
    pub fn broker(&self, id: BrokerId) -> Option<&Arc<Broker>> {
        self.brokers.get(&id)
    }

    /// Every broker that has registered, in the order of their numbers.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<Broker>> {
        self.brokers.values()
    }

    /// How many copies of partitions lie in a directory.
    #[must_use]
    pub fn load(&self, broker: BrokerId, directory: DirectoryId) -> usize {
        let replica = Replica { broker, directory };
        self.loads.get(&replica).copied().unwrap_or(0)
    }

    /// The first producer id that no broker has reserved.
    #[must_use]
    pub const fn next_producer_id(&self) -> ProducerId {
        ProducerId(self.next_producer_id)
    }

    /// Every partition of every topic.
    fn partitions(&self) -> impl Iterator<Item = (TopicPartition, &Arc<Partition>)> {
        self.topics().flat_map(|topic| {
            let name = |partition| TopicPartition {
                topic: topic.id,
                partition,
            };
            topic
                .partitions()
                .map(move |(number, partition)| (name(number), partition))
        })
    }

    /// The partitions of which a broker keeps a copy, in the order of topic ids and numbers.
    pub fn kept_by(&self, broker: BrokerId) -> impl Iterator<Item = (TopicPartition, &Partition)> {
        let kept = self
            .kept
            .get(&broker)
            .into_iter()
            .flat_map(Kept::partitions);
        kept.filter_map(|of| Some((of, self.partition(of)?.as_ref())))
    }

    /// How many partitions a broker keeps a copy of.
    #[must_use]
    pub fn kept_count(&self, broker: BrokerId) -> usize {
        self.kept.get(&broker).map_or(0, Kept::len)
    }

    /// How many partitions a broker leads.
    #[must_use]
    pub fn led_count(&self, broker: BrokerId) -> usize {
        self.kept.get(&broker).map_or(0, |kept| kept.leads)
    }

    /// How many partitions nobody leads.
    #[must_use]
    pub const fn leaderless_count(&self) -> usize {
        self.leaderless_count
    }

    /// The brokers that shall vote in the metadata quorum, if somebody has said so; else that is
    /// left to the controller.
    #[must_use]
    pub fn wanted_voters(&self) -> Option<&[BrokerId]> {
        (!self.wanted_voters.is_empty()).then_some(&self.wanted_voters)
    }

    /// How many bytes a second each broker may fetch for replicas that are being added; none for as
    /// many as it can.
    #[must_use]
    pub fn replication_throttle(&self) -> Option<u64> {
        (self.replication_throttle > 0).then_some(self.replication_throttle)
    }

    /// The invariant (S8): every part tells the same story. Walks over everything.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        let mut loads: BTreeMap<Replica, usize> = BTreeMap::new();
        let (mut partitions, mut leaderless) = (0, 0);
        let (mut copies, mut leaders) = (0_usize, 0_usize);
        for (of, partition) in self.partitions() {
            if !self.leader_may_lead(partition) {
                return false;
            }
            partitions += 1;
            leaderless += usize::from(partition.leader.is_none());
            for replica in &partition.replicas {
                *loads.entry(*replica).or_default() += 1;
                let kept = self.kept.get(&replica.broker);
                if !kept.is_some_and(|kept| kept.holds(of)) {
                    return false;
                }
                copies += 1;
            }
        }
        for (broker, kept) in &self.kept {
            let led = self.kept_by(*broker);
            let led = led.filter(|(_, partition)| partition.leader == Some(*broker));
            if kept.leads != led.count() || kept.len() == 0 {
                return false;
            }
            copies = copies.saturating_sub(kept.len());
            leaders += kept.leads;
        }
        self.topics.len() == self.names.len()
            && self.topics.iter().all(|(name, topic)| {
                *name == topic.name
                    && self.names.get(&topic.id) == Some(name)
                    && topic.version <= self.version()
                    && topic.is_consistent()
            })
            && self.loads == loads
            && (copies, leaders) == (0, partitions - leaderless)
            && (self.partition_count, self.leaderless_count) == (partitions, leaderless)
            && self.brokers.iter().all(|(id, broker)| {
                *id == broker.registration.broker
                    && broker.epoch.0 <= broker.since.0
                    && broker.since <= self.version()
            })
    }

    /// A leader is not fenced, and leads under an epoch that was given to its incarnation.
    fn leader_may_lead(&self, partition: &Partition) -> bool {
        let leader = partition
            .leader
            .and_then(|leader| self.brokers.get(&leader));
        leader.is_none_or(|leader| leader.state != BrokerState::Fenced)
            && partition.leader_incarnation == leader.map(|leader| leader.epoch)
    }
}
