//! Walking over the batches of a file by their headers.
//!
//! A walk touches headers only, through a small window, so that hopping over a gigabyte of large
//! batches is cheap. What it meets is held against what must be there: the offset above all.

use std::sync::Arc;

use bytes::Bytes;
use strandline_protocol::{
    Offset,
    batch::{BatchHeader, BatchView, HEADER_BYTES},
};
use zerocopy::FromBytes;

use super::units::{to_u64, to_usize};
use crate::fs::{File, FsError};

/// How much is looked at in one view.
const WINDOW_BYTES: u64 = 16 << 10;

/// How much is brought into memory at once before it is read from end to end.
const POPULATE_BYTES: u64 = 8 << 20;

/// A batch in a file, as its header describes it.
#[derive(Clone, Copy, Debug)]
pub struct Located {
    /// Where it begins.
    pub position: u64,
    /// Its size.
    pub bytes: u64,
    /// Its header.
    pub header: BatchHeader,
}

impl Located {
    /// Where it ends.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.position.saturating_add(self.bytes)
    }
}

/// What lies where a batch must be.
#[derive(Debug)]
pub enum WalkError {
    /// No batch, or not the one that must follow.
    Broken {
        /// What is wrong.
        reason: String,
    },
    /// The disk failed.
    Fs(FsError),
}

impl From<FsError> for WalkError {
    fn from(error: FsError) -> Self {
        Self::Fs(error)
    }
}

/// A walk by headers over `position..end` of a file.
#[derive(Debug)]
pub struct HeaderWalk<'a> {
    file: &'a Arc<dyn File>,
    window: Bytes,
    window_start: u64,
    position: u64,
    end: u64,
    expected: Option<Offset>,
    paging: Paging,
}

/// What a walk does before it touches a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paging {
    /// Nothing: what is read is in memory as a rule.
    OnTouch,
    /// Asks the disk for it, so that a disk that cannot read is an error and not a signal.
    Ahead,
}

impl<'a> HeaderWalk<'a> {
    /// A walk that begins with the batch at `position`, which must have the base offset `expected`
    /// if that is known.
    #[must_use]
    pub const fn new(
        file: &'a Arc<dyn File>,
        position: u64,
        end: u64,
        expected: Option<Offset>,
    ) -> Self {
        Self {
            file,
            window: Bytes::new(),
            window_start: 0,
            position,
            end,
            expected,
            paging: Paging::OnTouch,
        }
    }

    /// The same walk over what is probably not in memory.
    #[must_use]
    pub const fn cold(mut self) -> Self {
        self.paging = Paging::Ahead;
        self
    }

    /// The same walk, with its window, set back to the batch at `position`.
    #[must_use]
    pub fn back_to(mut self, position: u64, expected: Option<Offset>) -> Self {
        self.position = position;
        self.expected = expected;
        self
    }

    /// Where the next batch begins, or the walk ended or broke.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// The offset that comes next, if it is known.
    #[must_use]
    pub const fn expected(&self) -> Option<Offset> {
        self.expected
    }

    /// The next batch; none at the end.
    ///
    /// # Errors
    /// If there is no batch where one must be, or another one than must follow. The walk stays
    /// there.
    pub fn next(&mut self) -> Result<Option<Located>, WalkError> {
        if self.position >= self.end {
            return Ok(None);
        }
        let position = self.position;
        let header = self.header()?;
        let broken = |reason: String| Err(WalkError::Broken { reason });
        let Some(header) = header else {
            return broken("less than a batch header is left".to_owned());
        };
        let Some(bytes) = header.batch_bytes().map(to_u64) else {
            return broken("there is no batch header".to_owned());
        };
        if let Some(expected) = self.expected
            && header.base_offset() != expected
        {
            let found = header.base_offset();
            return broken(format!("offset {found} stands where {expected} must"));
        }
        // The last offset is not under the CRC's eye here; the count beside it tells of rot in it.
        let is_consistent = header.last_offset_delta().checked_add(1)
            == Some(header.record_count())
            && header.record_count() > 0;
        if header.magic() != 2 || !is_consistent || header.base_offset().0 < 0 {
            return broken("the batch header is not valid".to_owned());
        }
        let batch = Located {
            position,
            bytes,
            header,
        };
        if batch.end() > self.end {
            return broken(format!(
                "a batch of {bytes} bytes reaches beyond the end of the log"
            ));
        }
        self.position = batch.end();
        self.expected = Some(header.end_offset());
        Ok(Some(batch))
    }

    fn header(&mut self) -> Result<Option<BatchHeader>, FsError> {
        if self.end.saturating_sub(self.position) < to_u64(HEADER_BYTES) {
            return Ok(None);
        }
        if let Some(header) = self.header_in_window() {
            return Ok(Some(header));
        }
        let end = self.end.min(self.position.saturating_add(WINDOW_BYTES));
        if self.paging == Paging::Ahead {
            self.file.populate(self.position..end)?;
        }
        self.window = self.file.view(self.position..end)?;
        self.window_start = self.position;
        Ok(self.header_in_window())
    }

    fn header_in_window(&self) -> Option<BatchHeader> {
        let at = to_usize(self.position.checked_sub(self.window_start)?);
        let (header, _) = BatchHeader::ref_from_prefix(self.window.get(at..)?).ok()?;
        Some(*header)
    }
}

/// A walk over `position..end` of a file that reads every batch and checks its CRC, for what may
/// not have been written whole.
#[derive(Debug)]
pub struct CheckedWalk<'a> {
    headers: HeaderWalk<'a>,
    populated: u64,
    checking: Checking,
}

/// How closely a batch is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checking {
    /// By its header.
    Header,
    /// Every byte.
    Whole,
}

impl<'a> CheckedWalk<'a> {
    /// A walk that begins at `position` with the offset `expected`.
    #[must_use]
    pub const fn new(
        file: &'a Arc<dyn File>,
        position: u64,
        end: u64,
        expected: Option<Offset>,
    ) -> Self {
        Self {
            headers: HeaderWalk::new(file, position, end, expected),
            populated: position,
            checking: Checking::Whole,
        }
    }

    /// The same walk over what is known to have been written whole: by headers.
    #[must_use]
    pub fn trusting(mut self) -> Self {
        self.headers = self.headers.cold();
        self.checking = Checking::Header;
        self
    }

    /// The next batch, all of it checked; none at the end.
    ///
    /// # Errors
    /// As [`HeaderWalk::next`], and if the CRC does not match. The walk stays there.
    pub fn next(&mut self) -> Result<Option<Located>, WalkError> {
        if self.checking == Checking::Header {
            return self.headers.next();
        }
        self.populate(self.headers.position.saturating_add(to_u64(HEADER_BYTES)))?;
        let before = (self.headers.position, self.headers.expected);
        let Some(batch) = self.headers.next()? else {
            return Ok(None);
        };
        self.populate(batch.end())?;
        let bytes = self.headers.file.view(batch.position..batch.end())?;
        if let Err(reason) = BatchView::exactly(&bytes).and_then(|view| view.check_crc()) {
            (self.headers.position, self.headers.expected) = before;
            let reason = reason.to_string();
            return Err(WalkError::Broken { reason });
        }
        Ok(Some(batch))
    }

    /// Through a mapping, a disk that cannot read would be a signal and not an error.
    fn populate(&mut self, end: u64) -> Result<(), FsError> {
        let end = end.min(self.headers.end);
        if end > self.populated {
            let ahead = self.populated.saturating_add(POPULATE_BYTES);
            let until = end.max(ahead).min(self.headers.end);
            self.headers.file.populate(self.populated..until)?;
            self.populated = until;
        }
        Ok(())
    }
}
