//! What a start has found, held against what is known (S13): everything acknowledged is there, and
//! nothing that was never written.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use strandline_protocol::{
    Offset, PartitionId, ProducerId, Timestamp, TopicId, batch::split_batches,
};
use strandline_storage::{
    directory::PartitionName,
    log::{Log, ReadError},
};

use super::{
    machine::{Machine, NOW, Served, Start},
    model::{Attempt, Expected, Known, Line},
};
use crate::random::Random;

/// How much is read at once: a few batches.
const READ_BYTES: usize = 700;

/// How many batches of a producer are recognised when they come again.
const WINDOW: usize = 5;

/// What can be seen of a data directory: twice the same after two recoveries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Topics: identity, `retention.bytes`, number of partitions.
    pub topics: BTreeMap<String, (TopicId, Option<String>, i32)>,
    /// Logs: start, end and their batches.
    pub logs: BTreeMap<String, (i64, i64, Vec<Bytes>)>,
}

/// Holds a broker that has just started against what is known; tells what can be seen.
///
/// # Errors
/// What must not be.
pub fn hold(machine: &Machine, start: &Start, expected: &Expected) -> Result<Seen, String> {
    let identity = machine.data.identity();
    if expected.identity.is_some_and(|known| known != *identity) {
        return Err(format!(
            "the identity is {identity:?}, not {:?}",
            expected.identity
        ));
    }
    if let Some((name, trouble)) = start.opened.refused.first() {
        return Err(format!("{name} is not served: {trouble}"));
    }
    for (name, report) in &start.opened.reports {
        if let Some(damage) = report.damage.first() {
            return Err(format!("{name} is said to be damaged: {damage}"));
        }
    }
    let mut seen = Seen {
        topics: topics(machine, expected)?,
        ..Seen::default()
    };
    let empty = Arc::new(Line::default());
    for (name, served) in &machine.served {
        let at = super::workload::index(name);
        let line = expected.find(&name.topic, at).unwrap_or(&empty);
        let found = log(served, line).map_err(|what| format!("{name}: {what}"))?;
        seen.logs.insert(name.to_string(), found);
    }
    for (topic, state) in &expected.topics {
        if !seen.topics.contains_key(topic) {
            continue;
        }
        for at in 0..state.lines.len() {
            let name = PartitionName {
                topic: topic.clone(),
                partition: PartitionId(at as i32),
            };
            if !machine.served.contains_key(&name) {
                return Err(format!("{name} is not served"));
            }
        }
    }
    Ok(seen)
}

/// Topics: identity, `retention.bytes`, number of partitions.
pub type Topics = BTreeMap<String, (TopicId, Option<String>, i32)>;

/// The topics of a broker, held against what is known.
///
/// # Errors
/// What must not be.
pub fn topics(machine: &Machine, expected: &Expected) -> Result<Topics, String> {
    let image = machine.metadata.image();
    let mut seen = Topics::new();
    for topic in image.topics() {
        let retention = topic.configs.get("retention.bytes").cloned();
        let found = (topic.id, retention, topic.partition_count());
        seen.insert(topic.name.to_string(), found);
    }
    for (name, (id, retention, partitions)) in &seen {
        let known = match (expected.topics.get(name), &expected.attempt) {
            (Some(known), _) if known.id == *id => known,
            (
                None,
                Some(Attempt::Create {
                    name: new,
                    retention: wanted,
                    partitions: count,
                }),
            ) if new == name && !expected.gone.contains(id) => {
                if retention.as_ref() != Some(wanted) || *partitions != *count as i32 {
                    return Err(format!("topic {name} was created as something else"));
                }
                continue;
            }
            _ => {
                return Err(format!(
                    "topic {name} ({id}) was never created, or was deleted"
                ));
            }
        };
        let also = match &expected.attempt {
            Some(Attempt::Configure {
                name: of,
                retention,
            }) if of == name => Some(retention),
            _ => None,
        };
        let is_known = retention.as_ref() == Some(&known.retention) || retention.as_ref() == also;
        if !is_known {
            let known = &known.retention;
            return Err(format!(
                "topic {name} has retention.bytes {retention:?}, not {known}"
            ));
        }
        if *partitions != known.lines.len() as i32 {
            return Err(format!("topic {name} has {partitions} partitions"));
        }
    }
    for name in expected.topics.keys() {
        let is_going =
            matches!(&expected.attempt, Some(Attempt::Delete { name: of }) if of == name);
        if !seen.contains_key(name) && !is_going {
            return Err(format!("topic {name} is lost"));
        }
    }
    let next = image.next_producer_id();
    if let Some(last) = expected.producers.last()
        && *last >= next
    {
        return Err(format!("producer id {last} was given, and {next} is next"));
    }
    Ok(seen)
}

/// One log: everything that it must hold, and nothing else.
fn log(served: &Served, line: &Line) -> Result<(i64, i64, Vec<Bytes>), String> {
    let log = &served.log;
    let (start, end, durable) = (log.start().0, log.end().0, log.durable().0);
    if durable != end {
        return Err(format!("it ends at {end}, but only {durable} is durable"));
    }
    let (least, most) = line.start;
    if start < least || start > most {
        return Err(format!("it starts at {start}, not in {least}..={most}"));
    }
    if end < line.durable {
        return Err(format!(
            "it ends at {end}, and {} was acknowledged",
            line.durable
        ));
    }
    let batches = read_all(log).map_err(|error| format!("it cannot be read: {error}"))?;
    let mut next = None;
    for bytes in &batches {
        let base = i64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
        let known = line.at(base).filter(|known| known.stored == *bytes);
        let Some(known) = known else {
            return Err(format!("the batch at {base} was never written"));
        };
        let is_next = next.map_or(base <= start && start < known.end, |next| next == base);
        if !is_next {
            return Err(format!(
                "the batch at {base} stands where {next:?} must (start {start})"
            ));
        }
        if log.epoch_at(Offset(base.max(start))) != Some(known.epoch) {
            let found = log.epoch_at(Offset(base.max(start)));
            return Err(format!(
                "the batch at {base} of epoch {} has {found:?}",
                known.epoch
            ));
        }
        next = Some(known.end);
    }
    if next.unwrap_or(start) != end {
        return Err(format!(
            "what can be read ends at {next:?}, the log at {end}"
        ));
    }
    spots(log, line, start, end)?;
    Ok((start, end, batches))
}

/// Reads and lookups that begin in the middle.
///
/// # Errors
/// What must not be.
pub fn spots(log: &Log, line: &Line, start: i64, end: i64) -> Result<(), String> {
    if start == end {
        return Ok(());
    }
    let mut random = Random::new(end as u64, start as u64);
    for _ in 0..3 {
        let at = start + random.within(0..(end - start) as u64) as i64;
        let fetched = log.read(Offset(at), 1, log.end());
        let fetched = fetched.and_then(|fetched| fetched.check().map(|()| fetched));
        let fetched = fetched.map_err(|error| format!("offset {at} cannot be read: {error}"))?;
        let known = line.at(line.boundary(at));
        if known.is_none_or(|known| known.stored != fetched.bytes) {
            return Err(format!("a read at {at} gives another batch"));
        }
        let Some(time) = known.map(|known| known.timestamp) else {
            continue;
        };
        let there = |batch: &&Known| batch.end > start && batch.base < end;
        let due = line
            .batches
            .iter()
            .filter(there)
            .find(|batch| batch.timestamp >= time);
        let found = log
            .offset_for_time(Timestamp(time), log.end())
            .map_err(|error| format!("no lookup by time: {error}"))?;
        let due = due.map(|batch| batch.base.max(start));
        if found.map(|found| found.offset.0.max(start)) != due {
            return Err(format!("time {time} is found at {found:?}, not at {due:?}"));
        }
    }
    Ok(())
}

/// Every batch from the start to the end of a log, checked as for a consumer.
///
/// # Errors
/// As [`Log::read`].
pub fn read_all(log: &Log) -> Result<Vec<Bytes>, ReadError> {
    let mut batches = Vec::new();
    let mut next = log.start();
    while next < log.end() {
        let fetched = log.read(next, READ_BYTES, log.end())?;
        fetched.check()?;
        if fetched.end_offset <= next {
            break;
        }
        split(&fetched.bytes, &mut batches);
        next = fetched.end_offset;
    }
    Ok(batches)
}

/// Cuts what was read into batches.
pub fn split(bytes: &Bytes, batches: &mut Vec<Bytes>) {
    for view in split_batches(bytes).flatten() {
        batches.push(bytes.slice_ref(view.bytes()));
    }
}

/// Clients go on where they were: what was found is a duplicate, what was lost is accepted, in
/// order and at the offsets that are next.
///
/// # Errors
/// What must not be.
pub fn resume(machine: &mut Machine, expected: &Expected) -> Result<(), String> {
    for (name, served) in &mut machine.served {
        let at = super::workload::index(name);
        if let Some(line) = expected.find(&name.topic, at) {
            resend(served, line).map_err(|what| format!("{name}: {what}"))?;
        }
    }
    Ok(())
}

fn resend(served: &mut Served, line: &Line) -> Result<(), String> {
    let log = &mut served.log;
    let (start, end) = (log.start().0, log.end().0);
    let now = Timestamp(line.batches.last().map_or(NOW.0, |batch| batch.timestamp));
    for known in recognised(line, start, end) {
        let placed = log.append(&known.sent, served.epoch, now);
        let placed =
            placed.map_err(|error| format!("a retry at {} failed: {error}", known.base))?;
        let found = (placed.base_offset.0, placed.end_offset.0, placed.duplicate);
        if found != (known.base, known.end, true) {
            return Err(format!("a retry of {} was placed at {found:?}", known.base));
        }
    }
    let lost = line.batches.iter().filter(|batch| batch.base >= end);
    for known in lost {
        let due = log.end().0;
        let placed = log.append(&known.sent, served.epoch, now);
        let placed = placed.map_err(|error| format!("what was lost is refused: {error}"))?;
        if placed.duplicate || placed.base_offset.0 != due {
            return Err(format!(
                "{} was lost, and is placed at {placed:?}",
                known.base
            ));
        }
    }
    log.flush().map(drop).map_err(|error| error.to_string())
}

/// The last batches of each producer that must be known again, oldest first.
fn recognised(line: &Line, start: i64, end: i64) -> Vec<&Known> {
    let mut counts: BTreeMap<ProducerId, (i16, usize)> = BTreeMap::new();
    let mut found = Vec::new();
    let there = |batch: &&Known| batch.base >= start && batch.end <= end;
    for known in line.batches.iter().rev().filter(there) {
        if known.producer.id == ProducerId::NONE {
            continue;
        }
        let epoch = known.producer.epoch.0;
        let (newest, count) = counts.entry(known.producer.id).or_insert((epoch, 0));
        if *newest == epoch && *count < WINDOW {
            *count += 1;
            found.push(known);
        }
    }
    found.reverse();
    found
}
