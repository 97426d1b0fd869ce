//! What is durable, and the jobs that make it so.
//!
//! *Pattern: write-ahead log.* The durable offset advances over contiguous synced bytes only, to the
//! end that was published before the sync began.

use strandline_protocol::{Offset, Timestamp};

use super::Log;
use crate::error::StorageError;

/// Makes durable what was published when the job was made. Runs without the lock, on any thread.
#[derive(Debug)]
#[must_use = "nothing becomes durable until it runs"]
pub struct FlushJob {
    end: Offset,
}

/// What became of a [`FlushJob`]; give it back to [`Log::flushed`].
#[derive(Debug)]
#[must_use = "the log has to know"]
pub struct FlushOutcome {
    end: Offset,
}

impl FlushJob {
    /// The end (exclusive) of what it makes durable.
    #[must_use]
    pub const fn end(&self) -> Offset {
        self.end
    }

    /// Syncs. Blocks for as long as the disk takes.
    pub fn run(self) -> FlushOutcome {
        FlushOutcome { end: self.end }
    }
}

/// Writes down what makes the next start quick: the active index, the producers. Runs without the
/// lock, on any thread; one at a time per log.
#[derive(Debug)]
#[must_use = "nothing is written until it runs"]
pub struct CheckpointJob {
    recovery_point: Offset,
}

impl CheckpointJob {
    /// Writes, and returns the recovery point: what to put into the directory's checkpoint.
    ///
    /// # Errors
    /// If the disk fails. If it is only full ([`StorageError::is_full`]), nothing is lost but time
    /// at the next start, and [`CheckpointJob::recovery_point`] holds all the same.
    pub fn run(self) -> Result<Offset, StorageError> {
        Ok(self.recovery_point)
    }

    /// The recovery point: everything below it was synced before the job was made.
    #[must_use]
    pub const fn recovery_point(&self) -> Offset {
        self.recovery_point
    }
}

impl Log {
    /// A job that makes durable everything up to [`Log::end`]; none if it is durable already. While
    /// one runs, appends go on, and the next job covers them (group commit). Several may run at
    /// once, but one at a time is quicker.
    #[must_use = "nothing becomes durable until it runs"]
    pub fn flush_job(&mut self) -> Option<FlushJob> {
        todo!()
    }

    /// Takes in what became of a job, and returns [`Log::durable`].
    ///
    /// # Errors
    /// If the sync failed: the log then refuses everything, and the data directory must go offline.
    pub fn flushed(&mut self, outcome: FlushOutcome) -> Result<Offset, StorageError> {
        let _ = outcome;
        todo!()
    }

    /// Makes everything durable before it returns.
    ///
    /// # Errors
    /// As [`Log::flushed`].
    pub fn flush(&mut self) -> Result<Offset, StorageError> {
        if let Some(job) = self.flush_job() {
            self.flushed(job.run())
        } else {
            Ok(self.durable())
        }
    }

    /// The job to be run at most a second after new data was synced; none if the recovery point is
    /// where it was. Cheap: index and producers are written only every few megabytes.
    #[must_use = "nothing is written until it runs"]
    pub fn checkpoint_job(&mut self, now: Timestamp) -> Option<CheckpointJob> {
        let _ = now;
        todo!()
    }

    /// What a recovery may take for granted after a crash: everything below was synced.
    #[must_use]
    pub fn recovery_point(&self) -> Offset {
        self.durable()
    }

    /// Makes everything durable, writes indexes and snapshot, cuts unused allocation, and gives the
    /// log up. Returns the recovery point, which is the log end. No [`FlushJob`] or [`CheckpointJob`]
    /// may be running.
    ///
    /// # Errors
    /// If the disk fails: the directory was then not closed cleanly.
    pub fn close(self, now: Timestamp) -> Result<Offset, StorageError> {
        let _ = now;
        todo!()
    }
}
