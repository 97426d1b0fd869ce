//! `QuorumVote` (14), `QuorumAppend` (15), `QuorumSnapshot` (16) and `QuorumTransfer` (17): what
//! the members of the metadata quorum say to each other.
//!
//! *Patterns: consistent core, majority quorum, replicated log.* Raft index is offset and Raft term
//! is leader epoch. Entries travel as the record batches that stand in the log. Every request names
//! the Raft id of the directory that it is meant for: a disk that was wiped or swapped has another
//! one and refuses.

use serde::{Deserialize, Serialize};

use super::Request;
use crate::{
    api::ApiKey,
    ids::{LeaderEpoch, Offset},
};

/// Names one entry of the metadata log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryId {
    /// The term in which it was written.
    pub term: LeaderEpoch,
    /// Where it stands.
    pub offset: Offset,
}

/// Who leads a term, or wants to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermVote {
    /// The term.
    pub term: LeaderEpoch,
    /// The Raft id of the candidate.
    pub candidate: u64,
    /// Whether a majority has voted for it.
    pub won: bool,
}

/// Whether a vote counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ballot {
    /// Nothing is promised: would there be a vote? Keeps a member that was cut off from disturbing
    /// a leader that works.
    Trial,
    /// The receiver promises not to vote for anybody else in that term.
    Binding,
}

/// Asks for a vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumVoteRequest {
    /// The Raft id of the receiver.
    pub to: u64,
    /// Whether the vote counts.
    pub ballot: Ballot,
    /// For whom, in which term.
    pub vote: TermVote,
    /// The last entry of the candidate.
    #[serde(default)]
    pub last: Option<EntryId>,
    /// The leader has asked the candidate to take over, so its lease does not stand in the way.
    #[serde(default)]
    pub leadership_transfer: bool,
}

impl Request for QuorumVoteRequest {
    const API: ApiKey = ApiKey::QuorumVote;
    type Response = QuorumVoteResponse;
}

/// A vote, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumVoteResponse {
    /// What the receiver holds to now.
    pub vote: TermVote,
    /// Whether the candidate has its vote.
    pub granted: bool,
    /// The last entry of the receiver.
    #[serde(default)]
    pub last: Option<EntryId>,
}

/// Sends entries; without any it is the heartbeat of the leader. The payload is their batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumAppendRequest {
    /// The Raft id of the receiver.
    pub to: u64,
    /// Who leads.
    pub vote: TermVote,
    /// The entry before the first one; none if that is the first of the log.
    #[serde(default)]
    pub previous: Option<EntryId>,
    /// What is committed.
    #[serde(default)]
    pub commit: Option<EntryId>,
}

impl Request for QuorumAppendRequest {
    const API: ApiKey = ApiKey::QuorumAppend;
    type Response = QuorumAppendResponse;
}

/// What has become of the entries. What is accepted is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuorumAppendResponse {
    /// All are durable.
    Accepted,
    /// Those up to this one are; the rest is to be sent again.
    AcceptedTo(Option<EntryId>),
    /// The receiver does not have the entry before the first one: go further back.
    Conflict,
    /// The receiver holds to a later vote.
    HigherVote(TermVote),
}

/// Sends a part of a snapshot, for who is behind what the log still holds. The payload is the part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumSnapshotRequest {
    /// The Raft id of the receiver.
    pub to: u64,
    /// Who leads.
    pub vote: TermVote,
    /// The last entry that the snapshot reflects.
    pub last: EntryId,
    /// How large the snapshot is, in bytes.
    pub bytes: u64,
    /// Where in the snapshot the part begins, in bytes. Parts come in order.
    pub position: u64,
}

impl Request for QuorumSnapshotRequest {
    const API: ApiKey = ApiKey::QuorumSnapshot;
    type Response = QuorumSnapshotResponse;
}

/// A part of a snapshot has come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumSnapshotResponse {
    /// What the receiver holds to now; a later vote than the sender's ends the transfer.
    pub vote: TermVote,
    /// How many bytes of the snapshot it has. At the last one it is durable and in force.
    pub received: u64,
}

/// The leader wants somebody else to lead from now on. Every voter is told: the one that shall lead
/// asks for votes, the others no longer hold on to the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumTransferRequest {
    /// The Raft id of the receiver.
    pub to: u64,
    /// The Raft id of the voter that shall lead.
    pub successor: u64,
    /// Who leads.
    pub vote: TermVote,
    /// What the successor must have to lead.
    #[serde(default)]
    pub last: Option<EntryId>,
}

impl Request for QuorumTransferRequest {
    const API: ApiKey = ApiKey::QuorumTransfer;
    type Response = QuorumTransferResponse;
}

/// Whether the receiver goes along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumTransferResponse {
    /// Whether it does: it holds to the same leader, and has what the successor must have.
    pub accepted: bool,
}
