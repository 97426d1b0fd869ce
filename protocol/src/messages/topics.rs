//! `CreateTopics` (3), `DeleteTopics` (4), `CreatePartitions` (5).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Failure, Request};
use crate::{api::ApiKey, ids::TopicId};

/// One topic to create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTopic {
    /// `[A-Za-z0-9._-]{1,249}`, not `.` or `..`.
    pub name: String,
    /// How many partitions; none takes the broker's default.
    #[serde(default)]
    pub partitions: Option<i32>,
    /// On how many brokers; none takes the default, min(3, brokers).
    #[serde(default)]
    pub replication_factor: Option<i16>,
    /// Its configuration, where it differs from the defaults.
    #[serde(default)]
    pub configs: BTreeMap<String, String>,
}

/// Creates topics, each on its own: one can fail while others are created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateTopicsRequest {
    /// What to create.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub topics: Vec<NewTopic>,
    /// Only checks.
    #[serde(default)]
    pub validate_only: bool,
}

impl Request for CreateTopicsRequest {
    const API: ApiKey = ApiKey::CreateTopics;
    type Response = CreateTopicsResponse;
}

/// What became of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicResult {
    /// Its name.
    pub name: String,
    /// Its identity; zeros if it failed.
    pub id: TopicId,
    /// How many partitions it has now.
    pub partitions: i32,
    /// Whether and why it failed.
    #[serde(default)]
    pub failure: Failure,
}

/// In the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateTopicsResponse {
    /// What became of each.
    pub topics: Vec<TopicResult>,
}

/// Deletes topics and all that is in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteTopicsRequest {
    /// By name.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub names: Vec<String>,
}

impl Request for DeleteTopicsRequest {
    const API: ApiKey = ApiKey::DeleteTopics;
    type Response = DeleteTopicsResponse;
}

/// In the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteTopicsResponse {
    /// What became of each.
    pub topics: Vec<TopicResult>,
}

/// More partitions for one topic. Keys map to other partitions afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPartitions {
    /// Which topic.
    pub name: String,
    /// How many it shall have in all; more than it has.
    pub total: i32,
}

/// Adds partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatePartitionsRequest {
    /// To which topics.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub topics: Vec<NewPartitions>,
}

impl Request for CreatePartitionsRequest {
    const API: ApiKey = ApiKey::CreatePartitions;
    type Response = CreatePartitionsResponse;
}

/// In the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatePartitionsResponse {
    /// What became of each.
    pub topics: Vec<TopicResult>,
}
