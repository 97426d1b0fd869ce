//! `ReplicaFetch` (24) to `AlterPartitions` (26): followers, their leaders, and the controller.
//!
//! *Patterns: leader and followers, high-water mark, generation clock, request batch.* A follower
//! has one connection to each leader, and asks for all partitions that it follows there in one
//! request. Both ends keep the list of them in a session, so that what is idle is not named again.

use serde::{Deserialize, Serialize};

use super::{Failure, Request};
use crate::{
    api::ApiKey,
    ids::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionEpoch, PartitionId, TopicId},
};

/// One partition, by the identity of its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionName {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
}

/// Which session a fetch belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchSession {
    /// What the leader has given it; 0 opens a new one, whose first request names every partition.
    pub id: u64,
    /// How many requests of the session came before. A leader that expects another one answers
    /// `INVALID_FETCH_SESSION_EPOCH`, one that does not know the session
    /// `FETCH_SESSION_ID_NOT_FOUND`: the follower opens a new one then.
    pub number: u32,
}

/// Where a follower stands in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFetchPartition {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// The leader's epoch as the follower knows it.
    pub leader_epoch: LeaderEpoch,
    /// The end of the follower's log: from where on it wants records.
    pub fetch_offset: Offset,
    /// The epoch of the follower's last batch, to find out whether it has diverged (KIP-595); none
    /// if its log is empty.
    #[serde(default)]
    pub last_epoch: Option<LeaderEpoch>,
    /// The end of what survives a power cut of the follower.
    pub durable_offset: Offset,
    /// The first offset that the follower keeps.
    pub log_start_offset: Offset,
    /// How much of this partition at most, in bytes; the first batch comes whole all the same.
    pub bytes_max: u32,
}

/// A follower fetches what it does not have. Answered at once if there is anything to tell, else
/// when there is or `wait_ms_max` is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFetchRequest {
    /// The follower.
    pub broker_id: BrokerId,
    /// Its epoch; an older one than the leader knows is refused (KIP-903).
    pub broker_epoch: BrokerEpoch,
    /// The session.
    #[serde(default)]
    pub session: FetchSession,
    /// How long to wait, in milliseconds.
    pub wait_ms_max: u32,
    /// How much in all at most, in bytes; the first batch comes whole all the same.
    pub bytes_max: u32,
    /// Partitions that are new to the session, or whose position has changed.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub partitions: Vec<ReplicaFetchPartition>,
    /// Partitions that the session is to forget.
    #[serde(default, deserialize_with = "super::entries::bounded")]
    pub forgotten: Vec<PartitionName>,
}

impl Request for ReplicaFetchRequest {
    const API: ApiKey = ApiKey::ReplicaFetch;
    type Response = ReplicaFetchResponse;
}

/// Where an epoch ends in the leader's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochEnd {
    /// The largest epoch in the leader's log that is not above the one that was asked for.
    pub epoch: LeaderEpoch,
    /// Where the next epoch begins, or the log ends.
    pub end_offset: Offset,
}

/// What is new in one partition: the next `bytes` bytes of the payload, or what else there is to
/// tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFetchedPartition {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// Whether and why it failed.
    #[serde(default)]
    pub failure: Failure,
    /// The follower's log is another one from here on: it has to cut it, and to ask again. No
    /// records come with it, and the request does not count as progress.
    #[serde(default)]
    pub diverging: Option<EpochEnd>,
    /// The first offset of the leader's log.
    pub log_start_offset: Offset,
    /// The end of the leader's log.
    pub log_end_offset: Offset,
    /// The leader's high-water mark.
    pub high_watermark: Offset,
    /// How many bytes of the payload: whole batches.
    pub bytes: u32,
    /// What is missing between the follower's end and the first of the batches: a repair took it
    /// out of the leader's log, and no other replica has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<OffsetGap>,
}

/// Offsets that are in no log any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetGap {
    /// Where the follower stands, as the leader knows it.
    pub start: Offset,
    /// The first offset behind it.
    pub end: Offset,
}

/// Every partition of the session about which there is something to tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFetchResponse {
    /// The session, which lasts as long as its connection.
    pub session_id: u64,
    /// One each.
    pub partitions: Vec<ReplicaFetchedPartition>,
}

/// How far a follower is durable in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaProgressPartition {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// The leader's epoch as the follower knows it.
    pub leader_epoch: LeaderEpoch,
    /// The end of what survives a power cut of the follower.
    pub durable_offset: Offset,
}

/// A follower has flushed. Sent without an answer, beside the fetch that waits, so that no
/// acknowledgement waits for the next fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaProgressRequest {
    /// The follower.
    pub broker_id: BrokerId,
    /// Its epoch.
    pub broker_epoch: BrokerEpoch,
    /// Partitions that have come further.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub partitions: Vec<ReplicaProgressPartition>,
}

impl Request for ReplicaProgressRequest {
    const API: ApiKey = ApiKey::ReplicaProgress;
    type Response = ReplicaProgressResponse;
}

/// There is nothing to say to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaProgressResponse {}

/// A replica that is to be in sync, with the incarnation of its broker that was seen to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InSyncReplica {
    /// The broker.
    pub broker_id: BrokerId,
    /// Its epoch.
    pub broker_epoch: BrokerEpoch,
}

/// Which replicas of one partition are to be in sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterPartition {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// The epoch of the leader that asks.
    pub leader_epoch: LeaderEpoch,
    /// The partition's epoch that it goes on from.
    pub partition_epoch: PartitionEpoch,
    /// Who is to be in sync, the leader included.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub isr: Vec<InSyncReplica>,
}

/// A leader asks the controller to change who is in sync (KIP-497). Each partition is decided on
/// its own; one request for it is under way at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterPartitionsRequest {
    /// The leader.
    pub broker_id: BrokerId,
    /// Its epoch.
    pub broker_epoch: BrokerEpoch,
    /// The partitions.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub partitions: Vec<AlterPartition>,
}

impl Request for AlterPartitionsRequest {
    const API: ApiKey = ApiKey::AlterPartitions;
    type Response = AlterPartitionsResponse;
}

/// What became of one of them. What holds now comes with the metadata, at the latest in
/// `partition_epoch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlteredPartition {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// Whether and why it was refused.
    #[serde(default)]
    pub failure: Failure,
    /// The epoch of the partition since the change.
    pub partition_epoch: PartitionEpoch,
}

/// In the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterPartitionsResponse {
    /// One each.
    pub partitions: Vec<AlteredPartition>,
}
