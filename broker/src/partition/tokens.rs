//! What a partition is asked, and what it answers.

use std::{sync::Arc, time::Duration};

use strandline_core::{FlushMode, replica::Marks};
use strandline_protocol::{
    BrokerId, LeaderEpoch, Offset, Timestamp, TopicPartition,
    messages::{EpochEnd, Failure, OffsetGap},
};
use strandline_storage::log::{Fetched, Log};
use tokio::time::Instant;

use super::{Directory, FetchWaits, Proposals};
use crate::{
    metadata::MetadataLog,
    metrics::{ReplicationMetrics, TopicMetrics},
    replication::Replication,
    server::{Events, Slot},
};

/// What a partition is made of.
#[derive(Debug)]
pub struct Opening {
    /// Which one it is.
    pub id: TopicPartition,
    /// The name of its topic.
    pub topic: Arc<str>,
    /// Where it lies.
    pub directory: Arc<Directory>,
    /// What it works with.
    pub surroundings: Arc<Surroundings>,
    /// The counters of its topic.
    pub metrics: Arc<TopicMetrics>,
    /// The log, just recovered.
    pub log: Log,
    /// What an acknowledgement means.
    pub flush: FlushMode,
    /// The high watermark that was written down last; zero if none was.
    pub high_watermark: Offset,
}

/// What the partitions of one broker share.
#[derive(Debug)]
pub struct Surroundings {
    /// Which broker this is.
    pub broker: BrokerId,
    /// Who leads what, and whether this broker holds its lease.
    pub metadata: MetadataLog,
    /// Who waits for data.
    pub waits: Arc<FetchWaits>,
    /// What fetches for those that follow.
    pub replication: Replication,
    /// Changes of who is in sync, to be asked for.
    pub proposals: Arc<Proposals>,
    /// What is counted.
    pub metrics: ReplicationMetrics,
    /// From when on time is counted.
    pub started: Instant,
}

impl Surroundings {
    /// The time as decisions know it.
    #[must_use]
    pub fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.started)
    }
}

/// By whom an acknowledgement is awaited.
#[derive(Clone, Debug)]
pub struct AckToken {
    /// The connection.
    pub events: Events,
    /// The request.
    pub slot: Slot,
    /// Which of its batches.
    pub index: usize,
}

/// By whom a parked fetch is answered.
#[derive(Clone, Debug)]
pub struct FetchToken {
    /// The connection.
    pub events: Events,
    /// The request.
    pub slot: Slot,
}

/// What became of a batch that was appended, or was there already.
#[derive(Clone, Copy, Debug)]
pub struct Appended {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The broker's time on it, where the topic wants that.
    pub log_append_time: Option<Timestamp>,
    /// The first offset of the partition.
    pub log_start_offset: Offset,
    /// Whether the acknowledgement is still to come, by [`crate::server::Event::Acknowledged`].
    pub acknowledged: Acknowledged,
}

/// When a batch may be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// At once.
    Now,
    /// By an event.
    Later,
}

/// What a consumer wants to read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// From where.
    pub from: Offset,
    /// How much, in bytes; the first batch comes whole all the same.
    pub bytes_max: usize,
    /// The leader epoch that it knows; none is not checked.
    pub known_epoch: Option<LeaderEpoch>,
    /// Who may serve it.
    pub source: Source,
    /// Whether to wait for the disk.
    pub look: Look,
    /// Up to where; none reads all that consumers may.
    pub below: Option<Offset>,
}

/// Whom a consumer reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Only from the leader.
    Leader,
    /// From any replica, below its own high watermark (KIP-392).
    Any,
}

/// What a fetch finds in one partition.
#[derive(Debug)]
pub struct Read {
    /// Whole batches, still to be checked; none if there is nothing to read yet.
    pub fetched: Option<Fetched>,
    /// The first offset.
    pub log_start_offset: Offset,
    /// The end of what consumers may read.
    pub high_watermark: Offset,
    /// Bytes ever made visible, as of this read: see [`FetchWaits`].
    pub visible: i64,
}

/// What a follower's fetch finds in one partition.
#[derive(Debug)]
pub struct ReplicaRead {
    /// Where the leader stands.
    pub marks: Marks,
    /// Where the follower's log is another one; nothing is read then.
    pub diverging: Option<EpochEnd>,
    /// Whole batches, still to be checked; none if there is nothing to read.
    pub fetched: Option<Fetched>,
    /// What is missing in front of them, and nobody has.
    pub gap: Option<OffsetGap>,
}

/// Why a follower is told nothing else.
#[derive(Debug)]
pub struct ReplicaReadFailure {
    /// What to answer with.
    pub failure: Failure,
    /// Where this replica stands.
    pub marks: Option<Marks>,
}

/// Whether a read may find that its bytes are not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Say so instead of waiting for the disk.
    Warm,
    /// They were just brought in.
    Anyway,
}

/// What a partition shows to metrics and to its directory.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Where it stands.
    pub marks: Marks,
    /// Bytes of its log.
    pub bytes: u64,
    /// Segments of its log.
    pub segments: usize,
}

/// Why nothing was read.
#[derive(Debug)]
pub struct ReadFailure {
    /// What to answer with.
    pub failure: Failure,
    /// From where reading can go on, if the log is damaged.
    pub next_good: Option<Offset>,
}

impl From<Failure> for ReadFailure {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            next_good: None,
        }
    }
}
