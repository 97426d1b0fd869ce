//! One file of this machine: its descriptor, its mapping, and when they may be closed.
//!
//! **Owns** the rules of closing. A descriptor with unsynced data is never closed: a later one
//! could miss the error of its write-back. That of a file without a name is not closed either, as
//! nothing could open it again. A mapping may go at any time: views hold it for themselves, and
//! what was written through it is in the page cache.
//!
//! Locks are taken in this order: the state of a node, the names of the file system, the path of a
//! node. Caches only try the state of a node.

use std::{
    fs,
    io::{self, IoSlice},
    ops::Range,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::FallocateFlags;
use strandline_core::mutants::{self, Mutant};

use super::{
    Access, Shared,
    cache::{Counted, Eviction},
    mapping::{Mapping, start_writeback},
};
use crate::fs::{File, FsError, Operation};

/// How bytes enter files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// Small ones by a copy into a mapping, others by `pwritev`.
    Mapped,
    /// By `pwritev`.
    Positional,
}

/// Up to here a copy into a mapping is the faster way; see [`crate::fs::mapped`].
const MAPPED_WRITE_MAX: u64 = 2048;

/// A file, shared by all of its handles.
#[derive(Debug)]
pub(super) struct Node {
    shared: Arc<Shared>,
    this: Weak<Node>,
    /// Where it is now; locked last.
    path: Mutex<PathBuf>,
    /// Device and number, so that a descriptor that is opened again is of the same file.
    identity: (u64, u64),
    size: AtomicU64,
    state: Mutex<State>,
    /// Grows when a write begins and again when it ends.
    written: AtomicU64,
    /// What `written` was before the last good sync began.
    synced: AtomicU64,
    descriptor_used: AtomicBool,
    mapping_used: AtomicBool,
}

#[derive(Debug)]
struct State {
    descriptor: Option<Arc<Descriptor>>,
    mapping: Option<Arc<Mapping>>,
    /// The file has lost its name, or may.
    pinned: bool,
}

/// An open descriptor, counted.
#[derive(Debug)]
pub(super) struct Descriptor {
    file: fs::File,
    _counted: Counted,
}

impl Node {
    /// Takes over a file that was just opened at `path`.
    pub(super) fn new(shared: &Arc<Shared>, path: &Path, file: fs::File) -> io::Result<Arc<Self>> {
        let metadata = file.metadata()?;
        let descriptor = Descriptor {
            file,
            _counted: shared.descriptors.count(),
        };
        let node = Arc::new_cyclic(|this| Self {
            shared: Arc::clone(shared),
            this: Weak::clone(this),
            path: Mutex::new(path.to_path_buf()),
            identity: (metadata.dev(), metadata.ino()),
            size: AtomicU64::new(metadata.len()),
            state: Mutex::new(State {
                descriptor: Some(Arc::new(descriptor)),
                mapping: None,
                pinned: false,
            }),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            descriptor_used: AtomicBool::new(true),
            mapping_used: AtomicBool::new(false),
        });
        shared
            .descriptors
            .admit(Weak::clone(&node.this), Self::evict_descriptor);
        Ok(node)
    }

    /// Keeps the descriptor open from now on: the name is about to go.
    pub(super) fn pin(&self) -> Result<(), FsError> {
        let mut state = self.state.lock();
        self.descriptor(&mut state)
            .map_err(|error| self.error(Operation::Open, error))?;
        state.pinned = true;
        Ok(())
    }

    /// Follows a rename. The caller holds the names.
    pub(super) fn moved(&self, to: PathBuf) {
        *self.path.lock() = to;
    }

    fn error(&self, operation: Operation, source: impl Into<io::Error>) -> FsError {
        FsError::new(operation, &self.path.lock(), source.into())
    }

    fn descriptor(&self, state: &mut State) -> io::Result<Arc<Descriptor>> {
        self.descriptor_used.store(true, Ordering::Relaxed);
        if let Some(descriptor) = &state.descriptor {
            return Ok(Arc::clone(descriptor));
        }
        let file = {
            let names = self.shared.names.read();
            let path = self.path.lock().clone();
            let file = self.shared.open_descriptor(&path)?;
            drop(names);
            file
        };
        let metadata = file.metadata()?;
        if self.identity != (metadata.dev(), metadata.ino()) {
            return Err(io::Error::other(
                "another file has taken its place: nothing but the broker may work in its \
                 directory",
            ));
        }
        let descriptor = Arc::new(Descriptor {
            file,
            _counted: self.shared.descriptors.count(),
        });
        state.descriptor = Some(Arc::clone(&descriptor));
        self.shared
            .descriptors
            .admit(Weak::clone(&self.this), Self::evict_descriptor);
        Ok(descriptor)
    }

    /// A mapping of at least the first `end` bytes.
    fn mapping(&self, state: &mut State, end: u64) -> io::Result<Arc<Mapping>> {
        self.mapping_used.store(true, Ordering::Relaxed);
        let end = usize::try_from(end).map_err(|_| io::ErrorKind::InvalidInput)?;
        if let Some(mapping) = &state.mapping
            && mapping.length() >= end
        {
            return Ok(Arc::clone(mapping));
        }
        let descriptor = self.descriptor(state)?;
        let size = usize::try_from(self.size()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let exact = size.max(end).max(1);
        let reserve = usize::try_from(self.shared.limits.mapping_bytes).unwrap_or(1);
        let reserved = exact
            .checked_next_multiple_of(reserve.max(1))
            .unwrap_or(exact);
        let map = |length| {
            let counted = self.shared.mappings.count();
            match self.shared.access {
                Access::Everything => Mapping::new(descriptor.file.as_fd(), length, counted),
                Access::Reading => Mapping::for_reading(descriptor.file.as_fd(), length, counted),
            }
        };
        let mapping = map(reserved).or_else(|_| {
            // Too many mappings, or too little address space: with fewer and with less, then.
            self.shared.mappings.shrink(64, Self::evict_mapping);
            map(exact)
        })?;
        let mapping = Arc::new(mapping);
        let is_first = state.mapping.replace(Arc::clone(&mapping)).is_none();
        if is_first {
            self.shared
                .mappings
                .admit(Weak::clone(&self.this), Self::evict_mapping);
        }
        Ok(mapping)
    }

    pub(super) fn evict_descriptor(&self) -> Eviction<Arc<Descriptor>> {
        let Some(mut state) = self.state.try_lock() else {
            return Eviction::Kept;
        };
        let is_unsynced = self.written.load(Ordering::SeqCst) != self.synced.load(Ordering::SeqCst)
            && !mutants::is_active(Mutant::DescriptorClosedUnsynced);
        if state.pinned || is_unsynced || self.descriptor_used.swap(false, Ordering::Relaxed) {
            return Eviction::Kept;
        }
        state
            .descriptor
            .take()
            .map_or(Eviction::Absent, Eviction::Closed)
    }

    fn evict_mapping(&self) -> Eviction<Arc<Mapping>> {
        let Some(mut state) = self.state.try_lock() else {
            return Eviction::Kept;
        };
        if self.mapping_used.swap(false, Ordering::Relaxed) {
            return Eviction::Kept;
        }
        state
            .mapping
            .take()
            .map_or(Eviction::Absent, Eviction::Closed)
    }

    /// Runs a change of the file's content. From before it begins until a sync that began after it
    /// ended, the descriptor stays open.
    fn change<T>(
        &self,
        operation: Operation,
        prepare: impl FnOnce(&mut State) -> io::Result<T>,
        change: impl FnOnce(&fs::File, T) -> io::Result<()>,
    ) -> Result<(), FsError> {
        let prepared = {
            let mut state = self.state.lock();
            let prepared = self
                .descriptor(&mut state)
                .and_then(|descriptor| Ok((descriptor, prepare(&mut state)?)));
            if prepared.is_ok() {
                self.written.fetch_add(1, Ordering::SeqCst);
            }
            prepared
        };
        let (descriptor, prepared) = prepared.map_err(|error| self.error(operation, error))?;
        let result = change(&descriptor.file, prepared);
        self.written.fetch_add(1, Ordering::SeqCst);
        result.map_err(|error| self.error(operation, error))
    }

    /// The mapping that `range`, which must lie within the file, is looked at through.
    fn mapped(&self, range: &Range<u64>) -> io::Result<(Arc<Mapping>, Range<usize>)> {
        self.check_range(range)?;
        let mapping = self.mapping(&mut self.state.lock(), range.end)?;
        Ok((mapping, to_usize(range)?))
    }

    fn check_range(&self, range: &Range<u64>) -> io::Result<()> {
        let size = self.size();
        if range.start <= range.end && range.end <= size {
            return Ok(());
        }
        let (start, end) = (range.start, range.end);
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("bytes {start}..{end} do not lie within its {size} bytes"),
        ))
    }
}

impl File for Node {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn allocate(&self, end: u64) -> Result<(), FsError> {
        let size = self.size();
        if end <= size {
            return Ok(());
        }
        let allocated = self.change(
            Operation::Allocate,
            |_| Ok(()),
            |file, ()| {
                allocate(file, size, end).inspect_err(|_| {
                    // A part of it may have been granted; the error is the one that counts.
                    let _ = file.set_len(size);
                })
            },
        );
        allocated.inspect(|()| self.size.store(end, Ordering::Release))
    }

    fn write(&self, at: u64, parts: &[&[u8]]) -> Result<(), FsError> {
        let end = parts.iter().try_fold(at, |end, part| {
            end.checked_add(u64::try_from(part.len()).ok()?)
        });
        let range = at..end.unwrap_or(u64::MAX);
        let length = range.end.saturating_sub(at);
        let may_map =
            self.shared.writing == Writing::Mapped && self.shared.access == Access::Everything;
        if may_map && length <= MAPPED_WRITE_MAX {
            self.change(
                Operation::Write,
                |state| {
                    self.check_range(&range)?;
                    self.mapping(state, range.end)
                },
                |_, mapping| mapping.write(to_usize(&range)?.start, parts),
            )
        } else {
            self.change(
                Operation::Write,
                |_| self.check_range(&range),
                |file, ()| write_all(file, at, parts),
            )
        }
    }

    fn zero(&self, range: Range<u64>) -> Result<(), FsError> {
        self.change(
            Operation::Write,
            |state| {
                self.check_range(&range)?;
                untouch(state, range.start)
            },
            |file, ()| zero(file, &range),
        )
    }

    fn truncate(&self, size: u64) -> Result<(), FsError> {
        self.change(
            Operation::Truncate,
            |state| {
                self.check_range(&(size..size))?;
                untouch(state, size)
            },
            |file, ()| {
                self.size.store(size, Ordering::Release);
                file.set_len(size)
            },
        )
    }

    fn sync(&self) -> Result<(), FsError> {
        let descriptor = {
            let mut state = self.state.lock();
            forget_touched(&state);
            self.descriptor(&mut state)
        };
        let descriptor = descriptor.map_err(|error| self.error(Operation::Sync, error))?;
        let written = self.written.load(Ordering::SeqCst);
        // A retry after an interruption is none after a failure: nothing has been reported yet.
        rustix::io::retry_on_intr(|| rustix::fs::fdatasync(&descriptor.file))
            .map_err(|error| self.error(Operation::Sync, error))?;
        self.synced.fetch_max(written, Ordering::SeqCst);
        Ok(())
    }

    fn start_writeback(&self, range: Range<u64>) {
        // Without a descriptor there is nothing unsynced.
        let descriptor = {
            let state = self.state.lock();
            forget_touched(&state);
            state.descriptor.clone()
        };
        if let Some(descriptor) = descriptor {
            start_writeback(descriptor.file.as_fd(), range);
        }
    }

    fn view(&self, range: Range<u64>) -> Result<Bytes, FsError> {
        if range.is_empty() && range.start <= self.size() {
            return Ok(Bytes::new());
        }
        self.mapped(&range)
            .and_then(|(mapping, range)| mapping.view(range))
            .map_err(|error| self.error(Operation::Read, error))
    }

    fn is_resident(&self, range: Range<u64>) -> bool {
        self.mapped(&range)
            .is_ok_and(|(mapping, range)| mapping.is_resident(range))
    }

    fn populate(&self, range: Range<u64>) -> Result<(), FsError> {
        let populated = self
            .mapped(&range)
            .and_then(|(mapping, within)| mapping.populate(within));
        match populated {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                let descriptor = self.descriptor(&mut self.state.lock());
                descriptor.and_then(|descriptor| read_through(&descriptor.file, &range))
            }
            populated => populated,
        }
        .map_err(|error| self.error(Operation::Read, error))
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Writing back makes pages read-only again.
fn forget_touched(state: &State) {
    if let Some(mapping) = &state.mapping {
        mapping.untouch(0);
    }
}

fn untouch(state: &State, at: u64) -> io::Result<()> {
    if let Some(mapping) = &state.mapping {
        mapping.untouch(to_usize(&(at..at))?.start);
    }
    Ok(())
}

/// Reserves `[from, end)`, which lies behind the end of the file, and moves the end there.
fn allocate(file: &fs::File, from: u64, end: u64) -> io::Result<()> {
    let length = end.saturating_sub(from);
    let result = rustix::io::retry_on_intr(|| {
        rustix::fs::fallocate(file, FallocateFlags::empty(), from, length)
    });
    match result {
        Err(error) if error == rustix::io::Errno::OPNOTSUPP => write_zeros(file, &(from..end)),
        result => Ok(result?),
    }
}

fn zero(file: &fs::File, range: &Range<u64>) -> io::Result<()> {
    let length = range.end.saturating_sub(range.start);
    if length == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    let result =
        rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, flags, range.start, length));
    match result {
        Err(error) if error == rustix::io::Errno::OPNOTSUPP => write_zeros(file, range),
        result => Ok(result?),
    }
}

fn write_zeros(file: &fs::File, range: &Range<u64>) -> io::Result<()> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut position = range.start;
    while position < range.end {
        let left = usize::try_from(range.end.saturating_sub(position)).unwrap_or(usize::MAX);
        let (zeros, _) = ZEROS.split_at(left.min(ZEROS.len()));
        file.write_all_at(zeros, position)?;
        position = position.saturating_add(u64::try_from(zeros.len()).unwrap_or(u64::MAX));
    }
    Ok(())
}

/// Writes `parts` one behind the other with as few system calls as that takes.
fn write_all(file: &fs::File, at: u64, parts: &[&[u8]]) -> io::Result<()> {
    /// A batch is written in one or two parts; these take no allocation.
    const PARTS: usize = 8;
    let mut position = at;
    for parts in parts.chunks(PARTS) {
        let mut slices = [IoSlice::new(&[]); PARTS];
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        let mut left = slices.as_mut_slice();
        // Empty parts in front would look like a call that writes nothing.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let count = rustix::io::retry_on_intr(|| rustix::io::pwritev(file, left, position))?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            position = position.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            IoSlice::advance_slices(&mut left, count);
        }
    }
    Ok(())
}

/// Brings `range` into the page cache by reading it.
fn read_through(file: &fs::File, range: &Range<u64>) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut position = range.start;
    while position < range.end {
        let count = file.read_at(&mut buffer, position)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        position = position.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
    Ok(())
}

fn to_usize(range: &Range<u64>) -> io::Result<Range<usize>> {
    let convert = |bytes| usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput);
    Ok(convert(range.start)?..convert(range.end)?)
}
