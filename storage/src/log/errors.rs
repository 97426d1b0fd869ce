//! Why an append or a read was refused, and which code says so on the wire.

use strandline_protocol::{
    ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp,
    batch::BatchError,
};

use crate::error::StorageError;

/// Why nothing was appended. The log, the producers' state and the epochs are as before.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The bytes are not a batch, or not one that a client may send.
    #[error(transparent)]
    Invalid(#[from] BatchError),
    /// The batch is larger than the topic accepts.
    #[error(
        "the batch has {bytes} bytes, the topic accepts {bytes_max}: send smaller batches, or \
         raise max.message.bytes"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What the topic accepts.
        bytes_max: usize,
    },
    /// A timestamp is too far from the broker's clock.
    #[error(
        "the timestamp {timestamp} is too far from the broker's clock, {now}: check the clocks"
    )]
    Timestamp {
        /// The offending one.
        timestamp: Timestamp,
        /// The broker's clock.
        now: Timestamp,
    },
    /// The sequence neither follows the last batch of the producer nor repeats one of the last
    /// five.
    #[error("producer {producer} sent sequence {sequence} where {expected} is due")]
    OutOfOrderSequence {
        /// Who.
        producer: ProducerId,
        /// What it sent.
        sequence: Sequence,
        /// What is due.
        expected: Sequence,
    },
    /// A newer incarnation of the producer has written.
    #[error(
        "producer {producer} has epoch {epoch}, but epoch {current} has written: another instance \
         has taken over"
    )]
    ProducerFenced {
        /// Who.
        producer: ProducerId,
        /// Its epoch.
        epoch: ProducerEpoch,
        /// The newest epoch.
        current: ProducerEpoch,
    },
    /// The log has batches of a newer leader, or the batch is newer than its leader.
    #[error("leader epoch {epoch} does not fit the log, whose last epoch is {current}")]
    LeaderEpoch {
        /// The epoch that was given.
        epoch: LeaderEpoch,
        /// The newest epoch of the log, or of the leader.
        current: LeaderEpoch,
    },
    /// A replicated batch does not begin where the log ends.
    #[error("the batch begins at offset {base_offset}, the log ends at {log_end}")]
    NotAtLogEnd {
        /// Where it begins.
        base_offset: Offset,
        /// Where it must.
        log_end: Offset,
    },
    /// There is no space; the same append works once there is.
    #[error("the disk is full: {0}; appends resume by themselves once there is space")]
    DiskFull(StorageError),
    /// The disk failed. The data directory must go offline.
    #[error(transparent)]
    Storage(StorageError),
}

impl AppendError {
    /// The code that tells a client.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(BatchError::BadRecord { .. } | BatchError::BadHeader { .. }) => {
                ErrorCode::INVALID_RECORD
            }
            Self::Invalid(_) => ErrorCode::CORRUPT_MESSAGE,
            Self::TooLarge { .. } => ErrorCode::MESSAGE_TOO_LARGE,
            Self::Timestamp { .. } => ErrorCode::INVALID_TIMESTAMP,
            Self::OutOfOrderSequence { .. } => ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
            Self::ProducerFenced { .. } => ErrorCode::INVALID_PRODUCER_EPOCH,
            Self::LeaderEpoch { .. } => ErrorCode::FENCED_LEADER_EPOCH,
            Self::NotAtLogEnd { .. } => ErrorCode::UNKNOWN_SERVER_ERROR,
            Self::DiskFull(_) => ErrorCode::DISK_FULL,
            Self::Storage(_) => ErrorCode::STORAGE_ERROR,
        }
    }

    /// The failure that must take the data directory offline, if it is one.
    #[must_use]
    pub const fn fatal(&self) -> Option<&StorageError> {
        match self {
            Self::Storage(error) => Some(error),
            _ => None,
        }
    }
}

impl From<StorageError> for AppendError {
    fn from(error: StorageError) -> Self {
        if error.is_full() {
            Self::DiskFull(error)
        } else {
            Self::Storage(error)
        }
    }
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is not in the log.
    #[error("offset {offset} is not in the log, which is {start} to {end}")]
    OutOfRange {
        /// What was asked for.
        offset: Offset,
        /// The log start offset.
        start: Offset,
        /// The log end offset.
        end: Offset,
    },
    /// What is on disk at that offset is not what was written. It is never served.
    #[error(
        "the log is damaged at offset {offset} ({reason}); the next good offset is {next_good}: \
         skip to it, or restore the partition"
    )]
    Corrupt {
        /// The first offset that cannot be read.
        offset: Offset,
        /// From where reading can go on.
        next_good: Offset,
        /// What is wrong.
        reason: String,
    },
    /// A repair took the offset out; see [`super::inspect`]. Nothing of it can be read, and whoever
    /// can do without goes on behind.
    #[error("offsets {offset} to {} were damaged, and taken out by a repair", next.plus(-1))]
    Removed {
        /// The offset that was asked for.
        offset: Offset,
        /// The first offset behind what was taken out.
        next: Offset,
    },
    /// The disk failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl ReadError {
    /// The code that tells a client.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::OutOfRange { .. } => ErrorCode::OFFSET_OUT_OF_RANGE,
            Self::Corrupt { .. } | Self::Removed { .. } => ErrorCode::CORRUPT,
            Self::Storage(_) => ErrorCode::STORAGE_ERROR,
        }
    }
}
