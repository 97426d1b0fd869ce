//! One partition on this broker: how far it is written, durable and committed.
//!
//! *Patterns: leader and followers, high-water mark, generation clock.* The rules are those of
//! Kafka's replication (KIP-101, KIP-279, KIP-320) for a partition whose only in-sync replica is
//! its leader; followers and their progress join here later.
//!
//! Under `flush=ack` a replica counts with its *durable* end, under `flush=async` with its log end.
//! So the high watermark of a single replica is the one or the other, and never goes back.

use strandline_protocol::{
    ErrorCode, LeaderEpoch, Offset,
    messages::{Acks, Failure},
};

use crate::{
    invariants,
    mutants::{self, Mutant},
    topic_config::FlushMode,
};

/// What a write of one batch has to wait for before it may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckWait {
    /// There is no answer.
    Unanswered,
    /// Nothing: it may be answered at once.
    Nothing,
    /// The leader's durable end reaches this offset.
    Durable(Offset),
    /// The high watermark reaches this offset.
    HighWatermark(Offset),
}

/// Whether the driver has to start a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "who is told to flush and does not leaves writers waiting"]
pub enum Flush {
    /// Nobody waits for one.
    NotNeeded,
    /// Everything up to the log end of now should become durable soon.
    Wanted,
}

/// Where a partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// The first offset that is kept.
    pub log_start: Offset,
    /// The end of what consumers may read.
    pub high_watermark: Offset,
    /// The end of what survives a power cut of this broker.
    pub durable_end: Offset,
    /// The end of what is appended.
    pub log_end: Offset,
}

/// The state of the leader of a partition.
#[derive(Clone, Debug)]
pub struct Replica {
    leader_epoch: LeaderEpoch,
    /// Where this leader's own records begin; below it lies what earlier ones wrote.
    epoch_start: Offset,
    flush: FlushMode,
    /// Up to where `flush=ack` still has to flush what was acknowledged under `flush=async`.
    unflushed_before: Offset,
    marks: Marks,
}

impl Replica {
    /// Takes up leadership in `leader_epoch` over a log that recovery has found and made durable.
    ///
    /// The only replica's high watermark is its durable end: nobody else could contradict it.
    #[must_use]
    pub fn lead(
        leader_epoch: LeaderEpoch,
        flush: FlushMode,
        log_start: Offset,
        log_end: Offset,
        durable_end: Offset,
    ) -> Self {
        // A log that was emptied starts at its end: nothing below the start is left to be lost.
        let durable_end = durable_end.max(log_start);
        let mut replica = Self {
            leader_epoch,
            epoch_start: log_end,
            flush,
            unflushed_before: durable_end,
            marks: Marks {
                log_start,
                high_watermark: durable_end,
                durable_end,
                log_end,
            },
        };
        replica.move_high_watermark();
        replica
    }

    /// How many leaders the partition has had.
    #[must_use]
    pub const fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// Where the partition stands.
    #[must_use]
    pub const fn marks(&self) -> Marks {
        self.marks
    }

    /// What an acknowledgement means as of now: `flush=ack` counts only once what was acknowledged
    /// before the switch is durable too.
    #[must_use]
    pub fn flush_in_force(&self) -> FlushMode {
        if self.marks.durable_end < self.unflushed_before {
            FlushMode::Async
        } else {
            self.flush
        }
    }

    /// Whether the high watermark is known to be the true one: it has reached the start of the
    /// leader's own epoch. Reads at the end, offset look-ups and deletes wait for that
    /// ([`ErrorCode::OFFSET_NOT_AVAILABLE`]).
    #[must_use]
    pub fn knows_high_watermark(&self) -> bool {
        self.marks.high_watermark >= self.epoch_start
    }

    /// Holds the epoch that a request knows against the leader's (KIP-320); none is not checked.
    ///
    /// # Errors
    /// `FENCED_LEADER_EPOCH` if the request's is older, `UNKNOWN_LEADER_EPOCH` if it is newer.
    pub fn check_epoch(&self, known: Option<LeaderEpoch>) -> Result<(), Failure> {
        let own = self.leader_epoch;
        match known {
            Some(known) if known < own => Err(Failure::new(
                ErrorCode::FENCED_LEADER_EPOCH,
                format!("leader epoch {known} is over, it is {own} now: refresh metadata"),
            )),
            Some(known) if known > own => Err(Failure::new(
                ErrorCode::UNKNOWN_LEADER_EPOCH,
                format!("leader epoch {known} is not known here yet, it is {own}: retry"),
            )),
            _ => Ok(()),
        }
    }

    /// Checks where a consumer wants to read: between the log start and the log end.
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE` with the range.
    pub fn check_fetch(&self, offset: Offset) -> Result<(), Failure> {
        // Between the high watermark and the log end there is nothing to read yet, but the position
        // is not wrong: it is one to wait at.
        if offset >= self.marks.log_start && offset <= self.marks.log_end {
            return Ok(());
        }
        Err(Failure::new(
            ErrorCode::OFFSET_OUT_OF_RANGE,
            format!(
                "offset {offset} is out of range: the partition holds {} to {} (exclusive)",
                self.marks.log_start, self.marks.high_watermark
            ),
        ))
    }

    /// The new log start for a deletion of everything below `before`; none means all that is
    /// committed. At or below the present start it is the present start.
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE` beyond the high watermark: what is not committed cannot be deleted.
    /// `OFFSET_NOT_AVAILABLE` while the true high watermark is not known.
    pub fn delete_target(&self, before: Option<Offset>) -> Result<Offset, Failure> {
        if !self.knows_high_watermark() {
            return Err(Failure::new(
                ErrorCode::OFFSET_NOT_AVAILABLE,
                "the leader has not committed in its own epoch yet: retry",
            ));
        }
        let before = before.unwrap_or(self.marks.high_watermark);
        if before < Offset::ZERO || before > self.marks.high_watermark {
            return Err(Failure::new(
                ErrorCode::OFFSET_OUT_OF_RANGE,
                format!(
                    "cannot delete before offset {before}: the partition holds {} to {} \
                     (exclusive)",
                    self.marks.log_start, self.marks.high_watermark
                ),
            ));
        }
        Ok(before.max(self.marks.log_start))
    }

    /// What the answer to a write waits for whose records end at `end` (exclusive).
    ///
    /// An acknowledgement counts replicas: `acks=1` the leader, `acks=all` every in-sync one. Under
    /// `flush=ack` each of them counts only with what is durable.
    #[must_use]
    pub fn ack_wait(&self, acks: Acks, end: Offset) -> AckWait {
        if mutants::is_active(Mutant::AcknowledgeBeforeFsync) {
            return AckWait::Nothing;
        }
        match (acks, self.flush) {
            (Acks::None, _) => AckWait::Unanswered,
            (Acks::Leader, FlushMode::Async) => AckWait::Nothing,
            (Acks::Leader, FlushMode::Ack) if end <= self.marks.durable_end => AckWait::Nothing,
            (Acks::Leader, FlushMode::Ack) => AckWait::Durable(end),
            (Acks::All, _) if end <= self.marks.high_watermark => AckWait::Nothing,
            (Acks::All, _) => AckWait::HighWatermark(end),
        }
    }

    /// The log has grown to `log_end`. Returns whether somebody will wait for a flush.
    pub fn appended(&mut self, log_end: Offset) -> Flush {
        assert!(
            log_end >= self.marks.log_end,
            "the log end goes back from {} to {log_end}",
            self.marks.log_end
        );
        self.marks.log_end = log_end;
        self.move_high_watermark();
        self.flush_wanted()
    }

    /// Everything below `durable_end` survives a power cut. An older news than the last is ignored.
    pub fn flushed(&mut self, durable_end: Offset) -> Flush {
        assert!(
            durable_end <= self.marks.log_end,
            "offset {durable_end} cannot be durable in a log that ends at {}",
            self.marks.log_end
        );
        self.marks.durable_end = self.marks.durable_end.max(durable_end);
        self.move_high_watermark();
        self.flush_wanted()
    }

    /// The log starts at `log_start` now: retention, or a deletion that [`Replica::delete_target`]
    /// allowed. Only moves forward.
    pub fn log_started(&mut self, log_start: Offset) {
        self.marks.log_start = self.marks.log_start.max(log_start);
        self.move_high_watermark();
    }

    /// Changes what an acknowledgement means. Going from `async` to `ack` flushes first: until what
    /// was acknowledged is durable, [`Replica::flush_in_force`] stays at `async`.
    pub fn set_flush(&mut self, flush: FlushMode) -> Flush {
        if self.flush != flush {
            self.flush = flush;
            self.unflushed_before = match flush {
                FlushMode::Ack => self.marks.high_watermark,
                FlushMode::Async => self.marks.durable_end,
            };
            self.move_high_watermark();
        }
        self.flush_wanted()
    }

    fn flush_wanted(&self) -> Flush {
        if self.flush == FlushMode::Ack && self.marks.durable_end < self.marks.log_end {
            Flush::Wanted
        } else {
            Flush::NotNeeded
        }
    }

    /// The only place where the high watermark moves.
    fn move_high_watermark(&mut self) {
        let counted = match self.flush {
            FlushMode::Ack => self.marks.durable_end,
            FlushMode::Async => self.marks.log_end,
        };
        self.marks.high_watermark = self.marks.high_watermark.max(counted);
        // Stays on in release: a replica that contradicts itself must not acknowledge anything.
        if let Err(violation) = invariants::marks_are_ordered(&self.marks) {
            panic!("{violation}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(flush: FlushMode) -> Replica {
        Replica::lead(LeaderEpoch(3), flush, Offset(0), Offset(10), Offset(10))
    }

    #[test]
    fn under_ack_the_high_watermark_is_what_is_durable() {
        let mut replica = replica(FlushMode::Ack);
        assert_eq!(replica.appended(Offset(15)), Flush::Wanted);
        assert_eq!(replica.marks().high_watermark, Offset(10));
        let all = replica.ack_wait(Acks::All, Offset(15));
        assert_eq!(all, AckWait::HighWatermark(Offset(15)));
        let leader = replica.ack_wait(Acks::Leader, Offset(15));
        assert_eq!(leader, AckWait::Durable(Offset(15)));
        assert_eq!(replica.appended(Offset(20)), Flush::Wanted);
        assert_eq!(replica.flushed(Offset(15)), Flush::Wanted);
        assert_eq!(replica.marks().high_watermark, Offset(15));
        assert_eq!(replica.flushed(Offset(20)), Flush::NotNeeded);
        assert_eq!(replica.ack_wait(Acks::All, Offset(20)), AckWait::Nothing);
        assert_eq!(
            replica.ack_wait(Acks::None, Offset(20)),
            AckWait::Unanswered
        );
    }

    #[test]
    fn under_async_it_is_the_log_end() {
        let mut replica = replica(FlushMode::Async);
        assert_eq!(replica.appended(Offset(15)), Flush::NotNeeded);
        assert_eq!(replica.marks().high_watermark, Offset(15));
        assert_eq!(replica.ack_wait(Acks::All, Offset(15)), AckWait::Nothing);
        assert_eq!(replica.ack_wait(Acks::Leader, Offset(15)), AckWait::Nothing);
    }

    #[test]
    fn switching_to_ack_flushes_first() {
        let mut replica = replica(FlushMode::Async);
        assert_eq!(replica.appended(Offset(15)), Flush::NotNeeded);
        assert_eq!(replica.set_flush(FlushMode::Ack), Flush::Wanted);
        assert_eq!(replica.flush_in_force(), FlushMode::Async);
        // What consumers have seen stays visible; what comes now waits for the disk.
        assert_eq!(replica.appended(Offset(18)), Flush::Wanted);
        assert_eq!(replica.marks().high_watermark, Offset(15));
        assert_eq!(
            replica.ack_wait(Acks::Leader, Offset(18)),
            AckWait::Durable(Offset(18))
        );
        assert_eq!(replica.flushed(Offset(15)), Flush::Wanted);
        assert_eq!(replica.flush_in_force(), FlushMode::Ack);
        assert_eq!(replica.set_flush(FlushMode::Async), Flush::NotNeeded);
        assert_eq!(replica.marks().high_watermark, Offset(18));
    }

    #[test]
    fn epochs_are_held_against_the_leaders() {
        let replica = replica(FlushMode::Ack);
        let error = |epoch| {
            replica
                .check_epoch(epoch)
                .err()
                .map(|failure| failure.error)
        };
        assert_eq!(error(None), None);
        assert_eq!(error(Some(LeaderEpoch(3))), None);
        assert_eq!(
            error(Some(LeaderEpoch(2))),
            Some(ErrorCode::FENCED_LEADER_EPOCH)
        );
        assert_eq!(
            error(Some(LeaderEpoch(4))),
            Some(ErrorCode::UNKNOWN_LEADER_EPOCH)
        );
    }

    #[test]
    fn only_what_is_committed_can_be_deleted() {
        let mut replica = replica(FlushMode::Ack);
        assert_eq!(replica.appended(Offset(20)), Flush::Wanted);
        assert_eq!(replica.delete_target(None), Ok(Offset(10)));
        assert_eq!(replica.delete_target(Some(Offset(4))), Ok(Offset(4)));
        replica.log_started(Offset(6));
        assert_eq!(replica.delete_target(Some(Offset(4))), Ok(Offset(6)));
        for wrong in [Offset(11), Offset(-1)] {
            let refused = replica
                .delete_target(Some(wrong))
                .expect_err("out of range");
            assert_eq!(refused.error, ErrorCode::OFFSET_OUT_OF_RANGE);
        }
        assert!(replica.check_fetch(Offset(5)).is_err());
        assert!(replica.check_fetch(Offset(20)).is_ok());
        assert!(replica.check_fetch(Offset(21)).is_err());
    }

    #[test]
    fn a_leader_that_is_not_durable_yet_does_not_know_the_end() {
        let mut replica = Replica::lead(
            LeaderEpoch(1),
            FlushMode::Ack,
            Offset(0),
            Offset(10),
            Offset(5),
        );
        assert!(!replica.knows_high_watermark());
        assert!(replica.delete_target(None).is_err());
        assert_eq!(replica.flushed(Offset(10)), Flush::NotNeeded);
        assert!(replica.knows_high_watermark());
    }
}
