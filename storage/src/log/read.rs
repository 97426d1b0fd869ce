//! Reading: whole batches as views of the file, and what must be checked before they are served.
//!
//! Where a read begins and ends is found by the index and a few headers; batches in between are not
//! touched. What is not known to be good is checked by [`Fetched::check`], without the log's lock.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use strandline_protocol::{
    Offset,
    batch::{BatchError, BatchHeader, BatchView},
};

use super::{
    Log,
    epochs::EpochEntry,
    errors::ReadError,
    place::{Place, Stop},
    search::Search,
    units::to_u64,
    verified::Verified,
};
use crate::{error::StorageError, fs::File};

/// From how far behind the log's end on a read of what this process appended is not even asked
/// whether it is in memory.
const TAIL_BYTES: u64 = 32 << 20;

/// Up to how much is checked by whoever reads it. Usually that takes microseconds; but memory that
/// a virtual machine's host has yet to give takes some per page, whoever touches it first.
const QUICK_CHECK_BYTES: u64 = 64 << 10;

/// Whole batches of one segment, as they are in the file.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The batches. The first one holds the offset that was asked for, and may begin before it.
    pub bytes: Bytes,
    /// The offset of the first record in `bytes`; the offset that was asked for if it is empty.
    pub base_offset: Offset,
    /// The offset behind the last record in `bytes`: where to read on.
    pub end_offset: Offset,
    check: Option<Check>,
}

/// What the batches are held against.
#[derive(Clone, Debug)]
struct Check {
    file: Arc<dyn File>,
    verified: Arc<Verified>,
    range: Range<u64>,
    epochs: Vec<EpochEntry>,
}

impl Fetched {
    const fn empty(at: Offset) -> Self {
        Self {
            bytes: Bytes::new(),
            base_offset: at,
            end_offset: at,
            check: None,
        }
    }

    /// Whether [`Fetched::check`] has anything to do.
    #[must_use]
    pub const fn needs_check(&self) -> bool {
        self.check.is_some()
    }

    /// Makes sure that the batches are what was once appended: CRC, and for what it does not cover,
    /// offsets without a gap and epochs that match the log's. Must be called before a byte is
    /// served; does nothing for what this process appended or has checked before. Needs no lock.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] names the first bad batch. The good ones before it can be had by
    /// reading up to it: [`Log::read`] with that offset as `end`.
    pub fn check(&self) -> Result<(), ReadError> {
        let Some(check) = &self.check else {
            return Ok(());
        };
        let mut expected = self.base_offset;
        let mut rest = self.bytes.as_ref();
        while !rest.is_empty() {
            match check.batch(rest, expected) {
                Ok(batch) => {
                    expected = batch.header().end_offset();
                    rest = rest.get(batch.bytes().len()..).unwrap_or_default();
                }
                Err(error) => {
                    return Err(ReadError::Corrupt {
                        offset: expected,
                        next_good: self.next_good(check, rest, expected)?,
                        reason: error.to_string(),
                    });
                }
            }
        }
        check.verified.add(check.range.clone());
        Ok(())
    }

    /// The first good batch behind the damage at the front of `rest`; else the end of what was
    /// read.
    fn next_good(
        &self,
        check: &Check,
        rest: &[u8],
        expected: Offset,
    ) -> Result<Offset, StorageError> {
        let end = check.range.end;
        let from = end.saturating_sub(to_u64(rest.len())).saturating_add(1);
        let mut search = Search::new(Arc::clone(&check.file), end);
        let found = search.next_accepted(from, expected.plus(1), |header| {
            header.base_offset() < self.end_offset && check.is_epoch_right(header)
        })?;
        Ok(found.map_or(self.end_offset, |batch| batch.header.base_offset()))
    }
}

impl Check {
    fn batch<'a>(&self, bytes: &'a [u8], expected: Offset) -> Result<BatchView<'a>, BatchError> {
        let batch = BatchView::first(bytes)?;
        let header = batch.header();
        let reason = if header.base_offset() != expected {
            "its offset is not the one that must follow"
        } else if header.last_offset_delta() < 0 {
            "its last offset lies before its first"
        } else if !self.is_epoch_right(header) {
            "its leader epoch is not the one that wrote this offset"
        } else {
            batch.check_crc()?;
            return Ok(batch);
        };
        Err(BatchError::BadHeader { reason })
    }

    /// Whether the batch carries the epoch that wrote its first offset.
    fn is_epoch_right(&self, header: &BatchHeader) -> bool {
        let base = header.base_offset();
        let covering = self.epochs.partition_point(|entry| entry.start <= base);
        let epoch = covering.checked_sub(1).and_then(|at| self.epochs.get(at));
        epoch.is_none_or(|entry| entry.epoch == header.leader_epoch())
    }
}

/// A part of a file that is not in memory, or is to be checked before it is served.
#[derive(Debug)]
pub struct ColdRange {
    file: Arc<dyn File>,
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
        Ok(self.file.populate(self.range)?)
    }
}

impl Log {
    /// The batches from the one that holds `from` on, up to `bytes_max` bytes but the first one
    /// whole in any case, and none that ends above `end` (the high watermark for consumers,
    /// [`Log::end`] for followers). Empty if `from` is `end`. Serves one segment per call.
    ///
    /// Touches a few headers only. The caller runs [`Fetched::check`] before it serves anything.
    ///
    /// # Errors
    /// If `from` is not in the log; if what is there is damaged, or a repair took it out; if the
    /// disk fails.
    pub fn read(&self, from: Offset, bytes_max: usize, end: Offset) -> Result<Fetched, ReadError> {
        self.check_online()?;
        let end = end.min(self.end);
        if from < self.start || from > self.end {
            return Err(ReadError::OutOfRange {
                offset: from,
                start: self.start,
                end: self.end,
            });
        }
        if from >= end {
            return Ok(Fetched::empty(from));
        }
        let Some(place) = self.place_of(from)? else {
            return Ok(Fetched::empty(from));
        };
        let first = self.locate(&place, from)?;
        if first.header.end_offset() > end {
            return Ok(Fetched::empty(from));
        }
        let stop = place.stop(&first, to_u64(bytes_max), end)?;
        self.fetched(&place, first.position, first.header.base_offset(), &stop)
    }

    fn fetched(
        &self,
        place: &Place<'_>,
        position: u64,
        base_offset: Offset,
        stop: &Stop,
    ) -> Result<Fetched, ReadError> {
        let range = position..stop.position;
        let bytes = place.file.view(range.clone()).map_err(StorageError::from)?;
        let is_known = range.start >= place.own_from || place.verified.covers(&range);
        let check = (!is_known).then(|| Check {
            file: Arc::clone(place.file),
            verified: Arc::clone(place.verified),
            range,
            epochs: self.epochs.covering(base_offset, stop.offset).to_vec(),
        });
        Ok(Fetched {
            bytes,
            base_offset,
            end_offset: stop.offset,
            check,
        })
    }

    /// What a [`Log::read`] of the same arguments, and its check, would take long for: it is not in
    /// memory, or much of it is to be checked. Populate it without the lock, then read and check.
    #[must_use]
    pub fn cold_range(&self, from: Offset, bytes_max: usize) -> Option<ColdRange> {
        let place = self.place_of(from).ok()??;
        let start = place.hint(from);
        let is_own = start >= place.own_from;
        if is_own && place.size.saturating_sub(start) <= TAIL_BYTES {
            return None;
        }
        let interval = u64::from(self.config.index_interval_bytes);
        let end = start
            .saturating_add(to_u64(bytes_max))
            .saturating_add(interval)
            .min(place.size);
        let range = start..end;
        if range.is_empty() {
            return None;
        }
        let is_quick = is_own
            || end.saturating_sub(start) <= QUICK_CHECK_BYTES
            || place.verified.covers(&range);
        if place.file.is_resident(range.clone()) {
            if is_quick {
                return None;
            }
        } else {
            place.verified.forget(&range);
        }
        Some(ColdRange {
            file: Arc::clone(place.file),
            range,
        })
    }
}
