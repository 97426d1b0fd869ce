//! What the rig knows of a disk without looking at it: what was tried, and what was acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use strandline_protocol::{LeaderEpoch, ProducerId, TopicId, batch::ProducerStamp};
use strandline_storage::directory::Identity;

/// A batch that was appended, or tried to be.
#[derive(Clone, Debug)]
pub struct Known {
    /// The offset of its first record.
    pub base: i64,
    /// The offset behind its last one.
    pub end: i64,
    /// The epoch that wrote it.
    pub epoch: LeaderEpoch,
    /// Who sent it.
    pub producer: ProducerStamp,
    /// As it was sent.
    pub sent: Bytes,
    /// As it must stand in the log.
    pub stored: Bytes,
    /// The time of its records.
    pub timestamp: i64,
}

/// One partition.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Its batches in order, durable or not; those below the start too.
    pub batches: Vec<Known>,
    /// What a start must at least give (exclusive end).
    pub durable: i64,
    /// Where the log may start: at least, at most.
    pub start: (i64, i64),
}

impl Line {
    /// Where the log ends.
    #[must_use]
    pub fn end(&self) -> i64 {
        let last = self.batches.last().map_or(0, |batch| batch.end);
        last.max(self.start.0)
    }

    /// The largest boundary of batches that is not above `offset`.
    #[must_use]
    pub fn boundary(&self, offset: i64) -> i64 {
        let holding = self
            .batches
            .iter()
            .find(|batch| batch.base <= offset && offset < batch.end);
        holding.map_or(offset, |batch| batch.base)
    }

    /// The batch that begins at `base`.
    #[must_use]
    pub fn at(&self, base: i64) -> Option<&Known> {
        let found = self.batches.binary_search_by_key(&base, |batch| batch.base);
        found.ok().and_then(|at| self.batches.get(at))
    }
}

/// One topic.
#[derive(Clone, Debug)]
pub struct TopicState {
    /// Its identity.
    pub id: TopicId,
    /// Its `retention.bytes`.
    pub retention: String,
    /// Its partitions.
    pub lines: Vec<Arc<Line>>,
}

/// A change of the metadata that nobody has acknowledged yet.
#[derive(Clone, Debug)]
pub enum Attempt {
    /// A topic of so many partitions is being created.
    Create {
        /// Its name.
        name: String,
        /// Its `retention.bytes`.
        retention: String,
        /// How many partitions.
        partitions: usize,
    },
    /// A topic is being deleted.
    Delete {
        /// Its name.
        name: String,
    },
    /// A topic gets another `retention.bytes`.
    Configure {
        /// Its name.
        name: String,
        /// The value.
        retention: String,
    },
}

/// Everything that is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Whose the directory is, once that was told.
    pub identity: Option<Identity>,
    /// The topics that were acknowledged, by name.
    pub topics: BTreeMap<String, TopicState>,
    /// What may be there too.
    pub attempt: Option<Attempt>,
    /// The identities of topics that were deleted.
    pub gone: BTreeSet<TopicId>,
    /// The producer ids that were handed out.
    pub producers: BTreeSet<ProducerId>,
}

impl Expected {
    /// One partition, to be changed.
    ///
    /// # Panics
    /// If there is none.
    pub fn line(&mut self, name: &str, partition: usize) -> &mut Line {
        let topic = self.topics.get_mut(name).expect("the topic is known");
        Arc::make_mut(&mut topic.lines[partition])
    }

    /// One partition.
    #[must_use]
    pub fn find(&self, name: &str, partition: usize) -> Option<&Arc<Line>> {
        self.topics.get(name)?.lines.get(partition)
    }
}

/// What was known when, in the order of the changes of a disk.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    entries: Vec<(u64, Arc<Expected>)>,
    steps: Vec<(u64, String)>,
}

impl Journal {
    /// From change `at` on, `expected` holds.
    pub fn push(&mut self, at: u64, expected: Arc<Expected>) {
        match self.entries.last_mut() {
            Some(last) if last.0 == at => last.1 = expected,
            _ => self.entries.push((at, expected)),
        }
    }

    /// From change `at` on, this is being done.
    pub fn step(&mut self, at: u64, what: String) {
        self.steps.push((at, what));
    }

    /// What is known behind change `at`.
    #[must_use]
    pub fn at(&self, at: u64) -> Arc<Expected> {
        let count = self.entries.partition_point(|(since, _)| *since <= at);
        let found = count.checked_sub(1).and_then(|last| self.entries.get(last));
        found
            .map(|(_, expected)| Arc::clone(expected))
            .unwrap_or_default()
    }

    /// The last few steps up to change `at`, for people.
    #[must_use]
    pub fn story(&self, at: u64) -> String {
        let count = self.steps.partition_point(|(since, _)| *since <= at);
        let first = count.saturating_sub(8);
        let told = self.steps[first..count]
            .iter()
            .map(|(since, what)| format!("  {since}: {what}"));
        told.collect::<Vec<_>>().join("\n")
    }
}
