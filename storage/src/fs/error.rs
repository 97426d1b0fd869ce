//! What a disk can answer instead of doing what it was asked.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creating a file or a directory.
    Create,
    /// Opening a file.
    Open,
    /// Renaming.
    Rename,
    /// Removing.
    Remove,
    /// Listing a directory.
    List,
    /// Making room.
    Allocate,
    /// Writing or zeroing.
    Write,
    /// Cutting a file.
    Truncate,
    /// Making durable.
    Sync,
    /// Reading or mapping.
    Read,
    /// Asking about the file system.
    Inspect,
    /// Taking a lock.
    Lock,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Open => "open",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::List => "list",
            Self::Allocate => "allocate space in",
            Self::Write => "write to",
            Self::Truncate => "truncate",
            Self::Sync => "sync",
            Self::Read => "read",
            Self::Inspect => "inspect",
            Self::Lock => "lock",
        })
    }
}

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}: {source}")]
pub struct FsError {
    /// What was being done.
    pub operation: Operation,
    /// To what.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

impl FsError {
    /// The failure of `operation` on `path`.
    #[must_use]
    pub fn new(operation: Operation, path: &Path, source: io::Error) -> Self {
        Self {
            operation,
            path: path.to_path_buf(),
            source,
        }
    }

    /// Whether the disk, or the user's share of it, is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self.source.kind(), StorageFull | QuotaExceeded)
    }

    /// Whether there is no such file or directory.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether another process holds the lock.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.operation == Operation::Lock && self.source.kind() == io::ErrorKind::WouldBlock
    }
}
