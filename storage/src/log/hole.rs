//! Offsets that a repair took out: between the end of a segment and its successor.
//!
//! What declares such a hole is the file in which the repair kept what it took out of the segment.
//! A hole without one is a segment that was lost, or cut by somebody else: that is damage.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use strandline_protocol::Offset;

use super::search::Search;
use crate::fs::{FileSystem, FsError};

/// Under which name a repair keeps what it takes out of the file at `path`.
pub(super) fn removed_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".removed");
    name.into()
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
    let good = Search::new(removed, size).next_good(0, hole.start)?;
    Ok(good.is_none_or(|good| good.header.base_offset() >= hole.end))
}
