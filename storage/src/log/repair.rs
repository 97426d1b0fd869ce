//! Putting back what went bad, from a replica that has it.
//!
//! Replicas of a partition are the same bytes: what a leader placed, its followers keep as it is.
//! So a range that cannot be read any more is written over with what another replica has there, in
//! place, and only if it fits to the byte between the good batches around it. A crash in between
//! leaves it damaged, as before, and it is repaired again.
//!
//! What is written over may be looked at by somebody meanwhile. Its check fails then, as before: a
//! batch is only ever served whole and checked.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use strandline_protocol::{
    Offset,
    batch::{BatchError, BatchHeader, split_batches},
};

use super::{Log, errors::ReadError, units::to_u64};
use crate::{
    error::StorageError,
    fs::{File, FsError},
};

/// Why nothing was put back. The log is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// What came is no batch, or damaged itself.
    #[error(transparent)]
    Invalid(#[from] BatchError),
    /// It is not what stood there.
    #[error("what was fetched does not fit into the log: {reason}")]
    Misfit {
        /// Why.
        reason: String,
    },
    /// The range is not in the log any more.
    #[error("offsets {start} to {end} (exclusive) are not in the log any more")]
    Gone {
        /// The first offset.
        start: Offset,
        /// Behind the last one.
        end: Offset,
    },
    /// The disk failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Writes good batches over damaged ones, durably. Runs without the lock, on any thread; nothing
/// may cut the log or move its start meanwhile.
#[derive(Debug)]
#[must_use = "nothing is repaired until it runs"]
pub struct RepairJob {
    file: Arc<dyn File>,
    /// The first offset of the segment.
    base: Offset,
    position: u64,
    batches: Bytes,
}

/// What became of a [`RepairJob`]; give it back to [`Log::repaired`].
#[derive(Debug)]
#[must_use = "the log has to know"]
pub struct RepairOutcome {
    result: Result<(), FsError>,
    base: Offset,
    range: Range<u64>,
}

impl RepairJob {
    /// Writes and syncs. Blocks for as long as the disk takes.
    pub fn run(self) -> RepairOutcome {
        let end = self.position.saturating_add(to_u64(self.batches.len()));
        let write = || -> Result<(), FsError> {
            if self.file.size() < end {
                self.file.allocate(end)?;
            }
            self.file.write(self.position, &[&self.batches])?;
            self.file.sync()
        };
        RepairOutcome {
            result: write(),
            base: self.base,
            range: self.position..end,
        }
    }
}

impl Log {
    /// A job that puts `batches` where `offsets` cannot be read: from the first bad offset to the
    /// next good one, as [`ReadError::Corrupt`] tells them. They are held against everything that
    /// is known: CRC, offsets without a gap, the epochs of this log, and the room between the good
    /// batches around them.
    ///
    /// # Errors
    /// [`RepairError`] says why they are not what stood there.
    pub fn repair_job(
        &self,
        offsets: Range<Offset>,
        batches: Bytes,
    ) -> Result<RepairJob, RepairError> {
        self.check_online()?;
        let gone = || RepairError::Gone {
            start: offsets.start,
            end: offsets.end,
        };
        // The batch that holds the log start may begin before it, and lies there whole.
        if offsets.end <= self.start || offsets.end > self.end {
            return Err(gone());
        }
        self.check_repair(&offsets, &batches)?;
        let place = self.place_of(offsets.start)?.ok_or_else(gone)?;
        let misfit = |reason: String| RepairError::Misfit { reason };
        if offsets.end > place.end {
            return Err(misfit(format!("its segment ends at offset {}", place.end)));
        }
        let position = if offsets.start == place.base {
            0
        } else {
            let before = self.locate(&place, offsets.start.plus(-1)).map_err(read)?;
            if before.header.end_offset() != offsets.start {
                return Err(misfit("it begins within a good batch".to_owned()));
            }
            before.end()
        };
        let length = to_u64(batches.len());
        let end = position.saturating_add(length);
        let fits = if offsets.end < place.end {
            let next = self.locate(&place, offsets.end).map_err(read)?;
            next.header.base_offset() == offsets.end && next.position == end
        } else {
            let is_active = self.active.as_ref().is_some_and(|it| it.base == place.base);
            !is_active || end == place.size
        };
        if !fits {
            return Err(misfit(format!(
                "{length} bytes at position {position} do not reach the next good batch"
            )));
        }
        Ok(RepairJob {
            file: Arc::clone(place.file),
            base: place.base,
            position,
            batches,
        })
    }

    /// Takes in what became of a job. What was put back is checked again before it is served.
    ///
    /// # Errors
    /// If the disk failed: the data directory must go offline, unless it is only full.
    pub fn repaired(&mut self, outcome: RepairOutcome) -> Result<(), StorageError> {
        self.check_online()?;
        if let Err(error) = outcome.result {
            return Err(self.failed(error));
        }
        if let Some(active) = self.active.as_ref().filter(|it| it.base == outcome.base) {
            active.verified.forget(&outcome.range);
            return Ok(());
        }
        let found = self
            .sealed
            .binary_search_by_key(&outcome.base, |segment| segment.base);
        let Some(segment) = found.ok().and_then(|at| self.sealed.get_mut(at)) else {
            return Ok(());
        };
        segment.size = segment.size.max(outcome.range.end);
        segment.verified.forget(&outcome.range);
        // What was missing in them, or known to be damaged, is there now.
        let interval = self.config.index_interval_bytes;
        segment.reload(self.files.as_ref(), &self.directory, interval)?;
        Ok(())
    }

    fn check_repair(&self, offsets: &Range<Offset>, batches: &[u8]) -> Result<(), RepairError> {
        let misfit = |reason: String| Err(RepairError::Misfit { reason });
        let mut expected = offsets.start;
        for batch in split_batches(batches) {
            let view = batch?;
            view.check_crc()?;
            let header = view.header();
            if header.base_offset() != expected || !is_consistent(header) {
                return misfit(format!("offset {expected} is not where it must be"));
            }
            let known = self.epochs.at(expected);
            if known.is_some_and(|known| known != header.leader_epoch()) {
                return misfit(format!(
                    "offset {expected} is of another leader epoch than here"
                ));
            }
            expected = header.end_offset();
        }
        if expected != offsets.end || offsets.is_empty() {
            return misfit(format!("it ends at {expected} and not at {}", offsets.end));
        }
        Ok(())
    }
}

fn is_consistent(header: &BatchHeader) -> bool {
    header.record_count() > 0
        && header.last_offset_delta().checked_add(1) == Some(header.record_count())
}

/// The good batches around the damage are damaged too: repair from the first one on.
fn read(error: ReadError) -> RepairError {
    match error {
        ReadError::Storage(error) => error.into(),
        error => RepairError::Misfit {
            reason: error.to_string(),
        },
    }
}
