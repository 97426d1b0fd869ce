//! Requests of a connection: from a frame to an answer.
//!
//! *Pattern: request pipeline.*

use strandline_protocol::{
    Api, ApiKey, CorrelationId, ErrorCode,
    api::APIS,
    frame::{Flags, FrameHeader},
};
use tokio::time::Instant;

use super::{
    Event, Reply, Slot,
    pressure::LARGE_MESSAGE_BYTES,
    serve::{Connection, OUTBOX_BYTES_MAX, Phase},
};
use crate::server::{
    handlers::{
        self, Handled, Request,
        k09_produce::ParkedProduce,
        k10_fetch::{ParkedFetch, Patience},
        k24_replica_fetch::ParkedReplicaFetch,
    },
    spawn,
};

/// A parked request.
pub(super) struct Waiting {
    pub(super) origin: Origin,
    pub(super) since: Instant,
    pub(super) work: Work,
}

pub(super) enum Work {
    Produce(ParkedProduce),
    Fetch(ParkedFetch),
    ReplicaFetch(ParkedReplicaFetch),
    Task,
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    api: &'static Api,
    version: u16,
    correlation: CorrelationId,
    answer: Answer,
    pub(super) message_bytes: usize,
}

/// Whether the peer waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Expected,
    Unwanted,
}

impl Connection {
    /// Carries out the request at the front of the receive buffer.
    pub(super) fn request(&mut self, header: &FrameHeader) {
        let now = Instant::now();
        let origin = match self.admit(header) {
            Ok(origin) => origin,
            Err((code, message)) => {
                tracing::debug!(peer = %self.peer, "request refused: {message}");
                self.send(
                    header.api_key,
                    header.version,
                    header.correlation,
                    Reply::failure(code, message),
                );
                return;
            }
        };
        let metrics = self.broker.metrics.api(origin.api.key);
        metrics.queue.record(now.duration_since(self.last_read));
        let (message, payload) = self.receive.frame();
        let request = Request {
            broker: &self.broker,
            message,
            payload,
            slot: self.parked.next_slot(),
            events: &self.own_events,
            now,
            version: origin.version,
            correlation: origin.correlation,
            peer: self.peer_broker.as_ref(),
            sessions: &self.sessions,
        };
        let handled = handlers::handle(origin.api.key, &request);
        let took = now.elapsed();
        metrics.local.record(took);
        if header.message_bytes > LARGE_MESSAGE_BYTES && self.peer_broker.is_none() {
            self.broker.turns.took(took);
        }
        self.conclude(origin, handled, None);
    }

    /// Decides whether a frame is a request that can be handled at all.
    fn admit(&self, header: &FrameHeader) -> Result<Origin, (ErrorCode, String)> {
        let Some(api) = ApiKey::row(header.api_key) else {
            let last = APIS.len().saturating_sub(1);
            return Err((
                ErrorCode::UNKNOWN_API,
                format!(
                    "API {} is not known here: this broker has 0 to {last}",
                    header.api_key
                ),
            ));
        };
        if !api.versions.contains(&header.version) {
            let (least, most) = (api.versions.start(), api.versions.end());
            return Err((
                ErrorCode::UNSUPPORTED_VERSION,
                format!(
                    "version {} of {} is not spoken here: this broker speaks {least} to {most}",
                    header.version, api.name
                ),
            ));
        }
        let answer = match header.flags {
            Flags::REQUEST => Answer::Expected,
            Flags::ONE_WAY => Answer::Unwanted,
            flags => {
                return Err((
                    ErrorCode::INVALID_REQUEST,
                    format!("flags {} do not belong to a request", flags.0),
                ));
            }
        };
        if self.phase == Phase::New && api.key != ApiKey::Hello {
            return Err((
                ErrorCode::HELLO_EXPECTED,
                format!("{} came first: say Hello before", api.name),
            ));
        }
        Ok(Origin {
            api,
            version: header.version,
            correlation: header.correlation,
            answer,
            message_bytes: header.message_bytes,
        })
    }

    /// Answers, parks or starts what a handler has left. `since` is when it was parked before.
    fn conclude(&mut self, origin: Origin, handled: Handled, since: Option<Instant>) {
        let parked_since = since.unwrap_or_else(Instant::now);
        let (work, deadline) = match handled {
            Handled::Reply(reply) => return self.answer(origin, reply, since),
            Handled::Nothing => {
                self.broker
                    .metrics
                    .api(origin.api.key)
                    .requests
                    .increment(1);
                return;
            }
            Handled::Opened(reply, client, peer) => {
                self.peer_broker = peer;
                self.phase = Phase::Open(client);
                return self.answer(origin, reply, since);
            }
            Handled::Watching(reply, watch) => {
                self.watch = Some(watch);
                self.broker
                    .watchers
                    .insert(self.number, self.own_events.clone());
                self.answer(origin, reply, since);
                // What changed between the look and the subscription.
                self.push_metadata();
                return;
            }
            Handled::Produce(produce) => {
                let deadline = produce.deadline;
                (Work::Produce(produce), Some(deadline))
            }
            Handled::Fetch(fetch) => {
                let deadline = fetch.waits_until();
                (Work::Fetch(fetch), deadline)
            }
            Handled::ReplicaFetch(fetch) => {
                let deadline = fetch.waits_until();
                (Work::ReplicaFetch(fetch), deadline)
            }
            Handled::Task(work) => {
                let (slot, events) = (self.parked.next_slot(), self.own_events.clone());
                spawn::spawn(async move {
                    let reply = work.await;
                    let _ = events.send(Event::Answer { slot, reply });
                });
                (Work::Task, None)
            }
        };
        let waiting = Waiting {
            origin,
            since: parked_since,
            work,
        };
        self.parked.park(waiting, deadline);
        self.pressure.parked(origin.message_bytes);
    }

    pub(super) fn answer(&mut self, origin: Origin, reply: Reply, parked_since: Option<Instant>) {
        let metrics = self.broker.metrics.api(origin.api.key);
        metrics.requests.increment(1);
        if let Some(since) = parked_since {
            metrics.wait.record(since.elapsed());
        }
        if !reply.error.is_none() {
            self.broker.metrics.error(origin.api.key, reply.error);
        }
        if origin.answer == Answer::Unwanted {
            return;
        }
        let now = Instant::now();
        if self.outbox.queued_bytes() == 0 {
            self.last_write = now;
        }
        let api_key = origin.api.key.code();
        self.send(api_key, origin.version, origin.correlation, reply);
        self.unsent
            .push_back((self.outbox.position(), now, origin.api.key));
    }

    fn send(&mut self, api_key: u16, version: u16, correlation: CorrelationId, reply: Reply) {
        let payload_bytes = reply.payload.iter().map(bytes::Bytes::len).sum();
        let header = FrameHeader::encode(
            api_key,
            version,
            Flags::RESPONSE,
            reply.error,
            correlation,
            &reply.message,
            payload_bytes,
        );
        self.outbox.push(&header, &reply.message, reply.payload);
    }

    pub(super) fn finish_produce(&mut self, slot: Slot, reason: &str) {
        let Some(waiting) = self.parked.take(slot) else {
            return;
        };
        self.pressure.unparked(waiting.origin.message_bytes);
        if let Work::Produce(produce) = waiting.work {
            let (error, reply) = produce.answer(reason);
            if !error.is_none() {
                self.broker.metrics.error(ApiKey::Produce, error);
            }
            self.answer(waiting.origin, reply, Some(waiting.since));
        }
    }

    pub(super) fn look_again(&mut self, slot: Slot, patience: Patience) {
        let Some(waiting) = self.parked.take(slot) else {
            return;
        };
        self.pressure.unparked(waiting.origin.message_bytes);
        let deadline = match &waiting.work {
            Work::Fetch(fetch) => fetch.deadline,
            Work::ReplicaFetch(fetch) => fetch.deadline,
            Work::Produce(_) | Work::Task => return,
        };
        let patience = if Instant::now() >= deadline {
            Patience::Over
        } else {
            patience
        };
        let slot = self.parked.next_slot();
        let (broker, events) = (&self.broker, &self.own_events);
        let handled = match waiting.work {
            Work::Fetch(fetch) => fetch.proceed(broker, events, slot, patience),
            Work::ReplicaFetch(fetch) => fetch.proceed(broker, events, slot, patience),
            Work::Produce(_) | Work::Task => return,
        };
        self.conclude(waiting.origin, handled, Some(waiting.since));
    }

    pub(super) fn push_metadata(&mut self) {
        // A peer that does not read gets the newest state once it does.
        if self.outbox.queued_bytes() > OUTBOX_BYTES_MAX {
            return;
        }
        let Some(watch) = &mut self.watch else {
            return;
        };
        for push in watch.changes(&self.broker) {
            let header = FrameHeader::encode(
                ApiKey::WatchMetadata.code(),
                watch.version,
                Flags::PUSH,
                ErrorCode::NONE,
                watch.correlation,
                &push,
                0,
            );
            self.outbox.push(&header, &push, Vec::new());
        }
    }
}
