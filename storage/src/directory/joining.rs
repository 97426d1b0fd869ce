//! That a data directory is about to join a cluster: `joining`.
//!
//! It is there before the directory has an identity, and goes once its member is known to the
//! cluster. Without it, a directory that has an identity and no metadata yet would be taken for a
//! new cluster, and be the second one of its name.

use std::path::Path;

use strandline_protocol::ClusterId;

use super::{
    atomic::{self, read_text, write_atomically},
    create_with_parents,
    identity::{self, Identity},
};
use crate::{error::StorageError, fs::FileSystem};

const JOINING: &str = "joining";

/// Whose `directory` is; none if it is new. Nothing is changed.
///
/// # Errors
/// [`StorageError::Damaged`] if its identity is unclear; if the disk fails.
pub fn identity_of(
    fs: &dyn FileSystem,
    directory: &Path,
) -> Result<Option<Identity>, StorageError> {
    identity::look(fs, directory)
}

/// The cluster that `directory` is about to join; none if it is not.
///
/// # Errors
/// [`StorageError::Damaged`] if it is unclear; if the disk fails.
pub fn joining(fs: &dyn FileSystem, directory: &Path) -> Result<Option<ClusterId>, StorageError> {
    let path = directory.join(JOINING);
    let Some(text) = read_text(fs, &path)? else {
        return Ok(None);
    };
    match text.trim().parse() {
        Ok(cluster) => Ok(Some(cluster)),
        Err(_) => Err(StorageError::damaged(
            &path,
            "it does not name a cluster: give an empty data directory, and join again",
        )),
    }
}

/// Notes that `directory`, which is created if it is not there, is about to join `cluster`. Durable
/// when it returns.
///
/// # Errors
/// If the disk fails or is full.
pub fn begin_joining(
    fs: &dyn FileSystem,
    directory: &Path,
    cluster: ClusterId,
) -> Result<(), StorageError> {
    create_with_parents(fs, directory)?;
    let text = format!("{cluster}\n");
    write_atomically(fs, &directory.join(JOINING), text.as_bytes())?;
    Ok(())
}

/// The member of `directory` is known to its cluster. Durable when it returns.
///
/// # Errors
/// If the disk fails.
pub fn end_joining(fs: &dyn FileSystem, directory: &Path) -> Result<(), StorageError> {
    let path = directory.join(JOINING);
    match fs.remove(&path) {
        Err(error) if error.is_not_found() => return Ok(()),
        result => result?,
    }
    Ok(fs.sync_directory(atomic::parent(&path))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::simulated::SimulatedDisk;

    #[test]
    fn it_is_there_from_the_beginning_to_the_end_whatever_a_power_cut_takes() {
        let (data, cluster) = (Path::new("/disk/data"), ClusterId([7; 16]));
        for seed in 0..16 {
            let disk = SimulatedDisk::new(seed);
            let fs = disk.file_system();
            assert_eq!(joining(&*fs, data).unwrap(), None);
            begin_joining(&*fs, data, cluster).unwrap();
            let disk = disk.power_cut(seed);
            let fs = disk.file_system();
            assert_eq!(joining(&*fs, data).unwrap(), Some(cluster), "{seed}");
            assert_eq!(identity_of(&*fs, data).unwrap(), None);
            end_joining(&*fs, data).unwrap();
            end_joining(&*fs, data).unwrap();
            let left = disk.power_cut(seed).file_system();
            assert_eq!(joining(&*left, data).unwrap(), None, "{seed}");
        }
    }
}
