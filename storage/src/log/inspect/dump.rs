//! What one file holds.

use std::{path::Path, sync::Arc};

use strandline_protocol::{
    Offset, ProducerId, Timestamp,
    batch::{BatchHeader, BatchView},
};

use crate::{
    error::StorageError,
    fs::{File, FileSystem, FsError},
    log::{
        epochs::{EPOCH_FILE, EpochEntry, Epochs},
        offset_index::{OffsetEntry, OffsetIndex},
        partition_state::{METADATA_FILE, STATE_FILE},
        producer_snapshot::{RECOVERY_FILE, RecoveryState, decode_snapshot},
        producers::Producer,
        search::Search,
        state_file::read_file,
        time_index::{TimeEntry, TimeIndex},
        units::{FileKind, to_u64},
        walk::{HeaderWalk, Located, WalkError},
    },
};

/// What is in a file.
#[derive(Debug)]
pub enum Dump {
    /// A `.log`.
    Log(Batches),
    /// An `.index`: relative to `base`.
    OffsetIndex {
        /// The segment's base offset.
        base: Offset,
        /// The entries.
        entries: Vec<OffsetEntry>,
    },
    /// A `.timeindex`: relative to `base`.
    TimeIndex {
        /// The segment's base offset.
        base: Offset,
        /// The entries.
        entries: Vec<TimeEntry>,
    },
    /// A `.snapshot`, or our `recovery.state`: producers as of `end` (exclusive).
    Producers {
        /// As of which offset.
        end: Offset,
        /// The producers.
        producers: Vec<(ProducerId, Producer)>,
    },
    /// A `leader-epoch-checkpoint`.
    Epochs(Vec<EpochEntry>),
    /// Another file of a partition, which is text.
    Text(String),
}

/// What lies in a `.log`, piece by piece.
#[derive(Clone, Debug)]
pub enum Piece {
    /// A good batch.
    Batch {
        /// Where it begins.
        position: u64,
        /// Its size.
        bytes: u64,
        /// Its header.
        header: BatchHeader,
    },
    /// Not a batch, or a damaged one.
    Bad {
        /// Where it begins.
        position: u64,
        /// How far it is to the next good batch, or to the end.
        bytes: u64,
        /// The first offset that is missing.
        offset: Offset,
        /// The offset of the next good batch, if one follows.
        next_good: Option<Offset>,
        /// What is wrong.
        reason: String,
    },
    /// Zeros up to the end: space that is only allocated.
    Unused {
        /// Where they begin.
        position: u64,
        /// How many.
        bytes: u64,
    },
}

/// The pieces of a `.log`, in order. Checks every batch whole.
#[derive(Debug)]
pub struct Batches {
    file: Arc<dyn File>,
    base: Offset,
    position: u64,
    expected: Offset,
    search: Option<Search>,
    is_broken: bool,
}

/// Whether a file of this name is a segment's `.log`: 20 digits and the suffix.
#[must_use]
pub fn is_segment(name: &str) -> bool {
    matches!(FileKind::parse(name), Some((FileKind::Log, _)))
}

/// Whether [`dump`] knows what a file of this name holds.
#[must_use]
pub fn is_known(name: &str) -> bool {
    FileKind::parse(name).is_some()
        || [
            RECOVERY_FILE,
            STATE_FILE,
            METADATA_FILE,
            EPOCH_FILE,
            "meta.properties",
        ]
        .contains(&name)
        || name.ends_with("-offset-checkpoint")
}

/// Opens a file of a partition's directory and tells what is in it; what it is, its name says.
///
/// # Errors
/// If the disk fails, or the file is damaged as a whole.
pub fn dump(files: &dyn FileSystem, path: &Path) -> Result<Dump, StorageError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let kind = FileKind::parse(&name);
    if let Some((FileKind::Log, base)) = kind {
        return Ok(Dump::Log(Batches::new(files.open(path)?, base)));
    }
    let Some(bytes) = read_file(files, path)? else {
        return Err(StorageError::damaged(path, "there is no such file"));
    };
    let now = Timestamp::NONE;
    let damaged = |reason: &str| StorageError::damaged(path, reason);
    match kind {
        Some((FileKind::Index, base)) => Ok(Dump::OffsetIndex {
            base,
            entries: OffsetIndex::new(&bytes).iter().collect(),
        }),
        Some((FileKind::TimeIndex, base)) => Ok(Dump::TimeIndex {
            base,
            entries: TimeIndex::new(&bytes).iter().collect(),
        }),
        Some((FileKind::Snapshot, end)) => {
            let producers = decode_snapshot(bytes, now)
                .ok_or_else(|| damaged("its CRC does not match: repair takes it away"))?;
            let producers = producers.iter().map(|(id, producer)| (id, *producer));
            Ok(Dump::Producers {
                end,
                producers: producers.collect(),
            })
        }
        _ if name == RECOVERY_FILE => {
            let state = RecoveryState::decode(bytes, now)
                .ok_or_else(|| damaged("its CRC does not match: repair takes it away"))?;
            let producers = state.producers.iter().map(|(id, producer)| (id, *producer));
            Ok(Dump::Producers {
                end: state.end,
                producers: producers.collect(),
            })
        }
        _ => {
            let text = String::from_utf8(bytes.into())
                .map_err(|_| damaged("it is no text, and no file of a log"))?;
            match Epochs::from_text(&text).filter(|_| name == EPOCH_FILE) {
                Some(epochs) => Ok(Dump::Epochs(epochs.entries().to_vec())),
                None => Ok(Dump::Text(text)),
            }
        }
    }
}

impl Batches {
    /// The pieces of the segment that begins at `base`.
    #[must_use]
    pub fn new(file: Arc<dyn File>, base: Offset) -> Self {
        Self {
            file,
            base,
            position: 0,
            expected: base,
            search: None,
            is_broken: false,
        }
    }

    /// The base offset of the segment.
    #[must_use]
    pub const fn base(&self) -> Offset {
        self.base
    }

    /// The offset behind the last batch so far.
    #[must_use]
    pub const fn end(&self) -> Offset {
        self.expected
    }

    fn piece(&mut self) -> Result<Option<Piece>, FsError> {
        let (position, end) = (self.position, self.file.size());
        if position >= end {
            return Ok(None);
        }
        let reason = match self.batch(end) {
            Ok(batch) => {
                self.position = batch.end();
                self.expected = batch.header.end_offset();
                return Ok(Some(Piece::Batch {
                    position,
                    bytes: batch.bytes,
                    header: batch.header,
                }));
            }
            Err(WalkError::Broken { reason }) => reason,
            Err(WalkError::Fs(error)) => return Err(error),
        };
        if self.is_zero(end)? {
            self.position = end;
            let bytes = end.saturating_sub(position);
            return Ok(Some(Piece::Unused { position, bytes }));
        }
        let offset = self.expected;
        let from = position.saturating_add(1);
        let good = self.search(end).next_good(from, offset.plus(1))?;
        self.position = good.map_or(end, |good| good.position);
        let next_good = good.map(|good| good.header.base_offset());
        self.expected = next_good.unwrap_or(offset);
        Ok(Some(Piece::Bad {
            position,
            bytes: self.position.saturating_sub(position),
            offset,
            next_good,
            reason,
        }))
    }

    /// One for all of the file's damages.
    fn search(&mut self, end: u64) -> &mut Search {
        self.search
            .get_or_insert_with(|| Search::new(Arc::clone(&self.file), end))
    }

    fn batch(&self, end: u64) -> Result<Located, WalkError> {
        let broken = |reason: String| WalkError::Broken { reason };
        let expected = Some(self.expected);
        let mut walk = HeaderWalk::new(&self.file, self.position, end, expected).cold();
        let batch = walk
            .next()?
            .ok_or_else(|| broken("the file ends".to_owned()))?;
        self.file.populate(batch.position..batch.end())?;
        let bytes = self.file.view(batch.position..batch.end())?;
        let view = BatchView::exactly(&bytes).map_err(|error| broken(error.to_string()))?;
        view.check_crc()
            .map_err(|error| broken(error.to_string()))?;
        Ok(batch)
    }

    fn is_zero(&self, end: u64) -> Result<bool, FsError> {
        let mut at = self.position;
        while at < end {
            let until = end.min(at.saturating_add(to_u64(1 << 20)));
            self.file.populate(at..until)?;
            if self.file.view(at..until)?.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at = until;
        }
        Ok(true)
    }
}

impl Iterator for Batches {
    type Item = Result<Piece, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_broken {
            return None;
        }
        let piece = self.piece();
        self.is_broken = piece.is_err();
        piece.map_err(StorageError::from).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_log_are_known() {
        let log = "00000000000000000007.log";
        assert!(is_segment(log) && is_known(log));
        for name in [
            "00000000000000000007.timeindex",
            "partition.metadata",
            "recovery.state",
            "leader-epoch-checkpoint",
            "recovery-point-offset-checkpoint",
        ] {
            assert!(is_known(name) && !is_segment(name), "{name}");
        }
        for name in [
            "README.md",
            "7.log",
            "build.log",
            "00000000000000000007.txt",
            "",
        ] {
            assert!(!is_known(name) && !is_segment(name), "{name}");
        }
    }
}
