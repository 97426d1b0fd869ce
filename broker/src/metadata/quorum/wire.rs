//! What the members say to each other, as openraft has it and as it travels.
//!
//! Entries travel as record batches that already carry their place: offset and term.

use bytes::{Bytes, BytesMut};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use std::sync::Arc;
use strandline_client::net::Clock;
use strandline_protocol::{
    ClusterId,
    batch::stamp_position,
    messages::{
        Ballot, EntryId, QuorumAppendRequest, QuorumAppendResponse, QuorumTransferRequest,
        QuorumVoteRequest, QuorumVoteResponse, TermVote,
    },
};
use strandline_storage::directory::{Election, QuorumVote, RaftId};

use super::{
    super::{batches, replay::read_entries},
    types::{
        LogId, RaftEntry, Types, Vote, from_raft, log_id, offset_of, term_of, to_raft,
        vote_from_raft, vote_to_raft,
    },
};

/// An entry that travels lies in this many bytes of one message at most: what is read from the log
/// for one, and one entry more.
pub(super) const ENTRIES_PER_MESSAGE_MAX: usize = 100_000;

pub(super) fn entry_id(id: &LogId) -> EntryId {
    EntryId {
        term: term_of(id),
        offset: offset_of(id),
    }
}

fn log_id_of(id: EntryId) -> LogId {
    log_id(id.term, id.offset)
}

pub(super) fn term_vote(vote: &Vote) -> TermVote {
    let vote = vote_from_raft(vote);
    TermVote {
        term: vote.term,
        candidate: vote.candidate.0,
        won: vote.election == Election::Won,
    }
}

pub(super) fn vote_of(vote: TermVote) -> Vote {
    vote_to_raft(&QuorumVote {
        term: vote.term,
        candidate: RaftId(vote.candidate),
        election: if vote.won {
            Election::Won
        } else {
            Election::Open
        },
    })
}

pub(super) fn vote_request(
    to: RaftId,
    ballot: Ballot,
    request: &VoteRequest<Types>,
) -> QuorumVoteRequest {
    QuorumVoteRequest {
        to: to.0,
        ballot,
        vote: term_vote(&request.vote),
        last: request.last_log_id.as_ref().map(entry_id),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(in crate::metadata) fn vote_request_of(request: &QuorumVoteRequest) -> VoteRequest<Types> {
    VoteRequest {
        leadership_transfer: request.leadership_transfer,
        ..VoteRequest::new(vote_of(request.vote), request.last.map(log_id_of))
    }
}

pub(in crate::metadata) fn vote_response(response: &VoteResponse<Types>) -> QuorumVoteResponse {
    QuorumVoteResponse {
        vote: term_vote(&response.vote),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(entry_id),
    }
}

pub(super) fn vote_response_of(response: &QuorumVoteResponse) -> VoteResponse<Types> {
    let last = response.last.map(log_id_of);
    VoteResponse::new(vote_of(response.vote), last, response.granted)
}

/// The message, and the batches of the entries.
///
/// # Errors
/// If an entry cannot be written down.
pub(super) fn append_request(
    cluster: ClusterId,
    to: RaftId,
    request: AppendEntriesRequest<Types>,
) -> Result<(QuorumAppendRequest, Vec<Bytes>), String> {
    let message = QuorumAppendRequest {
        to: to.0,
        vote: term_vote(&request.vote),
        previous: request.prev_log_id.as_ref().map(entry_id),
        commit: request.leader_commit.as_ref().map(entry_id),
    };
    let entries = request.entries.into_iter();
    let payload = entries
        .map(|entry| batch_of(cluster, entry))
        .collect::<Result<_, _>>()?;
    Ok((message, payload))
}

fn batch_of(cluster: ClusterId, entry: RaftEntry) -> Result<Bytes, String> {
    let id = entry.log_id;
    let (entry, _) = from_raft(cluster, entry.payload)?;
    let mut batch = BytesMut::from(batches::encode(&entry, Clock.now())?);
    if stamp_position(&mut batch, offset_of(&id), term_of(&id)) {
        Ok(batch.freeze())
    } else {
        Err("a batch without a header".to_owned())
    }
}

/// The same on the side of the receiver.
///
/// # Errors
/// If the payload does not hold whole and sound entries, one after the other.
pub(in crate::metadata) fn append_request_of(
    request: &QuorumAppendRequest,
    payload: &[u8],
) -> Result<AppendEntriesRequest<Types>, String> {
    let mut entries: Vec<RaftEntry> = Vec::new();
    let mut next = request
        .previous
        .map_or(0, |previous| previous.offset.plus(1).0);
    for read in read_entries(payload) {
        let (stored, entry) = read.map_err(|error| error.to_string())?;
        if stored.offset.0 != next || entries.len() >= ENTRIES_PER_MESSAGE_MAX {
            return Err(format!(
                "entry {} stands where {next} should",
                stored.offset
            ));
        }
        next = stored.offset.plus(1).0;
        entries.push(to_raft(
            log_id(stored.term, stored.offset),
            &Arc::new(entry),
        ));
    }
    Ok(AppendEntriesRequest {
        vote: vote_of(request.vote),
        prev_log_id: request.previous.map(log_id_of),
        entries,
        leader_commit: request.commit.map(log_id_of),
    })
}

pub(in crate::metadata) fn append_response(
    response: &AppendEntriesResponse<Types>,
) -> QuorumAppendResponse {
    match response {
        AppendEntriesResponse::Success => QuorumAppendResponse::Accepted,
        AppendEntriesResponse::PartialSuccess(to) => {
            QuorumAppendResponse::AcceptedTo(to.as_ref().map(entry_id))
        }
        AppendEntriesResponse::Conflict => QuorumAppendResponse::Conflict,
        AppendEntriesResponse::HigherVote(vote) => {
            QuorumAppendResponse::HigherVote(term_vote(vote))
        }
    }
}

pub(super) fn append_response_of(response: QuorumAppendResponse) -> AppendEntriesResponse<Types> {
    match response {
        QuorumAppendResponse::Accepted => AppendEntriesResponse::Success,
        QuorumAppendResponse::AcceptedTo(to) => {
            AppendEntriesResponse::PartialSuccess(to.map(log_id_of))
        }
        QuorumAppendResponse::Conflict => AppendEntriesResponse::Conflict,
        QuorumAppendResponse::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote_of(vote)),
    }
}

pub(super) fn transfer_request(
    to: RaftId,
    request: &TransferLeaderRequest<Types>,
) -> QuorumTransferRequest {
    QuorumTransferRequest {
        to: to.0,
        successor: request.to_node_id().0,
        vote: term_vote(request.from_leader()),
        last: request.last_log_id().map(entry_id),
    }
}

pub(in crate::metadata) fn transfer_request_of(
    request: &QuorumTransferRequest,
) -> TransferLeaderRequest<Types> {
    TransferLeaderRequest::new(
        vote_of(request.vote),
        RaftId(request.successor),
        request.last.map(log_id_of),
    )
}
