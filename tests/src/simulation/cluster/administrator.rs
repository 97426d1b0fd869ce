//! Creates, configures and deletes topics of its own, and holds the cluster to its word.
//!
//! What it was told is kept by topic: there, gone, or unsure, and unsure for ever once an outcome
//! was unknown, as a request may be carried out long after its client has given it up. A change
//! that is acknowledged must be committed at that moment (S9), and a read that goes through the
//! controller must know of everything that was acknowledged before it began.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use strandline_client::{
    Admin, Client, ClientError,
    connection::Connection,
    protocol::{
        ErrorClass, ErrorCode,
        messages::{ConfigChange, CreateTopicsRequest, NewTopic},
    },
};
use tokio::time::sleep;

use super::{ClusterPlan, Trace, address_of, checks::Checks, options};
use crate::random::Random;

/// Keys that a topic of the administrator is given a value for, each once.
const KEYS: [(&str, &str); 4] = [
    ("retention.bytes", "7654321"),
    ("retention.ms", "86400001"),
    ("segment.bytes", "1234567"),
    ("max.message.bytes", "765432"),
];

/// What is known of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    There,
    Gone,
    Unsure,
}

/// How often it did what.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) acknowledged: u64,
    pub(super) unknown: u64,
    pub(super) refused: u64,
    pub(super) reads: u64,
}

/// See the module.
pub(super) struct Administrator {
    name: String,
    plan: ClusterPlan,
    random: RefCell<Random>,
    checks: Rc<Checks>,
    trace: Trace,
    topics: RefCell<BTreeMap<String, Known>>,
    /// Keys that were set and acknowledged.
    configs: RefCell<BTreeSet<(String, &'static str)>>,
    last_acknowledged: Cell<Duration>,
    pub(super) done: Cell<Done>,
    /// Tells it to come to an end.
    pub(super) stop: Cell<bool>,
}

impl Administrator {
    pub(super) fn new(plan: &ClusterPlan, number: u64, checks: Rc<Checks>, trace: Trace) -> Self {
        Self {
            name: format!("admin-{number}"),
            plan: *plan,
            random: RefCell::new(Random::new(plan.seed, 500 + number)),
            checks,
            trace,
            topics: RefCell::default(),
            configs: RefCell::default(),
            last_acknowledged: Cell::new(Duration::ZERO),
            done: Cell::default(),
            stop: Cell::new(false),
        }
    }

    /// When a change was acknowledged last.
    pub(super) fn last_acknowledged(&self) -> Duration {
        self.last_acknowledged.get()
    }

    pub(super) async fn run(self: Rc<Self>) -> turmoil::Result {
        let mut client = self.connect().await;
        let mut number = 0;
        while !self.stop.get() {
            let pause = self.random.borrow_mut().ms(10..300);
            sleep(pause).await;
            // Another broker, now and then.
            if self.random.borrow_mut().one_in(10) {
                client = self.connect().await;
            }
            let what = self.random.borrow_mut().within(0..8);
            let admin = client.admin();
            match (what, self.any_topic()) {
                (0..=2, _) | (_, None) => {
                    number += 1;
                    self.create(&admin, format!("{}-{number}", self.name)).await;
                }
                (3, Some(topic)) => self.delete(&admin, topic).await,
                (4, Some(topic)) => self.configure(&admin, topic).await,
                (_, Some(topic)) => self.read(&topic).await,
            }
        }
        // Once more, now that nothing goes wrong.
        let client = self.connect().await;
        let topics: Vec<_> = self.topics.borrow().keys().cloned().collect();
        for topic in topics {
            self.read(&topic).await;
        }
        self.check_configs(&client.admin()).await;
        Ok(())
    }

    async fn connect(&self) -> Client {
        loop {
            let first = self.random.borrow_mut().index(self.plan.machines);
            let mut brokers: Vec<_> = (0..self.plan.machines).map(address_of).collect();
            brokers.rotate_left(first);
            match Client::connect(&brokers, options(&self.name)).await {
                Ok(client) => return client,
                Err(error) => self
                    .trace
                    .detail(&self.name, format_args!("connect: {error}")),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// One of the last topics.
    fn any_topic(&self) -> Option<String> {
        let topics = self.topics.borrow();
        if topics.is_empty() {
            return None;
        }
        let back = self.random.borrow_mut().index(topics.len().min(12));
        topics.keys().nth_back(back).cloned()
    }

    fn known(&self, topic: &str) -> Known {
        let topics = self.topics.borrow();
        topics.get(topic).copied().unwrap_or(Known::Unsure)
    }

    /// What is known of a topic, unless it is unsure already.
    fn learn(&self, topic: &str, known: Known) {
        if let Some(before) = self.topics.borrow_mut().get_mut(topic)
            && *before != Known::Unsure
        {
            *before = known;
        }
    }

    /// Counts an answer, and tells of it.
    fn told<T>(&self, what: &str, told: &Result<T, ClientError>) {
        let mut done = self.done.get();
        match told {
            Ok(_) => {
                done.acknowledged += 1;
                self.last_acknowledged
                    .set(turmoil::sim_elapsed().unwrap_or_default());
                self.trace.note(&self.name, format_args!("{what}: done"));
            }
            Err(error) => {
                if is_unsure(error) {
                    done.unknown += 1;
                } else {
                    done.refused += 1;
                }
                self.trace.note(&self.name, format_args!("{what}: {error}"));
            }
        }
        self.done.set(done);
    }

    async fn create(&self, admin: &Admin, topic: String) {
        self.topics.borrow_mut().insert(topic.clone(), Known::Gone);
        let told = admin.create_topics(&[new_topic(&topic)]).await;
        self.told(&format!("creates {topic}"), &told);
        match &told {
            Ok(ids) => {
                self.learn(&topic, Known::There);
                for id in ids {
                    if !self.checks.was_created(*id) {
                        self.checks.violation(format!(
                            "S9: {topic} ({id}) was acknowledged and is in no committed image"
                        ));
                    }
                }
            }
            Err(error) if is_unsure(error) => self.learn(&topic, Known::Unsure),
            Err(error) => {
                if code_of(error) == Some(ErrorCode::TOPIC_ALREADY_EXISTS) {
                    self.checks.violation(format!(
                        "{} was told that {topic} exists, which nobody has created",
                        self.name
                    ));
                }
            }
        }
    }

    async fn delete(&self, admin: &Admin, topic: String) {
        let before = self.known(&topic);
        let told = admin.delete_topics(&[&topic]).await;
        self.told(&format!("deletes {topic}"), &told);
        match &told {
            Ok(()) if before == Known::Gone => self
                .checks
                .violation(format!("{} deleted {topic}, which was gone", self.name)),
            Ok(()) => self.learn(&topic, Known::Gone),
            Err(error) if is_unsure(error) => self.learn(&topic, Known::Unsure),
            Err(ClientError::UnknownTopic { .. }) if before == Known::There => {
                self.checks.violation(format!(
                    "{} could not delete {topic}, which was acknowledged: it is not there",
                    self.name
                ));
            }
            Err(_) => {}
        }
    }

    async fn configure(&self, admin: &Admin, topic: String) {
        let (key, value) = KEYS[self.random.borrow_mut().index(KEYS.len())];
        let change = ConfigChange {
            key: key.to_owned(),
            value: Some(value.to_owned()),
        };
        let told = admin.alter_configs(&topic, vec![change]).await;
        self.told(&format!("sets {key} of {topic}"), &told);
        if told.is_ok() {
            self.configs.borrow_mut().insert((topic, key));
        }
    }

    /// Asks through any broker whether the topic could be created, which only the controller can
    /// tell: it can if it is not there.
    async fn read(&self, topic: &str) {
        let before = self.known(topic);
        let machine = self.random.borrow_mut().index(self.plan.machines);
        let address = address_of(machine);
        let told = self.validate(&address, topic).await;
        let mut done = self.done.get();
        let found = match told {
            Ok(ErrorCode::NONE) => Some(Known::Gone),
            Ok(ErrorCode::TOPIC_ALREADY_EXISTS) => Some(Known::There),
            other => {
                self.trace
                    .detail(&self.name, format_args!("looks for {topic}: {other:?}"));
                None
            }
        };
        let Some(found) = found else {
            return;
        };
        done.reads += 1;
        self.done.set(done);
        self.trace
            .detail(&self.name, format_args!("looks for {topic}: {found:?}"));
        if before != Known::Unsure && before != found {
            self.checks.violation(format!(
                "{} knows that {topic} is {before:?}, and {address} says that it is {found:?}",
                self.name
            ));
        }
    }

    async fn validate(&self, address: &str, topic: &str) -> Result<ErrorCode, ClientError> {
        let connection = Connection::open(address, &options(&self.name)).await?;
        let request = CreateTopicsRequest {
            topics: vec![new_topic(topic)],
            validate_only: true,
        };
        let (told, _) = connection.request(&request, Vec::new()).await?;
        let of_topic = told.topics.first();
        Ok(of_topic.map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |it| it.failure.error))
    }

    async fn check_configs(&self, admin: &Admin) {
        let configs: Vec<_> = self.configs.borrow().iter().cloned().collect();
        for (topic, key) in configs {
            if self.known(&topic) != Known::There {
                continue;
            }
            let wanted = KEYS.iter().find(|(name, _)| *name == key);
            let found = admin.describe_configs(&topic).await;
            let is_there = found.as_ref().is_ok_and(|entries| {
                entries.iter().any(|entry| {
                    entry.key == key && Some(entry.value.as_str()) == wanted.map(|it| it.1)
                })
            });
            if !is_there {
                self.checks.violation(format!(
                    "{topic}: {key} was set, and is not there any more: {found:?}"
                ));
            }
        }
    }

    /// Holds what is committed in the end against what was told.
    pub(super) fn judge(&self) {
        let Some(image) = self.checks.newest_image() else {
            return;
        };
        for (topic, known) in self.topics.borrow().iter() {
            let is_there = image.topic(topic).is_some();
            let is_wrong = match known {
                Known::There => !is_there,
                Known::Gone => is_there,
                Known::Unsure => false,
            };
            if is_wrong {
                self.checks.violation(format!(
                    "{topic} is {known:?}, and in the end its being there is {is_there}"
                ));
            }
        }
    }
}

/// Whether what was asked for may have happened, or may yet happen.
fn is_unsure(error: &ClientError) -> bool {
    error.class() == ErrorClass::OutcomeUnknown
        || code_of(error) == Some(ErrorCode::UNKNOWN_SERVER_ERROR)
        || code_of(error) == Some(ErrorCode::REQUEST_TIMED_OUT)
}

fn code_of(error: &ClientError) -> Option<ErrorCode> {
    match error {
        ClientError::Refused { code, .. } => Some(*code),
        _ => None,
    }
}

fn new_topic(name: &str) -> NewTopic {
    NewTopic {
        name: name.to_owned(),
        partitions: Some(2),
        // These are about metadata; what is replicated has topics of its own.
        replication_factor: Some(1),
        configs: BTreeMap::new(),
    }
}
