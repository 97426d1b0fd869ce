//! `strandline bench end-to-end`: from when a record is due to when a consumer has it.
//!
//! Records are due at a fixed rate whatever becomes of those before them, and their latency counts
//! from that moment: a stall is charged to everything that waited for it (no coordinated omission).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use strandline_client::{Client, ClientError, Consumer, NewRecord, Producer, StartAt};
use tokio::{runtime::Handle, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    LoadArguments,
    consume::assigned,
    load::{Latencies, Schedule, ensure_topic, producer_options, share, sleep_exactly},
    payload::Payload,
    report::{Counted, Report, server_cpu},
};
use crate::cli::{connection::ConnectionArguments, error::CommandError, quantity};

/// How many records are due per second unless it is said.
const RATE_DEFAULT: u64 = 10_000;
/// How many seconds are measured unless the number of records is said.
const SECONDS_DEFAULT: u64 = 10;
/// The run and the time at which it is due stand at the start of every value.
const STAMP_BYTES: usize = 16;
/// How long nothing may arrive before the run fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// Until the first record is due: everybody gets ready.
const LEAD: Duration = Duration::from_millis(50);

/// Runs the benchmark.
///
/// # Errors
/// If the broker cannot be used, does not acknowledge every record, or records do not arrive.
pub async fn run(
    connection: &ConnectionArguments,
    load: &LoadArguments,
) -> Result<Report, CommandError> {
    if load.record_size < STAMP_BYTES {
        return Err(CommandError::usage(format!(
            "--record-size {} is too small for end-to-end",
            load.record_size
        ))
        .hint(format!(
            "a record carries when it was due: at least {STAMP_BYTES} bytes"
        )));
    }
    let client = connection.connect().await?;
    let partitions = ensure_topic(&client, load).await?;
    let consumers = assigned(connection, load, partitions, StartAt::End).await?;
    let mut producers = Vec::new();
    for _ in 0..load.producers {
        let client = connection.connect().await?;
        producers.push(client.producer(producer_options(load, partitions))?);
    }
    let run = Arc::new(Run::new(load)?);
    eprintln!(
        "sending {} records at {} records/s, after a warm-up",
        quantity::thousands(run.records),
        quantity::thousands(run.rate)
    );
    let tasks = run.start(producers, consumers, load);
    let (elapsed, server_cpu) = run.finish(tasks, &client).await?;
    let records = run.measured.load(Ordering::Relaxed);
    Ok(Report::new(&Counted {
        records,
        bytes: records.saturating_mul(quantity::length(load.record_size)),
        elapsed,
        server_cpu,
        latency: run.latencies.known(),
    }))
}

/// What producers and consumers of one run share.
struct Run {
    /// Tells this run's records from those of others.
    id: u64,
    start: Instant,
    rate: u64,
    records: u64,
    warm_up: u64,
    /// When the first record that counts is due.
    measured_from: Duration,
    arrived: AtomicU64,
    measured: AtomicU64,
    latencies: Latencies,
    ended: CancellationToken,
}

type Tasks = JoinSet<Result<(), ClientError>>;

impl Run {
    fn new(load: &LoadArguments) -> Result<Self, CommandError> {
        let rate = load.rate.unwrap_or(RATE_DEFAULT);
        let records = load
            .records
            .unwrap_or_else(|| rate.saturating_mul(SECONDS_DEFAULT));
        let warm_up = rate.min(records / 10);
        let id = getrandom::u64()
            .map_err(|error| CommandError::failure(format!("no random numbers: {error}")))?;
        let mut run = Self {
            id,
            start: Instant::now() + LEAD,
            rate,
            records,
            warm_up,
            measured_from: Duration::ZERO,
            arrived: AtomicU64::new(0),
            measured: AtomicU64::new(0),
            latencies: Latencies::new()?,
            ended: CancellationToken::new(),
        };
        run.measured_from = run.schedule(0, 1).due_after(warm_up);
        Ok(run)
    }

    const fn schedule(&self, producer: u32, producers: u32) -> Schedule {
        Schedule {
            start: self.start,
            rate: self.rate,
            producer,
            producers,
        }
    }

    fn start(
        self: &Arc<Self>,
        producers: Vec<Producer>,
        consumers: Vec<Consumer>,
        load: &LoadArguments,
    ) -> Tasks {
        let mut tasks = JoinSet::new();
        for consumer in consumers {
            tasks.spawn(Arc::clone(self).receive(consumer));
        }
        let of = u32::try_from(producers.len()).unwrap_or(u32::MAX);
        for (number, producer) in (0..of).zip(producers) {
            let run = Arc::clone(self);
            let handle = Handle::current();
            let payload = Payload::new(load.record_size, u64::from(number));
            let schedule = self.schedule(number, of);
            let topic = load.topic.clone();
            tasks.spawn_blocking(move || run.send(&producer, &topic, payload, &schedule, &handle));
        }
        tasks
    }

    /// Sends this producer's records, each when it is due; on a thread of its own, which sleeps.
    fn send(
        &self,
        producer: &Producer,
        topic: &str,
        mut payload: Payload,
        schedule: &Schedule,
        handle: &Handle,
    ) -> Result<(), ClientError> {
        sleep_exactly();
        let _entered = handle.enter();
        let total = self.records.saturating_add(self.warm_up);
        for number in 0..share(total, schedule.producer, schedule.producers) {
            schedule.wait(number);
            let due = u64::try_from(schedule.due_after(number).as_nanos()).unwrap_or(u64::MAX);
            let record = NewRecord::to(topic).value(payload.next(&stamp(self.id, due)));
            match producer.try_send(record) {
                Err(ClientError::WouldWait { .. }) => handle.block_on(producer.send(record)),
                sent => sent,
            }
            .map(drop)?;
            if self.ended.is_cancelled() {
                return Ok(());
            }
        }
        handle.block_on(producer.flush())
    }

    /// Takes records until all of the run have arrived anywhere.
    async fn receive(self: Arc<Self>, mut consumer: Consumer) -> Result<(), ClientError> {
        loop {
            let records = tokio::select! {
                records = consumer.poll() => records?,
                () = self.ended.cancelled() => return Ok(()),
            };
            let arrived_after = self.start.elapsed();
            let (mut arrived, mut measured) = (0, 0);
            for record in records.iter() {
                let Some(due) = record?.value.and_then(|value| due_of(value, self.id)) else {
                    continue;
                };
                arrived += 1;
                if due >= self.measured_from {
                    measured += 1;
                    self.latencies.record(arrived_after.saturating_sub(due));
                }
            }
            self.measured.fetch_add(measured, Ordering::Relaxed);
            let before = self.arrived.fetch_add(arrived, Ordering::Relaxed);
            if before + arrived >= self.records.saturating_add(self.warm_up) {
                self.ended.cancel();
            }
        }
    }

    /// Waits for all of them; how long the measured part took, and what CPU time it cost the
    /// broker.
    async fn finish(
        &self,
        mut tasks: Tasks,
        client: &Client,
    ) -> Result<(Duration, Duration), CommandError> {
        let measured_from = self.start + self.measured_from;
        tokio::time::sleep_until(measured_from.into()).await;
        let cpu_before = server_cpu(client).await?;
        let mut seen = 0;
        while let Some(ended) = self.next_end(&mut tasks, &mut seen).await? {
            ended.map_err(|error| CommandError::failure(format!("a task ended: {error}")))??;
        }
        let elapsed = measured_from.elapsed();
        let server_cpu = server_cpu(client).await?.saturating_sub(cpu_before);
        Ok((elapsed, server_cpu))
    }

    /// The next task that ends; fails if nothing has arrived for long.
    async fn next_end(
        &self,
        tasks: &mut Tasks,
        seen: &mut u64,
    ) -> Result<Option<Result<Result<(), ClientError>, tokio::task::JoinError>>, CommandError> {
        loop {
            if let Ok(ended) = tokio::time::timeout(PATIENCE, tasks.join_next()).await {
                return Ok(ended);
            }
            let arrived = self.arrived.load(Ordering::Relaxed);
            if arrived == *seen {
                self.ended.cancel();
                let total = self.records.saturating_add(self.warm_up);
                return Err(CommandError::failure(format!(
                    "{arrived} of {total} records arrived, and none for {} s",
                    PATIENCE.as_secs()
                ))
                .hint("look at the broker's log"));
            }
            *seen = arrived;
        }
    }
}

/// What a value begins with.
fn stamp(run: u64, due_ns: u64) -> [u8; STAMP_BYTES] {
    let both = (u128::from(run) << 64) | u128::from(due_ns);
    both.to_be_bytes()
}

/// When a record of this run was due; none for a record of another.
fn due_of(value: &[u8], run: u64) -> Option<Duration> {
    let (id, rest) = value.split_first_chunk::<8>()?;
    let (due, _) = rest.split_first_chunk::<8>()?;
    (u64::from_be_bytes(*id) == run).then(|| Duration::from_nanos(u64::from_be_bytes(*due)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read_back_and_belong_to_their_run() {
        let value = [&stamp(7, 42)[..], b"rest"].concat();
        assert_eq!(due_of(&value, 7), Some(Duration::from_nanos(42)));
        assert_eq!(due_of(&value, 8), None);
        assert_eq!(due_of(b"short", 7), None);
    }
}
