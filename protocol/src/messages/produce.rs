//! `Produce` (9): appends record batches, which are the payload of the frame.
//!
//! *Pattern: request batch.* One frame carries batches for many partitions.

use serde::{Deserialize, Serialize};

use super::{Failure, Request};
use crate::{
    api::ApiKey,
    ids::{Offset, PartitionId, Timestamp, TopicId},
};

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acks {
    /// Never: the request is not answered, errors are not told.
    #[serde(rename = "0")]
    None,
    /// Once the leader has appended it. It is lost if the leader is before others have it.
    #[serde(rename = "1")]
    Leader,
    /// Once every in-sync replica has it, as durably as the topic's `flush` says.
    #[default]
    #[serde(rename = "all")]
    All,
}

/// One batch: the next `bytes` bytes of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducePartition {
    /// To which topic.
    pub topic_id: TopicId,
    /// To which of its partitions; each at most once in a request.
    pub partition: PartitionId,
    /// The size of the batch. Exactly one batch, whole.
    pub bytes: u32,
}

/// Appends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProduceRequest {
    /// When to answer.
    pub acks: Acks,
    /// How long to wait for `acks`, in milliseconds; then the outcome is unknown.
    pub timeout_ms: u32,
    /// What the payload holds, in its order.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub partitions: Vec<ProducePartition>,
}

impl Request for ProduceRequest {
    const API: ApiKey = ApiKey::Produce;
    type Response = ProduceResponse;
}

/// What became of one batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducedPartition {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// Whether and why it failed.
    #[serde(default)]
    pub failure: Failure,
    /// The offset of its first record; that of the first time for a batch that came twice.
    pub base_offset: Offset,
    /// The broker's time on the records, where the topic's `message.timestamp.type` is
    /// `LogAppendTime`.
    #[serde(default)]
    pub log_append_time: Option<Timestamp>,
    /// The first offset of the partition.
    pub log_start_offset: Offset,
}

/// In the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProduceResponse {
    /// One each.
    pub partitions: Vec<ProducedPartition>,
}
