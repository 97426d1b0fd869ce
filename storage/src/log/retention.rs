//! What may go.
//!
//! *Pattern: low-water mark.* Retention by time and size, and `DeleteRecords`, move the log start
//! offset; segments that lie below it are removed, oldest first. Each is renamed, durably, before
//! the next: a crash leaves a shorter log, never one with a hole.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use strandline_protocol::{Offset, Timestamp};

use super::{Log, remove_if_there, units::FileKind};
use crate::{
    error::StorageError,
    fs::{FileSystem, FsError},
};

/// Segments that are no longer part of the log, renamed to `.deleted`.
#[derive(Debug, Default)]
#[must_use = "the space is in use until `finish`"]
pub struct Removed {
    /// How many.
    pub segments: usize,
    /// How many bytes of batches they held.
    pub bytes: u64,
    files: Option<Arc<dyn FileSystem>>,
    paths: Vec<PathBuf>,
}

impl Removed {
    /// Gives the space back. Needs no lock, and may take a while for large files. A crash before it
    /// is harmless: the next start finishes it.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn finish(self) -> Result<(), StorageError> {
        if let Some(files) = self.files {
            for path in &self.paths {
                remove_if_there(files.as_ref(), path)?;
            }
        }
        Ok(())
    }
}

impl Log {
    /// Removes the oldest segments whose records are older than `retention.ms`, or that lie in
    /// front of the last `retention.bytes`, or below the log start; none that reaches above
    /// `high_watermark`. Works on a full disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn apply_retention(
        &mut self,
        now: Timestamp,
        high_watermark: Offset,
    ) -> Result<Removed, StorageError> {
        self.check_online()?;
        if self.is_active_expired(now, high_watermark)? {
            // On a full disk the active segment stays; the closed ones go all the same.
            match self.roll(0, now) {
                Err(error) if !error.is_full() => return Err(error),
                _ => {}
            }
        }
        let mut bytes_left = self.bytes();
        let mut expired = 0;
        for segment in &self.sealed {
            bytes_left = bytes_left.saturating_sub(segment.size);
            let is_excess = self
                .config
                .retention_bytes
                .is_some_and(|kept| bytes_left >= kept);
            let is_below = segment.end <= self.start;
            let is_gone = is_below || is_excess || self.is_old(segment, now)?;
            if !is_gone || segment.end > high_watermark {
                break;
            }
            expired += 1;
        }
        self.remove_oldest(expired)
    }

    /// Moves the log start to `offset` (`DeleteRecords`), durably, and removes what lies below it
    /// in whole segments. The caller has made sure that `offset` is not above the high watermark.
    /// Does nothing if the log starts there or later.
    ///
    /// # Errors
    /// If `offset` is above the log end, or the disk fails. On [`StorageError::is_full`] whole
    /// segments may be gone, which frees space: the same call then works again.
    pub fn delete_before(
        &mut self,
        offset: Offset,
        now: Timestamp,
    ) -> Result<Removed, StorageError> {
        self.check_online()?;
        if offset <= self.start {
            return Ok(Removed::default());
        }
        if offset > self.end {
            let reason = format!("offset {offset} lies behind the log end {}", self.end);
            return Err(StorageError::Refused { reason });
        }
        if offset == self.end && self.active.as_ref().is_some_and(|active| active.size > 0) {
            match self.roll(0, now) {
                Err(error) if !error.is_full() => return Err(error),
                _ => {}
            }
        }
        let below = self
            .sealed
            .iter()
            .take_while(|segment| segment.end <= offset)
            .count();
        let removed = self.remove_oldest(below)?;
        let mut epochs = self.epochs.clone();
        epochs.trim_to(offset);
        if let Err(error) = self.store_state(&epochs, offset) {
            // What is renamed need not wait for the next start: on a full disk it is the way out.
            removed.finish()?;
            return Err(self.failed(error));
        }
        (self.start, self.epochs) = (offset, epochs);
        self.progress.is_dirty = true;
        Ok(removed)
    }

    /// Whether all of the log is so old that the active segment must go too.
    fn is_active_expired(
        &self,
        now: Timestamp,
        high_watermark: Offset,
    ) -> Result<bool, StorageError> {
        let (Some(active), Some(retention_ms)) = (&self.active, self.config.retention_ms) else {
            return Ok(false);
        };
        let is_old = active
            .indexes
            .max_timestamp()
            .is_some_and(|(newest, _)| now.0.saturating_sub(newest.0) > retention_ms);
        if !is_old || active.size == 0 || self.end > high_watermark {
            return Ok(false);
        }
        for segment in &self.sealed {
            if !self.is_old(segment, now)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_old(&self, segment: &super::Segment, now: Timestamp) -> Result<bool, StorageError> {
        let Some(retention_ms) = self.config.retention_ms else {
            return Ok(false);
        };
        let place = self.place_in(segment)?;
        // Records without a time are kept: nothing says how old they are.
        let newest = place.times().last().map(|entry| entry.timestamp);
        Ok(newest.is_some_and(|newest| now.0.saturating_sub(newest.0) > retention_ms))
    }

    /// Takes the oldest closed segments out of the log.
    fn remove_oldest(&mut self, count: usize) -> Result<Removed, StorageError> {
        let mut removed = Removed {
            files: Some(Arc::clone(&self.files)),
            ..Removed::default()
        };
        for _ in 0..count {
            let Some(segment) = self.sealed.front() else {
                break;
            };
            let (base, end, bytes) = (segment.base, segment.end, segment.size);
            match rename_away(self.files.as_ref(), &self.directory, base) {
                Ok(paths) => removed.paths.extend(paths),
                Err(error) => return Err(self.failed(error)),
            }
            self.sealed.pop_front();
            self.start = self.start.max(end);
            removed.segments = removed.segments.saturating_add(1);
            removed.bytes = removed.bytes.saturating_add(bytes);
        }
        if removed.segments > 0 {
            self.epochs.trim_to(self.start);
            self.progress.is_dirty = true;
        }
        Ok(removed)
    }
}

/// Renames the files of a segment to `.deleted`, the log first, durably. Returns what is to be
/// removed.
///
/// # Errors
/// If the disk fails.
pub(super) fn rename_away(
    files: &dyn FileSystem,
    directory: &Path,
    base: Offset,
) -> Result<Vec<PathBuf>, FsError> {
    let mut renamed = Vec::new();
    for kind in FileKind::ALL {
        let path = kind.path(directory, base);
        let mut deleted = path.clone().into_os_string();
        deleted.push(".deleted");
        let deleted = PathBuf::from(deleted);
        match files.rename(&path, &deleted) {
            Ok(()) => renamed.push(deleted),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    files.sync_directory(directory)?;
    Ok(renamed)
}
