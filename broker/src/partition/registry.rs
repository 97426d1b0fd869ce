//! Which partitions this broker serves.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use strandline_protocol::{ErrorCode, TopicPartition, messages::Failure};

use super::Partition;

/// The partitions by topic id and number. Looked up once per batch: a read lock and one hash.
#[derive(Debug, Default)]
pub struct Partitions {
    by_id: RwLock<std::collections::HashMap<TopicPartition, Entry, foldhash::fast::RandomState>>,
}

/// What is known of one partition.
#[derive(Clone, Debug)]
enum Entry {
    Serving(Arc<Partition>),
    /// It could not be opened; the failure says why.
    Offline(Failure),
}

impl Partitions {
    /// The partition.
    ///
    /// # Errors
    /// What to answer with: it is not here, or its directory is offline.
    pub fn get(&self, id: TopicPartition) -> Result<Arc<Partition>, Failure> {
        match self.by_id.read().get(&id) {
            Some(Entry::Serving(partition)) => Ok(Arc::clone(partition)),
            Some(Entry::Offline(failure)) => Err(failure.clone()),
            None => Err(Failure::new(
                ErrorCode::UNKNOWN_TOPIC_ID,
                format!("partition {id} is not here: refresh metadata"),
            )),
        }
    }

    /// Whether anything is known of the partition.
    #[must_use]
    pub fn knows(&self, id: TopicPartition) -> bool {
        self.by_id.read().contains_key(&id)
    }

    /// Serves the partition from now on.
    pub fn insert(&self, partition: Arc<Partition>) {
        let id = partition.id();
        self.by_id.write().insert(id, Entry::Serving(partition));
    }

    /// Answers everything for the partition with `failure`.
    pub fn insert_offline(&self, id: TopicPartition, failure: Failure) {
        self.by_id.write().insert(id, Entry::Offline(failure));
    }

    /// Stops serving the partition; returns it if it was served.
    pub fn remove(&self, id: TopicPartition) -> Option<Arc<Partition>> {
        match self.by_id.write().remove(&id) {
            Some(Entry::Serving(partition)) => Some(partition),
            _ => None,
        }
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
                Entry::Offline(_) => None,
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
