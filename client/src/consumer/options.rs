//! The options of a consumer.

use std::time::Duration;

use crate::{
    ClientError,
    options::{Bound, bytes, check_bounds},
};

/// What happens when a position is not in the log any more, or not yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutOfRange {
    /// `poll` fails with [`ClientError::OutOfRange`]; the position stays. Nothing is skipped or
    /// read twice without the application's knowing.
    #[default]
    Error,
    /// Reading goes on at the first offset of the log.
    Beginning,
    /// Reading goes on at the end of the log.
    End,
}

/// How a consumer fetches. [`ConsumerOptions::default`] is right for most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerOptions {
    /// How much one fetch brings at most, over all partitions of a broker, in bytes. Default 4 MiB.
    /// The first batch comes whole even if it is larger. Larger is faster, and takes that much
    /// memory twice: one fetch is worked on while the next is on its way.
    pub fetch_bytes_max: usize,
    /// How much of one partition a fetch brings at most, in bytes. Default 2 MiB. Smaller spreads a
    /// fetch over more partitions.
    pub partition_bytes_max: usize,
    /// How much is worth an answer, in bytes. Default 1: the first record. More gives larger
    /// fetches at a low rate, and `wait_max` of latency.
    pub fetch_bytes_min: usize,
    /// How long a broker waits for `fetch_bytes_min` before it answers with less. Default 500 ms.
    pub wait_max: Duration,
    /// What happens when a position is out of range. Default: an error.
    pub out_of_range: OutOfRange,
    /// Where it runs, in the words of the brokers' `rack`; at most 249 bytes. Default none: it
    /// reads from leaders. With one, an in-sync replica in that rack serves it where there is one,
    /// which saves the way between racks and costs some latency: a follower learns what may be read
    /// a moment after its leader. It goes back to the leader when the replica fails.
    pub rack: Option<String>,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            fetch_bytes_max: 4 << 20,
            partition_bytes_max: 2 << 20,
            fetch_bytes_min: 1,
            wait_max: Duration::from_millis(500),
            out_of_range: OutOfRange::Error,
            rack: None,
        }
    }
}

const BOUNDS: &[Bound<ConsumerOptions>] = &[
    Bound {
        option: "fetch_bytes_max",
        unit: "bytes",
        value: |options| bytes(options.fetch_bytes_max),
        least: 1,
        largest: 1 << 29,
    },
    Bound {
        option: "partition_bytes_max",
        unit: "bytes",
        value: |options| bytes(options.partition_bytes_max),
        least: 1,
        largest: 1 << 29,
    },
    Bound {
        option: "fetch_bytes_min",
        unit: "bytes",
        value: |options| bytes(options.fetch_bytes_min),
        least: 0,
        largest: 1 << 29,
    },
    Bound {
        option: "wait_max",
        unit: "ms",
        value: |options| options.wait_max.as_millis(),
        least: 0,
        largest: 600_000,
    },
    Bound {
        option: "rack",
        unit: "bytes",
        value: |options| bytes(options.rack.as_ref().map_or(1, String::len)),
        least: 1,
        largest: 249,
    },
];

impl ConsumerOptions {
    /// Holds every option against its bounds.
    ///
    /// # Errors
    /// [`ClientError::InvalidOption`] names the first that is out of its bounds.
    pub fn validate(&self) -> Result<(), ClientError> {
        check_bounds(self, BOUNDS)?;
        if self.fetch_bytes_min > self.fetch_bytes_max {
            return Err(ClientError::InvalidOption {
                option: "fetch_bytes_min",
                reason: "it is larger than `fetch_bytes_max`".to_owned(),
            });
        }
        Ok(())
    }
}
