//! `ReplicaFetch` (24), versions 0 to 0: a follower reads what it does not have.
//!
//! *Patterns: leader and followers, request batch, request waiting list.* A session belongs to its
//! connection: see [`FetchSessions`]. A request that comes while the one before it waits takes its
//! place, and that one is answered without anything.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use strandline_core::replica::FollowerFetch;
use strandline_protocol::{
    TopicPartition,
    messages::{Failure, ReplicaFetchRequest, ReplicaFetchResponse, ReplicaFetchedPartition},
};
use tokio::time::Instant;

use super::{
    Handled, Request, check_entries,
    cold::{warm, warm_behind},
    k10_fetch::Patience,
    peer::check_sender,
};
use crate::{
    partition::{FetchToken, Look},
    server::{
        broker::Broker,
        connection::{Event, Events, Reply, Slot},
        fetch_session::{FetchSessions, Named},
        spawn::{self, Threads},
    },
};

/// The longest time that a fetch may wait, in milliseconds.
const WAIT_MS_MAX: u32 = 60 * 1_000;

/// A `ReplicaFetch` that waits for news, or for a disk to bring what it reads.
#[derive(Debug)]
pub struct ParkedReplicaFetch {
    sessions: Arc<FetchSessions>,
    /// Which session, and which of its requests this is.
    session: u64,
    number: u32,
    bytes_max: usize,
    /// When to answer whatever there is.
    pub deadline: Instant,
    waits: Waits,
    /// How to look when it is woken.
    look: Look,
}

/// What it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    News,
    /// For something that goes with what there is to tell, until then.
    More(Instant),
    Disk,
}

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let fetch: ReplicaFetchRequest = request.decode()?;
    check_entries(fetch.partitions.len())?;
    check_entries(fetch.forgotten.len())?;
    check_sender(request, fetch.broker_id, fetch.broker_epoch)?;
    let wait = Duration::from_millis(u64::from(fetch.wait_ms_max.min(WAIT_MS_MAX)));
    let named = fetch.partitions.iter().map(|named| Named {
        id: TopicPartition {
            topic: named.topic_id,
            partition: named.partition,
        },
        fetch: FollowerFetch {
            broker: fetch.broker_id,
            broker_epoch: fetch.broker_epoch,
            leader_epoch: named.leader_epoch,
            fetch_offset: named.fetch_offset,
            last_epoch: named.last_epoch,
            durable_offset: named.durable_offset,
        },
        bytes_max: to_usize(named.bytes_max),
    });
    let forgotten = fetch.forgotten.iter().map(|name| TopicPartition {
        topic: name.topic_id,
        partition: name.partition,
    });
    let session = request.sessions.next(
        &request.broker.metrics.replication,
        fetch.session,
        named,
        forgotten,
    )?;
    let parked = ParkedReplicaFetch {
        sessions: Arc::clone(request.sessions),
        session: session.id,
        number: session.number,
        bytes_max: to_usize(fetch.bytes_max).min(request.broker.limits.fetch_bytes_max),
        deadline: request.now + wait,
        waits: Waits::News,
        look: Look::Warm,
    };
    let patience = if wait.is_zero() {
        Patience::Over
    } else {
        Patience::Left
    };
    Ok(parked.proceed(request.broker, request.events, request.slot, patience))
}

impl ParkedReplicaFetch {
    /// Looks (again), and answers or parks (again) in `slot`.
    #[must_use]
    pub fn proceed(
        mut self,
        broker: &Broker,
        events: &Events,
        slot: Slot,
        patience: Patience,
    ) -> Handled {
        if patience == Patience::Left {
            let token = FetchToken {
                events: events.clone(),
                slot,
            };
            if let Some(until) = self.sessions.linger(self.session, self.number, token) {
                self.waits = Waits::More(until.min(self.deadline));
                return Handled::ReplicaFetch(self);
            }
        }
        loop {
            let Some(gathered) =
                self.sessions
                    .look(broker, self.session, self.number, self.bytes_max, self.look)
            else {
                // A newer request has taken its place.
                return self.answer(Vec::new(), Vec::new());
            };
            if gathered.partitions.is_empty() && !gathered.cold.is_empty() {
                self.look = Look::Anyway;
                if broker.threads == Threads::None {
                    continue;
                }
                self.waits = Waits::Disk;
                let (warming, events) = (warm(broker.threads, gathered.cold), events.clone());
                spawn::spawn(async move {
                    warming.await;
                    let _ = events.send(Event::Ready { slot });
                });
                return Handled::ReplicaFetch(self);
            }
            if gathered.partitions.is_empty() && patience == Patience::Left {
                self.look = Look::Warm;
                self.waits = Waits::News;
                let token = FetchToken {
                    events: events.clone(),
                    slot,
                };
                if self.sessions.park(token) {
                    return Handled::ReplicaFetch(self);
                }
                continue;
            }
            warm_behind(broker.threads, gathered.cold);
            return self.answer(gathered.partitions, gathered.payload);
        }
    }

    /// Until when it waits for news; none while it waits for the disk, which has an end of its own.
    #[must_use]
    pub fn waits_until(&self) -> Option<Instant> {
        match self.waits {
            Waits::News => Some(self.deadline),
            Waits::More(until) => Some(until),
            Waits::Disk => None,
        }
    }

    fn answer(&self, partitions: Vec<ReplicaFetchedPartition>, payload: Vec<Bytes>) -> Handled {
        self.sessions.answered(self.session);
        let response = ReplicaFetchResponse {
            session_id: self.session,
            partitions,
        };
        Reply::with_payload(&response, payload).into()
    }
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
