//! What the benchmarks of a broker share: the topic, the producers, a sample of latencies, and time
//! that is kept.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use strandline_client::{Client, ClientError, Compression, Delivery, ProducerOptions};
use strandline_protocol::{
    ErrorCode, Timestamp,
    messages::{Acks, NewTopic},
};

use super::{LoadArguments, machine::latency_histogram};
use crate::cli::{connection::describe, error::CommandError, quantity};

/// How many batches of a partition a producer may hold: five in flight, and what fills meanwhile.
const BATCHES_HELD: usize = 8;

/// The least memory that a producer may hold.
const MEMORY_BYTES_MIN: usize = 4 << 20;

/// Creates the topic if it is missing, and tells how many partitions it has.
///
/// # Errors
/// If it cannot be created.
pub async fn ensure_topic(client: &Client, load: &LoadArguments) -> Result<usize, CommandError> {
    let default = load.producers.max(load.consumers);
    let new = NewTopic {
        name: load.topic.clone(),
        partitions: load.partitions.or_else(|| i32::try_from(default).ok()),
        replication_factor: load.replication_factor,
        configs: std::collections::BTreeMap::new(),
    };
    match client.admin().create_topics(&[new]).await {
        Ok(_) => eprintln!("created topic {}", load.topic),
        Err(ClientError::Refused { code, .. }) if code == ErrorCode::TOPIC_ALREADY_EXISTS => {}
        Err(error) => return Err(error.into()),
    }
    Ok(describe(client, &load.topic).await?.partitions.len())
}

/// The options of every producer of a run.
pub fn producer_options(load: &LoadArguments, partitions: usize) -> ProducerOptions {
    let mut options = ProducerOptions {
        acks: Acks::from(load.acks),
        compression: Compression::Codec(load.compression.into()),
        ..ProducerOptions::default()
    };
    if let Some(bytes) = load.batch_size {
        options.batch_bytes = bytes;
    }
    if let Some(linger) = load.linger {
        options.linger = linger;
    }
    let held = options
        .batch_bytes
        .saturating_mul(BATCHES_HELD)
        .saturating_mul(partitions);
    // Queueing for longer than the pipeline is deep would only add to the latency.
    options.memory_bytes_max = held.max(MEMORY_BYTES_MIN);
    options
}

/// How many of `total` the one with this number does, of so many.
pub fn share(total: u64, number: u32, of: u32) -> u64 {
    let (number, of) = (u64::from(number), u64::from(of.max(1)));
    total / of + u64::from(number < total % of)
}

/// The time of the system's clock.
pub fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond())
}

/// Latencies that are still being waited for, and those that are known.
#[derive(Clone)]
pub struct Latencies(Arc<Mutex<Histogram<u64>>>);

impl Latencies {
    /// None so far.
    ///
    /// # Errors
    /// Never with the bounds that it has.
    pub fn new() -> Result<Self, CommandError> {
        Ok(Self(Arc::new(Mutex::new(latency_histogram()?))))
    }

    /// Measures from `begun` to the acknowledgement. A failure is told by the producer's flush.
    pub fn watch(&self, begun: Instant, delivery: Delivery) {
        let latencies = self.clone();
        tokio::spawn(async move {
            if delivery.await.is_ok() {
                latencies.record(begun.elapsed());
            }
        });
    }

    /// Adds one.
    pub fn record(&self, elapsed: Duration) {
        super::machine::record(&mut self.0.lock(), elapsed);
    }

    /// All that are known.
    pub fn known(&self) -> Histogram<u64> {
        self.0.lock().clone()
    }
}

/// When records are due: one after the other at a fixed distance, whatever becomes of those before.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// When the first one is due.
    pub start: Instant,
    /// Records per second of all producers.
    pub rate: u64,
    /// Which producer this is, and of how many: they take turns.
    pub producer: u32,
    pub producers: u32,
}

impl Schedule {
    /// How long after the start this producer's record with that number is due.
    pub fn due_after(&self, number: u64) -> Duration {
        let turn = number
            .saturating_mul(u64::from(self.producers))
            .saturating_add(u64::from(self.producer));
        let nanos = u128::from(turn) * 1_000_000_000 / u128::from(self.rate.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Sleeps the calling thread until that record is due, or [`NAP_MIN`] if that is later, and
    /// tells when it was due.
    pub fn wait(&self, number: u64) -> Instant {
        let due = self.start + self.due_after(number);
        let left = due.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            std::thread::sleep(left.max(NAP_MIN));
        }
        due
    }
}

/// The shortest sleep. Setting a timer takes microseconds of a core, most of all on a virtual
/// machine: a sleep for each of 200,000 records a second would take a core away from what is
/// measured. What is late for it counts as late.
const NAP_MIN: Duration = Duration::from_micros(100);

/// Asks the kernel not to lengthen the sleeps of this thread to save wake-ups, which it does by
/// 50 µs otherwise. Where that cannot be set, the figures include it.
pub fn sleep_exactly() {
    let thread = fs::read_link("/proc/thread-self").ok();
    let id = thread.as_deref().and_then(std::path::Path::file_name);
    if let Some(id) = id.and_then(|id| id.to_str()) {
        let _ = fs::write(format!("/proc/{id}/timerslack_ns"), "1");
    }
}

/// Records that are sent before the clock starts: a tenth, and at most so many bytes.
pub fn warm_up_records(records: u64, record_size: usize) -> u64 {
    const WARM_UP_BYTES_MAX: u64 = 100_000_000;
    let by_bytes = WARM_UP_BYTES_MAX / quantity::length(record_size).max(1);
    (records / 10).clamp(1, by_bytes.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for (total, of) in [(10, 3), (2, 4), (1_000_000, 7), (5, 1)] {
            let sum: u64 = (0..of).map(|number| share(total, number, of)).sum();
            assert_eq!(sum, total);
        }
    }

    #[test]
    fn producers_take_turns_at_the_rate() {
        let schedule = |producer| Schedule {
            start: Instant::now(),
            rate: 1_000,
            producer,
            producers: 2,
        };
        let due: Vec<u128> = [(0, 0), (1, 0), (0, 1), (1, 1), (0, 500)]
            .map(|(producer, number)| schedule(producer).due_after(number).as_millis())
            .to_vec();
        assert_eq!(due, [0, 1, 2, 3, 1_000]);
    }

    #[test]
    fn the_warm_up_is_bounded() {
        assert_eq!(warm_up_records(1, 100), 1);
        assert_eq!(warm_up_records(1_000, 100), 100);
        assert_eq!(warm_up_records(1_000_000_000, 1_000), 100_000);
    }
}
