//! Everything that the metadata log tells, up to one offset.
//!
//! *Patterns: replicated log, versioned value, state watch.* An image is never changed in place
//! once it is shared: the driver clones it (cheap, see [`SharedMap`]), applies an entry and
//! publishes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use strandline_protocol::{
    BrokerEpoch, BrokerId, ClusterId, DirectoryId, LeaderEpoch, Offset, PartitionId, ProducerId,
    TopicId, TopicPartition,
};

use super::{
    entry::Entry,
    record::{Membership, Record, Registration, Replica, Replicas},
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
    partition_count: usize,
    next_producer_id: i64,
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

    /// The invariant (S8): every part tells the same story. Walks over everything.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        let mut loads: BTreeMap<Replica, usize> = BTreeMap::new();
        let copies = self.topics().flat_map(|topic| topic.partitions());
        for (_, partition) in copies {
            for replica in &partition.replicas {
                *loads.entry(*replica).or_default() += 1;
            }
        }
        let partitions: usize = self.topics().map(|topic| topic.partitions().count()).sum();
        self.topics.len() == self.names.len()
            && self.topics.iter().all(|(name, topic)| {
                *name == topic.name
                    && self.names.get(&topic.id) == Some(name)
                    && topic.version <= self.version()
                    && topic.is_consistent()
            })
            && self.loads == loads
            && self.partition_count == partitions
            && self
                .brokers
                .iter()
                .all(|(id, broker)| *id == broker.registration.broker)
    }

    fn apply_record(&mut self, offset: Offset, record: &Record) -> Result<(), Contradiction> {
        match record {
            Record::MetadataVersionSet { version } => self.metadata_version = *version,
            Record::TopicCreated {
                name,
                id,
                configs,
                partitions,
            } => {
                let name: Arc<str> = name.as_str().into();
                if self.topics.get(&name).is_some() || self.names.get(id).is_some() {
                    let (name, id) = (name.to_string(), *id);
                    return Err(Contradiction::CreatedTwice { offset, name, id });
                }
                let topic = Topic::new(Arc::clone(&name), *id, configs.clone(), offset);
                self.names.insert(*id, Arc::clone(&name));
                self.topics.insert(name, Arc::new(topic));
                self.add_partitions(offset, *id, partitions);
            }
            Record::TopicDeleted { id } => self.delete_topic(*id),
            Record::PartitionsAdded {
                id,
                first,
                partitions,
            } => {
                let count = self.topic_by_id(*id).map(|topic| topic.partition_count());
                if count.map(PartitionId) == Some(*first) {
                    self.add_partitions(offset, *id, partitions);
                }
            }
            Record::ConfigChanged { id, changes } => {
                if let Some(topic) = self.topic_mut(*id) {
                    topic.change_configs(changes);
                    topic.version = offset;
                }
            }
            Record::BrokerRegistered(registration) => self.register(offset, registration),
            Record::ProducerIdsReserved { first, count, .. } => {
                let end = first.0.saturating_add(i64::from(*count));
                self.next_producer_id = self.next_producer_id.max(end);
            }
        }
        Ok(())
    }

    fn add_partitions(&mut self, offset: Offset, id: TopicId, partitions: &[Replicas]) {
        let epochs: BTreeMap<BrokerId, BrokerEpoch> = self
            .brokers
            .iter()
            .map(|(id, broker)| (*id, broker.epoch))
            .collect();
        let Some(topic) = self.topic_mut(id) else {
            return;
        };
        topic.version = offset;
        for replicas in partitions {
            let leader = replicas.first().map(|replica| replica.broker);
            let incarnation = leader.and_then(|leader| epochs.get(&leader).copied());
            topic.add_partition(replicas.clone(), incarnation);
        }
        self.partition_count += partitions.len();
        for replica in partitions.iter().flatten() {
            *self.loads.entry(*replica).or_default() += 1;
        }
    }

    fn delete_topic(&mut self, id: TopicId) {
        let Some(name) = self.names.remove(&id) else {
            return;
        };
        let Some(topic) = self.topics.remove(name.as_ref()) else {
            return;
        };
        for (_, partition) in topic.partitions() {
            self.partition_count -= 1;
            for replica in &partition.replicas {
                if let Some(load) = self.loads.get_mut(replica) {
                    *load -= 1;
                    if *load == 0 {
                        self.loads.remove(replica);
                    }
                }
            }
        }
    }

    fn register(&mut self, offset: Offset, registration: &Registration) {
        let (id, epoch) = (registration.broker, BrokerEpoch(offset.0));
        let broker = Broker {
            registration: registration.clone(),
            epoch,
        };
        self.brokers.insert(id, Arc::new(broker));
        let led: BTreeSet<TopicId> = self
            .topics()
            .filter(|topic| topic.is_led_by(id))
            .map(|topic| topic.id)
            .collect();
        for topic in led {
            if let Some(topic) = self.topic_mut(topic) {
                topic.lead_again(id, epoch);
                topic.version = offset;
            }
        }
    }

    fn topic_mut(&mut self, id: TopicId) -> Option<&mut Topic> {
        let name = self.names.get(&id)?;
        self.topics.get_mut(name.as_ref()).map(Arc::make_mut)
    }
}
