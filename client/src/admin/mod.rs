//! Looks at topics, creates them, changes them.
//!
//! **Never** repeats a request whose outcome is unknown and that is not idempotent.

use std::{collections::BTreeMap, sync::Arc};

use strandline_protocol::{
    LeaderEpoch, Offset, PartitionId, Timestamp, TopicId,
    messages::{
        BrokerMetadata, ConfigChange, ConfigEntry, DescribeBrokerResponse, NewPartitions, NewTopic,
        OffsetQuery, PartitionMetadata,
    },
};

use crate::{ClientError, routing::Cluster};

/// A topic as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: TopicId,
    /// The codec that producers are advised to use; `producer` leaves it to them.
    pub compression: String,
    /// The largest batch that it accepts, in bytes.
    pub batch_bytes_max: u32,
    /// Its partitions, in order.
    pub partitions: Vec<PartitionMetadata>,
}

/// What was looked up in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedPartition {
    /// The partition.
    pub partition: PartitionId,
    /// The offset; none if no record is that young.
    pub offset: Option<Offset>,
    /// The timestamp of the record that was found by time.
    pub timestamp: Option<Timestamp>,
    /// The leader epoch there.
    pub leader_epoch: LeaderEpoch,
}

/// What is left of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeletedUpTo {
    /// The partition.
    pub partition: PartitionId,
    /// The first offset that is left.
    pub log_start_offset: Offset,
}

/// Looks at topics, creates them, changes them. Cheap to clone.
///
/// Every method asks again, with growing pauses and within
/// [`request_timeout`](crate::ClientOptions::request_timeout), when a broker says that it cannot
/// answer now or cannot be reached. A change whose connection breaks is not repeated: it ends in
/// [`ClientError::OutcomeUnknown`]. All are cancel safe in the sense that dropping one frees
/// everything; a change that was sent may still happen.
#[derive(Clone, Debug)]
pub struct Admin {
    cluster: Arc<Cluster>,
}

impl Admin {
    pub(crate) const fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster }
    }

    /// Creates topics, each on its own; returns their identities in order.
    ///
    /// # Errors
    /// The first topic that was refused; others may have been created.
    pub async fn create_topics(&self, _topics: &[NewTopic]) -> Result<Vec<TopicId>, ClientError> {
        todo!()
    }

    /// Checks whether topics could be created, and creates none.
    ///
    /// # Errors
    /// The first topic that would be refused.
    pub async fn validate_topics(&self, _topics: &[NewTopic]) -> Result<(), ClientError> {
        todo!()
    }

    /// Deletes topics and all that is in them.
    ///
    /// # Errors
    /// The first topic that was refused; others may have been deleted.
    pub async fn delete_topics(&self, _names: &[&str]) -> Result<(), ClientError> {
        todo!()
    }

    /// Adds partitions. Keys map to other partitions afterwards.
    ///
    /// # Errors
    /// The first topic that was refused; others may have been changed.
    pub async fn create_partitions(&self, _topics: &[NewPartitions]) -> Result<(), ClientError> {
        todo!()
    }

    /// Tells all about topics, in the order of `names`.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`].
    pub async fn describe_topics(
        &self,
        _names: &[&str],
    ) -> Result<Vec<TopicDescription>, ClientError> {
        todo!()
    }

    /// Tells all about all topics, in the order of their names.
    ///
    /// # Errors
    /// If no broker answers.
    pub async fn list_topics(&self) -> Result<Vec<TopicDescription>, ClientError> {
        todo!()
    }

    /// Tells which brokers are registered.
    ///
    /// # Errors
    /// If no broker answers.
    pub async fn list_brokers(&self) -> Result<Vec<BrokerMetadata>, ClientError> {
        todo!()
    }

    /// Tells the configuration of one topic, every key in order.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`].
    pub async fn describe_configs(&self, _topic: &str) -> Result<Vec<ConfigEntry>, ClientError> {
        todo!()
    }

    /// Changes keys of one topic, all or none. Sets keys to the same values however often it is
    /// done, so it is repeated when a connection breaks.
    ///
    /// # Errors
    /// What the broker says to an unknown key or to a value that is not valid.
    pub async fn alter_configs(
        &self,
        _topic: &str,
        _changes: Vec<ConfigChange>,
    ) -> Result<(), ClientError> {
        todo!()
    }

    /// Looks up an offset in every partition of a topic, in order.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], and what a leader says.
    pub async fn list_offsets(
        &self,
        _topic: &str,
        _query: OffsetQuery,
    ) -> Result<Vec<ListedPartition>, ClientError> {
        todo!()
    }

    /// Deletes the records below an offset of some partitions of a topic; an offset of none deletes
    /// up to the high watermark.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], [`ClientError::UnknownPartition`], and what a leader says.
    pub async fn delete_records(
        &self,
        _topic: &str,
        _before: &BTreeMap<PartitionId, Option<Offset>>,
    ) -> Result<Vec<DeletedUpTo>, ClientError> {
        todo!()
    }

    /// Tells about the process of the broker that answers.
    ///
    /// # Errors
    /// If no broker answers.
    pub async fn describe_broker(&self) -> Result<DescribeBrokerResponse, ClientError> {
        todo!()
    }
}
