//! What may go.
//!
//! *Pattern: low-water mark.* Retention by time and size, and `DeleteRecords`, move the log start
//! offset; segments that lie below it are removed, oldest first.

use strandline_protocol::{Offset, Timestamp};

use super::Log;
use crate::error::StorageError;

/// Segments that are no longer part of the log, renamed to `.deleted`.
#[derive(Debug, Default)]
pub struct Removed {
    /// How many.
    pub segments: usize,
    /// How many bytes of batches they held.
    pub bytes: u64,
}

impl Removed {
    /// Gives the space back. Needs no lock, and may take a while for large files. A crash before it
    /// is harmless: the next start finishes it.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn finish(self) -> Result<(), StorageError> {
        todo!()
    }
}

impl Log {
    /// Removes the oldest segments whose records are older than `retention.ms`, or that lie in front
    /// of the last `retention.bytes`, or below the log start; none that reaches above
    /// `high_watermark`. Works on a full disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn apply_retention(
        &mut self,
        now: Timestamp,
        high_watermark: Offset,
    ) -> Result<Removed, StorageError> {
        let _ = (now, high_watermark);
        todo!()
    }

    /// Moves the log start to `offset` (`DeleteRecords`), durably, and removes what lies below it in
    /// whole segments. The caller has made sure that `offset` is not above the high watermark. Does
    /// nothing if the log starts there or later.
    ///
    /// # Errors
    /// If `offset` is above the log end, or the disk fails. On [`StorageError::is_full`] whole
    /// segments may be gone, which frees space: the same call then works again.
    pub fn delete_before(
        &mut self,
        offset: Offset,
        now: Timestamp,
    ) -> Result<Removed, StorageError> {
        let _ = (offset, now);
        todo!()
    }

    /// Cuts the log so that it ends at `offset`, or before it if that lies inside of a batch;
    /// returns where it ends. What was cut is gone durably when this returns, its epochs and
    /// producers' batches too. For a replica that diverged from its leader.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn truncate_to(&mut self, offset: Offset, now: Timestamp) -> Result<Offset, StorageError> {
        let _ = (offset, now);
        todo!()
    }
}
