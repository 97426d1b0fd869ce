//! Holding the files of a partition against each other.

use std::path::{Path, PathBuf};

use strandline_protocol::{Offset, Timestamp, batch::BatchHeader};

use super::dump::{Batches, Piece};
use crate::{
    directory::recovery_point_of,
    error::StorageError,
    fs::FileSystem,
    log::{
        epochs::{EPOCH_FILE, Epochs},
        hole::{is_declared, removed_name},
        offset_index::{OFFSET_ENTRY_BYTES, OffsetIndex},
        partition_state::{PartitionState, STATE_FILE, Source},
        producer_snapshot::{RECOVERY_FILE, RecoveryState, decode_snapshot},
        state_file::read_file,
        time_index::{TIME_ENTRY_BYTES, TimeIndex},
        units::FileKind,
    },
};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A repair left it so; there is nothing more to do.
    Note,
    /// The broker copes with it by itself at its next start.
    Hint,
    /// Records cannot be read.
    Damage,
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// In which file.
    pub path: PathBuf,
    /// Where in it.
    pub position: Option<u64>,
    /// The first offset that it is about.
    pub offset: Option<Offset>,
    /// The next offset that is good, where some are missing.
    pub next_good: Option<Offset>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: &'static str,
}

const REPAIR: &str = "start the broker: it fetches this again from a replica that has it; where \
                      none has, run `strandline log repair`: the good batches around it stay";
const RESTORE: &str = "restore the files from another replica, or live without these records";
const RESTART: &str = "nothing: the broker's next start sees to it";
const REPAIRED: &str = "nothing: reads go on behind them; another replica may have them still";
const REBUILD: &str = "run `strandline log repair`, which takes the file away; it is built again";

/// Looks through every file of the partition in `directory`, and tells what is wrong, the worst
/// first. Changes nothing. Reads every byte of the log, and of the data directory that the
/// partition lies in what it remembers of it: a log that ends before its recovery point has lost
/// something.
///
/// # Errors
/// If the disk fails.
pub fn verify(files: &dyn FileSystem, directory: &Path) -> Result<Vec<Finding>, StorageError> {
    let mut names: Vec<(FileKind, Offset)> = files
        .list(directory)?
        .iter()
        .filter_map(|entry| FileKind::parse(&entry.name))
        .collect();
    names.sort_by_key(|(_, base)| *base);
    let of_kind = |wanted: FileKind| {
        let bases = names.iter().filter(move |(kind, _)| *kind == wanted);
        bases.map(|(_, base)| *base)
    };
    let mut check = Check {
        files,
        directory,
        recovery_point: recovery_point_of(files, directory)?,
        log_start: Offset::ZERO,
        epochs: Epochs::default(),
        findings: Vec::new(),
    };
    check.state()?;
    let bases: Vec<_> = of_kind(FileKind::Log).collect();
    for (at, base) in bases.iter().enumerate() {
        check.segment(*base, bases.get(at.saturating_add(1)).copied())?;
    }
    if bases.is_empty() {
        check.emptiness();
    }
    for at in of_kind(FileKind::Snapshot) {
        check.snapshot(at)?;
    }
    let mut findings = check.findings;
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(findings)
}

struct Check<'a> {
    files: &'a dyn FileSystem,
    directory: &'a Path,
    /// Up to where everything was durable, if the data directory tells.
    recovery_point: Option<Offset>,
    log_start: Offset,
    epochs: Epochs,
    findings: Vec<Finding>,
}

/// What follows a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Segment,
    Nothing,
}

impl Check<'_> {
    fn hint(&mut self, path: PathBuf, what: impl Into<String>, remedy: &'static str) {
        self.findings.push(Finding {
            severity: Severity::Hint,
            path,
            position: None,
            offset: None,
            next_good: None,
            what: what.into(),
            remedy,
        });
    }

    /// The files that every partition has once.
    fn state(&mut self) -> Result<(), StorageError> {
        let path = self.directory.join(STATE_FILE);
        let there = read_file(self.files, &path)?.is_some();
        match PartitionState::load(self.files, self.directory)? {
            Some((state, source)) => {
                self.epochs = state.epochs;
                self.log_start = state.log_start;
                if source == Source::Kafka && there {
                    let what = "its CRC does not match; Kafka's files are used";
                    self.hint(path, what, REBUILD);
                } else if source == Source::Outdated {
                    let what = "it is older than the log and than Kafka's epochs, which are used";
                    self.hint(path, what, RESTART);
                }
            }
            None if there => self.hint(path, "neither it nor Kafka's files can be read", REBUILD),
            None => {}
        }
        let path = self.directory.join(EPOCH_FILE);
        if let Some(bytes) = read_file(self.files, &path)? {
            let epochs = String::from_utf8(bytes.into()).ok();
            if epochs.and_then(|text| Epochs::from_text(&text)).is_none() {
                self.hint(path, "it is not what Kafka writes", RESTART);
            }
        }
        let path = self.directory.join(RECOVERY_FILE);
        if let Some(bytes) = read_file(self.files, &path)?
            && RecoveryState::decode(bytes, Timestamp::NONE).is_none()
        {
            self.hint(path, "its CRC does not match", REBUILD);
        }
        Ok(())
    }

    fn snapshot(&mut self, at: Offset) -> Result<(), StorageError> {
        let path = FileKind::Snapshot.path(self.directory, at);
        let bytes = read_file(self.files, &path)?;
        if bytes.is_some_and(|bytes| decode_snapshot(bytes, Timestamp::NONE).is_none()) {
            self.hint(path, "its CRC does not match", REBUILD);
        }
        Ok(())
    }

    /// One segment, which must end where `limit` begins.
    fn segment(&mut self, base: Offset, limit: Option<Offset>) -> Result<(), StorageError> {
        let path = FileKind::Log.path(self.directory, base);
        let mut batches = Batches::new(self.files.open(&path)?, base);
        let mut good: Vec<(u64, BatchHeader)> = Vec::new();
        let mut explained = false;
        for piece in batches.by_ref() {
            match piece? {
                Piece::Batch {
                    position, header, ..
                } => {
                    self.epoch(&path, position, &header);
                    good.push((position, header));
                }
                Piece::Unused { .. } => {}
                Piece::Bad {
                    position,
                    offset,
                    next_good,
                    reason,
                    ..
                } => {
                    explained = true;
                    let is_tail = next_good.is_none() && limit.is_none();
                    self.findings.push(Finding {
                        severity: Severity::Damage,
                        path: path.clone(),
                        position: Some(position),
                        offset: Some(offset),
                        next_good: next_good.or(limit),
                        what: if is_tail {
                            format!("nothing good follows: {reason}")
                        } else {
                            reason
                        },
                        remedy: REPAIR,
                    });
                }
            }
        }
        let end = batches.end();
        let lost_to = match limit {
            Some(limit) => (limit != end).then_some((limit, Behind::Segment)),
            None => self.durable_behind(end).map(|to| (to, Behind::Nothing)),
        };
        if let Some((to, behind)) = lost_to.filter(|_| !explained) {
            self.hole(path, end, to, behind)?;
        }
        self.indexes(base, &good)
    }

    /// The recovery point, if it lies behind `end`.
    fn durable_behind(&self, end: Offset) -> Option<Offset> {
        self.recovery_point
            .filter(|recovery_point| *recovery_point > end)
    }

    /// There is no segment.
    fn emptiness(&mut self) {
        if let Some(recovery_point) = self.durable_behind(self.log_start) {
            self.findings.push(Finding {
                severity: Severity::Damage,
                path: self.directory.to_path_buf(),
                position: None,
                offset: Some(self.log_start),
                next_good: Some(recovery_point),
                what: "no segment is left of a log that was durable up to there".to_owned(),
                remedy: RESTORE,
            });
        }
    }

    /// Between the segment in `path`, which ends at `end`, and `next`, where something follows or
    /// the log had to end at least.
    fn hole(
        &mut self,
        path: PathBuf,
        end: Offset,
        next: Offset,
        behind: Behind,
    ) -> Result<(), StorageError> {
        let is_repaired = end < next && is_declared(self.files, &path, &(end..next))?;
        let (severity, what, remedy) = if is_repaired {
            let removed = removed_name(&path);
            let what = format!(
                "offsets {end} to {} were lost, a repair took them out; what was there is in {}",
                next.plus(-1),
                removed.display()
            );
            (Severity::Note, what, REPAIRED)
        } else {
            let what = match behind {
                Behind::Segment => "the next segment does not begin where this one ends",
                Behind::Nothing => "the log ends here, and was durable beyond it",
            };
            (Severity::Damage, what.to_owned(), RESTORE)
        };
        self.findings.push(Finding {
            severity,
            path,
            position: None,
            offset: Some(end),
            next_good: Some(next),
            what,
            remedy,
        });
        Ok(())
    }

    fn epoch(&mut self, path: &Path, position: u64, header: &BatchHeader) {
        let Some(known) = self.epochs.at(header.base_offset()) else {
            return;
        };
        if known != header.leader_epoch() {
            self.findings.push(Finding {
                severity: Severity::Damage,
                path: path.to_path_buf(),
                position: Some(position),
                offset: Some(header.base_offset()),
                next_good: Some(header.end_offset()),
                what: format!(
                    "the batch has leader epoch {}, but epoch {known} wrote this offset",
                    header.leader_epoch()
                ),
                remedy: RESTORE,
            });
        }
    }

    /// Every index entry must point to the batch that it says.
    fn indexes(&mut self, base: Offset, good: &[(u64, BatchHeader)]) -> Result<(), StorageError> {
        let path = FileKind::Index.path(self.directory, base);
        if let Some(bytes) = read_file(self.files, &path)? {
            let wrong = OffsetIndex::new(&bytes).iter().find(|entry| {
                let position = u64::from(entry.position);
                let last_offset = base.plus(i64::from(entry.last_offset_delta));
                let found = good.binary_search_by_key(&position, |(at, _)| *at);
                let batch = found.ok().and_then(|at| good.get(at));
                batch.is_none_or(|(_, header)| header.last_offset() != last_offset)
            });
            if let Some(entry) = wrong {
                let what = format!("no batch of that offset is at position {}", entry.position);
                self.hint(path, what, REBUILD);
            } else if bytes.len() % OFFSET_ENTRY_BYTES != 0 {
                self.hint(path, "it ends with half an entry", REBUILD);
            }
        }
        let path = FileKind::TimeIndex.path(self.directory, base);
        if let Some(bytes) = read_file(self.files, &path)? {
            let wrong = TimeIndex::new(&bytes).iter().find(|entry| {
                let last_offset = base.plus(i64::from(entry.last_offset_delta));
                let found = good.binary_search_by_key(&last_offset, |(_, it)| it.last_offset());
                let batch = found.ok().and_then(|at| good.get(at));
                batch.is_none_or(|(_, header)| header.max_timestamp() != entry.timestamp)
            });
            if let Some(entry) = wrong {
                let what = format!("no batch has that offset and time {}", entry.timestamp);
                self.hint(path, what, REBUILD);
            } else if bytes.len() % TIME_ENTRY_BYTES != 0 {
                self.hint(path, "it ends with half an entry", REBUILD);
            }
        }
        Ok(())
    }
}
