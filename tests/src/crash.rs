//! `kill -9` under load: producers that never stop, a broker that is killed at random moments.
//!
//! Every producer is idempotent and sends to every partition; what it was told goes into a
//! [`History`]. After each kill the broker starts again on the same directory, and in the end every
//! partition is read from its start and held against the history.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use strandline_client::{
    Client, ClientError, ClientOptions, Consumer, ConsumerOptions, Delivery, NewRecord, Producer,
    ProducerOptions, StartAt,
    protocol::{
        ErrorClass, PartitionId,
        messages::{NewTopic, OffsetQuery},
    },
};

use crate::{
    broker::BrokerSetup,
    history::{History, Mark, Outcome},
};

const TOPIC: &str = "crash";

/// What a campaign does.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// How often the broker is killed.
    pub rounds: u32,
    /// How many producers there are.
    pub producers: u32,
    /// How many partitions they write to.
    pub partitions: i32,
    /// How long a record is, in bytes.
    pub record_bytes: usize,
    /// From where the moments of the kills are drawn.
    pub seed: u64,
}

/// What a campaign found.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Records that were acknowledged, of unknown outcome, refused.
    pub records: (usize, usize, usize),
    /// Records that are there.
    pub found: usize,
    /// From each start of the process to its readiness, shortest first.
    pub ready_after: Vec<Duration>,
    /// Everything that must never happen, and did.
    pub violations: Vec<String>,
}

/// A generator of moments: the same seed gives the same kills.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % end
    }
}

/// Runs a campaign on `setup`; `progress` hears of every round.
///
/// # Errors
/// If the rig itself does not work; what the broker does wrong is among the findings.
///
/// # Panics
/// If a producer's task panicked.
pub async fn run(
    setup: &BrokerSetup,
    campaign: &Campaign,
    mut progress: impl FnMut(u32, Duration),
) -> anyhow::Result<Findings> {
    let mut random = Random(campaign.seed);
    let mut broker = setup.start();
    let client = Client::connect(&[setup.address()], ClientOptions::default()).await?;
    let configs = [("segment.bytes", "1048576"), ("flush", "ack")];
    let topic = NewTopic {
        name: TOPIC.to_owned(),
        partitions: Some(campaign.partitions),
        replication_factor: None,
        configs: configs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    };
    client
        .admin()
        .create_topics(&[topic])
        .await
        .context("the topic cannot be created")?;

    let history = Arc::new(Mutex::new(History::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for producer in 0..campaign.producers {
        let load = Load {
            producer,
            campaign: campaign.clone(),
            history: Arc::clone(&history),
            stop: Arc::clone(&stop),
        };
        let client = Client::connect(&[setup.address()], ClientOptions::default()).await?;
        tasks.push(tokio::spawn(
            load.run(client.producer(ProducerOptions::default())?),
        ));
    }

    let mut ready_after = Vec::new();
    for round in 1..=campaign.rounds {
        let alive = Duration::from_millis(100 + random.below(900));
        tokio::time::sleep(alive).await;
        broker.kill();
        let setup = setup.clone();
        broker = tokio::task::spawn_blocking(move || setup.start()).await?;
        ready_after.push(broker.ready_after());
        progress(round, broker.ready_after());
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("a producer's task")?;
    }

    let history = std::mem::take(&mut *history.lock().expect("the history"));
    let mut violations = Vec::new();
    let mut found = 0;
    for partition in 0..campaign.partitions {
        let records = read_all(&client, partition).await?;
        found += records.len();
        violations.extend(
            history
                .check(partition, &records)
                .iter()
                .map(ToString::to_string),
        );
    }
    ready_after.sort_unstable();
    Ok(Findings {
        records: history.counts(),
        found,
        ready_after,
        violations,
    })
}

/// One producer that never stops.
struct Load {
    producer: u32,
    campaign: Campaign,
    history: Arc<Mutex<History>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    async fn run(self, producer: Producer) -> anyhow::Result<()> {
        const IN_FLIGHT_MAX: usize = 2_000;
        let mut counter = 0;
        let mut waiting: Vec<(PartitionId, Mark, Delivery)> = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let partition =
                i32::try_from(counter % self.campaign.partitions.unsigned_abs() as u64)?;
            let partition = PartitionId(partition);
            let mark = Mark {
                producer: self.producer,
                counter,
            };
            counter += 1;
            let value = mark.value(self.campaign.record_bytes);
            let record = NewRecord::to(TOPIC).partition(partition).value(&value);
            match producer.send(record).await {
                Ok(delivery) => waiting.push((partition, mark, delivery)),
                Err(error) => self.note(partition, mark, Err(error))?,
            }
            if waiting.len() >= IN_FLIGHT_MAX {
                self.settle(&mut waiting).await?;
            }
        }
        self.settle(&mut waiting).await
    }

    async fn settle(&self, waiting: &mut Vec<(PartitionId, Mark, Delivery)>) -> anyhow::Result<()> {
        for (partition, mark, delivery) in waiting.drain(..) {
            let outcome = delivery.await;
            let offset = outcome.map(|position| position.offset.map_or(-1, |offset| offset.0));
            self.note(partition, mark, offset)?;
        }
        Ok(())
    }

    fn note(
        &self,
        partition: PartitionId,
        mark: Mark,
        outcome: Result<i64, ClientError>,
    ) -> anyhow::Result<()> {
        let outcome = match outcome {
            Ok(offset) => Outcome::Acknowledged(offset),
            Err(error) => match error.class() {
                ErrorClass::OutcomeUnknown => Outcome::Unknown,
                ErrorClass::Fenced => anyhow::bail!("producer {} {error}", self.producer),
                _ => Outcome::Refused,
            },
        };
        self.history
            .lock()
            .expect("the history")
            .note(partition.0, mark, outcome);
        Ok(())
    }
}

/// Everything that a partition of the campaign's topic holds, from its start.
async fn read_all(client: &Client, partition: i32) -> anyhow::Result<Vec<(i64, Option<Mark>)>> {
    let mut consumer: Consumer = client.consumer(ConsumerOptions::default())?;
    consumer
        .assign(&[(TOPIC, PartitionId(partition), StartAt::Beginning)])
        .await?;
    let ends = client
        .admin()
        .list_offsets(TOPIC, OffsetQuery::Latest)
        .await?;
    let end = ends.iter().find(|end| end.partition.0 == partition);
    let end = end
        .and_then(|end| end.offset)
        .context("the partition has an end")?
        .0;
    let mut records = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(120);
    while records.last().map_or(0, |(offset, _)| offset + 1) < end {
        anyhow::ensure!(
            Instant::now() < deadline,
            "partition {partition} cannot be read to {end}"
        );
        for record in consumer.poll().await?.iter() {
            let record = record?;
            records.push((record.offset.0, record.value.and_then(Mark::of)));
        }
    }
    Ok(records)
}
