//! `RegisterBroker` (18) to `UnregisterBroker` (23): brokers and their controller, and the cluster
//! as people see it.

use serde::{Deserialize, Serialize};

use super::{Duty, PartitionName, Request};
use crate::{
    api::ApiKey,
    ids::{BrokerEpoch, BrokerId, ClusterId, DirectoryId, LeaderEpoch, Offset, ProducerId},
};

/// A broker has started and makes itself known. Any member of the cluster takes it and passes it to
/// the controller. Who has no copy of the metadata yet is sent one.
///
/// *Pattern: generation clock.*
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterBrokerRequest {
    /// The cluster that it belongs to; none if it wants to join one.
    #[serde(default)]
    pub cluster_id: Option<ClusterId>,
    /// Its number.
    pub broker_id: BrokerId,
    /// The broker epoch that the run before has left in the first directory, `-1` if none, in 8
    /// bytes; and 8 bytes that are drawn at each start.
    pub incarnation: [u8; 16],
    /// The random Raft id of its first directory.
    pub raft_id: u64,
    /// The host that it advertises.
    pub host: String,
    /// The port that it advertises.
    pub port: u16,
    /// Its rack, where one is configured.
    #[serde(default)]
    pub rack: Option<String>,
    /// Its data directories, in their configured order.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub directories: Vec<DirectoryId>,
    /// Those of them whose last run may have lost what was not fsynced: neither a clean-shutdown
    /// mark nor the same boot and mount speaks for them. What counted without an fsync there is not
    /// in sync any more.
    #[serde(default, deserialize_with = "super::entries::bounded")]
    pub lossy: Vec<DirectoryId>,
    /// Its software and version, as `name/version`.
    pub software: String,
    /// The newest metadata version that it knows.
    pub metadata_version_max: u16,
}

impl Request for RegisterBrokerRequest {
    const API: ApiKey = ApiKey::RegisterBroker;
    type Response = RegisterBrokerResponse;
}

/// The broker is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterBrokerResponse {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Its epoch: the offset of the registration.
    pub broker_epoch: BrokerEpoch,
}

/// A broker shows the controller that it lives, and renews its lease by that.
///
/// *Patterns: heartbeat, lease.*
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerHeartbeatRequest {
    /// Its number.
    pub broker_id: BrokerId,
    /// Its epoch.
    pub broker_epoch: BrokerEpoch,
    /// Up to where it follows the metadata log.
    pub applied: Offset,
    /// Whether it wants to stop, once others lead what it leads.
    #[serde(default)]
    pub stopping: bool,
    /// Those of its data directories that have failed.
    #[serde(default, deserialize_with = "super::entries::bounded")]
    pub offline: Vec<DirectoryId>,
    /// Whether it still opens its logs: it leads nothing before it has.
    #[serde(default)]
    pub recovering: bool,
    /// Partitions whose copy here cannot be trusted: damaged below its recovery point, or not to be
    /// opened. It is neither in sync nor eligible where another one is.
    #[serde(default, deserialize_with = "super::entries::bounded")]
    pub damaged: Vec<PartitionName>,
    /// Those of its data directories that lie on a full disk: appends there are refused, so others
    /// lead what they can.
    #[serde(default, deserialize_with = "super::entries::bounded")]
    pub full: Vec<DirectoryId>,
}

impl Request for BrokerHeartbeatRequest {
    const API: ApiKey = ApiKey::BrokerHeartbeat;
    type Response = BrokerHeartbeatResponse;
}

/// The lease goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerHeartbeatResponse {
    /// The term of the controller.
    pub controller_epoch: LeaderEpoch,
    /// How long the lease lasts from the moment on at which the heartbeat was sent, in
    /// milliseconds.
    pub session_ms: u32,
    /// Whether the broker is fenced: it leads nothing until it has caught up with the metadata.
    pub fenced: bool,
    /// Whether it may stop now.
    pub may_stop: bool,
}

/// A broker needs producer ids to hand out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveProducerIdsRequest {
    /// Its number.
    pub broker_id: BrokerId,
    /// Its epoch.
    pub broker_epoch: BrokerEpoch,
}

impl Request for ReserveProducerIdsRequest {
    const API: ApiKey = ApiKey::ReserveProducerIds;
    type Response = ReserveProducerIdsResponse;
}

/// Producer ids that nobody else hands out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveProducerIdsResponse {
    /// The first one.
    pub first: ProducerId,
    /// How many.
    pub count: u32,
}

/// Asks for the state of the cluster as the controller sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeClusterRequest {}

impl Request for DescribeClusterRequest {
    const API: ApiKey = ApiKey::DescribeCluster;
    type Response = DescribeClusterResponse;
}

/// What a member of the metadata quorum is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// It votes.
    Voter,
    /// It follows, and has no vote.
    Learner,
    /// It votes until the change of the voters that is under way is done.
    LeavingVoter,
}

/// One member of the metadata quorum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberDescription {
    /// Its broker.
    pub broker_id: BrokerId,
    /// The random Raft id of that broker's first directory.
    pub raft_id: u64,
    /// What it is.
    pub role: MemberRole,
    /// The end of its metadata log as far as the controller knows; none if it does not.
    #[serde(default)]
    pub log_end: Option<Offset>,
    /// How long ago it was last heard of, in milliseconds; none for who answers, and if it is not
    /// known.
    #[serde(default)]
    pub heard_ms_ago: Option<u64>,
}

/// Whether a broker takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokerState {
    /// It may lead partitions.
    Active,
    /// It was not heard of, or has not caught up with the metadata: it leads nothing.
    Fenced,
    /// It is about to stop and gives away what it leads.
    Stopping,
}

/// One broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerDescription {
    /// Its number.
    pub id: BrokerId,
    /// Its epoch.
    pub epoch: BrokerEpoch,
    /// The host that it advertises.
    pub host: String,
    /// The port that it advertises.
    pub port: u16,
    /// Its rack, where one is configured.
    #[serde(default)]
    pub rack: Option<String>,
    /// Its software and version, as `name/version`.
    pub software: String,
    /// Whether it takes part.
    pub state: BrokerState,
    /// What is left of its lease, in milliseconds; none if only the controller knows and did not
    /// answer.
    #[serde(default)]
    pub lease_ms: Option<u64>,
    /// Up to where it follows the metadata log, as far as is known.
    #[serde(default)]
    pub applied: Option<Offset>,
    /// What it is to do with leaderships.
    #[serde(default)]
    pub duty: Duty,
    /// How many partitions it leads.
    pub leads: u32,
    /// How many partitions it keeps.
    pub keeps: u32,
    /// How many of its data directories lie on a full disk, as far as is known: appends there are
    /// refused until there is space.
    #[serde(default)]
    pub full_directories: u32,
}

/// The state of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeClusterResponse {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Who answers: the controller, or the broker that was asked if there is no controller.
    pub answered_by: BrokerId,
    /// The active controller; none while there is none.
    #[serde(default)]
    pub controller: Option<BrokerId>,
    /// Its term.
    pub controller_epoch: LeaderEpoch,
    /// What the metadata log may hold.
    pub metadata_version: u16,
    /// Up to where who answers follows the metadata log.
    pub version: Offset,
    /// The members of the quorum, voters first.
    pub members: Vec<MemberDescription>,
    /// Whether a change of the voters is under way.
    pub voters_changing: bool,
    /// The brokers, by their numbers.
    pub brokers: Vec<BrokerDescription>,
    /// How many topics there are.
    pub topics: u32,
    /// How many partitions there are.
    pub partitions: u32,
    /// How many of them have no leader.
    pub partitions_without_leader: u32,
    /// How many partitions have fewer replicas in sync than they are to have.
    #[serde(default)]
    pub partitions_under_replicated: u32,
    /// How many of those have fewer than `min.insync.replicas`: they take no write that all
    /// replicas acknowledge.
    #[serde(default)]
    pub partitions_under_min_isr: u32,
    /// How many bytes a second each broker may fetch for replicas that are being added; none is
    /// without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_bytes_per_second: Option<u64>,
}

/// Changes who votes in the metadata quorum, all at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeVotersRequest {
    /// The brokers that shall vote.
    #[serde(default, deserialize_with = "super::entries::bounded")]
    pub add: Vec<BrokerId>,
    /// The brokers that shall vote no more.
    #[serde(default, deserialize_with = "super::entries::bounded")]
    pub remove: Vec<BrokerId>,
}

impl Request for ChangeVotersRequest {
    const API: ApiKey = ApiKey::ChangeVoters;
    type Response = ChangeVotersResponse;
}

/// The change is committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeVotersResponse {
    /// Who votes now.
    pub voters: Vec<BrokerId>,
}

/// Strikes a broker that is gone for good off the cluster. Refused while it keeps partitions, votes
/// or has a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnregisterBrokerRequest {
    /// Its number.
    pub broker_id: BrokerId,
}

impl Request for UnregisterBrokerRequest {
    const API: ApiKey = ApiKey::UnregisterBroker;
    type Response = UnregisterBrokerResponse;
}

/// The broker is forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnregisterBrokerResponse {}
