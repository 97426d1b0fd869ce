//! A segment that takes no more batches.
//!
//! *Pattern: segmented log.* Its index files are mapped when they are first asked for, and built
//! again from the log when they are missing or cannot be right.

use std::{ops::Range, path::Path, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use strandline_protocol::Offset;

use super::{
    hole,
    indexes::Indexes,
    offset_index::{OFFSET_ENTRY_BYTES, OffsetIndex},
    search::Search,
    state_file::{read_file, replace_hint},
    time_index::{TIME_ENTRY_BYTES, TimeIndex},
    units::FileKind,
    verified::Verified,
    walk::{HeaderWalk, Located, WalkError},
};
use crate::fs::{File, FileSystem, FsError};

/// Offsets that cannot be read, because what is on disk is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// From the first offset that is missing to the next good one.
    pub offsets: Range<Offset>,
    /// Where the next good batch begins, or the segment ends.
    pub resume: u64,
    /// What is wrong.
    pub reason: String,
    /// What has become of it.
    pub loss: Loss,
}

/// How offsets were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// What stands where they were is bad.
    Bad,
    /// The segment ends before them.
    Missing,
    /// The segment ends before them, because a repair took them out.
    Removed,
}

/// The indexes of a closed segment.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The offset index.
    pub offsets: Bytes,
    /// The time index.
    pub times: Bytes,
    /// What cannot be read; known only if the indexes had to be built again.
    pub damage: Arc<[Damage]>,
}

/// A closed segment.
#[derive(Debug)]
pub struct Segment {
    /// Its first offset.
    pub base: Offset,
    /// The offset behind its last one: the base of its successor.
    pub end: Offset,
    /// Its batches.
    pub file: Arc<dyn File>,
    /// How much of the file may be batches. They end where `end` is reached: a crash may have left
    /// zeros behind them.
    pub size: u64,
    /// Whether something may not be durable.
    pub needs_sync: bool,
    /// What has been checked.
    pub verified: Arc<Verified>,
    loaded: Mutex<Option<Loaded>>,
}

impl Segment {
    /// A segment that ends at `end`.
    #[must_use]
    pub fn new(base: Offset, end: Offset, file: Arc<dyn File>, size: u64) -> Self {
        Self {
            base,
            end,
            file,
            size,
            needs_sync: false,
            verified: Arc::default(),
            loaded: Mutex::default(),
        }
    }

    /// Its indexes.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn load(
        &self,
        files: &dyn FileSystem,
        directory: &Path,
        interval_bytes: u32,
    ) -> Result<Loaded, FsError> {
        let mut loaded = self.loaded.lock();
        if let Some(loaded) = loaded.as_ref() {
            return Ok(loaded.clone());
        }
        let found = match self.map(files, directory)? {
            Some(found) => found,
            None => self.rebuild_files(files, directory, interval_bytes)?,
        };
        Ok(loaded.insert(found).clone())
    }

    /// Builds the indexes again, because a header that an entry points to is not the one it says.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn reload(
        &self,
        files: &dyn FileSystem,
        directory: &Path,
        interval_bytes: u32,
    ) -> Result<Loaded, FsError> {
        let mut loaded = self.loaded.lock();
        let found = self.rebuild_files(files, directory, interval_bytes)?;
        Ok(loaded.insert(found).clone())
    }

    /// Gives up the mappings of its indexes until they are asked for again.
    pub fn unload(&self) {
        *self.loaded.lock() = None;
    }

    /// The index files, if they can be right: all entries grow, nothing is left over, and the last
    /// one points to the header that it says.
    fn map(&self, files: &dyn FileSystem, directory: &Path) -> Result<Option<Loaded>, FsError> {
        let read = |kind: FileKind| read_file(files, &kind.path(directory, self.base));
        let (Some(offsets), Some(times)) = (read(FileKind::Index)?, read(FileKind::TimeIndex)?)
        else {
            return Ok(None);
        };
        let (index, time_index) = (OffsetIndex::new(&offsets), TimeIndex::new(&times));
        let whole = index
            .valid_entries(self.size)
            .checked_mul(OFFSET_ENTRY_BYTES)
            == Some(offsets.len())
            && time_index.valid_entries().checked_mul(TIME_ENTRY_BYTES) == Some(times.len());
        // Without an entry nothing can be held against the log; such a segment is short to walk. A
        // time index without one may be a file of which a crash has left the name alone.
        let Some(last) = index.last().filter(|_| whole && !times.is_empty()) else {
            return Ok(None);
        };
        let tail = || HeaderWalk::new(&self.file, u64::from(last.position), self.size, None);
        let mut walk = tail();
        let expected = self.base.plus(i64::from(last.last_offset_delta));
        match walk.next() {
            Ok(Some(batch)) if batch.header.last_offset() == expected => {}
            Ok(_) | Err(WalkError::Broken { .. }) => return Ok(None),
            Err(WalkError::Fs(error)) => return Err(error),
        }
        if !self.is_newest(&index, &time_index)? || self.is_behind(tail(), &time_index)? {
            return Ok(None);
        }
        Ok(Some(Loaded {
            offsets,
            times,
            damage: Arc::default(),
        }))
    }

    /// Whether the last entry of the time index is that of a batch. Retention and lookups go by it.
    fn is_newest(&self, index: &OffsetIndex<'_>, times: &TimeIndex<'_>) -> Result<bool, FsError> {
        let Some(newest) = times.last() else {
            return Ok(false);
        };
        let floor = index.floor(newest.last_offset_delta);
        let position = floor.map_or(0, |entry| u64::from(entry.position));
        let due = self.base.plus(i64::from(newest.last_offset_delta));
        let mut walk = HeaderWalk::new(&self.file, position, self.size, None);
        loop {
            match walk.next() {
                Ok(Some(batch)) if batch.header.last_offset() < due => {}
                Ok(Some(batch)) => {
                    return Ok(batch.header.last_offset() == due
                        && batch.header.max_timestamp() == newest.timestamp);
                }
                Ok(None) | Err(WalkError::Broken { .. }) => return Ok(false),
                Err(WalkError::Fs(error)) => return Err(error),
            }
        }
    }

    /// Whether a batch of the tail, from the last entry of the offset index on, is newer than the
    /// last entry of the time index: that is then one of an earlier time.
    fn is_behind(&self, mut tail: HeaderWalk<'_>, times: &TimeIndex<'_>) -> Result<bool, FsError> {
        let newest = times.last().map(|entry| entry.timestamp);
        loop {
            match tail.next() {
                Ok(Some(batch)) if batch.header.base_offset() < self.end => {
                    if Some(batch.header.max_timestamp()) > newest {
                        return Ok(true);
                    }
                }
                Ok(_) | Err(WalkError::Broken { .. }) => return Ok(false),
                Err(WalkError::Fs(error)) => return Err(error),
            }
        }
    }

    fn rebuild_files(
        &self,
        files: &dyn FileSystem,
        directory: &Path,
        interval_bytes: u32,
    ) -> Result<Loaded, FsError> {
        let (indexes, mut damage) = self.rebuild(interval_bytes)?;
        let (offsets, times) = indexes.into_bytes();
        if let Some(last) = damage.last_mut().filter(|last| last.loss == Loss::Missing)
            && hole::is_declared(
                files,
                &FileKind::Log.path(directory, self.base),
                &last.offsets,
            )?
        {
            last.loss = Loss::Removed;
        }
        if damage.is_empty() {
            // Only a hint: without the files, the next start walks once more.
            let write = |kind: FileKind, bytes: &[u8]| {
                replace_hint(files, &kind.path(directory, self.base), bytes)
            };
            let _ = write(FileKind::Index, &offsets);
            let _ = write(FileKind::TimeIndex, &times);
        }
        Ok(Loaded {
            offsets: offsets.into(),
            times: times.into(),
            damage: damage.into(),
        })
    }

    /// Builds the indexes from the headers, and tells what cannot be read.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn rebuild(&self, interval_bytes: u32) -> Result<(Indexes, Vec<Damage>), FsError> {
        let mut indexes = Indexes::new(self.base, interval_bytes);
        let mut damage = Vec::new();
        let mut walk = HeaderWalk::new(&self.file, 0, self.size, Some(self.base)).cold();
        let mut search = Search::new(Arc::clone(&self.file), self.size);
        let mut before: Option<Located> = None;
        loop {
            let expected = walk.expected().unwrap_or(self.base);
            if expected >= self.end {
                break;
            }
            let broken_at = walk.position();
            let mut loss = Loss::Bad;
            let reason = match walk.next() {
                Ok(Some(batch)) if batch.header.end_offset() <= self.end => {
                    indexes.note(&batch.header, batch.position, batch.bytes);
                    before = Some(batch);
                    continue;
                }
                Ok(None) => {
                    loss = Loss::Missing;
                    "the log ends early".to_owned()
                }
                Ok(_) => "a batch reaches beyond the end of the log".to_owned(),
                Err(WalkError::Broken { reason }) => reason,
                Err(WalkError::Fs(error)) => return Err(error),
            };
            let (next, first) = search.resume_behind(before.as_ref(), broken_at, expected)?;
            let next = next.filter(|next| next.header.base_offset() < self.end);
            let next_good = next.map_or(self.end, |next| next.header.base_offset());
            let position = next.map_or(self.size, |next| next.position);
            before = None;
            if next.is_some() || first != expected {
                loss = Loss::Bad;
            }
            damage.push(Damage {
                offsets: first..next_good,
                resume: position,
                reason,
                loss,
            });
            walk = HeaderWalk::new(&self.file, position, self.size, Some(next_good)).cold();
        }
        indexes.finish();
        Ok((indexes, damage))
    }
}
