//! Whether the rigs find the bugs that [`strandline_core::mutants`] plants.
//!
//! **Owns** which rig finds which mutant at which seed, and the rigs for what the simulated broker
//! of [`crate::disk`] has no part in: the decision to acknowledge, rot, the descriptors of this
//! machine. A rig looks at what a user would lose or be told wrongly, never at a switch; without a
//! mutant it must pass at every seed.

pub mod acknowledgements;
pub mod descriptors;
pub mod failover;
pub mod follower;
pub mod leases;
pub mod membership;
pub mod quorum;
pub mod replicas;
pub mod rot;
pub mod voter;

use std::fmt;

use quorum::Scenario;
use strandline_core::mutants::Mutant;

use crate::disk::{
    cuts::{self, Cuts},
    kinds::Kind,
};

/// Power cuts of one run of [`Rig::Cuts`].
const CUTS: u64 = 1_000;

/// Something that runs storage hard by a seed and knows what must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rig {
    /// Power cuts at operation boundaries of a workload.
    Cuts(Kind),
    /// A leader that acknowledges, over a log that loses power.
    Acknowledgements,
    /// Rot below the recovery point.
    Rot,
    /// A follower that is cut back again and again.
    Follower,
    /// A leader's log and a follower's, which leads next.
    Failover,
    /// More files than descriptors.
    Descriptors,
    /// Who votes on the metadata, step by step.
    Membership,
    /// Processes of one broker, and the controller that grants them leases.
    Leases,
    /// A voter of the metadata quorum that loses power.
    Voter,
    /// Replicas of a partition, their leaders and their controller.
    Replicas,
    /// Whole brokers that lose power, disks and leaderships.
    Quorum(Scenario),
}

impl Rig {
    /// Every rig.
    pub fn all() -> impl Iterator<Item = Self> {
        let others = [
            Self::Acknowledgements,
            Self::Rot,
            Self::Follower,
            Self::Failover,
            Self::Descriptors,
            Self::Membership,
            Self::Leases,
            Self::Voter,
            Self::Replicas,
        ];
        others
            .into_iter()
            .chain(Scenario::ALL.map(Self::Quorum))
            .chain(Kind::ALL.map(Self::Cuts))
    }

    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|rig| rig.to_string() == name)
    }

    /// Runs it; tells what was done.
    ///
    /// # Errors
    /// What must not be.
    pub fn run(self, seed: u64) -> Result<String, String> {
        match self {
            Self::Acknowledgements => acknowledgements::run(seed),
            Self::Rot => rot::run(seed),
            Self::Follower => follower::run(seed),
            Self::Failover => failover::run(seed),
            Self::Descriptors => descriptors::run(seed),
            Self::Membership => membership::run(seed),
            Self::Leases => leases::run(seed),
            Self::Voter => voter::run(seed),
            Self::Replicas => replicas::run(seed),
            Self::Quorum(scenario) => quorum::run(scenario, seed),
            Self::Cuts(kind) => {
                let wanted = Cuts {
                    count: CUTS,
                    seed,
                    kind: Some(kind),
                    only: None,
                };
                match cuts::run(&wanted, |_| {}) {
                    Ok(summary) => Ok(format!("{} power cuts", summary.cuts())),
                    Err(violation) => Err(violation.to_string()),
                }
            }
        }
    }
}

impl fmt::Display for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Acknowledgements => f.write_str("acknowledgements"),
            Self::Rot => f.write_str("rot"),
            Self::Follower => f.write_str("follower"),
            Self::Failover => f.write_str("failover"),
            Self::Descriptors => f.write_str("descriptors"),
            Self::Membership => f.write_str("membership"),
            Self::Leases => f.write_str("leases"),
            Self::Voter => f.write_str("voter"),
            Self::Replicas => f.write_str("replicas"),
            Self::Quorum(scenario) => write!(f, "quorum:{scenario}"),
            Self::Cuts(kind) => write!(f, "cuts:{}", kind.name()),
        }
    }
}

/// Where a mutant is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The bug.
    pub mutant: Mutant,
    /// What finds it.
    pub rig: Rig,
    /// At which seed.
    pub seed: u64,
}

/// Where each mutant was found.
pub const REPLAYS: [Replay; 34] = [
    replay(Mutant::AcknowledgeBeforeFsync, Rig::Acknowledgements, 1),
    replay(
        Mutant::DurableOffsetTakenAfterSync,
        Rig::Acknowledgements,
        1,
    ),
    replay(Mutant::RecoveryDoesNotSync, Rig::Acknowledgements, 1),
    replay(Mutant::TruncationLeavesBytes, Rig::Follower, 6),
    replay(Mutant::RollDoesNotSyncDirectory, Rig::Acknowledgements, 1),
    replay(Mutant::RenameDoesNotSyncDirectory, Rig::Follower, 1),
    replay(Mutant::IndexTrustedAfterCrash, Rig::Acknowledgements, 9),
    replay(Mutant::BadBatchTruncatesDurable, Rig::Rot, 1),
    replay(Mutant::FailedAppendKeepsProducerState, Rig::Follower, 1),
    replay(Mutant::ProducerWindowOfOne, Rig::Follower, 1),
    replay(
        Mutant::ProducerSnapshotStaleAfterTruncation,
        Rig::Follower,
        4,
    ),
    replay(Mutant::CleanMarkStaysWhileAppending, Rig::Follower, 1),
    replay(Mutant::DescriptorClosedUnsynced, Rig::Descriptors, 1),
    replay(Mutant::TwoVoterChangesAtOnce, Rig::Membership, 1),
    replay(Mutant::BrokerEpochNotChecked, Rig::Leases, 1),
    replay(Mutant::LeaseCountedFromAnswer, Rig::Leases, 1),
    replay(
        Mutant::SnapshotIsNotSent,
        Rig::Quorum(Scenario::LateJoiner),
        1,
    ),
    replay(Mutant::VoteKeptAfterReply, Rig::Voter, 1),
    replay(
        Mutant::ImagePublishedBeforeCommit,
        Rig::Quorum(Scenario::LostMajority),
        1,
    ),
    replay(
        Mutant::WipedDiskKeepsRaftId,
        Rig::Quorum(Scenario::WipedDisk),
        1,
    ),
    replay(Mutant::TruncateToHighWatermark, Rig::Replicas, 2),
    replay(Mutant::CompareEpochOnly, Rig::Replicas, 1),
    replay(Mutant::IsrInsteadOfMaximalIsr, Rig::Replicas, 71),
    replay(Mutant::StaleEpochAcceptedInFetch, Rig::Replicas, 115),
    replay(Mutant::HighWatermarkBeforeEpochStart, Rig::Replicas, 1),
    replay(Mutant::DivergentFetchCounts, Rig::Replicas, 1),
    replay(Mutant::LogEndReportedAsDurable, Rig::Replicas, 8),
    replay(Mutant::HighWatermarkCheckpointAboveLog, Rig::Replicas, 1),
    replay(Mutant::BrokerEpochUncheckedInIsrChange, Rig::Replicas, 77),
    replay(Mutant::LastReplicaKeptAfterLossyRestart, Rig::Replicas, 6),
    replay(Mutant::NewIncarnationKeepsEpoch, Rig::Replicas, 1),
    replay(
        Mutant::WaitingEntryLostAtLeaderChange,
        Rig::Quorum(Scenario::LeaderChange),
        1,
    ),
    replay(
        Mutant::UnknownPartitionDeleted,
        Rig::Quorum(Scenario::UnknownPartition),
        1,
    ),
    replay(Mutant::DuplicateAcceptedAfterFailover, Rig::Failover, 1),
];

const fn replay(mutant: Mutant, rig: Rig, seed: u64) -> Replay {
    Replay { mutant, rig, seed }
}
