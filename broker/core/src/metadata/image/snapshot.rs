//! An image as a sequence of records, and back: what stands in for the log up to one offset.
//!
//! *Patterns: low-water mark, versioned value.* The records of a snapshot are not those of the log:
//! they tell what is, not what has happened, and no log holds them. Each is small enough for an
//! entry, and their order is fixed: equal images give equal records.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use strandline_protocol::{
    BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionEpoch, PartitionId, ProducerId, TopicId,
    messages::Duty,
};

use super::{Broker, BrokerState, Contradiction, Image};
use crate::metadata::{
    limits::{COPIES_PER_SNAPSHOT_RECORD_MAX, PARTITIONS_PER_SNAPSHOT_RECORD_MAX},
    record::{METADATA_VERSION, Membership, Registration, Replicas},
    topic::{Partition, Topic},
};

/// One part of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotRecord {
    /// What there is one of. Comes first, and once.
    Head {
        /// The last entry that the image reflects; `-1` for an image before the first.
        applied: Offset,
        /// The term of that.
        term: LeaderEpoch,
        /// Who keeps the metadata log.
        #[serde(default)]
        membership: Option<Membership>,
        /// What the log may hold.
        metadata_version: u16,
        /// The first producer id that no broker has reserved.
        next_producer_id: ProducerId,
        /// Who shall vote, if somebody has said so.
        #[serde(default)]
        wanted_voters: Vec<BrokerId>,
        /// How many bytes a second may be fetched for replicas that are being added; 0 for no
        /// limit.
        #[serde(default, skip_serializing_if = "is_zero")]
        replication_throttle: u64,
        /// How many brokers, topics and partitions follow.
        counts: SnapshotCounts,
    },
    /// A broker. All of them come before the topics.
    Broker {
        /// Its last registration.
        registration: Registration,
        /// The offset of that.
        epoch: BrokerEpoch,
        /// Whether it takes part.
        state: BrokerState,
        /// The entry that said so.
        since: Offset,
        /// What it is to do.
        #[serde(default = "full_duty", skip_serializing_if = "is_full_duty")]
        duty: Duty,
    },
    /// A topic. Its partitions follow.
    Topic {
        /// Its name.
        name: String,
        /// Its identity.
        id: TopicId,
        /// What was set on it.
        configs: BTreeMap<String, String>,
        /// The entry that changed it last.
        version: Offset,
        /// Whether every acknowledgement since its creation has meant fsynced.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        always_fsynced: bool,
    },
    /// Partitions of the topic before.
    Partitions {
        /// The topic.
        id: TopicId,
        /// The number of the first one.
        first: PartitionId,
        /// At most [`PARTITIONS_PER_SNAPSHOT_RECORD_MAX`] partitions.
        partitions: Vec<SnapshotPartition>,
    },
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands fields out by reference"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

const fn full_duty() -> Duty {
    Duty::Full
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands fields out by reference"
)]
fn is_full_duty(duty: &Duty) -> bool {
    *duty == Duty::Full
}

/// How much a snapshot tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotCounts {
    /// How many brokers.
    pub brokers: usize,
    /// How many topics.
    pub topics: usize,
    /// How many partitions of all topics.
    pub partitions: usize,
}

/// A partition as a snapshot tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPartition {
    /// Its copies in order of preference.
    pub replicas: Replicas,
    /// The brokers whose copies are in sync.
    pub isr: Vec<BrokerId>,
    /// Who leads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<BrokerId>,
    /// How many leaders it has had.
    pub leader_epoch: LeaderEpoch,
    /// How often it has changed.
    pub partition_epoch: PartitionEpoch,
    /// The brokers that are not in sync, and have all that was acknowledged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elr: Vec<BrokerId>,
    /// Those of its replicas that a reassignment adds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adding: Vec<BrokerId>,
    /// Those of its replicas that it takes away in the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removing: Vec<BrokerId>,
    /// Whether its leader may lack what was acknowledged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovering: bool,
}

/// The records do not make an image. They are to be thrown away, and another snapshot is to be
/// asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The head is missing, or comes twice.
    #[error("a snapshot starts with its head, and has one")]
    Head,
    /// A newer broker wrote it.
    #[error(
        "the snapshot has metadata version {version}, which is newer than {METADATA_VERSION}, the \
         newest that this broker knows; start the version of strandline that wrote it"
    )]
    NewerVersion {
        /// The version.
        version: u16,
    },
    /// A part contradicts another one.
    #[error("the snapshot contradicts itself: {0}")]
    Contradiction(#[from] Contradiction),
    /// The parts do not tell the same story.
    #[error("the parts of the snapshot do not fit together")]
    Inconsistent,
}

impl Image {
    /// Tells the whole image. [`ImageBuilder`] makes an equal one of it.
    pub fn snapshot(&self) -> impl Iterator<Item = SnapshotRecord> {
        let head = SnapshotRecord::Head {
            applied: self.version(),
            term: self.term,
            membership: self.membership().cloned(),
            metadata_version: self.metadata_version,
            next_producer_id: self.next_producer_id(),
            wanted_voters: self.wanted_voters.clone(),
            replication_throttle: self.replication_throttle,
            counts: self.counts(),
        };
        let brokers = self.brokers().map(|broker| SnapshotRecord::Broker {
            registration: broker.registration.clone(),
            epoch: broker.epoch,
            state: broker.state,
            since: broker.since,
            duty: broker.duty,
        });
        let topics = self.topics().flat_map(|topic| TopicParts::new(topic));
        std::iter::once(head).chain(brokers).chain(topics)
    }

    fn counts(&self) -> SnapshotCounts {
        SnapshotCounts {
            brokers: self.brokers.len(),
            topics: self.topic_count(),
            partitions: self.partition_count(),
        }
    }
}

/// The records of one topic, made one after the other.
struct TopicParts<'a> {
    topic: &'a Topic,
    head: Option<SnapshotRecord>,
    next: PartitionId,
}

impl<'a> TopicParts<'a> {
    fn new(topic: &'a Topic) -> Self {
        let head = SnapshotRecord::Topic {
            name: topic.name.as_ref().into(),
            id: topic.id,
            configs: topic.configs.as_ref().clone(),
            version: topic.version,
            always_fsynced: topic.always_fsynced,
        };
        Self {
            topic,
            head: Some(head),
            next: PartitionId(0),
        }
    }
}

impl Iterator for TopicParts<'_> {
    type Item = SnapshotRecord;

    fn next(&mut self) -> Option<SnapshotRecord> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        let first = self.next;
        let rest = self.topic.partitions_from(first);
        let (mut partitions, mut copies) = (Vec::new(), 0);
        self.next = PartitionId(self.topic.partition_count());
        for (id, partition) in rest {
            copies += partition.replicas.len();
            let is_full = partitions.len() == PARTITIONS_PER_SNAPSHOT_RECORD_MAX
                || copies > COPIES_PER_SNAPSHOT_RECORD_MAX;
            if is_full && !partitions.is_empty() {
                self.next = id;
                break;
            }
            partitions.push(tell(partition));
        }
        (!partitions.is_empty()).then_some(SnapshotRecord::Partitions {
            id: self.topic.id,
            first,
            partitions,
        })
    }
}

fn tell(partition: &Partition) -> SnapshotPartition {
    SnapshotPartition {
        replicas: partition.replicas.clone(),
        isr: partition.isr.clone(),
        leader: partition.leader,
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        elr: partition.elr.clone(),
        adding: partition.adding.clone(),
        removing: partition.removing.clone(),
        recovering: partition.recovering,
    }
}

/// Makes an image of the records of a snapshot, which may come from a disk or a peer.
#[derive(Debug, Default)]
pub struct ImageBuilder {
    image: Option<Image>,
    counts: SnapshotCounts,
}

impl ImageBuilder {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next record.
    ///
    /// # Errors
    /// [`SnapshotError`] if it cannot follow those before; the builder is then good for nothing.
    pub fn add(&mut self, record: SnapshotRecord) -> Result<(), SnapshotError> {
        match (&mut self.image, record) {
            (
                None,
                SnapshotRecord::Head {
                    applied,
                    term,
                    membership,
                    metadata_version,
                    next_producer_id,
                    wanted_voters,
                    replication_throttle,
                    counts,
                },
            ) => {
                self.counts = counts;
                if metadata_version > METADATA_VERSION {
                    return Err(SnapshotError::NewerVersion {
                        version: metadata_version,
                    });
                }
                self.image = Some(Image {
                    applied: (applied >= Offset::ZERO).then_some(applied),
                    term,
                    membership: membership.map(Arc::new),
                    metadata_version,
                    next_producer_id: next_producer_id.0,
                    wanted_voters,
                    replication_throttle,
                    ..Image::default()
                });
                Ok(())
            }
            (None, _) | (Some(_), SnapshotRecord::Head { .. }) => Err(SnapshotError::Head),
            (Some(image), part) => add(image, part),
        }
    }

    /// The image, once every record was taken in.
    ///
    /// # Errors
    /// [`SnapshotError`] if the parts do not fit together.
    pub fn finish(self) -> Result<Image, SnapshotError> {
        let image = self.image.ok_or(SnapshotError::Head)?;
        if image.counts() == self.counts && image.is_consistent() {
            Ok(image)
        } else {
            Err(SnapshotError::Inconsistent)
        }
    }
}

fn add(image: &mut Image, part: SnapshotRecord) -> Result<(), SnapshotError> {
    let offset = image.version();
    match part {
        SnapshotRecord::Head { .. } => return Err(SnapshotError::Head),
        SnapshotRecord::Broker {
            registration,
            epoch,
            state,
            since,
            duty,
        } => {
            let id = registration.broker;
            let broker = Broker {
                registration,
                epoch,
                state,
                since,
                duty,
            };
            if image.brokers.insert(id, Arc::new(broker)).is_some() {
                return Err(SnapshotError::Inconsistent);
            }
        }
        SnapshotRecord::Topic {
            name,
            id,
            configs,
            version,
            always_fsynced,
        } => {
            let name: Arc<str> = name.into();
            let mut topic = Topic::new(Arc::clone(&name), id, configs, version);
            topic.always_fsynced = always_fsynced;
            let named_before = image.names.insert(id, Arc::clone(&name));
            let topic_before = image.topics.insert(name, Arc::new(topic));
            if named_before.is_some() || topic_before.is_some() {
                return Err(SnapshotError::Inconsistent);
            }
        }
        SnapshotRecord::Partitions {
            id,
            first,
            partitions,
        } => {
            let count = image.topic_by_id(id).map(|topic| topic.partition_count());
            if count.map(PartitionId) != Some(first) {
                return Err(SnapshotError::Inconsistent);
            }
            for (number, told) in (first.0..).map(PartitionId).zip(partitions) {
                let partition = Partition {
                    leader_incarnation: image.incarnation(told.leader),
                    replicas: told.replicas,
                    isr: told.isr,
                    leader: told.leader,
                    leader_epoch: told.leader_epoch,
                    partition_epoch: told.partition_epoch,
                    elr: told.elr,
                    adding: told.adding,
                    removing: told.removing,
                    recovering: told.recovering,
                };
                image.put_partition(offset, id, number, partition)?;
            }
        }
    }
    Ok(())
}
