//! Damaged ranges of logs are fetched again from a replica that has them.
//!
//! *Pattern: leader and followers.* Replicas hold the same bytes. Whoever meets a batch that went
//! bad tells of it here; one task fetches that range from another broker, as a consumer reads, and
//! has it put back. Until that was tried, readers are told to ask again; if nobody can give it,
//! they are told of the damage, the controller takes this replica out, and it is tried again from
//! time to time.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use strandline_client::connection::Connection;
use strandline_protocol::{
    BrokerId, ErrorCode, Offset, TopicPartition,
    batch::split_batches,
    messages::{FetchPartition, FetchRequest, Purpose},
};
use strandline_storage::log::RepairError;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::{
    partition::{Partition, Partitions},
    server::spawn::blocking,
};

/// How many damaged ranges of one partition are kept in mind.
const RANGES_MAX: usize = 256;

/// How much one request fetches, in bytes.
const FETCH_BYTES_MAX: u32 = 8 << 20;

/// How large a damaged range may be, in bytes: more is a lost segment.
const RANGE_BYTES_MAX: usize = 256 << 20;

/// How long a range rests that could not be repaired; twice as long after each further failure.
const BACK_OFF_MIN: Duration = Duration::from_millis(500);

/// How long it rests at most.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// Whether damage may be repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hope {
    /// It is being fetched again: whoever reads there had better ask again.
    Underway,
    /// Nobody else keeps the partition, or nobody could give what is lost.
    None,
}

/// What is to be repaired.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    damaged: Mutex<BTreeMap<TopicPartition, BTreeMap<Offset, Damage>>>,
    arrived: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Damage {
    end: Offset,
    kind: Kind,
    failures: u32,
    /// When it is tried next; never, if nobody has it.
    due: Option<Instant>,
}

/// What is wrong with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What stands there is bad, or a segment is lost.
    Bad,
    /// A repair took it out, here and perhaps everywhere.
    Removed,
}

/// What came of an attempt.
enum Attempt {
    /// It is whole again; from whom.
    Repaired(BrokerId),
    /// It is not in the log any more, or the partition is not here.
    Gone,
    /// The partition is still being opened.
    TooEarly,
    /// Everybody answers that it is not in their logs either.
    Nowhere,
    /// Nobody could give it; why.
    Failed(String),
}

/// Why one replica does not give a range.
enum NotGiven {
    /// It was taken out of its log, too.
    Removed,
    /// Something else; what.
    Failed(String),
}

impl Repairs {
    /// A range cannot be read. Cheap: takes no lock of a partition.
    pub(super) fn add(&self, id: TopicPartition, offsets: &Range<Offset>, kind: Kind) -> Hope {
        let mut damaged = self.damaged.lock();
        let ranges = damaged.entry(id).or_default();
        if let Some(known) = ranges
            .get(&offsets.start)
            .filter(|it| it.end == offsets.end)
        {
            return match (known.failures, known.due) {
                (0, Some(_)) => Hope::Underway,
                _ => Hope::None,
            };
        }
        if ranges.len() >= RANGES_MAX {
            return Hope::None;
        }
        let damage = Damage {
            end: offsets.end,
            kind,
            failures: 0,
            due: Some(Instant::now()),
        };
        ranges.insert(offsets.start, damage);
        drop(damaged);
        self.arrived.notify_one();
        Hope::Underway
    }

    /// Forgets the partition.
    pub(super) fn forget(&self, id: TopicPartition) {
        self.damaged.lock().remove(&id);
    }

    /// The first range that is due, and when the next one is.
    fn next(&self, now: Instant) -> (Option<Due>, Option<Instant>) {
        let damaged = self.damaged.lock();
        let mut next = None;
        for (id, ranges) in damaged.iter() {
            for (start, damage) in ranges {
                let Some(due) = damage.due else {
                    continue;
                };
                if due <= now {
                    return (Some((*id, *start..damage.end, damage.kind)), None);
                }
                next = Some(next.map_or(due, |at: Instant| at.min(due)));
            }
        }
        (None, next)
    }

    /// Nobody has it: it is not asked for again. Whether it had failed before and was the last such
    /// one of its partition.
    fn given_up(&self, id: TopicPartition, start: Offset) -> bool {
        let mut damaged = self.damaged.lock();
        let Some(ranges) = damaged.get_mut(&id) else {
            return false;
        };
        let Some(damage) = ranges.get_mut(&start) else {
            return false;
        };
        damage.due = None;
        let had_failed = std::mem::take(&mut damage.failures) > 0;
        had_failed && !ranges.values().any(|it| it.failures > 0)
    }

    /// Takes a range out; whether it had failed before and was the last such one of its partition.
    fn remove(&self, id: TopicPartition, start: Offset) -> bool {
        let mut damaged = self.damaged.lock();
        let Some(ranges) = damaged.get_mut(&id) else {
            return false;
        };
        let had_failed = ranges.remove(&start).is_some_and(|it| it.failures > 0);
        let is_well = !ranges.values().any(|it| it.failures > 0);
        if ranges.is_empty() {
            damaged.remove(&id);
        }
        had_failed && is_well
    }

    /// Tries it again later; returns how often it has failed by now.
    fn failed(&self, id: TopicPartition, start: Offset, now: Instant) -> u32 {
        let mut damaged = self.damaged.lock();
        let Some(damage) = damaged.get_mut(&id).and_then(|it| it.get_mut(&start)) else {
            return 0;
        };
        let rest = BACK_OFF_MIN.saturating_mul(1 << damage.failures.min(10));
        damage.failures = damage.failures.saturating_add(1);
        damage.due = Some(now + rest.min(BACK_OFF_MAX));
        damage.failures
    }

    fn put_off(&self, id: TopicPartition, start: Offset, until: Instant) {
        let mut damaged = self.damaged.lock();
        if let Some(damage) = damaged.get_mut(&id).and_then(|it| it.get_mut(&start)) {
            damage.due = Some(until);
        }
    }
}

/// What is to be tried now.
type Due = (TopicPartition, Range<Offset>, Kind);

/// Repairs what is told to be damaged, until `halt`.
pub(super) async fn repair(
    shared: Arc<Shared>,
    partitions: Arc<Partitions>,
    halt: CancellationToken,
) {
    loop {
        let (due, next) = shared.repairs.next(Instant::now());
        let Some((id, offsets, kind)) = due else {
            tokio::select! {
                biased;
                () = halt.cancelled() => return,
                () = shared.repairs.arrived.notified() => {}
                () = sleep_until(next.unwrap_or_else(far)), if next.is_some() => {}
            }
            continue;
        };
        let attempt = tokio::select! {
            biased;
            () = halt.cancelled() => return,
            attempt = attempt(&shared, &partitions, id, offsets.clone()) => attempt,
        };
        let attempt = match (attempt, kind) {
            (Attempt::Nowhere, Kind::Bad) => Attempt::Failed("nobody else has it".to_owned()),
            (attempt, _) => attempt,
        };
        shared.attempted(id, &offsets, attempt);
    }
}

fn far() -> Instant {
    Instant::now() + BACK_OFF_MAX
}

impl Shared {
    fn attempted(&self, id: TopicPartition, offsets: &Range<Offset>, attempt: Attempt) {
        let (start, now) = (offsets.start, Instant::now());
        let image = self.metadata.image();
        let topic = image.topic_by_id(id.topic);
        let topic = topic.map_or("", |topic| topic.name.as_ref());
        match attempt {
            Attempt::Repaired(from) => {
                self.metrics.repaired.increment(1);
                tracing::info!(
                    topic, partition = %id.partition, offset = %start, %from,
                    "a batch that went bad was repaired"
                );
                self.remove(id, start);
            }
            Attempt::Gone => self.remove(id, start),
            Attempt::Nowhere => {
                tracing::error!(
                    topic, partition = %id.partition, offset = %start, next_good = %offsets.end,
                    "what a repair took out is in no other replica's log either: it is given up"
                );
                if self.repairs.given_up(id, start) {
                    self.metadata.partition_repaired(id);
                }
            }
            Attempt::TooEarly => self.repairs.put_off(id, start, now + BACK_OFF_MIN),
            Attempt::Failed(reason) => {
                if self.repairs.failed(id, start, now) != 1 {
                    return;
                }
                self.metrics.repair_failed.increment(1);
                tracing::error!(
                    topic, partition = %id.partition, offset = %start, next_good = %offsets.end,
                    "what is damaged cannot be fetched from another replica, which is tried again: \
                     {reason}"
                );
                self.metadata.partition_damaged(id);
            }
        }
    }

    fn remove(&self, id: TopicPartition, start: Offset) {
        if self.repairs.remove(id, start) {
            self.metadata.partition_repaired(id);
        }
    }

    /// Who may have it: the leader first, then who is in sync, then the others.
    fn sources(&self, id: TopicPartition) -> Vec<BrokerId> {
        let image = self.metadata.image();
        let Some(partition) = image.partition(id) else {
            return Vec::new();
        };
        let replicas = partition.replicas.iter().map(|replica| replica.broker);
        let all = partition.leader.into_iter();
        let all = all.chain(partition.isr.iter().copied()).chain(replicas);
        let mut sources = Vec::new();
        for broker in all.filter(|broker| *broker != self.me) {
            if !sources.contains(&broker) {
                sources.push(broker);
            }
        }
        sources
    }
}

/// Asks one replica after the other. Cancel safe: what is being written is written to its end.
async fn attempt(
    shared: &Shared,
    partitions: &Partitions,
    id: TopicPartition,
    offsets: Range<Offset>,
) -> Attempt {
    let partition = match partitions.get(id) {
        Ok(partition) => partition,
        Err(failure) if failure.error == ErrorCode::NOT_LEADER_OR_FOLLOWER => {
            return Attempt::TooEarly;
        }
        Err(_) => return Attempt::Gone,
    };
    let sources = shared.sources(id);
    let mut reason = "nobody else keeps it".to_owned();
    let mut lack_it = 0;
    for source in &sources {
        let source = *source;
        let (start, end) = partition.bounds();
        if offsets.end <= start || offsets.end > end {
            // It was deleted or cut meanwhile, here and perhaps everywhere else.
            return Attempt::Gone;
        }
        let from = offsets.start.max(start);
        let fetched = match fetch(shared, source, id, &offsets, from).await {
            Ok(fetched) => fetched,
            Err(NotGiven::Removed) => {
                lack_it += 1;
                continue;
            }
            Err(NotGiven::Failed(failed)) => {
                reason = format!("broker {source}: {failed}");
                continue;
            }
        };
        let (partition, offsets) = (Arc::clone(&partition), offsets.clone());
        let work = move || put_back(&partition, offsets, fetched);
        match blocking(shared.threads, work).await {
            Some(Ok(())) => return Attempt::Repaired(source),
            Some(Err(RepairError::Gone { .. })) => return Attempt::Gone,
            Some(Err(error)) => reason = format!("broker {source}: {error}"),
            None => return Attempt::TooEarly,
        }
    }
    if !sources.is_empty() && lack_it == sources.len() {
        return Attempt::Nowhere;
    }
    Attempt::Failed(reason)
}

fn put_back(
    partition: &Partition,
    offsets: Range<Offset>,
    batches: Bytes,
) -> Result<(), RepairError> {
    partition.put_back(offsets, batches)
}

/// The whole batches of a range, as another broker has them. The first one is asked for by `from`,
/// as that may hold the start of the log, and nothing in front of that is given out.
async fn fetch(
    shared: &Shared,
    source: BrokerId,
    id: TopicPartition,
    offsets: &Range<Offset>,
    from: Offset,
) -> Result<Bytes, NotGiven> {
    let connection = shared
        .connect(source, Purpose::Replication)
        .await
        .map_err(|error| NotGiven::Failed(error.to_string()))?;
    let mut batches = BytesMut::new();
    let mut at = offsets.start;
    while at < offsets.end {
        let payload = fetch_some(&connection, id, at.max(from)).await;
        let payload = payload.map_err(NotGiven::Failed)?;
        let before = at;
        for batch in split_batches(&payload) {
            let batch = batch.map_err(|error| NotGiven::Failed(error.to_string()))?;
            if batch.header().base_offset() > at {
                return Err(NotGiven::Removed);
            }
            if batch.header().base_offset() != at || batch.header().end_offset() > offsets.end {
                break;
            }
            batches.extend_from_slice(batch.bytes());
            at = batch.header().end_offset();
        }
        if at == before {
            let reason = format!("no batch of it begins at offset {at}");
            return Err(NotGiven::Failed(reason));
        }
        if batches.len() > RANGE_BYTES_MAX {
            let reason = format!("it is larger than {RANGE_BYTES_MAX} bytes");
            return Err(NotGiven::Failed(reason));
        }
    }
    Ok(batches.freeze())
}

async fn fetch_some(
    connection: &Connection,
    id: TopicPartition,
    from: Offset,
) -> Result<Bytes, String> {
    let request = FetchRequest {
        wait_ms_max: 0,
        bytes_min: 0,
        bytes_max: FETCH_BYTES_MAX,
        // Whoever names a rack is served by followers too; nobody lies in this one.
        rack: Some(String::new()),
        partitions: vec![FetchPartition {
            topic_id: id.topic,
            partition: id.partition,
            fetch_offset: from,
            bytes_max: FETCH_BYTES_MAX,
            current_leader_epoch: None,
        }],
    };
    let answer = connection.request(&request, Vec::new()).await;
    let (response, payload) = answer.map_err(|error| error.to_string())?;
    let failure = response.partitions.into_iter().next().map(|it| it.failure);
    match failure {
        Some(failure) => failure.into_result().map_err(|failure| failure.message)?,
        None => return Err("it does not answer for the partition".to_owned()),
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use strandline_protocol::{PartitionId, TopicId};

    use super::*;

    const ID: TopicPartition = TopicPartition {
        topic: TopicId([1; 16]),
        partition: PartitionId(0),
    };

    #[test]
    fn readers_are_told_to_come_again_until_it_was_tried() {
        let (repairs, now) = (Repairs::default(), Instant::now());
        let range = Offset(3)..Offset(5);
        assert_eq!(repairs.add(ID, &range, Kind::Bad), Hope::Underway);
        assert_eq!(repairs.add(ID, &range, Kind::Bad), Hope::Underway);
        let later = now + BACK_OFF_MAX;
        let due = Some((ID, range.clone(), Kind::Bad));
        assert_eq!(repairs.next(later).0, due);
        assert_eq!(repairs.failed(ID, range.start, later), 1);
        assert_eq!(repairs.add(ID, &range, Kind::Bad), Hope::None);
        assert_eq!(repairs.next(later), (None, Some(later + BACK_OFF_MIN)));
        assert!(repairs.remove(ID, range.start));
        assert_eq!(repairs.add(ID, &range, Kind::Bad), Hope::Underway);
        assert!(!repairs.remove(ID, range.start));
    }

    #[test]
    fn what_nobody_has_is_not_asked_for_again() {
        let (repairs, now) = (Repairs::default(), Instant::now());
        let range = Offset(3)..Offset(5);
        assert_eq!(repairs.add(ID, &range, Kind::Removed), Hope::Underway);
        assert!(!repairs.given_up(ID, range.start), "it had not failed");
        assert_eq!(repairs.add(ID, &range, Kind::Removed), Hope::None);
        assert_eq!(repairs.next(now + BACK_OFF_MAX), (None, None));
        let other = Offset(8)..Offset(9);
        repairs.add(ID, &other, Kind::Removed);
        repairs.failed(ID, other.start, now);
        assert!(repairs.given_up(ID, other.start));
    }

    #[test]
    fn a_partition_is_well_when_the_last_range_is() {
        let (repairs, now) = (Repairs::default(), Instant::now());
        for start in [3, 9] {
            let range = Offset(start)..Offset(start + 1);
            assert_eq!(repairs.add(ID, &range, Kind::Bad), Hope::Underway);
            repairs.failed(ID, range.start, now);
        }
        assert!(!repairs.remove(ID, Offset(3)));
        assert!(repairs.remove(ID, Offset(9)));
        for start in 0..1_000 {
            let _ = repairs.add(ID, &(Offset(start)..Offset(start + 1)), Kind::Bad);
        }
        let kept = repairs.damaged.lock().get(&ID).map(BTreeMap::len);
        assert_eq!(kept, Some(RANGES_MAX));
    }
}
