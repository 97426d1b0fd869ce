//! The options of a producer.

use std::time::Duration;

use strandline_protocol::{batch::Codec, messages::Acks};

use crate::{
    ClientError,
    options::{Bound, bytes, check_bounds},
};

/// How batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As the topic's `compression.type` advises.
    #[default]
    Topic,
    /// With this codec, whatever the topic advises.
    Codec(Codec),
}

/// How a partition is chosen for a record that names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Partitioner {
    /// Records with a key by its murmur2 hash, exactly as Kafka's clients do, so that equal keys
    /// stay in order; records without one stick to a partition until a batch is full, then go on to
    /// the next.
    #[default]
    KeyHash,
    /// All records stick to a partition until a batch is full, whatever their key. Larger batches,
    /// but equal keys end up on different partitions.
    Sticky,
}

/// How a producer batches, waits and gives up. [`ProducerOptions::default`] is right for most.
///
/// A producer is always idempotent unless `acks` is [`Acks::None`]: a retry never writes a record
/// twice and never changes the order within a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerOptions {
    /// When a write is acknowledged. Default [`Acks::All`]. `Leader` is lost with the leader;
    /// `None` is sent once and never answered: no offset, no error, no retry.
    pub acks: Acks,
    /// How much a batch holds before the next one begins, in bytes before compression. Default
    /// 1 MiB, which only a busy producer fills: a batch is sent as soon as the partition is idle.
    /// Larger carries more per request and compresses better, smaller is quicker to acknowledge and
    /// needs less memory. A larger record gets a batch of its own.
    pub batch_bytes: usize,
    /// How long a batch that is not full waits for more records. Default 0: nothing waits while the
    /// partition is idle, and while requests are in flight a batch fills until one of them is
    /// answered, for at most 5 ms. Longer gives larger batches at a low rate, and that much
    /// latency.
    pub linger: Duration,
    /// How many requests of one partition may be unanswered. Default and maximum 5; 1 to 5. Fewer
    /// bounds what a failure leaves unknown and costs throughput over long ways.
    pub in_flight_max: usize,
    /// How much memory records that are not acknowledged may take, in bytes. Default 64 MiB. When
    /// it is used up, `send` waits: that is the back-pressure.
    pub memory_bytes_max: usize,
    /// How long a record may take from `send` to its acknowledgement, retries included. Default 120
    /// s. It then ends in an error that says whether it was never sent or its outcome is unknown.
    pub delivery_timeout: Duration,
    /// How long a broker may wait for replicas before it answers. Default 30 s.
    pub acks_timeout: Duration,
    /// Default: as the topic advises.
    pub compression: Compression,
    /// Default: by key.
    pub partitioner: Partitioner,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            batch_bytes: 1 << 20,
            linger: Duration::ZERO,
            in_flight_max: 5,
            memory_bytes_max: 64 << 20,
            delivery_timeout: Duration::from_secs(120),
            acks_timeout: Duration::from_secs(30),
            compression: Compression::Topic,
            partitioner: Partitioner::KeyHash,
        }
    }
}

const BOUNDS: &[Bound<ProducerOptions>] = &[
    Bound {
        option: "batch_bytes",
        unit: "bytes",
        value: |options| bytes(options.batch_bytes),
        least: 1,
        largest: 32 << 20,
    },
    Bound {
        option: "linger",
        unit: "ms",
        value: |options| options.linger.as_millis(),
        least: 0,
        largest: 60_000,
    },
    Bound {
        option: "in_flight_max",
        unit: "requests",
        value: |options| bytes(options.in_flight_max),
        least: 1,
        largest: 5,
    },
    Bound {
        option: "memory_bytes_max",
        unit: "bytes",
        value: |options| bytes(options.memory_bytes_max),
        least: 1 << 10,
        largest: 1 << 40,
    },
    Bound {
        option: "delivery_timeout",
        unit: "ms",
        value: |options| options.delivery_timeout.as_millis(),
        least: 1,
        largest: 86_400_000,
    },
    Bound {
        option: "acks_timeout",
        unit: "ms",
        value: |options| options.acks_timeout.as_millis(),
        least: 1,
        largest: 3_600_000,
    },
];

impl ProducerOptions {
    /// Holds every option against its bounds.
    ///
    /// # Errors
    /// [`ClientError::InvalidOption`] names the first that is out of its bounds.
    pub fn validate(&self) -> Result<(), ClientError> {
        check_bounds(self, BOUNDS)?;
        if self.linger >= self.delivery_timeout {
            return Err(ClientError::InvalidOption {
                option: "linger",
                reason: "it is not shorter than `delivery_timeout`".to_owned(),
            });
        }
        Ok(())
    }
}
