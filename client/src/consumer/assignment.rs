//! Where a consumer stands in the partitions that are assigned to it: pure.

use std::sync::Arc;

use bytes::Bytes;
use strandline_protocol::{
    BrokerId, ErrorClass, ErrorCode, Offset, PartitionId, TopicId, batch::split_batches,
    messages::FetchedPartition,
};
use tokio::time::Instant;

use super::{OutOfRange, Records, source::Source};
use crate::{
    ClientError,
    routing::{Backoff, Topic},
};

/// What a partition is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing: it can be fetched.
    Idle,
    /// An answer.
    Fetching,
    /// That the application hears of a failure.
    Failed,
}

/// One assigned partition.
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) topic: Arc<str>,
    pub(super) topic_id: TopicId,
    pub(super) partition: PartitionId,
    /// What the application gets next.
    pub(super) position: Offset,
    /// What is fetched next: ahead of `position` by what waits for the application.
    pub(super) fetch_position: Offset,
    pub(super) high_watermark: Option<Offset>,
    /// Where reading ends, in `poll_to_end`.
    pub(super) end: Option<Offset>,
    pub(super) stage: Stage,
    /// Answers to questions from before the last seek are ignored.
    pub(super) generation: u64,
    pub(super) backoff: Backoff,
    pub(super) not_before: Option<Instant>,
    /// What was in the way of the last fetch, if anything.
    pub(super) obstacle: Option<String>,
    /// From whom it is read.
    pub(super) source: Source,
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
    /// Nothing; ask the replica that the leader names.
    OtherReplica,
    /// Nothing; ask the leader, and meanwhile whether it still is.
    ReplicaFailed,
    /// A failure that the application must hear of.
    Failure(ClientError),
}

impl Assignment {
    /// Moves; what was fetched is not wanted any more.
    pub(super) fn move_to(&mut self, position: Offset) {
        self.position = position;
        self.fetch_from(position);
        self.not_before = None;
    }

    /// Fetches from there on; what is on its way is not wanted any more.
    fn fetch_from(&mut self, position: Offset) {
        self.fetch_position = position;
        self.generation += 1;
        self.stage = Stage::Idle;
    }

    /// An answer has come: goes on behind the batches in `bytes` as far as their headers tell, so
    /// that the next fetch is on its way while their checksums are computed. If they turn out to be
    /// damaged, [`Assignment::receive`] goes back.
    pub(super) fn go_on_behind(&mut self, bytes: &[u8]) {
        self.stage = Stage::Idle;
        for batch in split_batches(bytes).map_while(Result::ok) {
            self.fetch_position = self.fetch_position.max(batch.header().end_offset());
        }
    }

    /// Whether nothing more is wanted.
    pub(super) fn is_at_end(&self) -> bool {
        self.end.is_some_and(|end| self.position >= end)
    }

    fn is_fetched_to_end(&self) -> bool {
        self.end.is_some_and(|end| self.fetch_position >= end)
    }

    /// Whether it is to be fetched now.
    pub(super) fn wants_fetch(&self, now: Instant) -> bool {
        self.stage == Stage::Idle
            && !self.is_fetched_to_end()
            && self.not_before.is_none_or(|pause| pause <= now)
    }

    /// Takes in what is known of the partition. Whatever is on its way to a broker that is not the
    /// one to read from any more is not waited for, and a pause that was begun before does not
    /// count.
    pub(super) fn learn(&mut self, topic: &Topic, now: Instant) {
        if !self.source.learn(topic, self.partition, now) {
            return;
        }
        self.backoff.reset();
        self.not_before = None;
        if self.stage == Stage::Fetching {
            // What waits for the application is fetched again: it is not counted twice.
            self.fetch_from(self.position);
        }
    }

    /// The broker that it is read from could not be asked.
    pub(super) fn source_failed(&mut self, now: Instant) {
        if self.source.leave_replica(now) {
            self.stage = Stage::Idle;
        } else {
            self.pause(now);
        }
    }

    /// A broker says nothing: if it is a replica, it is left, and its answer not waited for.
    pub(super) fn source_is_silent(&mut self, broker: BrokerId, now: Instant) {
        if self.source.is_replica(broker) && self.source.leave_replica(now) {
            self.fetch_from(self.position);
        }
    }

    /// Not again before a pause is over.
    pub(super) fn pause(&mut self, now: Instant) {
        self.stage = Stage::Idle;
        self.not_before = Some(now + self.backoff.next_pause());
    }

    /// Takes in what the leader said about a fetch that began at `from`, with the bytes that belong
    /// to it. Nothing of this partition waits for the application meanwhile.
    pub(super) fn receive(
        &mut self,
        answer: FetchedPartition,
        bytes: &Bytes,
        from: Offset,
        policy: OutOfRange,
        now: Instant,
    ) -> Brought {
        if !answer.failure.error.is_none() || bytes.is_empty() {
            // The next fetch is not on its way yet.
            self.stage = Stage::Idle;
        }
        let left = match answer.failure.error {
            ErrorCode::NONE => false,
            ErrorCode::OFFSET_NOT_AVAILABLE => self.source.replica_is_behind(now),
            _ => self.source.leave_replica(now),
        };
        if left {
            return Brought::ReplicaFailed;
        }
        match answer.failure.error {
            ErrorCode::NONE => {}
            // A broker that does not know what it holds does not lead.
            ErrorCode::OFFSET_OUT_OF_RANGE if answer.log_start_offset < Offset::ZERO => {
                self.pause(now);
                return Brought::WrongBroker;
            }
            ErrorCode::OFFSET_OUT_OF_RANGE => return self.out_of_range(&answer, from, policy),
            ErrorCode::CORRUPT => {
                return Brought::Failure(ClientError::Corrupt {
                    topic: self.topic.to_string(),
                    partition: self.partition,
                    offset: from,
                    next_good: answer.next_good_offset,
                    reason: answer.failure.message,
                });
            }
            code => {
                self.pause(now);
                self.obstacle = Some(format!("{} ({code})", answer.failure.message));
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
        self.obstacle = None;
        self.high_watermark = Some(answer.high_watermark);
        if let Some(replica) = answer.preferred_replica
            && bytes.is_empty()
        {
            self.source.prefer(replica, now);
            return Brought::OtherReplica;
        }
        self.decode(answer.high_watermark, from, bytes)
    }

    fn decode(&mut self, high_watermark: Offset, from: Offset, bytes: &Bytes) -> Brought {
        let topic = Arc::clone(&self.topic);
        let partition = self.partition;
        let decoded = Records::decode(topic, partition, from, high_watermark, bytes);
        let mut records = decoded.records;
        let mut next = decoded.next;
        if next != self.fetch_position {
            // The headers were wrong.
            self.fetch_from(next);
        }
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

    fn out_of_range(
        &mut self,
        answer: &FetchedPartition,
        from: Offset,
        policy: OutOfRange,
    ) -> Brought {
        self.position = match policy {
            OutOfRange::Beginning => answer.log_start_offset,
            OutOfRange::End => answer.high_watermark,
            OutOfRange::Error => {
                return Brought::Failure(ClientError::OutOfRange {
                    topic: self.topic.to_string(),
                    partition: self.partition,
                    offset: from,
                    start: answer.log_start_offset,
                    end: answer.high_watermark,
                });
            }
        };
        self.fetch_position = self.position;
        Brought::Nothing
    }
}
