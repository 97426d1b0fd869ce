//! One replica of a partition on this broker: how far it is written, durable and committed, and
//! what it is to the others.
//!
//! *Patterns: leader and followers, high-water mark, generation clock.* The rules are those of
//! Kafka's replication (KIP-101, KIP-279, KIP-320, KIP-497, KIP-903, KIP-966).
//!
//! **Owns** every decision between leader and followers: how far a follower is, who should be in
//! sync, where the high watermark lies, what a write waits for, where logs have parted. **Never**
//! touches the log: what the driver does with it, it tells here afterwards. Time is an argument,
//! counted from any fixed instant of the process.
//!
//! Under `flush=ack` a replica counts with its *durable* end, under `flush=async` with its log end.
//! A replica keeps its marks when its role changes. The high watermark of a leader never goes back;
//! a follower's does only when its log is cut below it, which takes an unclean election.

pub mod divergence;
mod facts;
mod follower;
mod isr;
mod leader;
mod marks;
mod progress;

use std::time::Duration;

use strandline_protocol::{
    BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionEpoch,
    messages::{Acks, Failure},
};

pub use facts::{PartitionFacts, Peer, Role, RoleChange, Standing};
pub use follower::{FollowerFetch, FollowerFlush, FollowerPosition, LeaderMarks};
pub use isr::{IsrProposal, PROPOSAL_RETRY, ProposalOutcome};
pub use marks::{AckWait, Flush, Marks, Opened};
pub use progress::FollowerState;

use crate::{
    invariants,
    mutants::{self, Mutant},
    topic_config::FlushMode,
};
use leader::Leadership;

/// The state of one replica.
#[derive(Clone, Debug)]
pub struct Replica {
    leader_epoch: LeaderEpoch,
    flush: FlushMode,
    /// Up to where `flush=ack` still has to flush what was acknowledged under `flush=async`.
    unflushed_before: Offset,
    marks: Marks,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Leader(Leadership),
    Follower { leader: BrokerId, matches: Matches },
    Idle,
}

/// Whether a follower's log is the beginning of its leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Matches {
    /// The leader has not found so yet.
    Unknown,
    Yes,
}

impl Replica {
    /// A replica whose log was just opened, before metadata has told what it is to do.
    ///
    /// Rule 17: the high watermark that was written down counts as far as the log reaches.
    #[must_use]
    pub fn open(flush: FlushMode, opened: Opened) -> Self {
        // A log that was emptied starts at its end: nothing below the start is left to be lost.
        let durable_end = opened.durable_end.max(opened.log_start);
        let high_watermark = if mutants::is_active(Mutant::HighWatermarkCheckpointAboveLog) {
            opened.high_watermark
        } else {
            opened.high_watermark.min(opened.log_end)
        };
        Self {
            leader_epoch: LeaderEpoch::NONE,
            flush,
            unflushed_before: durable_end,
            marks: Marks {
                log_start: opened.log_start,
                high_watermark: high_watermark.max(opened.log_start),
                durable_end,
                log_end: opened.log_end,
            },
            state: State::Idle,
        }
    }

    /// Takes up leadership in `leader_epoch`, as the only replica, over a log that recovery has
    /// found and made durable.
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
        let mut replica = Self::open(
            flush,
            Opened {
                log_start,
                log_end,
                durable_end,
                high_watermark: durable_end,
            },
        );
        replica.leader_epoch = leader_epoch;
        replica.state = State::Leader(Leadership::alone(log_end));
        replica.move_high_watermark();
        replica
    }

    /// Takes in what metadata says of the partition; `broker` is this one. What is older than what
    /// is known already changes nothing.
    ///
    /// Before a call that makes it the leader, the driver makes (epoch, log end) durable in the
    /// epoch checkpoint (rule 22); [`Replica::would_lead`] tells.
    pub fn learn(&mut self, broker: BrokerId, facts: &PartitionFacts, now: Duration) -> RoleChange {
        if facts.leader_epoch < self.leader_epoch {
            return RoleChange::Unchanged;
        }
        if facts.leader_epoch == self.leader_epoch {
            if let State::Leader(leadership) = &mut self.state
                && facts.partition_epoch >= leadership.isr.partition_epoch
            {
                leadership.learn(broker, facts, now);
                self.move_high_watermark();
            }
            return RoleChange::Unchanged;
        }
        self.leader_epoch = facts.leader_epoch;
        match facts.leader {
            Some(leader) if leader == broker => {
                let epoch_start = self.marks.log_end;
                let leadership = Leadership::new(broker, epoch_start, facts, now);
                self.state = State::Leader(leadership);
                self.move_high_watermark();
                RoleChange::Leads
            }
            Some(leader) => {
                let matches = Matches::Unknown;
                self.state = State::Follower { leader, matches };
                RoleChange::Follows { leader }
            }
            None => {
                self.state = State::Idle;
                RoleChange::Idles
            }
        }
    }

    /// Whether [`Replica::learn`] would begin a new epoch of this broker as the leader.
    #[must_use]
    pub fn would_lead(&self, broker: BrokerId, facts: &PartitionFacts) -> bool {
        facts.leader_epoch > self.leader_epoch && facts.leader == Some(broker)
    }

    /// What it is to its partition.
    #[must_use]
    pub const fn role(&self) -> Role {
        match &self.state {
            State::Leader(_) => Role::Leader,
            State::Follower { leader, .. } => Role::Follower { leader: *leader },
            State::Idle => Role::Idle,
        }
    }

    /// How many leaders the partition has had; [`LeaderEpoch::NONE`] before metadata has told.
    #[must_use]
    pub const fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// How often the partition has changed, as far as its leader knows; none unless this replica
    /// leads.
    #[must_use]
    pub fn partition_epoch(&self) -> Option<PartitionEpoch> {
        let leadership = self.leadership().ok()?;
        Some(leadership.isr.partition_epoch)
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
        let is_durable = self.marks.durable_end >= self.unflushed_before
            && match &self.state {
                State::Leader(leadership) => leadership.are_durable(self.unflushed_before),
                State::Follower { .. } | State::Idle => true,
            };
        if !is_durable {
            FlushMode::Async
        } else {
            self.flush
        }
    }

    /// Whether the high watermark is known to be the true one: this replica leads, and it has
    /// reached the start of the leader's own epoch. Reads at the end, offset look-ups and deletes
    /// wait for that ([`ErrorCode::OFFSET_NOT_AVAILABLE`]).
    #[must_use]
    pub fn knows_high_watermark(&self) -> bool {
        match &self.state {
            State::Leader(leadership) => {
                self.marks.high_watermark >= leadership.epoch_start
                    || mutants::is_active(Mutant::HighWatermarkBeforeEpochStart)
            }
            State::Follower { .. } | State::Idle => false,
        }
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

    /// Checks where a consumer wants to read: between the log start and the log end of a leader, or
    /// the high watermark of a follower (KIP-392).
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE` with the range; `OFFSET_NOT_AVAILABLE` from a follower that is not
    /// that far yet: ask the leader; `NOT_LEADER_OR_FOLLOWER` from a replica that has no leader.
    pub fn check_fetch(&self, offset: Offset) -> Result<(), Failure> {
        let marks = &self.marks;
        // Between the high watermark and the log end of a leader there is nothing to read yet, but
        // the position is not wrong: it is one to wait at.
        let end = match self.role() {
            Role::Leader => marks.log_end,
            Role::Follower { .. } => marks.high_watermark,
            Role::Idle => return Err(leader::not_leader()),
        };
        if offset >= marks.log_start && offset <= end {
            return Ok(());
        }
        if offset > end && self.role() != Role::Leader {
            return Err(Failure::new(
                ErrorCode::OFFSET_NOT_AVAILABLE,
                format!("this follower has committed up to offset {end}: ask the leader"),
            ));
        }
        Err(Failure::new(
            ErrorCode::OFFSET_OUT_OF_RANGE,
            format!(
                "offset {offset} is out of range: the partition holds {} to {} (exclusive)",
                marks.log_start, marks.high_watermark
            ),
        ))
    }

    /// The new log start for a deletion of everything below `before`; none means all that is
    /// committed. At or below the present start it is the present start.
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE` beyond the high watermark: what is not committed cannot be deleted.
    /// `OFFSET_NOT_AVAILABLE` while the true high watermark is not known. `NOT_LEADER_OR_FOLLOWER`
    /// if this replica does not lead.
    pub fn delete_target(&self, before: Option<Offset>) -> Result<Offset, Failure> {
        self.leadership()?;
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
        self.change_own(|marks| marks.log_end = log_end);
        self.flush_wanted()
    }

    /// Everything below `durable_end` survives a power cut. An older news than the last is ignored.
    pub fn flushed(&mut self, durable_end: Offset) -> Flush {
        assert!(
            durable_end <= self.marks.log_end,
            "offset {durable_end} cannot be durable in a log that ends at {}",
            self.marks.log_end
        );
        self.change_own(|marks| marks.durable_end = marks.durable_end.max(durable_end));
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

    /// How far this replica itself counts.
    const fn counted(&self) -> Offset {
        self.marks.counted(self.flush)
    }

    /// Changes how far this replica itself is.
    fn change_own(&mut self, change: impl FnOnce(&mut Marks)) {
        let before = self.counted();
        change(&mut self.marks);
        if let State::Leader(leadership) = &mut self.state
            && self.marks.counted(self.flush) > before
        {
            leadership.goes_on(before, self.flush);
        }
        self.move_high_watermark();
    }

    /// Rule 16: the only place where a leader's high watermark moves.
    fn move_high_watermark(&mut self) {
        let own = self.counted();
        let to = match &self.state {
            State::Leader(leadership) => leadership.candidate(own, self.flush),
            State::Follower { .. } | State::Idle => None,
        };
        let least = self.marks.log_start;
        move_to(&mut self.marks, to.unwrap_or(least));
    }
}

/// Moves the high watermark to `to`, but not back.
fn move_to(marks: &mut Marks, to: Offset) {
    marks.high_watermark = marks.high_watermark.max(to);
    // Stays on in release: a replica that contradicts itself must not acknowledge anything.
    if let Err(violation) = invariants::marks_are_ordered(marks) {
        panic!("{violation}");
    }
}

#[cfg(test)]
mod tests;
