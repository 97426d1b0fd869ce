//! Looks at topics, creates them, changes them.
//!
//! **Never** repeats a request whose outcome is unknown and that is not idempotent.

mod replicas;

use std::{collections::BTreeMap, sync::Arc};

use strandline_protocol::{
    BrokerId, Offset, PartitionId, TopicId,
    messages::{
        AlterConfigsRequest, BrokerMetadata, ChangeVotersRequest, ConfigChange, ConfigEntry,
        CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeBrokerRequest,
        DescribeBrokerResponse, DescribeClusterRequest, DescribeClusterResponse,
        DescribeConfigsRequest, MetadataRequest, NewPartitions, NewTopic, OffsetQuery,
        PartitionMetadata, TopicResult, UnregisterBrokerRequest,
    },
};

pub use replicas::PartitionChange;

use crate::{
    ClientError,
    routing::{Cluster, DeletedUpTo, ListedPartition},
};

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
    pub async fn create_topics(&self, topics: &[NewTopic]) -> Result<Vec<TopicId>, ClientError> {
        let request = CreateTopicsRequest {
            topics: topics.to_vec(),
            validate_only: false,
        };
        let results = self.cluster.ask(&request).await?.topics;
        all_done(&results)?;
        Ok(results.into_iter().map(|result| result.id).collect())
    }

    /// Checks whether topics could be created, and creates none.
    ///
    /// # Errors
    /// The first topic that would be refused.
    pub async fn validate_topics(&self, topics: &[NewTopic]) -> Result<(), ClientError> {
        let request = CreateTopicsRequest {
            topics: topics.to_vec(),
            validate_only: true,
        };
        all_done(&self.cluster.ask(&request).await?.topics)
    }

    /// Deletes topics and all that is in them.
    ///
    /// # Errors
    /// The first topic that was refused; others may have been deleted.
    pub async fn delete_topics(&self, names: &[&str]) -> Result<(), ClientError> {
        let request = DeleteTopicsRequest {
            names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        all_done(&self.cluster.ask(&request).await?.topics)
    }

    /// Adds partitions. Keys map to other partitions afterwards.
    ///
    /// # Errors
    /// The first topic that was refused; others may have been changed.
    pub async fn create_partitions(&self, topics: &[NewPartitions]) -> Result<(), ClientError> {
        let request = CreatePartitionsRequest {
            topics: topics.to_vec(),
        };
        all_done(&self.cluster.ask(&request).await?.topics)
    }

    /// Tells all about topics, in the order of `names`.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`].
    pub async fn describe_topics(
        &self,
        names: &[&str],
    ) -> Result<Vec<TopicDescription>, ClientError> {
        let asked = names.iter().map(|&name| name.to_owned()).collect();
        let mut found = BTreeMap::new();
        for topic in self.pages(Some(asked)).await? {
            found.insert(topic.name.clone(), topic);
        }
        let unknown = |name: &str| ClientError::UnknownTopic {
            topic: name.to_owned(),
        };
        let topics = names.iter();
        topics
            .map(|&name| found.get(name).cloned().ok_or_else(|| unknown(name)))
            .collect()
    }

    /// Tells all about all topics, in the order of their names.
    ///
    /// # Errors
    /// If no broker answers.
    pub async fn list_topics(&self) -> Result<Vec<TopicDescription>, ClientError> {
        self.pages(None).await
    }

    /// Every page, with the partitions of one topic put together.
    async fn pages(
        &self,
        names: Option<Vec<String>>,
    ) -> Result<Vec<TopicDescription>, ClientError> {
        let mut topics: Vec<TopicDescription> = Vec::new();
        let pages = self.cluster.metadata(names).await?;
        for topic in pages.into_iter().flat_map(|page| page.topics) {
            if !topic.failure.error.is_none() {
                return Err(ClientError::of_topic(&topic.name, topic.failure));
            }
            match topics.last_mut() {
                Some(last) if last.name == topic.name => last.partitions.extend(topic.partitions),
                _ => topics.push(TopicDescription {
                    name: topic.name,
                    id: topic.id,
                    compression: topic.compression,
                    batch_bytes_max: topic.batch_bytes_max,
                    partitions: topic.partitions,
                }),
            }
        }
        Ok(topics)
    }

    /// Tells which brokers are registered.
    ///
    /// # Errors
    /// If no broker answers.
    pub async fn list_brokers(&self) -> Result<Vec<BrokerMetadata>, ClientError> {
        let request = MetadataRequest {
            topics: Some(Vec::new()),
            cursor: None,
        };
        Ok(self.cluster.ask(&request).await?.brokers)
    }

    /// Tells the configuration of one topic, every key in order.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`].
    pub async fn describe_configs(&self, topic: &str) -> Result<Vec<ConfigEntry>, ClientError> {
        let request = DescribeConfigsRequest {
            topics: vec![topic.to_owned()],
        };
        let mut topics = self.cluster.ask(&request).await?.topics;
        let found = topics.pop().ok_or_else(|| ClientError::UnknownTopic {
            topic: topic.to_owned(),
        })?;
        let failure = found.failure.into_result();
        failure.map_err(|failure| ClientError::of_topic(topic, failure))?;
        Ok(found.entries)
    }

    /// Changes keys of one topic, all or none. Sets keys to the same values however often it is
    /// done, so it is repeated when a connection breaks.
    ///
    /// # Errors
    /// What the broker says to an unknown key or to a value that is not valid.
    pub async fn alter_configs(
        &self,
        topic: &str,
        changes: Vec<ConfigChange>,
    ) -> Result<(), ClientError> {
        let request = AlterConfigsRequest {
            topic: topic.to_owned(),
            changes,
            validate_only: false,
        };
        let failure = self.cluster.ask(&request).await?.failure.into_result();
        failure.map_err(|failure| ClientError::of_topic(topic, failure))
    }

    /// Looks up an offset in every partition of a topic, in order.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], and what a leader says.
    pub async fn list_offsets(
        &self,
        topic: &str,
        query: OffsetQuery,
    ) -> Result<Vec<ListedPartition>, ClientError> {
        let topic = self.cluster.topic_now(topic).await?;
        let partitions = 0..topic.partition_count();
        let queries = partitions.map(|partition| (PartitionId(partition), query));
        let found = self
            .cluster
            .list_offsets(&topic, &queries.collect())
            .await?;
        Ok(found.into_values().collect())
    }

    /// As [`Admin::list_offsets`], without the partitions that nobody leads now or whose leader
    /// does not answer within a moment: for whoever shows what there is, and does not want to wait.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], and what a leader says.
    pub async fn list_offsets_of_led(
        &self,
        topic: &str,
        query: OffsetQuery,
    ) -> Result<Vec<ListedPartition>, ClientError> {
        let topic = self.cluster.topic_now(topic).await?;
        let partitions = (0..topic.partition_count()).map(PartitionId);
        let is_led = |partition: &PartitionId| {
            let leader = topic.leader(*partition);
            leader.is_some_and(|leader| leader.broker.is_some())
        };
        let queries = partitions
            .filter(is_led)
            .map(|partition| (partition, query));
        let queries = queries.collect();
        let found = self.cluster.list_offsets_now(&topic, &queries).await?;
        Ok(found.into_values().collect())
    }

    /// Deletes the records below an offset of some partitions of a topic; an offset of none deletes
    /// up to the high watermark.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], [`ClientError::UnknownPartition`], and what a leader says.
    pub async fn delete_records(
        &self,
        topic: &str,
        before: &BTreeMap<PartitionId, Option<Offset>>,
    ) -> Result<Vec<DeletedUpTo>, ClientError> {
        let topic = self.cluster.topic_now(topic).await?;
        for &partition in before.keys() {
            topic.check(partition)?;
        }
        let deleted = self.cluster.delete_records(&topic, before).await?;
        Ok(deleted.into_values().collect())
    }

    /// Tells about the process of the broker that answers.
    ///
    /// # Errors
    /// If no broker answers.
    pub async fn describe_broker(&self) -> Result<DescribeBrokerResponse, ClientError> {
        self.cluster.ask(&DescribeBrokerRequest {}).await
    }

    /// Tells how the cluster is, as its controller sees it; if that cannot be reached, as the
    /// broker sees it that answers (`answered_by`).
    ///
    /// # Errors
    /// If no broker answers.
    pub async fn describe_cluster(&self) -> Result<DescribeClusterResponse, ClientError> {
        self.cluster.ask(&DescribeClusterRequest {}).await
    }

    /// Changes who votes in the metadata quorum, in one step; returns who votes once that is
    /// committed. Waits while another change is under way.
    ///
    /// # Errors
    /// What the controller refuses; [`ClientError::OutcomeUnknown`] if the connection breaks: look
    /// with [`Admin::describe_cluster`] before it is repeated.
    pub async fn change_voters(
        &self,
        add: &[BrokerId],
        remove: &[BrokerId],
    ) -> Result<Vec<BrokerId>, ClientError> {
        let request = ChangeVotersRequest {
            add: add.to_vec(),
            remove: remove.to_vec(),
        };
        Ok(self.cluster.ask(&request).await?.voters)
    }

    /// Strikes a broker that is gone for good off the cluster.
    ///
    /// # Errors
    /// As [`Admin::change_voters`]; refused while the broker keeps partitions, votes or lives.
    pub async fn unregister_broker(&self, broker: BrokerId) -> Result<(), ClientError> {
        let request = UnregisterBrokerRequest { broker_id: broker };
        self.cluster.ask(&request).await.map(|_| ())
    }
}

/// The first topic that failed.
fn all_done(results: &[TopicResult]) -> Result<(), ClientError> {
    for result in results {
        let failure = result.failure.clone().into_result();
        failure.map_err(|failure| ClientError::of_topic(&result.name, failure))?;
    }
    Ok(())
}
