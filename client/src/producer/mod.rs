//! Writes records: in batches, in order, once.
//!
//! *Pattern: request pipeline.* Up to five requests of a partition are on their way at once.
//! *Pattern: idempotent receiver.* A producer id, its epoch and a sequence let a broker recognise
//! what it has, so that a retry neither repeats nor reorders anything.
//!
//! `accumulator` takes records, `partition` keeps their batches in order, `reaction` says what an
//! answer means, `sender` is the task that does it. **Never** calls an unknown outcome a failure.

mod accumulator;
mod delivery;
mod murmur2;
mod options;
mod partition;
mod reaction;
mod record;
mod request;
mod sender;

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

pub use delivery::{Delivery, RecordPosition};
pub use murmur2::{murmur2, partition_for_key};
pub use options::{Compression, Partitioner, ProducerOptions};
use parking_lot::Mutex;
pub use record::NewRecord;
use tokio::{sync::Notify, time::Instant};

use self::{
    accumulator::{Accumulator, NotTaken, Wake},
    delivery::BatchOutcome,
    partition::Ended,
    reaction::Earlier,
    sender::{Sender, unknown},
};
use crate::{
    ClientError,
    net::Clock,
    routing::{Backoff, Cluster},
};

/// What the handles and the sender have in common.
#[derive(Debug)]
struct Shared {
    cluster: Arc<Cluster>,
    accumulator: Mutex<Accumulator>,
    /// There is something to send.
    work: Notify,
    /// Memory has become free.
    room: Notify,
    ending: AtomicBool,
    flushes: AtomicI64,
}

impl Shared {
    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Another producer has taken over: everything ends.
    fn fence(&self, error: &ClientError) {
        let mut accumulator = self.accumulator.lock();
        let fenced = || ClientError::Fenced {
            reason: error.to_string(),
        };
        accumulator.closed = Some(fenced());
        let ended = accumulator.abandon();
        self.end_all(&mut accumulator, ended, &fenced);
    }

    /// Ends batches that nothing more is done about: with `error`, unless they may be written.
    fn end_all(
        &self,
        accumulator: &mut Accumulator,
        ended: Vec<Ended>,
        error: &dyn Fn() -> ClientError,
    ) {
        for ended in ended {
            let error = match ended.earlier {
                Earlier::Refused => error(),
                Earlier::Lost => unknown("a topic", error().to_string()),
            };
            accumulator.decide(ended, Err(error));
        }
        self.room.notify_waiters();
    }
}

/// Writes records. Cheap to clone; clones share everything.
///
/// After the last clone is dropped, what was given to `send` is still sent as long as the runtime
/// runs; `close` waits for it.
#[derive(Clone, Debug)]
pub struct Producer {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.accumulator.lock().hurry();
        self.shared.ending.store(true, Ordering::Release);
        self.shared.work.notify_one();
    }
}

impl Producer {
    pub(crate) fn new(cluster: Arc<Cluster>, options: ProducerOptions) -> Self {
        let backoff = Backoff::new(&cluster.options);
        let shared = Arc::new(Shared {
            cluster,
            accumulator: Mutex::new(Accumulator::new(options, backoff)),
            work: Notify::new(),
            room: Notify::new(),
            ending: AtomicBool::new(false),
            flushes: AtomicI64::new(0),
        });
        tokio::spawn(Sender::new(Arc::clone(&shared)).run());
        Self {
            handle: Arc::new(Handle { shared }),
        }
    }

    /// Puts a record into its batch, and waits only if the memory for records is used up or its
    /// topic is not known yet. That it is *written* is told by the [`Delivery`].
    ///
    /// Records of one task to one partition are written in the order of their `send`s. Cancel safe:
    /// a `send` that is dropped before it is done has not taken the record.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], [`ClientError::UnknownPartition`],
    /// [`ClientError::RecordTooLarge`], [`ClientError::Fenced`], [`ClientError::Closed`];
    /// [`ClientError::TimedOutBeforeSending`] if there is no room within `delivery_timeout`.
    #[inline]
    pub async fn send(&self, record: NewRecord<'_>) -> Result<Delivery, ClientError> {
        match self.append(&record) {
            Ok(delivery) => Ok(delivery),
            Err(NotTaken::Refused(error)) => Err(*error),
            Err(NotTaken::NoRoom | NotTaken::TopicNeeded) => self.send_waiting(record).await,
        }
    }

    #[cold]
    async fn send_waiting(&self, record: NewRecord<'_>) -> Result<Delivery, ClientError> {
        let shared = &self.handle.shared;
        let timeout = shared.accumulator.lock().options.delivery_timeout;
        let sending = async {
            loop {
                let mut room = pin!(shared.room.notified());
                // Registered before the attempt, so that room made in between is not missed.
                room.as_mut().enable();
                match self.append(&record) {
                    Ok(delivery) => return Ok(delivery),
                    Err(NotTaken::Refused(error)) => return Err(*error),
                    Err(NotTaken::NoRoom) => room.await,
                    Err(NotTaken::TopicNeeded) => {
                        let topic = shared.cluster.topic(record.topic).await?;
                        let mut accumulator = shared.accumulator.lock();
                        let ended = accumulator.update_topic(&topic, Instant::now());
                        let deleted = || ClientError::TopicDeleted {
                            topic: record.topic.to_owned(),
                        };
                        shared.end_all(&mut accumulator, ended, &deleted);
                    }
                }
            }
        };
        let timed = tokio::time::timeout(timeout, sending).await;
        timed.unwrap_or_else(|_| {
            Err(ClientError::TimedOutBeforeSending {
                subject: format!("topic `{}`", record.topic),
                after: timeout,
                reason: "`memory_bytes_max` is used up by records that are not acknowledged"
                    .to_owned(),
            })
        })
    }

    /// As [`Producer::send`], but never waits.
    ///
    /// # Errors
    /// As [`Producer::send`], and [`ClientError::WouldWait`].
    #[inline(always)]
    pub fn try_send(&self, record: NewRecord<'_>) -> Result<Delivery, ClientError> {
        self.append(&record).map_err(NotTaken::without_waiting)
    }

    /// Inlined into its callers, so that a delivery is never moved through memory.
    #[inline(always)]
    fn append(&self, record: &NewRecord<'_>) -> Result<Delivery, NotTaken> {
        let shared = &self.handle.shared;
        let timestamp = record.timestamp.unwrap_or_else(|| Clock.now());
        let (delivery, wake) = shared.accumulator.lock().append(record, timestamp)?;
        if wake == Wake::Yes {
            shared.work.notify_one();
        }
        Ok(delivery)
    }

    /// Sends everything now and waits until what was given to `send` before is decided: afterwards
    /// every such [`Delivery`] is ready at once. Cancel safe.
    ///
    /// # Errors
    /// The first failure of a batch since the last `flush`, so that who drops its deliveries still
    /// hears of it.
    pub async fn flush(&self) -> Result<(), ClientError> {
        let shared = &self.handle.shared;
        let outcomes: Vec<Arc<BatchOutcome>> = shared.accumulator.lock().hurry();
        shared.work.notify_one();
        let flush = shared.flushes.fetch_add(1, Ordering::Relaxed) + 1;
        for outcome in outcomes {
            poll_fn(|context| outcome.poll_decided(flush, context)).await;
        }
        shared.accumulator.lock().failure.take().map_or(Ok(()), Err)
    }

    /// How many records were written so far; with `acks` of none, sent.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.handle.shared.accumulator.lock().acknowledged
    }

    /// What was in the way last of a batch that is still to be written, if anything.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        let accumulator = self.handle.shared.accumulator.lock();
        let mut partitions = accumulator.active.iter().filter_map(|(topic, index)| {
            let queues = accumulator.topics.get(topic)?;
            queues.partitions.get(*index)
        });
        partitions.find_map(|partition| partition.obstacle.clone())
    }

    /// Flushes, then refuses everything further.
    ///
    /// # Errors
    /// As [`Producer::flush`]; the producer is closed all the same.
    pub async fn close(&self) -> Result<(), ClientError> {
        let shared = &self.handle.shared;
        let closed = || ClientError::Closed { what: "producer" };
        shared.accumulator.lock().closed.get_or_insert_with(closed);
        let flushed = self.flush().await;
        shared.ending.store(true, Ordering::Release);
        shared.work.notify_one();
        flushed
    }
}
