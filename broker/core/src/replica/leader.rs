//! What a leader knows of its followers, and what follows for the high watermark, the replicas in
//! sync and those that write.
//!
//! *Patterns: leader and followers, high-water mark, generation clock.*

use std::time::Duration;

use strandline_protocol::{
    BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionEpoch,
    messages::{Acks, Failure, InSyncReplica},
};

use super::{
    Replica, State,
    divergence::FetchAnswer,
    facts::{PartitionFacts, Peer, Standing},
    follower::{FollowerFetch, FollowerFlush},
    isr::{Isr, IsrProposal, ProposalOutcome},
    progress::{Follower, FollowerState},
};
use crate::{
    FlushMode,
    mutants::{self, Mutant},
};

/// The state of a leader beside its marks.
#[derive(Clone, Debug)]
pub(super) struct Leadership {
    /// Where its own records begin; below it lies what earlier leaders wrote.
    pub(super) epoch_start: Offset,
    pub(super) isr: Isr,
    pub(super) min_isr: usize,
    lag_max: Duration,
    /// The last time that anybody has told.
    now: Duration,
    own: Peer,
    /// The other replicas.
    followers: Vec<Follower>,
}

impl Leadership {
    /// The only replica of its partition.
    pub(super) fn alone(epoch_start: Offset) -> Self {
        let own = Peer {
            broker: BrokerId(0),
            epoch: BrokerEpoch(0),
            standing: Standing::Eligible,
        };
        Self {
            epoch_start,
            isr: Isr::new(PartitionEpoch(0), vec![own.broker]),
            min_isr: 1,
            lag_max: Duration::ZERO,
            now: Duration::ZERO,
            own,
            followers: Vec::new(),
        }
    }

    /// Rule 4.
    pub(super) fn new(
        broker: BrokerId,
        epoch_start: Offset,
        facts: &PartitionFacts,
        now: Duration,
    ) -> Self {
        let mut leadership = Self::alone(epoch_start);
        leadership.isr = Isr::new(facts.partition_epoch, facts.isr.clone());
        leadership.learn(broker, facts, now);
        leadership
    }

    /// Metadata tells the same epoch with something else.
    pub(super) fn learn(&mut self, broker: BrokerId, facts: &PartitionFacts, now: Duration) {
        self.time_is(now);
        self.isr.learn(facts.partition_epoch, &facts.isr);
        self.min_isr = facts.min_isr;
        self.lag_max = facts.lag_max;
        let known = std::mem::take(&mut self.followers);
        for peer in &facts.replicas {
            if peer.broker == broker {
                self.own = *peer;
                continue;
            }
            let before = known.iter().find(|it| it.peer.broker == peer.broker);
            let mut follower = before.copied().unwrap_or_else(|| {
                let caught_up = self.isr.is_committed(peer.broker).then_some(now);
                Follower::unknown(*peer, caught_up)
            });
            follower.learn(*peer);
            self.followers.push(follower);
        }
    }

    /// Rules 14 and 15: how far everything is that counts, the leader itself up to `own`; none
    /// while nothing may be committed.
    pub(super) fn candidate(&self, own: Offset, flush: FlushMode) -> Option<Offset> {
        if self.isr.committed().len() < self.min_isr {
            return None;
        }
        let mut least = own;
        for follower in &self.followers {
            let is_awaited = self.isr.is_in_maximal(follower.peer.broker)
                || (follower.is_eligible() && follower.was_caught_up(self.now, self.lag_max));
            if is_awaited {
                least = least.min(follower.counted(flush)?);
            }
        }
        Some(least)
    }

    /// Whether everything below `end` is durable on all that may be in sync.
    pub(super) fn are_durable(&self, end: Offset) -> bool {
        let mut awaited = self
            .followers
            .iter()
            .filter(|it| self.isr.is_in_maximal(it.peer.broker));
        awaited.all(|it| it.durable_end() >= Some(end))
    }

    /// The leader counts further than `own_end` from now on.
    pub(super) fn goes_on(&mut self, own_end: Offset, flush: FlushMode) {
        for follower in &mut self.followers {
            follower.leader_goes_on(flush, own_end);
        }
    }

    fn time_is(&mut self, now: Duration) {
        self.now = self.now.max(now);
        for follower in &mut self.followers {
            follower.time_is(self.now);
        }
    }

    fn follower(&mut self, broker: BrokerId) -> Option<&mut Follower> {
        self.followers
            .iter_mut()
            .find(|it| it.peer.broker == broker)
    }

    /// Rule 3: who tells of its progress is a replica, and no earlier incarnation of it.
    fn checked(
        &mut self,
        broker: BrokerId,
        broker_epoch: BrokerEpoch,
    ) -> Result<&mut Follower, Failure> {
        let follower = self.follower(broker).ok_or_else(|| {
            Failure::new(
                ErrorCode::NOT_LEADER_OR_FOLLOWER,
                format!("broker {broker} has no replica of the partition: refresh metadata"),
            )
        })?;
        let known = follower.known_epoch();
        if broker_epoch < known {
            return Err(Failure::new(
                ErrorCode::NOT_LEADER_OR_FOLLOWER,
                format!(
                    "broker {broker} has registered again with epoch {known}, this comes from \
                     epoch {broker_epoch}"
                ),
            ));
        }
        Ok(follower)
    }

    /// Rules 5 and 8: who should be in sync, the leader first; none if it is who is.
    fn wanted(
        &self,
        flush: FlushMode,
        own_end: Offset,
        high_watermark: Offset,
    ) -> Option<Vec<InSyncReplica>> {
        let mut has_changed = false;
        let mut isr = Vec::new();
        for follower in &self.followers {
            // Who would have to leave at once does not join.
            let is_wanted = !follower.is_out_of_sync(flush, own_end, self.now, self.lag_max)
                && (self.isr.is_committed(follower.peer.broker)
                    || (follower.is_eligible()
                        && follower.counted(flush) >= Some(high_watermark.max(self.epoch_start))));
            has_changed |= is_wanted != self.isr.is_committed(follower.peer.broker);
            if is_wanted {
                isr.push(in_sync(&follower.peer));
            }
        }
        if !has_changed && !self.isr.is_doubtful() {
            return None;
        }
        isr.insert(0, in_sync(&self.own));
        Some(isr)
    }
}

const fn in_sync(peer: &Peer) -> InSyncReplica {
    InSyncReplica {
        broker_id: peer.broker,
        broker_epoch: peer.epoch,
    }
}

impl Replica {
    /// Judges a follower's fetch, and takes its progress in unless the logs have diverged (rules 1
    /// to 3, 24, 26). `end_offset_for` looks an epoch up in the leader's log. Afterwards the high
    /// watermark may have moved, and [`Replica::propose`] may have something to propose.
    ///
    /// # Errors
    /// `FENCED_LEADER_EPOCH`, `UNKNOWN_LEADER_EPOCH`, `OFFSET_OUT_OF_RANGE`, and
    /// `NOT_LEADER_OR_FOLLOWER` if this replica does not lead, the other one is none of its
    /// partition, or belongs to an earlier incarnation.
    pub fn follower_fetched(
        &mut self,
        fetch: &FollowerFetch,
        end_offset_for: impl FnOnce(LeaderEpoch) -> Option<(LeaderEpoch, Offset)>,
        now: Duration,
    ) -> Result<FetchAnswer, Failure> {
        self.check_follower_epoch(fetch.leader_epoch)?;
        let (marks, flush, own_end) = (self.marks, self.flush, self.counted());
        let leadership = self.leadership_mut()?;
        leadership.time_is(now);
        let follower = leadership.checked(fetch.broker, fetch.broker_epoch)?;
        let answer = fetch.answer(&marks, end_offset_for)?;
        if answer == FetchAnswer::Records || mutants::is_active(Mutant::DivergentFetchCounts) {
            let ends = (fetch.fetch_offset, fetch.durable_offset);
            follower.fetched(fetch.broker_epoch, ends, flush, own_end, now);
            self.move_high_watermark();
        }
        Ok(answer)
    }

    /// Takes in that a follower has flushed. Afterwards as after [`Replica::follower_fetched`].
    ///
    /// # Errors
    /// As [`Replica::follower_fetched`]; nobody hears of it, as the message has no answer.
    pub fn follower_flushed(
        &mut self,
        flushed: &FollowerFlush,
        now: Duration,
    ) -> Result<(), Failure> {
        self.check_follower_epoch(flushed.leader_epoch)?;
        let (flush, own_end, log_end) = (self.flush, self.counted(), self.marks.log_end);
        let leadership = self.leadership_mut()?;
        leadership.time_is(now);
        let follower = leadership.checked(flushed.broker, flushed.broker_epoch)?;
        let durable_end = flushed.durable_offset.min(log_end);
        follower.flushed(flushed.broker_epoch, durable_end, flush, own_end, now);
        self.move_high_watermark();
        Ok(())
    }

    /// Rules 5, 6 and 8: which change of the replicas in sync to ask the controller for, if any is
    /// due and none is under way. To be called after every fetch and flush of a follower, and at
    /// least twice within the time that a follower may be behind. What comes back is under way from
    /// now on, until [`Replica::proposal_answered`].
    #[must_use = "no other proposal is made before this one is answered"]
    pub fn propose(&mut self, now: Duration) -> Option<IsrProposal> {
        let (flush, own_end) = (self.flush, self.counted());
        let leader_epoch = self.leader_epoch;
        self.leadership_mut().ok()?.time_is(now);
        // Who was caught up until now may be so no more, and then is not waited for.
        self.move_high_watermark();
        let high_watermark = self.marks.high_watermark;
        let leadership = self.leadership_mut().ok()?;
        if !leadership.isr.may_propose(now) {
            return None;
        }
        let isr = leadership.wanted(flush, own_end, high_watermark)?;
        leadership.isr.propose(&isr);
        Some(IsrProposal {
            leader_epoch,
            partition_epoch: leadership.isr.partition_epoch,
            isr,
        })
    }

    /// Rule 12: what became of a proposal. One of an earlier leader epoch, or from before the last
    /// change of the partition, is over.
    pub fn proposal_answered(
        &mut self,
        proposal: &IsrProposal,
        outcome: ProposalOutcome,
        now: Duration,
    ) {
        if proposal.leader_epoch != self.leader_epoch {
            return;
        }
        if let Ok(leadership) = self.leadership_mut() {
            leadership
                .isr
                .answered(proposal.partition_epoch, outcome, now);
            self.move_high_watermark();
        }
    }

    /// Rule 19: whether a write may be appended at all.
    ///
    /// # Errors
    /// `NOT_LEADER_OR_FOLLOWER` if this replica does not lead; `NOT_ENOUGH_REPLICAS` for `acks=all`
    /// while fewer replicas are in sync than must be: nothing may be appended.
    pub fn check_append(&self, acks: Acks) -> Result<(), Failure> {
        let leadership = self.leadership()?;
        let (count, least) = (leadership.isr.committed().len(), leadership.min_isr);
        if acks == Acks::All && count < least {
            return Err(Failure::new(
                ErrorCode::NOT_ENOUGH_REPLICAS,
                format!("{count} replicas are in sync, {least} must be: nothing was appended"),
            ));
        }
        Ok(())
    }

    /// Rule 20: what a write of `acks` is answered with, now that it need not wait any longer.
    ///
    /// # Errors
    /// `NOT_ENOUGH_REPLICAS_AFTER_APPEND` for `acks=all` if fewer replicas are in sync by now than
    /// must be: it was appended, and may be lost.
    pub fn check_completion(&self, acks: Acks) -> Result<(), Failure> {
        let Ok(leadership) = self.leadership() else {
            return Ok(());
        };
        let (count, least) = (leadership.isr.maximal_len(), leadership.min_isr);
        if acks == Acks::All && count < least {
            return Err(Failure::new(
                ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
                format!("only {count} replicas are in sync by now, {least} must be"),
            ));
        }
        Ok(())
    }

    /// Who is in sync as the controller has committed it, as far as this leader knows; empty
    /// unless it leads.
    #[must_use]
    pub fn isr(&self) -> &[BrokerId] {
        self.leadership()
            .map_or(&[], |leadership| leadership.isr.committed())
    }

    /// Who has been proposed to be in sync and may be by now, though metadata does not say so yet.
    #[must_use]
    pub fn joining(&self) -> &[BrokerId] {
        self.leadership()
            .map_or(&[], |leadership| leadership.isr.joining())
    }

    /// How far each follower is; nothing unless this replica leads.
    pub fn followers(&self, now: Duration) -> impl Iterator<Item = FollowerState> {
        let (flush, own_end) = (self.flush, self.counted());
        let followers = match &self.state {
            State::Leader(leadership) => leadership.followers.as_slice(),
            State::Follower { .. } | State::Idle => &[],
        };
        followers
            .iter()
            .map(move |follower| follower.state(flush, own_end, now))
    }

    fn check_follower_epoch(&self, epoch: LeaderEpoch) -> Result<(), Failure> {
        let checked = self.check_epoch(Some(epoch));
        if epoch < self.leader_epoch && mutants::is_active(Mutant::StaleEpochAcceptedInFetch) {
            return Ok(());
        }
        checked
    }

    pub(super) fn leadership(&self) -> Result<&Leadership, Failure> {
        match &self.state {
            State::Leader(leadership) => Ok(leadership),
            State::Follower { .. } | State::Idle => Err(not_leader()),
        }
    }

    fn leadership_mut(&mut self) -> Result<&mut Leadership, Failure> {
        match &mut self.state {
            State::Leader(leadership) => Ok(leadership),
            State::Follower { .. } | State::Idle => Err(not_leader()),
        }
    }
}

pub(super) fn not_leader() -> Failure {
    Failure::new(
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        "this broker does not lead the partition: refresh metadata",
    )
}
