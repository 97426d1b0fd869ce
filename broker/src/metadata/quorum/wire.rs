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
    ClusterId, LeaderEpoch,
    batch::{split_batches, stamp_position},
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

/// The most entries of one message: far above what a leader reads from its log for one.
const ENTRIES_PER_MESSAGE_MAX: usize = 100_000;

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
    let mut term = request
        .previous
        .map_or(LeaderEpoch(0), |previous| previous.term);
    // A frame's checksum does not cover what it carries: each batch has its own.
    for batch in split_batches(payload) {
        let checked = batch.and_then(|batch| batch.check_crc());
        checked.map_err(|error| error.to_string())?;
    }
    for read in read_entries(payload) {
        let (stored, entry) = read.map_err(|error| error.to_string())?;
        if stored.offset.0 != next || entries.len() >= ENTRIES_PER_MESSAGE_MAX {
            return Err(format!(
                "entry {} stands where {next} should",
                stored.offset
            ));
        }
        // Its term is outside of its checksum; but terms go up, and none is above the leader's.
        if !(term..=request.vote.term).contains(&stored.term) {
            return Err(format!("entry {next} has the term {}", stored.term));
        }
        term = stored.term;
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

#[cfg(test)]
mod tests {
    use strandline_core::metadata::Entry;
    use strandline_protocol::Offset;

    use super::*;

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    fn vote() -> TermVote {
        TermVote {
            term: LeaderEpoch(3),
            candidate: u64::MAX,
            won: true,
        }
    }

    /// Entries 5 to 7, behind entry 4.
    fn request() -> AppendEntriesRequest<Types> {
        let at = |offset| log_id(LeaderEpoch(2), Offset(offset));
        AppendEntriesRequest {
            vote: vote_of(vote()),
            prev_log_id: Some(at(4)),
            entries: (5..8)
                .map(|offset| to_raft(at(offset), &Arc::new(Entry::Blank)))
                .collect(),
            leader_commit: Some(at(6)),
        }
    }

    #[test]
    fn entries_arrive_where_they_stood_and_one_flipped_bit_is_noticed() {
        let (message, payload) = append_request(CLUSTER, RaftId(9), request()).unwrap();
        assert_eq!((message.to, message.vote), (9, vote()));
        let payload = payload.concat();
        let read = append_request_of(&message, &payload).unwrap();
        let places = read.entries.iter().map(|entry| offset_of(&entry.log_id).0);
        assert_eq!(places.collect::<Vec<_>>(), [5, 6, 7]);
        assert_eq!(read.vote, request().vote);
        assert_eq!(read.prev_log_id, request().prev_log_id);
        assert_eq!(read.leader_commit, request().leader_commit);

        let mut refused = 0;
        for at in 0..payload.len() {
            let mut damaged = payload.clone();
            if let Some(byte) = damaged.get_mut(at) {
                *byte ^= 4;
            }
            match append_request_of(&message, &damaged) {
                Err(_) => refused += 1,
                Ok(_) => println!("not noticed: {at}"),
            }
        }
        assert_eq!(refused, payload.len());
        // One that is missing in between, or cut off.
        let (whole, cut) = (payload.len() / 3, payload.len() - 1);
        for part in [payload.get(whole..), payload.get(..cut)] {
            assert!(append_request_of(&message, part.unwrap()).is_err());
        }
    }

    #[test]
    fn votes_survive_the_way() {
        let mut request = VoteRequest::new(vote_of(vote()), None);
        request.leadership_transfer = true;
        let sent = vote_request(RaftId(1), Ballot::Trial, &request);
        assert_eq!(vote_request_of(&sent), request);
        let last = Some(log_id(LeaderEpoch(1), Offset(0)));
        let response = VoteResponse::<Types>::new(vote_of(vote()), last, true);
        assert_eq!(vote_response_of(&vote_response(&response)), response);
        for response in [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(last),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(vote_of(vote())),
        ] {
            assert_eq!(append_response_of(append_response(&response)), response);
        }
    }
}
