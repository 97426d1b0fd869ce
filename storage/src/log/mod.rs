//! One partition's log.
//!
//! *Pattern: segmented log.* *Pattern: write-ahead log.*
//!
//! A [`Log`] owns one directory: its segments, their indexes, the epochs of its leaders and what is
//! known of its producers. It decides what may be appended ([`append`]), what is read ([`read`]),
//! what is durable ([`flush`]), what a restart finds ([`recovery`]) and what may go ([`retention`]).
//!
//! One caller at a time changes a log; the broker holds it behind a lock. What takes long is handed
//! out as a job that runs without the lock: [`FlushJob`], [`CheckpointJob`], [`ColdRange`],
//! [`Fetched::check`], [`Removed::finish`].
//!
//! ```text
//! <topic>-<partition>/
//!   00000000000000000000.log         batches, one behind the other; zeros where only allocated
//!   00000000000000000000.index       offset → position          (hints: headers are checked)
//!   00000000000000000000.timeindex   timestamp → offset         (hints)
//!   00000000000000000000.snapshot    producers as of that offset, Kafka's format
//!   leader-epoch-checkpoint          epochs and where they begin, Kafka's format
//!   partition.metadata               the topic's id, Kafka's format
//!   partition.state                  epochs, id, log start; CRC-protected, wins over both
//!   producers.state                  producers with their windows of five; CRC-protected, wins
//! ```

mod append;
mod config;
mod errors;
mod flush;
mod read;
mod recovery;
mod retention;

use std::path::{Path, PathBuf};

use strandline_protocol::{LeaderEpoch, Offset, Timestamp, TopicId};

pub use append::Appended;
pub use config::LogConfig;
pub use errors::{AppendError, ReadError};
pub use flush::{CheckpointJob, FlushJob, FlushOutcome};
pub use read::{ColdRange, Fetched, TimestampedOffset};
pub use recovery::{RecoveryHint, RecoveryReport, Shutdown};
pub use retention::Removed;

/// One partition's log. See the module.
#[derive(Debug)]
pub struct Log {
    directory: PathBuf,
    topic_id: TopicId,
    config: LogConfig,
}

impl Log {
    /// The directory that it owns. It exists from the first append on.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The topic that it belongs to.
    #[must_use]
    pub const fn topic_id(&self) -> TopicId {
        self.topic_id
    }

    /// What is in force.
    #[must_use]
    pub const fn config(&self) -> &LogConfig {
        &self.config
    }

    /// Puts another configuration in force, from the next append, roll or retention on.
    pub fn set_config(&mut self, config: LogConfig) {
        self.config = config;
    }

    /// The log start offset: the first that can be read.
    #[must_use]
    pub fn start(&self) -> Offset {
        todo!()
    }

    /// The log end offset: that of the next record (exclusive end of what is published).
    #[must_use]
    pub fn end(&self) -> Offset {
        todo!()
    }

    /// The end (exclusive) of what a power cut leaves. Never above [`Log::end`].
    #[must_use]
    pub fn durable(&self) -> Offset {
        todo!()
    }

    /// How many segments there are.
    #[must_use]
    pub fn segments(&self) -> usize {
        todo!()
    }

    /// How many bytes of batches there are.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        todo!()
    }

    /// The newest leader epoch that has written; none for a log that never held a batch.
    #[must_use]
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        todo!()
    }

    /// Where `epoch` ends, to tell a follower where it diverges (Kafka's `endOffsetFor`): the
    /// largest known epoch that is not above `epoch`, and where the next one begins.
    ///
    /// `None` if `epoch` is above all known ones. An epoch below all known ones gives itself and
    /// the start of the first known one.
    #[must_use]
    pub fn end_offset_for(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let _ = epoch;
        todo!()
    }

    /// The epoch of the leader that appended the batch with `offset`.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let _ = offset;
        todo!()
    }

    /// The largest timestamp of any record, and an offset that has it; none if the log is empty.
    #[must_use]
    pub fn max_timestamp(&self) -> Option<(Timestamp, Offset)> {
        todo!()
    }
}
