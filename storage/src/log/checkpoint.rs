//! What is written down so that the next start is quick, and how a log is closed.
//!
//! The recovery point is cheap: it is only told. The active segment's indexes and the producers are
//! written every few megabytes and at a roll, so that a start replays no more than that.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use strandline_protocol::{Offset, Timestamp};

use super::{
    Log,
    active::extend_file,
    producer_snapshot::{IndexMark, RECOVERY_FILE, RecoveryState},
    state_file::replace_file,
    units::{FileKind, to_u64},
};
use crate::{
    error::StorageError,
    fs::{File, FileSystem},
};

/// Writes down what makes the next start quick: the active index, the producers. Runs without the
/// lock, on any thread; one at a time per log.
#[derive(Debug)]
#[must_use = "nothing is written until it runs"]
pub struct CheckpointJob {
    recovery_point: Offset,
    /// The log's: moved once this has run.
    reached: Arc<AtomicI64>,
    files: Arc<dyn FileSystem>,
    directory: PathBuf,
    unsynced: Vec<Arc<dyn File>>,
    state: Option<StateToWrite>,
}

/// The active segment's indexes and the producers, as they were at one moment.
#[derive(Debug)]
struct StateToWrite {
    log: Option<Arc<dyn File>>,
    base: Offset,
    offsets: (usize, Vec<u8>),
    times: (usize, Vec<u8>),
    encoded: Vec<u8>,
}

impl CheckpointJob {
    /// Writes, and returns the recovery point: what to put into the directory's checkpoint.
    ///
    /// # Errors
    /// If the disk fails. If it is only full ([`StorageError::is_full`]), nothing is lost but time
    /// at the next start, and [`CheckpointJob::recovery_point`] holds all the same.
    pub fn run(self) -> Result<Offset, StorageError> {
        for file in &self.unsynced {
            file.sync()?;
        }
        if !self.unsynced.is_empty() {
            // Their names too: an older file of that name would be taken for all of it.
            self.files.sync_directory(&self.directory)?;
        }
        self.reached
            .fetch_max(self.recovery_point.0, Ordering::Relaxed);
        if let Some(state) = &self.state {
            self.write(state)?;
        }
        Ok(self.recovery_point)
    }

    /// The recovery point: everything below it was synced before the job was made.
    #[must_use]
    pub const fn recovery_point(&self) -> Offset {
        self.recovery_point
    }

    fn write(&self, state: &StateToWrite) -> Result<(), StorageError> {
        let files = self.files.as_ref();
        if let Some(log) = &state.log {
            // Producers as of an offset that a power cut takes back would be of no use.
            log.sync()?;
        }
        let parts = [
            (FileKind::Index, &state.offsets),
            (FileKind::TimeIndex, &state.times),
        ];
        for (kind, (at, bytes)) in parts {
            let path = kind.path(&self.directory, state.base);
            extend_file(files, &path, to_u64(*at), bytes)?.sync()?;
        }
        replace_file(files, &self.directory.join(RECOVERY_FILE), &state.encoded)?;
        files.sync_directory(&self.directory)?;
        Ok(())
    }
}

impl Log {
    /// The job to be run at most a second after new data was synced; none if the recovery point is
    /// where it was. Cheap: index and producers are written only every few megabytes.
    #[must_use = "nothing is written until it runs"]
    pub fn checkpoint_job(&mut self, now: Timestamp) -> Option<CheckpointJob> {
        self.checkpoint_job_to(self.durable, now)
    }

    /// The same for a log whose end may be cut again: its recovery point stays at `settled` or
    /// below it, so that what is cut behind that is never taken for damage.
    #[must_use = "nothing is written until it runs"]
    pub fn checkpoint_job_to(&mut self, settled: Offset, now: Timestamp) -> Option<CheckpointJob> {
        let recovery_point = self.durable.min(settled);
        let is_due = self.progress.bytes_since_checkpoint >= self.config.checkpoint_bytes;
        let is_moved = recovery_point != self.progress.checkpointed;
        if self.check_online().is_err() || self.oldest_base().is_none() || !(is_due || is_moved) {
            return None;
        }
        self.producers
            .expire(now, self.config.producer_expiration_ms);
        self.progress.checkpointed = recovery_point;
        Some(CheckpointJob {
            recovery_point,
            reached: Arc::clone(&self.progress.reached),
            files: Arc::clone(&self.files),
            directory: self.directory.clone(),
            unsynced: std::mem::take(&mut self.progress.unsynced),
            state: is_due.then(|| self.state_to_write()),
        })
    }

    /// What a recovery may take for granted after a crash: what the last checkpoint said that has
    /// run. Everything below it was synced, the indexes of the segments that end below it too.
    #[must_use]
    pub fn recovery_point(&self) -> Offset {
        Offset(self.progress.reached.load(Ordering::Relaxed))
    }

    fn state_to_write(&mut self) -> StateToWrite {
        self.progress.bytes_since_checkpoint = 0;
        let state = RecoveryState {
            end: self.end,
            index: self
                .active
                .as_ref()
                .map_or_else(IndexMark::default, |active| active.index_mark()),
            producers: self.producers.clone(),
        };
        let mut to_write = StateToWrite {
            log: None,
            base: state.index.base,
            offsets: (0, Vec::new()),
            times: (0, Vec::new()),
            encoded: state.encode(),
        };
        if let Some(active) = &mut self.active {
            let tail = |bytes: &[u8], from: usize| bytes.get(from..).unwrap_or_default().to_vec();
            let (offsets, times) = active.indexes_written;
            to_write.log = Some(Arc::clone(&active.file));
            to_write.offsets = (offsets, tail(active.indexes.offsets(), offsets));
            to_write.times = (times, tail(active.indexes.times(), times));
            active.indexes_written = (active.indexes.offsets().len(), active.indexes.times().len());
        }
        to_write
    }

    /// Makes everything durable, writes indexes and snapshot, cuts unused allocation, and gives the
    /// log up. Returns the recovery point, which is the log end. No [`super::FlushJob`] or
    /// [`CheckpointJob`] may be running.
    ///
    /// # Errors
    /// If the disk fails: the directory was then not closed cleanly.
    pub fn close(mut self, now: Timestamp) -> Result<Offset, StorageError> {
        self.check_online()?;
        if !self.progress.is_dirty {
            return Ok(self.end);
        }
        self.flush()?;
        if let Some(mut active) = self.active.take() {
            active.indexes.finish();
            self.write_closing(&active)?;
            active.file.truncate(active.size)?;
            active.file.sync()?;
            self.active = Some(active);
        }
        self.progress.bytes_since_checkpoint = self.config.checkpoint_bytes;
        match self.checkpoint_job(now).map(CheckpointJob::run) {
            // Without room the next start replays more; everything else is in place.
            Some(Err(error)) if !error.is_full() => return Err(error),
            _ => {}
        }
        self.files.sync_directory(&self.directory)?;
        Ok(self.end)
    }
}
