//! `Fetch` (10), versions 0 to 0: reads record batches, waiting for them if it is told to.
//!
//! *Patterns: request waiting list, high-water mark.*

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use strandline_core::{follower_reads::nearest_replica, waiting::Ticket};
use strandline_protocol::{
    ApiKey, ErrorCode, Offset, TopicPartition,
    messages::{Failure, FetchPartition, FetchRequest, FetchResponse, FetchedPartition},
};
use strandline_storage::log::{Fetched, ReadError};
use tokio::time::Instant;

use super::{
    Handled, Request, check_entries,
    cold::{ColdRead, warm, warm_behind},
};
use crate::{
    partition::{FetchToken, Look, Partition, ReadFailure, Reading, Source},
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

fn look(broker: &Broker, request: &FetchRequest, look: Look, patience: Patience) -> Step {
    let source = match &request.rack {
        // Whoever names its rack was sent here by the leader, or will be sent on.
        Some(_) => Source::Any,
        None => Source::Leader,
    };
    let mut gathered = Gathered {
        source,
        left: to_usize(request.bytes_max).min(broker.limits.fetch_bytes_max),
        payload: Vec::new(),
        bytes: 0,
        cold: Vec::new(),
        from: Vec::new(),
        served: Vec::new(),
        is_urgent: false,
    };
    let partitions = request
        .partitions
        .iter()
        .map(|wanted| gathered.partition(broker, wanted, request.rack.as_deref(), look))
        .collect();
    if !gathered.cold.is_empty() && gathered.bytes == 0 {
        return Step::Cold(gathered.cold);
    }
    let lacking = to_usize(request.bytes_min).saturating_sub(gathered.bytes);
    if patience == Patience::Left && lacking > 0 && !gathered.is_urgent && gathered.cold.is_empty()
    {
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
    source: Source,
    left: usize,
    payload: Vec<Bytes>,
    bytes: usize,
    cold: Vec<ColdRead>,
    from: Vec<(TopicPartition, i64)>,
    /// Bytes and records to be counted, once they are really sent.
    served: Vec<(Arc<Partition>, u64, u64)>,
    /// Whether something is to be told at once, be there records or not.
    is_urgent: bool,
}

impl Gathered {
    fn partition(
        &mut self,
        broker: &Broker,
        wanted: &FetchPartition,
        rack: Option<&str>,
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
            preferred_replica: None,
        };
        let partition = broker.partitions.get(id).map_err(ReadFailure::from);
        let read = partition.and_then(|partition| {
            if let Some(rack) = rack
                && self.sends_on(broker, &partition, rack, &mut answer, wanted.fetch_offset)
            {
                return Ok(());
            }
            self.read(&partition, wanted, look, &mut answer)
                .map_err(|failure| with_range(broker, &partition, failure, &mut answer))
        });
        if let Err(failure) = read {
            broker.metrics.error(ApiKey::Fetch, failure.failure.error);
            self.is_urgent = true;
            answer.failure = failure.failure;
            answer.next_good_offset = failure.next_good;
        }
        answer
    }

    /// Sends a consumer on to a replica in its rack that has what it wants; only the leader does.
    fn sends_on(
        &mut self,
        broker: &Broker,
        partition: &Partition,
        rack: &str,
        answer: &mut FetchedPartition,
        offset: Offset,
    ) -> bool {
        let image = broker.metadata.image();
        let placed = image.partition(partition.id());
        let nearest = placed.and_then(|placed| nearest_replica(&image, placed, rack));
        let Some((nearest, led)) = nearest.zip(partition.describe().ok()) else {
            return false;
        };
        let has_it = led
            .followers
            .iter()
            .any(|it| it.broker == nearest && it.log_end >= Some(offset));
        if !has_it || offset < led.marks.log_start || offset > led.marks.high_watermark {
            return false;
        }
        answer.preferred_replica = Some(nearest);
        answer.log_start_offset = led.marks.log_start;
        answer.high_watermark = led.marks.high_watermark;
        self.is_urgent = true;
        true
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
        let reading = Reading {
            from: offset,
            bytes_max,
            known_epoch: wanted.current_leader_epoch,
            source: self.source,
            look,
            below: None,
        };
        let read = match partition.read(&reading)? {
            Ok(read) => read,
            Err(range) => {
                self.cold.push(ColdRead {
                    range,
                    partition: Arc::clone(partition),
                    offset,
                    bytes_max,
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
            Err(error) => good_part(partition, &reading, error).map(Some),
        }
    }
}

/// Tells beside a wrong offset which ones are right. A leader whose lease is over may have been
/// replaced, by one that has more: it does not say what is out of range.
fn with_range(
    broker: &Broker,
    partition: &Partition,
    failure: ReadFailure,
    answer: &mut FetchedPartition,
) -> ReadFailure {
    if failure.failure.error != ErrorCode::OFFSET_OUT_OF_RANGE {
        return failure;
    }
    if partition.is_replicated() && !broker.metadata.lease_figures().held {
        let message = "this broker has not been heard of for long, and perhaps another one leads \
                       the partition: refresh metadata and retry";
        return Failure::new(ErrorCode::NOT_LEADER_OR_FOLLOWER, message).into();
    }
    if let Some(figures) = partition.figures() {
        answer.log_start_offset = figures.marks.log_start;
        answer.high_watermark = figures.marks.high_watermark;
    }
    failure
}

/// What can be served in front of a damaged batch.
///
/// # Errors
/// If the first one is damaged.
fn good_part(
    partition: &Partition,
    reading: &Reading,
    error: ReadError,
) -> Result<Fetched, ReadFailure> {
    let bad = match &error {
        ReadError::Corrupt { offset, .. } => *offset,
        _ => return Err(partition.read_error(error)),
    };
    if bad <= reading.from {
        return Err(partition.read_error(error));
    }
    let in_front = Reading {
        look: Look::Anyway,
        below: Some(bad),
        ..*reading
    };
    let read = partition.read(&in_front)?;
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
