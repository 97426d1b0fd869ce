//! Small files that are there whole or not at all.
//!
//! A file is replaced by writing another beside it, making that durable, and renaming it over the
//! old one. A crash at any point leaves the old content or the new.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use strandline_core::mutants::{self, Mutant};

use crate::{
    error::StorageError,
    fs::{FileSystem, FsError, Operation},
};

/// What a file is called while it is being written.
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";

/// Replaces the content of `path`, or creates it. When this returns, a power cut cannot take it
/// back.
///
/// # Errors
/// If the disk fails or is full. The old content is there then, unless the very last step (making
/// the rename durable) failed.
pub fn write_atomically(fs: &dyn FileSystem, path: &Path, content: &[u8]) -> Result<(), FsError> {
    let temporary = temporary(path);
    let written = write_new(fs, &temporary, content).and_then(|()| fs.rename(&temporary, path));
    if let Err(error) = written {
        // It takes room, which may be what is missing. The error that counts is the first.
        let _ = fs.remove(&temporary);
        return Err(error);
    }
    if mutants::is_active(Mutant::RenameDoesNotSyncDirectory) {
        return Ok(());
    }
    fs.sync_directory(parent(path))
}

/// The content of a small file; none if it does not exist.
///
/// # Errors
/// If the disk fails.
pub fn read_small(fs: &dyn FileSystem, path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    let file = match fs.open(path) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let all = 0..file.size();
    if all.is_empty() {
        return Ok(Some(Vec::new()));
    }
    // A sector that cannot be read is an error here; it would be a signal in the view.
    file.populate(all.clone())?;
    Ok(Some(file.view(all)?.to_vec()))
}

/// The content of a small text file; none if it does not exist.
pub(super) fn read_text(fs: &dyn FileSystem, path: &Path) -> Result<Option<String>, StorageError> {
    let Some(content) = read_small(fs, path)? else {
        return Ok(None);
    };
    let text = String::from_utf8(content);
    text.map(Some)
        .map_err(|_| StorageError::damaged(path, "it is not text"))
}

/// The directory that holds `path`.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn write_new(fs: &dyn FileSystem, path: &Path, content: &[u8]) -> Result<(), FsError> {
    let file = match fs.create(path) {
        Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => {
            // Left by a crash.
            fs.remove(path)?;
            fs.create(path)?
        }
        result => result?,
    };
    let length = u64::try_from(content.len()).map_err(|_| {
        let kind = std::io::ErrorKind::FileTooLarge;
        FsError::new(Operation::Write, path, kind.into())
    })?;
    file.allocate(length)?;
    file.write(0, &[content])?;
    file.sync()
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(TEMPORARY_SUFFIX);
    name.into()
}
