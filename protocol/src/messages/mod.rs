//! Every request and every response: one file per subject, the message part of a frame.
//!
//! A message is MessagePack with named fields: a field that a newer peer adds is skipped by an
//! older one, and one that an older peer leaves out has a default. A changed meaning raises the
//! version. No type is recursive, so that nesting is bounded by the types themselves.

mod brokers;
mod cluster;
mod configs;
mod deletes;
mod entries;
mod fetch;
mod hello;
mod list_offsets;
mod metadata;
mod produce;
mod producer_ids;
mod quorum;
mod replicas;
mod replication;
mod topics;

pub use brokers::{DescribeBrokerRequest, DescribeBrokerResponse};
pub use cluster::{
    BrokerDescription, BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerState,
    ChangeVotersRequest, ChangeVotersResponse, DescribeClusterRequest, DescribeClusterResponse,
    MemberDescription, MemberRole, RegisterBrokerRequest, RegisterBrokerResponse,
    ReserveProducerIdsRequest, ReserveProducerIdsResponse, UnregisterBrokerRequest,
    UnregisterBrokerResponse,
};
pub use configs::{
    AlterConfigsRequest, AlterConfigsResponse, ConfigChange, ConfigEntry, ConfigSource,
    DescribeConfigsRequest, DescribeConfigsResponse, TopicConfigs,
};
pub use deletes::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsResponse, DeletedRecords,
};
pub use fetch::{FetchPartition, FetchRequest, FetchResponse, FetchedPartition};
pub use hello::{ApiVersions, HELLO_MAGIC, HelloRequest, HelloResponse, Peer, Purpose};
pub use list_offsets::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListedOffset, OffsetQuery,
};
pub use metadata::{
    BrokerMetadata, MetadataPush, MetadataRequest, MetadataResponse, PartitionMetadata,
    TopicMetadata, WatchMetadataRequest, WatchMetadataResponse,
};
pub use produce::{Acks, ProducePartition, ProduceRequest, ProduceResponse, ProducedPartition};
pub use producer_ids::{InitProducerIdRequest, InitProducerIdResponse};
pub use quorum::{
    Ballot, EntryId, QuorumAppendRequest, QuorumAppendResponse, QuorumSnapshotRequest,
    QuorumSnapshotResponse, QuorumTransferRequest, QuorumTransferResponse, QuorumVoteRequest,
    QuorumVoteResponse, TermVote,
};
pub use replicas::{
    DescribeReplicasRequest, DescribeReplicasResponse, DescribedReplicas, DrainBrokerRequest,
    DrainBrokerResponse, Duty, ElectLeadersRequest, ElectLeadersResponse, Election,
    PartitionOutcome, ReassignPartitionsRequest, ReassignPartitionsResponse, Reassignment,
    ReplicaDescription,
};
pub use replication::{
    AlterPartition, AlterPartitionsRequest, AlterPartitionsResponse, AlteredPartition, EpochEnd,
    FetchSession, InSyncReplica, OffsetGap, PartitionName, ReplicaFetchPartition,
    ReplicaFetchRequest, ReplicaFetchResponse, ReplicaFetchedPartition, ReplicaProgressPartition,
    ReplicaProgressRequest, ReplicaProgressResponse,
};
pub use topics::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, NewPartitions, NewTopic, TopicResult,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{ErrorCode, api::ApiKey};

/// A request, and the response that answers it.
pub trait Request: Serialize + DeserializeOwned + Send + 'static {
    /// Which API it is of.
    const API: ApiKey;
    /// What answers it.
    type Response: Serialize + DeserializeOwned + Send + 'static;
}

/// The message of a response whose frame carries an error code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct ErrorMessage {
    /// What is wrong and what to do about it, for people.
    pub message: String,
}

/// A message could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the message of {api} cannot be read: {source}")]
pub struct BadMessage {
    /// Of which API.
    pub api: &'static str,
    /// What the decoder met.
    pub source: rmp_serde::decode::Error,
}

/// Writes a message as MessagePack with named fields.
#[must_use]
pub fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    // The message types hold no map with a key that is not a string and no sequence of unknown
    // length, which is all that the encoder can refuse; a `Vec` never runs full.
    rmp_serde::to_vec_named(message).unwrap_or_default()
}

/// Reads the message of a request or of a response of `api`. Bytes behind it are ignored.
///
/// # Errors
/// [`BadMessage`] names the API and what was wrong.
pub fn decode<M: DeserializeOwned>(api: ApiKey, bytes: &[u8]) -> Result<M, BadMessage> {
    let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
    decoder.set_max_depth(16);
    M::deserialize(&mut decoder).map_err(|source| BadMessage {
        api: api.api().name,
        source,
    })
}

/// An error code with its explanation, where a response lists one per entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Failure {
    /// The code; [`ErrorCode::NONE`] is success.
    #[serde(default)]
    pub error: ErrorCode,
    /// What to do about it; empty on success.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Failure {
    /// No failure.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A failure with its explanation.
    #[must_use]
    pub fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            error,
            message: message.into(),
        }
    }

    /// Success, or the failure.
    ///
    /// # Errors
    /// The failure itself unless its code is [`ErrorCode::NONE`].
    pub fn into_result(self) -> Result<(), Self> {
        if self.error.is_none() {
            Ok(())
        } else {
            Err(self)
        }
    }
}
