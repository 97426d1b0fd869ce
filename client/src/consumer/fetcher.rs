//! Keeps fetches on their way: one for every partition that the application waits for, at most a
//! few per broker, each for many partitions.
//!
//! A request leaves when it is made, so that its answer is on its way while the application works;
//! no task is needed for that.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use strandline_protocol::{
    BrokerId,
    limits::ENTRIES_PER_REQUEST_MAX,
    messages::{FetchPartition, FetchRequest, FetchResponse},
};
use tokio::time::Instant;

use super::{ConsumerOptions, source::Rack};
use crate::{ClientError, connection::Connection, routing::Links};

/// How many fetches may be on their way to one broker. One would let a partition that has records
/// wait for the long poll of those that have none.
const FETCHES_PER_BROKER: usize = 4;

/// Which partitions a fetch is about: index and generation of each, in the order of the request.
pub(super) type Fetched = Vec<(usize, u64)>;

/// A fetch that has ended.
pub(super) struct Answer {
    pub(super) broker: BrokerId,
    pub(super) fetched: Fetched,
    pub(super) outcome: Result<(FetchResponse, Bytes), ClientError>,
    connection: Option<Connection>,
}

type Pending = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// The fetches of one consumer.
pub(super) struct Fetcher {
    links: Arc<Links>,
    connections: BTreeMap<BrokerId, Connection>,
    pending: Vec<Waiting>,
}

/// A fetch that is on its way.
struct Waiting {
    broker: BrokerId,
    /// When the broker counts as silent, and again.
    overdue: Instant,
    answer: Pending,
}

/// How much longer than it was told to wait a broker may take before it counts as silent.
const SILENCE: Duration = Duration::from_millis(500);

impl Fetcher {
    pub(super) fn new(links: Links) -> Self {
        Self {
            links: Arc::new(links),
            connections: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    /// Forgets every fetch; answers that come are dropped.
    pub(super) fn clear(&mut self) {
        self.pending.clear();
    }

    /// Whether one more fetch may be sent to the broker.
    pub(super) fn has_room(&self, broker: BrokerId) -> bool {
        let busy = self.pending.iter().filter(|busy| busy.broker == broker);
        busy.count() < FETCHES_PER_BROKER
    }

    /// Sends a fetch; at once if the broker is connected.
    pub(super) fn fetch(
        &mut self,
        broker: BrokerId,
        address: &Arc<str>,
        options: &ConsumerOptions,
        rack: Rack,
        (partitions, fetched): (Vec<FetchPartition>, Fetched),
    ) {
        let request = FetchRequest {
            wait_ms_max: u32::try_from(options.wait_max.as_millis()).unwrap_or(u32::MAX),
            bytes_min: u32::try_from(options.fetch_bytes_min).unwrap_or(u32::MAX),
            bytes_max: u32::try_from(options.fetch_bytes_max).unwrap_or(u32::MAX),
            partitions,
            rack: options.rack.clone().filter(|_| rack == Rack::Told),
        };
        let wait = options.wait_max;
        let open = self.connections.get(&broker);
        let future: Pending = match open.filter(|open| !open.is_closed()) {
            Some(open) => {
                let answer = open.request_that_waits(&request, Vec::new(), wait);
                Box::pin(async move {
                    Answer {
                        broker,
                        fetched,
                        outcome: answer.await,
                        connection: None,
                    }
                })
            }
            None => {
                let (links, address) = (Arc::clone(&self.links), Arc::clone(address));
                Box::pin(async move {
                    let mut connection = None;
                    let outcome = async {
                        let open = links.connection(&address).await?;
                        let open = connection.insert(open);
                        open.request_that_waits(&request, Vec::new(), wait).await
                    };
                    let outcome = outcome.await;
                    Answer {
                        broker,
                        fetched,
                        outcome,
                        connection,
                    }
                })
            }
        };
        self.pending.push(Waiting {
            broker,
            overdue: Instant::now() + wait + SILENCE,
            answer: future,
        });
    }

    /// When a broker counts as silent that has not answered by then.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        self.pending.iter().map(|waiting| waiting.overdue).min()
    }

    /// The brokers that have not answered in time; each fetch is told of now and then.
    pub(super) fn silent(&mut self, now: Instant) -> BTreeSet<BrokerId> {
        let overdue = self.pending.iter_mut().filter(|it| it.overdue <= now);
        overdue
            .map(|waiting| {
                waiting.overdue = now + SILENCE;
                waiting.broker
            })
            .collect()
    }

    /// The next fetch that ends; never, if there is none. Cancel safe.
    pub(super) async fn next(&mut self) -> Answer {
        let mut answer = poll_fn(|context| self.poll_next(context)).await;
        if let Some(connection) = answer.connection.take() {
            self.connections.insert(answer.broker, connection);
        }
        answer
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Answer> {
        for index in 0..self.pending.len() {
            if let Some(waiting) = self.pending.get_mut(index)
                && let Poll::Ready(answer) = waiting.answer.as_mut().poll(context)
            {
                drop(self.pending.remove(index));
                return Poll::Ready(answer);
            }
        }
        Poll::Pending
    }
}

/// How many partitions one fetch asks for at most.
pub(super) const PARTITIONS_PER_FETCH: usize = ENTRIES_PER_REQUEST_MAX;
