//! `ReassignPartitions` (28), versions 0 to 0: replicas are moved (KIP-455). Answered
//! once it has begun.

use strandline_core::metadata::Command;
use strandline_protocol::messages::{Failure, ReassignPartitionsRequest};

use super::{Handled, Request, check_entries, k03_topics::propose};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let wanted: ReassignPartitionsRequest = request.decode()?;
    check_entries(wanted.partitions.len())?;
    Ok(propose(request, Command::ReassignPartitions(wanted)))
}
