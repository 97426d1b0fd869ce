//! Appending.
//!
//! *Pattern: write-ahead log.* *Pattern: idempotent receiver.*
//!
//! Every check comes before the first byte is written, so a refused batch leaves no trace.

use strandline_protocol::{LeaderEpoch, Offset, Timestamp};

use super::{Log, errors::AppendError};

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The offset of the first record.
    pub base_offset: Offset,
    /// The offset behind the last record: what must become durable before it is acknowledged.
    pub end_offset: Offset,
    /// Whether the batch was there already, and these are the offsets that it got the first time.
    pub duplicate: bool,
    /// The broker's time on the records, where the topic has `LogAppendTime`.
    pub log_append_time: Option<Timestamp>,
}

impl Log {
    /// Appends the one batch that `batch` is, as its leader in `leader_epoch`: checks it, decides
    /// by its producer's window whether it is new, and stamps offset, epoch and, if the topic wants
    /// that, the time. Costs one pass over the bytes for the CRC and one copy; does not wait for the
    /// disk but at the first append of an epoch and at a roll.
    ///
    /// The batch can be read at once, and is durable once [`Log::durable`] has reached
    /// [`Appended::end_offset`]. A duplicate may not be durable yet either.
    ///
    /// # Errors
    /// [`AppendError`] says why nothing was appended. After [`AppendError::Storage`] the log refuses
    /// everything; take the data directory offline.
    pub fn append(
        &mut self,
        batch: &[u8],
        leader_epoch: LeaderEpoch,
        now: Timestamp,
    ) -> Result<Appended, AppendError> {
        let _ = (batch, leader_epoch, now);
        todo!()
    }

    /// Appends batches that a leader has placed already, exactly as they are: each must begin where
    /// the one before ended, the first at [`Log::end`], and epochs must neither decrease nor exceed
    /// `leader_epoch`. All or none of them are appended.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_replicated(
        &mut self,
        batches: &[u8],
        leader_epoch: LeaderEpoch,
        now: Timestamp,
    ) -> Result<Appended, AppendError> {
        let _ = (batches, leader_epoch, now);
        todo!()
    }

    /// Closes the active segment if it has taken records for longer than `segment.ms`, or has
    /// outgrown `segment.bytes`. Returns whether it did.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn roll_if_due(&mut self, now: Timestamp) -> Result<bool, AppendError> {
        let _ = now;
        todo!()
    }
}
