//! One topic of the image and its partitions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use strandline_protocol::{
    BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionEpoch, PartitionId, TopicId,
};

use super::record::{Replica, Replicas};
use crate::{
    shared_map::SharedMap,
    topic_config::{FLUSH, FlushMode, MIN_ISR, TopicConfig, UNCLEAN_ELECTION},
};

const FSYNCED: &str = FlushMode::Ack.name();

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
    /// Whether every acknowledgement since its creation has meant fsynced: it was created with
    /// `flush=ack`, and never had anything else.
    pub always_fsynced: bool,
    partitions: SharedMap<PartitionId, Arc<Partition>>,
}

/// A partition as the log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its copies in order of preference. While a reassignment is under way, those that are to be
    /// come first.
    pub replicas: Replicas,
    /// The brokers whose copies are in sync; none while nobody leads.
    pub isr: Vec<BrokerId>,
    /// The brokers that are not in sync, and have all that was acknowledged (KIP-966).
    pub elr: Vec<BrokerId>,
    /// Those of its replicas that a reassignment adds.
    pub adding: Vec<BrokerId>,
    /// Those of its replicas that a reassignment takes away in the end.
    pub removing: Vec<BrokerId>,
    /// Whether the leader was elected although it may lack what was acknowledged, and nobody has
    /// been in sync with it since.
    pub recovering: bool,
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
            elr: Vec::new(),
            adding: Vec::new(),
            removing: Vec::new(),
            recovering: false,
        }
    }

    /// Its replication factor; the smaller one of those before and after a reassignment that is
    /// under way, so that neither asks for more replicas in sync than there are.
    #[must_use]
    pub fn factor(&self) -> usize {
        let before = self.replicas.len().saturating_sub(self.adding.len());
        let after = self.replicas.len().saturating_sub(self.removing.len());
        before.min(after)
    }

    /// Whether replicas are being moved.
    #[must_use]
    pub fn is_reassigned(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// Where the copy of `broker` lies, if it keeps one.
    #[must_use]
    pub fn replica_on(&self, broker: BrokerId) -> Option<&Replica> {
        self.replicas
            .iter()
            .find(|replica| replica.broker == broker)
    }

    /// Its replicas are distinct, and so are those in sync and those eligible, which are among them
    /// and apart; one of those in sync leads, if anybody does. What is added and taken away is
    /// among the replicas and apart, and something stays.
    pub(super) fn is_consistent(&self) -> bool {
        let keeps = |broker: &BrokerId| self.replica_on(*broker).is_some();
        are_distinct(self.replicas.iter().map(|replica| replica.broker))
            && !self.replicas.is_empty()
            && self.leader.iter().all(|leader| self.isr.contains(leader))
            && [(&self.isr, &self.elr), (&self.adding, &self.removing)]
                .iter()
                .all(|(some, others)| {
                    are_distinct(some.iter().copied())
                        && are_distinct(others.iter().copied())
                        && some.iter().chain(*others).all(keeps)
                        && some.iter().all(|one| !others.contains(one))
                })
            && self.removing.len() < self.replicas.len()
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
        let always_fsynced = configs.get(FLUSH).is_some_and(|mode| mode == FSYNCED);
        Self {
            name,
            id,
            configs: Arc::new(configs),
            version,
            always_fsynced,
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

    /// How many replicas must be in sync in a partition of so many before anything is acknowledged
    /// as written by all.
    #[must_use]
    pub fn min_isr(&self, factor: usize) -> usize {
        self.config_of(MIN_ISR).effective_min_isr(factor)
    }

    /// Whether a replica may lead that may lack what was acknowledged, if nobody else can.
    #[must_use]
    pub fn elects_unclean(&self) -> bool {
        self.config_of(UNCLEAN_ELECTION).unclean_election
    }

    /// The configuration with one key in force, for what has no default of a broker.
    fn config_of(&self, key: &str) -> TopicConfig {
        let mut config = TopicConfig::default();
        if let Some(value) = self.configs.get(key) {
            // What another version has set and this one cannot read leaves the default in force.
            let _ = config.set(key, value);
        }
        config
    }

    pub(super) fn change_configs(&mut self, changes: &BTreeMap<String, Option<String>>) {
        if let Some(mode) = changes.get(FLUSH) {
            self.always_fsynced &= mode.as_deref() == Some(FSYNCED);
        }
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
