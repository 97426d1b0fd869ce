//! `BrokerHeartbeat` (19), versions 0 to 0: a broker shows the controller that it lives.
//!
//! *Patterns: heartbeat, lease.* Answered at once, from memory.

use strandline_protocol::{
    ErrorCode,
    messages::{BrokerHeartbeatRequest, Failure},
};

use super::{Handled, Request};
use crate::server::connection::Reply;

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let peer = request.sender()?;
    let heartbeat: BrokerHeartbeatRequest = request.decode()?;
    if peer.broker_id != heartbeat.broker_id {
        return Err(Failure::new(
            ErrorCode::INVALID_REQUEST,
            format!(
                "broker {} sends a heartbeat of broker {}",
                peer.broker_id, heartbeat.broker_id
            ),
        ));
    }
    let response = request.broker.metadata.heartbeat(&heartbeat)?;
    Ok(Reply::of(&response).into())
}
