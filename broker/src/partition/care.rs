//! What keeps a partition in order: flushes, checkpoints, retention, its end.
//!
//! *Patterns: write-ahead log, low-water mark.*

use std::sync::Arc;

use strandline_core::{
    TopicConfig,
    replica::{Flush, Marks, Role},
};
use strandline_protocol::{ErrorCode, Offset, Timestamp, messages::Failure};
use strandline_storage::log::{Log, Removed};
use tokio::time::Instant;

use super::{
    Partition,
    configuration::log_config,
    directory::checkpointed,
    feed::Urgency,
    state::{Flushing, Moved, Queue, Unsynced, outcome_unknown},
};

impl Partition {
    /// Puts a topic's configuration in force.
    pub fn configure(self: &Arc<Self>, topic: &TopicConfig) {
        let mut inner = self.inner.lock();
        if let Some(log) = &mut inner.log {
            log.set_config(log_config(topic));
        }
        let flush = inner.replica.set_flush(topic.flush);
        let effects = self.settle(&mut inner, flush);
        drop(inner);
        self.perform(effects);
    }

    /// Syncs what was appended, and tells who waited for that. Blocks for as long as the disk
    /// takes. Called by whoever took the partition out of its directory's queue.
    pub fn flush(self: &Arc<Self>) {
        if let Some(reason) = self.directory.data().failure() {
            // An fsync that works now would not bring back what one that failed has lost.
            self.disk_failed(reason);
            return;
        }
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
                let mut effects = self.settle(&mut inner, wanted);
                if again {
                    effects.join(inner.want_flush());
                }
                let is_followers = matches!(inner.replica.role(), Role::Follower { .. });
                drop(inner);
                self.perform(effects);
                self.directory.synced(self);
                if is_followers {
                    self.surroundings.replication.flushed(self);
                }
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
            let queue = inner.want_flush();
            drop(inner);
            if queue == Queue::Join {
                self.directory.queue().push(Arc::clone(self));
            }
        }
    }

    /// Applies retention, and rolls a segment that is old enough. Blocks for as long as the disk
    /// takes, for a short time under the lock.
    pub fn retain(self: &Arc<Self>, now: Timestamp) {
        if self.directory.check_online().is_err() {
            return;
        }
        let _upkeep = self.upkeep.lock();
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
        let effects = self.settle(&mut inner, Flush::NotNeeded);
        drop(inner);
        self.perform(effects);
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

    /// Writes down what makes the next start quick. Blocks for as long as the disk takes; one at a
    /// time per partition.
    pub fn checkpoint(&self, now: Timestamp) {
        let _upkeep = self.upkeep.lock();
        let job = {
            let mut inner = self.inner.lock();
            inner.moved = Moved::Unlisted;
            let marks = inner.replica.marks();
            let Some(log) = &mut inner.log else {
                return;
            };
            // What is not committed may be cut again, by another leader.
            let Some(job) = log.checkpoint_job_to(marks.high_watermark, now) else {
                let recovery_point = log.recovery_point();
                drop(inner);
                self.remember(recovery_point, marks);
                return;
            };
            job
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

    /// Makes everything durable and closes the log; answers whoever still waits. Returns the
    /// recovery point, or none if that failed or it was closed before.
    pub fn close(&self, now: Timestamp) -> Option<Offset> {
        let _upkeep = self.upkeep.lock();
        let mut inner = self.inner.lock();
        let log = inner.log.take()?;
        let end = log.end();
        match log.close(now) {
            Ok(recovery_point) => {
                inner.durable_at_close(end);
                self.remember(recovery_point, inner.replica.marks());
                // What not every replica has is appended all the same.
                inner.release(Failure::new(
                    ErrorCode::LEADERSHIP_LOST,
                    "the batch was appended, and the broker stops before every replica in sync has \
                     it: send it again to the next leader, which knows whether it has it",
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

    /// Gives the log up because its topic was deleted, or it is kept elsewhere from now on; answers
    /// whoever waits for an acknowledgement with `failure`.
    pub fn give_up(&self, failure: Failure) -> Option<Log> {
        let mut inner = self.inner.lock();
        let log = inner.log.take();
        inner.release(failure);
        let feeds = inner.feeds.drain();
        drop(inner);
        self.surroundings.waits.remove(self.id);
        feeds
            .iter()
            .for_each(|feed| feed.touch(self.id, Urgency::Now));
        self.surroundings.replication.withdraw(self.id);
        log
    }

    /// The data directory has failed: whoever waits for an fsync will not get it.
    pub fn disk_failed(&self, reason: &str) {
        let mut inner = self.inner.lock();
        inner.release(outcome_unknown(reason));
        let feeds = inner.feeds.all();
        drop(inner);
        self.surroundings.waits.remove(self.id);
        feeds
            .iter()
            .for_each(|feed| feed.touch(self.id, Urgency::Now));
    }

    pub(super) fn remember(&self, recovery_point: Offset, marks: Marks) {
        self.directory.remember(
            self.name(),
            self.id.topic,
            checkpointed(recovery_point, marks),
        );
    }

    /// Gives back the space of segments that are no longer part of the log.
    pub(super) fn finish(&self, removed: Removed) {
        if let Err(error) = removed.finish()
            && self.inner.lock().log.is_some()
        {
            self.directory.refuse(&error);
        }
    }
}
