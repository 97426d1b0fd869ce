//! What the Raft group is made of, and how its entries become those of the metadata log.
//!
//! Raft index is offset, Raft term is leader epoch. openraft's own encodings of these types are not
//! stable, so none of them is ever written: what is on disk is `strandline_core`'s [`Entry`] and
//! `strandline_storage`'s [`QuorumVote`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use openraft::{
    EntryPayload,
    vote::{RaftVote as _, leader_id_std},
};
use strandline_core::metadata::{Entry, Membership, Voter};
use strandline_protocol::{BrokerId, ClusterId, LeaderEpoch, Offset};
use strandline_storage::directory::{Election, QuorumVote, RaftId};
use tokio::sync::oneshot;

#[cfg(not(strandline_sim))]
type Runtime = openraft_rt_tokio::TokioRuntime;
/// Draws its random numbers from the seed of the simulation.
#[cfg(strandline_sim)]
pub(super) type Runtime =
    openraft_rt::deterministic_rng::DeterministicRng<openraft_rt_tokio::TokioRuntime>;

openraft::declare_raft_types!(
    /// See the module.
    pub(in crate::metadata) Types:
        D = Change,
        R = (),
        NodeId = RaftId,
        Node = BrokerId,
        Term = i32,
        LeaderId = leader_id_std::LeaderId<i32, RaftId>,
        AsyncRuntime = Runtime,
);

/// Names an entry: its term and its offset.
pub(in crate::metadata) type LogId = openraft::LogId<leader_id_std::CommittedLeaderId<i32>>;
/// An entry as openraft hands it around.
pub(super) type RaftEntry = openraft::alias::EntryOf<Types>;
/// Who leads a term.
pub(super) type Vote = openraft::alias::VoteOf<Types>;
/// A membership and the entry that it stands in.
pub(super) type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
/// Who keeps the log, as openraft sees it.
pub(super) type RaftMembership = openraft::Membership<RaftId, BrokerId>;

/// What a controller has decided, on its way into the log.
pub(in crate::metadata) struct Change {
    /// Always an [`Entry::Command`].
    pub(super) entry: Arc<Entry>,
    /// Tells the controller where the entry stands, once it is appended. Dropped without a word if
    /// it never is.
    pub(super) placed: Option<oneshot::Sender<LogId>>,
}

impl Change {
    /// A change, and who hears where it was appended.
    pub(in crate::metadata) fn new(entry: Arc<Entry>) -> (Self, oneshot::Receiver<LogId>) {
        let (to, from) = oneshot::channel();
        let placed = Some(to);
        (Self { entry, placed }, from)
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry.as_ref() {
            Entry::Command(records) => write!(f, "a change of {} records", records.len()),
            Entry::Blank | Entry::Membership(_) => f.write_str("no change"),
        }
    }
}

/// The name of the entry at `offset`, which was written in `term`.
pub(in crate::metadata) fn log_id(term: LeaderEpoch, offset: Offset) -> LogId {
    let leader = leader_id_std::CommittedLeaderId::new(term.0);
    LogId::new(leader, u64::try_from(offset.0).unwrap_or_default())
}

/// The term of an entry.
pub(in crate::metadata) fn term_of(id: &LogId) -> LeaderEpoch {
    LeaderEpoch(id.committed_leader_id().term)
}

/// The offset of an entry.
pub(in crate::metadata) fn offset_of(id: &LogId) -> Offset {
    Offset(i64::try_from(id.index()).unwrap_or(i64::MAX))
}

/// What openraft calls an entry of the metadata log.
pub(super) fn to_raft(id: LogId, entry: &Arc<Entry>) -> RaftEntry {
    let payload = match entry.as_ref() {
        Entry::Blank => EntryPayload::Blank,
        Entry::Membership(membership) => EntryPayload::Membership(raft_membership(membership)),
        Entry::Command(_) => EntryPayload::Normal(Change {
            entry: Arc::clone(entry),
            placed: None,
        }),
    };
    RaftEntry {
        log_id: id,
        payload,
    }
}

/// What an entry of openraft's is in the metadata log of `cluster`, and who hears of its place.
///
/// # Errors
/// If it is a membership that this broker cannot write down.
pub(super) fn from_raft(
    cluster: ClusterId,
    payload: EntryPayload<Change, RaftId, BrokerId>,
) -> Result<(Arc<Entry>, Option<oneshot::Sender<LogId>>), String> {
    match payload {
        EntryPayload::Blank => Ok((Arc::new(Entry::Blank), None)),
        EntryPayload::Normal(change) => Ok((change.entry, change.placed)),
        EntryPayload::Membership(membership) => {
            let membership = core_membership(cluster, &membership)?;
            Ok((Arc::new(Entry::Membership(membership)), None))
        }
    }
}

/// Who keeps the log, as openraft sees it.
pub(super) fn raft_membership(membership: &Membership) -> RaftMembership {
    let ids = |voters: &[Voter]| -> BTreeSet<RaftId> {
        voters.iter().map(|voter| RaftId(voter.raft_id)).collect()
    };
    // A change under way comes first, as openraft has it.
    let configs: Vec<BTreeSet<RaftId>> = [&membership.voters_before, &membership.voters]
        .into_iter()
        .filter(|voters| !voters.is_empty())
        .map(|voters| ids(voters))
        .collect();
    let nodes: BTreeMap<RaftId, BrokerId> = membership
        .members()
        .map(|member| (RaftId(member.raft_id), member.broker))
        .collect();
    // Every voter is among the members, and there is one: this is what could be refused.
    RaftMembership::new(configs, nodes).unwrap_or_default()
}

/// The same, as it is written.
///
/// # Errors
/// If it is one that this broker cannot write down.
pub(super) fn core_membership(
    cluster: ClusterId,
    membership: &RaftMembership,
) -> Result<Membership, String> {
    let voter = |id: &RaftId| -> Result<Voter, String> {
        let broker = membership
            .get_node(id)
            .ok_or_else(|| format!("voter {id} has no broker"))?;
        Ok(Voter {
            raft_id: id.0,
            broker: *broker,
        })
    };
    let voters = |ids: &BTreeSet<RaftId>| ids.iter().map(voter).collect::<Result<Vec<_>, _>>();
    let (before, now) = match membership.get_joint_config().as_slice() {
        [now] => (Vec::new(), voters(now)?),
        [before, now] => (voters(before)?, voters(now)?),
        configs => return Err(format!("a membership of {} quorums", configs.len())),
    };
    let learners = membership.learner_ids().map(|id| voter(&id));
    Ok(Membership {
        cluster,
        voters: now,
        voters_before: before,
        learners: learners.collect::<Result<_, _>>()?,
    })
}

/// What openraft calls a vote.
pub(super) fn vote_to_raft(vote: &QuorumVote) -> Vote {
    let leader = leader_id_std::LeaderId {
        term: vote.term.0,
        voted_for: vote.candidate,
    };
    Vote::from_leader_id(leader, vote.election == Election::Won)
}

/// What is written of a vote.
pub(super) fn vote_from_raft(vote: &Vote) -> QuorumVote {
    let leader = vote.leader_id();
    QuorumVote {
        term: LeaderEpoch(leader.term),
        candidate: leader.voted_for,
        election: if vote.is_committed() {
            Election::Won
        } else {
            Election::Open
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(raft_id: u64) -> Voter {
        Voter {
            raft_id,
            broker: BrokerId(i32::try_from(raft_id).unwrap_or(0)),
        }
    }

    #[test]
    fn a_membership_survives_the_way_through_openraft() {
        let cluster = ClusterId([3; 16]);
        let one = Membership::of(cluster, vec![voter(1)]);
        let growing = Membership {
            voters_before: vec![voter(1)],
            voters: vec![voter(1), voter(2), voter(3)],
            learners: vec![voter(4)],
            ..one.clone()
        };
        for membership in [one, growing] {
            let raft = raft_membership(&membership);
            assert_eq!(core_membership(cluster, &raft), Ok(membership));
        }
    }

    #[test]
    fn a_vote_survives_the_way_through_openraft() {
        for election in [Election::Open, Election::Won] {
            let vote = QuorumVote {
                term: LeaderEpoch(9),
                candidate: RaftId(u64::MAX),
                election,
            };
            assert_eq!(vote_from_raft(&vote_to_raft(&vote)), vote);
        }
    }
}
