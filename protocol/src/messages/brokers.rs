//! `DescribeBroker` (13): the process behind the connection, for benchmarks and for people.

use serde::{Deserialize, Serialize};

use super::Request;
use crate::{api::ApiKey, ids::BrokerId};

/// Asks the broker about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeBrokerRequest {}

impl Request for DescribeBrokerRequest {
    const API: ApiKey = ApiKey::DescribeBroker;
    type Response = DescribeBrokerResponse;
}

/// The broker about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeBrokerResponse {
    /// Its number.
    pub broker_id: BrokerId,
    /// Its version.
    pub version: String,
    /// The default of the topics' `flush`: `ack` or `async`.
    pub flush: String,
    /// Its data directories.
    pub directories: Vec<String>,
    /// CPU time of the process so far, user and system, in microseconds.
    pub cpu_us: u64,
    /// Resident memory of the process, in bytes.
    pub resident_bytes: u64,
    /// Since when it has been serving, in milliseconds.
    pub uptime_ms: u64,
}
