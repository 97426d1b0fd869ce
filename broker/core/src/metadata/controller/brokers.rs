//! Brokers that fall silent, come back, stop and leave.
//!
//! *Patterns: generation clock, lease.* A broker acts under its epoch, and an old epoch changes
//! nothing. Where a decision takes several entries, each of them is valid alone: leaderships go
//! before their broker is fenced, and come back after it is unfenced; what a crash leaves undone
//! between them is done by [`super::Command::ElectLeaders`] or by the next decision about the
//! broker.

use std::collections::BTreeSet;

use strandline_protocol::{
    BrokerEpoch, BrokerId, ErrorCode, Offset,
    messages::{BrokerHeartbeatRequest, Failure},
};

use super::{
    Command, Decision, Reply,
    disks::Disks,
    elections::Leaving,
    electorate::{Electorate, Part},
};
use crate::{
    metadata::{
        image::{Broker, BrokerState, Image},
        record::Record,
    },
    mutants::{self, Mutant},
};

/// What is left to a broker that wants to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopping {
    /// How many partitions it goes on leading, as nobody else can. They have no leader once it has
    /// stopped.
    pub leads: usize,
}

/// What a heartbeat gives the controller to decide, if anything. Asked of an image in which
/// everything that was proposed about the broker is reflected.
///
/// A broker that is fenced is unfenced once it has applied what fenced it, its registration or its
/// fencing, and has opened its logs.
#[must_use]
pub fn due_at_heartbeat(image: &Image, heartbeat: &BrokerHeartbeatRequest) -> Option<Command> {
    let (broker, epoch) = (heartbeat.broker_id, heartbeat.broker_epoch);
    let known = image.broker(broker).filter(|known| known.epoch == epoch)?;
    match (known.state, heartbeat.stopping) {
        (BrokerState::Fenced, false)
            if heartbeat.applied >= known.since && !heartbeat.recovering =>
        {
            Some(Command::UnfenceBroker { broker, epoch })
        }
        (BrokerState::Active | BrokerState::Stopping, true) => {
            Some(Command::StopBroker { broker, epoch })
        }
        _ => None,
    }
}

/// Whether a broker that wants to stop may do so: nobody looks for a leader there any more that is
/// elsewhere. `applied_by_others` is what [`crate::leases::Leases::applied_by_others`] tells.
#[must_use]
pub fn may_stop(image: &Image, broker: BrokerId, applied_by_others: Option<Offset>) -> bool {
    image.broker(broker).is_none_or(|known| match known.state {
        BrokerState::Active => false,
        BrokerState::Fenced => true,
        BrokerState::Stopping => applied_by_others >= Some(known.since),
    })
}

/// The broker that acts, if its epoch is the present one.
///
/// # Errors
/// `BROKER_ID_NOT_REGISTERED`, `STALE_BROKER_EPOCH`.
pub(super) fn acting(
    image: &Image,
    broker: BrokerId,
    epoch: BrokerEpoch,
) -> Result<&Broker, Failure> {
    let known = registered(image, broker)?;
    if known.epoch != epoch && !mutants::is_active(Mutant::BrokerEpochNotChecked) {
        return Err(Failure::new(
            ErrorCode::STALE_BROKER_EPOCH,
            format!(
                "broker {broker} acts with epoch {epoch}, its present one is {}: another process \
                 has registered as broker {broker} since",
                known.epoch
            ),
        ));
    }
    Ok(known)
}

pub(super) fn registered(image: &Image, broker: BrokerId) -> Result<&Broker, Failure> {
    image.broker(broker).map(AsRef::as_ref).ok_or_else(|| {
        Failure::new(
            ErrorCode::BROKER_ID_NOT_REGISTERED,
            format!("broker {broker} is not registered: start it anew, or check its number"),
        )
    })
}

/// The lease of a broker is over: it leads nothing any more. A broker that is fenced stays so.
pub(super) fn fence(
    image: &Image,
    disks: &Disks,
    broker: BrokerId,
    epoch: BrokerEpoch,
) -> Result<Decision, Failure> {
    let known = acting(image, broker, epoch)?;
    Ok(Decision {
        records: fencing(image, disks, known),
        reply: Reply::Done,
    })
}

/// The records that fence `broker` in the epoch that it has.
fn fencing(image: &Image, disks: &Disks, known: &Broker) -> Vec<Record> {
    let (broker, epoch) = (known.registration.broker, known.epoch);
    if known.state == BrokerState::Fenced {
        return Vec::new();
    }
    let electorate = Electorate::of(image, disks).when(broker, Part::TakesNot);
    let mut records = electorate.leave(broker, Leaving::AtOnce);
    records.push(Record::BrokerFenced { broker, epoch });
    records
}

/// A broker is alive and has caught up: it takes part, and leads what nobody leads. One that is
/// about to stop does not begin again.
pub(super) fn unfence(
    image: &Image,
    disks: &Disks,
    broker: BrokerId,
    epoch: BrokerEpoch,
) -> Result<Decision, Failure> {
    let known = acting(image, broker, epoch)?;
    let (mut records, epoch) = (Vec::new(), known.epoch);
    if known.state == BrokerState::Fenced {
        records.push(Record::BrokerUnfenced { broker, epoch });
    }
    if known.state != BrokerState::Stopping {
        let electorate = Electorate::of(image, disks).when(broker, Part::Takes);
        records.extend(electorate.lead_what_it_can(broker));
    }
    Ok(Decision {
        records,
        reply: Reply::Done,
    })
}

/// A broker wants to stop: it is given nothing more, and others lead what they can.
pub(super) fn stop(
    image: &Image,
    disks: &Disks,
    broker: BrokerId,
    epoch: BrokerEpoch,
) -> Result<Decision, Failure> {
    let known = acting(image, broker, epoch)?;
    let (mut records, epoch) = (Vec::new(), known.epoch);
    let mut leads = image.led_count(broker);
    if known.state != BrokerState::Fenced {
        let electorate = Electorate::of(image, disks).when(broker, Part::TakesNot);
        records = electorate.leave(broker, Leaving::Gradually);
        leads = leads.saturating_sub(given_away(image, broker, &records));
        if known.state == BrokerState::Active || !records.is_empty() {
            // Last, so that whoever has applied it knows of every leader that has changed.
            records.push(Record::BrokerStopping { broker, epoch });
        }
    }
    Ok(Decision {
        records,
        reply: Reply::Stopping(Stopping { leads }),
    })
}

/// How many partitions that `broker` leads have another leader by `moves`.
fn given_away(image: &Image, broker: BrokerId, moves: &[Record]) -> usize {
    let topics = moves.iter().flat_map(|record| match record {
        Record::PartitionsChanged { topics } => topics.as_slice(),
        _ => &[],
    });
    topics
        .flat_map(|topic| topic.partitions.iter().map(|change| (topic.id, change)))
        .filter(|(id, change)| {
            let known = image.topic_by_id(*id);
            let before = known.and_then(|topic| topic.partition(change.partition));
            before.is_some_and(|before| {
                before.leader == Some(broker) && change.leader != Some(broker)
            })
        })
        .count()
}

/// A broker is gone for good.
pub(super) fn unregister(
    image: &Image,
    leased: &BTreeSet<BrokerId>,
    broker: BrokerId,
) -> Result<Decision, Failure> {
    let known = registered(image, broker)?;
    let refuse = |why: String| Err(Failure::new(ErrorCode::NOT_REMOVABLE, why));
    if leased.contains(&broker) {
        return refuse(format!("broker {broker} is alive: stop it first"));
    }
    let keeps = image.kept_count(broker);
    if keeps > 0 {
        return refuse(format!(
            "broker {broker} keeps {keeps} partitions: move them away with `strandline broker \
             decommission {broker}`, or delete their topics"
        ));
    }
    let mut voters = image
        .membership()
        .into_iter()
        .flat_map(|membership| membership.voters.iter().chain(&membership.voters_before))
        .map(|voter| &voter.broker)
        .chain(image.wanted_voters().unwrap_or_default());
    if voters.any(|voter| *voter == broker) {
        return refuse(format!(
            "broker {broker} votes in the metadata quorum: take its vote first"
        ));
    }
    let epoch = known.epoch;
    Ok(Decision {
        records: vec![Record::BrokerUnregistered { broker, epoch }],
        reply: Reply::Done,
    })
}
