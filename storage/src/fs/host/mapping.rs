//! Memory that is a file: the one place of this crate where raw memory is touched.
//!
//! **Owns** the argument why that is sound. A mapping stays raw: no reference to its bytes exists
//! but inside of a view, and a view is only made of bytes that nobody writes to any more, which the
//! contract of [`File::view`](crate::fs::File::view) asks of its caller. What other processes do to
//! the files is out of scope, as it is for every program that maps one; the directory lock keeps
//! them out.
//!
//! A fault on a page beyond the end of the file, on a hole that finds the disk full or on a sector
//! that cannot be read is a SIGBUS. Hence: ranges are held against the size of the file by the
//! caller, storage allocates before it writes, and the first write to a page since it was written
//! back populates it with a system call that returns an error where the copy would raise the
//! signal. What is left is a file system that breaks down between the kernel's own write-back of a
//! page and the next small write to it.
#![allow(
    unsafe_code,
    reason = "memory that the kernel may change cannot be reached by references alone"
)]

use std::{
    io,
    ops::Range,
    os::fd::{AsRawFd, BorrowedFd},
    ptr, slice,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use memmap2::{Advice, MmapOptions, MmapRaw};

use super::cache::Counted;

/// A shared, writable mapping from the start of a file; may reach beyond its end.
#[derive(Debug)]
pub(super) struct Mapping {
    raw: MmapRaw,
    /// Pages below this have been made writable and, as far as is known, still are.
    touched: AtomicUsize,
    _counted: Counted,
}

impl Mapping {
    /// Maps the first `length` bytes of `file`.
    pub(super) fn new(file: BorrowedFd<'_>, length: usize, counted: Counted) -> io::Result<Self> {
        let raw = MmapOptions::new().len(length).map_raw(file.as_raw_fd())?;
        Ok(Self::of(raw, counted))
    }

    /// The same for looking only: nobody may write through it.
    pub(super) fn for_reading(
        file: BorrowedFd<'_>,
        length: usize,
        counted: Counted,
    ) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        let raw = options.len(length).map_raw_read_only(file.as_raw_fd())?;
        Ok(Self::of(raw, counted))
    }

    fn of(raw: MmapRaw, counted: Counted) -> Self {
        Self {
            raw,
            touched: AtomicUsize::new(0),
            _counted: counted,
        }
    }

    /// How many bytes are mapped.
    pub(super) fn length(&self) -> usize {
        self.raw.len()
    }

    /// Copies `parts` one behind the other to `at`. The caller has made sure that the file reaches
    /// to their end, and that it is the only one to write there.
    pub(super) fn write(&self, at: usize, parts: &[&[u8]]) -> io::Result<()> {
        let length = parts
            .iter()
            .try_fold(0_usize, |sum, part| sum.checked_add(part.len()))
            .ok_or_else(out_of_range)?;
        let end = at.checked_add(length).ok_or_else(out_of_range)?;
        self.check(at..end)?;
        self.touch(at, end)?;
        let mut position = at;
        for part in parts {
            // SAFETY: `check` held position + part.len() <= end against the length of the mapping,
            // which lives as long as self. Source and target cannot overlap in a way that matters:
            // `part` is a reference, and references into the mapping exist only for ranges that
            // nobody writes to any more.
            unsafe {
                let target = self.raw.as_mut_ptr().add(position);
                ptr::copy_nonoverlapping(part.as_ptr(), target, part.len());
            }
            position = position.saturating_add(part.len());
        }
        Ok(())
    }

    /// Forgets that pages from `at` on have been made writable: the file has lost them, or they are
    /// being written back.
    pub(super) fn untouch(&self, at: usize) {
        self.touched.fetch_min(at, Ordering::Relaxed);
    }

    /// The bytes of `range`, which nobody may write to any more.
    pub(super) fn view(self: Arc<Self>, range: Range<usize>) -> io::Result<Bytes> {
        self.check(range.clone())?;
        Ok(Bytes::from_owner(View {
            mapping: self,
            range,
        }))
    }

    /// Whether every page of `range` is in memory.
    pub(super) fn is_resident(&self, range: Range<usize>) -> bool {
        /// Pages asked about in one system call: 4 MiB of file.
        const PAGES: usize = 1024;
        if self.check(range.clone()).is_err() {
            return false;
        }
        let page = page_size();
        let mut position = range.start - range.start % page;
        while position < range.end {
            let length = (range.end - position).min(PAGES * page);
            let mut answer = [0_u8; PAGES];
            // SAFETY: the range lies within the mapping (`check`) and starts at a page; the answer
            // has a byte for each of its at most PAGES pages. Nothing but `answer` is written to.
            let result = unsafe {
                libc::mincore(
                    self.raw.as_mut_ptr().add(position).cast(),
                    length,
                    answer.as_mut_ptr(),
                )
            };
            let pages = length.div_ceil(page);
            if result != 0 || answer.iter().take(pages).any(|answer| answer & 1 == 0) {
                return false;
            }
            position = position.saturating_add(length);
        }
        true
    }

    /// Reads `range` from the disk into memory. [`io::ErrorKind::Unsupported`] if the kernel is too
    /// old (before 5.14) to do so with an error instead of a signal.
    pub(super) fn populate(&self, range: Range<usize>) -> io::Result<()> {
        self.check(range.clone())?;
        self.advise(Advice::PopulateRead, range)
    }

    /// Makes the pages of a write writable, those that no write has touched before. An error of it
    /// is no signal.
    fn touch(&self, at: usize, end: usize) -> io::Result<()> {
        let touched = self.touched.load(Ordering::Relaxed);
        if end <= touched {
            return Ok(());
        }
        let page = page_size();
        let start = (at - at % page).max(touched);
        let until = end.next_multiple_of(page).min(self.raw.len());
        match self.advise(Advice::PopulateWrite, start..until) {
            Err(error) if error.kind() != io::ErrorKind::Unsupported => return Err(error),
            _ => {}
        }
        self.touched.store(until, Ordering::Relaxed);
        Ok(())
    }

    fn advise(&self, advice: Advice, range: Range<usize>) -> io::Result<()> {
        let start = range.start - range.start % page_size();
        loop {
            let result = self
                .raw
                .advise_range(advice, start, range.end.saturating_sub(start));
            match result {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(match error.raw_os_error() {
                        Some(libc::EINVAL) => io::ErrorKind::Unsupported.into(),
                        // What a fault would have answered with a signal.
                        Some(libc::EFAULT) => io::Error::from_raw_os_error(libc::EIO),
                        _ => error,
                    });
                }
            }
        }
    }

    fn check(&self, range: Range<usize>) -> io::Result<()> {
        if range.start <= range.end && range.end <= self.raw.len() {
            Ok(())
        } else {
            Err(out_of_range())
        }
    }
}

/// Asks the kernel to begin writing `range` of `file` to the disk.
pub(super) fn start_writeback(file: BorrowedFd<'_>, range: Range<u64>) {
    let length = range.end.saturating_sub(range.start);
    let (Ok(start), Ok(length)) = (i64::try_from(range.start), i64::try_from(length)) else {
        return;
    };
    // SAFETY: no memory is involved. A failure is one of a hint.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), start, length, libc::SYNC_FILE_RANGE_WRITE);
    }
}

struct View {
    mapping: Arc<Mapping>,
    range: Range<usize>,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `view` held the range against the mapping, which lives as long as self, and
        // whoever asked for the view promised that nobody writes to the range any more.
        unsafe {
            let start = self.mapping.raw.as_ptr().add(self.range.start);
            slice::from_raw_parts(start, self.range.end.saturating_sub(self.range.start))
        }
    }
}

fn page_size() -> usize {
    rustix::param::page_size()
}

fn out_of_range() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the range is not mapped")
}
