//! The one seam to the disk.
//!
//! Everything that storage does to files goes through [`FileSystem`] and [`File`], so that the same
//! code runs on a real disk (mapped or `pwrite`) and on a simulated one that loses power, tears
//! sectors, fails, stalls and rots on demand. Calls are per batch, so dynamic dispatch costs
//! nothing that can be measured.
//!
//! What is promised, by every backend:
//! - Bytes written are *durable* only after a [`File::sync`] that began after the write returned.
//!   Creating, renaming or removing an entry is durable only after [`FileSystem::sync_directory`]
//!   of its directory; a new file needs both.
//! - After a failed sync nothing may be assumed of what was written since the last good one, and no
//!   later sync of the file reports it again: the caller must give the file up.
//! - A full disk is an error of [`File::allocate`], never a signal: storage allocates before it
//!   writes.

mod error;
mod host;
pub mod mapped;
pub mod pwrite;
pub mod simulated;

use std::{fmt, ops::Range, path::Path, sync::Arc};

use bytes::Bytes;

pub use error::{FsError, Operation};
pub use host::CacheLimits;

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name, without the directory.
    pub name: String,
    /// Whether it is a directory itself.
    pub is_directory: bool,
}

/// How much room a disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that this process may still allocate.
    pub available: u64,
}

/// What tells a killed process from a lost page cache: both unchanged means that the kernel still
/// has what the process wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// The boot of the machine.
    pub boot_id: String,
    /// The mount of the file system.
    pub mount_id: u64,
}

/// Held for as long as it lives; another process cannot take the same lock meanwhile.
pub trait Lock: Send + Sync + fmt::Debug {}

/// The operations on directories and names.
pub trait FileSystem: Send + Sync + fmt::Debug {
    /// Creates an empty file, open for reading and writing.
    ///
    /// # Errors
    /// If an entry of that name exists; if the disk fails or is full.
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FsError>;

    /// Opens a file that exists, for reading and writing. Opening one path twice gives handles that
    /// see each other's writes.
    ///
    /// # Errors
    /// If there is no such file; if the disk fails.
    fn open(&self, path: &Path) -> Result<Arc<dyn File>, FsError>;

    /// Renames a file or a directory, replacing a file at `to` in one step. Open handles follow.
    ///
    /// # Errors
    /// If there is nothing at `from`; if the disk fails.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), FsError>;

    /// Removes a file. Handles and views that are open keep their bytes.
    ///
    /// # Errors
    /// If there is no such file; if the disk fails.
    fn remove(&self, path: &Path) -> Result<(), FsError>;

    /// Creates a directory; its parents must exist. Does nothing if it exists.
    ///
    /// # Errors
    /// If something else has that name; if the disk fails or is full.
    fn create_directory(&self, path: &Path) -> Result<(), FsError>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// If it is not there or not empty; if the disk fails.
    fn remove_directory(&self, path: &Path) -> Result<(), FsError>;

    /// The entries of a directory, in the order of their names.
    ///
    /// # Errors
    /// If there is no such directory; if the disk fails.
    fn list(&self, directory: &Path) -> Result<Vec<Entry>, FsError>;

    /// Makes durable what was created, renamed and removed in a directory.
    ///
    /// # Errors
    /// If the disk fails; then nothing may be assumed of the changes since the last good sync.
    fn sync_directory(&self, directory: &Path) -> Result<(), FsError>;

    /// How much room there is.
    ///
    /// # Errors
    /// If the disk fails.
    fn space(&self, directory: &Path) -> Result<Space, FsError>;

    /// Takes the lock file at `path`, creating it.
    ///
    /// # Errors
    /// [`FsError::is_locked`] if another process holds it.
    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, FsError>;

    /// The boot and the mount that `directory` is seen under.
    ///
    /// # Errors
    /// If the disk fails.
    fn incarnation(&self, directory: &Path) -> Result<Incarnation, FsError>;
}

/// One open file. Writes come from one caller at a time; reads, views and syncs from any.
pub trait File: Send + Sync + fmt::Debug {
    /// The size, allocation ahead of the data included.
    fn size(&self) -> u64;

    /// Makes room: afterwards the file is at least `end` bytes long and writes below `end` cannot
    /// find the disk full. New bytes read as zeros.
    ///
    /// # Errors
    /// [`FsError::is_full`] if there is no room; nothing has changed then.
    fn allocate(&self, end: u64) -> Result<(), FsError>;

    /// Writes `parts` one behind the other, starting at `at`. The range must have been allocated.
    ///
    /// # Errors
    /// If the disk fails; any prefix may have been written then.
    fn write(&self, at: u64, parts: &[&[u8]]) -> Result<(), FsError>;

    /// Makes the range read as zeros; it stays allocated.
    ///
    /// # Errors
    /// If the disk fails.
    fn zero(&self, range: Range<u64>) -> Result<(), FsError>;

    /// Cuts the file to `size`. The caller makes sure that no view reaches beyond it.
    ///
    /// # Errors
    /// If the disk fails.
    fn truncate(&self, size: u64) -> Result<(), FsError>;

    /// Makes all bytes and the size durable (`fdatasync`). Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// If the disk fails; the file must be given up then.
    fn sync(&self) -> Result<(), FsError>;

    /// Asks the kernel to begin writing the range back (`sync_file_range`), so that a later sync
    /// has less to do. A hint: promises nothing and reports no error.
    fn start_writeback(&self, range: Range<u64>);

    /// The bytes of `range` without a copy. The view lives on its own: it keeps what it needs open.
    /// The caller only asks for ranges that nobody writes to any more.
    ///
    /// # Errors
    /// If the range ends beyond the file; if the disk fails.
    fn view(&self, range: Range<u64>) -> Result<Bytes, FsError>;

    /// Whether `range` is in memory, so that touching a view of it does not wait for the disk.
    fn is_resident(&self, range: Range<u64>) -> bool;

    /// Brings `range` into memory. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// If the disk cannot read it, where touching a view of it would raise a signal.
    fn populate(&self, range: Range<u64>) -> Result<(), FsError>;
}
