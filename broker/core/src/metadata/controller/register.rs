//! A broker makes itself known at each of its starts.
//!
//! *Pattern: generation clock.* The offset of the registration is the broker's epoch.

use std::collections::BTreeSet;

use strandline_protocol::{BrokerId, ErrorCode, messages::Failure};

use super::{
    Decision, Reply,
    disks::Disks,
    electorate::{Electorate, Part},
};
use crate::metadata::{
    image::{BrokerState, Image},
    limits::{
        BROKERS_PER_CLUSTER_MAX, DIRECTORIES_PER_BROKER_MAX, HOST_BYTES_MAX, RACK_BYTES_MAX,
        SOFTWARE_BYTES_MAX,
    },
    record::{METADATA_VERSION, REPLICATION_VERSION, Record, Registration},
};
use crate::mutants::{self, Mutant};

/// Decides a registration, which sets the metadata version to the newest one that every broker
/// knows.
///
/// A broker that is alone in its cluster takes part at once, by one record however much it keeps:
/// nobody could have led in its place meanwhile. Any other one is fenced at first, and what its
/// incarnation before led is given to others: a new incarnation never leads under its old epoch. A
/// lease is waited for, unless the start proves that whoever has it has ended
/// ([`Registration::succeeds`]).
///
/// # Errors
/// `INVALID_REQUEST` if the registration contradicts itself or somebody else's,
/// `DUPLICATE_BROKER_REGISTRATION` if another process of that number is alive,
/// `UNSUPPORTED_VERSION` if the broker is too old for the cluster, or another one for this.
pub(super) fn register(
    image: &Image,
    disks: &Disks,
    leased: &BTreeSet<BrokerId>,
    registration: &Registration,
) -> Result<Decision, Failure> {
    check(registration)
        .and_then(|()| check_directories(image, registration))
        .and_then(|()| check_room(image, registration))
        .map_err(|message| Failure::new(ErrorCode::INVALID_REQUEST, message))?;
    check_version(image, registration)?;
    let version = version_of_all(image, registration);
    let registration = &in_version(version, registration);
    let mut records: Vec<Record> = (version > image.metadata_version())
        .then_some(Record::MetadataVersionSet { version })
        .into_iter()
        .collect();
    if is_alone(image, registration) {
        records.push(Record::BrokerRegistered(registration.clone()));
        let electorate = Electorate::of(image, disks)
            .in_version(version)
            .when(registration.broker, Part::Takes);
        records.extend(electorate.lead_what_it_can(registration.broker));
    } else if let Some(known) = image.broker(registration.broker) {
        if known.registration.incarnation == registration.incarnation {
            // The answer was lost and the request came again: the process has its epoch already.
            records.clear();
        } else if leased.contains(&registration.broker)
            && !registration.succeeds(&known.registration, known.epoch)
        {
            return Err(duplicate(&known.registration));
        } else {
            records.extend(start_anew(image, disks, version, registration));
        }
    } else {
        records.push(Record::BrokerJoined(registration.clone()));
    }
    Ok(Decision {
        records,
        reply: Reply::Registered,
    })
}

/// The records of another start of a broker that others know.
fn start_anew(
    image: &Image,
    disks: &Disks,
    version: u16,
    registration: &Registration,
) -> Vec<Record> {
    let broker = registration.broker;
    if mutants::is_active(Mutant::NewIncarnationKeepsEpoch) {
        return vec![Record::BrokerRegistered(registration.clone())];
    }
    let electorate = Electorate::of(image, disks)
        .in_version(version)
        .when(broker, Part::TakesNot);
    let mut records = electorate.start_anew(registration);
    let takes_part = image
        .broker(broker)
        .filter(|known| known.state != BrokerState::Fenced);
    records.extend(takes_part.map(|known| Record::BrokerFenced {
        broker,
        epoch: known.epoch,
    }));
    records.push(Record::BrokerJoined(registration.clone()));
    records
}

/// Whether it is the one voter of a cluster that knows nobody else.
fn is_alone(image: &Image, registration: &Registration) -> bool {
    let id = registration.broker;
    let votes_alone = image.membership().is_some_and(|membership| {
        membership.learners.is_empty()
            && membership.voters.iter().all(|voter| {
                voter.broker == id
                    && registration.raft_id.unwrap_or(voter.raft_id) == voter.raft_id
                    && membership.is_alone(voter.raft_id)
            })
    });
    votes_alone && image.brokers().all(|other| other.registration.broker == id)
}

fn duplicate(alive: &Registration) -> Failure {
    let Registration {
        broker, host, port, ..
    } = alive;
    Failure::new(
        ErrorCode::DUPLICATE_BROKER_REGISTRATION,
        format!(
            "another process is registered as broker {broker} at {host}:{port} and alive: give \
             this one another --node-id, or try again once that has stopped"
        ),
    )
}

fn check_version(image: &Image, registration: &Registration) -> Result<(), Failure> {
    let (version, newest) = (image.metadata_version(), registration.metadata_version_max);
    if version <= newest {
        return Ok(());
    }
    let broker = registration.broker;
    Err(Failure::new(
        ErrorCode::UNSUPPORTED_VERSION,
        format!(
            "broker {broker} knows metadata versions up to {newest}, the cluster has {version}: \
             start a newer version of strandline"
        ),
    ))
}

/// A newcomer finds room, and has a Raft id of its own.
fn check_room(image: &Image, registration: &Registration) -> Result<(), String> {
    let broker = registration.broker;
    let others: Vec<&Registration> = image
        .brokers()
        .map(|other| &other.registration)
        .filter(|other| other.broker != broker)
        .collect();
    if others.len() >= BROKERS_PER_CLUSTER_MAX {
        return Err(format!(
            "broker {broker} is one too many: a cluster has at most {BROKERS_PER_CLUSTER_MAX}"
        ));
    }
    let raft_id = registration.raft_id;
    let same = others
        .iter()
        .find(|other| raft_id.is_some() && other.raft_id == raft_id);
    same.map_or(Ok(()), |same| {
        Err(format!(
            "the Raft id of broker {broker} belongs to broker {}: a copied directory cannot serve \
             broker {broker}",
            same.broker
        ))
    })
}

/// The newest metadata version that every broker knows, `registration` in the place of what stood
/// there for its broker.
fn version_of_all(image: &Image, registration: &Registration) -> u16 {
    image
        .brokers()
        .filter(|other| other.registration.broker != registration.broker)
        .map(|other| other.registration.metadata_version_max)
        .chain([registration.metadata_version_max, METADATA_VERSION])
        .min()
        .unwrap_or(METADATA_VERSION)
}

/// The registration as a log of `version` may hold it.
fn in_version(version: u16, registration: &Registration) -> Registration {
    let mut registration = registration.clone();
    if version < REPLICATION_VERSION {
        registration.lossy.clear();
    }
    registration
}

fn check(registration: &Registration) -> Result<(), String> {
    let broker = registration.broker;
    let rack = registration.rack.as_deref().unwrap_or_default();
    if broker.0 < 0 {
        return Err(format!(
            "broker {broker} cannot register: numbers start at 0"
        ));
    }
    if !(1..=HOST_BYTES_MAX).contains(&registration.host.len()) || registration.port == 0 {
        return Err(format!(
            "broker {broker} advertises {:?}:{}: a host of 1 to {HOST_BYTES_MAX} bytes and a port \
             above 0 are needed",
            registration.host.chars().take(80).collect::<String>(),
            registration.port
        ));
    }
    if registration.software.len() > SOFTWARE_BYTES_MAX {
        return Err(format!(
            "the software of broker {broker} has {} bytes: {SOFTWARE_BYTES_MAX} are allowed",
            registration.software.len()
        ));
    }
    if rack.len() > RACK_BYTES_MAX {
        return Err(format!(
            "the rack of broker {broker} has {} bytes: {RACK_BYTES_MAX} are allowed",
            rack.len()
        ));
    }
    Ok(())
}

fn check_directories(image: &Image, registration: &Registration) -> Result<(), String> {
    let broker = registration.broker;
    let distinct: BTreeSet<_> = registration.directories.iter().collect();
    let count = registration.directories.len();
    if distinct.len() != count || !(1..=DIRECTORIES_PER_BROKER_MAX).contains(&count) {
        return Err(format!(
            "broker {broker} lists {count} data directories, {} of them distinct: 1 to \
             {DIRECTORIES_PER_BROKER_MAX} distinct ones are needed",
            distinct.len()
        ));
    }
    let others = image
        .brokers()
        .filter(|other| other.registration.broker != broker);
    for other in others {
        let shared = other
            .registration
            .directories
            .iter()
            .find(|directory| distinct.contains(directory));
        if let Some(directory) = shared {
            return Err(format!(
                "data directory {directory} belongs to broker {}: a copied directory cannot serve \
                 broker {broker}",
                other.registration.broker
            ));
        }
    }
    Ok(())
}
