//! The segment that takes the batches.

use std::{path::Path, sync::Arc};

use strandline_core::mutants::{self, Mutant};
use strandline_protocol::{
    Offset, Timestamp,
    batch::{BatchHeader, HEADER_BYTES, header_bytes},
};

use super::{
    LogConfig, WritebackJob,
    indexes::Indexes,
    producer_snapshot::IndexMark,
    remove_if_there,
    segment::Segment,
    state_file::create_empty,
    units::{FileKind, to_u64},
    verified::Verified,
};
use crate::{
    error::StorageError,
    fs::{File, FileSystem, FsError},
};

/// The largest position that an index entry can hold, and so the largest segment.
const POSITION_MAX: u64 = 0x7fff_ffff;

/// What is known of the active segment.
#[derive(Debug)]
pub struct Active {
    /// Its first offset.
    pub base: Offset,
    /// Its batches, and zeros where space is only allocated.
    pub file: Arc<dyn File>,
    /// Where the batches end.
    pub size: u64,
    /// Its indexes.
    pub indexes: Indexes,
    /// How much of the indexes is in their files: offsets, times.
    pub indexes_written: (usize, usize),
    /// From where on this process wrote it: served without a check.
    pub own_from: u64,
    /// What else has been checked.
    pub verified: Arc<Verified>,
    /// The broker's time when it took its first batch, or was opened.
    pub opened_at: Timestamp,
    /// Up to where the kernel was asked to write back.
    pub writeback_to: u64,
}

/// One batch that is about to be appended.
#[derive(Clone, Copy, Debug)]
pub struct Incoming {
    /// Its size.
    pub bytes: u64,
    /// Its last offset.
    pub last_offset: Offset,
    /// Its largest timestamp.
    pub max_timestamp: Timestamp,
}

impl Active {
    /// Creates the segment that begins at `base`, with room for `bytes`: file and name are durable
    /// when this returns, and its space is allocated. Leaves nothing behind if it fails.
    ///
    /// # Errors
    /// If the disk fails or is full.
    pub fn create(
        files: &dyn FileSystem,
        directory: &Path,
        base: Offset,
        bytes: u64,
        config: &LogConfig,
        now: Timestamp,
    ) -> Result<Self, StorageError> {
        let path = FileKind::Log.path(directory, base);
        let create = || -> Result<Arc<dyn File>, FsError> {
            let file = create_empty(files, &path)?;
            file.allocate(bytes.max(u64::from(config.allocate_bytes_min)))
                .or_else(|_| file.allocate(bytes))?;
            file.sync()?;
            if !mutants::is_active(Mutant::RollDoesNotSyncDirectory) {
                files.sync_directory(directory)?;
            }
            Ok(file)
        };
        let file = match create() {
            Ok(file) => file,
            Err(error) => {
                // A restart ends the segment before at the base of this one. On a full disk smaller
                // batches may still fit into that: this one must be gone, durably, before they do.
                remove_if_there(files, &path)?;
                files.sync_directory(directory)?;
                return Err(error.into());
            }
        };
        Ok(Self::over(
            file,
            base,
            0,
            Indexes::new(base, config.index_interval_bytes),
            now,
        ))
    }

    /// The segment over a file that holds `size` bytes of batches.
    #[must_use]
    pub fn over(
        file: Arc<dyn File>,
        base: Offset,
        size: u64,
        indexes: Indexes,
        now: Timestamp,
    ) -> Self {
        Self {
            base,
            file,
            size,
            indexes,
            indexes_written: (0, 0),
            own_from: size,
            verified: Arc::default(),
            opened_at: now,
            writeback_to: size,
        }
    }

    /// Whether the batch belongs into the next segment.
    #[must_use]
    pub fn is_full_for(&self, incoming: &Incoming, config: &LogConfig) -> bool {
        if self.size == 0 {
            return false;
        }
        let size_max = u64::from(config.segment_bytes).min(POSITION_MAX);
        let index_max = usize::try_from(config.index_bytes_max).unwrap_or(usize::MAX);
        let span = self
            .indexes
            .first_timestamp()
            .map_or(0, |first| incoming.max_timestamp.0.saturating_sub(first.0));
        self.size.saturating_add(incoming.bytes) > size_max
            || self.indexes.bytes().saturating_add(INDEX_ROOM) > index_max
            || incoming.last_offset.since(self.base) > i64::from(i32::MAX)
            || span > config.segment_ms
    }

    /// Whether its time is up, whatever comes.
    #[must_use]
    pub fn is_due(&self, config: &LogConfig, now: Timestamp) -> bool {
        let size_max = u64::from(config.segment_bytes).min(POSITION_MAX);
        self.size > 0
            && (self.size > size_max || now.0.saturating_sub(self.opened_at.0) > config.segment_ms)
    }

    /// Allocates room for `bytes` more, in chunks that grow with the segment.
    ///
    /// # Errors
    /// If the disk fails, or has not even room for these `bytes`.
    pub fn make_room(&self, bytes: u64, config: &LogConfig) -> Result<(), FsError> {
        let allocated = self.file.size();
        let needed = self.size.saturating_add(bytes);
        if needed <= allocated {
            return Ok(());
        }
        let (least, most) = (config.allocate_bytes_min, config.allocate_bytes_max);
        let chunk = allocated.clamp(u64::from(least), u64::from(most.max(least)));
        let ahead = allocated
            .saturating_add(chunk)
            .min(u64::from(config.segment_bytes))
            .max(needed);
        match self.file.allocate(ahead) {
            Err(error) if error.is_full() && ahead > needed => self.file.allocate(needed),
            result => result,
        }
    }

    /// Writes a batch behind the last one: `header` and `records`, for which there is room.
    ///
    /// # Errors
    /// If the disk fails. The header is wiped then, so that recovery does not take it for a batch.
    pub fn write(&mut self, header: &BatchHeader, records: &[u8]) -> Result<(), FsError> {
        let at = self.size;
        if let Err(error) = self.file.write(at, &[header_bytes(header), records]) {
            let wiped = at.saturating_add(to_u64(HEADER_BYTES));
            self.file.zero(at..wiped.min(self.file.size()))?;
            return Err(error);
        }
        let bytes = to_u64(HEADER_BYTES.saturating_add(records.len()));
        self.indexes.note(header, at, bytes);
        self.size = at.saturating_add(bytes);
        Ok(())
    }

    /// What the kernel should begin to write, once `every_bytes` have gathered.
    pub fn take_writeback(&mut self, every_bytes: u64) -> Option<WritebackJob> {
        if every_bytes == 0 || self.size.saturating_sub(self.writeback_to) < every_bytes {
            return None;
        }
        let range = self.writeback_to..self.size;
        self.writeback_to = self.size;
        Some(WritebackJob::new(Arc::clone(&self.file), range))
    }

    /// How much of the index files is good once they are written.
    #[must_use]
    pub fn index_mark(&self) -> IndexMark {
        let (offsets, times) = (self.indexes.offsets(), self.indexes.times());
        IndexMark {
            base: self.base,
            offset_bytes: to_u64(offsets.len()),
            time_bytes: to_u64(times.len()),
            crc: crc32c::crc32c_append(crc32c::crc32c(offsets), times),
            first_timestamp: self.indexes.first_timestamp().unwrap_or(Timestamp::NONE),
        }
    }

    /// Writes both index files whole, without waiting for the disk.
    ///
    /// # Errors
    /// If the disk fails or is full.
    pub fn write_indexes(
        &self,
        files: &dyn FileSystem,
        directory: &Path,
    ) -> Result<[Arc<dyn File>; 2], FsError> {
        let write = |kind: FileKind, bytes: &[u8]| -> Result<Arc<dyn File>, FsError> {
            let file = extend_file(files, &kind.path(directory, self.base), 0, bytes)?;
            if file.size() > to_u64(bytes.len()) {
                // Entries of batches that a crash took.
                file.truncate(to_u64(bytes.len()))?;
            }
            Ok(file)
        };
        Ok([
            write(FileKind::Index, self.indexes.offsets())?,
            write(FileKind::TimeIndex, self.indexes.times())?,
        ])
    }

    /// Cuts what is allocated behind the batches and closes the segment at `end`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn seal(self, end: Offset) -> Result<Segment, FsError> {
        match self.file.truncate(self.size) {
            // Some file systems need room for that. What is allocated stays so.
            Err(error) if !error.is_full() => return Err(error),
            _ => {}
        }
        let mut segment = Segment::new(self.base, end, self.file, self.size);
        segment.needs_sync = true;
        Ok(segment)
    }
}

/// The room of one entry in either index.
const INDEX_ROOM: usize = super::time_index::TIME_ENTRY_BYTES;

/// Writes `bytes` at `at` of a file that only ever grows, creating it if it is not there. Two
/// callers may write the same bytes at once.
///
/// # Errors
/// If the disk fails or is full.
pub fn extend_file(
    files: &dyn FileSystem,
    path: &Path,
    at: u64,
    bytes: &[u8],
) -> Result<Arc<dyn File>, FsError> {
    let file = match files.open(path) {
        Err(error) if error.is_not_found() => files.create(path)?,
        result => result?,
    };
    if !bytes.is_empty() {
        file.allocate(at.saturating_add(to_u64(bytes.len())))?;
        file.write(at, &[bytes])?;
    }
    Ok(file)
}
