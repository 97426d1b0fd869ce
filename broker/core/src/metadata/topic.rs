//! One topic of the image and its partitions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use strandline_protocol::{
    BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionEpoch, PartitionId, TopicId,
};

use super::record::{Replica, Replicas};
use crate::shared_map::SharedMap;

/// A topic as the log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its identity.
    pub id: TopicId,
    /// What was set on it; [`crate::TopicConfig::resolve`] makes it whole.
    pub configs: Arc<BTreeMap<String, String>>,
    /// The entry that changed it last.
    pub version: Offset,
    partitions: SharedMap<PartitionId, Arc<Partition>>,
}

/// A partition as the log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its copies in order of preference.
    pub replicas: Replicas,
    /// The brokers whose copies are in sync.
    pub isr: Vec<BrokerId>,
    /// Who leads it.
    pub leader: Option<BrokerId>,
    /// How many leaders it has had.
    pub leader_epoch: LeaderEpoch,
    /// How often it has changed.
    pub partition_epoch: PartitionEpoch,
    /// The incarnation of the leader that its epoch was given to; none before the first start that
    /// the log tells of.
    pub leader_incarnation: Option<BrokerEpoch>,
}

impl Partition {
    /// A partition at its creation: the first replica leads, all are in sync, as all are empty.
    pub(super) fn new(replicas: Replicas, leader_incarnation: Option<BrokerEpoch>) -> Self {
        Self {
            isr: replicas.iter().map(|replica| replica.broker).collect(),
            leader: replicas.first().map(|replica| replica.broker),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            leader_incarnation,
            replicas,
        }
    }

    /// Where the copy of `broker` lies, if it keeps one.
    #[must_use]
    pub fn replica_on(&self, broker: BrokerId) -> Option<&Replica> {
        self.replicas
            .iter()
            .find(|replica| replica.broker == broker)
    }

    /// Its replicas are distinct, and so are those in sync, which are among them; one of these
    /// leads, if anybody does.
    pub(super) fn is_consistent(&self) -> bool {
        let keeps = |broker: &BrokerId| self.replica_on(*broker).is_some();
        are_distinct(self.replicas.iter().map(|replica| replica.broker))
            && are_distinct(self.isr.iter().copied())
            && self.isr.iter().all(keeps)
            && self.leader.iter().all(|leader| self.isr.contains(leader))
    }
}

/// Whether no broker is named twice. Most lists are so short that a set would cost more.
fn are_distinct(brokers: impl ExactSizeIterator<Item = BrokerId> + Clone) -> bool {
    const SHORT: usize = 8;
    if brokers.len() > SHORT {
        let count = brokers.len();
        return brokers.collect::<BTreeSet<_>>().len() == count;
    }
    let mut rest = brokers;
    while let Some(broker) = rest.next() {
        if rest.clone().any(|other| other == broker) {
            return false;
        }
    }
    true
}

impl Topic {
    pub(super) fn new(
        name: Arc<str>,
        id: TopicId,
        configs: BTreeMap<String, String>,
        version: Offset,
    ) -> Self {
        Self {
            name,
            id,
            configs: Arc::new(configs),
            version,
            partitions: SharedMap::new(),
        }
    }

    /// How many partitions it has; they are numbered from 0.
    #[must_use]
    pub fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    /// One partition.
    #[must_use]
    pub fn partition(&self, id: PartitionId) -> Option<&Arc<Partition>> {
        self.partitions.get(&id)
    }

    /// Every partition, in order.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &Arc<Partition>)> {
        self.partitions
            .iter()
            .map(|(id, partition)| (*id, partition))
    }

    /// The partitions from `first` on, in order.
    pub fn partitions_from(
        &self,
        first: PartitionId,
    ) -> impl Iterator<Item = (PartitionId, &Arc<Partition>)> {
        self.partitions
            .iter_from(&first)
            .map(|(id, partition)| (*id, partition))
    }

    /// Puts a partition in its place: a new one comes behind the last.
    pub(super) fn set_partition(&mut self, id: PartitionId, partition: Partition) {
        self.partitions.insert(id, Arc::new(partition));
    }

    pub(super) fn change_configs(&mut self, changes: &BTreeMap<String, Option<String>>) {
        let configs = Arc::make_mut(&mut self.configs);
        for (key, value) in changes {
            match value {
                Some(value) => {
                    configs.insert(key.clone(), value.clone());
                }
                None => {
                    configs.remove(key);
                }
            }
        }
    }

    pub(super) fn is_consistent(&self) -> bool {
        let numbered = (0..).map(PartitionId);
        self.partitions
            .iter()
            .zip(numbered)
            .all(|((id, partition), expected)| *id == expected && partition.is_consistent())
    }
}
