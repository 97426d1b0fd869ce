//! Which partitions this broker serves.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use strandline_protocol::{ErrorCode, TopicPartition, messages::Failure};

use super::{Partition, Wanted};

/// The partitions by topic id and number. Looked up once per batch: a read lock and one hash.
#[derive(Debug, Default)]
pub struct Partitions {
    by_id: RwLock<std::collections::HashMap<TopicPartition, Entry, foldhash::fast::RandomState>>,
}

/// What is known of one partition.
#[derive(Clone, Debug)]
enum Entry {
    Serving(Arc<Partition>),
    /// Its log is being opened, or waits for that.
    Opening(Arc<Wanted>),
    /// It could not be opened; the failure says why.
    Offline(Arc<Wanted>, Failure),
}

/// What was known of a partition that is known no more.
#[derive(Clone, Debug)]
pub enum Gone {
    /// It was served.
    Served(Arc<Partition>),
    /// It was not, or not yet.
    Unopened(Arc<Wanted>),
}

/// How many partitions there are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionCounts {
    /// Open.
    pub open: usize,
    /// Being opened, or waiting for that.
    pub recovering: usize,
    /// Could not be opened.
    pub offline: usize,
}

impl PartitionCounts {
    /// In every state together.
    #[must_use]
    pub const fn all(self) -> usize {
        self.open + self.recovering + self.offline
    }
}

impl Partitions {
    /// The partition.
    ///
    /// # Errors
    /// What to answer with: it is not here, it still recovers, or its directory is offline.
    pub fn get(&self, id: TopicPartition) -> Result<Arc<Partition>, Failure> {
        match self.by_id.read().get(&id) {
            Some(Entry::Serving(partition)) => Ok(Arc::clone(partition)),
            // Kafka's code for a leader that has not taken up its work, which every client retries.
            Some(Entry::Opening(_)) => Err(Failure::new(
                ErrorCode::NOT_LEADER_OR_FOLLOWER,
                "the broker has just started and recovers this partition: retry",
            )),
            Some(Entry::Offline(_, failure)) => Err(failure.clone()),
            None => Err(Failure::new(
                ErrorCode::UNKNOWN_TOPIC_ID,
                format!("partition {id} is not here: refresh metadata"),
            )),
        }
    }

    /// Takes note of what metadata wants for a partition that is not served. Tells whether anything
    /// is known of it; if not, it is to be opened.
    pub fn update_unserved(&self, wanted: &Wanted) -> bool {
        match self.by_id.write().get_mut(&wanted.id) {
            None => false,
            Some(Entry::Opening(waiting) | Entry::Offline(waiting, _)) => {
                *waiting = Arc::new(wanted.clone());
                true
            }
            Some(Entry::Serving(_)) => true,
        }
    }

    /// Answers everything for the partition with a failure to be retried, until it is open.
    pub fn insert_opening(&self, wanted: &Arc<Wanted>) {
        let entry = Entry::Opening(Arc::clone(wanted));
        self.by_id.write().insert(wanted.id, entry);
    }

    /// Serves the partition from now on, as far as `wanted` is what is wanted still. If it is not,
    /// returns what is; nothing if that is that nobody wants the partition any more.
    pub fn serve(&self, wanted: &Arc<Wanted>, partition: &Arc<Partition>) -> Option<Arc<Wanted>> {
        let mut by_id = self.by_id.write();
        match by_id.get(&wanted.id) {
            Some(Entry::Opening(newest)) if !Arc::ptr_eq(newest, wanted) => {
                Some(Arc::clone(newest))
            }
            Some(Entry::Opening(_)) => {
                by_id.insert(wanted.id, Entry::Serving(Arc::clone(partition)));
                None
            }
            _ => None,
        }
    }

    /// Answers everything for the partition with `failure`, if it is still to be opened.
    pub fn insert_offline(&self, wanted: &Arc<Wanted>, failure: Failure) {
        let mut by_id = self.by_id.write();
        if let Some(entry @ Entry::Opening(_)) = by_id.get_mut(&wanted.id) {
            *entry = Entry::Offline(Arc::clone(wanted), failure);
        }
    }

    /// Knows nothing of the partition from now on; returns what was known.
    pub fn remove(&self, id: TopicPartition) -> Option<Gone> {
        match self.by_id.write().remove(&id)? {
            Entry::Serving(partition) => Some(Gone::Served(partition)),
            Entry::Opening(wanted) | Entry::Offline(wanted, _) => Some(Gone::Unopened(wanted)),
        }
    }

    /// How many there are in each state. Walks over all of them.
    #[must_use]
    pub fn counts(&self) -> PartitionCounts {
        let mut counts = PartitionCounts::default();
        for entry in self.by_id.read().values() {
            match entry {
                Entry::Serving(_) => counts.open += 1,
                Entry::Opening(_) => counts.recovering += 1,
                Entry::Offline(..) => counts.offline += 1,
            }
        }
        counts
    }

    /// All that are served, in the order of their ids.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Partition>> {
        let ordered: BTreeMap<_, _> = self
            .by_id
            .read()
            .values()
            .filter_map(|entry| match entry {
                Entry::Serving(partition) => Some((partition.id(), Arc::clone(partition))),
                Entry::Opening(_) | Entry::Offline(..) => None,
            })
            .collect();
        ordered.into_values().collect()
    }

    /// Every id of which anything is known, in order.
    #[must_use]
    pub fn ids(&self) -> Vec<TopicPartition> {
        let mut ids: Vec<_> = self.by_id.read().keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}
