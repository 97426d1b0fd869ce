//! `DescribeConfigs` (6), `AlterConfigs` (7): the configuration of topics.

use serde::{Deserialize, Serialize};

use super::{Failure, Request};
use crate::api::ApiKey;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigSource {
    /// Set on the topic.
    Topic,
    /// Set on the broker, as its default for topics.
    Broker,
    /// Built in.
    Default,
}

/// One key and its value in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigEntry {
    /// The key, such as `retention.ms`.
    pub key: String,
    /// The value, as it would be set.
    pub value: String,
    /// Where it comes from.
    pub source: ConfigSource,
}

/// Asks for the configuration of topics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeConfigsRequest {
    /// Of which topics.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub topics: Vec<String>,
}

impl Request for DescribeConfigsRequest {
    const API: ApiKey = ApiKey::DescribeConfigs;
    type Response = DescribeConfigsResponse;
}

/// The configuration of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicConfigs {
    /// Which topic.
    pub name: String,
    /// Why there is nothing to tell.
    #[serde(default)]
    pub failure: Failure,
    /// Every key, in order.
    pub entries: Vec<ConfigEntry>,
}

/// In the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeConfigsResponse {
    /// One each.
    pub topics: Vec<TopicConfigs>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// The key.
    pub key: String,
    /// The new value; none goes back to the default.
    pub value: Option<String>,
}

/// Changes keys of one topic, all or none; keys that are not named stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterConfigsRequest {
    /// Which topic.
    pub topic: String,
    /// What changes.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub changes: Vec<ConfigChange>,
    /// Only checks.
    #[serde(default)]
    pub validate_only: bool,
}

impl Request for AlterConfigsRequest {
    const API: ApiKey = ApiKey::AlterConfigs;
    type Response = AlterConfigsResponse;
}

/// Whether it was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterConfigsResponse {
    /// Why not.
    #[serde(default)]
    pub failure: Failure,
}
