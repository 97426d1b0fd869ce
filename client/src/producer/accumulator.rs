//! All records of a producer that are not decided: by topic and partition, bounded by memory. Pure.
//!
//! `append` is the hot path: one look-up of the topic, one choice of a partition, one encoding into
//! the batch under construction. Nothing is allocated except at the start of a batch.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use strandline_protocol::{
    PartitionId, Timestamp,
    batch::{AppendRefused, BatchBuilder, Codec, NewRecord as BatchRecord},
};
use tokio::time::Instant;

use super::{
    Compression, Delivery, NewRecord, Partitioner, ProducerOptions,
    delivery::{BatchOutcome, BatchPosition},
    murmur2::partition_for_key,
    partition::{Ended, Pace, Partition, Standing, Unsent},
};
use crate::{
    ClientError, net,
    routing::{Backoff, Topic},
};

/// How many buffers of batches that are decided are kept for new ones.
const SPARE_BUFFERS: usize = 16;

/// Why a record was not taken, or not yet.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// The memory is used up.
    NoRoom,
    /// The topic has to be asked for.
    TopicNeeded,
    /// It never will be. In a box, so that the way of records that are taken moves little.
    Refused(Box<ClientError>),
}

impl NotTaken {
    /// What one is told who does not wait.
    #[cold]
    pub(super) fn without_waiting(self) -> ClientError {
        let what = match self {
            Self::Refused(error) => return *error,
            Self::NoRoom => "for room in memory",
            Self::TopicNeeded => "until the topic has been asked for",
        };
        ClientError::WouldWait { what }
    }

    #[cold]
    fn refused(error: ClientError) -> Self {
        Self::Refused(Box::new(error))
    }
}

/// Whether the sender has to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    No,
    Yes,
}

/// One topic of a producer.
#[derive(Debug)]
pub(super) struct TopicQueues {
    pub(super) topic: Arc<Topic>,
    pub(super) partitions: Vec<Partition>,
    codec: Codec,
    /// Where records without a key go now, and how many bytes have since it was chosen.
    sticky: usize,
    sticky_bytes: usize,
}

/// All records of a producer that are not decided.
#[derive(Debug)]
pub(super) struct Accumulator {
    pub(super) options: ProducerOptions,
    pub(super) topics: BTreeMap<Arc<str>, TopicQueues>,
    /// Partitions that hold a batch; the sender looks at no others.
    pub(super) active: BTreeSet<(Arc<str>, usize)>,
    backoff: Backoff,
    memory: usize,
    spare: Vec<BytesMut>,
    /// Why nothing more is taken.
    pub(super) closed: Option<ClientError>,
    /// The first failure since the last `flush`.
    pub(super) failure: Option<ClientError>,
    /// How many records were written.
    pub(super) acknowledged: u64,
}

impl Accumulator {
    pub(super) const fn new(options: ProducerOptions, backoff: Backoff) -> Self {
        Self {
            options,
            topics: BTreeMap::new(),
            active: BTreeSet::new(),
            backoff,
            memory: 0,
            spare: Vec::new(),
            closed: None,
            failure: None,
            acknowledged: 0,
        }
    }

    pub(super) const fn pace(&self) -> Pace {
        Pace {
            linger: self.options.linger,
            in_flight_max: self.options.in_flight_max,
        }
    }

    /// Takes over what is known of a topic. One that was created again begins with empty queues;
    /// what its predecessor held is returned.
    pub(super) fn update_topic(&mut self, topic: &Arc<Topic>, now: Instant) -> Vec<Ended> {
        let mut ended = Vec::new();
        if let Some(known) = self.topics.get(&topic.name)
            && known.topic.id != topic.id
        {
            ended = self.remove_topic(&topic.name);
        }
        let options = &self.options;
        let codec = match options.compression {
            Compression::Topic => topic.codec.unwrap_or_default(),
            Compression::Codec(codec) => codec,
        };
        let queues = self.topics.entry(Arc::clone(&topic.name));
        let queues = queues.or_insert_with(|| TopicQueues {
            topic: Arc::clone(topic),
            partitions: Vec::new(),
            codec,
            sticky: usize::MAX,
            sticky_bytes: 0,
        });
        queues.topic = Arc::clone(topic);
        queues.codec = codec;
        let known = i32::try_from(queues.partitions.len()).unwrap_or(i32::MAX);
        for id in known..topic.partition_count() {
            let partition = Partition::new(PartitionId(id), self.backoff);
            queues.partitions.push(partition);
        }
        for partition in &mut queues.partitions {
            if let Some(leader) = topic.leader(partition.id) {
                let in_sync = topic.in_sync_of(partition.id);
                partition.learn(Standing { leader, in_sync }, now);
            }
        }
        ended
    }

    /// Forgets a topic; what it held is returned.
    pub(super) fn remove_topic(&mut self, name: &str) -> Vec<Ended> {
        let mut ended = Vec::new();
        if let Some(mut queues) = self.topics.remove(name) {
            for partition in &mut queues.partitions {
                partition.abandon(&mut ended);
            }
            self.active.retain(|(topic, _)| &**topic != name);
        }
        ended
    }

    /// Takes everything out.
    pub(super) fn abandon(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        for queues in self.topics.values_mut() {
            for partition in &mut queues.partitions {
                partition.abandon(&mut ended);
                partition.active = false;
            }
        }
        self.active.clear();
        ended
    }

    /// Puts a record into its batch.
    #[inline(always)]
    pub(super) fn append(
        &mut self,
        record: &NewRecord<'_>,
        timestamp: Timestamp,
    ) -> Result<(Delivery, Wake), NotTaken> {
        if let Some(error) = &self.closed {
            return Err(NotTaken::refused(error.clone()));
        }
        // One record is taken however large it is: it could never be sent otherwise.
        if self.memory >= self.options.memory_bytes_max {
            return Err(NotTaken::NoRoom);
        }
        let Some(queues) = self.topics.get_mut(record.topic) else {
            return Err(NotTaken::TopicNeeded);
        };
        let index = queues
            .choose(record, &self.options)
            .map_err(NotTaken::refused)?;
        let spare = &mut self.spare;
        let appended = queues.append_to(index, record, timestamp, &self.options, spare);
        let (delivery, bytes, wake) = appended.map_err(NotTaken::refused)?;
        self.memory += bytes;
        if wake == Wake::Yes {
            queues.activate(index, &mut self.active);
        }
        Ok((delivery, wake))
    }

    /// Frees what a decided batch held, and keeps its buffer for another one.
    pub(super) fn release(&mut self, memory: usize, bytes: Bytes) {
        self.memory = self.memory.saturating_sub(memory);
        // Small ones are of compressed batches, or of a producer that has little to send.
        if self.spare.len() < SPARE_BUFFERS
            && bytes.len() >= self.options.batch_bytes / 2
            && let Ok(buffer) = bytes.try_into_mut()
        {
            self.spare.push(buffer);
        }
    }

    /// Sends everything without waiting for more; returns every batch that is not decided.
    pub(super) fn hurry(&mut self) -> Vec<Arc<BatchOutcome>> {
        let mut outcomes = Vec::new();
        for (topic, index) in &self.active {
            let queues = self.topics.get_mut(topic);
            let partition = queues.and_then(|queues| queues.partitions.get_mut(*index));
            if let Some(partition) = partition {
                partition.hurry();
                outcomes.extend(partition.outcomes().cloned());
            }
        }
        outcomes
    }

    /// The partition with that index, of the topic as it is now.
    pub(super) fn partition(&mut self, topic: &str, index: usize) -> Option<&mut Partition> {
        self.topics.get_mut(topic)?.partitions.get_mut(index)
    }

    /// Tells all records of a batch what became of them.
    pub(super) fn decide(&mut self, ended: Ended, decided: Result<BatchPosition, ClientError>) {
        if let Err(error) = &decided
            && self.failure.is_none()
        {
            self.failure = Some(error.clone());
        }
        if decided.is_ok() {
            self.acknowledged += u64::try_from(ended.records).unwrap_or_default();
        }
        ended.outcome.decide(decided);
        self.release(ended.memory, ended.bytes);
    }
}

impl TopicQueues {
    /// Has the sender look at a partition.
    #[cold]
    fn activate(&mut self, index: usize, active: &mut BTreeSet<(Arc<str>, usize)>) {
        if let Some(partition) = self.partitions.get_mut(index)
            && !partition.active
        {
            partition.active = true;
            active.insert((Arc::clone(&self.topic.name), index));
        }
    }

    /// Which partition the record belongs to.
    #[inline(always)]
    fn choose(
        &mut self,
        record: &NewRecord<'_>,
        options: &ProducerOptions,
    ) -> Result<usize, ClientError> {
        if let Some(partition) = record.partition {
            self.topic.check(partition)?;
            return Ok(usize::try_from(partition.0).unwrap_or_default());
        }
        if let (Some(key), Partitioner::KeyHash) = (record.key, options.partitioner) {
            let partition = partition_for_key(key, self.topic.partition_count());
            return Ok(usize::try_from(partition.0).unwrap_or_default());
        }
        if self.sticky_bytes >= options.batch_bytes || self.sticky >= self.partitions.len() {
            self.stick();
        }
        self.sticky_bytes += record.value.map_or(0, <[u8]>::len) + 8;
        Ok(self.sticky)
    }

    /// Goes on to the next partition that has a leader (KIP-480, KIP-794); begins anywhere.
    #[cold]
    fn stick(&mut self) {
        let count = self.partitions.len().max(1);
        let start = if self.sticky == usize::MAX {
            let drawn = usize::try_from(net::random() >> 33).unwrap_or_default();
            drawn % count
        } else {
            self.sticky + 1
        };
        let has_leader = |index: usize| {
            let partition = PartitionId(i32::try_from(index).unwrap_or(i32::MAX));
            let leader = self.topic.leader(partition);
            leader.is_some_and(|leader| leader.broker.is_some())
        };
        let round = (0..count).map(|step| (start + step) % count);
        self.sticky = round
            .clone()
            .find(|&index| has_leader(index))
            .unwrap_or(start % count);
        self.sticky_bytes = 0;
    }

    /// Encodes the record; tells how much memory it takes.
    #[inline(always)]
    fn append_to(
        &mut self,
        index: usize,
        record: &NewRecord<'_>,
        timestamp: Timestamp,
        options: &ProducerOptions,
        spare: &mut Vec<BytesMut>,
    ) -> Result<(Delivery, usize, Wake), ClientError> {
        let Some(partition) = self.partitions.get_mut(index) else {
            // A topic without partitions does not exist.
            return Err(ClientError::UnknownTopic {
                topic: record.topic.to_owned(),
            });
        };
        let encoded = BatchRecord {
            timestamp,
            key: record.key,
            value: record.value,
            headers: record.headers,
        };
        let limit_max = self.topic.batch_bytes_max;
        let mut limit = options.batch_bytes.min(limit_max);
        let mut wake = Wake::No;
        loop {
            if partition.open.is_none() {
                partition.open = Some(open_batch(self.codec, options, spare));
                wake = Wake::Yes;
            }
            let Some(open) = &mut partition.open else {
                continue;
            };
            // The way of nearly every record.
            match open.builder.try_append(limit, encoded) {
                Ok(delta) => {
                    let bytes = open.builder.estimated_bytes().saturating_sub(open.memory);
                    open.memory += bytes;
                    let delivery = Delivery::new(Arc::clone(&open.outcome), delta, timestamp);
                    return Ok((delivery, bytes, wake));
                }
                Err(AppendRefused::Full) => {
                    partition.seal();
                    wake = Wake::Yes;
                }
                Err(AppendRefused::RecordTooLarge { .. }) if limit < limit_max => {
                    // It gets a batch of its own.
                    if !open.builder.is_empty() {
                        partition.seal();
                        wake = Wake::Yes;
                    }
                    limit = limit_max;
                }
                Err(refused) => {
                    if open.builder.is_empty() {
                        partition.open = None;
                    }
                    return Err(refused_error(&self.topic, refused));
                }
            }
        }
    }
}

/// A batch without records, in memory that was used before if there is any.
#[cold]
fn open_batch(codec: Codec, options: &ProducerOptions, spare: &mut Vec<BytesMut>) -> Unsent {
    let mut builder = BatchBuilder::new(codec, options.batch_bytes);
    if let Some(buffer) = spare.pop() {
        builder.recycle(buffer);
    }
    Unsent {
        builder,
        outcome: Arc::default(),
        opened: Instant::now(),
        memory: 0,
    }
}

#[cold]
fn refused_error(topic: &Topic, refused: AppendRefused) -> ClientError {
    match refused {
        AppendRefused::RecordTooLarge { bytes, limit } => ClientError::RecordTooLarge {
            topic: topic.name.to_string(),
            bytes,
            max: limit,
        },
        other => ClientError::InvalidRecord {
            reason: other.to_string(),
        },
    }
}
