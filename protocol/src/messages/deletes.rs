//! `DeleteRecords` (12): moves the start of partitions forward.
//!
//! *Pattern: low-water mark.* What lies below it may be removed.

use serde::{Deserialize, Serialize};

use super::{Failure, Request};
use crate::{
    api::ApiKey,
    ids::{Offset, PartitionId, TopicId},
};

/// One partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRecordsPartition {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// Every record below it goes; none deletes up to the high watermark.
    pub before: Option<Offset>,
}

/// Deletes records from the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRecordsRequest {
    /// Where.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub partitions: Vec<DeleteRecordsPartition>,
}

impl Request for DeleteRecordsRequest {
    const API: ApiKey = ApiKey::DeleteRecords;
    type Response = DeleteRecordsResponse;
}

/// What became of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedRecords {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// Whether and why it failed.
    #[serde(default)]
    pub failure: Failure,
    /// The first offset that is left.
    pub log_start_offset: Offset,
}

/// In the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRecordsResponse {
    /// One each.
    pub partitions: Vec<DeletedRecords>,
}
