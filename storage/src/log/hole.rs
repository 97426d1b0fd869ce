//! Offsets that a repair took out: between the end of a segment and its successor.
//!
//! What declares such a hole is the file in which the repair kept what it took out of the segment.
//! A hole without one is a segment that was lost, or cut by somebody else: that is damage.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use strandline_protocol::{Offset, batch::BatchHeader};

use super::{
    epochs::Epochs, partition_state::PartitionState, search::Search, state_file::write_file,
    units::FileKind,
};
use crate::{
    error::StorageError,
    fs::{FileSystem, FsError},
};

/// What a file is called in addition in which a repair keeps what it took out.
const REMOVED: &str = ".removed";

/// Under which name a repair keeps what it takes out of the file at `path`.
pub(super) fn removed_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(REMOVED);
    name.into()
}

/// The base offset of the segment of which the file called `name` keeps what was taken out.
pub(super) fn repaired_segment(name: &str) -> Option<Offset> {
    match FileKind::parse(name.strip_suffix(REMOVED)?)? {
        (FileKind::Log, base) => Some(base),
        _ => None,
    }
}

/// Declares a hole behind the segment at `path`, durably, of which nothing is kept here: another
/// replica's repair took it out.
pub(super) fn declare(files: &dyn FileSystem, path: &Path) -> Result<(), StorageError> {
    let removed = removed_name(path);
    match files.open(&removed) {
        Err(error) if error.is_not_found() => write_file(files, &removed, &[])?.sync()?,
        found => drop(found?),
    }
    Ok(files.sync_directory(path.parent().unwrap_or(Path::new(".")))?)
}

/// Whether a repair of the segment at `path` kept what it took out, and nothing of the hole behind
/// the segment is still good in it: if there were, then a segment was lost after the repair. Reads
/// what was kept.
pub(super) fn is_declared(
    files: &dyn FileSystem,
    path: &Path,
    hole: &Range<Offset>,
) -> Result<bool, FsError> {
    let removed = match files.open(&removed_name(path)) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(false),
        Err(error) => return Err(error),
    };
    let size = removed.size();
    let directory = path.parent().unwrap_or(Path::new("."));
    let state = PartitionState::load(files, directory)?;
    let epochs = state.map_or_else(Epochs::default, |(state, _)| state.epochs);
    // The epoch of a batch is not under its CRC; a wrong one is damage all the same.
    let is_good = |header: &BatchHeader| {
        let known = epochs.at(header.base_offset());
        known.is_none_or(|known| known == header.leader_epoch())
    };
    let good = Search::new(removed, size).next_accepted(0, hole.start, is_good)?;
    Ok(good.is_none_or(|good| good.header.base_offset() >= hole.end))
}
