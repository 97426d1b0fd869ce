//! `QuorumSnapshot` (16), versions 0 to 0: the leader sends part of a snapshot of the metadata.
//!
//! *Pattern: low-water mark.* For a member that is behind what the log of the leader still holds.

use std::sync::Arc;

use bytes::Bytes;
use strandline_protocol::messages::{Failure, QuorumSnapshotRequest};

use super::{Handled, Request, task};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    request.sender()?;
    let message: QuorumSnapshotRequest = request.decode()?;
    let broker = Arc::clone(request.broker);
    let part = Bytes::copy_from_slice(request.payload);
    Ok(task(async move {
        broker.metadata.receive_snapshot(message, part).await.into()
    }))
}
