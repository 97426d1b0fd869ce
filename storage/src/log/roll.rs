//! Closing a segment and beginning the next.
//!
//! *Pattern: segmented log.* The next segment is there, durably, before anything of the old one
//! changes: a full disk leaves the log as it was.

use strandline_protocol::{Offset, Timestamp};

use super::{
    Log, active::Active, epochs::Epochs, errors::AppendError, partition_state::PartitionState,
    producer_snapshot::encode_snapshot, remove_if_there, state_file::replace_hint, units::FileKind,
};
use crate::error::StorageError;

impl Log {
    /// Closes the active segment if it has taken records for longer than `segment.ms`, or has
    /// outgrown `segment.bytes`. Returns whether it did.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn roll_if_due(&mut self, now: Timestamp) -> Result<bool, AppendError> {
        self.check_online()?;
        let is_due = self
            .active
            .as_ref()
            .is_some_and(|active| active.is_due(&self.config, now));
        if is_due {
            self.roll(0, now)?;
        }
        Ok(is_due)
    }

    /// Begins a segment at the log end, with room for `bytes`, and closes the one before.
    pub(super) fn roll(&mut self, bytes: u64, now: Timestamp) -> Result<(), StorageError> {
        if let Err(error) = self.try_roll(bytes, now) {
            return Err(self.failed(error));
        }
        Ok(())
    }

    fn try_roll(&mut self, bytes: u64, now: Timestamp) -> Result<(), StorageError> {
        self.create_directory()?;
        let files = self.files.as_ref();
        let next = Active::create(files, &self.directory, self.end, bytes, &self.config, now)?;
        let Some(mut old) = self.active.replace(next) else {
            return Ok(());
        };
        old.indexes.finish();
        if let Err(error) = self.write_closing(&old) {
            // The old segment is not among the log's any more, whatever the reason.
            self.take_offline();
            return Err(error);
        }
        self.sealed.push_back(old.seal(self.end)?);
        // What was not written since is at most one segment: a checkpoint is due.
        self.progress.bytes_since_checkpoint = self
            .progress
            .bytes_since_checkpoint
            .max(self.config.checkpoint_bytes);
        Ok(())
    }

    /// Writes what a closed segment has beside its batches. On a full disk it stays away: indexes
    /// are built again from the log, producers from an older snapshot.
    pub(super) fn write_closing(&mut self, old: &Active) -> Result<(), StorageError> {
        let files = self.files.as_ref();
        match old.write_indexes(files, &self.directory) {
            Ok(written) => self.progress.unsynced.extend(written),
            Err(error) if error.is_full() => {
                // What a checkpoint wrote of them would be taken for all of it.
                for kind in [FileKind::Index, FileKind::TimeIndex] {
                    remove_if_there(files, &kind.path(&self.directory, old.base))?;
                }
                files.sync_directory(&self.directory)?;
            }
            Err(error) => return Err(error.into()),
        }
        let path = FileKind::Snapshot.path(&self.directory, self.end);
        match replace_hint(files, &path, &encode_snapshot(&self.producers)) {
            Err(error) if !error.is_full() => return Err(error),
            _ => {}
        }
        Ok(())
    }

    /// Makes the directory, durably, if it is not there.
    pub(super) fn create_directory(&self) -> Result<(), StorageError> {
        if self.active.is_some() || !self.sealed.is_empty() {
            return Ok(());
        }
        self.files.create_directory(&self.directory)?;
        if let Some(parent) = self.directory.parent() {
            self.files.sync_directory(parent)?;
        }
        Ok(())
    }

    /// Makes epochs and start durable.
    pub(super) fn store_state(
        &self,
        epochs: &Epochs,
        log_start: Offset,
    ) -> Result<(), StorageError> {
        let state = PartitionState {
            topic_id: self.topic_id,
            log_start,
            epochs: epochs.clone(),
        };
        state.store(self.files.as_ref(), &self.directory)
    }
}
