//! Where a consumer stands in the partitions that are assigned to it: pure.

use std::sync::Arc;

use bytes::Bytes;
use strandline_protocol::{
    ErrorClass, ErrorCode, Offset, PartitionId, TopicId, messages::FetchedPartition,
};
use tokio::time::Instant;

use super::{OutOfRange, Records};
use crate::{ClientError, routing::Backoff};

/// What a partition is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing: it can be fetched.
    Idle,
    /// An answer.
    Fetching,
    /// That the application takes what was fetched.
    Fetched,
}

/// One assigned partition.
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) topic: Arc<str>,
    pub(super) topic_id: TopicId,
    pub(super) partition: PartitionId,
    /// What the application gets next.
    pub(super) position: Offset,
    pub(super) high_watermark: Option<Offset>,
    /// Where reading ends, in `poll_to_end`.
    pub(super) end: Option<Offset>,
    pub(super) stage: Stage,
    /// Answers to questions from before the last seek are ignored.
    pub(super) generation: u64,
    pub(super) backoff: Backoff,
    pub(super) not_before: Option<Instant>,
}

/// What an answer brought.
#[derive(Debug)]
pub(super) enum Brought {
    /// Records, and the position behind them.
    Records(Records, Offset),
    /// Nothing that concerns the application.
    Nothing,
    /// Nothing; ask who leads before asking again.
    WrongBroker,
    /// A failure that the application must hear of.
    Failure(ClientError),
}

impl Assignment {
    /// Moves; what was fetched is not wanted any more.
    pub(super) fn move_to(&mut self, position: Offset) {
        self.position = position;
        self.generation += 1;
        self.stage = Stage::Idle;
        self.not_before = None;
    }

    /// Whether nothing more is wanted.
    pub(super) fn is_at_end(&self) -> bool {
        self.end.is_some_and(|end| self.position >= end)
    }

    /// Whether it is to be fetched now.
    pub(super) fn wants_fetch(&self, now: Instant) -> bool {
        self.stage == Stage::Idle
            && !self.is_at_end()
            && self.not_before.is_none_or(|pause| pause <= now)
    }

    /// Not again before a pause is over.
    pub(super) fn pause(&mut self, now: Instant) {
        self.stage = Stage::Idle;
        self.not_before = Some(now + self.backoff.next_pause());
    }

    /// Takes in what the leader said, with the bytes that belong to it.
    pub(super) fn receive(
        &mut self,
        answer: FetchedPartition,
        bytes: &Bytes,
        policy: OutOfRange,
        now: Instant,
    ) -> Brought {
        self.stage = Stage::Idle;
        match answer.failure.error {
            ErrorCode::NONE => {}
            ErrorCode::OFFSET_OUT_OF_RANGE => return self.out_of_range(&answer, policy),
            ErrorCode::CORRUPT => {
                return Brought::Failure(ClientError::Corrupt {
                    topic: self.topic.to_string(),
                    partition: self.partition,
                    offset: self.position,
                    next_good: answer.next_good_offset,
                    reason: answer.failure.message,
                });
            }
            code => {
                self.pause(now);
                return match code.class() {
                    ErrorClass::RefreshMetadata => Brought::WrongBroker,
                    ErrorClass::Retry | ErrorClass::OutcomeUnknown => Brought::Nothing,
                    _ => {
                        let subject = format!("`{}`-{}", self.topic, self.partition);
                        Brought::Failure(ClientError::refused(subject, answer.failure))
                    }
                };
            }
        }
        self.backoff.reset();
        self.not_before = None;
        self.high_watermark = Some(answer.high_watermark);
        self.decode(answer.high_watermark, bytes)
    }

    fn decode(&mut self, high_watermark: Offset, bytes: &Bytes) -> Brought {
        let topic = Arc::clone(&self.topic);
        let partition = self.partition;
        let decoded = Records::decode(topic, partition, self.position, high_watermark, bytes);
        let mut records = decoded.records;
        let mut next = decoded.next;
        if let Some(end) = self.end {
            records.cut(end);
            next = next.min(end);
        }
        if !records.is_empty() {
            return Brought::Records(records, next);
        }
        match decoded.damage {
            Some((offset, error)) => Brought::Failure(ClientError::Corrupt {
                topic: self.topic.to_string(),
                partition,
                offset,
                next_good: None,
                reason: error.to_string(),
            }),
            None => {
                // Markers and what compaction left empty.
                self.position = next;
                Brought::Nothing
            }
        }
    }

    fn out_of_range(&mut self, answer: &FetchedPartition, policy: OutOfRange) -> Brought {
        match policy {
            OutOfRange::Beginning => self.position = answer.log_start_offset,
            OutOfRange::End => self.position = answer.high_watermark,
            OutOfRange::Error => {
                return Brought::Failure(ClientError::OutOfRange {
                    topic: self.topic.to_string(),
                    partition: self.partition,
                    offset: self.position,
                    start: answer.log_start_offset,
                    end: answer.high_watermark,
                });
            }
        }
        Brought::Nothing
    }
}
