//! What is known of the cluster, as far as a client needs it.
//!
//! *Pattern: state watch.* An image is immutable; whoever holds one sees one moment. The next one
//! comes by an answer or by a push.

use std::{collections::BTreeMap, sync::Arc};

use strandline_protocol::{
    BrokerId, LeaderEpoch, Offset, PartitionId, TopicId,
    batch::Codec,
    limits::{BATCH_BYTES_MAX_DEFAULT, PARTITIONS_PER_TOPIC_MAX},
    messages::{BrokerMetadata, PartitionMetadata, TopicMetadata},
};

use crate::ClientError;

/// Brokers and the topics that somebody asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) brokers: BTreeMap<BrokerId, Arc<str>>,
    pub(crate) topics: BTreeMap<Arc<str>, Arc<Topic>>,
    brokers_version: Option<Offset>,
}

/// How many of those who keep a partition are remembered; no sensible one has more.
const KEEPERS_MAX: usize = 8;

/// A topic.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    pub(crate) id: TopicId,
    /// The advised codec; none leaves it to the producer.
    pub(crate) codec: Option<Codec>,
    pub(crate) batch_bytes_max: usize,
    partitions: i32,
    /// By partition, as far as they were told: a count alone takes no memory.
    told: BTreeMap<PartitionId, Told>,
    version: Offset,
}

/// What was told of a partition.
#[derive(Clone, Debug)]
struct Told {
    leader: Leader,
    /// Who is in sync, the first of them only.
    in_sync: Vec<BrokerId>,
    /// How many are.
    in_sync_count: usize,
    /// Who may lead it, the first of them only: all that keep it, or while nobody leads it those
    /// that have everything.
    may_lead: Vec<BrokerId>,
    /// How many keep it.
    keepers: usize,
}

impl Told {
    fn new(partition: &PartitionMetadata) -> Self {
        let first = |brokers: &[BrokerId]| brokers.iter().take(KEEPERS_MAX).copied().collect();
        let complete = [partition.isr.as_slice(), &partition.eligible].concat();
        let may_lead = match partition.leader {
            None if !complete.is_empty() => complete.as_slice(),
            _ => &partition.replicas,
        };
        Self {
            leader: Leader {
                broker: partition.leader,
                epoch: partition.leader_epoch,
            },
            in_sync: first(&partition.isr),
            in_sync_count: partition.isr.len(),
            may_lead: first(may_lead),
            keepers: partition.replicas.len(),
        }
    }
}

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) broker: Option<BrokerId>,
    pub(crate) epoch: LeaderEpoch,
}

impl Leader {
    /// Nobody, as far as is known.
    const UNKNOWN: Self = Self {
        broker: None,
        epoch: LeaderEpoch::NONE,
    };
}

impl Topic {
    /// How many partitions it has.
    pub(crate) const fn partition_count(&self) -> i32 {
        self.partitions
    }

    /// Whether the topic has the partition.
    pub(crate) fn check(&self, partition: PartitionId) -> Result<(), ClientError> {
        let partitions = self.partition_count();
        if (0..partitions).contains(&partition.0) {
            return Ok(());
        }
        Err(ClientError::UnknownPartition {
            topic: self.name.to_string(),
            partition,
            partitions,
        })
    }

    /// Who leads the partition; none if it does not exist.
    pub(crate) fn leader(&self, partition: PartitionId) -> Option<Leader> {
        let exists = (0..self.partitions).contains(&partition.0);
        let told = self.told.get(&partition).map(|told| told.leader);
        exists.then(|| told.unwrap_or(Leader::UNKNOWN))
    }

    /// Whether the broker keeps a copy of the partition that is in sync, as far as is known.
    pub(crate) fn is_in_sync(&self, partition: PartitionId, broker: BrokerId) -> bool {
        let told = self.told.get(&partition);
        told.is_some_and(|told| told.in_sync.contains(&broker))
    }

    /// How many replicas are in sync, and of how many; none if that was not told.
    pub(crate) fn in_sync_of(&self, partition: PartitionId) -> Option<(usize, usize)> {
        let told = self.told.get(&partition)?;
        Some((told.in_sync_count, told.keepers))
    }
}

impl Image {
    /// Of which moment it is; none before anything is known.
    pub(crate) const fn version(&self) -> Option<Offset> {
        self.brokers_version
    }

    /// Why nobody leads a partition, for people.
    pub(crate) fn why_leaderless(&self, topic: &Topic, partition: PartitionId) -> String {
        let told = topic.told.get(&partition);
        let may_lead = told.into_iter().flat_map(|told| &told.may_lead);
        let told: Vec<String> = may_lead
            .map(|id| match self.brokers.get(id) {
                Some(address) => format!("broker {id} ({address})"),
                None => format!("broker {id}"),
            })
            .collect();
        if told.is_empty() {
            return "the partition has no leader now".to_owned();
        }
        format!(
            "the partition has no leader now: {} must run and be heard of by the controller",
            told.join(" or ")
        )
    }

    /// Takes over the brokers as of `version`, unless newer ones are known.
    pub(crate) fn apply_brokers(&mut self, version: Offset, brokers: &[BrokerMetadata]) {
        if self.brokers_version.is_some_and(|known| known > version) {
            return;
        }
        self.brokers_version = Some(version);
        self.brokers = brokers
            .iter()
            .map(|broker| {
                let host = &broker.host;
                let address = if host.contains(':') {
                    format!("[{host}]:{}", broker.port)
                } else {
                    format!("{host}:{}", broker.port)
                };
                (broker.id, Arc::from(address))
            })
            .collect();
    }

    /// Takes over a topic, or a page of its partitions, as of `version`. A topic that is gone is
    /// forgotten.
    pub(crate) fn apply_topic(&mut self, version: Offset, topic: &TopicMetadata) {
        let name = topic.name.as_str();
        let known = self.topics.get(name);
        if known.is_some_and(|known| known.version > version) {
            return;
        }
        if !topic.failure.error.is_none() {
            self.topics.remove(name);
            return;
        }
        let same = known.filter(|known| known.id == topic.id);
        let mut told = same.map_or_else(BTreeMap::new, |known| known.told.clone());
        let partitions = topic.partition_count.clamp(0, PARTITIONS_PER_TOPIC_MAX);
        told.retain(|partition, _| partition.0 < partitions);
        for partition in &topic.partitions {
            if !(0..partitions).contains(&partition.id.0) {
                continue;
            }
            // Of two leaders the one with the larger epoch is the later one, whoever says so.
            let known = told.get(&partition.id);
            if known.is_none_or(|known| known.leader.epoch <= partition.leader_epoch) {
                told.insert(partition.id, Told::new(partition));
            }
        }
        let batch_bytes_max = match topic.batch_bytes_max {
            0 => BATCH_BYTES_MAX_DEFAULT,
            bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
        };
        let name: Arc<str> = Arc::from(name);
        let topic = Topic {
            name: Arc::clone(&name),
            id: topic.id,
            codec: Codec::from_name(&topic.compression),
            batch_bytes_max,
            partitions,
            told,
            version,
        };
        self.topics.insert(name, Arc::new(topic));
    }
}

#[cfg(test)]
mod tests {
    use strandline_protocol::{ErrorCode, PartitionEpoch, messages::Failure};

    use super::*;

    fn topic(id: u8, partitions: &[(i32, i32, i32)]) -> TopicMetadata {
        TopicMetadata {
            name: "t".to_owned(),
            id: TopicId([id; 16]),
            failure: Failure::none(),
            compression: "lz4".to_owned(),
            batch_bytes_max: 0,
            partition_count: 3,
            partitions: partitions
                .iter()
                .map(|&(partition, leader, epoch)| PartitionMetadata {
                    id: PartitionId(partition),
                    leader: Some(BrokerId(leader)),
                    leader_epoch: LeaderEpoch(epoch),
                    partition_epoch: PartitionEpoch(0),
                    replicas: Vec::new(),
                    isr: Vec::new(),
                    eligible: Vec::new(),
                    adding: Vec::new(),
                    removing: Vec::new(),
                })
                .collect(),
        }
    }

    fn leaders(image: &Image) -> Vec<Option<i32>> {
        let topic = &image.topics["t"];
        (0..topic.partition_count())
            .map(|partition| topic.leader(PartitionId(partition)).unwrap())
            .map(|leader| leader.broker.map(|id| id.0))
            .collect()
    }

    #[test]
    fn pages_of_a_topic_add_up_and_older_ones_are_ignored() {
        let mut image = Image::default();
        image.apply_topic(Offset(5), &topic(1, &[(0, 1, 0), (1, 1, 0)]));
        image.apply_topic(Offset(5), &topic(1, &[(2, 2, 0)]));
        assert_eq!(leaders(&image), [Some(1), Some(1), Some(2)]);
        image.apply_topic(Offset(6), &topic(1, &[(0, 3, 1)]));
        image.apply_topic(Offset(4), &topic(1, &[(0, 9, 9)]));
        image.apply_topic(Offset(7), &topic(1, &[(0, 1, 0)]));
        assert_eq!(leaders(&image), [Some(3), Some(1), Some(2)]);
        assert_eq!(image.topics["t"].codec, Some(Codec::Lz4));
    }

    #[test]
    fn partitions_that_were_only_counted_take_no_memory() {
        let mut image = Image::default();
        let mut large = topic(1, &[(99_999, 1, 0), (-1, 1, 0), (100_000, 1, 0)]);
        large.partition_count = i32::MAX;
        image.apply_topic(Offset(5), &large);
        let known = &image.topics["t"];
        assert_eq!(known.partition_count(), PARTITIONS_PER_TOPIC_MAX);
        assert_eq!(known.told.len(), 1);
        assert!(
            known
                .leader(PartitionId(0))
                .is_some_and(|it| it.broker.is_none())
        );
        assert!(known.leader(PartitionId(100_000)).is_none());
        image.apply_topic(Offset(6), &topic(1, &[]));
        assert_eq!(leaders(&image), [None; 3]);
    }

    #[test]
    fn a_topic_that_was_created_again_starts_anew() {
        let mut image = Image::default();
        image.apply_topic(Offset(5), &topic(1, &[(0, 1, 7)]));
        image.apply_topic(Offset(6), &topic(2, &[(1, 4, 0)]));
        assert_eq!(leaders(&image), [None, Some(4), None]);
        let mut gone = topic(2, &[]);
        gone.failure = Failure::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "");
        image.apply_topic(Offset(8), &gone);
        assert!(image.topics.is_empty());
    }
}
