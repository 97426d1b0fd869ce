//! Reading: whole batches as views of the file, and what must be checked before they are served.

use std::ops::Range;

use bytes::Bytes;
use strandline_protocol::{LeaderEpoch, Offset, Timestamp};

use super::{Log, errors::ReadError};
use crate::error::StorageError;

/// Whole batches of one segment, as they are in the file.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The batches. The first one holds the offset that was asked for, and may begin before it.
    pub bytes: Bytes,
    /// The offset of the first record in `bytes`; the offset that was asked for if it is empty.
    pub base_offset: Offset,
    /// The offset behind the last record in `bytes`: where to read on.
    pub end_offset: Offset,
}

impl Fetched {
    /// Whether [`Fetched::check`] has anything to do.
    #[must_use]
    pub fn needs_check(&self) -> bool {
        todo!()
    }

    /// Makes sure that the batches are what was once appended: CRC, and for what it does not cover,
    /// offsets without a gap and epochs that match the log's. Must be called before a byte is
    /// served; does nothing for what this process appended or has checked before. Needs no lock.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] names the first bad batch. The good ones before it can be had by
    /// reading up to it: [`Log::read`] with that offset as `end`.
    pub fn check(&self) -> Result<(), ReadError> {
        todo!()
    }
}

/// A part of a file that is not in memory.
#[derive(Debug)]
pub struct ColdRange {
    range: Range<u64>,
}

impl ColdRange {
    /// How much there is to bring into memory, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    /// Brings it into memory. Blocks for as long as the disk takes: call it where that stalls
    /// nobody else.
    ///
    /// # Errors
    /// If the disk cannot read it.
    pub fn populate(self) -> Result<(), StorageError> {
        todo!()
    }
}

/// A record that was found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampedOffset {
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Its offset.
    pub offset: Offset,
    /// The epoch of the leader that appended it.
    pub leader_epoch: LeaderEpoch,
}

impl Log {
    /// The batches from the one that holds `from` on, up to `bytes_max` bytes but the first one
    /// whole in any case, and none that ends above `end` (the high watermark for consumers,
    /// [`Log::end`] for followers). Empty if `from` is `end`. Serves one segment per call.
    ///
    /// Touches a few headers only. The caller runs [`Fetched::check`] before it serves anything.
    ///
    /// # Errors
    /// If `from` is not in the log; if what is there is damaged; if the disk fails.
    pub fn read(&self, from: Offset, bytes_max: usize, end: Offset) -> Result<Fetched, ReadError> {
        let _ = (from, bytes_max, end);
        todo!()
    }

    /// What a [`Log::read`] of the same arguments would have to wait for the disk for; none if it is
    /// in memory. Populate it without the lock, then read.
    #[must_use]
    pub fn cold_range(&self, from: Offset, bytes_max: usize) -> Option<ColdRange> {
        let _ = (from, bytes_max);
        todo!()
    }

    /// The first record below `end` whose timestamp is `timestamp` or later. May read a few
    /// batches, so it may wait for the disk.
    ///
    /// # Errors
    /// If what is there is damaged; if the disk fails.
    pub fn offset_for_time(
        &self,
        timestamp: Timestamp,
        end: Offset,
    ) -> Result<Option<TimestampedOffset>, ReadError> {
        let _ = (timestamp, end);
        todo!()
    }
}
