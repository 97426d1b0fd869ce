//! Producers that never stop until they are told to, and what they were told of each record.
//!
//! **Owns** the sending side of the rigs: whatever becomes of the broker meanwhile, every record
//! that was handed to the client is in the [`History`], first as of unknown outcome, then as what
//! the client said. A rig holds the load, looks at what the partitions have, and lets it go on.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
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
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::history::{History, Mark, Outcome};

/// How many records of one producer to one partition may be undecided.
const UNDECIDED_MAX: usize = 500;

/// How long a held load may take until every record is decided.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// How long a partition may take to be read.
const READ_MAX: Duration = Duration::from_secs(120);

/// What is sent where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The topic, which exists.
    pub topic: String,
    /// For each producer, the partitions that it writes to in turn.
    pub producers: Vec<Vec<PartitionId>>,
    /// How long a record is, in bytes.
    pub record_bytes: usize,
    /// How many records are sent between two pauses, and how long a pause is.
    pub pace: (u64, Duration),
    /// How each producer behaves.
    pub options: ProducerOptions,
}

impl Plan {
    /// `producers` producers that each write to all of `partitions` partitions.
    #[must_use]
    pub fn all_to_all(topic: &str, producers: u32, partitions: i32) -> Self {
        let all: Vec<_> = (0..partitions).map(PartitionId).collect();
        Self {
            topic: topic.to_owned(),
            producers: (0..producers).map(|_| all.clone()).collect(),
            record_bytes: 200,
            pace: (1_000, Duration::ZERO),
            options: ProducerOptions::default(),
        }
    }

    /// One producer for each of `partitions` partitions, so that none waits for another's.
    #[must_use]
    pub fn one_to_one(topic: &str, partitions: i32) -> Self {
        let producers = (0..partitions).map(|number| vec![PartitionId(number)]);
        Self {
            producers: producers.collect(),
            ..Self::all_to_all(topic, 0, 0)
        }
    }
}

/// What happened to the records of one partition since somebody last looked.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// From sending to the acknowledgement, of each that was.
    pub latencies: Vec<Duration>,
    /// How many ended otherwise.
    pub failed: u64,
    /// How the last of those ended.
    pub error: Option<String>,
}

impl Window {
    /// The median time to an acknowledgement.
    #[must_use]
    pub fn median(&self) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Go,
    Hold,
    Stop,
}

#[derive(Debug, Default)]
struct Shared {
    history: Mutex<History>,
    windows: Mutex<Vec<Window>>,
    undecided: AtomicU64,
    held: AtomicU64,
}

/// Running producers.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    gate: watch::Sender<Gate>,
    tasks: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Load {
    /// Starts the producers of `plan`, with a client each.
    ///
    /// # Errors
    /// If no client can be had.
    pub async fn start(plan: &Plan, address: &str) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let partitions = plan.producers.iter().flatten().map(|id| id.0 + 1).max();
        let partitions = usize::try_from(partitions.unwrap_or(0))?;
        lock(&shared.windows).resize_with(partitions, Window::default);
        let gate = watch::Sender::new(Gate::Go);
        let mut tasks = Vec::new();
        for (number, partitions) in (0..).zip(&plan.producers) {
            let client = Client::connect(&split(address), ClientOptions::default()).await?;
            let sender = Sender {
                number,
                partitions: partitions.clone(),
                plan: plan.clone(),
                shared: Arc::clone(&shared),
                gate: gate.subscribe(),
            };
            let producer = client.producer(plan.options.clone())?;
            tasks.push(tokio::spawn(sender.run(producer)));
        }
        Ok(Self {
            shared,
            gate,
            tasks,
        })
    }

    /// Has nothing more sent, and waits until every record is decided.
    ///
    /// # Errors
    /// If that takes too long, or a producer gave up.
    pub async fn hold(&self) -> anyhow::Result<()> {
        self.gate.send_replace(Gate::Hold);
        let all = u64::try_from(self.tasks.len())?;
        let quiet = || {
            self.shared.held.load(Ordering::SeqCst) == all
                && self.shared.undecided.load(Ordering::SeqCst) == 0
        };
        let deadline = Instant::now() + SETTLE_MAX;
        while !quiet() {
            anyhow::ensure!(
                !self.tasks.iter().any(JoinHandle::is_finished),
                "a producer gave up"
            );
            anyhow::ensure!(
                Instant::now() < deadline,
                "{} records are undecided after {SETTLE_MAX:?}",
                self.shared.undecided.load(Ordering::SeqCst)
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Lets a held load go on.
    pub fn go_on(&self) {
        self.gate.send_replace(Gate::Go);
    }

    /// Everything so far.
    #[must_use]
    pub fn history(&self) -> History {
        lock(&self.shared.history).clone()
    }

    /// How many records were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        lock(&self.shared.history).counts().0
    }

    /// What happened to the records of `partition` since the last call.
    #[must_use]
    pub fn window(&self, partition: i32) -> Window {
        let mut windows = lock(&self.shared.windows);
        let index = usize::try_from(partition).unwrap_or(usize::MAX);
        windows
            .get_mut(index)
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Stops the producers once every record is decided, and returns what they were told.
    ///
    /// # Errors
    /// As [`Load::hold`], or if a producer was fenced.
    pub async fn stop(self) -> anyhow::Result<History> {
        self.gate.send_replace(Gate::Stop);
        for task in self.tasks {
            task.await??;
        }
        Ok(std::mem::take(&mut *lock(&self.shared.history)))
    }
}

/// The addresses in `addresses`, which are separated by commas.
fn split(addresses: &str) -> Vec<&str> {
    addresses.split(',').collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}

/// One producer that never stops.
struct Sender {
    number: u32,
    partitions: Vec<PartitionId>,
    plan: Plan,
    shared: Arc<Shared>,
    gate: watch::Receiver<Gate>,
}

/// A record on its way.
struct Undecided {
    mark: Mark,
    since: Instant,
    delivery: Delivery,
}

impl Sender {
    async fn run(mut self, producer: Producer) -> anyhow::Result<()> {
        let mut settlers = Vec::new();
        let mut queues = Vec::new();
        for partition in &self.partitions {
            let (queue, undecided) = mpsc::channel(UNDECIDED_MAX);
            let settler = settle(*partition, undecided, Arc::clone(&self.shared));
            settlers.push(tokio::spawn(settler));
            queues.push((*partition, queue));
        }
        let mut counter = 0;
        while self.may_go_on().await? {
            let turn = usize::try_from(counter)? % queues.len();
            let (partition, queue) = &queues[turn];
            let mark = Mark {
                producer: self.number,
                counter,
            };
            counter += 1;
            self.send(&producer, *partition, queue, mark).await?;
            let (records, pause) = self.plan.pace;
            if counter % records == 0 && !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        drop(queues);
        for settler in settlers {
            settler.await??;
        }
        Ok(())
    }

    async fn send(
        &self,
        producer: &Producer,
        partition: PartitionId,
        queue: &mpsc::Sender<Undecided>,
        mark: Mark,
    ) -> anyhow::Result<()> {
        self.shared.undecided.fetch_add(1, Ordering::SeqCst);
        lock(&self.shared.history).note(partition.0, mark, Outcome::Unknown);
        let value = mark.value(self.plan.record_bytes);
        let record = NewRecord::to(&self.plan.topic)
            .partition(partition)
            .value(&value);
        let since = Instant::now();
        match producer.send(record).await {
            Ok(delivery) => queue
                .send(Undecided {
                    mark,
                    since,
                    delivery,
                })
                .await
                .map_err(|_| anyhow::anyhow!("nobody waits for partition {partition} any more")),
            Err(error) => self.shared.decided(partition, mark, since, Err(error)),
        }
    }

    /// Waits at the gate; false once it is time to stop.
    async fn may_go_on(&mut self) -> anyhow::Result<bool> {
        let is_held = *self.gate.borrow() == Gate::Hold;
        if is_held {
            self.shared.held.fetch_add(1, Ordering::SeqCst);
            let gate = self.gate.wait_for(|gate| *gate != Gate::Hold).await;
            gate.context("the load was dropped")?;
            self.shared.held.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(*self.gate.borrow() != Gate::Stop)
    }
}

async fn settle(
    partition: PartitionId,
    mut undecided: mpsc::Receiver<Undecided>,
    shared: Arc<Shared>,
) -> anyhow::Result<()> {
    while let Some(next) = undecided.recv().await {
        let outcome = next.delivery.await;
        let offset = outcome.map(|position| position.offset.map_or(-1, |offset| offset.0));
        shared.decided(partition, next.mark, next.since, offset)?;
    }
    Ok(())
}

impl Shared {
    fn decided(
        &self,
        partition: PartitionId,
        mark: Mark,
        since: Instant,
        outcome: Result<i64, ClientError>,
    ) -> anyhow::Result<()> {
        let index = usize::try_from(partition.0)?;
        let outcome = {
            let mut windows = lock(&self.windows);
            let window = &mut windows[index];
            match outcome {
                Ok(offset) => {
                    window.latencies.push(since.elapsed());
                    Outcome::Acknowledged(offset)
                }
                Err(error) => {
                    window.failed += 1;
                    window.error = Some(error.to_string());
                    match error.class() {
                        ErrorClass::OutcomeUnknown => Outcome::Unknown,
                        ErrorClass::Fenced => {
                            anyhow::bail!("producer {} {error}", mark.producer)
                        }
                        _ => Outcome::Refused,
                    }
                }
            }
        };
        lock(&self.history).note(partition.0, mark, outcome);
        self.undecided.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Creates `topic` with `partitions` partitions, each with one copy: what happens to a broker
/// concerns its own partitions only.
///
/// # Errors
/// If the broker refuses, or cannot be reached.
pub async fn create_topic(
    address: &str,
    topic: &str,
    partitions: i32,
    configs: &[(&str, &str)],
) -> anyhow::Result<()> {
    let client = Client::connect(&split(address), ClientOptions::default()).await?;
    let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let new = NewTopic {
        name: topic.to_owned(),
        partitions: Some(partitions),
        replication_factor: Some(1),
        configs: configs.iter().map(pair).collect(),
    };
    let created = client.admin().create_topics(&[new]).await;
    created.with_context(|| format!("topic {topic} cannot be created"))?;
    Ok(())
}

/// What a look at every partition found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// How many records there are.
    pub found: usize,
    /// Everything that must never happen, and did.
    pub violations: Vec<String>,
}

/// Reads every partition of `topic` from its start, and holds it against `history`. No load may run
/// meanwhile.
///
/// # Errors
/// If a partition cannot be read.
pub async fn check_all(
    address: &str,
    topic: &str,
    partitions: i32,
    history: &History,
) -> anyhow::Result<Checked> {
    let mut checked = Checked::default();
    for partition in 0..partitions {
        let records = read_all(address, topic, partition).await?;
        checked.found += records.len();
        let violations = history.check(partition, &records);
        checked
            .violations
            .extend(violations.iter().map(ToString::to_string));
    }
    Ok(checked)
}

/// Everything that a partition holds, from its start.
///
/// # Errors
/// If it cannot be read to its end.
pub async fn read_all(
    address: &str,
    topic: &str,
    partition: i32,
) -> anyhow::Result<Vec<(i64, Option<Mark>)>> {
    let client = Client::connect(&split(address), ClientOptions::default()).await?;
    let mut consumer: Consumer = client.consumer(ConsumerOptions::default())?;
    let assigned = [(topic, PartitionId(partition), StartAt::Beginning)];
    consumer.assign(&assigned).await?;
    let ends = client
        .admin()
        .list_offsets(topic, OffsetQuery::Latest)
        .await?;
    let end = ends.iter().find(|end| end.partition.0 == partition);
    let end = end
        .and_then(|end| end.offset)
        .with_context(|| format!("partition {partition} has no end"))?
        .0;
    let mut records = Vec::new();
    let work = async {
        while records.last().map_or(0, |(offset, _)| offset + 1) < end {
            for record in consumer.poll().await?.iter() {
                let record = record?;
                records.push((record.offset.0, record.value.and_then(Mark::of)));
            }
        }
        anyhow::Ok(())
    };
    let read = tokio::time::timeout(READ_MAX, work).await;
    read.with_context(|| format!("partition {partition} cannot be read to {end}"))??;
    Ok(records)
}
