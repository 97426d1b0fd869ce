//! The task that fetches from one leader: carries what the session asks to it, and what it answers
//! to the partitions.
//!
//! *Patterns: request batch, single-socket channel, request pipeline.* When the connection breaks,
//! or the leader has lost the session, everything is named anew; between two failures the task
//! rests, longer each time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::pending,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use strandline_client::{ClientError, connection::Connection, net::Clock};
use strandline_core::metadata::Image;
use strandline_protocol::{
    BrokerEpoch, BrokerId, LeaderEpoch, TopicPartition,
    messages::{
        Purpose, ReplicaFetchRequest, ReplicaFetchResponse, ReplicaFetchedPartition,
        ReplicaProgressPartition, ReplicaProgressRequest,
    },
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Shared, inbox::Inbox, session::Session};
use crate::{
    partition::{FetchOutcome, Partition},
    server::spawn::{blocking, spawn},
};

/// How much one answer carries at most, in bytes.
const ANSWER_BYTES_MAX: u32 = 8 << 20;

/// How much of one partition, in bytes.
const PARTITION_BYTES_MAX: u32 = 2 << 20;

/// How many partitions of an answer are taken in where it arrives.
const QUICK_PARTITIONS: usize = 64;

/// How many bytes of it: what one partition may have. To wake another thread for that, which has
/// none of it in its cache, takes longer than it would hold up other tasks.
const QUICK_BYTES: usize = 2 << 20;

/// In how many places at once the partitions of an answer wait for the disk.
const SLOW_AT_ONCE: usize = 8;

/// How many partitions one message tells to be durable.
const TOLD_AT_ONCE: usize = 2_000;

/// How long the task rests after its first failure; twice as long after each further one.
const BACK_OFF_MIN: Duration = Duration::from_millis(10);

/// How long it rests at most.
const BACK_OFF_MAX: Duration = Duration::from_millis(320);

/// How long replicas that are held back rest before it is looked again which limit is in force.
const HELD_MAX: Duration = Duration::from_secs(1);

type Answer = Result<(ReplicaFetchResponse, Bytes), ClientError>;

/// A request that was sent, and its number in the session.
struct Asked {
    number: u32,
    answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
}

type Telling = Pin<Box<dyn Future<Output = Result<(), ClientError>> + Send>>;

/// Why a conversation has ended.
enum End {
    /// The broker stops.
    Halt,
    /// Nothing is fetched from that leader any more.
    Idle,
    /// It cannot go on.
    Broken(String),
}

/// What a leader told of one partition, for the one that asked in that epoch.
struct Told {
    partition: Arc<Partition>,
    epoch: LeaderEpoch,
    fetched: ReplicaFetchedPartition,
    batches: Bytes,
}

/// See the module.
pub(super) struct Fetcher {
    leader: BrokerId,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    session: Session,
    partitions: BTreeMap<TopicPartition, Arc<Partition>>,
    /// What is durable further than before, and is to be told.
    flushed: BTreeSet<TopicPartition>,
    failures: u32,
}

impl Fetcher {
    pub(super) fn new(leader: BrokerId, shared: Arc<Shared>, inbox: Arc<Inbox>) -> Self {
        Self {
            leader,
            shared,
            inbox,
            session: Session::default(),
            partitions: BTreeMap::new(),
            flushed: BTreeSet::new(),
            failures: 0,
        }
    }

    /// Fetches until `halt`.
    pub(super) async fn run(mut self, halt: CancellationToken) {
        loop {
            self.read_mail();
            if self.session.is_empty() {
                tokio::select! {
                    biased;
                    () = halt.cancelled() => return,
                    () = self.inbox.arrived() => continue,
                }
            }
            let connected = tokio::select! {
                biased;
                () = halt.cancelled() => return,
                connected = self.shared.connect(self.leader, Purpose::Replication) => connected,
            };
            self.session.reset();
            let end = match connected {
                Ok(connection) => self.converse(&connection, &halt).await,
                Err(error) => End::Broken(error.to_string()),
            };
            self.session.reset();
            match end {
                End::Halt => return,
                End::Idle => {}
                End::Broken(reason) => {
                    tracing::debug!(leader = %self.leader, "cannot fetch now: {reason}");
                    let doubled = BACK_OFF_MIN.saturating_mul(1 << self.failures.min(8));
                    self.failures = self.failures.saturating_add(1);
                    let until = Instant::now() + doubled.min(BACK_OFF_MAX);
                    tokio::select! {
                        biased;
                        () = halt.cancelled() => return,
                        () = sleep_until(until) => {}
                    }
                }
            }
        }
    }

    /// Asks and takes in answers for as long as that goes. Nothing is dropped half done: it ends
    /// only between two answers.
    async fn converse(&mut self, connection: &Connection, halt: &CancellationToken) -> End {
        let mut asked: VecDeque<Asked> = VecDeque::new();
        let mut telling: Option<Telling> = None;
        loop {
            self.read_mail();
            self.session.rested(Instant::now());
            while let Some(asking) = self.ask(connection) {
                asked.push_back(asking);
            }
            if asked.is_empty() {
                return End::Idle;
            }
            // Behind the request that names the end of the log that is durable now.
            if telling.is_none() {
                telling = self.tell(connection);
                asked.extend(self.ask(connection));
            }
            let rested = self.session.next_rested();
            tokio::select! {
                biased;
                () = halt.cancelled() => return End::Halt,
                answer = first(&mut asked) => {
                    let Some(answered) = asked.pop_front() else {
                        continue;
                    };
                    if let Err(reason) = self.take(answered.number, answer).await {
                        return End::Broken(reason);
                    }
                }
                told = written(&mut telling) => {
                    telling = None;
                    if let Err(error) = told {
                        return End::Broken(error.to_string());
                    }
                }
                () = self.inbox.arrived() => {}
                () = until(rested) => {}
            }
        }
    }

    /// Takes in what partitions have told.
    fn read_mail(&mut self) {
        let mail = self.inbox.take();
        for id in mail.left {
            self.session.leave(id);
            self.partitions.remove(&id);
            self.flushed.remove(&id);
        }
        for (id, partition) in mail.followed {
            if let Some(partition) = partition.upgrade() {
                self.session.follow(id);
                self.partitions.insert(id, partition);
            }
        }
        let followed = |id: &TopicPartition| self.session.follows(*id);
        self.flushed
            .extend(mail.flushed.into_iter().filter(followed));
    }

    /// Sends the next request, if one is due.
    fn ask(&mut self, connection: &Connection) -> Option<Asked> {
        let image = self.shared.metadata.image();
        self.hold_back(&image);
        let (leader, partitions) = (self.leader, &self.partitions);
        let (shared, me) = (&self.shared, self.shared.me);
        let asking = self.session.next(|id| {
            let position = partitions.get(&id)?.fetch_position(leader)?;
            let bytes_max = if is_added(&image, id, me) {
                shared.throttle.lock().bytes_max(PARTITION_BYTES_MAX)
            } else {
                PARTITION_BYTES_MAX
            };
            Some((position, bytes_max))
        })?;
        let (number, wait_ms_max) = (asking.session.number, asking.wait_ms_max);
        let request = ReplicaFetchRequest {
            broker_id: self.shared.me,
            broker_epoch: self
                .shared
                .metadata
                .broker_epoch()
                .unwrap_or(BrokerEpoch(-1)),
            session: asking.session,
            wait_ms_max,
            bytes_max: ANSWER_BYTES_MAX,
            partitions: asking.partitions,
            forgotten: asking.forgotten,
        };
        let wait = Duration::from_millis(u64::from(wait_ms_max));
        let answer = connection.request_that_waits(&request, Vec::new(), wait);
        Some(Asked {
            number,
            answer: Box::pin(answer),
        })
    }

    /// Rule 41: replicas that are being added wait while more than their share was fetched.
    fn hold_back(&mut self, image: &Image) {
        let now = Instant::now();
        let mut throttle = self.shared.throttle.lock();
        throttle.set(image.replication_throttle(), now);
        let Some(until) = throttle.ready_at(now) else {
            return;
        };
        // Another limit may be in force before this one would let them go on.
        let until = until.min(now + HELD_MAX);
        let me = self.shared.me;
        self.session
            .hold(|id| is_added(image, id, me).then_some(until));
    }

    /// Tells the leader what is durable since it was told last. What comes meanwhile is told when
    /// this has left.
    fn tell(&mut self, connection: &Connection) -> Option<Telling> {
        let mut partitions = Vec::new();
        while partitions.len() < TOLD_AT_ONCE
            && let Some(id) = self.flushed.pop_first()
        {
            let partition = self.partitions.get(&id);
            let progress = partition.and_then(|partition| partition.flush_progress(self.leader));
            let Some((leader_epoch, durable_offset)) = progress else {
                // The leader has not said yet that this log is the beginning of its own, and may
                // have no reason to say anything: a fetch tells it, and is held against its log.
                self.session.name_again(id);
                continue;
            };
            let named = self.session.tell_durable(id, durable_offset);
            if named == Some(leader_epoch) {
                partitions.push(ReplicaProgressPartition {
                    topic_id: id.topic,
                    partition: id.partition,
                    leader_epoch,
                    durable_offset,
                });
            }
        }
        if partitions.is_empty() {
            return None;
        }
        let request = ReplicaProgressRequest {
            broker_id: self.shared.me,
            broker_epoch: self
                .shared
                .metadata
                .broker_epoch()
                .unwrap_or(BrokerEpoch(-1)),
            partitions,
        };
        Some(Box::pin(connection.one_way(&request, Vec::new())))
    }

    /// Takes in the answer to the request `number`.
    async fn take(&mut self, number: u32, answer: Answer) -> Result<(), String> {
        let (response, payload) = answer.map_err(|error| error.to_string())?;
        self.failures = 0;
        self.session.answered(response.session_id);
        let (mut quick, mut slow) = (Vec::new(), Vec::new());
        let mut quick_bytes = 0;
        let mut rest = payload;
        let (image, now) = (self.shared.metadata.image(), Instant::now());
        for fetched in response.partitions {
            let bytes = usize::try_from(fetched.bytes).unwrap_or(usize::MAX);
            if bytes > rest.len() {
                return Err("the answer has less payload than it says".to_owned());
            }
            let batches = rest.split_to(bytes);
            let id = TopicPartition {
                topic: fetched.topic_id,
                partition: fetched.partition,
            };
            let (Some(partition), Some(epoch)) =
                (self.partitions.get(&id), self.session.asked(id, number))
            else {
                continue;
            };
            if !batches.is_empty() && is_added(&image, id, self.shared.me) {
                let bytes = u64::from(fetched.bytes);
                self.shared.throttle.lock().take(bytes, now);
            }
            let told = Told {
                partition: Arc::clone(partition),
                epoch,
                fetched,
                batches,
            };
            if quick.len() >= QUICK_PARTITIONS
                || quick_bytes + bytes > QUICK_BYTES
                || told.partition.is_slow_to_take(&told.fetched, &told.batches)
            {
                slow.push(told);
            } else {
                quick_bytes += bytes;
                quick.push(told);
            }
        }
        let mut outcomes: Vec<_> = quick.into_iter().map(Told::take).collect();
        outcomes.append(&mut self.take_slow(slow).await);
        let now = Instant::now();
        for (id, outcome) in outcomes {
            self.session.take(id, outcome, now);
            // What became durable before the leader had found this log to be the beginning of its
            // own could not be told yet, and nothing else may ever follow it.
            self.flushed.insert(id);
        }
        Ok(())
    }

    /// What waits for the disk does so in several places at once, where there are threads.
    async fn take_slow(&self, slow: Vec<Told>) -> Vec<(TopicPartition, FetchOutcome)> {
        let share = slow.len().div_ceil(SLOW_AT_ONCE).max(1);
        let mut working = Vec::new();
        let mut slow = slow.into_iter().peekable();
        while slow.peek().is_some() {
            let some: Vec<_> = slow.by_ref().take(share).collect();
            let work = move || some.into_iter().map(Told::take).collect::<Vec<_>>();
            working.push(spawn(blocking(self.shared.threads, work)));
        }
        let mut outcomes = Vec::new();
        for each in working {
            // None while the runtime stops.
            outcomes.extend(each.await.ok().flatten().into_iter().flatten());
        }
        outcomes
    }
}

impl Told {
    fn take(self) -> (TopicPartition, FetchOutcome) {
        let Self {
            partition,
            epoch,
            fetched,
            batches,
        } = self;
        let outcome = partition.take_fetched(epoch, &fetched, &batches, Clock.now());
        (partition.id(), outcome)
    }
}

/// Whether the replica of `broker` is one that is being added by a reassignment.
fn is_added(image: &Image, id: TopicPartition, broker: BrokerId) -> bool {
    image
        .partition(id)
        .is_some_and(|partition| partition.adding.contains(&broker))
}

/// The answer to the oldest request. Cancel safe.
async fn first(asked: &mut VecDeque<Asked>) -> Answer {
    match asked.front_mut() {
        Some(asked) => asked.answer.as_mut().await,
        None => pending().await,
    }
}

/// When what is being told has left. Cancel safe.
async fn written(telling: &mut Option<Telling>) -> Result<(), ClientError> {
    match telling {
        Some(telling) => telling.as_mut().await,
        None => pending().await,
    }
}

/// Never, if there is no such time. Cancel safe.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
