//! Asks the leaders of many partitions at once: one request per broker, again for those entries
//! that were asked of the wrong one.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use strandline_protocol::{
    BrokerId, ErrorClass, LeaderEpoch, Offset, PartitionId, Timestamp,
    limits::ENTRIES_PER_REQUEST_MAX,
    messages::{
        DeleteRecordsPartition, DeleteRecordsRequest, DescribeReplicasRequest, DescribedReplicas,
        Failure, ListOffsetsPartition, ListOffsetsRequest, OffsetQuery, PartitionName, Request,
    },
};
use tokio::time::Instant;

use super::{Backoff, Cluster, Topic, no_leader, silent};
use crate::{ClientError, connection::Connection};

/// How long a leader may take to describe its replicas before it counts as one that cannot.
const ASKING_MAX: Duration = Duration::from_secs(2);

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

/// What becomes of partitions of which nobody can tell now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unanswered {
    /// They are waited for, as long as a request may take.
    Waited,
    /// They are left out after a moment.
    LeftOut,
}

/// What one broker says to each of the entries that it was asked, in their order.
type Answers<T> = Result<Vec<(PartitionId, Failure, T)>, ClientError>;

impl Cluster {
    /// Looks up an offset in each partition of `queries`.
    pub(crate) async fn list_offsets(
        &self,
        topic: &Topic,
        queries: &BTreeMap<PartitionId, OffsetQuery>,
    ) -> Result<BTreeMap<PartitionId, ListedPartition>, ClientError> {
        self.list_offsets_or(topic, queries, Unanswered::Waited)
            .await
    }

    /// As [`Cluster::list_offsets`], for those partitions of which somebody can tell now.
    pub(crate) async fn list_offsets_now(
        &self,
        topic: &Topic,
        queries: &BTreeMap<PartitionId, OffsetQuery>,
    ) -> Result<BTreeMap<PartitionId, ListedPartition>, ClientError> {
        self.list_offsets_or(topic, queries, Unanswered::LeftOut)
            .await
    }

    async fn list_offsets_or(
        &self,
        topic: &Topic,
        queries: &BTreeMap<PartitionId, OffsetQuery>,
        unanswered: Unanswered,
    ) -> Result<BTreeMap<PartitionId, ListedPartition>, ClientError> {
        let topic_id = topic.id;
        let ask = |connection: Connection, entries: Vec<(PartitionId, OffsetQuery)>| async move {
            let partitions = entries
                .into_iter()
                .map(|(partition, query)| ListOffsetsPartition {
                    topic_id,
                    partition,
                    query,
                })
                .collect();
            let request = ListOffsetsRequest { partitions };
            let (response, _) = connection.request(&request, Vec::new()).await?;
            let listed = response.partitions.into_iter().map(|listed| {
                let found = ListedPartition {
                    partition: listed.partition,
                    offset: listed.offset,
                    timestamp: listed.timestamp,
                    leader_epoch: listed.leader_epoch,
                };
                (listed.partition, listed.failure, found)
            });
            Ok(listed.collect())
        };
        let terms = (unanswered, ASKING_MAX);
        self.ask_leaders(topic, queries, terms, ask).await
    }

    /// Deletes the records of each partition below its offset; none is the high watermark.
    pub(crate) async fn delete_records(
        &self,
        topic: &Topic,
        before: &BTreeMap<PartitionId, Option<Offset>>,
    ) -> Result<BTreeMap<PartitionId, DeletedUpTo>, ClientError> {
        let topic_id = topic.id;
        let ask = |connection: Connection, entries: Vec<(PartitionId, Option<Offset>)>| async move {
            let partitions = entries
                .into_iter()
                .map(|(partition, before)| DeleteRecordsPartition {
                    topic_id,
                    partition,
                    before,
                })
                .collect();
            let request = DeleteRecordsRequest { partitions };
            let (response, _) = connection.request(&request, Vec::new()).await?;
            let deleted = response.partitions.into_iter().map(|deleted| {
                let left = DeletedUpTo {
                    partition: deleted.partition,
                    log_start_offset: deleted.log_start_offset,
                };
                (deleted.partition, deleted.failure, left)
            });
            Ok(deleted.collect())
        };
        // It writes to a disk, which may be slow.
        let terms = (Unanswered::Waited, self.options.request_timeout);
        self.ask_leaders(topic, before, terms, ask).await
    }

    /// Asks the leader of each partition how far its replicas are, once: what cannot be told now is
    /// an error of that partition only. Partitions that nobody leads are left out.
    pub(crate) async fn describe_replicas(
        &self,
        topic: &Topic,
    ) -> BTreeMap<PartitionId, Result<DescribedReplicas, ClientError>> {
        let all = (0..topic.partition_count()).map(|id| (PartitionId(id), ()));
        let image = self.image();
        let mut described = BTreeMap::new();
        for (broker, entries) in by_leader(topic, &all.collect()) {
            let Some(address) = broker.and_then(|broker| image.brokers.get(&broker)) else {
                continue;
            };
            for entries in entries.chunks(ENTRIES_PER_REQUEST_MAX) {
                let names = entries.iter().map(|&(partition, ())| PartitionName {
                    topic_id: topic.id,
                    partition,
                });
                let partitions = names.collect();
                let request = DescribeReplicasRequest { partitions };
                match self.ask_address(address, &request).await {
                    Ok(answer) => described.extend(answer.partitions.into_iter().map(|told| {
                        let partition = told.partition;
                        let told = if told.failure.error.is_none() {
                            Ok(told)
                        } else {
                            let subject = format!("`{}`-{partition}", topic.name);
                            Err(ClientError::refused(subject, told.failure))
                        };
                        (partition, told)
                    })),
                    Err(error) => {
                        let failed = entries.iter();
                        described.extend(failed.map(|entry| (entry.0, Err(error.clone()))));
                    }
                }
            }
        }
        described
    }

    /// Asks one broker once, and not for long.
    async fn ask_address<R: Request>(
        &self,
        address: &str,
        request: &R,
    ) -> Result<R::Response, ClientError> {
        let asking = async {
            let connection = self.links.connection(address).await?;
            Ok(connection.request(request, Vec::new()).await?.0)
        };
        let asked = tokio::time::timeout(ASKING_MAX, asking).await;
        asked.unwrap_or_else(|_| Err(silent::<R>(address)))
    }

    /// Both requests above are idempotent, so an attempt whose outcome is unknown is repeated.
    async fn ask_leaders<E, T, F>(
        &self,
        topic: &Topic,
        entries: &BTreeMap<PartitionId, E>,
        (unanswered, asking_max): (Unanswered, Duration),
        ask: impl Fn(Connection, Vec<(PartitionId, E)>) -> F,
    ) -> Result<BTreeMap<PartitionId, T>, ClientError>
    where
        E: Copy,
        F: Future<Output = Answers<T>>,
    {
        let patience = match unanswered {
            Unanswered::Waited => self.options.request_timeout,
            Unanswered::LeftOut => self.options.request_timeout.min(asking_max),
        };
        let deadline = Instant::now() + patience;
        let mut backoff = Backoff::new(&self.options);
        let mut left = entries.clone();
        let mut done = BTreeMap::new();
        let mut topic = Arc::new(topic.clone());
        loop {
            let mut last = None;
            for (broker, entries) in by_leader(&topic, &left) {
                let asking = self.ask_one(&topic, broker, entries, &ask);
                // A broker that is paused or gone is left for whoever leads then.
                let asked = tokio::time::timeout(asking_max, asking).await;
                let asked = asked.unwrap_or_else(|_| Err(no_answer(broker)));
                match asked {
                    Ok(answers) => {
                        for (partition, failure, answer) in answers {
                            match failure.into_result() {
                                Ok(()) => {
                                    if left.remove(&partition).is_some() {
                                        done.insert(partition, answer);
                                    }
                                }
                                Err(failure) => {
                                    let subject = format!("`{}`-{partition}", topic.name);
                                    last = Some(ClientError::refused(subject, failure));
                                }
                            }
                        }
                    }
                    Err(error) => last = Some(error),
                }
                if last.as_ref().is_some_and(|error| !may_help(error)) {
                    break;
                }
            }
            if left.is_empty() {
                return Ok(done);
            }
            let error = last.unwrap_or_else(|| ClientError::Protocol {
                address: "a broker".to_owned(),
                reason: "it left out partitions that it was asked about".to_owned(),
            });
            let pause = backoff.next_pause();
            if !may_help(&error) {
                return Err(error);
            }
            if Instant::now() + pause >= deadline {
                return match unanswered {
                    Unanswered::Waited => Err(error),
                    Unanswered::LeftOut => Ok(done),
                };
            }
            tokio::time::sleep(pause).await;
            let fresh = self.topic_in_doubt(&topic.name).await?;
            if fresh.id != topic.id {
                let topic = topic.name.to_string();
                return Err(ClientError::TopicDeleted { topic });
            }
            topic = fresh;
        }
    }

    async fn ask_one<E, T, F>(
        &self,
        topic: &Topic,
        broker: Option<BrokerId>,
        entries: Vec<(PartitionId, E)>,
        ask: &impl Fn(Connection, Vec<(PartitionId, E)>) -> F,
    ) -> Answers<T>
    where
        F: Future<Output = Answers<T>>,
    {
        let image = self.image();
        let Some(address) = broker.and_then(|broker| image.brokers.get(&broker)) else {
            let partition = entries.first().map_or(PartitionId(0), |entry| entry.0);
            return Err(no_leader(&image, topic, partition));
        };
        let connection = self.links.connection(address).await?;
        ask(connection, entries).await
    }
}

/// The error of a leader that does not answer; asking again may help.
fn no_answer(broker: Option<BrokerId>) -> ClientError {
    let broker = broker.map_or_else(String::new, |broker| format!(" {broker}"));
    ClientError::TimedOut {
        what: format!("a look at broker{broker}"),
        after: ASKING_MAX,
        reason: "it does not answer".to_owned(),
    }
}

/// Whether the same question may find an answer later.
const fn may_help(error: &ClientError) -> bool {
    matches!(
        error.class(),
        ErrorClass::Retry | ErrorClass::RefreshMetadata | ErrorClass::OutcomeUnknown
    )
}

fn by_leader<E: Copy>(
    topic: &Topic,
    entries: &BTreeMap<PartitionId, E>,
) -> BTreeMap<Option<BrokerId>, Vec<(PartitionId, E)>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (&partition, &entry) in entries {
        let leader = topic.leader(partition).and_then(|leader| leader.broker);
        groups.entry(leader).or_default().push((partition, entry));
    }
    groups
}
