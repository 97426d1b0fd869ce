//! `QuorumTransfer` (17), versions 0 to 0: the leader of the metadata quorum wants another one.

use std::sync::Arc;

use strandline_protocol::messages::{Failure, QuorumTransferRequest};

use super::{Handled, Request, task};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    request.sender()?;
    let transfer: QuorumTransferRequest = request.decode()?;
    let broker = Arc::clone(request.broker);
    Ok(task(async move {
        broker.metadata.transfer(&transfer).await.into()
    }))
}
