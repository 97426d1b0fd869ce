//! What one broker keeps: the way from a broker to its partitions.
//!
//! A broker that starts, stops or falls silent costs what it keeps, whatever else the image holds.

use std::sync::Arc;

use strandline_protocol::{BrokerId, TopicPartition};

use crate::{metadata::topic::Partition, shared_map::SharedMap};

/// The partitions of which one broker keeps a copy. Two images share what is equal in them, and a
/// copy of an image costs one pointer per broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    partitions: Arc<SharedMap<TopicPartition, ()>>,
    /// How many of them the broker leads.
    pub(super) leads: usize,
}

impl Kept {
    /// Counts a partition in, of which `broker` keeps a copy.
    pub(super) fn add(&mut self, of: TopicPartition, broker: BrokerId, partition: &Partition) {
        Arc::make_mut(&mut self.partitions).insert(of, ());
        self.leads += usize::from(partition.leader == Some(broker));
    }

    /// Counts it out.
    pub(super) fn remove(&mut self, of: TopicPartition, broker: BrokerId, partition: &Partition) {
        Arc::make_mut(&mut self.partitions).remove(&of);
        self.leads -= usize::from(partition.leader == Some(broker));
    }

    pub(super) fn holds(&self, of: TopicPartition) -> bool {
        self.partitions.get(&of).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.partitions.len()
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = TopicPartition> {
        self.partitions.iter().map(|(of, ())| *of)
    }
}
