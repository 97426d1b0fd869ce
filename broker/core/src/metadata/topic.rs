//! One topic of the image and its partitions.

use std::{collections::BTreeMap, sync::Arc};

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
    fn new(replicas: Replicas, leader_incarnation: Option<BrokerEpoch>) -> Self {
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

    fn is_consistent(&self) -> bool {
        let keeps = |broker: &BrokerId| self.replica_on(*broker).is_some();
        let distinct: std::collections::BTreeSet<_> =
            self.replicas.iter().map(|replica| replica.broker).collect();
        distinct.len() == self.replicas.len()
            && self.isr.iter().all(keeps)
            && self.leader.iter().all(|leader| self.isr.contains(leader))
    }
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

    pub(super) fn add_partition(
        &mut self,
        replicas: Replicas,
        leader_incarnation: Option<BrokerEpoch>,
    ) {
        let id = PartitionId(self.partition_count());
        let partition = Partition::new(replicas, leader_incarnation);
        assert!(
            partition.is_consistent(),
            "{} {id}: {partition:?}",
            self.name
        );
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

    pub(super) fn is_led_by(&self, broker: BrokerId) -> bool {
        self.partitions
            .iter()
            .any(|(_, partition)| partition.leader == Some(broker))
    }

    /// `broker` has started anew: what it leads, it leads under a new epoch.
    pub(super) fn lead_again(&mut self, broker: BrokerId, incarnation: BrokerEpoch) {
        let led: Vec<PartitionId> = self
            .partitions
            .iter()
            .filter(|(_, partition)| partition.leader == Some(broker))
            .map(|(id, _)| *id)
            .collect();
        for id in led {
            if let Some(partition) = self.partitions.get_mut(&id) {
                let partition = Arc::make_mut(partition);
                partition.leader_epoch = partition.leader_epoch.next();
                partition.partition_epoch =
                    PartitionEpoch(partition.partition_epoch.0.saturating_add(1));
                partition.leader_incarnation = Some(incarnation);
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
