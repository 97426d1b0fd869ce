//! `Metadata` (1) and `WatchMetadata` (2): brokers, topics, partitions, and changes of them.
//!
//! *Pattern: state watch.* A client asks once; what changes afterwards is pushed to it.

use serde::{Deserialize, Serialize};

use super::{Failure, Request};
use crate::{
    api::ApiKey,
    ids::{BrokerId, ClusterId, LeaderEpoch, Offset, PartitionEpoch, PartitionId, TopicId},
};

/// Asks for topics by name, or for a page of all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataRequest {
    /// Which topics; none asks for all of them, page by page. An unknown one is answered with its
    /// error.
    #[serde(default, deserialize_with = "super::entries::bounded_option")]
    pub topics: Option<Vec<String>>,
    /// Where the page starts: what the page before said, none for the first.
    #[serde(default)]
    pub cursor: Option<String>,
}

impl Request for MetadataRequest {
    const API: ApiKey = ApiKey::Metadata;
    type Response = MetadataResponse;
}

/// A broker and where clients reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerMetadata {
    /// Its number.
    pub id: BrokerId,
    /// The host that it advertises.
    pub host: String,
    /// The port that it advertises.
    pub port: u16,
    /// Its rack, where one is configured.
    #[serde(default)]
    pub rack: Option<String>,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionMetadata {
    /// Its number in the topic.
    pub id: PartitionId,
    /// The broker that leads it; none while there is no leader.
    pub leader: Option<BrokerId>,
    /// How many leaders it has had.
    pub leader_epoch: LeaderEpoch,
    /// How often it has changed.
    pub partition_epoch: PartitionEpoch,
    /// The brokers that keep it, in order of preference.
    pub replicas: Vec<BrokerId>,
    /// Those of them that are in sync.
    pub isr: Vec<BrokerId>,
    /// Those that are not in sync and may lead all the same once nobody is: they have all that was
    /// acknowledged (KIP-966).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eligible: Vec<BrokerId>,
    /// Those that a reassignment adds and that are not in sync yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adding: Vec<BrokerId>,
    /// Those that go once it is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removing: Vec<BrokerId>,
}

/// One topic, or a page of its partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicMetadata {
    /// Its name.
    pub name: String,
    /// Its identity; zeros if it does not exist.
    pub id: TopicId,
    /// Why there is nothing to tell.
    #[serde(default)]
    pub failure: Failure,
    /// Advice for producers: the codec that the topic's `compression.type` names.
    #[serde(default)]
    pub compression: String,
    /// The largest batch that it accepts, in bytes.
    #[serde(default)]
    pub batch_bytes_max: u32,
    /// How many partitions it has; those that are not in this page are in the next ones.
    pub partition_count: i32,
    /// The partitions of this page.
    pub partitions: Vec<PartitionMetadata>,
}

/// A page of what is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataResponse {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Up to where the metadata log is reflected: of two answers, the larger is newer.
    pub version: Offset,
    /// The active controller, as far as the broker that answers knows.
    pub controller: Option<BrokerId>,
    /// The brokers that are registered.
    pub brokers: Vec<BrokerMetadata>,
    /// The topics of this page, in the order of their names.
    pub topics: Vec<TopicMetadata>,
    /// Where the next page starts; none on the last.
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// Subscribes to topics by name. The watch ends with the connection, or is replaced by another
/// `WatchMetadata` on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchMetadataRequest {
    /// Which topics; names that do not exist yet are watched for.
    #[serde(deserialize_with = "super::entries::bounded")]
    pub topics: Vec<String>,
}

impl Request for WatchMetadataRequest {
    const API: ApiKey = ApiKey::WatchMetadata;
    type Response = WatchMetadataResponse;
}

/// The watch is set; everything that changed after `version` will be pushed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchMetadataResponse {
    /// Up to where the metadata log was reflected when the watch was set.
    pub version: Offset,
}

/// One push of a watch: what has changed, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataPush {
    /// Up to where the metadata log is reflected.
    pub version: Offset,
    /// The brokers that are registered.
    pub brokers: Vec<BrokerMetadata>,
    /// The watched topics that changed; a deleted one carries `UNKNOWN_TOPIC_OR_PARTITION`. Paged
    /// over several pushes of one version where they are many.
    pub topics: Vec<TopicMetadata>,
}
