//! `DescribeBroker` (13), versions 0 to 0: the process behind the connection.

use strandline_protocol::messages::{DescribeBrokerRequest, DescribeBrokerResponse, Failure};

use super::{Handled, Request};
use crate::{metrics::process, server::connection::Reply};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let _: DescribeBrokerRequest = request.decode()?;
    let broker = request.broker;
    let usage = process::usage();
    let response = DescribeBrokerResponse {
        broker_id: broker.identity.broker,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        flush: broker.topic_defaults.flush.name().to_owned(),
        directories: broker
            .directories
            .iter()
            .map(|directory| directory.path().display().to_string())
            .collect(),
        cpu_us: usage.cpu_us,
        resident_bytes: usage.resident_bytes,
        uptime_ms: u64::try_from(broker.started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    Ok(Reply::of(&response).into())
}
