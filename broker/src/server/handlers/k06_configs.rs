//! `DescribeConfigs` (6), `AlterConfigs` (7), versions 0 to 0.

use strandline_core::metadata::{Command, describe_configs};
use strandline_protocol::messages::{AlterConfigsRequest, DescribeConfigsRequest, Failure};

use super::{Handled, Request, k03_topics::propose};
use crate::server::connection::Reply;

pub(super) fn describe(request: &Request<'_>) -> Result<Handled, Failure> {
    let describe: DescribeConfigsRequest = request.decode()?;
    let broker = request.broker;
    let response = describe_configs(&broker.metadata.image(), &broker.topic_defaults, &describe)?;
    Ok(Reply::of(&response).into())
}

pub(super) fn alter(request: &Request<'_>) -> Result<Handled, Failure> {
    let alter: AlterConfigsRequest = request.decode()?;
    Ok(propose(request, Command::AlterConfigs(alter)))
}
