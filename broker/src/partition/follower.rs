//! A partition as a follower keeps it: where it stands, and what becomes of what its leader tells.
//!
//! *Patterns: leader and followers, high-water mark, generation clock.* Core decides what an answer
//! asks for; here it is done to the log. Everything is held against the epoch in which the follower
//! asked, under the partition's lock: what comes late changes nothing.

use std::{ops::Range, sync::Arc};

use strandline_core::replica::{
    Flush, LeaderMarks, Marks, Role,
    divergence::{self, Reaction},
};
use strandline_protocol::{
    BrokerId, ErrorCode, LeaderEpoch, Offset, Timestamp,
    messages::{EpochEnd, ReplicaFetchedPartition},
};
use strandline_storage::{
    StorageError,
    log::{AppendError, Log, Removed},
};

use super::{Partition, state::Inner};

/// Where a follower stands: what its next fetch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPosition {
    /// Under which epoch it follows.
    pub leader_epoch: LeaderEpoch,
    /// The end of its log.
    pub fetch_offset: Offset,
    /// The epoch of its last batch; none if it has none.
    pub last_epoch: Option<LeaderEpoch>,
    /// The end of what survives a power cut.
    pub durable_offset: Offset,
    /// The first offset that it keeps.
    pub log_start_offset: Offset,
}

/// What became of what a leader has told of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// Nothing that the leader does not know: it goes on telling.
    Told,
    /// The follower stands elsewhere now, or is another one: it is to be named again.
    Moved,
    /// It cannot go on now; later it may.
    Failed,
}

impl Partition {
    /// What the next fetch from `leader` says; none if this replica does not follow it.
    #[must_use]
    pub fn fetch_position(&self, leader: BrokerId) -> Option<FetchPosition> {
        let inner = self.inner.lock();
        let log = inner.log.as_ref()?;
        let position = inner.replica.position(leader)?;
        Some(FetchPosition {
            leader_epoch: position.leader_epoch,
            fetch_offset: position.fetch_offset,
            last_epoch: log.last_batch_epoch(),
            durable_offset: position.durable_offset,
            log_start_offset: position.log_start_offset,
        })
    }

    /// Up to where it is durable, and under which epoch it follows, to be told to `leader` between
    /// fetches; none unless the leader has found that this log is the beginning of its own.
    #[must_use]
    pub fn flush_progress(&self, leader: BrokerId) -> Option<(LeaderEpoch, Offset)> {
        let position = self.inner.lock().replica.progress(leader)?;
        Some((position.leader_epoch, position.durable_offset))
    }

    /// Whether [`Partition::take_fetched`] will wait for the disk, or do more than append: to be
    /// called where that holds up nobody.
    #[must_use]
    pub fn is_slow_to_take(&self, told: &ReplicaFetchedPartition, batches: &[u8]) -> bool {
        let inner = self.inner.lock();
        let epoch = inner.log.as_ref().and_then(Log::latest_epoch);
        !told.failure.error.is_none()
            || told.diverging.is_some()
            || told.gap.is_some()
            || told.log_start_offset > inner.replica.marks().log_start
            // A new epoch is made durable before its first batch.
            || (!batches.is_empty() && epoch != Some(inner.replica.leader_epoch()))
    }

    /// Takes in what the leader has told in answer to a fetch in `epoch`, with `batches` as the
    /// part of the payload that belongs to it. May wait for the disk: see
    /// [`Partition::is_slow_to_take`].
    pub fn take_fetched(
        self: &Arc<Self>,
        epoch: LeaderEpoch,
        told: &ReplicaFetchedPartition,
        batches: &[u8],
        now: Timestamp,
    ) -> FetchOutcome {
        if self.directory.check_online().is_err() {
            return FetchOutcome::Failed;
        }
        if told.failure.error == ErrorCode::OFFSET_OUT_OF_RANGE {
            let decide = |_: &Log, marks: &Marks| {
                divergence::out_of_range(told.log_start_offset, told.log_end_offset, marks)
            };
            return self.cut(epoch, decide, now);
        }
        if !told.failure.error.is_none() {
            tracing::debug!(
                topic = %self.topic, partition = %self.id.partition, code = %told.failure.error,
                "the leader does not serve its follower: {}", told.failure.message
            );
            return FetchOutcome::Failed;
        }
        if let Some(end) = told.diverging {
            return self.cut(epoch, |log, marks| diverged(end, log, marks), now);
        }
        let (outcome, log_start) = self.append_fetched(epoch, told, batches, now);
        if let Some(log_start) = log_start {
            self.follow_log_start(epoch, log_start, now);
        }
        outcome
    }

    /// Appends, and takes over the leader's marks. Returns where the log should start now, if that
    /// is further on than it does.
    fn append_fetched(
        self: &Arc<Self>,
        epoch: LeaderEpoch,
        told: &ReplicaFetchedPartition,
        batches: &[u8],
        now: Timestamp,
    ) -> (FetchOutcome, Option<Offset>) {
        let mut inner = self.inner.lock();
        let Some((before, log)) = inner.following(epoch) else {
            return (FetchOutcome::Moved, None);
        };
        // A gap that begins elsewhere was told to a follower that stood there.
        let gap = told.gap.filter(|gap| gap.start == before);
        let left_out = match &gap {
            Some(gap) => log.leave_out(gap.end, now),
            None => Ok(()),
        };
        let appended = left_out.and_then(|()| match batches {
            [] => Ok(()),
            _ => log.append_replicated(batches, epoch, now).map(|_| ()),
        });
        let end = log.end();
        let writeback = log.writeback_job();
        let mut flush = Flush::NotNeeded;
        if end > before {
            // Also if the disk ran full behind the first of them.
            inner.hide(end, batches.len());
            let bytes = u64::try_from(batches.len()).unwrap_or(u64::MAX);
            self.surroundings.metrics.bytes_in.increment(bytes);
            flush = inner.replica.appended(end);
        }
        let log_start = inner.replica.leader_told(LeaderMarks {
            leader_epoch: epoch,
            high_watermark: told.high_watermark,
            log_start: told.log_start_offset,
        });
        let mut effects = self.settle(&mut inner, flush);
        effects.writeback = writeback;
        drop(inner);
        self.perform(effects);
        if let Some(gap) = gap.filter(|gap| gap.end <= end) {
            self.left_out(&(gap.start..gap.end));
        }
        let outcome = match appended {
            Err(error) => self.refuse_fetched(&error),
            Ok(()) if end > before => FetchOutcome::Moved,
            Ok(()) => FetchOutcome::Told,
        };
        (outcome, log_start)
    }

    /// The leader's log has a gap there, and so has this one now.
    fn left_out(&self, gap: &Range<Offset>) {
        tracing::error!(
            topic = %self.topic, partition = %self.id.partition,
            "offsets {} to {} are missing in the log of the leader: a repair took them out. They \
             are left out here, too, unless another replica has them",
            gap.start, gap.end.plus(-1)
        );
        let _ = self.surroundings.replication.removed(self.id, gap);
    }

    /// What was fetched could not be appended. Nothing is given up for that: it is fetched again.
    fn refuse_fetched(&self, error: &AppendError) -> FetchOutcome {
        if let Some(fatal) = error.fatal() {
            self.directory.fail(fatal);
        } else if let AppendError::DiskFull(_) = error {
            self.directory.ran_full();
        } else if let AppendError::NotAtLogEnd { .. } = error {
            tracing::debug!(topic = %self.topic, partition = %self.id.partition, "late: {error}");
        } else {
            tracing::warn!(
                topic = %self.topic, partition = %self.id.partition,
                "what the leader sent is not taken in, and fetched again: {error}"
            );
        }
        FetchOutcome::Failed
    }

    /// Rule 17: what the leader does not keep any more, a follower does not either.
    fn follow_log_start(self: &Arc<Self>, epoch: LeaderEpoch, log_start: Offset, now: Timestamp) {
        let _upkeep = self.upkeep.lock();
        let mut inner = self.inner.lock();
        let Some((_, log)) = inner.following(epoch) else {
            return;
        };
        match log.delete_before(log_start, now) {
            Ok(removed) => self.log_starts(inner, removed),
            Err(error) => {
                drop(inner);
                self.directory.refuse(&error);
            }
        }
    }

    fn log_starts(
        self: &Arc<Self>,
        mut inner: parking_lot::MutexGuard<'_, Inner>,
        removed: Removed,
    ) {
        let Some((start, recovery_point)) = inner
            .log
            .as_ref()
            .map(|log| (log.start(), log.recovery_point()))
        else {
            return;
        };
        inner.replica.log_started(start);
        let marks = inner.replica.marks();
        let effects = self.settle(&mut inner, Flush::NotNeeded);
        drop(inner);
        self.perform(effects);
        self.remember(recovery_point, marks);
        self.finish(removed);
    }

    /// Does to the log what `decide` says: it is another one than the leader's. Waits for the disk.
    fn cut(
        self: &Arc<Self>,
        epoch: LeaderEpoch,
        decide: impl Fn(&Log, &Marks) -> Reaction,
        now: Timestamp,
    ) -> FetchOutcome {
        let _upkeep = self.upkeep.lock();
        if let Err(outcome) = self.prepare_cut(epoch, &decide) {
            return outcome;
        }
        let mut inner = self.inner.lock();
        let marks = inner.replica.marks();
        let Some((before, log)) = inner.following(epoch) else {
            return FetchOutcome::Moved;
        };
        let reaction = decide(log, &marks);
        let done = match reaction {
            Reaction::Truncate(to) => log.truncate_to(to, now),
            Reaction::Restart(at) if at < log.start() => log.restart_before(at, now).map(|()| at),
            Reaction::Restart(at) => log.restart_at(at, now).map(|()| at),
            Reaction::Retry => return FetchOutcome::Failed,
        };
        let end = match done {
            Ok(end) => end,
            Err(error) => {
                drop(inner);
                return self.cut_failed(&error);
            }
        };
        let (start, recovery_point) = (log.start(), log.recovery_point());
        match reaction {
            Reaction::Restart(_) => inner.replica.restarted(start),
            _ => inner.replica.truncated(end),
        }
        inner.cut(end);
        let marks = inner.replica.marks();
        let effects = self.settle(&mut inner, Flush::NotNeeded);
        drop(inner);
        self.perform(effects);
        self.remember(recovery_point, marks);
        if end == before {
            // Nothing was gained by it; the leader must not be asked the same again at once.
            return FetchOutcome::Failed;
        }
        self.surroundings.metrics.truncations.increment(1);
        tracing::info!(
            topic = %self.topic, partition = %self.id.partition, from = %before, to = %end,
            "a replica has diverged and was cut"
        );
        FetchOutcome::Moved
    }

    /// Lowers what the disk remembers of the log to where it will end: what is cut must not be
    /// taken for damage by a start that comes in between.
    fn prepare_cut(
        &self,
        epoch: LeaderEpoch,
        decide: &impl Fn(&Log, &Marks) -> Reaction,
    ) -> Result<(), FetchOutcome> {
        if !self.directory.has_room() {
            return Err(FetchOutcome::Failed);
        }
        let most = {
            let mut inner = self.inner.lock();
            let marks = inner.replica.marks();
            let Some((_, log)) = inner.following(epoch) else {
                return Err(FetchOutcome::Moved);
            };
            match decide(log, &marks) {
                Reaction::Truncate(to) => log.cut_target(to),
                Reaction::Restart(at) => Ok(log.start().min(at)),
                Reaction::Retry => return Err(FetchOutcome::Failed),
            }
        };
        most.map_err(|error| self.cut_failed(&error))
            .and_then(|most| {
                let lowered = self.directory.lower(&self.name(), self.id.topic, most);
                lowered.map_err(|_| FetchOutcome::Failed)
            })
    }

    fn cut_failed(&self, error: &StorageError) -> FetchOutcome {
        tracing::error!(
            topic = %self.topic, partition = %self.id.partition,
            "the log has diverged from its leader's and cannot be cut: {error}"
        );
        if !matches!(error, StorageError::Refused { .. }) {
            self.directory.refuse(error);
        }
        FetchOutcome::Failed
    }
}

/// Rule 25.
fn diverged(told: EpochEnd, log: &Log, marks: &Marks) -> Reaction {
    divergence::diverged(told, marks, |epoch| log.end_offset_for(epoch))
}

impl Inner {
    /// The log and where it ends, if this replica follows in that very epoch.
    fn following(&mut self, epoch: LeaderEpoch) -> Option<(Offset, &mut Log)> {
        if !matches!(self.replica.role(), Role::Follower { .. }) {
            return None;
        }
        self.replica.check_following(epoch).ok()?;
        self.log.as_mut().map(|log| (log.end(), log))
    }
}

#[cfg(test)]
mod tests;
