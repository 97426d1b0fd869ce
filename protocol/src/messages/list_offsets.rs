//! `ListOffsets` (11): where a partition begins, ends, or was at a time.

use serde::{Deserialize, Serialize};

use super::{Failure, Request};
use crate::{
    api::ApiKey,
    ids::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId},
};

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffsetQuery {
    /// The log start offset.
    Earliest,
    /// The high watermark: the offset of the next record that consumers will see.
    Latest,
    /// The first record whose timestamp is this or later.
    At(Timestamp),
}

/// One partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListOffsetsPartition {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// What is looked for.
    pub query: OffsetQuery,
}

/// Looks up offsets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListOffsetsRequest {
    /// Where.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub partitions: Vec<ListOffsetsPartition>,
}

impl Request for ListOffsetsRequest {
    const API: ApiKey = ApiKey::ListOffsets;
    type Response = ListOffsetsResponse;
}

/// What was found in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedOffset {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// Whether and why it failed.
    #[serde(default)]
    pub failure: Failure,
    /// The offset; none if no record is that young.
    #[serde(default)]
    pub offset: Option<Offset>,
    /// The timestamp of the record that was found by time.
    #[serde(default)]
    pub timestamp: Option<Timestamp>,
    /// The leader epoch of the batch at that offset, or of the partition.
    pub leader_epoch: LeaderEpoch,
}

/// In the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListOffsetsResponse {
    /// One each.
    pub partitions: Vec<ListedOffset>,
}
