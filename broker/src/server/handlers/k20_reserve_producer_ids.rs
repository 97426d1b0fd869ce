//! `ReserveProducerIds` (20), versions 0 to 0: a broker needs producer ids to hand out.

use std::sync::Arc;

use strandline_core::metadata::{Command, Reply};
use strandline_protocol::{
    ErrorCode,
    messages::{Failure, ReserveProducerIdsRequest, ReserveProducerIdsResponse},
};

use super::{Handled, Request, task};
use crate::{metadata::version_payload, server::connection};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let peer = request.sender()?;
    let reserve: ReserveProducerIdsRequest = request.decode()?;
    if peer.broker_id != reserve.broker_id {
        return Err(Failure::new(
            ErrorCode::INVALID_REQUEST,
            format!(
                "broker {} asks for broker {}",
                peer.broker_id, reserve.broker_id
            ),
        ));
    }
    let broker = Arc::clone(request.broker);
    Ok(task(async move {
        let command = Command::ReserveProducerIds {
            broker: reserve.broker_id,
            epoch: reserve.broker_epoch,
        };
        match broker.metadata.propose_here(command).await {
            Ok(Reply::ProducerIds(block)) => {
                let response = ReserveProducerIdsResponse {
                    first: block.first,
                    count: block.count,
                };
                let version = broker.metadata.image().version();
                connection::Reply::with_payload(&response, vec![version_payload(version)])
            }
            Ok(_) => connection::Reply::failure(
                ErrorCode::UNKNOWN_SERVER_ERROR,
                "the controller answered something else than it was asked",
            ),
            Err(failure) => failure.into(),
        }
    }))
}
