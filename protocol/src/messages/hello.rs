//! `Hello` (0): the first request of every connection.

use serde::{Deserialize, Serialize};

use super::Request;
use crate::{
    api::ApiKey,
    ids::{BrokerId, ClusterId, DirectoryId},
};

/// What a `Hello` starts with; anything else is not a client of ours.
pub const HELLO_MAGIC: &str = "strandline";

/// Who connects, and to whom it believes to connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloRequest {
    /// [`HELLO_MAGIC`].
    pub magic: String,
    /// A name for logs and metrics; not an identity.
    pub client_id: String,
    /// The software and its version, as `name/version`.
    pub software: String,
    /// The cluster that is expected here; another one answers `INCONSISTENT_CLUSTER_ID`.
    #[serde(default)]
    pub cluster_id: Option<ClusterId>,
    /// The data directory that is expected here; another answers `INCONSISTENT_DIRECTORY_ID`.
    #[serde(default)]
    pub directory_id: Option<DirectoryId>,
    /// The mechanism of authentication; only none exists.
    #[serde(default)]
    pub authentication: Option<String>,
    /// Set by a broker: it is no client, and what it asks is passed on to nobody.
    #[serde(default)]
    pub peer: Option<Peer>,
}

/// What a connection between brokers is for: each has its own, so that heartbeats never queue
/// behind data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Heartbeats to the controller, and what clients want of it.
    Control,
    /// Votes and entries of the metadata quorum.
    Quorum,
    /// Snapshots of the metadata.
    Snapshot,
    /// Records that a follower fetches from its leader.
    Replication,
}

/// The broker that connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its number.
    pub broker_id: BrokerId,
    /// The random Raft id of its first directory.
    pub raft_id: u64,
    /// The host that it advertises.
    pub host: String,
    /// The port that it advertises.
    pub port: u16,
    /// What the connection is for.
    pub purpose: Purpose,
}

impl Request for HelloRequest {
    const API: ApiKey = ApiKey::Hello;
    type Response = HelloResponse;
}

/// One API and the versions of it that a broker speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiVersions {
    /// The API.
    pub key: u16,
    /// The lowest version.
    pub min: u16,
    /// The highest version.
    pub max: u16,
}

/// Who answers, and what it accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloResponse {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The broker that answers.
    pub broker_id: BrokerId,
    /// Its first data directory.
    pub directory_id: DirectoryId,
    /// The random Raft id of that directory; none from brokers that have no quorum to speak of.
    #[serde(default)]
    pub raft_id: Option<u64>,
    /// The software and its version, as `name/version`.
    pub software: String,
    /// The APIs that it speaks.
    pub apis: Vec<ApiVersions>,
    /// The largest frame that it accepts, in bytes.
    pub frame_bytes_max: u32,
}
