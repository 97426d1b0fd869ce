//! Making the files of a partition whole again, without throwing anything away.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use strandline_protocol::Offset;

use super::verify::{Finding, Severity, verify};
use crate::{
    error::StorageError,
    fs::{FileSystem, FsError},
    log::{hole::removed_name, search::Search, state_file::write_file, units::FileKind},
};

/// How much is copied at once.
const COPY_BYTES: u64 = 4 << 20;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepairStep {
    /// Takes a file away that the broker builds again.
    SetAside {
        /// Which.
        path: PathBuf,
    },
    /// Cuts what lies behind the last good batch.
    CutTail {
        /// The segment.
        path: PathBuf,
        /// Where the last good batch ends.
        position: u64,
    },
    /// Takes the damaged bytes out of a segment: it ends in front of them, and what follows them
    /// becomes a segment of its own. Offsets stay as they are; those that are lost stay missing.
    Split {
        /// The segment.
        path: PathBuf,
        /// Where the damage begins.
        position: u64,
        /// The offset of the next good batch.
        next_good: Offset,
    },
}

impl fmt::Display for RepairStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetAside { path } => write!(
                f,
                "set {} aside; the broker builds it again",
                path.display()
            ),
            Self::CutTail { path, position } => write!(
                f,
                "cut {} at position {position}, keep what lies behind in {}",
                path.display(),
                removed_name(path).display()
            ),
            Self::Split {
                path,
                position,
                next_good,
            } => write!(
                f,
                "end {} at position {position}, go on in a new segment at offset {next_good}, keep \
                 all of the old one in {}",
                path.display(),
                removed_name(path).display()
            ),
        }
    }
}

/// What would make the partition in `directory` whole. Changes nothing. Steps are to be done in
/// their order; a segment with several damages needs another plan after the first.
///
/// # Errors
/// If the disk fails.
pub fn plan_repair(
    files: &dyn FileSystem,
    directory: &Path,
) -> Result<Vec<RepairStep>, StorageError> {
    let findings = verify(files, directory)?;
    let mut steps = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    for finding in &findings {
        if seen.contains(&finding.path) {
            continue;
        }
        if let Some(step) = step_for(files, directory, finding)? {
            seen.push(finding.path.clone());
            if !matches!(step, RepairStep::SetAside { .. }) {
                // Cutting a log takes its indexes away with it.
                seen.extend(indexes(&finding.path));
            }
            steps.push(step);
        }
    }
    Ok(steps)
}

fn step_for(
    files: &dyn FileSystem,
    directory: &Path,
    finding: &Finding,
) -> Result<Option<RepairStep>, FsError> {
    let path = finding.path.clone();
    match finding.severity {
        Severity::Note => return Ok(None),
        Severity::Hint => return Ok(Some(RepairStep::SetAside { path })),
        Severity::Damage => {}
    }
    let (Some(position), Some(_)) = (finding.position, finding.offset) else {
        return Ok(None);
    };
    let Some(next_good) = finding.next_good else {
        return Ok(Some(RepairStep::CutTail { path, position }));
    };
    // Nothing good follows in this file: the next segment is there already.
    let is_next_there = match files.open(&FileKind::Log.path(directory, next_good)) {
        Ok(_) => true,
        Err(error) if error.is_not_found() => false,
        Err(error) => return Err(error),
    };
    Ok(Some(if is_next_there {
        RepairStep::CutTail { path, position }
    } else {
        RepairStep::Split {
            path,
            position,
            next_good,
        }
    }))
}

impl RepairStep {
    /// Does it. What is taken away is kept in a file whose name ends in `.removed`.
    ///
    /// # Errors
    /// If the disk fails or is full; what was there before is there still then.
    pub fn execute(&self, files: &dyn FileSystem) -> Result<(), StorageError> {
        match self {
            Self::SetAside { path } => {
                files.rename(path, &removed_name(path))?;
                sync_parent(files, path)
            }
            Self::CutTail { path, position } => {
                let size = files.open(path)?.size();
                copy(files, path, *position..size, &removed_name(path))?;
                cut(files, path, *position)
            }
            Self::Split {
                path,
                position,
                next_good,
            } => split(files, path, *position, *next_good),
        }
    }
}

fn split(
    files: &dyn FileSystem,
    path: &Path,
    position: u64,
    next_good: Offset,
) -> Result<(), StorageError> {
    let file = files.open(path)?;
    let size = file.size();
    let from = position.saturating_add(1);
    let good = Search::new(file, size).next_good(from, next_good)?;
    let good = good.filter(|good| good.header.base_offset() == next_good);
    let Some(good) = good else {
        let reason = format!("offset {next_good} is not where it was: verify again");
        return Err(StorageError::damaged(path, reason));
    };
    copy(files, path, 0..size, &removed_name(path))?;
    let next = path.with_file_name(format!("{:020}.log", next_good.0));
    let unfinished = path.with_file_name(format!("{:020}.log.tmp", next_good.0));
    copy(files, path, good.position..size, &unfinished)?;
    files.rename(&unfinished, &next)?;
    sync_parent(files, path)?;
    // A crash here leaves both; the old one then ends where the new one begins.
    cut(files, path, position)
}

/// Ends the segment, and takes its indexes away: they point behind the end.
fn cut(files: &dyn FileSystem, path: &Path, position: u64) -> Result<(), StorageError> {
    let file = files.open(path)?;
    file.truncate(position)?;
    file.sync()?;
    for index in indexes(path) {
        match files.rename(&index, &removed_name(&index)) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
    }
    sync_parent(files, path)
}

/// The indexes of a segment.
fn indexes(log: &Path) -> [PathBuf; 2] {
    ["index", "timeindex"].map(|suffix| log.with_extension(suffix))
}

fn copy(
    files: &dyn FileSystem,
    from: &Path,
    range: std::ops::Range<u64>,
    to: &Path,
) -> Result<(), StorageError> {
    let source = files.open(from)?;
    let target = write_file(files, to, &[])?;
    let length = range.end.saturating_sub(range.start);
    if length > 0 {
        target.allocate(length)?;
    }
    let mut done = 0;
    while done < length {
        let bytes = COPY_BYTES.min(length.saturating_sub(done));
        let at = range.start.saturating_add(done);
        let view = source.view(at..at.saturating_add(bytes))?;
        target.write(done, &[&view])?;
        done = done.saturating_add(bytes);
    }
    target.sync()?;
    sync_parent(files, to)
}

fn sync_parent(files: &dyn FileSystem, path: &Path) -> Result<(), StorageError> {
    Ok(files.sync_directory(path.parent().unwrap_or(Path::new(".")))?)
}
