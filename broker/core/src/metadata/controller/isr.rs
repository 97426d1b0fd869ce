//! Who is in sync, as the leaders see it and the controller decides (KIP-497).
//!
//! *Pattern: generation clock.* A leader names the epochs that it goes on from: its own, that of
//! the partition, and that of every broker that it wants in sync. Whatever has changed meanwhile
//! refuses the change, so that nobody is counted who may have lost what made it count (KIP-903).

use std::collections::{BTreeMap, BTreeSet};

use strandline_protocol::{
    BrokerId, ErrorCode, PartitionEpoch, TopicPartition,
    messages::{
        AlterPartition, AlterPartitionsRequest, AlterPartitionsResponse, AlteredPartition, Failure,
        InSyncReplica,
    },
};

use super::{
    Decision, Reply, brokers,
    disks::Disks,
    draft::{Changes, Draft},
    electorate::{Electorate, Loss},
};
use crate::{
    metadata::{
        image::{BrokerState, Image},
        topic::Partition,
    },
    mutants::{self, Mutant},
};

/// Decides each partition on its own.
///
/// # Errors
/// `BROKER_ID_NOT_REGISTERED`, `STALE_BROKER_EPOCH`.
pub(super) fn alter_partitions(
    image: &Image,
    disks: &Disks,
    damaged: &BTreeMap<BrokerId, BTreeSet<TopicPartition>>,
    request: &AlterPartitionsRequest,
) -> Result<Decision, Failure> {
    brokers::acting(image, request.broker_id, request.broker_epoch)?;
    let electorate = Electorate::of(image, disks);
    let (mut changes, mut seen) = (Changes::default(), BTreeSet::new());
    let partitions = request.partitions.iter().map(|wanted| {
        let of = TopicPartition {
            topic: wanted.topic_id,
            partition: wanted.partition,
        };
        let is_first = seen.insert(of);
        let decided = if is_first {
            alter(&electorate, of, request.broker_id, wanted)
                .and_then(|draft| check_whole(damaged, draft))
        } else {
            refuse(
                ErrorCode::INVALID_REQUEST,
                format!("partition {of} is named twice in one request: name it once"),
            )
        };
        let (failure, draft) = match decided {
            Ok(draft) if draft.next.leader == draft.before.leader => (Failure::none(), Some(draft)),
            Ok(draft) => (new_leader(&draft), Some(draft)),
            Err(failure) => (failure, None),
        };
        let changed = draft.and_then(|draft| changes.add(draft));
        let known = image.partition(of).map(|known| known.partition_epoch);
        AlteredPartition {
            topic_id: wanted.topic_id,
            partition: wanted.partition,
            failure,
            partition_epoch: changed
                .map(|change| change.partition_epoch)
                .or(known)
                .unwrap_or(PartitionEpoch(-1)),
        }
    });
    let partitions = partitions.collect();
    Ok(Decision {
        records: changes.into_records(),
        reply: Reply::AlterPartitions(AlterPartitionsResponse { partitions }),
    })
}

fn alter<'a>(
    electorate: &Electorate<'a>,
    of: TopicPartition,
    leader: BrokerId,
    wanted: &AlterPartition,
) -> Result<Draft<'a>, Failure> {
    let image = electorate.image;
    if image.topic_by_id(of.topic).is_none() {
        let message = format!("there is no topic {}: it was deleted", of.topic);
        return refuse(ErrorCode::UNKNOWN_TOPIC_ID, message);
    }
    let partition = image.partition(of);
    let draft = partition.and_then(|partition| electorate.draft(of, partition));
    let Some(mut draft) = draft else {
        let message = format!("there is no partition {of}");
        return refuse(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, message);
    };
    check_epochs(draft.before, leader, wanted)?;
    check_members(draft.before, leader, &wanted.isr)?;
    for member in &wanted.isr {
        check_eligible(electorate, draft.before, *member)?;
    }
    let isr: Vec<BrokerId> = wanted.isr.iter().map(|member| member.broker_id).collect();
    let (mut now, mut then) = (isr.clone(), draft.before.isr.clone());
    now.sort_unstable();
    then.sort_unstable();
    if now != then {
        draft.in_sync(isr);
    }
    draft.confirm();
    // Whoever leads asks, so that it has recovered whatever it can.
    draft.next.recovering = false;
    electorate.complete(&mut draft);
    // A leader that stops or is to yield went on because there was nobody else.
    let elected = electorate.leader(draft.topic, &draft.next, Loss::Avoided);
    if let Some(elected) = elected.filter(|elected| Some(elected.broker) != draft.next.leader) {
        draft.led_by(elected);
    }
    Ok(draft)
}

fn check_epochs(
    known: &Partition,
    leader: BrokerId,
    wanted: &AlterPartition,
) -> Result<(), Failure> {
    let (asked, present) = (wanted.leader_epoch, known.leader_epoch);
    let (from, newest) = (wanted.partition_epoch, known.partition_epoch);
    if asked > present || from > newest {
        return refuse(
            ErrorCode::NOT_CONTROLLER,
            format!(
                "leader epoch {asked} or partition epoch {from} is newer than {present} and \
                 {newest}, which this broker knows: another one is the controller"
            ),
        );
    }
    if asked < present {
        return refuse(
            ErrorCode::FENCED_LEADER_EPOCH,
            format!("leader epoch {asked} is over, the present one is {present}"),
        );
    }
    if known.leader != Some(leader) {
        return refuse(
            ErrorCode::INVALID_REQUEST,
            format!("broker {leader} does not lead the partition"),
        );
    }
    if from < newest {
        return refuse(
            ErrorCode::INVALID_UPDATE_VERSION,
            format!("partition epoch {from} is over, the present one is {newest}"),
        );
    }
    Ok(())
}

fn check_members(
    known: &Partition,
    leader: BrokerId,
    members: &[InSyncReplica],
) -> Result<(), Failure> {
    let distinct: BTreeSet<BrokerId> = members.iter().map(|member| member.broker_id).collect();
    let invalid = |why: String| refuse(ErrorCode::INVALID_REQUEST, why);
    if distinct.len() != members.len() {
        return invalid("a broker is named twice among those in sync".to_owned());
    }
    if !distinct.contains(&leader) {
        return invalid(format!("broker {leader} leads, and is to be in sync"));
    }
    match distinct
        .iter()
        .find(|one| known.replica_on(**one).is_none())
    {
        Some(stranger) => invalid(format!("broker {stranger} keeps no copy of the partition")),
        None => Ok(()),
    }
}

/// Whoever is to be in sync takes part, with the incarnation that was seen. The leader itself goes
/// on while it stops.
fn check_eligible(
    electorate: &Electorate<'_>,
    known: &Partition,
    member: InSyncReplica,
) -> Result<(), Failure> {
    let broker = member.broker_id;
    let ineligible = |why: String| {
        let message = format!("broker {broker} cannot be in sync: {why}");
        refuse(ErrorCode::INELIGIBLE_REPLICA, message)
    };
    let Some(registered) = electorate.image.broker(broker) else {
        return ineligible("it is not registered".to_owned());
    };
    let is_current = registered.epoch == member.broker_epoch
        || mutants::is_active(Mutant::BrokerEpochUncheckedInIsrChange);
    if !is_current {
        return ineligible(format!(
            "it was seen in epoch {}, and has started again in epoch {}",
            member.broker_epoch, registered.epoch
        ));
    }
    let leads = known.leader == Some(broker);
    match registered.state {
        BrokerState::Fenced => ineligible("it is fenced".to_owned()),
        BrokerState::Stopping if !leads => ineligible("it is about to stop".to_owned()),
        _ if !leads && !electorate.is_acceptable(known, broker) => {
            ineligible("its data directory has failed".to_owned())
        }
        _ => Ok(()),
    }
}

/// A copy that its broker calls damaged comes into sync once it is repaired: it would be taken out
/// again at the next heartbeat.
fn check_whole<'a>(
    damaged: &BTreeMap<BrokerId, BTreeSet<TopicPartition>>,
    draft: Draft<'a>,
) -> Result<Draft<'a>, Failure> {
    let is_damaged = |broker: &&BrokerId| {
        let copies = damaged.get(*broker);
        copies.is_some_and(|copies| copies.contains(&draft.of))
    };
    let mut joining = draft.next.isr.iter();
    let joins = |broker: &&BrokerId| !draft.before.isr.contains(*broker);
    match joining.find(|broker| joins(broker) && is_damaged(broker)) {
        Some(broker) => refuse(
            ErrorCode::INELIGIBLE_REPLICA,
            format!("broker {broker} cannot be in sync: its copy is damaged"),
        ),
        None => Ok(draft),
    }
}

fn new_leader(draft: &Draft<'_>) -> Failure {
    let leader = draft.next.leader;
    let leader = leader.map_or_else(|| "nobody".into(), |leader| format!("broker {leader}"));
    Failure::new(
        ErrorCode::NEW_LEADER_ELECTED,
        format!("the change is made, and {leader} leads from now on"),
    )
}

fn refuse<T>(code: ErrorCode, message: String) -> Result<T, Failure> {
    Err(Failure::new(code, message))
}
