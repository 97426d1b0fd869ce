//! `QuorumAppend` (15), versions 0 to 0: the leader of the metadata quorum sends entries.
//!
//! *Pattern: replicated log.* Answered once they are durable. The leader sends the next ones after
//! that, so that nothing overtakes anything.

use std::sync::Arc;

use bytes::Bytes;
use strandline_protocol::messages::{Failure, QuorumAppendRequest};

use super::{Handled, Request, task};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    request.sender()?;
    let append: QuorumAppendRequest = request.decode()?;
    let broker = Arc::clone(request.broker);
    let payload = Bytes::copy_from_slice(request.payload);
    Ok(task(async move {
        broker.metadata.append(&append, &payload).await.into()
    }))
}
