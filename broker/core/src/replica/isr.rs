//! Who is in sync: what the controller has committed, and what it may have (rules 6, 7, 9 to 13).
//!
//! *Pattern: generation clock.* The leader asks, the controller decides, and metadata tells what
//! holds. In between the leader counts with the larger set: whoever may have joined is waited for,
//! and whoever may have been removed still is. So nothing is acknowledged that the next leader,
//! whichever of them it is, may lack.

use std::time::Duration;

use strandline_protocol::{
    BrokerId, ErrorCode, LeaderEpoch, PartitionEpoch, messages::InSyncReplica,
};

use crate::mutants::{self, Mutant};

/// How long after a refusal or a lost answer the leader asks again.
pub const PROPOSAL_RETRY: Duration = Duration::from_millis(500);

/// What a leader asks the controller for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrProposal {
    /// In which epoch it leads.
    pub leader_epoch: LeaderEpoch,
    /// From which state it goes on.
    pub partition_epoch: PartitionEpoch,
    /// Who is to be in sync, the leader included.
    pub isr: Vec<InSyncReplica>,
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalOutcome {
    /// It holds, since this epoch of the partition; metadata will tell.
    Accepted(PartitionEpoch),
    /// It certainly does not hold.
    Refused,
    /// It may hold, or never have arrived, or something newer holds: metadata tells, if anything
    /// has changed.
    Unknown,
}

impl ProposalOutcome {
    /// Rule 12: what the controller's answer means. A request without an answer is
    /// [`ProposalOutcome::Unknown`].
    #[must_use]
    pub fn of(error: ErrorCode, partition_epoch: PartitionEpoch) -> Self {
        if error.is_none() || error == ErrorCode::NEW_LEADER_ELECTED {
            Self::Accepted(partition_epoch)
        } else if error == ErrorCode::INELIGIBLE_REPLICA {
            Self::Refused
        } else {
            Self::Unknown
        }
    }
}

/// Whether a proposal is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proposed {
    /// None is; one may be made from this time on.
    No { from: Duration },
    /// The controller has not answered, or metadata not told what it has answered.
    InFlight,
}

/// Who is in sync.
#[derive(Clone, Debug)]
pub(super) struct Isr {
    pub(super) partition_epoch: PartitionEpoch,
    committed: Vec<BrokerId>,
    /// Who has been proposed since `partition_epoch` and may have joined, beside the committed.
    joining: Vec<BrokerId>,
    proposed: Proposed,
    /// Whether a proposal was lost track of: it may still arrive.
    is_doubtful: bool,
}

impl Isr {
    pub(super) const fn new(partition_epoch: PartitionEpoch, committed: Vec<BrokerId>) -> Self {
        Self {
            partition_epoch,
            committed,
            joining: Vec::new(),
            proposed: Proposed::No {
                from: Duration::ZERO,
            },
            is_doubtful: false,
        }
    }

    /// Rule 13: metadata tells what holds since `partition_epoch`, which ends every proposal from
    /// before. What is not newer is ignored.
    pub(super) fn learn(&mut self, partition_epoch: PartitionEpoch, committed: &[BrokerId]) {
        if partition_epoch > self.partition_epoch {
            *self = Self::new(partition_epoch, committed.to_vec());
        }
    }

    pub(super) fn committed(&self) -> &[BrokerId] {
        &self.committed
    }

    pub(super) fn joining(&self) -> &[BrokerId] {
        &self.joining
    }

    pub(super) fn is_committed(&self, broker: BrokerId) -> bool {
        self.committed.contains(&broker)
    }

    /// Rules 7 and 9: whether it may be in sync as the controller sees it.
    pub(super) fn is_in_maximal(&self, broker: BrokerId) -> bool {
        self.is_committed(broker)
            || (self.joining.contains(&broker)
                && !mutants::is_active(Mutant::IsrInsteadOfMaximalIsr))
    }

    /// How many may be in sync.
    pub(super) const fn maximal_len(&self) -> usize {
        self.committed.len().saturating_add(self.joining.len())
    }

    /// Rule 6: whether a proposal may be made now.
    pub(super) fn may_propose(&self, now: Duration) -> bool {
        matches!(self.proposed, Proposed::No { from } if from <= now)
    }

    /// Whether a proposal that changes nothing is worth making: it ends those that were lost track
    /// of, as it moves the partition's epoch on.
    pub(super) const fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// These are proposed to be in sync.
    pub(super) fn propose(&mut self, isr: &[InSyncReplica]) {
        for replica in isr {
            if !self.committed.contains(&replica.broker_id)
                && !self.joining.contains(&replica.broker_id)
            {
                self.joining.push(replica.broker_id);
            }
        }
        self.proposed = Proposed::InFlight;
    }

    /// Rule 12: what became of the proposal that went on from `proposed_from`.
    pub(super) fn answered(
        &mut self,
        proposed_from: PartitionEpoch,
        outcome: ProposalOutcome,
        now: Duration,
    ) {
        if proposed_from != self.partition_epoch || self.proposed != Proposed::InFlight {
            return;
        }
        match outcome {
            // Metadata will tell, and end it.
            ProposalOutcome::Accepted(since) if since > self.partition_epoch => return,
            ProposalOutcome::Refused if !self.is_doubtful => self.joining.clear(),
            // What was sent before may still arrive after this one.
            ProposalOutcome::Refused => {}
            ProposalOutcome::Accepted(_) | ProposalOutcome::Unknown => self.is_doubtful = true,
        }
        self.proposed = Proposed::No {
            from: now.saturating_add(PROPOSAL_RETRY),
        };
    }
}
