//! What can go wrong between an application and its records, and what to do about it.
//!
//! One enum for the whole crate. It is `Clone`, because every record of a batch that fails gets the
//! same one. It keeps apart what must never be mixed up: a write that did *not* happen
//! ([`ClientError::TimedOutBeforeSending`], [`ClientError::Refused`]) and one of which nobody knows
//! ([`ClientError::OutcomeUnknown`]).

use std::time::Duration;

use strandline_protocol::{ErrorClass, ErrorCode, Offset, PartitionId, messages::Failure};

/// Why something did not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No connection could be opened.
    #[error(
        "cannot reach {address}: {reason}; is the broker running? start one with `strandline \
         server`"
    )]
    Unreachable {
        /// Which broker, or which brokers.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The connection ended before the request was sent: it has had no effect.
    #[error("the connection to {address} ended before the request was sent: {reason}; try again")]
    NotSent {
        /// Which broker.
        address: String,
        /// Why it ended.
        reason: String,
    },
    /// The request was sent, and then the connection ended or time ran out: it may or may not have
    /// taken effect.
    #[error("the outcome of {what} is unknown: {reason}; look before you repeat it")]
    OutcomeUnknown {
        /// What was asked for.
        what: String,
        /// Why there is no answer.
        reason: String,
    },
    /// The broker refused, and nothing was changed.
    #[error("{subject}: {message} ({code})")]
    Refused {
        /// What it was about, such as a topic.
        subject: String,
        /// The code.
        code: ErrorCode,
        /// The broker's explanation.
        message: String,
    },
    /// A record was not sent in its `delivery_timeout`; it has had no effect and may be sent again.
    #[error(
        "a record for {subject} was not sent within {}, so it was not written: {reason}; \
         send it again",
        seconds(*after)
    )]
    TimedOutBeforeSending {
        /// The topic and partition.
        subject: String,
        /// The time that it had.
        after: Duration,
        /// What was in the way last.
        reason: String,
    },
    /// An answer did not come in time, and the request changes nothing.
    #[error("{what} took longer than {}: {reason}", seconds(*after))]
    TimedOut {
        /// What was asked for.
        what: String,
        /// The time that it had.
        after: Duration,
        /// What was in the way last.
        reason: String,
    },
    /// No such topic.
    #[error(
        "topic `{topic}` does not exist; create it with `strandline topic create {topic}`, \
         or look at `strandline topic list`"
    )]
    UnknownTopic {
        /// Its name.
        topic: String,
    },
    /// The topic was deleted, and perhaps created again, while it was in use.
    #[error("topic `{topic}` was deleted while it was in use; its records are gone")]
    TopicDeleted {
        /// Its name.
        topic: String,
    },
    /// The topic has fewer partitions.
    #[error("topic `{topic}` has no partition {partition}; its partitions are 0 to \
     {}", partitions - 1)]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// What was asked for.
        partition: PartitionId,
        /// How many it has.
        partitions: i32,
    },
    /// A record does not fit into a batch.
    #[error(
        "a record of {bytes} bytes exceeds the maximum of {max} of topic `{topic}`: raise \
         its `max.message.bytes`, or split the record"
    )]
    RecordTooLarge {
        /// The topic.
        topic: String,
        /// The size of a batch that holds nothing else.
        bytes: usize,
        /// The largest batch that is accepted.
        max: usize,
    },
    /// A record cannot be encoded.
    #[error("the record cannot be encoded: {reason}")]
    InvalidRecord {
        /// What is wrong with it.
        reason: String,
    },
    /// `try_send` would have to wait.
    #[error("sending would have to wait {what}; use `send`, which waits")]
    WouldWait {
        /// For what.
        what: &'static str,
    },
    /// Another producer has taken over the identity of this one; it can do nothing more.
    #[error("the producer was fenced: {reason}; create a new one")]
    Fenced {
        /// What the broker said.
        reason: String,
    },
    /// Producer, consumer or client were closed.
    #[error("the {what} is closed")]
    Closed {
        /// What.
        what: &'static str,
    },
    /// An option is not valid.
    #[error("option `{option}` is not valid: {reason}")]
    InvalidOption {
        /// Its name.
        option: &'static str,
        /// What it must be.
        reason: String,
    },
    /// The position is not in the log, and no policy was chosen for that case.
    #[error(
        "offset {offset} of `{topic}`-{partition} is out of range: the log holds {start} to \
         {end}; seek, or set `out_of_range`"
    )]
    OutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionId,
        /// The position.
        offset: Offset,
        /// The first offset of the log.
        start: Offset,
        /// The end of what may be read.
        end: Offset,
    },
    /// The log is damaged at the position.
    #[error(
        "`{topic}`-{partition} is damaged at offset {offset}: {reason}; {}",
        next_good_advice(*next_good)
    )]
    Corrupt {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionId,
        /// Where.
        offset: Offset,
        /// Where reading can go on, if it is known.
        next_good: Option<Offset>,
        /// What is wrong.
        reason: String,
    },
    /// A record inside a valid batch cannot be read.
    #[error("the record at offset {offset} of `{topic}`-{partition} is malformed: {reason}")]
    MalformedRecord {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionId,
        /// Where.
        offset: Offset,
        /// What is wrong.
        reason: String,
    },
    /// A partition was named that is not assigned to the consumer.
    #[error("`{topic}`-{partition} is not assigned to this consumer; call `assign` first")]
    NotAssigned {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionId,
    },
    /// The peer does not keep to the protocol.
    #[error("{address} does not keep to the protocol: {reason}")]
    Protocol {
        /// Which broker.
        address: String,
        /// What it did.
        reason: String,
    },
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn next_good_advice(next_good: Option<Offset>) -> String {
    match next_good {
        Some(offset) => format!("reading can go on at offset {offset}"),
        None => "nothing behind it can be read yet".to_owned(),
    }
}

impl ClientError {
    /// What to do next; codes of a broker keep the class that the protocol gives them.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Unreachable { .. } | Self::NotSent { .. } | Self::WouldWait { .. } => {
                ErrorClass::Retry
            }
            Self::TimedOut { .. } | Self::TimedOutBeforeSending { .. } => ErrorClass::Retry,
            Self::OutcomeUnknown { .. } => ErrorClass::OutcomeUnknown,
            Self::Refused { code, .. } => code.class(),
            Self::Fenced { .. } => ErrorClass::Fenced,
            _ => ErrorClass::Fatal,
        }
    }

    /// The error that an entry of a response stands for.
    pub(crate) fn refused(subject: impl Into<String>, failure: Failure) -> Self {
        let message = if failure.message.is_empty() {
            "the broker refused it".to_owned()
        } else {
            failure.message
        };
        Self::Refused {
            subject: subject.into(),
            code: failure.error,
            message,
        }
    }

    /// As [`ClientError::refused`], but an unknown topic is told as such.
    pub(crate) fn of_topic(topic: &str, failure: Failure) -> Self {
        match failure.error {
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::UNKNOWN_TOPIC_ID => {
                Self::UnknownTopic {
                    topic: topic.to_owned(),
                }
            }
            _ => Self::refused(format!("topic `{topic}`"), failure),
        }
    }
}
