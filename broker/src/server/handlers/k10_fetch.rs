//! `Fetch` (10), versions 0 to 0: reads record batches, waiting for them if it is told to.
//!
//! *Patterns: request waiting list, high-water mark.*

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use strandline_core::waiting::Ticket;
use strandline_protocol::{
    ApiKey, LeaderEpoch, Offset, TopicPartition,
    messages::{Failure, FetchPartition, FetchRequest, FetchResponse, FetchedPartition},
};
use strandline_storage::log::{ColdRange, Fetched, ReadError};
use tokio::time::Instant;

use super::{Handled, Request, check_entries};
use crate::{
    partition::{FetchToken, Look, Partition, Read, ReadFailure},
    server::{
        broker::Broker,
        connection::{Event, Events, Reply, Slot},
        spawn::{self, Threads},
    },
};

/// The longest time that a fetch may wait, in milliseconds.
const WAIT_MS_MAX: u32 = 10 * 60 * 1_000;

/// How many segments a fetch reads of one partition at most.
const PIECES_PER_PARTITION: usize = 8;

/// A `Fetch` that waits for data, or for a disk to bring it.
#[derive(Debug)]
pub struct ParkedFetch {
    request: FetchRequest,
    /// When to answer whatever there is.
    pub deadline: Instant,
    ticket: Option<Ticket>,
    /// How to look when it is woken.
    look: Look,
}

/// What one look at the partitions gave.
enum Step {
    /// The answer, and what is not in it because it is not in memory.
    Done(FetchResponse, Vec<Bytes>, Vec<ColdRead>),
    /// Less than is worth an answer: wait for so many bytes more from these positions on.
    Wait {
        from: Vec<(TopicPartition, i64)>,
        growth: i64,
    },
    /// Something is not in memory.
    Cold(Vec<ColdRead>),
}

/// A part of a log that is not in memory, and what will read it.
struct ColdRead {
    range: ColdRange,
    partition: Arc<Partition>,
    offset: Offset,
    bytes_max: usize,
    epoch: Option<LeaderEpoch>,
}

/// Whether less than `bytes_min` is an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// There is time to wait.
    Left,
    /// The deadline has come, or the broker stops.
    Over,
}

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let fetch: FetchRequest = request.decode()?;
    check_entries(fetch.partitions.len())?;
    let wait = Duration::from_millis(u64::from(fetch.wait_ms_max.min(WAIT_MS_MAX)));
    let parked = ParkedFetch {
        deadline: request.now + wait,
        request: fetch,
        ticket: None,
        look: Look::Warm,
    };
    let patience = if wait.is_zero() {
        Patience::Over
    } else {
        Patience::Left
    };
    Ok(parked.proceed(request.broker, request.events, request.slot, patience))
}

impl ParkedFetch {
    /// Looks (again), and answers or parks (again) in `slot`.
    #[must_use]
    pub fn proceed(
        mut self,
        broker: &Broker,
        events: &Events,
        slot: Slot,
        patience: Patience,
    ) -> Handled {
        self.cancel(broker);
        loop {
            match look(broker, &self.request, self.look, patience) {
                Step::Done(response, payload, left_out) => {
                    warm_behind(broker.threads, left_out);
                    return Reply::with_payload(&response, payload).into();
                }
                Step::Wait { from, growth } => {
                    self.look = Look::Warm;
                    if self.park(broker, events, slot, from, growth) {
                        return Handled::Fetch(self);
                    }
                }
                Step::Cold(ranges) => {
                    self.look = Look::Anyway;
                    if broker.threads == Threads::Allowed {
                        let (warming, events) = (warm(broker.threads, ranges), events.clone());
                        spawn::spawn(async move {
                            warming.await;
                            let _ = events.send(Event::Ready { slot });
                        });
                        return Handled::Fetch(self);
                    }
                }
            }
        }
    }

    /// Until when it waits for data; none while it waits for the disk, which has an end of its own.
    #[must_use]
    pub fn waits_until(&self) -> Option<Instant> {
        self.ticket.is_some().then_some(self.deadline)
    }

    /// Takes it out of the waiting list.
    pub fn cancel(&mut self, broker: &Broker) {
        if let Some(ticket) = self.ticket.take() {
            broker.waits.cancel(ticket);
        }
    }

    /// Returns whether it waits now; otherwise there is more to read already.
    fn park(
        &mut self,
        broker: &Broker,
        events: &Events,
        slot: Slot,
        from: Vec<(TopicPartition, i64)>,
        growth: i64,
    ) -> bool {
        let token = FetchToken {
            events: events.clone(),
            slot,
        };
        let ids: Vec<TopicPartition> = from.iter().map(|(id, _)| *id).collect();
        let positions = || {
            ids.iter()
                .filter_map(|id| Some((*id, broker.partitions.get(*id).ok()?.visible())))
                .collect()
        };
        self.ticket = broker
            .waits
            .park(token, self.deadline, from, growth, positions);
        self.ticket.is_some()
    }
}

/// Brings ranges into memory and checks them on the blocking pool: neither the disk nor the first
/// touch of so many pages holds up the connections of this thread. A disk that cannot read, or
/// damage, is met again, as an error, by the read that follows.
async fn warm(threads: Threads, reads: Vec<ColdRead>) {
    let work = move || reads.into_iter().for_each(ColdRead::warm);
    spawn::blocking(threads, work).await;
}

/// Does so without anybody who waits. Otherwise a partition that always has something new would
/// keep those from being read that are cold. One at a time for each partition: who asks again
/// before the disk has answered must not line up the same work again.
fn warm_behind(threads: Threads, mut reads: Vec<ColdRead>) {
    reads.retain(|read| read.partition.may_warm());
    if reads.is_empty() {
        return;
    }
    let partitions: Vec<_> = reads.iter().map(|it| Arc::clone(&it.partition)).collect();
    spawn::spawn(async move {
        warm(threads, reads).await;
        for partition in partitions {
            partition.warmed();
        }
    });
}

impl ColdRead {
    fn warm(self) {
        if let Err(error) = self.range.populate() {
            tracing::warn!("cannot bring a part of the log into memory: {error}");
            return;
        }
        let (from, epoch) = (self.offset, self.epoch);
        let read = self
            .partition
            .read(from, self.bytes_max, epoch, Look::Anyway, None);
        if let Ok(Ok(Read {
            fetched: Some(fetched),
            ..
        })) = read
        {
            // What is good is known to be so from now on.
            let _ = fetched.check();
        }
    }
}

fn look(broker: &Broker, request: &FetchRequest, look: Look, patience: Patience) -> Step {
    let mut gathered = Gathered {
        left: to_usize(request.bytes_max).min(broker.limits.fetch_bytes_max),
        payload: Vec::new(),
        bytes: 0,
        cold: Vec::new(),
        from: Vec::new(),
        served: Vec::new(),
        failed: false,
    };
    let partitions = request
        .partitions
        .iter()
        .map(|wanted| gathered.partition(broker, wanted, look))
        .collect();
    if !gathered.cold.is_empty() && gathered.bytes == 0 {
        return Step::Cold(gathered.cold);
    }
    let lacking = to_usize(request.bytes_min).saturating_sub(gathered.bytes);
    if patience == Patience::Left && lacking > 0 && !gathered.failed && gathered.cold.is_empty() {
        return Step::Wait {
            from: gathered.from,
            growth: i64::try_from(lacking).unwrap_or(i64::MAX),
        };
    }
    for (partition, bytes, records) in &gathered.served {
        partition.metrics().served(*bytes, *records);
    }
    if gathered.bytes > 0 {
        broker.metrics.fetch_response.record(as_f64(gathered.bytes));
    }
    Step::Done(
        FetchResponse { partitions },
        gathered.payload,
        gathered.cold,
    )
}

/// What a look has found so far.
struct Gathered {
    left: usize,
    payload: Vec<Bytes>,
    bytes: usize,
    cold: Vec<ColdRead>,
    from: Vec<(TopicPartition, i64)>,
    /// Bytes and records to be counted, once they are really sent.
    served: Vec<(Arc<Partition>, u64, u64)>,
    failed: bool,
}

impl Gathered {
    fn partition(
        &mut self,
        broker: &Broker,
        wanted: &FetchPartition,
        look: Look,
    ) -> FetchedPartition {
        let id = TopicPartition {
            topic: wanted.topic_id,
            partition: wanted.partition,
        };
        let mut answer = FetchedPartition {
            topic_id: wanted.topic_id,
            partition: wanted.partition,
            failure: Failure::none(),
            next_good_offset: None,
            log_start_offset: Offset(-1),
            high_watermark: Offset(-1),
            bytes: 0,
        };
        let read = broker
            .partitions
            .get(id)
            .map_err(ReadFailure::from)
            .and_then(|partition| self.read(&partition, wanted, look, &mut answer));
        if let Err(failure) = read {
            broker.metrics.error(ApiKey::Fetch, failure.failure.error);
            self.failed = true;
            answer.failure = failure.failure;
            answer.next_good_offset = failure.next_good;
        }
        answer
    }

    fn read(
        &mut self,
        partition: &Arc<Partition>,
        wanted: &FetchPartition,
        look: Look,
        answer: &mut FetchedPartition,
    ) -> Result<(), ReadFailure> {
        let mut left = to_usize(wanted.bytes_max).min(self.left);
        let enough = left / 2;
        let mut offset = wanted.fetch_offset;
        let mut taken = 0_usize;
        for _ in 0..PIECES_PER_PARTITION {
            let fetched = match self.piece(partition, wanted, offset, left, look, answer) {
                Ok(Some(fetched)) => fetched,
                Ok(None) => break,
                // What is good goes out first; who reads on from there meets the failure.
                Err(_) if taken > 0 => break,
                Err(failure) => return Err(failure),
            };
            let bytes = fetched.bytes.len();
            // The first batch of an answer comes whole, whatever its size; no other one may exceed.
            if bytes == 0 || (bytes > left && self.bytes > 0) {
                break;
            }
            let records = fetched.end_offset.since(fetched.base_offset);
            self.served.push((
                Arc::clone(partition),
                u64::try_from(bytes).unwrap_or(u64::MAX),
                u64::try_from(records).unwrap_or(0),
            ));
            self.payload.push(fetched.bytes);
            self.bytes = self.bytes.saturating_add(bytes);
            self.left = self.left.saturating_sub(bytes);
            taken = taken.saturating_add(bytes);
            left = left.saturating_sub(bytes);
            offset = fetched.end_offset;
            if taken >= enough {
                break;
            }
        }
        answer.bytes = u32::try_from(taken).unwrap_or(u32::MAX);
        Ok(())
    }

    /// The next batches of a partition from `offset` on, checked; none if there is nothing to read
    /// now, or it is not in memory.
    fn piece(
        &mut self,
        partition: &Arc<Partition>,
        wanted: &FetchPartition,
        offset: Offset,
        bytes_max: usize,
        look: Look,
        answer: &mut FetchedPartition,
    ) -> Result<Option<Fetched>, ReadFailure> {
        let epoch = wanted.current_leader_epoch;
        let read = match partition.read(offset, bytes_max, epoch, look, None)? {
            Ok(read) => read,
            Err(range) => {
                self.cold.push(ColdRead {
                    range,
                    partition: Arc::clone(partition),
                    offset,
                    bytes_max,
                    epoch,
                });
                return Ok(None);
            }
        };
        if answer.high_watermark < Offset::ZERO {
            // Of the first look: what becomes visible after it is worth waking up for.
            self.from.push((partition.id(), read.visible));
        }
        answer.log_start_offset = read.log_start_offset;
        answer.high_watermark = read.high_watermark;
        let Some(fetched) = read.fetched else {
            return Ok(None);
        };
        match fetched.check() {
            Ok(()) => Ok(Some(fetched)),
            Err(error) => good_part(partition, offset, bytes_max, wanted, error).map(Some),
        }
    }
}

/// What can be served in front of a damaged batch.
///
/// # Errors
/// If the first one is damaged.
fn good_part(
    partition: &Partition,
    from: Offset,
    bytes_max: usize,
    wanted: &FetchPartition,
    error: ReadError,
) -> Result<Fetched, ReadFailure> {
    let bad = match &error {
        ReadError::Corrupt { offset, .. } => *offset,
        _ => return Err(partition.read_error(error)),
    };
    if bad <= from {
        return Err(partition.read_error(error));
    }
    let epoch = wanted.current_leader_epoch;
    let read = partition.read(from, bytes_max, epoch, Look::Anyway, Some(bad))?;
    let Some(fetched) = read.ok().and_then(|read| read.fetched) else {
        return Err(partition.read_error(error));
    };
    match fetched.check() {
        Ok(()) => Ok(fetched),
        Err(error) => Err(partition.read_error(error)),
    }
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a histogram takes floating point; sizes are far below 2^52"
)]
fn as_f64(bytes: usize) -> f64 {
    bytes as f64
}
