//! `AlterPartitions` (26), versions 0 to 0: a leader has seen who is in sync (KIP-497).
//!
//! Leaders ask the controller, and nobody passes it on: who is not the controller says so.

use std::sync::Arc;

use strandline_core::metadata::{Command, Reply};
use strandline_protocol::{
    ErrorCode,
    messages::{AlterPartitionsRequest, Failure},
};

use super::{Handled, Request, check_entries, task};
use crate::{metadata::version_payload, server::connection};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let peer = request.sender()?;
    let alter: AlterPartitionsRequest = request.decode()?;
    check_entries(alter.partitions.len())?;
    if peer.broker_id != alter.broker_id {
        return Err(Failure::new(
            ErrorCode::INVALID_REQUEST,
            format!(
                "broker {} asks in the name of broker {}",
                peer.broker_id, alter.broker_id
            ),
        ));
    }
    let broker = Arc::clone(request.broker);
    Ok(task(async move {
        match broker
            .metadata
            .propose_here(Command::AlterPartitions(alter))
            .await
        {
            Ok(Reply::AlterPartitions(response)) => {
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
