//! `strandline bench produce`: as fast as records are acknowledged, or at a rate.
//!
//! The clock runs from the first record to the last acknowledgement. The latency of a record counts
//! from `send`, or from when it was due if there is a rate; at full speed it includes the time that
//! the record waits in the client for its turn.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use strandline_client::{Client, ClientError, NewRecord, Producer};
use tokio::{runtime::Handle, task::JoinSet};

use super::{
    LoadArguments,
    load::{
        Latencies, Schedule, ensure_topic, now, producer_options, share, sleep_exactly,
        warm_up_records,
    },
    payload::Payload,
    report::{Counted, Report, server_cpu},
};
use crate::cli::{connection::ConnectionArguments, error::CommandError, quantity};

/// How many records are sent unless it is said.
pub const RECORDS_DEFAULT: u64 = 1_000_000;

/// At full speed, the latency of one in so many records is measured, as to measure all would take
/// longer than to send them: a prime, so that it meets records at every place of a batch.
const fn sample_every(record_size: usize) -> u64 {
    if record_size < 512 { 509 } else { 61 }
}

/// After how many bytes a producer lets others of its thread run.
const YIELD_BYTES: usize = 256 << 10;

/// Runs the benchmark.
///
/// # Errors
/// If the broker cannot be used or does not acknowledge every record.
pub async fn run(
    connection: &ConnectionArguments,
    load: &LoadArguments,
) -> Result<Report, CommandError> {
    let client = connection.connect().await?;
    let partitions = ensure_topic(&client, load).await?;
    let records = load.records.unwrap_or(RECORDS_DEFAULT);
    let mut producers = Vec::new();
    for _ in 0..load.producers {
        let client = connection.connect().await?;
        producers.push(client.producer(producer_options(load, partitions))?);
    }
    eprintln!("warming up");
    let warm_up = warm_up_records(records, load.record_size);
    send_all(&producers, load, None, warm_up, &Latencies::new()?).await?;
    eprintln!("sending {}", quantity::counted(records, "record"));
    let latencies = Latencies::new()?;
    let cpu_before = server_cpu(&client).await?;
    let elapsed = send_all(&producers, load, load.rate, records, &latencies).await?;
    let server_cpu = server_cpu(&client).await?.saturating_sub(cpu_before);
    Ok(Report::new(&Counted {
        records,
        bytes: records.saturating_mul(quantity::length(load.record_size)),
        elapsed,
        server_cpu,
        latency: latencies.known(),
    }))
}

/// Appends records without measuring, so that there is something to read.
///
/// # Errors
/// If the broker does not acknowledge every record.
pub async fn fill(
    client: &Client,
    load: &LoadArguments,
    partitions: usize,
    records: u64,
) -> Result<(), CommandError> {
    let producer = client.producer(producer_options(load, partitions))?;
    send_all(&[producer], load, None, records, &Latencies::new()?).await?;
    Ok(())
}

/// Sends so many records over all producers and waits for every acknowledgement.
async fn send_all(
    producers: &[Producer],
    load: &LoadArguments,
    rate: Option<u64>,
    records: u64,
    latencies: &Latencies,
) -> Result<Duration, CommandError> {
    let topic: Arc<str> = load.topic.as_str().into();
    let of = u32::try_from(producers.len()).unwrap_or(u32::MAX);
    let mut prepared = Vec::new();
    for (number, producer) in (0..of).zip(producers) {
        prepared.push(Sender {
            producer: producer.clone(),
            topic: Arc::clone(&topic),
            payload: Payload::new(load.record_size, u64::from(number)),
            first: u64::from(number) << 40,
            records: share(records, number, of),
            latencies: latencies.clone(),
        });
    }
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (number, sender) in (0..of).zip(prepared) {
        match rate {
            None if load.one_at_a_time => tasks.spawn(sender.one_at_a_time()),
            None => tasks.spawn(sender.at_full_speed()),
            Some(rate) => {
                let schedule = Schedule {
                    start,
                    rate,
                    producer: number,
                    producers: of,
                };
                let handle = Handle::current();
                tasks.spawn_blocking(move || sender.on_schedule(&schedule, &handle))
            }
        };
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| CommandError::failure(format!("a producer ended: {error}")))??;
    }
    Ok(start.elapsed())
}

/// One producer and its part of the work.
struct Sender {
    producer: Producer,
    topic: Arc<str>,
    payload: Payload,
    /// The stamp of the first record; those of other producers do not reach it.
    first: u64,
    records: u64,
    latencies: Latencies,
}

impl Sender {
    async fn at_full_speed(mut self) -> Result<(), ClientError> {
        let yield_every = YIELD_BYTES.div_ceil(self.payload.size().max(1));
        let yield_every = quantity::length(yield_every);
        let sample_every = sample_every(self.payload.size());
        let mut timestamp = now();
        for number in 0..self.records {
            let stamp = (self.first + number).to_le_bytes();
            let value = self.payload.next(&stamp);
            let begun = number.is_multiple_of(sample_every).then(Instant::now);
            if begun.is_some() {
                timestamp = now();
            }
            let record = NewRecord::to(&self.topic).value(value).timestamp(timestamp);
            let delivery = match self.producer.try_send(record) {
                Ok(delivery) => delivery,
                Err(ClientError::WouldWait { .. }) => self.producer.send(record).await?,
                Err(error) => return Err(error),
            };
            if let Some(begun) = begun {
                self.latencies.watch(begun, delivery);
            }
            if number.is_multiple_of(yield_every) {
                tokio::task::yield_now().await;
            }
        }
        self.producer.flush().await
    }

    async fn one_at_a_time(mut self) -> Result<(), ClientError> {
        for number in 0..self.records {
            let stamp = (self.first + number).to_le_bytes();
            let value = self.payload.next(&stamp);
            let begun = Instant::now();
            let record = NewRecord::to(&self.topic).value(value);
            self.producer.send(record).await?.await?;
            self.latencies.record(begun.elapsed());
        }
        Ok(())
    }

    /// Runs on a thread of its own, which sleeps until each record is due.
    fn on_schedule(mut self, schedule: &Schedule, handle: &Handle) -> Result<(), ClientError> {
        sleep_exactly();
        let _entered = handle.enter();
        for number in 0..self.records {
            let due = schedule.wait(number);
            let stamp = (self.first + number).to_le_bytes();
            let value = self.payload.next(&stamp);
            let record = NewRecord::to(&self.topic).value(value);
            let delivery = match self.producer.try_send(record) {
                Err(ClientError::WouldWait { .. }) => handle.block_on(self.producer.send(record)),
                sent => sent,
            };
            self.latencies.watch(due, delivery?);
        }
        handle.block_on(self.producer.flush())
    }
}
