//! A broker makes itself known at each of its starts.
//!
//! *Pattern: generation clock.* The offset of the registration is the broker's epoch.

use std::collections::BTreeSet;

use strandline_protocol::{ErrorCode, messages::Failure};

use super::{Decision, Reply, founding_records};
use crate::metadata::{
    image::Image,
    limits::{DIRECTORIES_PER_BROKER_MAX, HOST_BYTES_MAX, RACK_BYTES_MAX},
    record::{Record, Registration},
};

/// Decides a registration. The first one of a cluster also sets the metadata version.
///
/// # Errors
/// `INVALID_REQUEST` if the registration contradicts itself or somebody else's.
pub(super) fn register(image: &Image, registration: &Registration) -> Result<Decision, Failure> {
    check(registration)
        .and_then(|()| check_directories(image, registration))
        .map_err(|message| Failure::new(ErrorCode::INVALID_REQUEST, message))?;
    let mut records: Vec<Record> = founding_records(image).into_iter().collect();
    records.push(Record::BrokerRegistered(registration.clone()));
    Ok(Decision {
        records,
        reply: Reply::Registered,
    })
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
