//! Who may lead a partition.
//!
//! *Pattern: leader and followers.* A leader is elected among those in sync, in the order of the
//! assignment; if nobody is, among those that are eligible. Only a topic that asks for it, or an
//! operator, gets a leader that may lack what was acknowledged.

use strandline_protocol::{BrokerId, TopicPartition, messages::Duty};

use super::{disks::Disks, draft::Draft};
use crate::metadata::{
    image::{BrokerState, Image},
    record::REPLICATION_VERSION,
    topic::{Partition, Topic},
};

/// Who may lead, as it will be once a decision is applied.
#[derive(Clone, Copy)]
pub(super) struct Electorate<'a> {
    pub(super) image: &'a Image,
    pub(super) disks: &'a Disks,
    /// What the log may hold then.
    pub(super) version: u16,
    /// The broker that the decision is about, and whether it takes part then.
    except: Option<(BrokerId, Part)>,
    /// The broker whose duty the decision changes.
    duty: Option<(BrokerId, Duty)>,
}

/// Whether a broker takes part.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Takes,
    TakesNot,
}

/// A leader to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Elected {
    pub(super) broker: BrokerId,
    pub(super) footing: Footing,
}

/// What a leader to be has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Footing {
    /// It is in sync.
    InSync,
    /// It has all that was acknowledged.
    Eligible,
    /// It may lack what was acknowledged.
    Unclean,
}

/// Whether a leader may lack what was acknowledged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Never: whoever leads can go on.
    Avoided,
    /// If the topic says so.
    AsConfigured,
    /// Somebody has said so.
    Accepted,
}

impl<'a> Electorate<'a> {
    pub(super) fn of(image: &'a Image, disks: &'a Disks) -> Self {
        Self {
            image,
            disks,
            version: image.metadata_version(),
            except: None,
            duty: None,
        }
    }

    /// Once the log may hold what `version` has.
    pub(super) fn in_version(mut self, version: u16) -> Self {
        self.version = self.version.max(version);
        self
    }

    pub(super) const fn when(mut self, broker: BrokerId, part: Part) -> Self {
        self.except = Some((broker, part));
        self
    }

    pub(super) const fn with_duty(mut self, broker: BrokerId, duty: Duty) -> Self {
        self.duty = Some((broker, duty));
        self
    }

    /// Whether there is replication.
    pub(super) const fn replicates(&self) -> bool {
        self.version >= REPLICATION_VERSION
    }

    pub(super) fn draft(&self, of: TopicPartition, before: &'a Partition) -> Option<Draft<'a>> {
        let topic = self.image.topic_by_id(of.topic)?;
        Some(Draft::new(of, topic, before, self.version))
    }

    /// What `broker` keeps, each partition as a draft.
    pub(super) fn kept_by(&self, broker: BrokerId) -> impl Iterator<Item = Draft<'a>> {
        let kept = self.image.kept_by(broker);
        kept.filter_map(|(of, partition)| self.draft(of, partition))
    }

    /// A broker that takes part, with a directory that is there and has not failed.
    pub(super) fn is_acceptable(&self, partition: &Partition, broker: BrokerId) -> bool {
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
                    && self.disks.is_usable(directory)
            })
    }

    /// Whether `broker` may lead the partition without any loss.
    pub(super) fn is_valid(&self, partition: &Partition, broker: BrokerId) -> bool {
        let has_all = if partition.isr.is_empty() {
            partition.elr.contains(&broker)
        } else {
            partition.isr.contains(&broker)
        };
        has_all && self.is_acceptable(partition, broker)
    }

    /// Whether `broker` is to lead nothing that others can lead.
    pub(super) fn is_drained(&self, broker: BrokerId) -> bool {
        let duty = match self.duty {
            Some((about, duty)) if about == broker => Some(duty),
            _ => self.image.broker(broker).map(|known| known.duty),
        };
        duty == Some(Duty::Drained)
    }

    /// Whether `broker` is to leave the partition to others if they can lead it: it is drained, or
    /// takes no writes there as its disk is full.
    pub(super) fn is_to_yield(&self, partition: &Partition, broker: BrokerId) -> bool {
        let replica = partition.replica_on(broker);
        let is_full = replica.is_some_and(|it| self.disks.is_full(broker, it.directory));
        is_full || self.is_drained(broker)
    }

    /// The leader of a partition: the present one if it is valid, else the first valid one in the
    /// order of the assignment; one that is to yield only if there is no other.
    pub(super) fn leader(
        &self,
        topic: &Topic,
        partition: &Partition,
        loss: Loss,
    ) -> Option<Elected> {
        let footing = if partition.isr.is_empty() {
            Footing::Eligible
        } else {
            Footing::InSync
        };
        let valid = self.first(partition, |broker| self.is_valid(partition, broker));
        valid
            .map(|broker| Elected { broker, footing })
            .or_else(|| self.unclean_leader(topic, partition, loss))
    }

    fn unclean_leader(&self, topic: &Topic, partition: &Partition, loss: Loss) -> Option<Elected> {
        let is_accepted = match loss {
            Loss::Avoided => false,
            Loss::AsConfigured => topic.elects_unclean(),
            Loss::Accepted => true,
        };
        if !is_accepted || !self.replicates() {
            return None;
        }
        let broker = self.first(partition, |broker| self.is_acceptable(partition, broker))?;
        Some(Elected {
            broker,
            footing: Footing::Unclean,
        })
    }

    /// The first replica of which `may` is true: the present leader before the others, those that
    /// are to yield last.
    fn first(&self, partition: &Partition, may: impl Fn(BrokerId) -> bool) -> Option<BrokerId> {
        let assigned = partition.replicas.iter().map(|replica| replica.broker);
        let candidates = partition
            .leader
            .into_iter()
            .chain(assigned)
            .filter(|broker| may(*broker));
        candidates.min_by_key(|broker| self.is_to_yield(partition, *broker))
    }
}
