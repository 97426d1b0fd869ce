//! One partition: its log, its replica's state and who waits for them, behind one lock.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use parking_lot::Mutex;
use strandline_core::{
    TopicConfig,
    replica::{AckWait, Flush, Marks, Replica},
    waiting::{Condition, Parked, WaitingList},
};
use strandline_protocol::{
    ErrorCode, LeaderEpoch, Offset, Timestamp, TopicPartition,
    batch::BatchView,
    messages::{Acks, Failure, OffsetQuery},
};
use strandline_storage::{
    directory::PartitionName,
    log::{AppendError, ColdRange, Log, ReadError, Removed},
};
use tokio::time::Instant;

use super::{
    AckToken, Acknowledged, Appended, Directory, FetchWaits, Figures, Look, Opening, Read,
    ReadFailure, configuration::log_config, directory::checkpointed,
};
use crate::{metrics::TopicMetrics, server::Event};

/// One partition that this broker leads.
#[derive(Debug)]
pub struct Partition {
    id: TopicPartition,
    /// The topic's name, for paths, logs and metrics.
    topic: Arc<str>,
    directory: Arc<Directory>,
    waits: Arc<FetchWaits>,
    metrics: Arc<TopicMetrics>,
    /// Bytes ever made visible to consumers, since the partition was opened.
    visible: AtomicI64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// None once it was closed, or its topic deleted.
    log: Option<Log>,
    replica: Replica,
    acks: WaitingList<Mark, AckToken, Instant>,
    /// Appended batches above the high watermark: where each ends, and how many bytes it has.
    hidden: VecDeque<(Offset, i64)>,
    flushing: Flushing,
    unsynced: Unsynced,
}

/// Whether the directory knows that there is something that nobody waits for to be flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsynced {
    Unlisted,
    Listed,
}

/// What an acknowledgement waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Durable,
    HighWatermark,
}

/// How far the next flush has come. One runs at a time; what is appended meanwhile fills the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flushing {
    /// Nobody asked for one.
    Idle,
    /// It stands in the directory's queue.
    Queued,
    /// It runs.
    Running,
    /// It runs, and another one is wanted behind it.
    RunningAgain,
}

impl Partition {
    /// Takes up leadership over a log that was just opened.
    #[must_use]
    pub fn new(opening: Opening) -> Self {
        let Opening { log, .. } = opening;
        let replica = Replica::lead(
            opening.leader_epoch,
            opening.flush,
            log.start(),
            log.end(),
            log.durable(),
        );
        Self {
            id: opening.id,
            topic: opening.topic,
            directory: opening.directory,
            waits: opening.waits,
            metrics: opening.metrics,
            visible: AtomicI64::new(0),
            inner: Mutex::new(Inner {
                log: Some(log),
                replica,
                acks: WaitingList::new(),
                hidden: VecDeque::new(),
                flushing: Flushing::Idle,
                unsynced: Unsynced::Unlisted,
            }),
        }
    }

    /// Which partition it is.
    #[must_use]
    pub const fn id(&self) -> TopicPartition {
        self.id
    }

    /// The name of its topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Where it lies.
    #[must_use]
    pub const fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// What its directory calls it.
    #[must_use]
    pub fn name(&self) -> PartitionName {
        PartitionName {
            topic: self.topic.to_string(),
            partition: self.id.partition,
        }
    }

    /// The counters of its topic.
    #[must_use]
    pub fn metrics(&self) -> &TopicMetrics {
        &self.metrics
    }

    /// Bytes ever made visible to consumers: see [`FetchWaits`].
    #[must_use]
    pub fn visible(&self) -> i64 {
        self.visible.load(Ordering::SeqCst)
    }

    /// Appends one batch. If the acknowledgement has to wait, `token` gets it.
    ///
    /// # Errors
    /// The failure to answer with; nothing was appended then.
    pub fn append(
        self: &Arc<Self>,
        batch: &[u8],
        acks: Acks,
        now: Timestamp,
        token: impl FnOnce() -> AckToken,
    ) -> Result<Appended, Failure> {
        self.directory.check_online()?;
        let mut inner = self.inner.lock();
        let (epoch, log) = inner.open_log()?;
        let appended = log
            .append(batch, epoch, now)
            .map_err(|error| self.refuse_append(&error))?;
        let log_start_offset = log.start();
        let (end, bytes) = (log.end(), i64::try_from(batch.len()).unwrap_or(i64::MAX));
        let mut flush = Flush::NotNeeded;
        if !appended.duplicate {
            inner.hidden.push_back((end, bytes));
            flush = inner.replica.appended(end);
            let records = BatchView::first(batch).map_or(0, |batch| batch.header().record_count());
            self.metrics.appended(
                u64::try_from(batch.len()).unwrap_or(u64::MAX),
                u64::try_from(records).unwrap_or(0),
            );
        }
        let acknowledged = inner.await_ack(acks, appended.end_offset, token);
        self.settle(&mut inner, flush);
        drop(inner);
        Ok(Appended {
            base_offset: appended.base_offset,
            log_append_time: appended.log_append_time,
            log_start_offset,
            acknowledged,
        })
    }

    /// Looks up batches from `from` on for a consumer, without touching their bytes: up to `below`
    /// if that is given, and never above the high watermark.
    ///
    /// # Errors
    /// What to answer with; for [`ReadError::Corrupt`] see [`Partition::read_error`].
    pub fn read(
        &self,
        from: Offset,
        bytes_max: usize,
        known_epoch: Option<LeaderEpoch>,
        look: Look,
        below: Option<Offset>,
    ) -> Result<Result<Read, ColdRange>, ReadFailure> {
        self.directory.check_online()?;
        let mut inner = self.inner.lock();
        inner.open_log()?;
        inner.replica.check_epoch(known_epoch)?;
        inner.replica.check_fetch(from)?;
        let marks = inner.replica.marks();
        let mut read = Read {
            fetched: None,
            log_start_offset: marks.log_start,
            high_watermark: marks.high_watermark,
            visible: self.visible(),
        };
        if from >= marks.high_watermark || bytes_max == 0 {
            return Ok(Ok(read));
        }
        let (_, log) = inner.open_log()?;
        if look == Look::Warm
            && let Some(cold) = log.cold_range(from, bytes_max)
        {
            return Ok(Err(cold));
        }
        let fetched = log
            .read(
                from,
                bytes_max,
                below
                    .unwrap_or(marks.high_watermark)
                    .min(marks.high_watermark),
            )
            .map_err(|error| self.read_error(error))?;
        read.fetched = Some(fetched);
        Ok(Ok(read))
    }

    /// What a failed read or check is answered with; takes the directory offline if the disk failed.
    pub fn read_error(&self, error: ReadError) -> ReadFailure {
        if let ReadError::Storage(error) = &error {
            self.directory.fail(error);
        }
        let next_good = match &error {
            ReadError::Corrupt {
                offset, next_good, ..
            } => {
                tracing::error!(
                    topic = %self.topic, partition = %self.id.partition, %offset, %next_good,
                    "{error}"
                );
                Some(*next_good)
            }
            _ => None,
        };
        ReadFailure {
            failure: Failure::new(error.code(), error.to_string()),
            next_good,
        }
    }

    /// Answers a look-up of an offset: the offset, the record's timestamp and the leader epoch.
    ///
    /// # Errors
    /// What to answer with.
    pub fn find(
        &self,
        query: OffsetQuery,
    ) -> Result<(Option<Offset>, Option<Timestamp>, LeaderEpoch), Failure> {
        self.directory.check_online()?;
        let mut inner = self.inner.lock();
        let marks = inner.replica.marks();
        let epoch = inner.replica.leader_epoch();
        let knows_end = inner.replica.knows_high_watermark();
        let (_, log) = inner.open_log()?;
        let not_yet = || {
            Failure::new(
                ErrorCode::OFFSET_NOT_AVAILABLE,
                "the leader has not committed in its own epoch yet: retry",
            )
        };
        match query {
            OffsetQuery::Earliest => {
                let at = log.epoch_at(marks.log_start).unwrap_or(epoch);
                Ok((Some(marks.log_start), None, at))
            }
            OffsetQuery::Latest if knows_end => Ok((Some(marks.high_watermark), None, epoch)),
            OffsetQuery::Latest => Err(not_yet()),
            OffsetQuery::At(_) if !knows_end => Err(not_yet()),
            OffsetQuery::At(timestamp) => {
                let found = log
                    .offset_for_time(timestamp, marks.high_watermark)
                    .map_err(|error| self.read_error(error).failure)?;
                Ok(match found {
                    Some(found) => (
                        Some(found.offset),
                        Some(found.timestamp),
                        found.leader_epoch,
                    ),
                    None => (None, None, epoch),
                })
            }
        }
    }

    /// Moves the log start to `before`, durably. Waits for the disk: call it on a blocking thread.
    ///
    /// # Errors
    /// What to answer with.
    pub fn delete_before(&self, before: Option<Offset>, now: Timestamp) -> Result<Offset, Failure> {
        self.directory.check_online()?;
        let mut inner = self.inner.lock();
        let target = inner.replica.delete_target(before)?;
        let (_, log) = inner.open_log()?;
        let removed = log
            .delete_before(target, now)
            .map_err(|error| self.directory.refuse(&error))?;
        let (start, recovery_point) = (log.start(), log.recovery_point());
        inner.replica.log_started(start);
        let marks = inner.replica.marks();
        drop(inner);
        self.remember(recovery_point, marks);
        self.finish(removed);
        Ok(start)
    }

    /// Puts a topic's configuration in force.
    pub fn configure(self: &Arc<Self>, topic: &TopicConfig) {
        let mut inner = self.inner.lock();
        if let Some(log) = &mut inner.log {
            log.set_config(log_config(topic));
        }
        let flush = inner.replica.set_flush(topic.flush);
        self.settle(&mut inner, flush);
    }

    /// Where it stands; none once it is closed.
    #[must_use]
    pub fn figures(&self) -> Option<Figures> {
        let inner = self.inner.lock();
        inner.log.as_ref().map(|log| Figures {
            marks: inner.replica.marks(),
            bytes: log.bytes(),
            segments: log.segments(),
        })
    }

    /// Syncs what was appended, and tells who waited for that. Blocks for as long as the disk takes.
    /// Called by whoever took the partition out of its directory's queue.
    pub fn flush(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        inner.flushing = Flushing::Running;
        let Some(job) = inner.log.as_mut().and_then(Log::flush_job) else {
            inner.flushing = Flushing::Idle;
            return;
        };
        drop(inner);
        let started = Instant::now();
        let outcome = job.run();
        self.directory.flush_took(started.elapsed());
        let mut inner = self.inner.lock();
        let again = inner.flushing == Flushing::RunningAgain;
        inner.flushing = Flushing::Idle;
        let Some(log) = &mut inner.log else {
            return;
        };
        match log.flushed(outcome) {
            Ok(durable) => {
                let wanted = inner.replica.flushed(durable);
                self.settle(&mut inner, wanted);
                if again {
                    self.want_flush(&mut inner);
                }
                drop(inner);
                self.directory.synced(self);
            }
            Err(error) => {
                drop(inner);
                self.directory.fail(&error);
            }
        }
    }

    /// Has everything flushed that is not durable, whoever waits for it or not.
    pub fn flush_soon(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        inner.unsynced = Unsynced::Unlisted;
        let marks = inner.replica.marks();
        if inner.log.is_some() && marks.durable_end < marks.log_end {
            self.want_flush(&mut inner);
        }
    }

    /// Applies retention, and rolls a segment that is old enough. Blocks for as long as the disk
    /// takes, for a short time under the lock.
    pub fn retain(&self, now: Timestamp) {
        if self.directory.check_online().is_err() {
            return;
        }
        let mut inner = self.inner.lock();
        let high_watermark = inner.replica.marks().high_watermark;
        let Some(log) = &mut inner.log else {
            return;
        };
        if let Err(error) = log.roll_if_due(now)
            && let Some(fatal) = error.fatal()
        {
            self.directory.fail(fatal);
            return;
        }
        let removed = match log.apply_retention(now, high_watermark) {
            Ok(removed) => removed,
            Err(error) => {
                self.directory.refuse(&error);
                return;
            }
        };
        let (start, recovery_point) = (log.start(), log.recovery_point());
        inner.replica.log_started(start);
        let marks = inner.replica.marks();
        drop(inner);
        if removed.segments == 0 {
            return;
        }
        tracing::info!(
            topic = %self.topic, partition = %self.id.partition, segments = removed.segments,
            bytes = removed.bytes, log_start_offset = %start, "retention removed segments"
        );
        self.remember(recovery_point, marks);
        self.finish(removed);
    }

    /// Gives back the space of segments that are no longer part of the log.
    fn finish(&self, removed: Removed) {
        if let Err(error) = removed.finish()
            && self.inner.lock().log.is_some()
        {
            self.directory.refuse(&error);
        }
    }

    /// Writes down what makes the next start quick. Blocks for as long as the disk takes; one at a time per partition.
    pub fn checkpoint(&self, now: Timestamp) {
        let job = {
            let mut inner = self.inner.lock();
            inner.log.as_mut().and_then(|log| log.checkpoint_job(now))
        };
        let Some(job) = job else {
            return;
        };
        let recovery_point = job.recovery_point();
        let written = job.run();
        let inner = self.inner.lock();
        if inner.log.is_none() {
            // Deleted meanwhile: its files may have moved away under the job.
            return;
        }
        let marks = inner.replica.marks();
        drop(inner);
        match written {
            Err(error) if !error.is_full() => self.directory.fail(&error),
            _ => self.remember(recovery_point, marks),
        }
    }

    fn remember(&self, recovery_point: Offset, marks: Marks) {
        self.directory.remember(
            self.name(),
            self.id.topic,
            checkpointed(recovery_point, marks),
        );
    }

    /// Makes everything durable and closes the log; answers whoever still waits. Returns the
    /// recovery point, or none if that failed or it was closed before.
    pub fn close(&self, now: Timestamp) -> Option<Offset> {
        let mut inner = self.inner.lock();
        let log = inner.log.take()?;
        let end = log.end();
        match log.close(now) {
            Ok(recovery_point) => {
                inner.durable_at_close(end);
                self.remember(recovery_point, inner.replica.marks());
                inner.release(Failure::new(
                    ErrorCode::SHUTTING_DOWN,
                    "the partition was closed",
                ));
                Some(recovery_point)
            }
            Err(error) => {
                inner.release(outcome_unknown(&error.to_string()));
                drop(inner);
                self.directory.fail(&error);
                None
            }
        }
    }

    /// Gives the log up because its topic was deleted; answers whoever waits.
    pub fn delete(&self) -> Option<Log> {
        let mut inner = self.inner.lock();
        let log = inner.log.take();
        inner.release(Failure::new(
            ErrorCode::UNKNOWN_TOPIC_ID,
            "the topic was deleted",
        ));
        drop(inner);
        self.waits.remove(self.id);
        log
    }

    /// The data directory has failed: whoever waits for an fsync will not get it.
    pub fn disk_failed(&self, reason: &str) {
        self.inner.lock().release(outcome_unknown(reason));
        self.waits.remove(self.id);
    }

    fn refuse_append(&self, error: &AppendError) -> Failure {
        if let Some(fatal) = error.fatal() {
            self.directory.fail(fatal);
        } else if let AppendError::DiskFull(_) = error {
            self.directory.ran_full();
        }
        Failure::new(error.code(), error.to_string())
    }

    /// Tells everybody what has changed: who waits for marks, who waits for bytes, who flushes.
    fn settle(self: &Arc<Self>, inner: &mut Inner, flush: Flush) {
        let marks = inner.replica.marks();
        for (mark, offset) in [
            (Mark::Durable, marks.durable_end),
            (Mark::HighWatermark, marks.high_watermark),
        ] {
            for token in inner.acks.advance(&mark, offset.0) {
                acknowledge(token, None);
            }
        }
        let mut shown = 0_i64;
        while let Some((end, bytes)) = inner.hidden.front()
            && *end <= marks.high_watermark
        {
            shown = shown.saturating_add(*bytes);
            inner.hidden.pop_front();
        }
        if shown > 0 {
            let visible = self.visible.load(Ordering::SeqCst).saturating_add(shown);
            // Only moved under the lock; an atomic for those who look without it.
            self.visible.store(visible, Ordering::SeqCst);
            self.waits.advance(self.id, visible);
        }
        if flush == Flush::Wanted {
            self.want_flush(inner);
        } else if marks.durable_end < marks.log_end && inner.unsynced == Unsynced::Unlisted {
            inner.unsynced = Unsynced::Listed;
            self.directory.has_unsynced(self);
        }
    }

    fn want_flush(self: &Arc<Self>, inner: &mut Inner) {
        match inner.flushing {
            Flushing::Idle => {
                inner.flushing = Flushing::Queued;
                self.directory.queue().push(Arc::clone(self));
            }
            Flushing::Running => inner.flushing = Flushing::RunningAgain,
            Flushing::Queued | Flushing::RunningAgain => {}
        }
    }
}

impl Inner {
    fn open_log(&mut self) -> Result<(LeaderEpoch, &mut Log), Failure> {
        let epoch = self.replica.leader_epoch();
        match &mut self.log {
            Some(log) => Ok((epoch, log)),
            None => Err(Failure::new(
                ErrorCode::UNKNOWN_TOPIC_ID,
                "the partition is not served here any more: refresh metadata",
            )),
        }
    }

    fn await_ack(
        &mut self,
        acks: Acks,
        end: Offset,
        token: impl FnOnce() -> AckToken,
    ) -> Acknowledged {
        let (mark, offset) = match self.replica.ack_wait(acks, end) {
            AckWait::Unanswered | AckWait::Nothing => return Acknowledged::Now,
            AckWait::Durable(offset) => (Mark::Durable, offset),
            AckWait::HighWatermark(offset) => (Mark::HighWatermark, offset),
        };
        // The connection watches the deadline of the whole request; what is left here then is taken
        // out by the flush or the failure that must come.
        let never = Instant::now() + FAR_FUTURE;
        let condition = Condition::All(vec![(mark, offset.0)]);
        match self.acks.park(token(), never, condition) {
            Parked::Waiting(_) => Acknowledged::Later,
            Parked::Ready(_) => Acknowledged::Now,
        }
    }

    /// The log was closed after it was flushed up to `end`.
    fn durable_at_close(&mut self, end: Offset) {
        let _ = self.replica.flushed(end);
        for mark in [Mark::Durable, Mark::HighWatermark] {
            for token in self.acks.advance(&mark, end.0) {
                acknowledge(token, None);
            }
        }
    }

    fn release(&mut self, failure: Failure) {
        for mark in [Mark::Durable, Mark::HighWatermark] {
            for token in self.acks.remove_key(&mark) {
                acknowledge(token, Some(failure.clone()));
            }
        }
    }
}

const FAR_FUTURE: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3_600);

fn outcome_unknown(reason: &str) -> Failure {
    Failure::new(
        ErrorCode::UNKNOWN_SERVER_ERROR,
        format!("the batch was appended, but it is not known to be durable: {reason}"),
    )
}

fn acknowledge(token: AckToken, failure: Option<Failure>) {
    // A connection that is gone does not need the answer.
    let _ = token.events.send(Event::Acknowledged {
        slot: token.slot,
        index: token.index,
        failure,
    });
}
