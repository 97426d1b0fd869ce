//! One partition's log.
//!
//! *Pattern: segmented log.* *Pattern: write-ahead log.*
//!
//! A [`Log`] owns one directory: its segments, their indexes, the epochs of its leaders and what is
//! known of its producers. It decides what may be appended (`append.rs`), what is read (`read.rs`),
//! what is durable (`flush.rs`), what a restart finds (`recovery.rs`) and what may go
//! (`retention.rs`).
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

mod active;
mod append;
mod checkpoint;
mod config;
mod creation;
mod epochs;
mod errors;
mod flush;
mod hole;
mod indexes;
pub mod inspect;
mod listing;
mod offset_index;
mod partition_state;
mod place;
mod producer_snapshot;
mod producers;
mod read;
mod recovery;
mod repair;
mod restart;
mod retention;
mod roll;
mod scan;
mod search;
mod segment;
mod state_file;
mod time_index;
mod time_lookup;
mod truncate;
mod units;
mod verified;
mod walk;

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicI64},
};

use parking_lot::Mutex;
use strandline_protocol::{LeaderEpoch, Offset, TopicId};

use self::{active::Active, epochs::Epochs, producers::Producers, segment::Segment};
use crate::{
    error::StorageError,
    fs::{File, FileSystem, FsError},
};

pub use append::Appended;
pub use checkpoint::CheckpointJob;
pub use config::LogConfig;
pub use creation::NewLog;
pub use errors::{AppendError, ReadError};
pub use flush::{FlushJob, FlushOutcome, WritebackJob};
pub use partition_state::sealed_topic_id;
pub use read::{ColdRange, Fetched};
pub use recovery::{RecoveryHint, RecoveryReport, Shutdown};
pub use repair::{RepairError, RepairJob, RepairOutcome};
pub use retention::Removed;
pub use time_lookup::TimestampedOffset;

/// One partition's log. See the module.
#[derive(Debug)]
pub struct Log {
    files: Arc<dyn FileSystem>,
    directory: PathBuf,
    topic_id: TopicId,
    config: LogConfig,
    /// Closed segments, oldest first; each ends where the next, or the active one, begins.
    sealed: VecDeque<Segment>,
    /// None until the first append.
    active: Option<Active>,
    start: Offset,
    end: Offset,
    durable: Offset,
    epochs: Epochs,
    producers: Producers,
    /// Which closed segments have their indexes mapped, the one that was used last at the end.
    loaded: Mutex<VecDeque<Offset>>,
    health: Health,
    progress: Progress,
}

/// Whether the disk can still be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Online,
    /// A write or a sync failed: what is on disk is not known.
    Failed,
}

/// What `partition.state` says of the epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum StoredEpochs {
    #[default]
    AsHere,
    /// It may name some that begin where the log ends or behind it, which were dropped here, or it
    /// could not be written.
    NotAsHere,
}

/// What has happened since something was last written down.
#[derive(Debug, Default)]
struct Progress {
    /// How often the log has been cut; a sync that began before says nothing about it now.
    cuts: u64,
    stored_epochs: StoredEpochs,
    /// Bytes appended since the indexes and producers were last written.
    bytes_since_checkpoint: u64,
    /// The recovery point that was last handed out.
    checkpointed: Offset,
    /// The one of the last checkpoint that has run.
    reached: Arc<AtomicI64>,
    /// Whether there is anything that closing must write.
    is_dirty: bool,
    /// Index and snapshot files of closed segments that the next checkpoint makes durable.
    unsynced: Vec<Arc<dyn File>>,
}

impl Log {
    /// The directory that it owns. It exists from the first append on, or from
    /// [`Log::create_together`].
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
    pub const fn start(&self) -> Offset {
        self.start
    }

    /// The log end offset: that of the next record (exclusive end of what is published).
    #[must_use]
    pub const fn end(&self) -> Offset {
        self.end
    }

    /// The end (exclusive) of what a power cut leaves. Never above [`Log::end`].
    #[must_use]
    pub const fn durable(&self) -> Offset {
        self.durable
    }

    /// How many segments there are.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.sealed
            .len()
            .saturating_add(usize::from(self.active.is_some()))
    }

    /// How many bytes of batches there are.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let active = self.active.as_ref().map_or(0, |active| active.size);
        self.sealed
            .iter()
            .fold(active, |sum, segment| sum.saturating_add(segment.size))
    }

    /// The newest leader epoch that has written; none for a log that never held a batch.
    #[must_use]
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.epochs.latest()
    }

    /// Where `epoch` ends, to tell a follower where it diverges (Kafka's `endOffsetFor`): the
    /// largest known epoch that is not above `epoch`, and where the next one begins.
    ///
    /// `None` if `epoch` is above all known ones. An epoch below all known ones gives itself and
    /// the start of the first known one.
    #[must_use]
    pub fn end_offset_for(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.epochs.end_offset_for(epoch, self.end)
    }

    /// The epoch of the leader that appended the batch with `offset`.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.epochs.at(offset)
    }

    /// The epoch of the last batch; none if the log holds none. An epoch that has begun and written
    /// nothing is not it, unlike [`Log::latest_epoch`].
    #[must_use]
    pub fn last_batch_epoch(&self) -> Option<LeaderEpoch> {
        let last = self.end.plus(-1);
        (self.start <= last).then(|| self.epochs.at(last)).flatten()
    }

    /// How many producers are remembered.
    #[must_use]
    pub fn producers(&self) -> usize {
        self.producers.count()
    }

    /// Whether a failed write or sync has taken the log out of service.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.health == Health::Failed
    }

    fn check_online(&self) -> Result<(), StorageError> {
        match self.health {
            Health::Online => Ok(()),
            Health::Failed => Err(StorageError::Offline {
                path: self.directory.clone(),
            }),
        }
    }

    fn take_offline(&mut self) {
        self.health = Health::Failed;
    }

    /// Takes the log out of service, unless only space is missing.
    fn failed(&mut self, error: impl Into<StorageError>) -> StorageError {
        let error = error.into();
        if !error.is_full() {
            self.take_offline();
        }
        error
    }

    /// The first offset that a file holds.
    fn oldest_base(&self) -> Option<Offset> {
        let active = self.active.as_ref().map(|active| active.base);
        self.sealed.front().map(|segment| segment.base).or(active)
    }
}

/// Removes a file that may be gone already.
fn remove_if_there(files: &dyn FileSystem, path: &Path) -> Result<bool, FsError> {
    match files.remove(path) {
        Ok(()) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
