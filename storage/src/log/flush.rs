//! What is durable, and the jobs that make it so.
//!
//! *Pattern: write-ahead log.* The durable offset advances over contiguous synced bytes only, to
//! the end that was published before the sync began.

use std::{ops::Range, sync::Arc};

use strandline_core::mutants::{self, Mutant};
use strandline_protocol::Offset;

use super::Log;
use crate::{
    error::StorageError,
    fs::{File, FsError},
};

/// Makes durable what was published when the job was made. Runs without the lock, on any thread.
#[derive(Debug)]
#[must_use = "nothing becomes durable until it runs"]
pub struct FlushJob {
    /// Oldest first; all that hold anything that may not be durable.
    files: Vec<Arc<dyn File>>,
    end: Offset,
    cuts: u64,
}

/// What became of a [`FlushJob`]; give it back to [`Log::flushed`].
#[derive(Debug)]
#[must_use = "the log has to know"]
pub struct FlushOutcome {
    result: Result<(), FsError>,
    end: Offset,
    cuts: u64,
}

/// Has the kernel begin to write what was appended, so that a later sync has less to do and no
/// storm of writes builds up. Makes nothing durable, and may be dropped. Runs without the lock, on
/// any thread; it costs about as much time as the append did.
#[derive(Debug)]
pub struct WritebackJob {
    file: Arc<dyn File>,
    range: Range<u64>,
}

impl WritebackJob {
    pub(super) const fn new(file: Arc<dyn File>, range: Range<u64>) -> Self {
        Self { file, range }
    }

    /// Hands the bytes to the disk without waiting for it, unless its queue is full.
    pub fn run(self) {
        self.file.start_writeback(self.range);
    }
}

impl FlushJob {
    /// The end (exclusive) of what it makes durable.
    #[must_use]
    pub const fn end(&self) -> Offset {
        self.end
    }

    /// Syncs. Blocks for as long as the disk takes.
    pub fn run(self) -> FlushOutcome {
        FlushOutcome {
            result: self.files.iter().try_for_each(|file| file.sync()),
            end: self.end,
            cuts: self.cuts,
        }
    }
}

impl FlushOutcome {
    /// Why the sync failed, if it did.
    #[must_use]
    pub fn error(&self) -> Option<&FsError> {
        self.result.as_ref().err()
    }
}

impl Log {
    /// A job that makes durable everything up to [`Log::end`]; none if it is durable already. While
    /// one runs, appends go on, and the next job covers them (group commit). Several may run at
    /// once, but one at a time is quicker.
    #[must_use = "nothing becomes durable until it runs"]
    pub fn flush_job(&mut self) -> Option<FlushJob> {
        if self.durable >= self.end || self.check_online().is_err() {
            return None;
        }
        let sealed = self.sealed.iter().filter(|segment| segment.needs_sync);
        let active = self.active.iter().map(|active| &active.file);
        let files = sealed.map(|segment| &segment.file).chain(active);
        Some(FlushJob {
            files: files.cloned().collect(),
            end: self.end,
            cuts: self.progress.cuts,
        })
    }

    /// What the kernel should begin to write by now: at most one job for every
    /// [`LogConfig::writeback_bytes`](super::LogConfig::writeback_bytes) appended.
    pub fn writeback_job(&mut self) -> Option<WritebackJob> {
        let every_bytes = self.config.writeback_bytes;
        self.active.as_mut()?.take_writeback(every_bytes)
    }

    /// Takes in what became of a job, and returns [`Log::durable`].
    ///
    /// # Errors
    /// If the sync failed: the log then refuses everything, and the data directory must go offline.
    pub fn flushed(&mut self, outcome: FlushOutcome) -> Result<Offset, StorageError> {
        self.check_online()?;
        if let Err(error) = outcome.result {
            // Whatever the reason: what was written since the last good sync may be lost.
            self.take_offline();
            return Err(error.into());
        }
        let synced = if mutants::is_active(Mutant::DurableOffsetTakenAfterSync) {
            self.end
        } else {
            outcome.end
        };
        // A job that began before the log was cut says nothing about what stands there now.
        if outcome.cuts == self.progress.cuts && synced > self.durable {
            self.durable = synced;
            for segment in &mut self.sealed {
                if segment.end <= synced {
                    segment.needs_sync = false;
                }
            }
        }
        Ok(self.durable)
    }

    /// Makes everything durable before it returns.
    ///
    /// # Errors
    /// As [`Log::flushed`].
    pub fn flush(&mut self) -> Result<Offset, StorageError> {
        match self.flush_job() {
            Some(job) => {
                let outcome = job.run();
                self.flushed(outcome)
            }
            None => self.check_online().map(|()| self.durable),
        }
    }
}
