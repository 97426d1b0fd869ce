//! What followers say, and how one's marks follow its leader's.

use strandline_protocol::{
    BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, messages::Failure,
};

use super::{Marks, Matches, Replica, Role, State, move_to};
use crate::mutants::{self, Mutant};

/// A follower's fetch, as its leader judges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerFetch {
    /// The follower.
    pub broker: BrokerId,
    /// Its incarnation.
    pub broker_epoch: BrokerEpoch,
    /// The leader's epoch as the follower knows it.
    pub leader_epoch: LeaderEpoch,
    /// The end of its log.
    pub fetch_offset: Offset,
    /// The epoch of its last batch; none if it has none.
    pub last_epoch: Option<LeaderEpoch>,
    /// The end of what survives a power cut there.
    pub durable_offset: Offset,
}

/// A follower has flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerFlush {
    /// The follower.
    pub broker: BrokerId,
    /// Its incarnation.
    pub broker_epoch: BrokerEpoch,
    /// The leader's epoch as the follower knows it.
    pub leader_epoch: LeaderEpoch,
    /// The end of what survives a power cut there.
    pub durable_offset: Offset,
}

/// Where a follower stands: what its next fetch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerPosition {
    /// Under which epoch it follows.
    pub leader_epoch: LeaderEpoch,
    /// The end of its log.
    pub fetch_offset: Offset,
    /// The end of what survives a power cut: never more, under either flush mode.
    pub durable_offset: Offset,
    /// The first offset that it keeps.
    pub log_start_offset: Offset,
}

/// Rule 17: the marks of a leader, as an answer to a fetch tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderMarks {
    /// The epoch in which the fetch was sent; an answer from before the last change is ignored.
    pub leader_epoch: LeaderEpoch,
    /// The end of what is committed.
    pub high_watermark: Offset,
    /// The first offset that it keeps.
    pub log_start: Offset,
}

impl Replica {
    /// What the next fetch from `leader` says; none unless this replica follows it.
    #[must_use]
    pub fn position(&self, leader: BrokerId) -> Option<FollowerPosition> {
        if self.role() != (Role::Follower { leader }) {
            return None;
        }
        let marks = self.marks();
        let durable_offset = if mutants::is_active(Mutant::LogEndReportedAsDurable) {
            marks.log_end
        } else {
            marks.durable_end
        };
        Some(FollowerPosition {
            leader_epoch: self.leader_epoch(),
            fetch_offset: marks.log_end,
            durable_offset,
            log_start_offset: marks.log_start,
        })
    }

    /// How far it is durable, to be told to `leader` between fetches; none unless this replica
    /// follows it and the leader has found nothing wrong with its log (else what is durable here
    /// need not be what the leader has).
    #[must_use]
    pub fn progress(&self, leader: BrokerId) -> Option<FollowerPosition> {
        let State::Follower { matches, .. } = &self.state else {
            return None;
        };
        self.position(leader).filter(|_| *matches == Matches::Yes)
    }

    /// Whether what was fetched under `epoch` may still be appended, or acted on: this replica
    /// follows in that very epoch.
    ///
    /// # Errors
    /// `FENCED_LEADER_EPOCH` if its role or epoch has changed since: drop the answer.
    pub fn check_following(&self, epoch: LeaderEpoch) -> Result<(), Failure> {
        if matches!(self.role(), Role::Follower { .. }) && epoch == self.leader_epoch() {
            return Ok(());
        }
        Err(Failure::new(
            ErrorCode::FENCED_LEADER_EPOCH,
            format!(
                "what was fetched in leader epoch {epoch} is late, it is {} now: fetch again",
                self.leader_epoch()
            ),
        ))
    }

    /// Rule 17: the leader has told its marks in an answer that is no divergence; to be called
    /// after what came with them is appended. The high watermark becomes the smaller one of the
    /// leader's and the own log end, and never goes back. Returns where the log should start now,
    /// if that is further on than it does: the driver deletes up to there, and calls
    /// [`Replica::log_started`].
    pub fn leader_told(&mut self, told: LeaderMarks) -> Option<Offset> {
        if self.check_following(told.leader_epoch).is_err() {
            return None;
        }
        if let State::Follower { matches, .. } = &mut self.state {
            *matches = Matches::Yes;
        }
        let marks = self.marks();
        move_to(&mut self.marks, told.high_watermark.min(marks.log_end));
        // What is not committed here cannot be deleted here; the leader tells its start again.
        let start = told.log_start.min(self.marks.high_watermark);
        (start > marks.log_start).then_some(start)
    }

    /// The log was cut and ends at `log_end` now: what the leader has on it is another one.
    pub fn truncated(&mut self, log_end: Offset) {
        let marks = &mut self.marks;
        assert!(
            marks.log_start <= log_end && log_end <= marks.log_end,
            "a log from {} to {} cannot be cut at {log_end}",
            marks.log_start,
            marks.log_end
        );
        *marks = Marks {
            log_start: marks.log_start,
            high_watermark: marks.high_watermark.min(log_end),
            durable_end: marks.durable_end.min(log_end),
            log_end,
        };
        self.unflushed_before = self.unflushed_before.min(log_end);
        self.matches_no_more();
    }

    /// All of the log was thrown away, and it starts again, empty, at `log_start`.
    pub fn restarted(&mut self, log_start: Offset) {
        self.marks = Marks {
            log_start,
            high_watermark: log_start,
            durable_end: log_start,
            log_end: log_start,
        };
        self.unflushed_before = log_start;
        self.matches_no_more();
    }

    const fn matches_no_more(&mut self) {
        if let State::Follower { matches, .. } = &mut self.state {
            *matches = Matches::Unknown;
        }
    }
}
