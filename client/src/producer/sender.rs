//! The task of one producer: takes batches that are due, encodes them, sends one request per
//! broker, and tells what became of them.
//!
//! *Pattern: request batch.* Batches of several partitions of one broker go in one request.
//!
//! It decides nothing about a batch: `partition` and `reaction` do.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use strandline_protocol::{
    BrokerId, ErrorClass,
    messages::{Acks, InitProducerIdRequest, InitProducerIdResponse},
};
use tokio::time::Instant;

use super::{
    Shared,
    accumulator::Accumulator,
    delivery::BatchPosition,
    partition::Identity,
    reaction::{Earlier, Reaction, reaction},
    request::{Attempt, Outcome, Requests},
};
use crate::{
    ClientError,
    connection::Connection,
    routing::{Backoff, Image, Links},
};

/// How long the pause between two questions for leaders is at most. Changes are pushed; this is for
/// when that broker knows nothing.
const REFRESH_PAUSE_MAX: Duration = Duration::from_millis(250);

/// Something that the sender waited for.
enum Event {
    /// A request ended, one way or another.
    Answered(Vec<Attempt>),
    /// A broker can be reached, or not now.
    Connected(BrokerId, Result<Connection, ClientError>),
    /// A producer id, or its next epoch.
    Identified(Result<InitProducerIdResponse, ClientError>),
    /// Metadata was asked for.
    Refreshed,
}

type Pending = Pin<Box<dyn Future<Output = Event> + Send>>;

/// The task of one producer.
pub(super) struct Sender {
    shared: Arc<Shared>,
    links: Arc<Links>,
    pending: Vec<Pending>,
    connections: BTreeMap<BrokerId, Connection>,
    connecting: BTreeSet<BrokerId>,
    obstacles: BTreeMap<BrokerId, String>,
    identity: Option<Identity>,
    identifying: bool,
    identity_backoff: Backoff,
    refreshing: bool,
    to_refresh: BTreeSet<Arc<str>>,
    refresh_backoff: Backoff,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let backoff = Backoff::new(&shared.cluster.options);
        let refresh_backoff = Backoff::up_to(REFRESH_PAUSE_MAX, &shared.cluster.options);
        let links = Arc::new(shared.cluster.new_links());
        let acks = shared.accumulator.lock().options.acks;
        Self {
            shared,
            links,
            pending: Vec::new(),
            connections: BTreeMap::new(),
            connecting: BTreeSet::new(),
            obstacles: BTreeMap::new(),
            identity: (acks == Acks::None).then_some(Identity::NONE),
            identifying: false,
            identity_backoff: backoff,
            refreshing: false,
            to_refresh: BTreeSet::new(),
            refresh_backoff,
        }
    }

    /// Runs until the producer is dropped or closed and nothing is left to send.
    pub(super) async fn run(mut self) {
        let mut changes = self.shared.cluster.changes();
        loop {
            let now = Instant::now();
            self.expire(now);
            let next_look = self.send_what_is_due(now);
            if self.is_finished() {
                return;
            }
            let shared = Arc::clone(&self.shared);
            let sleep = async {
                match next_look {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = next_event(&mut self.pending) => self.handle(event),
                changed = changes.changed() => {
                    if changed.is_ok() {
                        changes.mark_unchanged();
                        self.apply_image();
                    }
                }
                () = shared.work.notified() => {}
                () = sleep => {}
            }
        }
    }

    fn is_finished(&self) -> bool {
        self.shared.is_ending() && self.shared.accumulator.lock().active.is_empty()
    }

    /// Ends the batches whose time is over.
    fn expire(&self, now: Instant) {
        let mut accumulator = self.shared.accumulator.lock();
        let timeout = accumulator.options.delivery_timeout;
        let Some(oldest) = now.checked_sub(timeout) else {
            return;
        };
        let mut any = false;
        for (topic, index) in accumulator.active.clone() {
            let Some(partition) = accumulator.partition(&topic, index) else {
                continue;
            };
            let mut ended = Vec::new();
            partition.expire(oldest, &mut ended);
            let obstacle = partition.obstacle();
            let subject = format_args!("`{topic}`-{index}").to_string();
            for ended in ended {
                any = true;
                let reason = obstacle.clone();
                let reason = reason.unwrap_or_else(|| "it is waiting for its turn".to_owned());
                let error = match ended.earlier {
                    Earlier::Refused => ClientError::TimedOutBeforeSending {
                        subject: subject.clone(),
                        after: timeout,
                        reason,
                    },
                    Earlier::Lost => unknown(&subject, reason),
                };
                accumulator.decide(ended, Err(error));
            }
        }
        if any {
            self.shared.room.notify_waiters();
        }
    }

    /// Sends everything that is due and can be sent; tells when to look again.
    fn send_what_is_due(&mut self, now: Instant) -> Option<Instant> {
        let shared = Arc::clone(&self.shared);
        let image = shared.cluster.image();
        let mut requests = Requests::default();
        let mut next_look: Option<Instant> = None;
        let mut wanted = BTreeSet::new();
        let mut identity_needed = false;
        let mut in_doubt = BTreeSet::new();
        {
            let mut accumulator = shared.accumulator.lock();
            let (pace, timeout) = (accumulator.pace(), accumulator.options.delivery_timeout);
            let mut idle = Vec::new();
            let Accumulator { topics, active, .. } = &mut *accumulator;
            for key in active.iter() {
                let Some(queues) = topics.get_mut(&key.0) else {
                    continue;
                };
                let topic = &queues.topic;
                let Some(partition) = queues.partitions.get_mut(key.1) else {
                    continue;
                };
                if partition.is_idle() {
                    partition.active = false;
                    idle.push(key.clone());
                    continue;
                }
                if partition.look_after_silence(now) {
                    in_doubt.insert(Arc::clone(&key.0));
                }
                if partition.wants_to_send(now, pace) {
                    let leader = topic.leader(partition.id).and_then(|leader| leader.broker);
                    if partition.needs_identity_after(self.identity) {
                        identity_needed = true;
                    }
                    match (leader, self.identity) {
                        (Some(leader), _) if !self.is_connected(leader) => {
                            wanted.insert(leader);
                            partition.obstacle = self.obstacles.get(&leader).cloned();
                        }
                        (Some(leader), Some(newest)) => {
                            let mut jobs = Vec::new();
                            partition.take_jobs(now, pace, newest, leader, &mut jobs);
                            let topic = (Arc::clone(&key.0), topic.id);
                            requests.add(leader, topic, (key.1, partition.id), jobs);
                        }
                        (Some(_), None) => {}
                        (None, _) => {
                            in_doubt.insert(Arc::clone(&key.0));
                            partition.obstacle = Some(image.why_leaderless(topic, partition.id));
                        }
                    }
                }
                let look = partition.next_look(now, pace, timeout);
                next_look = next_look.into_iter().chain(look).min();
            }
            for key in idle {
                active.remove(&key);
            }
        }
        self.dispatch(requests);
        for leader in wanted {
            self.connect(&image, leader);
        }
        if identity_needed {
            self.identify();
        }
        self.to_refresh.extend(in_doubt);
        self.refresh();
        next_look
    }

    fn is_connected(&self, broker: BrokerId) -> bool {
        let connection = self.connections.get(&broker);
        connection.is_some_and(|connection| !connection.is_closed())
    }

    /// Encodes and sends.
    fn dispatch(&mut self, requests: Requests) {
        let shared = &self.shared;
        let options = shared.accumulator.lock().options.clone();
        for (broker, request) in requests.encode(shared) {
            let Some(connection) = self.connections.get(&broker) else {
                continue;
            };
            let answered = request.send(connection, &options);
            self.pending
                .push(Box::pin(async { Event::Answered(answered.await) }));
        }
    }

    fn connect(&mut self, image: &Image, broker: BrokerId) {
        self.connections.remove(&broker);
        let Some(address) = image.brokers.get(&broker).map(Arc::clone) else {
            self.to_refresh
                .extend(self.shared.accumulator.lock().topics.keys().cloned());
            return;
        };
        if !self.connecting.insert(broker) {
            return;
        }
        let links = Arc::clone(&self.links);
        self.pending.push(Box::pin(async move {
            Event::Connected(broker, links.connection(&address).await)
        }));
    }

    fn identify(&mut self) {
        if std::mem::replace(&mut self.identifying, true) {
            return;
        }
        let current = self.identity.unwrap_or(Identity::NONE);
        let request = InitProducerIdRequest {
            producer_id: current.id,
            producer_epoch: current.epoch,
        };
        let cluster = Arc::clone(&self.shared.cluster);
        let pause = self.identity_backoff.next_pause();
        let first = self.identity.is_none();
        self.pending.push(Box::pin(async move {
            if !first {
                // A broker that cannot keep sequences must not be asked in a loop.
                tokio::time::sleep(pause).await;
            }
            Event::Identified(cluster.ask(&request).await)
        }));
    }

    fn refresh(&mut self) {
        if self.refreshing || self.to_refresh.is_empty() {
            return;
        }
        self.refreshing = true;
        let topics = std::mem::take(&mut self.to_refresh);
        let topics = topics.iter().map(ToString::to_string).collect();
        let cluster = Arc::clone(&self.shared.cluster);
        let pause = self.refresh_backoff.next_pause();
        self.pending.push(Box::pin(async move {
            // A failure shows again when the batches are sent.
            let _ = cluster.refresh_in_doubt(topics).await;
            tokio::time::sleep(pause).await;
            Event::Refreshed
        }));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Answered(attempts) => {
                let now = Instant::now();
                for attempt in attempts {
                    self.attempted(attempt, now);
                }
                self.shared.room.notify_waiters();
            }
            Event::Connected(broker, Ok(connection)) => {
                self.connecting.remove(&broker);
                self.obstacles.remove(&broker);
                self.connections.insert(broker, connection);
            }
            Event::Connected(broker, Err(error)) => {
                self.connecting.remove(&broker);
                self.obstacles
                    .insert(broker, format!("broker {broker}, its leader: {error}"));
                // It may be gone for good: ask who leads now.
                self.to_refresh
                    .extend(self.shared.accumulator.lock().topics.keys().cloned());
            }
            Event::Identified(answer) => self.identified(answer),
            Event::Refreshed => self.refreshing = false,
        }
    }

    fn identified(&mut self, answer: Result<InitProducerIdResponse, ClientError>) {
        self.identifying = false;
        match answer {
            Ok(answer) => {
                self.identity_backoff.reset();
                self.identity = Some(Identity {
                    id: answer.producer_id,
                    epoch: answer.producer_epoch,
                });
            }
            // An epoch that was raised without our hearing of it: take another identity.
            Err(error) if error.class() == ErrorClass::Fenced && self.identity.is_some() => {
                self.identity = None;
            }
            Err(error) if error.class() == ErrorClass::Fatal => self.shared.fence(&error),
            Err(error) => tracing::debug!(%error, "no producer id"),
        }
    }

    /// One attempt at one batch has ended.
    fn attempted(&mut self, attempt: Attempt, now: Instant) {
        let Attempt { key, outcome } = attempt;
        let mut accumulator = self.shared.accumulator.lock();
        // Of a topic that was deleted meanwhile.
        let queues = accumulator.topics.get_mut(&key.topic);
        let Some(queues) = queues.filter(|queues| queues.topic.id == key.topic_id) else {
            return;
        };
        let Some(partition) = queues.partitions.get_mut(key.index) else {
            return;
        };
        let Some((place, earlier)) = partition.standing(key.number, key.attempt) else {
            return;
        };
        let id = partition.id;
        let subject = || format!("`{}`-{id}", key.topic);
        match outcome {
            Outcome::Written(produced) => {
                let position = BatchPosition {
                    partition: partition.id,
                    base_offset: produced.offset,
                    log_append_time: produced.log_append_time,
                };
                if let Some(ended) = partition.end_written(key.number) {
                    accumulator.decide(ended, Ok(position));
                }
                self.refresh_backoff.reset();
            }
            Outcome::NotSent(reason) => {
                partition.obstacle = Some(reason);
                partition.send_again(key.number, Earlier::Refused, now);
                self.to_refresh.insert(Arc::clone(&key.topic));
            }
            Outcome::Lost(reason) => {
                partition.obstacle = Some(reason);
                partition.send_again(key.number, Earlier::Lost, now);
                self.to_refresh.insert(Arc::clone(&key.topic));
            }
            Outcome::CannotEncode(reason) => {
                partition.spend_identity();
                if let Some(ended) = partition.end(key.number) {
                    accumulator.decide(ended, Err(ClientError::InvalidRecord { reason }));
                }
            }
            Outcome::Refused(failure) => {
                let reaction = reaction(failure.error, place, earlier);
                let text = format!("{} ({})", failure.message, failure.error);
                partition.refused(place, failure.error, &text);
                match reaction {
                    Reaction::Written | Reaction::SendAgain => {
                        partition.send_again(key.number, Earlier::Refused, now);
                    }
                    Reaction::FindLeader => {
                        partition.send_again(key.number, Earlier::Refused, now);
                        self.to_refresh.insert(Arc::clone(&key.topic));
                    }
                    Reaction::SendAgainLost => {
                        partition.send_again(key.number, Earlier::Lost, now);
                    }
                    Reaction::FindLeaderLost => {
                        partition.send_again(key.number, Earlier::Lost, now);
                        self.to_refresh.insert(Arc::clone(&key.topic));
                    }
                    Reaction::Renew => {
                        partition.spend_identity();
                        partition.send_again(key.number, Earlier::Refused, now);
                    }
                    Reaction::Fail | Reaction::Unknown => {
                        let error = if reaction == Reaction::Fail {
                            ClientError::refused(subject(), failure)
                        } else {
                            unknown(&subject(), text)
                        };
                        partition.spend_identity();
                        if let Some(ended) = partition.end(key.number) {
                            accumulator.decide(ended, Err(error));
                        }
                    }
                    Reaction::Fence => {
                        let error = ClientError::refused(subject(), failure);
                        drop(accumulator);
                        self.shared.fence(&error);
                    }
                }
            }
        }
    }

    fn apply_image(&self) {
        let mut accumulator = self.shared.accumulator.lock();
        // Taken under the lock: a topic is in an image before it comes here, so that one which is
        // missing from this image was deleted, and is not merely newer than it.
        let (image, now) = (self.shared.cluster.image(), Instant::now());
        let names: Vec<Arc<str>> = accumulator.topics.keys().cloned().collect();
        for name in names {
            let ended = match image.topics.get(&name) {
                Some(topic) => accumulator.update_topic(topic, now),
                None => accumulator.remove_topic(&name),
            };
            let deleted = || ClientError::TopicDeleted {
                topic: name.to_string(),
            };
            self.shared.end_all(&mut accumulator, ended, &deleted);
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Finished, or with its runtime: nobody must wait for what will not come.
        let mut accumulator = self.shared.accumulator.lock();
        let closed = || ClientError::Closed { what: "producer" };
        accumulator.closed.get_or_insert_with(closed);
        let ended = accumulator.abandon();
        self.shared.end_all(&mut accumulator, ended, &closed);
    }
}

/// The error of a write that may have happened.
pub(super) fn unknown(subject: &str, reason: String) -> ClientError {
    ClientError::OutcomeUnknown {
        what: format!("a write to {subject}"),
        reason,
    }
}

/// The next of the futures that is done.
async fn next_event(pending: &mut Vec<Pending>) -> Event {
    poll_fn(|context: &mut Context<'_>| {
        for index in 0..pending.len() {
            if let Some(future) = pending.get_mut(index)
                && let Poll::Ready(event) = future.as_mut().poll(context)
            {
                drop(pending.swap_remove(index));
                return Poll::Ready(event);
            }
        }
        Poll::Pending
    })
    .await
}
