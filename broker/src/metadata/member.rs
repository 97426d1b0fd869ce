//! What the other members of the quorum ask of this one.
//!
//! *Pattern: majority quorum.* Whoever asks names the Raft id that is meant: another one is a disk
//! that was wiped or swapped, and must not answer for what it does not remember.

use std::{fmt::Display, time::Duration};

use bytes::Bytes;
use strandline_protocol::{
    BrokerId, ErrorCode, LeaderEpoch,
    messages::{
        Ballot, Failure, QuorumAppendRequest, QuorumAppendResponse, QuorumSnapshotRequest,
        QuorumSnapshotResponse, QuorumTransferRequest, QuorumTransferResponse, QuorumVoteRequest,
        QuorumVoteResponse,
    },
};

use openraft::{Instant as _, ServerState, async_runtime::watch::WatchReceiver as _};
use tokio::time::timeout;

use super::{
    MetadataLog,
    quorum::{Raft, successor, wire},
};

/// How old the answers of a majority may be for leases to be granted. Less than what voters wait
/// before they elect somebody else.
const QUORUM_ACKED_MAX: Duration = Duration::from_millis(400);

/// How often somebody who waits for the member to start looks.
const START_POLL: Duration = Duration::from_millis(10);

/// Who decides about the metadata now, as far as this broker knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerAt {
    /// This broker.
    Here,
    /// Another one.
    Broker {
        /// Its number.
        broker: BrokerId,
        /// The Raft id of its directory.
        raft_id: u64,
    },
    /// Nobody, or it is not known here.
    Unknown,
}

impl MetadataLog {
    /// Answers a candidate.
    ///
    /// # Errors
    /// If the request is not for this member, or it has failed.
    pub async fn vote(&self, request: &QuorumVoteRequest) -> Result<QuorumVoteResponse, Failure> {
        let raft = self.member_for(request.to)?;
        let asked = wire::vote_request_of(request);
        let answer = match request.ballot {
            Ballot::Trial => raft.pre_vote(asked).await,
            Ballot::Binding => raft.vote(asked).await,
        };
        answer
            .map(|response| wire::vote_response(&response))
            .map_err(failed)
    }

    /// Takes entries from the leader, or its heartbeat. They are durable when this returns.
    ///
    /// # Errors
    /// As [`MetadataLog::vote`]; if the payload is not what it should be.
    pub async fn append(
        &self,
        request: &QuorumAppendRequest,
        payload: &[u8],
    ) -> Result<QuorumAppendResponse, Failure> {
        let raft = self.member_for(request.to)?;
        let asked = wire::append_request_of(request, payload)
            .map_err(|error| Failure::new(ErrorCode::CORRUPT_MESSAGE, error))?;
        let answer = raft.append_entries(asked).await;
        answer
            .map(|response| wire::append_response(&response))
            .map_err(failed)
    }

    /// Takes a part of a snapshot from the leader, for a member that is behind the log. At the last
    /// one the snapshot is durable and in force when this returns.
    ///
    /// Cancel safe: the answer to a part tells where to go on.
    ///
    /// # Errors
    /// As [`MetadataLog::vote`]; a part that no leader sends; a snapshot that does not read or is
    /// another cluster's; a disk that fails or is full.
    pub async fn receive_snapshot(
        &self,
        request: QuorumSnapshotRequest,
        part: Bytes,
    ) -> Result<QuorumSnapshotResponse, Failure> {
        let raft = self.member_for(request.to)?;
        self.receiver.take(raft, request, part).await
    }

    /// Goes along with a transfer of the leadership.
    ///
    /// # Errors
    /// As [`MetadataLog::vote`].
    pub async fn transfer(
        &self,
        request: &QuorumTransferRequest,
    ) -> Result<QuorumTransferResponse, Failure> {
        let raft = self.member_for(request.to)?;
        let asked = wire::transfer_request_of(request);
        let answer = raft.handle_transfer_leader(asked).await.map_err(failed)?;
        Ok(QuorumTransferResponse {
            accepted: answer.is_ok(),
        })
    }

    /// Who is the controller.
    #[must_use]
    pub fn controller(&self) -> ControllerAt {
        let Some(raft) = self.member.get() else {
            return ControllerAt::Unknown;
        };
        let metrics = raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let Some(leader) = metrics.current_leader else {
            return ControllerAt::Unknown;
        };
        if leader == metrics.id {
            return ControllerAt::Here;
        }
        match metrics.membership_config.membership().get_node(&leader) {
            Some(broker) => ControllerAt::Broker {
                broker: *broker,
                raft_id: leader.0,
            },
            None => ControllerAt::Unknown,
        }
    }

    /// Whether this member leads and has heard of a majority so lately that nobody else can have
    /// been elected: voters hold on to a leader for longer.
    pub(super) fn has_quorum(&self) -> bool {
        let Some(raft) = self.member.get() else {
            return false;
        };
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut voters = metrics.membership_config.membership().voter_ids();
        if metrics.state != ServerState::Leader {
            return false;
        }
        voters.all(|voter| voter == metrics.id)
            || metrics
                .last_quorum_acked
                .as_ref()
                .is_some_and(|acked| acked.elapsed() < QUORUM_ACKED_MAX)
    }

    /// Has another voter lead the quorum, if this one does and another one can. Waits until it
    /// does, or for `patience`.
    pub async fn hand_over(&self, patience: Duration) {
        let raft = self.member.get();
        let successor = raft.and_then(|raft| successor(raft, &self.lessor));
        let Some((raft, successor)) = raft.zip(successor) else {
            return;
        };
        // Whoever comes next may lead before this one hears of it: no lease is granted any more,
        // by this process.
        self.lessor.abdicate(LeaderEpoch(i32::MAX));
        if let Err(error) = raft.trigger().transfer_leader(successor).await {
            tracing::debug!("the leadership of the quorum is not handed over: {error}");
            return;
        }
        let mut metrics = raft.server_metrics();
        let handed = async {
            while !matches!(self.controller(), ControllerAt::Broker { .. }) {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        if timeout(patience, handed).await.is_err() {
            tracing::warn!("no other voter has become the controller in {patience:?}");
        }
    }

    /// This member, once it has started. Cancel safe.
    pub(super) async fn member(&self) -> Raft {
        loop {
            if let Some(raft) = self.member.get() {
                return raft.clone();
            }
            // It takes as long as one look at the disk.
            tokio::time::sleep(START_POLL).await;
        }
    }

    /// The term that this member leads, if it knows all that was committed before.
    pub(super) fn leads_settled(&self, raft: &Raft) -> Option<LeaderEpoch> {
        let metrics = raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.state == ServerState::Leader && metrics.vote.is_committed();
        let term = LeaderEpoch(metrics.vote.leader_id().term);
        (leads && self.image().term() == term).then_some(term)
    }

    fn member_for(&self, to: u64) -> Result<&Raft, Failure> {
        if to != self.raft_id.0 {
            return Err(Failure::new(
                ErrorCode::INCONSISTENT_DIRECTORY_ID,
                format!(
                    "this is the member with Raft id {}, not {to}: its disk was replaced",
                    self.raft_id
                ),
            ));
        }
        if let Some(failed) = self.failing.refusal() {
            return Err(failed);
        }
        self.member.get().ok_or_else(|| {
            Failure::new(
                ErrorCode::NOT_READY,
                "this member of the quorum has not started yet: retry",
            )
        })
    }
}

fn failed(error: impl Display) -> Failure {
    Failure::new(
        ErrorCode::STORAGE_ERROR,
        format!("this member of the quorum has failed: {error}"),
    )
}
