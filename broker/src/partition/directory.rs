//! One data directory at work: whether it is online, what waits to be flushed or checkpointed.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use strandline_core::mutants::{self, Mutant};
use strandline_protocol::{
    BrokerEpoch, DirectoryId, ErrorCode, Offset, PartitionId, TopicId, TopicPartition,
    messages::Failure,
};
use strandline_storage::{
    StorageError,
    directory::{Checkpoint, CheckpointedOffsets, DataDirectory, PartitionName},
    log::RecoveryHint,
};
use tokio::sync::mpsc::UnboundedSender;

use super::{FlushQueue, Partition};
use crate::{metadata::METADATA_TOPIC_ID, metrics::DirectoryMetrics};

/// From how much free space on a disk that was full counts as one with room again, in bytes.
const ROOM_BYTES: u64 = 16 << 20;

/// How much free space the cut of a log may take, in bytes: its small files, written anew.
const CUT_BYTES: u64 = 256 << 10;

/// Where news of failed directories go.
pub type Failures = UnboundedSender<DirectoryId>;

/// A data directory that is in use.
#[derive(Debug)]
pub struct Directory {
    data: DataDirectory,
    queue: Arc<FlushQueue>,
    metrics: DirectoryMetrics,
    failures: Failures,
    /// Whether the last append found the disk full.
    full: AtomicBool,
    /// Whether a log lies in it that a crash has left, and that nobody has recovered since.
    unclosed: AtomicBool,
    /// Partitions with bytes that nobody has asked to be flushed.
    unsynced: Mutex<Listed>,
    /// Partitions whose recovery point may have moved.
    synced: Mutex<Listed>,
    checkpoint: Mutex<Points>,
    /// Held while the checkpoint is written: an older copy must not come behind a newer one.
    writing: Mutex<()>,
}

/// Partitions that something is to be done with. They hold on to their directory, so it must not
/// hold on to them.
type Listed = BTreeMap<TopicPartition, Weak<Partition>>;

#[derive(Debug)]
struct Points {
    checkpoint: Checkpoint,
    state: Written,
}

/// Whether the checkpoint in memory is the one on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Yes,
    No,
}

impl Directory {
    /// Starts work in a directory that was opened; `checkpoint` is what was found in it.
    #[must_use]
    pub fn new(
        data: DataDirectory,
        checkpoint: Checkpoint,
        metrics: DirectoryMetrics,
        failures: Failures,
    ) -> Self {
        Self {
            data,
            queue: Arc::default(),
            metrics,
            failures,
            full: AtomicBool::new(false),
            unclosed: AtomicBool::new(false),
            unsynced: Mutex::default(),
            synced: Mutex::default(),
            checkpoint: Mutex::new(Points {
                checkpoint,
                state: Written::Yes,
            }),
            writing: Mutex::default(),
        }
    }

    /// Its identity.
    #[must_use]
    pub const fn id(&self) -> DirectoryId {
        self.data.identity().directory_id
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.data.path()
    }

    /// What storage knows of it.
    #[must_use]
    pub const fn data(&self) -> &DataDirectory {
        &self.data
    }

    /// Partitions that wait for a flush.
    #[must_use]
    pub const fn queue(&self) -> &Arc<FlushQueue> {
        &self.queue
    }

    /// Refuses work if it is offline.
    ///
    /// # Errors
    /// `STORAGE_ERROR` with the reason.
    pub fn check_online(&self) -> Result<(), Failure> {
        match self.data.failure() {
            None => Ok(()),
            Some(reason) => Err(Failure::new(
                ErrorCode::STORAGE_ERROR,
                format!(
                    "data directory {} is offline ({reason}): check the disk, then restart the \
                     broker",
                    self.path().display()
                ),
            )),
        }
    }

    /// Takes the directory offline until the broker starts again. Does not wait, and may be called
    /// with a partition's lock held: who waits for the disk is told by whoever hears of the
    /// failure.
    pub fn fail(&self, error: &StorageError) {
        if self.data.is_online() {
            tracing::error!(
                directory = %self.path().display(),
                "data directory goes offline until the broker starts again: {error}"
            );
        }
        self.data.fail(error);
        // Told each time, as storage may have taken it offline by itself before.
        let _ = self.failures.send(self.id());
    }

    /// What a failed operation is answered with; takes the directory offline unless it is only
    /// full.
    pub fn refuse(&self, error: &StorageError) -> Failure {
        if error.is_full() {
            self.ran_full();
            return Failure::new(
                ErrorCode::DISK_FULL,
                format!("the disk is full: {error}; it goes on by itself once there is space"),
            );
        }
        self.fail(error);
        Failure::new(ErrorCode::STORAGE_ERROR, error.to_string())
    }

    /// An append found the disk full.
    pub fn ran_full(&self) {
        if !self.full.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                directory = %self.path().display(),
                "the disk is full: appends are refused until there is space, reads go on"
            );
        }
    }

    /// An fsync took so long.
    pub fn flush_took(&self, time: Duration) {
        self.metrics.flush.record(time);
    }

    /// The partition has bytes that nobody waits for to be flushed.
    pub fn has_unsynced(&self, partition: &Arc<Partition>) {
        self.unsynced
            .lock()
            .insert(partition.id(), Arc::downgrade(partition));
    }

    /// Takes the partitions with such bytes.
    #[must_use]
    pub fn take_unsynced(&self) -> Vec<Arc<Partition>> {
        take(&self.unsynced)
    }

    /// More of the partition is durable than before.
    pub fn synced(&self, partition: &Arc<Partition>) {
        self.synced
            .lock()
            .insert(partition.id(), Arc::downgrade(partition));
    }

    /// Takes the partitions of which more is durable than at the last call.
    #[must_use]
    pub fn take_synced(&self) -> Vec<Arc<Partition>> {
        take(&self.synced)
    }

    /// Remembers how far a partition has come, for the next checkpoint.
    pub fn remember(&self, name: PartitionName, topic: TopicId, offsets: CheckpointedOffsets) {
        let mut points = self.checkpoint.lock();
        points.checkpoint.insert(name, topic, offsets);
        points.state = Written::No;
    }

    /// Remembers how far the metadata log has come.
    pub fn remember_metadata(&self, recovery_point: Offset) {
        let offsets = CheckpointedOffsets {
            recovery_point,
            log_start: Offset::ZERO,
            high_watermark: recovery_point,
        };
        self.remember(metadata_name(), METADATA_TOPIC_ID, offsets);
    }

    /// Forgets a partition that was deleted.
    pub fn forget(&self, name: &PartitionName) {
        let mut points = self.checkpoint.lock();
        points.checkpoint.remove(name);
        points.state = Written::No;
    }

    /// What recovery of a partition may take for granted.
    #[must_use]
    pub fn hint(
        &self,
        name: &PartitionName,
        topic: TopicId,
        shutdown: strandline_storage::log::Shutdown,
    ) -> RecoveryHint {
        let points = self.checkpoint.lock();
        let offsets = points.checkpoint.find(name, topic).unwrap_or_default();
        RecoveryHint {
            recovery_point: offsets.recovery_point,
            log_start: offsets.log_start,
            shutdown,
        }
    }

    /// The high watermark of a partition that was written down last; zero if none was.
    #[must_use]
    pub fn high_watermark(&self, name: &PartitionName, topic: TopicId) -> Offset {
        let points = self.checkpoint.lock();
        let offsets = points.checkpoint.find(name, topic).unwrap_or_default();
        offsets.high_watermark
    }

    /// Makes the checkpoint durable if it has changed. Waits for the disk.
    pub fn write_checkpoint(&self) {
        if let Err(error) = self.try_write_checkpoint() {
            self.checkpoint_failed(&error);
        }
    }

    fn try_write_checkpoint(&self) -> Result<(), StorageError> {
        let _one_at_a_time = self.writing.lock();
        let checkpoint = {
            let mut points = self.checkpoint.lock();
            if points.state == Written::Yes {
                return Ok(());
            }
            points.state = Written::Yes;
            points.checkpoint.clone()
        };
        let written = self.data.write_checkpoint(&checkpoint);
        if written.is_err() {
            self.checkpoint.lock().state = Written::No;
        }
        written
    }

    /// Makes sure that the recovery point of a partition on the disk is `most` at most, before its
    /// log is cut there; its high watermark too. Waits for the disk, if they are above that. The
    /// caller sees to it that nobody remembers higher ones meanwhile.
    ///
    /// # Errors
    /// What to answer with; the log must not be cut then.
    pub fn lower(
        &self,
        name: &PartitionName,
        topic: TopicId,
        most: Offset,
    ) -> Result<(), StorageError> {
        {
            let mut points = self.checkpoint.lock();
            let known = points.checkpoint.find(name, topic).unwrap_or_default();
            if known.recovery_point > most || known.high_watermark > most {
                let lowered = CheckpointedOffsets {
                    recovery_point: known.recovery_point.min(most),
                    high_watermark: known.high_watermark.min(most),
                    ..known
                };
                points.checkpoint.insert(name.clone(), topic, lowered);
                points.state = Written::No;
            }
        }
        let written = self.try_write_checkpoint();
        if let Err(error) = &written {
            self.checkpoint_failed(error);
        }
        written
    }

    /// Writes the checkpoint for Kafka's tools. Waits for the disk.
    pub fn write_checkpoint_for_kafka(&self) {
        let checkpoint = self.checkpoint.lock().checkpoint.clone();
        if let Err(error) = self.data.write_checkpoint_for_kafka(&checkpoint) {
            self.checkpoint_failed(&error);
        }
    }

    /// Takes room for a full disk again, if there is plenty.
    pub fn look_after_space(&self) {
        if let Err(error) = self.data.replenish_reserve() {
            self.checkpoint_failed(&error);
        }
    }

    /// Whether there is room for what cannot be stopped half-way, as far as the disk can tell.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let has_room = self
            .data
            .space()
            .is_ok_and(|space| space.available >= CUT_BYTES);
        if !has_room {
            self.ran_full();
        }
        has_room
    }

    /// Whether an append or a look found the disk full, and there was not plenty of room since.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Says so when the disk has run full, and when it has room again. Appends need no leave: each
    /// one tries.
    pub fn look_after_full_disk(&self) {
        let Ok(space) = self.data.space() else {
            return;
        };
        if space.available < CUT_BYTES {
            self.ran_full();
        }
        let has_room = space.available >= ROOM_BYTES;
        if has_room && self.full.swap(false, Ordering::Relaxed) {
            tracing::info!(
                directory = %self.path().display(),
                "there is space on the disk again: appends are taken"
            );
        }
    }

    /// Sets a partition aside that no metadata speaks of, for an operator to look at.
    pub fn set_aside(&self, name: &PartitionName, unique: [u8; 16]) {
        let aside = if mutants::is_active(Mutant::UnknownPartitionDeleted) {
            let retired = self.data.retire(name, unique);
            retired.and_then(|path| self.data.purge(&path).map(|()| path))
        } else {
            self.data.quarantine(name, unique)
        };
        match aside {
            Ok(path) => tracing::warn!(
                partition = %name, path = %path.display(),
                "set aside: the metadata does not know this partition; remove the directory if \
                 nobody misses it"
            ),
            Err(error) => {
                self.refuse(&error);
            }
        }
    }

    /// A log in it stays as a crash has left it: no clean-shutdown mark may speak for it.
    pub fn leave_unclosed(&self) {
        self.unclosed.store(true, Ordering::Relaxed);
    }

    /// Ends the work: leaves the clean-shutdown mark, unless a log was left unclosed. Every other
    /// one was closed before.
    ///
    /// # Errors
    /// If the directory is offline or the disk fails; the next start recovers then.
    pub fn close_clean(&self, epoch: BrokerEpoch) -> Result<(), StorageError> {
        let checkpoint = self.checkpoint.lock().checkpoint.clone();
        if self.unclosed.load(Ordering::Relaxed) {
            self.data.write_checkpoint(&checkpoint)?;
            return self.data.write_checkpoint_for_kafka(&checkpoint);
        }
        self.data.close_clean(epoch, &checkpoint)
    }

    fn checkpoint_failed(&self, error: &StorageError) {
        if error.is_full() {
            self.ran_full();
        } else if self.data.is_online() {
            self.fail(error);
        } else {
            let _ = self.failures.send(self.id());
        }
    }
}

fn take(listed: &Mutex<Listed>) -> Vec<Arc<Partition>> {
    let taken = std::mem::take(&mut *listed.lock());
    taken.values().filter_map(Weak::upgrade).collect()
}

/// The metadata log, as a data directory names it.
#[must_use]
pub fn metadata_name() -> PartitionName {
    PartitionName {
        topic: "__cluster_metadata".to_owned(),
        partition: PartitionId(0),
    }
}

/// The offsets of a partition as a checkpoint keeps them.
#[must_use]
pub fn checkpointed(
    recovery_point: Offset,
    marks: strandline_core::replica::Marks,
) -> CheckpointedOffsets {
    CheckpointedOffsets {
        recovery_point,
        log_start: marks.log_start,
        high_watermark: marks.high_watermark,
    }
}
