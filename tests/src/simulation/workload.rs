//! What clients do while the machine and the network fail.
//!
//! Producers send marked records to all partitions, a consumer follows them, an administrator
//! creates and deletes topics; each notes what it was told. At the end a reader reads everything.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use strandline_client::{
    Admin, Client, ClientError, ClientOptions, Consumer, ConsumerOptions, Delivery, NewRecord,
    Producer, ProducerOptions, Records, StartAt,
    protocol::{ErrorClass, PartitionId, messages::NewTopic},
};
use tokio::time::{sleep, timeout};

use super::{BROKER, PORT, Plan, trace::Trace};
use crate::history::{History, Mark, Outcome};
use crate::random::Random;

const TOPIC: &str = "simulated";

/// Deliveries that one producer awaits at once.
const WAITING_MAX: usize = 300;

/// How often a producer's story goes on.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What a producer was told since the story said so.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    at: Option<Duration>,
    acknowledged: u64,
    given_up: u64,
}

/// What all clients of a run share.
pub(super) struct Workload {
    plan: Plan,
    /// Where brokers are reached.
    brokers: Vec<String>,
    trace: Trace,
    topic_is_there: Cell<bool>,
    /// Tells clients to come to an end.
    pub(super) stop: Cell<bool>,
    producers_left: Cell<u32>,
    history: RefCell<History>,
    /// What the consumer was given, by partition and offset.
    consumed: RefCell<BTreeMap<(i32, i64), Option<Mark>>>,
    /// Topics of the administrator, with whether they must be there.
    topics: RefCell<BTreeMap<String, Option<bool>>>,
    /// What must never happen, and did.
    pub(super) violations: RefCell<Vec<String>>,
    /// How many records were found at the end.
    pub(super) found: Cell<usize>,
    told: RefCell<BTreeMap<String, Told>>,
}

impl Workload {
    /// With the one broker.
    pub(super) fn new(plan: Plan, trace: Trace) -> Self {
        Self::among(plan, vec![format!("{BROKER}:{PORT}")], trace)
    }

    /// With several brokers.
    pub(super) fn among(plan: Plan, brokers: Vec<String>, trace: Trace) -> Self {
        Self {
            brokers,
            producers_left: Cell::new(plan.producers),
            plan,
            trace,
            topic_is_there: Cell::new(false),
            stop: Cell::new(false),
            history: RefCell::default(),
            consumed: RefCell::default(),
            topics: RefCell::default(),
            violations: RefCell::default(),
            found: Cell::new(0),
            told: RefCell::default(),
        }
    }

    pub(super) fn counts(&self) -> (usize, usize, usize) {
        self.history.borrow().counts()
    }

    pub(super) fn consumed(&self) -> usize {
        self.consumed.borrow().len()
    }

    fn violation(&self, what: String) {
        self.trace.note("VIOLATION", &what);
        self.violations.borrow_mut().push(what);
    }

    /// A client; asks until the broker answers.
    async fn client(&self, name: &str) -> Client {
        let options = ClientOptions {
            client_id: name.to_owned(),
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(2),
            backoff_max: Duration::from_millis(200),
            ..ClientOptions::default()
        };
        loop {
            match Client::connect(&self.brokers, options.clone()).await {
                Ok(client) => return client,
                Err(error) => self.trace.note(name, format_args!("connect: {error}")),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Creates and deletes topics; the first one is that of the records.
    pub(super) async fn administrate(self: Rc<Self>) -> turmoil::Result {
        let name = "admin";
        let mut random = Random::new(self.plan.seed, 100);
        let admin = self.client(name).await.admin();
        self.create(name, &admin).await;
        let mut number = 0_u64;
        while !self.stop.get() {
            sleep(random.ms(20..400)).await;
            let old = random.within(0..number + 1);
            let (topic, is_there) = if number == 0 || random.one_in(2) {
                number += 1;
                (format!("other-{number}"), true)
            } else {
                (format!("other-{}", old.max(1)), false)
            };
            // A change whose outcome is not told may have happened or not.
            self.topics.borrow_mut().insert(topic.clone(), None);
            let outcome = if is_there {
                let new = NewTopic {
                    name: topic.clone(),
                    partitions: Some(2),
                    replication_factor: None,
                    configs: BTreeMap::new(),
                };
                admin.create_topics(&[new]).await.map(drop)
            } else {
                admin.delete_topics(&[&topic]).await
            };
            self.trace
                .note(name, format_args!("{topic} {is_there} {outcome:?}"));
            if outcome.is_ok() {
                self.topics.borrow_mut().insert(topic, Some(is_there));
            }
        }
        Ok(())
    }

    /// The topic of the records, and nothing else.
    pub(super) async fn create_topic(self: Rc<Self>) -> turmoil::Result {
        let name = "admin";
        let admin = self.client(name).await.admin();
        self.create(name, &admin).await;
        Ok(())
    }

    async fn create(&self, name: &str, admin: &Admin) {
        let configs = [
            ("flush", self.plan.flush),
            ("segment.bytes", "65536"),
            ("retention.ms", "-1"),
        ];
        let topic = NewTopic {
            name: TOPIC.to_owned(),
            partitions: Some(self.plan.partitions),
            replication_factor: None,
            configs: configs
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        };
        while let Err(error) = admin.create_topics(std::slice::from_ref(&topic)).await {
            self.trace.note(name, format_args!("create: {error}"));
            if admin.describe_topics(&[TOPIC]).await.is_ok() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.topic_is_there.set(true);
    }

    async fn topic_is_there(&self) {
        while !self.topic_is_there.get() {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// One producer, until it is told to stop.
    pub(super) async fn produce(self: Rc<Self>, number: u32) -> turmoil::Result {
        let name = format!("producer-{number}");
        let mut random = Random::new(self.plan.seed, u64::from(number) + 1);
        self.topic_is_there().await;
        let client = self.client(&name).await;
        let options = ProducerOptions {
            // The last one gives up often, which leaves records of unknown outcome.
            delivery_timeout: if number + 1 == self.plan.producers {
                Duration::from_secs(1)
            } else {
                Duration::from_secs(600)
            },
            batch_bytes: 4096,
            // A connection counts as broken after this and the timeout of requests.
            acks_timeout: Duration::from_millis(500),
            ..ProducerOptions::default()
        };
        let producer = client.producer(options)?;
        let mut counter = 0;
        let mut waiting = VecDeque::new();
        while !self.stop.get() {
            for _ in 0..random.within(1..16) {
                let partition = random.within(0..self.plan.partitions.unsigned_abs().into());
                let partition = PartitionId(i32::try_from(partition)?);
                let mark = Mark {
                    producer: number,
                    counter,
                };
                counter += 1;
                let bytes = usize::try_from(random.within(24..400))?;
                self.send(&name, &producer, partition, mark, bytes, &mut waiting)
                    .await;
            }
            while waiting.len() > WAITING_MAX {
                self.settle(&name, &mut waiting).await;
            }
            sleep(random.ms(1..30)).await;
        }
        while !waiting.is_empty() {
            self.settle(&name, &mut waiting).await;
        }
        // It tells of batches that were given up, which their deliveries have told already.
        let closed = producer.close().await;
        self.trace.note(&name, format_args!("{closed:?}"));
        self.producers_left.set(self.producers_left.get() - 1);
        Ok(())
    }

    async fn send(
        &self,
        name: &str,
        producer: &Producer,
        partition: PartitionId,
        mark: Mark,
        bytes: usize,
        waiting: &mut VecDeque<(PartitionId, Mark, Delivery)>,
    ) {
        let value = mark.value(bytes);
        let record = NewRecord::to(TOPIC).partition(partition).value(&value);
        match producer.send(record).await {
            Ok(delivery) => waiting.push_back((partition, mark, delivery)),
            Err(error) => self.note(name, partition, mark, Err(error)),
        }
    }

    /// Awaits the oldest delivery.
    async fn settle(&self, name: &str, waiting: &mut VecDeque<(PartitionId, Mark, Delivery)>) {
        if let Some((partition, mark, delivery)) = waiting.pop_front() {
            let position = delivery.await;
            let offset = position.map(|position| position.offset.map_or(-1, |offset| offset.0));
            self.note(name, partition, mark, offset);
        }
    }

    fn note(&self, name: &str, partition: PartitionId, mark: Mark, told: Result<i64, ClientError>) {
        let (outcome, kind) = match &told {
            Ok(offset) => (Outcome::Acknowledged(*offset), "acknowledged"),
            Err(error) if error.class() == ErrorClass::OutcomeUnknown => {
                (Outcome::Unknown, "unknown")
            }
            Err(_) => (Outcome::Refused, "refused"),
        };
        let counter = mark.counter;
        let line = match &told {
            Ok(offset) => format!("{counter} is {partition} at {offset}"),
            Err(error) => format!("{counter} is {partition} {kind}: {error}"),
        };
        self.tell(name, outcome, &line);
        if let Err(error) = told
            && error.class() == ErrorClass::Fenced
        {
            self.violation(format!("{name} was fenced: {error}"));
        }
        self.history.borrow_mut().note(partition.0, mark, outcome);
    }

    /// Writes down what became of a record; the story has the sum.
    fn tell(&self, name: &str, outcome: Outcome, line: &str) {
        self.trace.detail(name, line);
        let (mut all, now) = (self.told.borrow_mut(), self.trace.now());
        let told = all.entry(name.to_owned()).or_default();
        match outcome {
            Outcome::Acknowledged(_) => told.acknowledged += 1,
            Outcome::Unknown | Outcome::Refused => told.given_up += 1,
        }
        if told.at.is_none_or(|at| now >= at + TELL_EVERY) {
            let Told {
                acknowledged,
                given_up,
                ..
            } = *told;
            self.trace.note(
                name,
                format_args!("{acknowledged} acknowledged, {given_up} given up; {line}"),
            );
            *told = Told {
                at: Some(now),
                ..Told::default()
            };
        }
    }

    /// Follows all partitions, until every producer has ended and everything was read.
    pub(super) async fn consume(self: Rc<Self>) -> turmoil::Result {
        let name = "consumer";
        self.topic_is_there().await;
        let client = self.client(name).await;
        let mut consumer = self.consumer(name, &client).await;
        let mut next = BTreeMap::new();
        loop {
            let is_over = self.stop.get() && self.producers_left.get() == 0;
            let polled = if is_over {
                match consumer.poll_to_end().await {
                    Ok(None) => return Ok(()),
                    Ok(Some(records)) => Ok(records),
                    Err(error) => Err(error),
                }
            } else {
                match timeout(Duration::from_millis(300), consumer.poll()).await {
                    Ok(polled) => polled,
                    Err(_) => continue,
                }
            };
            match polled {
                Ok(records) => self.take(name, &records, &mut next),
                Err(error) => {
                    self.trace.note(name, format_args!("poll: {error}"));
                    if matches!(error.class(), ErrorClass::Fatal | ErrorClass::Fenced) {
                        self.violation(format!("the consumer cannot read: {error}"));
                        return Ok(());
                    }
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    async fn consumer(&self, name: &str, client: &Client) -> Consumer {
        let mut consumer = client
            .consumer(ConsumerOptions::default())
            .expect("valid options");
        let partitions = (0..self.plan.partitions).map(PartitionId);
        let wanted: Vec<_> = partitions
            .map(|partition| (TOPIC, partition, StartAt::Beginning))
            .collect();
        while let Err(error) = consumer.assign(&wanted).await {
            self.trace.note(name, format_args!("assign: {error}"));
            sleep(Duration::from_millis(50)).await;
        }
        consumer
    }

    fn take(&self, name: &str, records: &Records, next: &mut BTreeMap<i32, i64>) {
        let partition = records.partition().0;
        let next = next.entry(partition).or_insert(0);
        let first = *next;
        for record in records.iter() {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    self.violation(format!("the consumer was given {error}"));
                    continue;
                }
            };
            let offset = record.offset.0;
            if offset != *next {
                self.violation(format!(
                    "partition {partition}: the consumer was given {offset} where {next} is due"
                ));
            }
            *next = offset + 1;
            let mark = record.value.and_then(Mark::of);
            self.consumed.borrow_mut().insert((partition, offset), mark);
        }
        self.trace
            .detail(name, format_args!("{partition}: {first} to {next}"));
    }

    /// Reads everything, and holds it against what clients were told.
    pub(super) async fn read_all(self: Rc<Self>) -> turmoil::Result {
        let name = "reader";
        let client = self.client(name).await;
        let mut consumer = self.consumer(name, &client).await;
        let mut found: BTreeMap<i32, Vec<(i64, Option<Mark>)>> = BTreeMap::new();
        loop {
            match consumer.poll_to_end().await {
                Ok(None) => break,
                Ok(Some(records)) => {
                    let partition = found.entry(records.partition().0).or_default();
                    for record in records.iter() {
                        let record = record?;
                        partition.push((record.offset.0, record.value.and_then(Mark::of)));
                    }
                }
                Err(error) => {
                    self.violation(format!("the reader cannot read: {error}"));
                    break;
                }
            }
        }
        for partition in 0..self.plan.partitions {
            let records = found.remove(&partition).unwrap_or_default();
            self.check(partition, &records);
        }
        self.check_topics(&client).await;
        Ok(())
    }

    fn check(&self, partition: i32, records: &[(i64, Option<Mark>)]) {
        self.found.set(self.found.get() + records.len());
        self.trace
            .detail("reader", format_args!("{partition}: {records:?}"));
        for violation in self.history.borrow().check(partition, records) {
            self.violation(violation.to_string());
        }
        let at: BTreeMap<_, _> = records.iter().copied().collect();
        for ((_, offset), mark) in self
            .consumed
            .borrow()
            .range((partition, 0)..(partition + 1, 0))
        {
            if at.get(offset) != Some(mark) {
                self.violation(format!(
                    "partition {partition}: {mark:?} was read at {offset}, and is not there"
                ));
            }
        }
    }

    async fn check_topics(&self, client: &Client) {
        let there: Vec<String> = match client.admin().list_topics().await {
            Ok(topics) => topics.into_iter().map(|topic| topic.name).collect(),
            Err(error) => return self.violation(format!("topics cannot be listed: {error}")),
        };
        self.trace.note("reader", format_args!("{there:?}"));
        for (topic, must_be) in self.topics.borrow().iter() {
            let is_there = there.contains(topic);
            if must_be.is_some_and(|must_be| must_be != is_there) {
                self.violation(format!(
                    "topic {topic}: told {must_be:?}, and found {is_there}"
                ));
            }
        }
    }
}
