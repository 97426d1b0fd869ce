//! `ElectLeaders` (27), versions 0 to 0: partitions get another leader. Answered once
//! the elections are committed.

use strandline_core::metadata::Command;
use strandline_protocol::messages::{ElectLeadersRequest, Failure};

use super::{Handled, Request, check_entries, k03_topics::propose};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let wanted: ElectLeadersRequest = request.decode()?;
    check_entries(wanted.partitions.len())?;
    Ok(propose(request, Command::ElectLeaders(wanted)))
}
