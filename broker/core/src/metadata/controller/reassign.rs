//! Replicas on their way to other brokers (KIP-455).
//!
//! A reassignment adds the new replicas first, and takes the old ones away once the new ones are
//! in sync: at no time are there fewer copies than before.

use std::collections::{BTreeMap, BTreeSet};

use strandline_protocol::{
    BrokerId, ErrorCode, TopicPartition,
    messages::{
        Duty, Failure, PartitionOutcome, ReassignPartitionsRequest, ReassignPartitionsResponse,
        Reassignment,
    },
};

use super::{
    Decision, Reply,
    disks::Disks,
    draft::{Changes, Draft},
    electorate::{Electorate, Loss},
};
use crate::metadata::{
    image::{BrokerState, Image},
    record::{Record, Replica, Replicas},
    topic::Partition,
};

/// What the request has placed so far.
type Placed = BTreeMap<Replica, usize>;

/// Decides each partition on its own.
pub(super) fn reassign(
    image: &Image,
    disks: &Disks,
    request: &ReassignPartitionsRequest,
) -> Decision {
    let electorate = Electorate::of(image, disks);
    let (mut changes, mut placed) = (Changes::default(), Placed::new());
    let mut seen = BTreeSet::new();
    let mut outcomes = Vec::with_capacity(request.partitions.len());
    for wanted in &request.partitions {
        let of = TopicPartition {
            topic: wanted.topic_id,
            partition: wanted.partition,
        };
        let decided = if seen.insert(of) {
            one(&electorate, disks, &mut placed, of, wanted)
        } else {
            let message = format!("partition {of} is named twice in one request: name it once");
            Err(Failure::new(ErrorCode::INVALID_REQUEST, message))
        };
        let failure = match decided {
            Ok(draft) => {
                changes.add(draft);
                Failure::none()
            }
            Err(failure) => failure,
        };
        outcomes.push(PartitionOutcome {
            topic_id: wanted.topic_id,
            partition: wanted.partition,
            failure,
        });
    }
    // Who is refused everything has changed nothing, not the limit either.
    let is_refused = |outcome: &PartitionOutcome| !outcome.failure.error.is_none();
    let nothing_begins = !outcomes.is_empty() && outcomes.iter().all(is_refused);
    let throttle = request.throttle_bytes_per_second;
    let is_new = |limit: &u64| *limit != image.replication_throttle().unwrap_or(0);
    let throttle = throttle.filter(|limit| !nothing_begins && is_new(limit));
    let mut records: Vec<Record> = throttle
        .map(|bytes_per_second| Record::ReplicationThrottled { bytes_per_second })
        .into_iter()
        .collect();
    records.extend(changes.into_records());
    Decision {
        records,
        reply: Reply::Reassigned(ReassignPartitionsResponse {
            partitions: outcomes,
        }),
    }
}

fn one<'a>(
    electorate: &Electorate<'a>,
    disks: &Disks,
    placed: &mut Placed,
    of: TopicPartition,
    wanted: &Reassignment,
) -> Result<Draft<'a>, Failure> {
    let partition = electorate.image.partition(of);
    let draft = partition.and_then(|partition| electorate.draft(of, partition));
    let Some(mut draft) = draft else {
        return Err(Failure::new(
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            format!("there is no partition {of}: refresh the metadata"),
        ));
    };
    match &wanted.replicas {
        Some(target) => begin(electorate, disks, placed, &mut draft, target)?,
        None => take_back(electorate, &mut draft)?,
    }
    Ok(draft)
}

/// The replicas as they were before the reassignment that is under way, if one is.
fn base(partition: &Partition) -> Vec<Replica> {
    let stays = |replica: &&Replica| !partition.adding.contains(&replica.broker);
    partition.replicas.iter().filter(stays).copied().collect()
}

/// Starts a reassignment, in the place of one that is under way. One that has nothing to wait for
/// is done at once.
fn begin(
    electorate: &Electorate<'_>,
    disks: &Disks,
    placed: &mut Placed,
    draft: &mut Draft<'_>,
    target: &[BrokerId],
) -> Result<(), Failure> {
    let base = base(draft.before);
    let distinct: BTreeSet<BrokerId> = target.iter().copied().collect();
    if target.is_empty() || distinct.len() != target.len() {
        let names: Vec<String> = target.iter().map(ToString::to_string).collect();
        return Err(impossible(format!(
            "partition {} is to lie on brokers [{}]: name at least one, and each once",
            draft.name(),
            names.join(", ")
        )));
    }
    let mut replicas = Replicas::with_capacity(target.len());
    for broker in target {
        let kept = draft.before.replica_on(*broker).copied();
        let replica = match kept {
            Some(kept) => kept,
            None => place(electorate.image, disks, placed, *broker)?,
        };
        replicas.push(replica);
    }
    let is_target = |replica: &Replica| distinct.contains(&replica.broker);
    let removed = base.iter().filter(|replica| !is_target(replica)).copied();
    let removed: Vec<Replica> = removed.collect();
    draft.next.removing = removed.iter().map(|replica| replica.broker).collect();
    draft.next.adding = target
        .iter()
        .copied()
        .filter(|broker| base.iter().all(|replica| replica.broker != *broker))
        .collect();
    replicas.extend(removed);
    draft.next.replicas = replicas;
    keep_leader(electorate, draft)?;
    electorate.complete(draft);
    Ok(())
}

/// Goes back to the replicas of before.
fn take_back(electorate: &Electorate<'_>, draft: &mut Draft<'_>) -> Result<(), Failure> {
    if !draft.before.is_reassigned() {
        return Err(Failure::new(
            ErrorCode::NO_REASSIGNMENT_IN_PROGRESS,
            format!("partition {} is not being reassigned", draft.name()),
        ));
    }
    draft.next.replicas = base(draft.before);
    draft.next.adding.clear();
    draft.next.removing.clear();
    keep_leader(electorate, draft)
}

/// Who keeps a copy no more is neither in sync nor leads.
fn keep_leader(electorate: &Electorate<'_>, draft: &mut Draft<'_>) -> Result<(), Failure> {
    let (before, next) = (draft.before, &draft.next);
    let keeps = |broker: &BrokerId| next.replica_on(*broker).is_some();
    let isr: Vec<BrokerId> = before.isr.iter().copied().filter(keeps).collect();
    let had_any = !before.isr.is_empty() || !before.elr.is_empty();
    let has_any = !isr.is_empty() || before.elr.iter().any(keeps);
    let leads_on = before.leader.is_none_or(|leader| keeps(&leader));
    draft.in_sync(isr);
    if !leads_on {
        match electorate.leader(draft.topic, &draft.next, Loss::AsConfigured) {
            Some(elected) => draft.led_by(elected),
            None => return Err(nobody_left(draft)),
        }
    } else if had_any && !has_any && !draft.topic.elects_unclean() {
        return Err(nobody_left(draft));
    }
    Ok(())
}

fn nobody_left(draft: &Draft<'_>) -> Failure {
    Failure::new(
        ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE,
        format!(
            "partition {} would lose every replica that has all records: wait until another one of \
             those that stay is in sync",
            draft.name()
        ),
    )
}

/// The emptiest usable data directory of a broker that is to keep a new copy.
fn place(
    image: &Image,
    disks: &Disks,
    placed: &mut Placed,
    broker: BrokerId,
) -> Result<Replica, Failure> {
    let Some(known) = image.broker(broker) else {
        return Err(impossible(format!(
            "broker {broker} is not registered: check its number"
        )));
    };
    if known.state != BrokerState::Active {
        return Err(impossible(format!(
            "broker {broker} does not take part now: start it first"
        )));
    }
    if known.duty == Duty::Drained {
        return Err(impossible(format!(
            "broker {broker} is drained: give it back its duty first, or name another one"
        )));
    }
    let places = disks.places(broker, &known.registration.directories);
    let places = places.into_iter();
    let replicas = places.map(|directory| Replica { broker, directory });
    let load = |replica: &Replica| {
        let more = placed.get(replica).copied().unwrap_or(0);
        image.load(replica.broker, replica.directory) + more
    };
    let Some(emptiest) = replicas.min_by_key(load) else {
        return Err(impossible(format!(
            "broker {broker} has no usable data directory: see its log for what failed"
        )));
    };
    *placed.entry(emptiest).or_default() += 1;
    Ok(emptiest)
}

fn impossible(why: String) -> Failure {
    Failure::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, why)
}

impl Electorate<'_> {
    /// Ends the reassignment that is under way, if everything is where it is to be: all that are
    /// added are in sync, and somebody who stays is; where there are to be fewer copies than
    /// before, all that stay are.
    pub(super) fn complete(&self, draft: &mut Draft<'_>) {
        let next = &draft.next;
        if !next.is_reassigned() {
            return;
        }
        let stays = |broker: &BrokerId| !next.removing.contains(broker);
        let target: Vec<Replica> = next
            .replicas
            .iter()
            .filter(|replica| stays(&replica.broker))
            .copied()
            .collect();
        let isr: Vec<BrokerId> = next.isr.iter().copied().filter(stays).collect();
        let shrinks = next.removing.len() > next.adding.len();
        let all_in = next.adding.iter().all(|broker| isr.contains(broker))
            && (!shrinks || target.iter().all(|replica| isr.contains(&replica.broker)));
        if isr.is_empty() || !all_in {
            return;
        }
        let mut done = next.clone();
        done.replicas = target;
        done.isr.clone_from(&isr);
        done.adding.clear();
        done.removing.clear();
        let leads_on = done.leader.is_some_and(|leader| isr.contains(&leader));
        let elected = self.leader(draft.topic, &done, Loss::Avoided);
        if !leads_on && elected.is_none() {
            return;
        }
        draft.next = done;
        draft.in_sync(isr);
        if let Some(elected) = elected.filter(|_| !leads_on) {
            draft.led_by(elected);
        }
    }
}
