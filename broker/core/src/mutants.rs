//! Seeded bugs that the rigs must find: each breaks one rule that keeps records.
//!
//! **Owns** their list and the one switch. Built with `--cfg strandline_mutants`, a rig turns one
//! on by `activate`; in any other build [`is_active`] is the constant `false`, and the compiler
//! leaves nothing of what it guards. **Never** used for anything but to hold a rig against a bug
//! that is known to be there.

#[cfg(strandline_mutants)]
use std::sync::atomic::{AtomicUsize, Ordering};

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// Breaks: under `flush=ack` an acknowledgement means fsynced.
    AcknowledgeBeforeFsync,
    /// Breaks: the durable offset advances to the end that was published before the sync began.
    DurableOffsetTakenAfterSync,
    /// Breaks: recovery syncs what it keeps before that counts as durable.
    RecoveryDoesNotSync,
    /// Breaks: what a truncation cuts is zeroed, so that no later recovery takes it for log.
    TruncationLeavesBytes,
    /// Breaks: a new segment's name is durable before anything is appended to it.
    RollDoesNotSyncDirectory,
    /// Breaks: replacing a small file is durable only once its directory is synced.
    RenameDoesNotSyncDirectory,
    /// Breaks: after a crash an index counts as far as a checksum vouches for it, and no further.
    IndexTrustedAfterCrash,
    /// Breaks: below the recovery point a bad batch is damage, and nothing is cut.
    BadBatchTruncatesDurable,
    /// Breaks: an append that failed has changed nothing, what is known of its producer included.
    FailedAppendKeepsProducerState,
    /// Breaks: any of a producer's last five batches is recognised when it comes again.
    ProducerWindowOfOne,
    /// Breaks: producers written down before a truncation are gone with what was cut.
    ProducerSnapshotStaleAfterTruncation,
    /// Breaks: the clean-shutdown mark is gone, durably, before the first append.
    CleanMarkStaysWhileAppending,
    /// Breaks: a descriptor with unsynced data stays open, as a later one may miss the error.
    DescriptorClosedUnsynced,
    /// Breaks: a change of the voters begins only once the one before is in force.
    TwoVoterChangesAtOnce,
    /// Breaks: a broker that acts under an old epoch changes nothing.
    BrokerEpochNotChecked,
    /// Breaks: a broker counts its lease from the time at which it sent the heartbeat.
    LeaseCountedFromAnswer,
    /// Breaks: who is behind the trimmed metadata log gets a snapshot of what it lacks.
    SnapshotIsNotSent,
    /// Breaks: a vote is durable before the candidate hears of it.
    VoteKeptAfterReply,
    /// Breaks: an image is public only once all that it reflects is committed.
    ImagePublishedBeforeCommit,
    /// Breaks: a broker whose disk was wiped is another member of the metadata quorum.
    WipedDiskKeepsRaftId,
    /// Breaks: a follower cuts its log where it diverged, not at the high watermark.
    TruncateToHighWatermark,
    /// Breaks: logs have parted too where the follower is further in the same epoch.
    CompareEpochOnly,
    /// Breaks: who may have become in sync already is waited for.
    IsrInsteadOfMaximalIsr,
    /// Breaks: a fetch under an old leader epoch tells nothing.
    StaleEpochAcceptedInFetch,
    /// Breaks: a high watermark is told once it has reached the start of the leader's own epoch.
    HighWatermarkBeforeEpochStart,
    /// Breaks: a fetch that is answered with a divergence is no progress.
    DivergentFetchCounts,
    /// Breaks: a follower reports as durable what a power cut leaves.
    LogEndReportedAsDurable,
    /// Breaks: a high watermark that was written down counts as far as the log reaches.
    HighWatermarkCheckpointAboveLog,
    /// Breaks: only the incarnation that was seen to be in sync joins those in sync.
    BrokerEpochUncheckedInIsrChange,
    /// Breaks: a replica that may have lost records is in sync no more, not even as the last one.
    LastReplicaKeptAfterLossyRestart,
    /// Breaks: a new incarnation of a leader leads in a new epoch.
    NewIncarnationKeepsEpoch,
    /// Breaks: who leads no more answers the writes that wait.
    WaitingEntryLostAtLeaderChange,
    /// Breaks: a partition that the metadata does not know is set aside, never deleted.
    UnknownPartitionDeleted,
    /// Breaks: a follower learns about producers from every batch that it copies.
    DuplicateAcceptedAfterFailover,
}

impl Mutant {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 34] = [
        Self::AcknowledgeBeforeFsync,
        Self::DurableOffsetTakenAfterSync,
        Self::RecoveryDoesNotSync,
        Self::TruncationLeavesBytes,
        Self::RollDoesNotSyncDirectory,
        Self::RenameDoesNotSyncDirectory,
        Self::IndexTrustedAfterCrash,
        Self::BadBatchTruncatesDurable,
        Self::FailedAppendKeepsProducerState,
        Self::ProducerWindowOfOne,
        Self::ProducerSnapshotStaleAfterTruncation,
        Self::CleanMarkStaysWhileAppending,
        Self::DescriptorClosedUnsynced,
        Self::TwoVoterChangesAtOnce,
        Self::BrokerEpochNotChecked,
        Self::LeaseCountedFromAnswer,
        Self::SnapshotIsNotSent,
        Self::VoteKeptAfterReply,
        Self::ImagePublishedBeforeCommit,
        Self::WipedDiskKeepsRaftId,
        Self::TruncateToHighWatermark,
        Self::CompareEpochOnly,
        Self::IsrInsteadOfMaximalIsr,
        Self::StaleEpochAcceptedInFetch,
        Self::HighWatermarkBeforeEpochStart,
        Self::DivergentFetchCounts,
        Self::LogEndReportedAsDurable,
        Self::HighWatermarkCheckpointAboveLog,
        Self::BrokerEpochUncheckedInIsrChange,
        Self::LastReplicaKeptAfterLossyRestart,
        Self::NewIncarnationKeepsEpoch,
        Self::WaitingEntryLostAtLeaderChange,
        Self::UnknownPartitionDeleted,
        Self::DuplicateAcceptedAfterFailover,
    ];

    /// What a command line calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AcknowledgeBeforeFsync => "acknowledge-before-fsync",
            Self::DurableOffsetTakenAfterSync => "durable-offset-taken-after-sync",
            Self::RecoveryDoesNotSync => "recovery-does-not-sync",
            Self::TruncationLeavesBytes => "truncation-leaves-bytes",
            Self::RollDoesNotSyncDirectory => "roll-does-not-sync-directory",
            Self::RenameDoesNotSyncDirectory => "rename-does-not-sync-directory",
            Self::IndexTrustedAfterCrash => "index-trusted-after-crash",
            Self::BadBatchTruncatesDurable => "bad-batch-truncates-durable",
            Self::FailedAppendKeepsProducerState => "failed-append-keeps-producer-state",
            Self::ProducerWindowOfOne => "producer-window-of-one",
            Self::ProducerSnapshotStaleAfterTruncation => "producer-snapshot-stale",
            Self::CleanMarkStaysWhileAppending => "clean-mark-stays-while-appending",
            Self::DescriptorClosedUnsynced => "descriptor-closed-unsynced",
            Self::TwoVoterChangesAtOnce => "two-voter-changes-at-once",
            Self::BrokerEpochNotChecked => "broker-epoch-not-checked",
            Self::LeaseCountedFromAnswer => "lease-counted-from-answer",
            Self::SnapshotIsNotSent => "snapshot-is-not-sent",
            Self::VoteKeptAfterReply => "vote-kept-after-reply",
            Self::ImagePublishedBeforeCommit => "image-published-before-commit",
            Self::WipedDiskKeepsRaftId => "wiped-disk-keeps-raft-id",
            Self::TruncateToHighWatermark => "truncate-to-high-watermark",
            Self::CompareEpochOnly => "compare-epoch-only",
            Self::IsrInsteadOfMaximalIsr => "isr-instead-of-maximal-isr",
            Self::StaleEpochAcceptedInFetch => "stale-epoch-accepted-in-fetch",
            Self::HighWatermarkBeforeEpochStart => "high-watermark-before-epoch-start",
            Self::DivergentFetchCounts => "divergent-fetch-counts",
            Self::LogEndReportedAsDurable => "log-end-reported-as-durable",
            Self::HighWatermarkCheckpointAboveLog => "high-watermark-checkpoint-above-log",
            Self::BrokerEpochUncheckedInIsrChange => "broker-epoch-unchecked-in-isr-change",
            Self::LastReplicaKeptAfterLossyRestart => "last-replica-kept-after-lossy-restart",
            Self::NewIncarnationKeepsEpoch => "new-incarnation-keeps-epoch",
            Self::WaitingEntryLostAtLeaderChange => "waiting-entry-lost-at-leader-change",
            Self::UnknownPartitionDeleted => "unknown-partition-deleted",
            Self::DuplicateAcceptedAfterFailover => "duplicate-accepted-after-failover",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| mutant.name() == name)
    }
}

/// Whether a rig has turned the bug on.
#[cfg(not(strandline_mutants))]
#[must_use]
#[inline]
pub const fn is_active(_: Mutant) -> bool {
    false
}

/// Whether a rig has turned the bug on.
#[cfg(strandline_mutants)]
#[must_use]
pub fn is_active(mutant: Mutant) -> bool {
    let number = Mutant::ALL.iter().position(|known| *known == mutant);
    number == ACTIVE.load(Ordering::Relaxed).checked_sub(1)
}

/// Turns one bug on, or all off, in the whole process and until the next call.
#[cfg(strandline_mutants)]
pub fn activate(mutant: Option<Mutant>) {
    let number = mutant.and_then(|mutant| Mutant::ALL.iter().position(|known| *known == mutant));
    let number = number.map_or(0, |number| number.saturating_add(1));
    ACTIVE.store(number, Ordering::Relaxed);
}

/// Its number in [`Mutant::ALL`], counted from 1; 0 for none.
#[cfg(strandline_mutants)]
static ACTIVE: AtomicUsize = AtomicUsize::new(0);
