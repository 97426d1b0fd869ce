//! Producers at a fixed rate and readers that follow, every step of them in the history.
//!
//! A producer goes on whatever happens; one that was fenced is replaced by another one with a
//! number of its own. A *steady* reader reads every partition from its start; a *wandering* one
//! goes back every few seconds and reads with a rack, from followers where there are any.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use strandline_client::{
    Client, ClientError, ClientOptions, Consumer, ConsumerOptions, Delivery, NewRecord, Producer,
    ProducerOptions, StartAt,
    protocol::{ErrorClass, Offset, PartitionId},
};
use tokio::{sync::watch, task::JoinHandle, time::MissedTickBehavior};

use super::{event::What, recorder::Recorder};
use crate::{history::Mark, random::Random};

/// How often a producer sends what is due.
const TICK: Duration = Duration::from_millis(10);

/// How many records of one producer may be undecided before it sends no more.
const UNDECIDED_MAX: u64 = 50_000;

/// Between two times that a wandering reader goes back.
const WANDER: std::ops::Range<u64> = 3_000..15_000;

/// What is sent and read.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The topic, which exists.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: i32,
    /// How many producers there are, each writing to all partitions in turn.
    pub producers: u32,
    /// The number of the first producer: two loads of one history must not share any.
    pub first_producer: u32,
    /// Records a second, of all producers together.
    pub rate: u64,
    /// How long a record is, in bytes.
    pub record_bytes: usize,
    /// How each producer behaves.
    pub options: ProducerOptions,
    /// How many readers there are of each manner.
    pub readers: (u32, u32),
    /// Where wandering readers draw from.
    pub seed: u64,
}

/// What became of records that were sent since somebody last asked.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// When each was sent, and how long it took to its acknowledgement.
    pub acknowledged: Vec<(Instant, Duration)>,
    /// How many ended otherwise.
    pub failed: u64,
    /// How often each error was met.
    pub errors: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Shared {
    recorder: Arc<Recorder>,
    windows: Mutex<BTreeMap<i32, Window>>,
    ends: Mutex<BTreeMap<i32, i64>>,
    read_to: Mutex<BTreeMap<(u32, i32), i64>>,
    reader_errors: Mutex<BTreeMap<String, u64>>,
    undecided: AtomicU64,
    next_producer: AtomicU32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}

/// Running producers and readers.
#[derive(Debug)]
pub struct Load {
    plan: Plan,
    shared: Arc<Shared>,
    producing: watch::Sender<bool>,
    reading: watch::Sender<bool>,
    producers: Vec<JoinHandle<anyhow::Result<()>>>,
    readers: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Load {
    /// Starts them, each with a client of its own that knows `addresses`.
    ///
    /// # Errors
    /// If no client can be had.
    pub async fn start(
        plan: &Plan,
        addresses: &[String],
        recorder: &Arc<Recorder>,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            recorder: Arc::clone(recorder),
            windows: Mutex::default(),
            ends: Mutex::default(),
            read_to: Mutex::default(),
            reader_errors: Mutex::default(),
            undecided: AtomicU64::new(0),
            next_producer: AtomicU32::new(plan.first_producer + plan.producers),
        });
        let mut load = Self {
            plan: plan.clone(),
            shared,
            producing: watch::Sender::new(true),
            reading: watch::Sender::new(true),
            producers: Vec::new(),
            readers: Vec::new(),
        };
        for number in plan.first_producer..plan.first_producer + plan.producers {
            let sender = Sender {
                number,
                plan: plan.clone(),
                client: Client::connect(addresses, ClientOptions::default()).await?,
                shared: Arc::clone(&load.shared),
                going: load.producing.subscribe(),
            };
            load.producers.push(tokio::spawn(sender.run()));
        }
        let (steady, wandering) = plan.readers;
        for number in 0..steady + wandering {
            let reader = Reader {
                number,
                wanders: (number >= steady).then(|| Random::new(plan.seed, u64::from(number))),
                plan: plan.clone(),
                client: Client::connect(addresses, ClientOptions::default()).await?,
                shared: Arc::clone(&load.shared),
                going: load.reading.subscribe(),
            };
            load.readers.push(tokio::spawn(reader.run()));
        }
        Ok(load)
    }

    /// How many partitions are written to.
    #[must_use]
    pub const fn partitions(&self) -> i32 {
        self.plan.partitions
    }

    /// What became of the records of `partition` that were sent since the last call.
    #[must_use]
    pub fn window(&self, partition: i32) -> Window {
        lock(&self.shared.windows)
            .remove(&partition)
            .unwrap_or_default()
    }

    /// Of each of `partitions`, when the first record was acknowledged that had been sent behind
    /// `since`; none of those of which none was yet. Leaves windows as they are.
    #[must_use]
    pub fn resumed(&self, partitions: &[i32], since: Instant) -> Vec<Option<Duration>> {
        let windows = lock(&self.shared.windows);
        let resumed = |partition: &i32| {
            let window = windows.get(partition)?;
            let sent_behind = window.acknowledged.iter().filter(|(sent, _)| *sent > since);
            sent_behind.map(|(sent, took)| *sent + *took - since).min()
        };
        partitions.iter().map(resumed).collect()
    }

    /// How many records are neither acknowledged nor given up.
    #[must_use]
    pub fn undecided(&self) -> u64 {
        self.shared.undecided.load(Ordering::SeqCst)
    }

    /// What readers were told instead of records, and how often.
    #[must_use]
    pub fn reader_errors(&self) -> BTreeMap<String, u64> {
        lock(&self.shared.reader_errors).clone()
    }

    /// Sends nothing more; returns once every record is decided, or after `patience`.
    ///
    /// # Errors
    /// If a producer could not go on.
    pub async fn stop_producing(&mut self, patience: Duration) -> anyhow::Result<()> {
        self.producing.send_replace(false);
        for producer in self.producers.drain(..) {
            producer.await??;
        }
        let deadline = Instant::now() + patience;
        while self.undecided() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits until every reader has everything that was acknowledged; false after `patience`.
    pub async fn until_read(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while !self.all_read() {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    fn all_read(&self) -> bool {
        let ends = lock(&self.shared.ends);
        let read_to = lock(&self.shared.read_to);
        let (steady, wandering) = self.plan.readers;
        (0..steady + wandering).all(|reader| {
            let has = |partition: &i32| read_to.get(&(reader, *partition)).copied().unwrap_or(0);
            ends.iter().all(|(partition, end)| has(partition) >= *end)
        })
    }

    /// Ends the readers.
    ///
    /// # Errors
    /// If one could not go on.
    pub async fn stop_reading(&mut self) -> anyhow::Result<()> {
        self.reading.send_replace(false);
        for reader in self.readers.drain(..) {
            reader.await??;
        }
        Ok(())
    }
}

struct Sender {
    number: u32,
    plan: Plan,
    client: Client,
    shared: Arc<Shared>,
    going: watch::Receiver<bool>,
}

impl Sender {
    async fn run(mut self) -> anyhow::Result<()> {
        let mut producer = self.client.producer(self.plan.options.clone())?;
        let mut ticks = tokio::time::interval(TICK);
        // What could not be sent in time is not made up for: the rate is a rate.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let per_second = self.plan.rate as f64 / f64::from(self.plan.producers);
        let (mut due, mut counter) = (0.0, 0_u64);
        let undecided = Arc::new(AtomicU64::new(0));
        let fenced = Arc::new(AtomicU64::new(0));
        let mut fenced_before = 0;
        while *self.going.borrow() {
            ticks.tick().await;
            if undecided.load(Ordering::Relaxed) > UNDECIDED_MAX {
                continue;
            }
            if fenced.load(Ordering::Relaxed) != fenced_before {
                fenced_before = fenced.load(Ordering::Relaxed);
                self.number = self.shared.next_producer.fetch_add(1, Ordering::Relaxed);
                let number = self.number;
                self.shared
                    .recorder
                    .comment(&format!("fenced: producer {number} is next"));
                producer = self.client.producer(self.plan.options.clone())?;
            }
            due += per_second * TICK.as_secs_f64();
            while due >= 1.0 && *self.going.borrow() {
                due -= 1.0;
                let mark = Mark {
                    producer: self.number,
                    counter,
                };
                counter += 1;
                self.send(&producer, mark, &undecided, &fenced).await;
            }
        }
        Ok(())
    }

    async fn send(
        &self,
        producer: &Producer,
        mark: Mark,
        undecided: &Arc<AtomicU64>,
        fenced: &Arc<AtomicU64>,
    ) {
        let turn = i64::try_from(mark.counter).unwrap_or(0) + i64::from(mark.producer);
        let partition = i32::try_from(turn % i64::from(self.plan.partitions)).unwrap_or(0);
        let value = mark.value(self.plan.record_bytes);
        let record = NewRecord::to(&self.plan.topic)
            .partition(PartitionId(partition))
            .value(&value);
        self.shared.recorder.note(partition, What::Sent(mark));
        self.shared.undecided.fetch_add(1, Ordering::SeqCst);
        undecided.fetch_add(1, Ordering::Relaxed);
        let sent = Instant::now();
        let taken = producer.send(record).await;
        let (shared, undecided) = (Arc::clone(&self.shared), Arc::clone(undecided));
        let fenced = Arc::clone(fenced);
        let settle = async move {
            let outcome = decided(taken).await;
            if matches!(outcome, Err(ClientError::Fenced { .. })) {
                fenced.fetch_add(1, Ordering::Relaxed);
            }
            shared.decide(partition, mark, sent, outcome);
            undecided.fetch_sub(1, Ordering::Relaxed);
        };
        tokio::spawn(settle);
    }
}

async fn decided(taken: Result<Delivery, ClientError>) -> Result<i64, ClientError> {
    let position = taken?.await?;
    Ok(position.offset.map_or(-1, |offset| offset.0))
}

impl Shared {
    fn decide(&self, partition: i32, mark: Mark, sent: Instant, outcome: Result<i64, ClientError>) {
        let mut windows = lock(&self.windows);
        let window = windows.entry(partition).or_default();
        let what = match outcome {
            Ok(offset) => {
                window.acknowledged.push((sent, sent.elapsed()));
                let mut ends = lock(&self.ends);
                let end = ends.entry(partition).or_default();
                *end = (*end).max(offset + 1);
                What::Acknowledged(mark, offset)
            }
            Err(error) => {
                window.failed += 1;
                *window.errors.entry(error.to_string()).or_default() += 1;
                match error.class() {
                    // What a fenced producer has sent may have been written before.
                    ErrorClass::OutcomeUnknown | ErrorClass::Fenced => What::Unknown(mark),
                    _ => What::Refused(mark),
                }
            }
        };
        drop(windows);
        self.recorder.note(partition, what);
        self.undecided.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Reader {
    number: u32,
    /// Where a wandering reader draws from; none for a steady one.
    wanders: Option<Random>,
    plan: Plan,
    client: Client,
    shared: Arc<Shared>,
    going: watch::Receiver<bool>,
}

impl Reader {
    async fn run(mut self) -> anyhow::Result<()> {
        let mut positions: BTreeMap<i32, i64> = BTreeMap::new();
        while *self.going.borrow() {
            let stay = self.wanders.as_mut().map(|random| random.ms(WANDER));
            let until = stay.map(|stay| Instant::now() + stay);
            match self.placed(&positions).await {
                Ok(mut consumer) => self.read(&mut consumer, until, &mut positions).await,
                Err(error) => self.complain(&error).await,
            }
            if let Some(random) = &mut self.wanders {
                // Back, never ahead: what is behind must look as it did.
                let partition = i32::try_from(random.index(positions.len().max(1)))?;
                if let Some(position) = positions.get_mut(&partition) {
                    let back = i64::try_from(random.below(500))?;
                    *position = (*position - back).max(0);
                }
            }
        }
        Ok(())
    }

    /// A consumer that stands where this reader stands.
    async fn placed(&self, positions: &BTreeMap<i32, i64>) -> Result<Consumer, ClientError> {
        let rack = || super::stage::rack(i32::try_from(self.number).unwrap_or(0));
        let mut consumer = self.client.consumer(ConsumerOptions {
            rack: self.wanders.as_ref().map(|_| rack()),
            ..ConsumerOptions::default()
        })?;
        let topic = self.plan.topic.as_str();
        let starts: Vec<_> = (0..self.plan.partitions)
            .map(|partition| {
                let at = positions.get(&partition).copied().unwrap_or(0);
                (topic, PartitionId(partition), StartAt::Offset(Offset(at)))
            })
            .collect();
        consumer.assign(&starts).await?;
        for partition in 0..self.plan.partitions {
            let offset = positions.get(&partition).copied().unwrap_or(0);
            let reader = self.number;
            self.shared
                .recorder
                .note(partition, What::Placed { reader, offset });
        }
        Ok(consumer)
    }

    /// Reads until it is time to go elsewhere.
    async fn read(
        &mut self,
        consumer: &mut Consumer,
        until: Option<Instant>,
        positions: &mut BTreeMap<i32, i64>,
    ) {
        let mut going = self.going.clone();
        loop {
            let pause = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            let polled = tokio::select! {
                polled = consumer.poll() => polled,
                () = pause => return,
                _ = going.changed() => return,
            };
            let records = match polled {
                Ok(records) => records,
                Err(error) => {
                    self.complain(&error).await;
                    continue;
                }
            };
            let partition = records.partition().0;
            for record in records.iter() {
                let (offset, mark) = match record {
                    Ok(record) => (record.offset.0, record.value.and_then(Mark::of)),
                    Err(error) => {
                        self.complain(&error).await;
                        break;
                    }
                };
                let reader = self.number;
                let what = What::Read {
                    reader,
                    offset,
                    mark,
                };
                self.shared.recorder.note(partition, what);
                positions.insert(partition, offset + 1);
                let mut read_to = lock(&self.shared.read_to);
                read_to.insert((self.number, partition), offset + 1);
            }
        }
    }

    async fn complain(&self, error: &ClientError) {
        let text = format!("reader {}: {error}", self.number);
        self.shared.recorder.comment(&text);
        *lock(&self.shared.reader_errors)
            .entry(error.to_string())
            .or_default() += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
