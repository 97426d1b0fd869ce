//! Leaders and replicas, as an operator moves them.

use std::collections::BTreeMap;

use strandline_protocol::{
    BrokerId, PartitionId, TopicId,
    messages::{
        DescribedReplicas, DrainBrokerRequest, DrainBrokerResponse, Duty, ElectLeadersRequest,
        Election, PartitionName, PartitionOutcome, ReassignPartitionsRequest, Reassignment,
    },
};

use super::Admin;
use crate::ClientError;

/// What became of a change of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionChange {
    /// The partition.
    pub partition: PartitionId,
    /// Whether and why it was refused.
    pub outcome: Result<(), ClientError>,
}

impl Admin {
    /// Elects leaders of partitions of a topic: its preferred replica, or with
    /// [`Election::Unclean`] any replica that lives where nobody leads, which may lose records that
    /// were acknowledged. Repeated when a connection breaks: a second time changes nothing more.
    ///
    /// A partition that needs no election is refused with `ELECTION_NOT_NEEDED`.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], [`ClientError::UnknownPartition`], and what the controller
    /// says to the request as a whole.
    pub async fn elect_leaders(
        &self,
        topic: &str,
        partitions: &[PartitionId],
        election: Election,
    ) -> Result<Vec<PartitionChange>, ClientError> {
        let topic_id = self.checked(topic, partitions.iter().copied()).await?;
        let names = partitions.iter().map(|&partition| PartitionName {
            topic_id,
            partition,
        });
        let request = ElectLeadersRequest {
            election,
            partitions: names.collect(),
        };
        let answer = self.cluster.ask(&request).await?;
        Ok(changes(topic, answer.partitions))
    }

    /// Begins to move partitions of a topic to other brokers; none takes back a move that is under
    /// way. `throttle` bounds the bytes a second that each broker fetches for replicas that are
    /// being added, for the whole cluster and from now on; none leaves the bound as it is, 0 takes
    /// it away. [`Admin::describe_topics`] tells how far it is: it is done when no replica stands
    /// in `adding` or `removing`. Repeated when a connection breaks.
    ///
    /// # Errors
    /// As [`Admin::elect_leaders`].
    pub async fn reassign_partitions(
        &self,
        topic: &str,
        to: &BTreeMap<PartitionId, Option<Vec<BrokerId>>>,
        throttle: Option<u64>,
    ) -> Result<Vec<PartitionChange>, ClientError> {
        let topic_id = self.checked(topic, to.keys().copied()).await?;
        let partitions = to.iter().map(|(&partition, replicas)| Reassignment {
            topic_id,
            partition,
            replicas: replicas.clone(),
        });
        let request = ReassignPartitionsRequest {
            partitions: partitions.collect(),
            throttle_bytes_per_second: throttle,
        };
        let answer = self.cluster.ask(&request).await?;
        Ok(changes(topic, answer.partitions))
    }

    /// Asks the leader of each partition how far its replicas are, once and not for long. What one
    /// leader cannot tell is an error of its partitions only; partitions that nobody leads are left
    /// out.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`].
    pub async fn describe_replicas(
        &self,
        topic: &str,
    ) -> Result<BTreeMap<PartitionId, Result<DescribedReplicas, ClientError>>, ClientError> {
        let topic = self.cluster.topic_now(topic).await?;
        Ok(self.cluster.describe_replicas(&topic).await)
    }

    /// Takes a broker's leaderships away before maintenance, or gives it back its duty. Repeated
    /// when a connection breaks.
    ///
    /// # Errors
    /// What the controller refuses.
    pub async fn drain_broker(
        &self,
        broker: BrokerId,
        duty: Duty,
    ) -> Result<DrainBrokerResponse, ClientError> {
        let request = DrainBrokerRequest {
            broker_id: broker,
            duty,
        };
        self.cluster.ask(&request).await
    }

    /// The identity of a topic, once all the partitions are its own.
    async fn checked(
        &self,
        topic: &str,
        partitions: impl Iterator<Item = PartitionId>,
    ) -> Result<TopicId, ClientError> {
        let topic = self.cluster.topic_now(topic).await?;
        for partition in partitions {
            topic.check(partition)?;
        }
        Ok(topic.id)
    }
}

fn changes(topic: &str, outcomes: Vec<PartitionOutcome>) -> Vec<PartitionChange> {
    let changes = outcomes.into_iter().map(|it| PartitionChange {
        partition: it.partition,
        outcome: it.failure.into_result().map_err(|failure| {
            ClientError::refused(format!("`{topic}`-{}", it.partition), failure)
        }),
    });
    changes.collect()
}
