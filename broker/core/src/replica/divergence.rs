//! Where a follower's log has become another one than its leader's (KIP-101, KIP-279, KIP-595).
//!
//! *Pattern: generation clock.* A fetch names the epoch of the follower's last batch. The leader
//! looks up where that epoch ends in its own log; if the follower is further, or the leader has
//! never seen that epoch, their logs have parted. The follower cuts its own and asks again, until
//! the leader finds nothing wrong. It never cuts at the high watermark: what lies above that may be
//! committed all the same.

use strandline_protocol::{
    ErrorCode, LeaderEpoch, Offset,
    messages::{EpochEnd, Failure},
};

use super::{Marks, follower::FollowerFetch};
use crate::mutants::{self, Mutant};

/// What a fetch of a follower is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchAnswer {
    /// The records from the fetch offset on, which may be none yet.
    Records,
    /// No records: the logs have parted where this epoch ends, or before.
    Diverging(EpochEnd),
}

/// What a follower does with its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Cuts it so that it ends here, or before that if this lies inside of a batch, and fetches
    /// again from its new end.
    Truncate(Offset),
    /// Throws all of it away and starts again at this offset, where the leader's log begins.
    Restart(Offset),
    /// Leaves it as it is and fetches again later.
    Retry,
}

/// Rule 24: what the leader answers to a follower that stands at `fetch_offset`, whose last batch
/// is of `last_epoch` (none if it has no batch). `end_offset_for` looks an epoch up in the leader's
/// log (rule 23).
///
/// # Errors
/// `OFFSET_OUT_OF_RANGE` if the leader does not know where the logs parted: [`out_of_range`] says
/// what the follower does then.
pub fn answer(
    fetch_offset: Offset,
    last_epoch: Option<LeaderEpoch>,
    marks: &Marks,
    end_offset_for: impl FnOnce(LeaderEpoch) -> Option<(LeaderEpoch, Offset)>,
) -> Result<FetchAnswer, Failure> {
    let out_of_range = || {
        Failure::new(
            ErrorCode::OFFSET_OUT_OF_RANGE,
            format!(
                "the leader's log holds {} to {} (exclusive), the follower's ends at \
                 {fetch_offset}",
                marks.log_start, marks.log_end
            ),
        )
    };
    if fetch_offset < marks.log_start {
        return Err(out_of_range());
    }
    if let Some(last) = last_epoch {
        let (epoch, end_offset) = end_offset_for(last).ok_or_else(out_of_range)?;
        let is_behind = end_offset < fetch_offset && !mutants::is_active(Mutant::CompareEpochOnly);
        if epoch < last || is_behind {
            return Ok(FetchAnswer::Diverging(EpochEnd { epoch, end_offset }));
        }
    }
    if fetch_offset > marks.log_end {
        return Err(out_of_range());
    }
    Ok(FetchAnswer::Records)
}

/// Rule 25: what a follower does whose leader has answered that they diverge. `end_offset_for`
/// looks an epoch up in the follower's own log.
#[must_use]
pub fn diverged(
    told: EpochEnd,
    marks: &Marks,
    end_offset_for: impl FnOnce(LeaderEpoch) -> Option<(LeaderEpoch, Offset)>,
) -> Reaction {
    if mutants::is_active(Mutant::TruncateToHighWatermark) {
        return Reaction::Truncate(marks.high_watermark);
    }
    let to = match end_offset_for(told.epoch) {
        // It has nothing of that epoch or a later one.
        None => told.end_offset,
        Some((epoch, own_end)) if epoch == told.epoch => own_end.min(told.end_offset),
        // The epoch before is the next to ask for.
        Some((_, own_end)) => own_end,
    };
    Reaction::Truncate(to.min(marks.log_end).max(marks.log_start))
}

/// Rule 27: what a follower does whose leader has answered `OFFSET_OUT_OF_RANGE`, with the range
/// of the leader's log.
#[must_use]
pub fn out_of_range(leader_log_start: Offset, leader_log_end: Offset, marks: &Marks) -> Reaction {
    if leader_log_end < marks.log_end {
        if leader_log_end < marks.log_start {
            return Reaction::Restart(leader_log_start);
        }
        return Reaction::Truncate(leader_log_end);
    }
    if leader_log_start > marks.log_end {
        return Reaction::Restart(leader_log_start);
    }
    Reaction::Retry
}

impl FollowerFetch {
    /// See [`answer`].
    ///
    /// # Errors
    /// As [`answer`].
    pub(super) fn answer(
        &self,
        marks: &Marks,
        end_offset_for: impl FnOnce(LeaderEpoch) -> Option<(LeaderEpoch, Offset)>,
    ) -> Result<FetchAnswer, Failure> {
        answer(self.fetch_offset, self.last_epoch, marks, end_offset_for)
    }
}
