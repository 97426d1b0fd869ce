//! Who leads a partition, and the records that say so.
//!
//! *Patterns: leader and followers, generation clock.* A leader is elected among those in sync, in
//! the order of the assignment; a new leader has a new epoch. Whoever is last in sync stays so,
//! even while nobody leads: nobody else has all that was acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use strandline_protocol::{
    BrokerId, DirectoryId, ErrorCode, PartitionEpoch, TopicPartition, messages::Failure,
};

use crate::metadata::{
    image::{BrokerState, Image},
    limits::PARTITIONS_PER_RECORD_MAX,
    record::{ChangedTopic, PartitionChange, Record},
    topic::Partition,
};

/// Who may lead, as it will be once a decision is applied.
pub(super) struct Electorate<'a> {
    image: &'a Image,
    offline: &'a BTreeSet<DirectoryId>,
    /// The broker that the decision is about, and whether it takes part then.
    except: Option<(BrokerId, Part)>,
}

/// Whether a broker takes part.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Takes,
    TakesNot,
}

/// How a broker gives up what it leads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// At once: what nobody else can lead has no leader.
    AtOnce,
    /// What nobody else can lead, it goes on leading.
    Gradually,
}

impl<'a> Electorate<'a> {
    pub(super) const fn of(image: &'a Image, offline: &'a BTreeSet<DirectoryId>) -> Self {
        Self {
            image,
            offline,
            except: None,
        }
    }

    pub(super) const fn when(mut self, broker: BrokerId, part: Part) -> Self {
        self.except = Some((broker, part));
        self
    }

    /// The leader of a partition whose in-sync replicas are `isr`: the present one if it is valid,
    /// else the first valid one in the order of the assignment, else nobody.
    fn leader(&self, partition: &Partition, isr: &[BrokerId]) -> Option<BrokerId> {
        let present = partition.leader.into_iter();
        let assigned = partition.replicas.iter().map(|replica| replica.broker);
        present
            .chain(assigned)
            .find(|broker| isr.contains(broker) && self.is_acceptable(partition, *broker))
    }

    /// A broker that takes part, with a directory that is there and has not failed.
    fn is_acceptable(&self, partition: &Partition, broker: BrokerId) -> bool {
        let Some(known) = self.image.broker(broker) else {
            return false;
        };
        let takes_part = match self.except {
            Some((except, part)) if except == broker => part == Part::Takes,
            _ => known.state == BrokerState::Active,
        };
        let directory = partition
            .replica_on(broker)
            .map(|replica| replica.directory);
        takes_part
            && directory.is_some_and(|directory| {
                known.registration.directories.contains(&directory)
                    && !self.offline.contains(&directory)
            })
    }

    /// `broker` gives up what it leads, and is in sync no more where another one is.
    pub(super) fn leave(&self, broker: BrokerId, leaving: Leaving) -> Vec<Record> {
        let mut changes = Changes::default();
        for (of, partition) in self.image.kept_by(broker) {
            let mut isr = without(&partition.isr, broker);
            let mut leader = partition.leader;
            if leader == Some(broker) {
                leader = self.leader(partition, &isr);
                if leader.is_none() && leaving == Leaving::Gradually {
                    (leader, isr) = (partition.leader, partition.isr.clone());
                }
            }
            changes.add(of, partition, leader, isr);
        }
        changes.into_records()
    }

    /// Elects leaders for those partitions of `broker` that have none.
    pub(super) fn lead_what_it_can(&self, broker: BrokerId) -> Vec<Record> {
        let mut changes = Changes::default();
        for (of, partition) in self.image.kept_by(broker) {
            if partition.leader.is_none() {
                let leader = self.leader(partition, &partition.isr);
                changes.add(of, partition, leader, partition.isr.clone());
            }
        }
        changes.into_records()
    }

    /// Elects leaders for every partition that has none and can have one.
    pub(super) fn lead_everywhere(&self) -> Vec<Record> {
        let mut changes = Changes::default();
        if self.image.leaderless_count() > 0 {
            for broker in self.image.brokers() {
                let broker = broker.registration.broker;
                let kept = self.image.kept_by(broker);
                for (of, partition) in kept.filter(|(_, partition)| partition.leader.is_none()) {
                    let leader = self.leader(partition, &partition.isr);
                    changes.add(of, partition, leader, partition.isr.clone());
                }
            }
        }
        changes.into_records()
    }

    /// Gives each of `partitions` to its first replica, if that can lead.
    pub(super) fn prefer(
        &self,
        partitions: &[TopicPartition],
    ) -> (Vec<Record>, Vec<(TopicPartition, Failure)>) {
        let mut changes = Changes::default();
        let outcomes = partitions.iter().map(|of| {
            let Some(partition) = self.image.partition(*of) else {
                let message = format!("there is no partition {of}: refresh the metadata");
                let code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
                return (*of, Failure::new(code, message));
            };
            let preferred = partition.replicas.first().map(|replica| replica.broker);
            let valid = preferred.filter(|broker| {
                partition.isr.contains(broker) && self.is_acceptable(partition, *broker)
            });
            let (leader, failure) = match (valid, preferred) {
                (Some(broker), _) => (Some(broker), Failure::none()),
                (None, preferred) => (
                    self.leader(partition, &partition.isr).or(partition.leader),
                    not_available(*of, preferred),
                ),
            };
            changes.add(*of, partition, leader, partition.isr.clone());
            (*of, failure)
        });
        let outcomes = outcomes.collect();
        (changes.into_records(), outcomes)
    }
}

fn not_available(of: TopicPartition, preferred: Option<BrokerId>) -> Failure {
    let preferred = preferred.map_or_else(|| "nobody".into(), |broker| format!("broker {broker}"));
    Failure::new(
        ErrorCode::LEADER_NOT_AVAILABLE,
        format!(
            "partition {of} prefers {preferred}, which is not active and in sync: try again once \
             it is"
        ),
    )
}

/// Those in sync without `broker`; the last one stays.
fn without(isr: &[BrokerId], broker: BrokerId) -> Vec<BrokerId> {
    let others: Vec<_> = isr.iter().copied().filter(|one| *one != broker).collect();
    if others.is_empty() {
        isr.to_vec()
    } else {
        others
    }
}

/// Changes of partitions on their way into records.
#[derive(Default)]
struct Changes(BTreeMap<TopicPartition, PartitionChange>);

impl Changes {
    /// Adds what differs from `before`, if anything does.
    fn add(
        &mut self,
        of: TopicPartition,
        before: &Partition,
        leader: Option<BrokerId>,
        isr: Vec<BrokerId>,
    ) {
        if leader == before.leader && isr == before.isr {
            return;
        }
        let leader_epoch = if leader == before.leader {
            before.leader_epoch
        } else {
            before.leader_epoch.next()
        };
        let change = PartitionChange {
            partition: of.partition,
            leader,
            leader_epoch,
            partition_epoch: PartitionEpoch(before.partition_epoch.0.saturating_add(1)),
            isr,
        };
        self.0.insert(of, change);
    }

    /// As few records as hold them, each valid alone.
    fn into_records(self) -> Vec<Record> {
        let mut records = Vec::new();
        let (mut topics, mut count) = (Vec::<ChangedTopic>::new(), 0);
        for (of, change) in self.0 {
            if count == PARTITIONS_PER_RECORD_MAX {
                let topics = std::mem::take(&mut topics);
                records.push(Record::PartitionsChanged { topics });
                count = 0;
            }
            count += 1;
            match topics.last_mut() {
                Some(topic) if topic.id == of.topic => topic.partitions.push(change),
                _ => topics.push(ChangedTopic {
                    id: of.topic,
                    partitions: vec![change],
                }),
            }
        }
        if count > 0 {
            records.push(Record::PartitionsChanged { topics });
        }
        records
    }
}
