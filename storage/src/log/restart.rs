//! Emptying a log that goes on further up: for a replica that is behind what its leader still has.
//!
//! *Pattern: low-water mark.* What lay below the new start is known from elsewhere (a snapshot);
//! what is in the log may be of another history, and none of it may be left in between.

use std::sync::atomic::Ordering;

use strandline_protocol::{Offset, Timestamp};

use super::{
    Log, epochs::Epochs, listing::Listing, producer_snapshot::RECOVERY_FILE, producers::Producers,
    remove_if_there, units::FileKind,
};
use crate::error::StorageError;

impl Log {
    /// Empties the log, so that it starts and ends at `offset` (Kafka's `truncateFullyAndStartAt`).
    /// Durable when it returns. After a crash the log is as it was, or cut at `offset`, or as this
    /// leaves it: the caller, who knows why, does it again.
    ///
    /// What [`Log::truncate_to`] asks for holds here too where the log ends above `offset`.
    ///
    /// # Errors
    /// If `offset` lies below the log start; if the disk fails.
    pub fn restart_at(&mut self, offset: Offset, now: Timestamp) -> Result<(), StorageError> {
        self.check_online()?;
        if offset < self.start {
            let start = self.start;
            let reason = format!("the log starts at {start} and cannot start again at {offset}");
            return Err(StorageError::Refused { reason });
        }
        let emptied = self.empty_to(offset, now);
        if emptied.is_err() {
            // Half emptied is not a state to go on from.
            self.take_offline();
        }
        emptied
    }

    /// The same at an offset below the log start, for a follower whose leader has nothing up to
    /// there, as after an election of a replica that was not in sync. After a crash the log may
    /// also be empty at its old start.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn restart_before(&mut self, offset: Offset, now: Timestamp) -> Result<(), StorageError> {
        self.restart_at(self.start, now)?;
        if offset >= self.start {
            return Ok(());
        }
        // Nothing is left that could come back in front of the old start.
        self.create_directory()?;
        if let Err(error) = self.store_state(&Epochs::default(), offset) {
            return Err(self.failed(error));
        }
        (self.start, self.end, self.durable) = (offset, offset, offset);
        self.progress.checkpointed = offset;
        self.progress.reached.store(offset.0, Ordering::Relaxed);
        Ok(())
    }

    fn empty_to(&mut self, offset: Offset, now: Timestamp) -> Result<(), StorageError> {
        // The start alone does not outlast a crash if there are batches above it.
        self.truncate_to(offset, now)?;
        self.create_directory()?;
        let epochs = Epochs::default();
        // From here on a restart finds nothing but the start.
        self.store_state(&epochs, offset)?;
        self.drop_segments_from(Offset::ZERO)?;
        let files = self.files.as_ref();
        remove_if_there(files, &self.directory.join(RECOVERY_FILE))?;
        let listing = Listing::take(files, &self.directory)?.unwrap_or_default();
        for at in &listing.snapshots {
            remove_if_there(files, &FileKind::Snapshot.path(&self.directory, *at))?;
        }
        files.sync_directory(&self.directory)?;
        (self.start, self.end, self.durable) = (offset, offset, offset);
        (self.epochs, self.producers) = (epochs, Producers::default());
        self.progress.cuts = self.progress.cuts.saturating_add(1);
        self.progress.checkpointed = offset;
        self.progress.reached.store(offset.0, Ordering::Relaxed);
        self.progress.is_dirty = true;
        Ok(())
    }
}
