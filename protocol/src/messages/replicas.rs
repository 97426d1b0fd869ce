//! `ElectLeaders` (27) to `DrainBroker` (30): leaders and replicas as an operator moves them.

use serde::{Deserialize, Serialize};

use super::{Failure, PartitionName, Request};
use crate::{
    api::ApiKey,
    ids::{BrokerId, LeaderEpoch, Offset, PartitionId, TopicId},
};

/// Who may be elected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Election {
    /// The first of the replicas, if it is in sync.
    #[default]
    Preferred,
    /// Any replica that lives, if nobody leads: records that were acknowledged may be lost.
    Unclean,
}

/// Elects leaders. A partition that needs no election answers `ELECTION_NOT_NEEDED`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElectLeadersRequest {
    /// Who may be elected.
    #[serde(default)]
    pub election: Election,
    /// The partitions.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub partitions: Vec<PartitionName>,
}

impl Request for ElectLeadersRequest {
    const API: ApiKey = ApiKey::ElectLeaders;
    type Response = ElectLeadersResponse;
}

/// What became of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionOutcome {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// Whether and why it failed.
    #[serde(default)]
    pub failure: Failure,
}

/// In the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElectLeadersResponse {
    /// One each.
    pub partitions: Vec<PartitionOutcome>,
}

/// Where one partition is to lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reassignment {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// The brokers that are to keep it, in order of preference; none takes a reassignment back that
    /// is under way.
    #[serde(default, deserialize_with = "super::entries::bounded_option")]
    pub replicas: Option<Vec<BrokerId>>,
}

/// Moves replicas (KIP-455). Answered once it has begun; `Metadata` tells how far it is: a replica
/// stands in `adding` until it is in sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReassignPartitionsRequest {
    /// The partitions.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub partitions: Vec<Reassignment>,
    /// How many bytes a second each broker may fetch for replicas that are being added, from now
    /// on; none leaves the limit as it is, 0 takes it away.
    #[serde(default)]
    pub throttle_bytes_per_second: Option<u64>,
}

impl Request for ReassignPartitionsRequest {
    const API: ApiKey = ApiKey::ReassignPartitions;
    type Response = ReassignPartitionsResponse;
}

/// In the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReassignPartitionsResponse {
    /// One each.
    pub partitions: Vec<PartitionOutcome>,
}

/// Asks the broker that leads them how far the replicas of partitions are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeReplicasRequest {
    /// The partitions.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub partitions: Vec<PartitionName>,
}

impl Request for DescribeReplicasRequest {
    const API: ApiKey = ApiKey::DescribeReplicas;
    type Response = DescribeReplicasResponse;
}

/// How far one replica is, as its leader knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaDescription {
    /// The broker.
    pub broker_id: BrokerId,
    /// The end of its log; none if it has not fetched from this leader yet.
    #[serde(default)]
    pub log_end_offset: Option<Offset>,
    /// The end of what it has made durable.
    #[serde(default)]
    pub durable_offset: Option<Offset>,
    /// How long ago it had all that the leader had, in milliseconds; 0 if it has it now, none if it
    /// never had.
    #[serde(default)]
    pub behind_ms: Option<u64>,
}

/// One partition, as its leader knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedReplicas {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// Whether and why it failed.
    #[serde(default)]
    pub failure: Failure,
    /// The epoch of the leader that answers.
    pub leader_epoch: LeaderEpoch,
    /// The first offset.
    pub log_start_offset: Offset,
    /// The end of what consumers may read.
    pub high_watermark: Offset,
    /// The end of the leader's log.
    pub log_end_offset: Offset,
    /// Its replicas, in order of preference.
    pub replicas: Vec<ReplicaDescription>,
}

/// In the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeReplicasResponse {
    /// One each.
    pub partitions: Vec<DescribedReplicas>,
}

/// What a broker is to do with leaderships and new partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duty {
    /// It gives away what others can lead, and is given nothing more. It keeps its copies.
    Drained,
    /// It takes part as any other.
    #[default]
    Full,
}

/// Drains a broker before maintenance, or gives it back its duty. It holds until it is changed,
/// also over restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainBrokerRequest {
    /// The broker.
    pub broker_id: BrokerId,
    /// What it is to do.
    pub duty: Duty,
}

impl Request for DrainBrokerRequest {
    const API: ApiKey = ApiKey::DrainBroker;
    type Response = DrainBrokerResponse;
}

/// It is decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainBrokerResponse {
    /// How many partitions the broker leads still, as nobody else can.
    pub leads: u32,
    /// How many partitions it keeps.
    pub keeps: u32,
}
