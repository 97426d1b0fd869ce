//! What a partition is asked, and what it answers.

use std::sync::Arc;

use strandline_core::{FlushMode, replica::Marks};
use strandline_protocol::{LeaderEpoch, Offset, Timestamp, TopicPartition, messages::Failure};
use strandline_storage::log::{Fetched, Log};

use super::{Directory, FetchWaits};
use crate::{
    metrics::TopicMetrics,
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
    /// Who waits for data.
    pub waits: Arc<FetchWaits>,
    /// The counters of its topic.
    pub metrics: Arc<TopicMetrics>,
    /// The log, just recovered.
    pub log: Log,
    /// The epoch in which it is led from now on.
    pub leader_epoch: LeaderEpoch,
    /// What an acknowledgement means.
    pub flush: FlushMode,
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
