//! `UnregisterBroker` (23), versions 0 to 0: a broker is gone for good.

use strandline_core::metadata::Command;
use strandline_protocol::messages::{Failure, UnregisterBrokerRequest};

use super::{Handled, Request, k03_topics::propose};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let unregister: UnregisterBrokerRequest = request.decode()?;
    let command = Command::UnregisterBroker {
        broker: unregister.broker_id,
    };
    Ok(propose(request, command))
}
