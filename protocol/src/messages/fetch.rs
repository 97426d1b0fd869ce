//! `Fetch` (10): reads record batches, which are the payload of the response's frame.

use serde::{Deserialize, Serialize};

use super::{Failure, Request};
use crate::{
    api::ApiKey,
    ids::{BrokerId, LeaderEpoch, Offset, PartitionId, TopicId},
};

/// From where to read one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchPartition {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// The first offset that is wanted. The first batch may begin before it.
    pub fetch_offset: Offset,
    /// How much of this partition at most, in bytes; the first batch comes whole all the same.
    pub bytes_max: u32,
    /// The leader epoch that the reader knows; an older or newer one is refused. None is not
    /// checked.
    #[serde(default)]
    pub current_leader_epoch: Option<LeaderEpoch>,
}

/// Reads; waits for `bytes_min` for at most `wait_ms_max` (a long poll).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRequest {
    /// How long to wait, in milliseconds.
    pub wait_ms_max: u32,
    /// How much is worth an answer, in bytes; 0 answers at once.
    pub bytes_min: u32,
    /// How much in all at most, in bytes; the first batch comes whole all the same.
    pub bytes_max: u32,
    /// The rack of the consumer: it is told of a replica in it to read from (KIP-392). None reads
    /// from leaders only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// What to read, in order of preference.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub partitions: Vec<FetchPartition>,
}

impl Request for FetchRequest {
    const API: ApiKey = ApiKey::Fetch;
    type Response = FetchResponse;
}

/// What was read of one partition: the next `bytes` bytes of the payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedPartition {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// Whether and why it failed.
    #[serde(default)]
    pub failure: Failure,
    /// With `CORRUPT`: the next offset from which reading can go on.
    #[serde(default)]
    pub next_good_offset: Option<Offset>,
    /// The first offset of the partition.
    pub log_start_offset: Offset,
    /// The end of what consumers may read.
    pub high_watermark: Offset,
    /// From whom the consumer had better read: an in-sync replica in its own rack. No records come
    /// with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_replica: Option<BrokerId>,
    /// How many bytes of the payload: whole batches.
    pub bytes: u32,
}

/// In the order of the request, every partition of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchResponse {
    /// One each.
    pub partitions: Vec<FetchedPartition>,
}
