//! Reads records: from a position on, in order, each once.
//!
//! `assignment` is where it stands, `fetcher` what is on its way, `records` what it brings.
//! **Never** moves a position past a record that the application was not given.

mod assignment;
mod fetcher;
mod options;
mod records;
mod source;
mod start;
mod stream;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    pin::Pin,
    sync::Arc,
};

pub use options::{ConsumerOptions, OutOfRange};
use parking_lot::Mutex;
pub use records::{OwnedRecord, Records, RecordsIter};
pub use start::StartAt;
use strandline_protocol::{
    ErrorClass, Offset, PartitionId,
    messages::{FetchPartition, OffsetQuery},
};
pub use stream::RecordStream;
use tokio::{sync::watch, time::Instant};

use self::{
    assignment::{Assignment, Brought, Stage},
    fetcher::{Answer, Fetched, Fetcher, PARTITIONS_PER_FETCH},
    source::Source,
};
use crate::{
    ClientError,
    routing::{Backoff, Cluster, Image},
};

type Refreshing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a consumer stands in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The offset that the next `poll` continues from.
    pub offset: Offset,
    /// The end of what could be read at the last fetch; none before the first.
    pub high_watermark: Option<Offset>,
}

/// Tells what is in the way of a [`Consumer`], also while it is polled. Clones are handles of the
/// same.
#[derive(Clone, Debug, Default)]
pub struct ConsumerWatch(Arc<Mutex<Option<String>>>);

impl ConsumerWatch {
    /// Why the last fetch of a partition came to nothing, if it did: what people need to know if it
    /// lasts. Nobody needs to act on it, as the consumer goes on to try.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        self.0.lock().clone()
    }
}

/// What waits for the application.
enum Ready {
    Records {
        index: usize,
        generation: u64,
        records: Records,
        next: Offset,
    },
    Failure {
        index: usize,
        generation: u64,
        error: ClientError,
    },
}

/// Reads the partitions that are assigned to it. Positions are its own; it stores none.
pub struct Consumer {
    cluster: Arc<Cluster>,
    options: ConsumerOptions,
    fetcher: Fetcher,
    assignments: Vec<Assignment>,
    ready: VecDeque<Ready>,
    /// Whether `poll_to_end` has asked for the ends.
    ends_known: bool,
    /// Topics of which it is to be asked who leads.
    to_refresh: BTreeSet<Arc<str>>,
    /// That question, while it is under way.
    refreshing: Option<Refreshing>,
    /// Tells when something is known that the assignments have not taken in.
    changes: watch::Receiver<Arc<Image>>,
    /// What is in the way, for others.
    watch: ConsumerWatch,
    /// Where the next fetch begins among the partitions, so that none is always last.
    turn: usize,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("options", &self.options)
            .field("assignments", &self.assignments)
            .finish_non_exhaustive()
    }
}

impl Consumer {
    pub(crate) fn new(cluster: Arc<Cluster>, options: ConsumerOptions) -> Self {
        let fetcher = Fetcher::new(cluster.new_links());
        let changes = cluster.changes();
        Self {
            cluster,
            changes,
            refreshing: None,
            options,
            fetcher,
            assignments: Vec::new(),
            ready: VecDeque::new(),
            ends_known: false,
            to_refresh: BTreeSet::new(),
            watch: ConsumerWatch::default(),
            turn: 0,
        }
    }

    /// Replaces what is read. Looks every position up at once, so that a topic that does not exist
    /// is told here. Cancel safe: dropped before it is done, it changes nothing.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], [`ClientError::UnknownPartition`], and what a leader says to
    /// a look-up.
    pub async fn assign(
        &mut self,
        partitions: &[(&str, PartitionId, StartAt)],
    ) -> Result<(), ClientError> {
        let mut starts: BTreeMap<&str, BTreeMap<PartitionId, StartAt>> = BTreeMap::new();
        for &(topic, partition, start) in partitions {
            starts.entry(topic).or_default().insert(partition, start);
        }
        let mut assignments = Vec::new();
        for (name, starts) in starts {
            let topic = self.cluster.topic(name).await?;
            let found = start::look_up(&self.cluster, &topic, &starts).await?;
            for (partition, position) in found {
                assignments.push(Assignment {
                    topic: Arc::clone(&topic.name),
                    topic_id: topic.id,
                    partition,
                    position,
                    fetch_position: position,
                    high_watermark: None,
                    end: None,
                    stage: Stage::Idle,
                    generation: 0,
                    backoff: Backoff::new(&self.cluster.options),
                    not_before: None,
                    obstacle: None,
                    source: Source::default(),
                });
            }
        }
        self.changes.mark_changed();
        self.fetcher.clear();
        self.ready.clear();
        self.ends_known = false;
        self.assignments = assignments;
        Ok(())
    }

    /// Replaces what is read by all partitions of one topic.
    ///
    /// # Errors
    /// As [`Consumer::assign`].
    pub async fn assign_topic(&mut self, topic: &str, start: StartAt) -> Result<(), ClientError> {
        let count = self.cluster.topic(topic).await?.partition_count();
        let all = (0..count).map(|partition| (topic, PartitionId(partition), start));
        let all: Vec<_> = all.collect();
        self.assign(&all).await
    }

    /// Moves the position in one assigned partition; what was fetched ahead is dropped. Cancel
    /// safe.
    ///
    /// # Errors
    /// [`ClientError::NotAssigned`], and what a leader says to a look-up.
    pub async fn seek(
        &mut self,
        topic: &str,
        partition: PartitionId,
        to: StartAt,
    ) -> Result<(), ClientError> {
        let assigned = |it: &Assignment| &*it.topic == topic && it.partition == partition;
        let Some(index) = self.assignments.iter().position(assigned) else {
            return Err(ClientError::NotAssigned {
                topic: topic.to_owned(),
                partition,
            });
        };
        let known = self.cluster.topic(topic).await?;
        let starts = BTreeMap::from([(partition, to)]);
        let found = start::look_up(&self.cluster, &known, &starts).await?;
        if let (Some(assignment), Some(&position)) =
            (self.assignments.get_mut(index), found.get(&partition))
        {
            assignment.move_to(position);
        }
        Ok(())
    }

    /// Waits for records and returns those of one partition, at least one. The position moves
    /// behind them as they are returned; the next fetch is on its way while the application works
    /// on them. Cancel safe: dropped before it is done, it has moved nothing.
    ///
    /// Brokers that cannot be reached are tried again for ever, with growing pauses; wrap it in
    /// `tokio::time::timeout` for a bound. Without an assignment it never returns.
    ///
    /// # Errors
    /// [`ClientError::OutOfRange`] unless a policy was chosen, [`ClientError::Corrupt`],
    /// [`ClientError::TopicDeleted`], and what a broker refuses for good. The position stays; other
    /// partitions go on with the next call.
    pub async fn poll(&mut self) -> Result<Records, ClientError> {
        if self.ends_known {
            self.ends_known = false;
            for assignment in &mut self.assignments {
                assignment.end = None;
            }
        }
        loop {
            if let Some(ready) = self.take_ready() {
                return ready;
            }
            self.step().await;
        }
    }

    /// As [`Consumer::poll`], but ends: returns none once every assigned partition was read to the
    /// end that it had when this was first called since the last `assign` or `poll`. What came
    /// later is left to the next call of `poll`. Cancel safe.
    ///
    /// # Errors
    /// As [`Consumer::poll`].
    pub async fn poll_to_end(&mut self) -> Result<Option<Records>, ClientError> {
        if !self.ends_known {
            let ends = self.ends().await?;
            self.fetcher.clear();
            self.ready.clear();
            for assignment in &mut self.assignments {
                let key = (Arc::clone(&assignment.topic), assignment.partition);
                assignment.end = ends.get(&key).copied();
                assignment.move_to(assignment.position);
            }
            self.ends_known = true;
        }
        loop {
            if let Some(ready) = self.take_ready() {
                return ready.map(Some);
            }
            if self.assignments.iter().all(Assignment::is_at_end) {
                return Ok(None);
            }
            self.step().await;
        }
    }

    /// What tells what is in the way while [`Consumer::poll`] waits.
    #[must_use]
    pub fn watch(&self) -> ConsumerWatch {
        self.watch.clone()
    }

    /// Where it stands in every assigned partition, in the order of topics and partitions.
    #[must_use]
    pub fn positions(&self) -> Vec<Position> {
        let positions = self.assignments.iter().map(|it| Position {
            topic: Arc::clone(&it.topic),
            partition: it.partition,
            offset: it.position,
            high_watermark: it.high_watermark,
        });
        positions.collect()
    }

    /// Asks for the end of every assigned partition now: the high watermark, which is exclusive.
    ///
    /// # Errors
    /// What a leader says.
    pub async fn end_offsets(&mut self) -> Result<Vec<Position>, ClientError> {
        let ends = self.ends().await?;
        let mut positions = self.positions();
        for position in &mut positions {
            let key = (Arc::clone(&position.topic), position.partition);
            position.high_watermark = ends.get(&key).copied();
        }
        Ok(positions)
    }

    /// The records one by one, as a `Stream`.
    #[must_use]
    pub fn into_stream(self) -> RecordStream {
        RecordStream::new(self)
    }

    async fn ends(&mut self) -> Result<BTreeMap<(Arc<str>, PartitionId), Offset>, ClientError> {
        let mut queries: BTreeMap<Arc<str>, BTreeMap<PartitionId, OffsetQuery>> = BTreeMap::new();
        for it in &self.assignments {
            let queries = queries.entry(Arc::clone(&it.topic)).or_default();
            queries.insert(it.partition, OffsetQuery::Latest);
        }
        let mut ends = BTreeMap::new();
        for (name, queries) in queries {
            let topic = self.cluster.topic(&name).await?;
            let found = self.cluster.list_offsets(&topic, &queries).await?;
            let found = found
                .into_values()
                .filter_map(|it| Some((it.partition, it.offset?)));
            ends.extend(found.map(|(partition, end)| ((Arc::clone(&name), partition), end)));
        }
        Ok(ends)
    }

    /// Hands out what waits, moves the position, and sends the next fetch.
    fn take_ready(&mut self) -> Option<Result<Records, ClientError>> {
        while let Some(ready) = self.ready.pop_front() {
            let (index, generation) = match &ready {
                Ready::Records {
                    index, generation, ..
                }
                | Ready::Failure {
                    index, generation, ..
                } => (*index, *generation),
            };
            let assignment = self.assignments.get_mut(index);
            let Some(it) = assignment.filter(|it| it.generation == generation) else {
                continue;
            };
            if it.stage == Stage::Failed {
                it.stage = Stage::Idle;
            }
            return Some(match ready {
                Ready::Records { records, next, .. } => {
                    it.position = next;
                    self.send_fetches(Instant::now());
                    Ok(records)
                }
                Ready::Failure { error, .. } => Err(error),
            });
        }
        None
    }

    /// Sends what can be fetched, and waits for one thing to happen.
    async fn step(&mut self) {
        let now = Instant::now();
        self.look_after_silence(now);
        self.send_fetches(now);
        self.refresh();
        let obstacle = self.assignments.iter().find_map(|it| it.obstacle.as_ref());
        if *self.watch.0.lock() != obstacle.cloned() {
            *self.watch.0.lock() = obstacle.cloned();
        }
        if !self.ready.is_empty() {
            return;
        }
        let pauses = self.assignments.iter().filter_map(|it| it.not_before);
        let looks = pauses.chain(self.fetcher.next_overdue());
        let look = looks.filter(|&look| look > now).min();
        let sleep = async {
            match look {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let refreshed = async {
            match &mut self.refreshing {
                Some(refreshing) => refreshing.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = self.fetcher.next() => self.receive(answer),
            () = refreshed => self.refreshing = None,
            _ = self.changes.changed() => self.changes.mark_changed(),
            () = sleep => {}
        }
    }

    /// Asks who leads the topics that are in doubt, beside all else. A failure shows again in the
    /// next fetch.
    fn refresh(&mut self) {
        if self.refreshing.is_some() || self.to_refresh.is_empty() {
            return;
        }
        let topics = std::mem::take(&mut self.to_refresh);
        let topics = topics.iter().map(ToString::to_string).collect();
        let cluster = Arc::clone(&self.cluster);
        self.refreshing = Some(Box::pin(async move {
            let _ = cluster.refresh_in_doubt(topics).await;
        }));
    }

    /// Takes in what has become known since the last time.
    fn learn(&mut self, now: Instant) {
        if !self.changes.has_changed().unwrap_or(false) {
            return;
        }
        let image = Arc::clone(&self.changes.borrow_and_update());
        for it in &mut self.assignments {
            if let Some(topic) = image.topics.get(&it.topic) {
                it.learn(topic, now);
            }
        }
    }

    /// A broker that is paused or cut off says nothing: who leads is asked then.
    fn look_after_silence(&mut self, now: Instant) {
        for broker in self.fetcher.silent(now) {
            for it in &mut self.assignments {
                if it.stage == Stage::Fetching {
                    self.to_refresh.insert(Arc::clone(&it.topic));
                }
                it.source_is_silent(broker, now);
            }
        }
    }

    /// Sends a fetch to every broker that serves a partition which can be fetched.
    fn send_fetches(&mut self, now: Instant) {
        self.learn(now);
        let image = self.cluster.image();
        let mut by_broker: BTreeMap<_, (Vec<FetchPartition>, Fetched)> = BTreeMap::new();
        let count = self.assignments.len();
        for index in (self.turn..count).chain(0..self.turn.min(count)) {
            let Some(it) = self.assignments.get_mut(index) else {
                continue;
            };
            if !it.wants_fetch(now) {
                continue;
            }
            let topic = image.topics.get(&it.topic);
            if let Some(topic) = topic
                && topic.id != it.topic_id
            {
                it.stage = Stage::Failed;
                let error = ClientError::TopicDeleted {
                    topic: it.topic.to_string(),
                };
                let generation = it.generation;
                self.ready.push_back(Ready::Failure {
                    index,
                    generation,
                    error,
                });
                continue;
            }
            let source = it.source.broker(now).filter(|_| topic.is_some());
            let known = source.filter(|(broker, _)| image.brokers.contains_key(broker));
            let Some((broker, rack)) = known else {
                it.obstacle = topic.map(|topic| image.why_leaderless(topic, it.partition));
                it.source_failed(now);
                self.to_refresh.insert(Arc::clone(&it.topic));
                continue;
            };
            if !self.fetcher.has_room(broker) {
                continue;
            }
            let (partitions, fetched) = by_broker.entry((broker, rack)).or_default();
            if partitions.len() < PARTITIONS_PER_FETCH {
                it.stage = Stage::Fetching;
                fetched.push((index, it.generation));
                partitions.push(FetchPartition {
                    topic_id: it.topic_id,
                    partition: it.partition,
                    fetch_offset: it.fetch_position,
                    bytes_max: u32::try_from(self.options.partition_bytes_max).unwrap_or(u32::MAX),
                    current_leader_epoch: None,
                });
            }
        }
        self.turn = (self.turn + 1).checked_rem(count).unwrap_or(0);
        for ((broker, rack), asked) in by_broker {
            if let Some(address) = image.brokers.get(&broker) {
                self.fetcher
                    .fetch(broker, address, &self.options, rack, asked);
            }
        }
    }

    fn receive(&mut self, answer: Answer) {
        let now = Instant::now();
        match answer.outcome {
            Ok((response, payload)) => {
                let mut payload = payload;
                let mut fetched = answer.fetched.into_iter();
                let mut brought = Vec::new();
                for partition in response.partitions {
                    let bytes = usize::try_from(partition.bytes).unwrap_or(usize::MAX);
                    let bytes = payload.split_to(bytes.min(payload.len()));
                    let Some((index, generation)) = fetched.next() else {
                        break;
                    };
                    let assignment = self.assignments.get_mut(index);
                    let Some(it) = assignment.filter(|it| it.generation == generation) else {
                        continue;
                    };
                    let from = it.fetch_position;
                    if partition.failure.error.is_none() && !bytes.is_empty() {
                        it.go_on_behind(&bytes);
                    }
                    brought.push(((index, generation), from, partition, bytes));
                }
                // Left out of the answer: asked for again.
                self.pause(fetched, now);
                self.send_fetches(now);
                for ((index, generation), from, partition, bytes) in brought {
                    let policy = self.options.out_of_range;
                    // What has become known just now may have begun a fetch from somebody else:
                    // this answer is as good as not come then, or two would be under way.
                    let assignment = self.assignments.get_mut(index);
                    let assignment = assignment.filter(|it| it.generation == generation);
                    let brought =
                        assignment.map(|it| it.receive(partition, &bytes, from, policy, now));
                    if let Some(brought) = brought {
                        self.keep(index, brought);
                    }
                }
            }
            Err(error) => {
                let transient = !matches!(error.class(), ErrorClass::Fatal | ErrorClass::Fenced);
                let first = answer.fetched.first().filter(|_| !transient);
                let is_current = |&&(index, generation): &&(usize, u64)| {
                    let assignment = self.assignments.get(index);
                    assignment.is_some_and(|it| it.generation == generation)
                };
                if let Some(&(index, _)) = first.filter(is_current) {
                    self.keep(index, Brought::Failure(error.clone()));
                }
                for (index, _) in &answer.fetched {
                    let Some(it) = self.assignments.get_mut(*index) else {
                        continue;
                    };
                    it.obstacle = Some(error.to_string());
                    self.to_refresh.insert(Arc::clone(&it.topic));
                }
                self.pause(answer.fetched.into_iter(), now);
            }
        }
    }

    fn pause(&mut self, fetched: impl Iterator<Item = (usize, u64)>, now: Instant) {
        for (index, generation) in fetched {
            let assignment = self.assignments.get_mut(index);
            if let Some(it) = assignment.filter(|it| it.generation == generation)
                && it.stage == Stage::Fetching
            {
                it.source_failed(now);
            }
        }
    }

    fn keep(&mut self, index: usize, brought: Brought) {
        let Some(it) = self.assignments.get_mut(index) else {
            return;
        };
        let generation = it.generation;
        match brought {
            Brought::Nothing | Brought::OtherReplica => {}
            Brought::WrongBroker | Brought::ReplicaFailed => {
                self.to_refresh.insert(Arc::clone(&it.topic));
            }
            Brought::Records(records, next) => {
                self.ready.push_back(Ready::Records {
                    index,
                    generation,
                    records,
                    next,
                });
            }
            Brought::Failure(error) => {
                it.stage = Stage::Failed;
                self.ready.push_back(Ready::Failure {
                    index,
                    generation,
                    error,
                });
            }
        }
    }
}
