//! What requests do with a partition: append, read, look up, delete.
//!
//! *Patterns: write-ahead log, high-water mark, idempotent receiver.*

use std::sync::{Arc, atomic::Ordering};

use strandline_core::replica::{Flush, Role};
use strandline_protocol::{
    ErrorCode, LeaderEpoch, Offset, Timestamp,
    batch::BatchView,
    messages::{Acks, Failure, OffsetQuery},
};
use strandline_storage::{
    StorageError,
    log::{AppendError, ColdRange, Fetched, Log, ReadError},
};
use tokio::time::Instant;

use super::{
    AckToken, Appended, Look, Partition, Read, ReadFailure, Reading, Source,
    leading::lease_is_over,
    state::{not_leader, outcome_unknown},
};

impl Partition {
    /// Appends one batch. If the acknowledgement has to wait, `token` gets it.
    ///
    /// # Errors
    /// The failure to answer with; its code says whether nothing was appended or nobody knows.
    pub fn append(
        self: &Arc<Self>,
        batch: &[u8],
        acks: Acks,
        now: Timestamp,
        token: impl FnOnce() -> AckToken,
    ) -> Result<Appended, Failure> {
        self.directory.check_online()?;
        let mut inner = self.inner.lock();
        self.check_reigns(&inner)?;
        inner.replica.check_append(acks)?;
        let (epoch, log) = inner.open_log()?;
        let appended = log
            .append(batch, epoch, now)
            .map_err(|error| self.refuse_append(&error))?;
        let log_start_offset = log.start();
        let end = log.end();
        let mut flush = Flush::NotNeeded;
        if !appended.duplicate {
            inner.hide(end, batch.len());
            flush = inner.replica.appended(end);
            let records = BatchView::first(batch).map_or(0, |batch| batch.header().record_count());
            self.metrics.appended(
                u64::try_from(batch.len()).unwrap_or(u64::MAX),
                u64::try_from(records).unwrap_or(0),
            );
        }
        let acknowledged = inner.await_ack(acks, appended.end_offset, token);
        let mut effects = self.settle(&mut inner, flush);
        effects.writeback = inner.log.as_mut().and_then(Log::writeback_job);
        drop(inner);
        self.perform(effects);
        Ok(Appended {
            base_offset: appended.base_offset,
            log_append_time: appended.log_append_time,
            log_start_offset,
            acknowledged,
        })
    }

    /// Looks up batches for a consumer, without touching their bytes, never above the high
    /// watermark. What a repair took out is passed over, as what a compaction took out would be:
    /// the consumer sees it by the offsets.
    ///
    /// # Errors
    /// What to answer with; for [`ReadError::Corrupt`] see [`Partition::read_error`].
    pub fn read(&self, reading: &Reading) -> Result<Result<Read, ColdRange>, ReadFailure> {
        let Reading {
            from, bytes_max, ..
        } = *reading;
        self.directory.check_online()?;
        let mut inner = self.inner.lock();
        inner.open_log()?;
        match (reading.source, inner.replica.role()) {
            (_, Role::Leader) => self.check_reigns(&inner)?,
            // Who is cut off would let its readers wait for what never comes.
            (Source::Any, Role::Follower { .. }) if !self.surroundings.metadata.holds_lease() => {
                return Err(lease_is_over().into());
            }
            (Source::Any, Role::Follower { .. }) => {}
            (_, role) => return Err(not_leader(role).into()),
        }
        inner.replica.check_epoch(reading.known_epoch)?;
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
        if reading.look == Look::Warm
            && let Some(cold) = log.cold_range(from, bytes_max)
        {
            return Ok(Err(cold));
        }
        let end = reading
            .below
            .map_or(marks.high_watermark, |it| it.min(marks.high_watermark));
        let fetched = match log.read(from, bytes_max, end) {
            Err(ReadError::Removed { offset, next }) if next < end => {
                if let Some(failure) = self.being_put_back(&(offset..next)) {
                    return Err(failure.into());
                }
                log.read(next, bytes_max, end)
            }
            fetched => fetched,
        };
        read.fetched = Some(fetched.map_err(|error| self.read_error(error))?);
        Ok(Ok(read))
    }

    /// Looks up what a read has found cold, once it is in memory; none if it has gone since.
    #[must_use]
    pub fn read_again(&self, from: Offset, bytes_max: usize) -> Option<Fetched> {
        let inner = self.inner.lock();
        let log = inner.log.as_ref()?;
        log.read(from, bytes_max, log.end()).ok()
    }

    /// What of `fetched` is good in front of the damage that its check has met.
    #[must_use]
    pub fn good_part(&self, fetched: &Fetched, error: &ReadError) -> Option<Fetched> {
        let ReadError::Corrupt { offset, .. } = error else {
            return None;
        };
        let inner = self.inner.lock();
        let log = inner.log.as_ref()?;
        let good = log
            .read(fetched.base_offset, fetched.bytes.len(), *offset)
            .ok()?;
        (!good.bytes.is_empty() && good.check().is_ok()).then_some(good)
    }

    /// Whether the caller may bring a part of the log into memory that nobody waits for: one at a
    /// time may, until [`Partition::warmed`], however often it is asked for.
    pub fn may_warm(&self) -> bool {
        !self.is_warming.swap(true, Ordering::AcqRel)
    }

    /// Whoever was allowed to is done.
    pub fn warmed(&self) {
        self.is_warming.store(false, Ordering::Release);
    }

    /// What a failed read or check is answered with; takes the directory offline if its
    /// disk failed.
    pub fn read_error(&self, error: ReadError) -> ReadFailure {
        if let ReadError::Storage(error) = &error {
            self.directory.fail(error);
        }
        let (message, next_good) = match &error {
            ReadError::Corrupt {
                offset,
                next_good,
                reason,
            } => {
                let repair = self.being_repaired(&(*offset..*next_good));
                if self.damage_told.is_due(*next_good, Instant::now()) {
                    match repair {
                        Some(_) => tracing::warn!(
                            topic = %self.topic, partition = %self.id.partition, %offset,
                            %next_good,
                            "a batch has gone bad, and is fetched from another replica: {reason}"
                        ),
                        None => tracing::error!(
                            topic = %self.topic, partition = %self.id.partition, %offset,
                            %next_good, "{error}"
                        ),
                    }
                }
                if let Some(failure) = repair {
                    return failure.into();
                }
                // Where it is and where it ends have fields of their own.
                (reason.clone(), Some(*next_good))
            }
            _ => (error.to_string(), None),
        };
        ReadFailure {
            failure: Failure::new(error.code(), message),
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
        self.check_reigns(&inner)?;
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
                    .map_err(|error| {
                        // The answer has no field for where the damage is.
                        let message = error.to_string();
                        let code = self.read_error(error).failure.error;
                        Failure::new(code, message)
                    })?;
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
    pub fn delete_before(
        self: &Arc<Self>,
        before: Option<Offset>,
        now: Timestamp,
    ) -> Result<Offset, Failure> {
        self.directory.check_online()?;
        let _upkeep = self.upkeep.lock();
        let mut inner = self.inner.lock();
        self.check_reigns(&inner)?;
        let target = inner.replica.delete_target(before)?;
        let (_, log) = inner.open_log()?;
        let removed = log
            .delete_before(target, now)
            .map_err(|error| self.directory.refuse(&error))?;
        let (start, recovery_point) = (log.start(), log.recovery_point());
        inner.replica.log_started(start);
        let marks = inner.replica.marks();
        let effects = self.settle(&mut inner, Flush::NotNeeded);
        drop(inner);
        self.perform(effects);
        self.remember(recovery_point, marks);
        self.finish(removed);
        Ok(start)
    }

    fn refuse_append(&self, error: &AppendError) -> Failure {
        if let Some(fatal) = error.fatal() {
            self.directory.fail(fatal);
            if !matches!(fatal, StorageError::Offline { .. }) {
                // What failed may have written all of it, and a recovery would keep that.
                return outcome_unknown(&fatal.to_string());
            }
        } else if let AppendError::DiskFull(_) = error {
            self.directory.ran_full();
        }
        Failure::new(error.code(), error.to_string())
    }
}
