//! Leaders as an operator moves them: elections that are asked for, and brokers that are drained.

use std::collections::BTreeSet;

use strandline_protocol::{
    ErrorCode, TopicPartition,
    messages::{
        DrainBrokerRequest, DrainBrokerResponse, Duty, ElectLeadersRequest, ElectLeadersResponse,
        Election, Failure, PartitionOutcome,
    },
};

use super::{
    Decision, Reply, brokers,
    disks::Disks,
    draft::{Changes, Draft},
    electorate::{Electorate, Loss},
};
use crate::metadata::{image::Image, record::Record};

/// Elects leaders for each partition on its own.
pub(super) fn elect(image: &Image, disks: &Disks, request: &ElectLeadersRequest) -> Decision {
    let electorate = Electorate::of(image, disks);
    let (mut changes, mut seen) = (Changes::default(), BTreeSet::new());
    let outcomes = request.partitions.iter().map(|name| {
        let of = TopicPartition {
            topic: name.topic_id,
            partition: name.partition,
        };
        let partition = image.partition(of);
        let draft = partition.and_then(|partition| electorate.draft(of, partition));
        let failure = match draft {
            None => Failure::new(
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                format!("there is no partition {of}: refresh the metadata"),
            ),
            Some(draft) if !seen.insert(of) => {
                let name = draft.name();
                let message = format!("partition {name} is named twice: name it once");
                Failure::new(ErrorCode::INVALID_REQUEST, message)
            }
            Some(mut draft) => {
                let failure = match request.election {
                    Election::Preferred => prefer(&electorate, &mut draft),
                    Election::Unclean => rescue(&electorate, &mut draft),
                };
                changes.add(draft);
                failure
            }
        };
        PartitionOutcome {
            topic_id: name.topic_id,
            partition: name.partition,
            failure,
        }
    });
    let partitions = outcomes.collect();
    Decision {
        records: changes.into_records(),
        reply: Reply::Elected(ElectLeadersResponse { partitions }),
    }
}

/// The first replica leads, if it can; else whoever leads goes on, or whoever can.
fn prefer(electorate: &Electorate<'_>, draft: &mut Draft<'_>) -> Failure {
    let (name, before) = (draft.name(), draft.before);
    let preferred = before.replicas.first().map(|replica| replica.broker);
    if before.leader.is_some() && before.leader == preferred {
        return Failure::new(
            ErrorCode::ELECTION_NOT_NEEDED,
            format!("partition {name} is led by its first replica"),
        );
    }
    let valid = preferred
        .filter(|broker| electorate.is_valid(before, *broker))
        .filter(|broker| !electorate.is_to_yield(before, *broker));
    if let (Some(broker), Some(_)) = (valid, before.leader) {
        draft.next.leader = Some(broker);
        return Failure::none();
    }
    if before.leader.is_none()
        && let Some(elected) = electorate.leader(draft.topic, before, Loss::AsConfigured)
    {
        draft.led_by(elected);
        if Some(elected.broker) == preferred {
            return Failure::none();
        }
    }
    let preferred = preferred.map_or_else(|| "nobody".into(), |broker| format!("broker {broker}"));
    Failure::new(
        ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE,
        format!(
            "partition {name} prefers {preferred}, which is drained, on a full disk, or not active \
             and in sync: try again once it can lead"
        ),
    )
}

/// Somebody leads, whatever is lost by it.
fn rescue(electorate: &Electorate<'_>, draft: &mut Draft<'_>) -> Failure {
    let name = draft.name();
    if let Some(leader) = draft.before.leader {
        return Failure::new(
            ErrorCode::ELECTION_NOT_NEEDED,
            format!("partition {name} is led by broker {leader}"),
        );
    }
    match electorate.leader(draft.topic, draft.before, Loss::Accepted) {
        Some(elected) => {
            draft.led_by(elected);
            // A replica that was being added may be all that is left.
            electorate.complete(draft);
            Failure::none()
        }
        None => Failure::new(
            ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE,
            format!("no broker that keeps a copy of partition {name} takes part: start one"),
        ),
    }
}

/// A broker is drained, or has its full duty again: then it leads what prefers it.
///
/// # Errors
/// `BROKER_ID_NOT_REGISTERED`; `UNSUPPORTED_VERSION` while a broker of the cluster does not know of
/// duties.
pub(super) fn drain(
    image: &Image,
    disks: &Disks,
    request: &DrainBrokerRequest,
) -> Result<Decision, Failure> {
    let (broker, duty) = (request.broker_id, request.duty);
    let known = brokers::registered(image, broker)?;
    let mut records = Vec::new();
    if known.duty != duty {
        records.push(Record::BrokerDutySet { broker, duty });
    }
    let electorate = Electorate::of(image, disks).with_duty(broker, duty);
    let mut leads = image.led_count(broker);
    match duty {
        Duty::Drained => {
            let changes = electorate.lead_elsewhere(broker);
            let gone = changes
                .iter()
                .filter(|(_, change)| change.leader != Some(broker));
            leads = leads.saturating_sub(gone.count());
            records.extend(changes.into_records());
        }
        Duty::Full => {
            let moves = electorate.balance(Some(broker));
            leads += moves.iter().map(changed_partitions).sum::<usize>();
            records.extend(moves);
        }
    }
    Ok(Decision {
        records,
        reply: Reply::Drained(DrainBrokerResponse {
            leads: u32::try_from(leads).unwrap_or(u32::MAX),
            keeps: u32::try_from(image.kept_count(broker)).unwrap_or(u32::MAX),
        }),
    })
}

fn changed_partitions(record: &Record) -> usize {
    match record {
        Record::PartitionsChanged { topics } => {
            topics.iter().map(|topic| topic.partitions.len()).sum()
        }
        _ => 0,
    }
}
