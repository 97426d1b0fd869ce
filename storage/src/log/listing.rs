//! What is in a partition's directory when it is opened.

use std::path::Path;

use strandline_protocol::Offset;

use super::{hole::repaired_segment, remove_if_there, units::FileKind};
use crate::fs::{FileSystem, FsError};

/// What crashes leave behind: files that were being written or removed.
const UNFINISHED: [&str; 4] = [".deleted", ".tmp", ".cleaned", ".swap"];

/// The files of a directory, by what they are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The base offsets of the segments, in order.
    pub segments: Vec<Offset>,
    /// The offsets of the producer snapshots, in order.
    pub snapshots: Vec<Offset>,
    /// The base offsets of segments that a repair took something out of.
    pub repaired: Vec<Offset>,
}

impl Listing {
    /// Lists `directory`, and removes what is unfinished or belongs to no segment. None if it is
    /// not there.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn take(files: &dyn FileSystem, directory: &Path) -> Result<Option<Self>, FsError> {
        let entries = match files.list(directory) {
            Err(error) if error.is_not_found() => return Ok(None),
            result => result?,
        };
        let mut listing = Self::default();
        let mut indexes = Vec::new();
        for entry in entries.iter().filter(|entry| !entry.is_directory) {
            if UNFINISHED.iter().any(|suffix| entry.name.ends_with(suffix)) {
                remove_if_there(files, &directory.join(&entry.name))?;
                continue;
            }
            match FileKind::parse(&entry.name) {
                Some((FileKind::Log, base)) => listing.segments.push(base),
                Some((FileKind::Snapshot, at)) => listing.snapshots.push(at),
                Some((kind, base)) => indexes.push((kind, base)),
                None => listing.repaired.extend(repaired_segment(&entry.name)),
            }
        }
        for (kind, base) in indexes {
            if !listing.segments.contains(&base) {
                remove_if_there(files, &kind.path(directory, base))?;
            }
        }
        Ok(Some(listing))
    }
}
