//! One request to one broker: batches of several partitions, each partition at most once.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use strandline_protocol::{
    BrokerId, ErrorCode, Offset, PartitionId, Timestamp, TopicId,
    messages::{Acks, Failure, ProducePartition, ProduceRequest},
};

use super::{ProducerOptions, Shared, partition::Job};
use crate::{ClientError, connection::Connection};

/// How much one request carries at most, in bytes; a larger batch goes alone.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// How many batches one request carries at most, so that its message stays far below its limit.
const REQUEST_BATCHES_MAX: usize = 2_000;

/// Which batch it is about.
#[derive(Clone, Debug)]
pub(super) struct BatchKey {
    pub(super) topic: Arc<str>,
    pub(super) topic_id: TopicId,
    pub(super) index: usize,
    pub(super) partition: PartitionId,
    pub(super) number: u64,
    pub(super) attempt: u32,
}

/// Where a batch was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) offset: Option<Offset>,
    pub(super) log_append_time: Option<Timestamp>,
}

/// How one attempt at one batch ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The broker has it.
    Written(Written),
    /// The broker says no.
    Refused(Failure),
    /// It did not leave.
    NotSent(String),
    /// It left, and no answer came.
    Lost(String),
    /// It could not be encoded.
    CannotEncode(String),
}

/// One attempt at one batch.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) key: BatchKey,
    pub(super) outcome: Outcome,
}

/// Batches to send, by broker.
#[derive(Debug, Default)]
pub(super) struct Requests {
    by_broker: BTreeMap<BrokerId, Vec<Vec<(BatchKey, Job)>>>,
}

impl Requests {
    /// Adds the jobs of one partition, in order: the first of each partition goes into the first
    /// request of the broker, the second into the second, and so on.
    pub(super) fn add(
        &mut self,
        broker: BrokerId,
        (topic, topic_id): (Arc<str>, TopicId),
        (index, partition): (usize, PartitionId),
        jobs: Vec<Job>,
    ) {
        let rounds = self.by_broker.entry(broker).or_default();
        for (round, job) in jobs.into_iter().enumerate() {
            let (number, attempt) = match &job {
                Job::Send {
                    number, attempt, ..
                } => (*number, *attempt),
                Job::Encode { number, .. } => (*number, 0),
            };
            let key = BatchKey {
                topic: Arc::clone(&topic),
                topic_id,
                index,
                partition,
                number,
                attempt,
            };
            match rounds.get_mut(round) {
                Some(round) => round.push((key, job)),
                None => rounds.push(vec![(key, job)]),
            }
        }
    }

    /// Encodes what is not encoded; gives requests in the order in which they must be sent.
    pub(super) fn encode(
        self,
        shared: &Shared,
    ) -> impl Iterator<Item = (BrokerId, EncodedRequest)> {
        let rounds = self.by_broker.into_iter();
        let rounds =
            rounds.flat_map(|(broker, rounds)| rounds.into_iter().map(move |it| (broker, it)));
        rounds.flat_map(move |(broker, round)| {
            let requests = encode_round(round, shared);
            requests.into_iter().map(move |request| (broker, request))
        })
    }
}

fn encode_round(round: Vec<(BatchKey, Job)>, shared: &Shared) -> Vec<EncodedRequest> {
    let mut requests = Vec::new();
    let mut current = EncodedRequest::default();
    for (key, job) in round {
        let bytes = match job {
            Job::Send { bytes, .. } => bytes,
            Job::Encode {
                mut builder, stamp, ..
            } => match builder.finish(stamp) {
                Ok(bytes) => {
                    let mut accumulator = shared.accumulator.lock();
                    if let Some(partition) = accumulator.partition(&key.topic, key.index) {
                        partition.encoded(key.number, &bytes);
                    }
                    bytes
                }
                Err(error) => {
                    let outcome = Outcome::CannotEncode(error.to_string());
                    current.ended.push(Attempt { key, outcome });
                    continue;
                }
            },
        };
        let full = current.bytes + bytes.len() > REQUEST_BYTES_MAX
            || current.batches.len() >= REQUEST_BATCHES_MAX;
        if full && !current.batches.is_empty() {
            requests.push(std::mem::take(&mut current));
        }
        current.bytes += bytes.len();
        current.batches.push((key, bytes));
    }
    requests.push(current);
    requests
}

/// A request that is ready to be sent.
#[derive(Debug, Default)]
pub(super) struct EncodedRequest {
    batches: Vec<(BatchKey, Bytes)>,
    bytes: usize,
    /// Batches that could not be encoded.
    ended: Vec<Attempt>,
}

/// Ends with what became of every batch of a request.
pub(super) type Answered = Pin<Box<dyn Future<Output = Vec<Attempt>> + Send>>;

impl EncodedRequest {
    /// Puts the request on the connection at once; the future only waits.
    pub(super) fn send(self, connection: &Connection, options: &ProducerOptions) -> Answered {
        let Self {
            batches, mut ended, ..
        } = self;
        if batches.is_empty() {
            return Box::pin(std::future::ready(ended));
        }
        let request = ProduceRequest {
            acks: options.acks,
            timeout_ms: u32::try_from(options.acks_timeout.as_millis()).unwrap_or(u32::MAX),
            partitions: batches
                .iter()
                .map(|(key, bytes)| ProducePartition {
                    topic_id: key.topic_id,
                    partition: key.partition,
                    bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
                })
                .collect(),
        };
        let (keys, payload): (Vec<_>, Vec<_>) = batches.into_iter().unzip();
        if options.acks == Acks::None {
            let left = connection.one_way(&request, payload);
            return Box::pin(async move {
                let left = left.await;
                ended.extend(keys.into_iter().map(|key| {
                    let outcome = match &left {
                        Ok(()) => Outcome::Written(Written {
                            offset: None,
                            log_append_time: None,
                        }),
                        Err(error) => outcome_of(error),
                    };
                    Attempt { key, outcome }
                }));
                ended
            });
        }
        let answer = connection.request_that_waits(&request, payload, options.acks_timeout);
        Box::pin(async move {
            match answer.await {
                Ok((response, _)) => {
                    let mut produced = response.partitions.into_iter();
                    ended.extend(keys.into_iter().map(|key| {
                        let produced = produced.next().filter(|produced| {
                            produced.topic_id == key.topic_id && produced.partition == key.partition
                        });
                        let outcome = match produced {
                            None => Outcome::Lost("the answer leaves the batch out".to_owned()),
                            Some(produced) => match produced.failure.into_result() {
                                Ok(()) => Outcome::Written(Written {
                                    offset: Some(produced.base_offset),
                                    log_append_time: produced.log_append_time,
                                }),
                                Err(failure) => Outcome::Refused(failure),
                            },
                        };
                        Attempt { key, outcome }
                    }));
                }
                Err(error) => ended.extend(keys.into_iter().map(|key| {
                    let outcome = outcome_of(&error);
                    Attempt { key, outcome }
                })),
            }
            ended
        })
    }
}

/// What the failure of a whole request means for each of its batches.
fn outcome_of(error: &ClientError) -> Outcome {
    match error {
        ClientError::NotSent { .. } => Outcome::NotSent(error.to_string()),
        ClientError::Refused { code, message, .. } if *code != ErrorCode::NONE => {
            Outcome::Refused(Failure::new(*code, message.clone()))
        }
        _ => Outcome::Lost(error.to_string()),
    }
}
