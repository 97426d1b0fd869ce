//! What can go wrong with what is on disk.

use std::path::{Path, PathBuf};

use crate::fs::{FsError, Operation};

/// Storage could not do what it was asked. Unless it is [`StorageError::is_full`], the data
/// directory that it happened in must go offline until the process starts again: after a failed
/// write or sync nothing is known about what the disk holds.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk refused.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A file contradicts its format, and nothing says what it should have been.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// An earlier failure has taken the partition's log out of service.
    #[error("{path} is offline after an earlier failure; repair the disk, then restart the broker")]
    Offline {
        /// The partition's directory.
        path: PathBuf,
    },
    /// An earlier failure has taken the whole data directory out of service.
    #[error(
        "{directory} is offline since {reason}; repair the disk, then restart the broker",
        directory = directory.display()
    )]
    DirectoryOffline {
        /// The data directory.
        directory: PathBuf,
        /// What happened first.
        reason: String,
    },
    /// Another process works on the data directory.
    #[error(
        "{directory} is used by another process, which holds its .lock; stop that process, or give \
         this one another --data",
        directory = directory.display()
    )]
    InUse {
        /// The data directory.
        directory: PathBuf,
    },
    /// The data directory belongs to another node or another cluster.
    #[error(
        "{directory} belongs to {field} {found}, not {expected}; give the --data of this node, or \
         an empty one",
        directory = directory.display()
    )]
    ForeignDirectory {
        /// The data directory.
        directory: PathBuf,
        /// Which property differs, as `meta.properties` names it.
        field: &'static str,
        /// What the directory says.
        found: String,
        /// What it was opened as.
        expected: String,
    },
    /// What was asked for makes no sense here; nothing has changed.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
}

impl StorageError {
    /// A damaged file.
    #[must_use]
    pub fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }

    /// Whether only space is missing: nothing has changed, and the same may work later. Not so
    /// where a sync says that the disk is full: that one took bytes and lost them, and a sync that
    /// works later does not bring them back.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Fs(error) if error.is_full() && error.operation != Operation::Sync)
    }
}
