//! A broker makes its start known, by whatever way leads to the controller.
//!
//! *Pattern: generation clock.* Who is a member asks the controller; who is not, or has not heard
//! of one yet, asks anybody it knows, and that one passes it on. Asking again is harmless: the same
//! start gets the same epoch.

use std::{sync::Arc, time::Duration};

use strandline_client::ClientError;
use strandline_core::{
    leases::SESSION,
    metadata::{BrokerState, Command, Image, Registration},
};
use strandline_protocol::{
    BrokerEpoch, BrokerId, ErrorClass, ErrorCode,
    messages::{Failure, Purpose, RegisterBrokerRequest, RegisterBrokerResponse},
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    MetadataLog,
    forward::{Attempt, PATIENCE, PAUSE, attempt_at, no_way},
    member::ControllerAt,
    peers::PeerError,
};
use crate::http::Readiness;

/// How long a broker that passes a registration on looks for the controller: the one that registers
/// tries again by itself.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(3);

/// How often a start that waits tells what for.
const TELL_EVERY: Duration = Duration::from_secs(3);

/// How often a broker shows that it lives before it knows the controller: before a lease is over.
const SIGN_EVERY: Duration = Duration::from_millis(500);

/// How long a start waits for the lease of another one under the same number: several leases.
const DUPLICATE_PATIENCE: Duration = Duration::from_secs(10);

/// Refusals in a row. A time in which no controller answered tells nothing, and who controls behind
/// it gives everybody a whole session again.
#[derive(Debug)]
struct Refusals {
    since: Instant,
    last: Instant,
}

impl Default for Refusals {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            since: now,
            last: now,
        }
    }
}

impl Refusals {
    /// There is one more; for how long there are some.
    fn last_for(&mut self) -> Duration {
        if self.last.elapsed() > SESSION {
            *self = Self::default();
        }
        self.last = Instant::now();
        self.since.elapsed()
    }
}

/// What a start that waits has told.
struct Told<'a> {
    readiness: &'a Readiness,
    since: Instant,
    next: Instant,
}

impl<'a> Told<'a> {
    fn new(readiness: &'a Readiness) -> Self {
        let since = Instant::now();
        Self {
            readiness,
            since,
            next: since + TELL_EVERY,
        }
    }

    fn waits_for(&mut self, what: &str, why: &str) {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + TELL_EVERY;
            let waited_s = now.duration_since(self.since).as_secs();
            tracing::warn!(waited_s, "waiting for {what}: {why}");
        }
        self.readiness.waits(format!("waiting for {what}: {why}"));
    }
}

/// Whether a request may be passed on to the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassOn {
    /// It comes from whom it is about.
    Allowed,
    /// It was passed on already.
    Forbidden,
}

impl MetadataLog {
    /// Registers a broker that asks this one: here, or by passing it on to the controller.
    ///
    /// # Errors
    /// As [`MetadataLog::propose`], but sooner: the broker asks again.
    pub async fn register_for(
        &self,
        request: &RegisterBrokerRequest,
        may_pass_on: PassOn,
    ) -> Result<RegisterBrokerResponse, Failure> {
        let deadline = Instant::now() + REGISTRATION_PATIENCE;
        loop {
            let refused = match (self.controller(), &self.peers, may_pass_on) {
                (ControllerAt::Broker { broker, raft_id }, Some(peers), PassOn::Allowed) => {
                    let purpose = Purpose::Control;
                    match peers.connection(broker, Some(raft_id), purpose).await {
                        Ok(connection) => {
                            let asked = attempt_at(&connection, request, PATIENCE);
                            match self.unless_replaced(raft_id, asked).await {
                                Attempt::Done((response, _)) => return Ok(response),
                                Attempt::Refused(failure) => return Err(failure),
                                Attempt::Again(failure) => failure,
                                Attempt::Unknown(reason) => {
                                    Failure::new(ErrorCode::NOT_CONTROLLER, reason)
                                }
                            }
                        }
                        Err(error) => no_way(broker, &error),
                    }
                }
                _ => {
                    let command = Command::RegisterBroker(registration_of(request));
                    match self.propose_here(command).await {
                        Ok(_) => {
                            let epoch = self.epoch_of(request.broker_id);
                            self.lessor.seen(request.broker_id, epoch);
                            return Ok(RegisterBrokerResponse {
                                cluster_id: self.image().cluster(),
                                broker_epoch: epoch,
                            });
                        }
                        Err(failure) if failure.error == ErrorCode::NOT_CONTROLLER => failure,
                        Err(failure) => return Err(failure),
                    }
                }
            };
            if may_pass_on == PassOn::Forbidden || Instant::now() + PAUSE >= deadline {
                return Err(refused);
            }
            sleep(PAUSE).await;
        }
    }

    /// Makes this start of the broker known, and returns its epoch once the image reflects it.
    /// Every partition that it leads has a new leader epoch afterwards. Where others are needed,
    /// this waits for them for as long as it takes, and tells every few seconds what is missing.
    ///
    /// Cancel safe in that nothing breaks; but the broker may be registered all the same.
    ///
    /// # Errors
    /// What the controller refuses.
    pub async fn register(&self, registration: Registration) -> Result<BrokerEpoch, Failure> {
        self.register_telling(registration, &Readiness::starting())
            .await
    }

    /// As [`MetadataLog::register`]; `readiness` tells at any time what is missing.
    ///
    /// # Errors
    /// As [`MetadataLog::register`].
    pub async fn register_telling(
        &self,
        registration: Registration,
        readiness: &Readiness,
    ) -> Result<BrokerEpoch, Failure> {
        let broker = registration.broker;
        let (mut told, mut refusals) = (Told::new(readiness), None::<Refusals>);
        let epoch = loop {
            match self.try_register(&registration).await {
                Ok(epoch) => break epoch,
                Err(failure)
                    if failure.error == ErrorCode::NOT_CONTROLLER && self.peers.is_some() =>
                {
                    told.waits_for(
                        "a controller to register with (more than half of the voters must run)",
                        &failure.message,
                    );
                }
                // The controller went away meanwhile; a log that has failed says so next time.
                Err(failure)
                    if failure.error.class() == ErrorClass::OutcomeUnknown
                        && self.peers.is_some() =>
                {
                    told.waits_for("the next controller, to register with it", &failure.message);
                }
                Err(failure) if failure.error == ErrorCode::DUPLICATE_BROKER_REGISTRATION => {
                    // Whoever had the number may be gone; its lease tells, if it is waited for.
                    if refusals.get_or_insert_default().last_for() > DUPLICATE_PATIENCE {
                        return Err(failure);
                    }
                    told.waits_for("the lease of the last start to end", &failure.message);
                    sleep(PAUSE).await;
                    continue;
                }
                Err(failure) => return Err(failure),
            }
            refusals = None;
            sleep(PAUSE).await;
        };
        self.own.registered(epoch);
        let mut images = self.watch();
        let is_there = |image: &Arc<Image>| {
            image
                .broker(broker)
                .is_some_and(|known| known.epoch >= epoch)
        };
        while timeout(SIGN_EVERY, images.wait_for(is_there))
            .await
            .is_err()
        {
            told.waits_for(
                "the controller, to send the metadata",
                &format!(
                    "registered at offset {epoch}, the metadata is known up to {}",
                    self.image().version()
                ),
            );
            // Who is not heard of is not made a member. Heartbeats need to know the controller,
            // which it is as a member that one hears of.
            let _ = self.try_register(&registration).await;
        }
        Ok(epoch)
    }

    /// Waits until the controller has let this broker take part, which heartbeats bring about; at
    /// once for a broker that is alone. Tells what is missing, as
    /// [`MetadataLog::register_telling`]. Cancel safe.
    pub async fn taking_part(&self, broker: BrokerId, readiness: &Readiness) {
        let mut told = Told::new(readiness);
        let mut images = self.watch();
        let takes_part = |image: &Arc<Image>| {
            image
                .broker(broker)
                .is_some_and(|known| known.state != BrokerState::Fenced)
        };
        while timeout(PAUSE, images.wait_for(takes_part)).await.is_err() {
            let why = match self.controller() {
                ControllerAt::Here => "it is this broker, and not settled yet".to_owned(),
                ControllerAt::Broker { broker, .. } => {
                    format!("broker {broker} has not granted a lease yet")
                }
                ControllerAt::Unknown => "nobody is the controller now".to_owned(),
            };
            told.waits_for("the controller, to let this broker take part", &why);
        }
    }

    /// Makes this start known, by whatever way leads to the controller, once.
    ///
    /// # Errors
    /// `NOT_CONTROLLER` if another attempt may help.
    pub(super) async fn try_register(
        &self,
        registration: &Registration,
    ) -> Result<BrokerEpoch, Failure> {
        let first = match self.controller() {
            ControllerAt::Broker { broker, raft_id } if self.peers.is_some() => {
                self.register_at(broker, raft_id, registration).await
            }
            _ => {
                let command = Command::RegisterBroker(registration.clone());
                let made = self.propose_here(command).await;
                made.map(|_| self.epoch_of(registration.broker))
            }
        };
        // The one that led last may be gone, and who is left must hear where this broker is before
        // they can elect another one: so everybody is asked.
        let refused = match first {
            Ok(epoch) => return Ok(epoch),
            Err(failure) if failure.error == ErrorCode::NOT_CONTROLLER => failure,
            Err(failure) => return Err(failure),
        };
        let Some(peers) = &self.peers else {
            return Err(refused);
        };
        let request = self.registration_request(registration);
        let mut reasons = Vec::new();
        for address in peers.addresses() {
            let reason = match peers.connection_to(&address, Purpose::Control).await {
                Ok(connection) => {
                    match attempt_at(&connection, &request, REGISTRATION_PATIENCE).await {
                        Attempt::Done((response, _)) => return Ok(response.broker_epoch),
                        Attempt::Refused(failure) => return Err(failure),
                        Attempt::Again(failure) => failure.message,
                        Attempt::Unknown(reason) => reason,
                    }
                }
                Err(PeerError::Client(ClientError::Unreachable { reason, .. })) => reason,
                Err(error) => error.to_string(),
            };
            reasons.push(format!("{address}: {reason}"));
        }
        if reasons.is_empty() {
            return Err(refused);
        }
        Err(Failure::new(ErrorCode::NOT_CONTROLLER, reasons.join("; ")))
    }

    async fn register_at(
        &self,
        broker: BrokerId,
        raft_id: u64,
        registration: &Registration,
    ) -> Result<BrokerEpoch, Failure> {
        let again = |reason: String| Failure::new(ErrorCode::NOT_CONTROLLER, reason);
        let Some(peers) = &self.peers else {
            return Err(again("this broker runs alone".to_owned()));
        };
        let connection = peers
            .connection(broker, Some(raft_id), Purpose::Control)
            .await;
        let connection = connection.map_err(|error| no_way(broker, &error))?;
        let request = self.registration_request(registration);
        let asked = attempt_at(&connection, &request, PATIENCE);
        match self.unless_replaced(raft_id, asked).await {
            Attempt::Done((response, _)) => Ok(response.broker_epoch),
            Attempt::Refused(failure) | Attempt::Again(failure) => Err(failure),
            Attempt::Unknown(reason) => Err(again(reason)),
        }
    }

    /// The registration as it is sent.
    pub(super) fn registration_request(
        &self,
        registration: &Registration,
    ) -> RegisterBrokerRequest {
        RegisterBrokerRequest {
            cluster_id: self.peers.as_ref().map(|peers| peers.me().cluster),
            broker_id: registration.broker,
            incarnation: registration.incarnation,
            raft_id: registration.raft_id.unwrap_or_default(),
            host: registration.host.clone(),
            port: registration.port,
            rack: registration.rack.clone(),
            directories: registration.directories.clone(),
            software: registration.software.clone(),
            metadata_version_max: registration.metadata_version_max,
            lossy: registration.lossy.clone(),
        }
    }
}

fn registration_of(request: &RegisterBrokerRequest) -> Registration {
    Registration {
        broker: request.broker_id,
        incarnation: request.incarnation,
        host: request.host.clone(),
        port: request.port,
        rack: request.rack.clone(),
        directories: request.directories.clone(),
        raft_id: Some(request.raft_id),
        software: request.software.clone(),
        metadata_version_max: request.metadata_version_max,
        lossy: request.lossy.clone(),
    }
}
