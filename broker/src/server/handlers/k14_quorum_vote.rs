//! `QuorumVote` (14), versions 0 to 0: a candidate asks this member of the metadata quorum.

use std::sync::Arc;

use strandline_protocol::messages::{Failure, QuorumVoteRequest};

use super::{Handled, Request, task};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    request.sender()?;
    let vote: QuorumVoteRequest = request.decode()?;
    let broker = Arc::clone(request.broker);
    Ok(task(
        async move { broker.metadata.vote(&vote).await.into() },
    ))
}
