//! `DrainBroker` (30), versions 0 to 0: a broker gives away what it leads, or takes part as any
//! other.

use strandline_core::metadata::Command;
use strandline_protocol::messages::{DrainBrokerRequest, Failure};

use super::{Handled, Request, k03_topics::propose};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let wanted: DrainBrokerRequest = request.decode()?;
    Ok(propose(request, Command::DrainBroker(wanted)))
}
