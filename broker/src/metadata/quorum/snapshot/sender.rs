//! The leader's side of a transfer: one part after the other, as far as the receiver says.

use std::{future::Future, io, sync::Arc};

use bytes::Bytes;
use openraft::{
    alias::{SnapshotOf, VoteOf},
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    raft::SnapshotResponse,
};
use strandline_core::mutants::{self, Mutant};
use strandline_protocol::messages::{QuorumSnapshotRequest, QuorumSnapshotResponse};
use strandline_storage::directory::RaftId;

use super::{
    super::{
        store::blocking,
        types::{Types, Vote},
        wire::{entry_id, term_vote, vote_of},
    },
    format::to_u64,
    kept::SnapshotFile,
};

/// How much of a snapshot one message carries, in bytes.
const PART_BYTES: usize = 256 << 10;

/// How often one position may be sent before the sender gives up for now.
const ATTEMPTS_MAX: usize = 3;

/// Sends `snapshot` to the member `to`, with `send` for each message, and waits until it is in
/// force there.
///
/// # Errors
/// What `send` says; if the disk fails; if it was cancelled; if the receiver does not take it.
pub(in crate::metadata) async fn send_snapshot<S, F>(
    to: RaftId,
    vote: VoteOf<Types>,
    snapshot: SnapshotOf<Types, SnapshotFile>,
    cancel: impl Future<Output = ReplicationClosed>,
    send: S,
) -> Result<SnapshotResponse<Types>, StreamingError<Types>>
where
    S: FnMut(QuorumSnapshotRequest, Bytes) -> F,
    F: Future<Output = Result<QuorumSnapshotResponse, RPCError<Types>>>,
{
    if mutants::is_active(Mutant::SnapshotIsNotSent) {
        return Ok(SnapshotResponse::new(vote));
    }
    tokio::select! {
        biased;
        closed = cancel => Err(closed.into()),
        sent = send_parts(to, vote, snapshot.snapshot, send) => sent,
    }
}

async fn send_parts<S, F>(
    to: RaftId,
    vote: Vote,
    snapshot: SnapshotFile,
    mut send: S,
) -> Result<SnapshotResponse<Types>, StreamingError<Types>>
where
    S: FnMut(QuorumSnapshotRequest, Bytes) -> F,
    F: Future<Output = Result<QuorumSnapshotResponse, RPCError<Types>>>,
{
    let (bytes, mut position, mut attempts) = (snapshot.bytes(), 0, 0);
    loop {
        let part = snapshot.part(position, PART_BYTES).await;
        let part = part.map_err(|error| Unreachable::new(&error))?;
        let sent = position.saturating_add(to_u64(part.len()));
        let request = QuorumSnapshotRequest {
            to: to.0,
            vote: term_vote(&vote),
            last: entry_id(&snapshot.last),
            bytes,
            position,
        };
        let answer = send(request, part).await.map_err(streaming)?;
        let theirs = vote_of(answer.vote);
        // A member with a later vote takes nothing from this leader any more.
        if theirs > vote || answer.received == bytes {
            return Ok(SnapshotResponse::new(theirs));
        }
        attempts = if answer.received == sent {
            0
        } else {
            attempts + 1
        };
        if attempts >= ATTEMPTS_MAX || answer.received > bytes {
            let refused = format!("a part at {position} of a snapshot of {bytes} is not taken");
            return Err(Unreachable::from_string(refused).into());
        }
        position = answer.received;
    }
}

fn streaming(error: RPCError<Types>) -> StreamingError<Types> {
    match error {
        RPCError::Timeout(timeout) => timeout.into(),
        RPCError::Unreachable(unreachable) => unreachable.into(),
        RPCError::Network(network) => network.into(),
        RPCError::RemoteError(remote) => Unreachable::from_string(remote).into(),
    }
}

impl SnapshotFile {
    /// How many bytes it has.
    fn bytes(&self) -> u64 {
        self.file.size()
    }

    /// Up to `bytes_max` bytes from `position` on.
    ///
    /// # Errors
    /// If the disk fails.
    async fn part(&self, position: u64, bytes_max: usize) -> io::Result<Bytes> {
        let end = position.saturating_add(to_u64(bytes_max)).min(self.bytes());
        let file = Arc::clone(&self.file);
        let read = move || {
            file.populate(position..end).map_err(io::Error::other)?;
            file.view(position..end).map_err(io::Error::other)
        };
        blocking(self.flushing, read).await
    }
}
