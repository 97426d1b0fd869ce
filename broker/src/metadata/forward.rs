//! The way of a change to the controller, wherever that is.
//!
//! *Patterns: consistent core, request pipeline.* A change is decided by the leader of the quorum;
//! another broker passes it on over its control connection, once: what comes from a peer is not
//! passed on again. While there is no controller, whoever asks waits for a bounded time.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use strandline_client::{ClientError, connection::Connection};
use strandline_core::metadata::{Command, ProducerIdBlock, Reply};
use strandline_protocol::{
    BrokerEpoch, BrokerId, ErrorCode, Offset,
    messages::{
        ChangeVotersResponse, Failure, Purpose, Request, ReserveProducerIdsRequest,
        UnregisterBrokerRequest,
    },
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    MetadataLog,
    member::ControllerAt,
    peers::{PeerError, Peers},
};

/// How long a change waits for a controller, and for its outcome. Below the time that clients give
/// a request, so that they hear why.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait before the next attempt. An election takes half a second or more.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// How long a controller that was replaced may take to say what has become of a change.
const LAST_WORD: Duration = Duration::from_millis(500);

/// The software of this broker, as others are told.
pub const SOFTWARE: &str = concat!("strandline/", env!("CARGO_PKG_VERSION"));

/// How an attempt ended.
pub(super) enum Attempt<T> {
    Done(T),
    Refused(Failure),
    /// Nothing was changed: try again.
    Again(Failure),
    /// It may have been changed.
    Unknown(String),
}

impl MetadataLog {
    /// Makes a change, wherever the controller is. The reply comes once the change is committed and
    /// in [`MetadataLog::image`].
    ///
    /// Cancel safe in that nothing breaks; but the change may happen all the same.
    ///
    /// # Errors
    /// The [`Failure`] of the whole: `NOT_CONTROLLER` if none was found in 10 seconds. Failures of
    /// its parts are in the reply.
    pub async fn propose(&self, command: Command) -> Result<Reply, Failure> {
        let Some(peers) = &self.peers else {
            return self.propose_here(command).await;
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let refused = match self.attempt(peers, &command, deadline).await {
                Attempt::Done((reply, version)) => {
                    // It is committed: whoever asked may know, even if this broker lags behind.
                    let _ = timeout(PATIENCE, self.reached(version)).await;
                    return Ok(reply);
                }
                Attempt::Refused(failure) => return Err(failure),
                Attempt::Again(failure) => failure,
                Attempt::Unknown(reason) if is_idempotent(&command) => {
                    Failure::new(ErrorCode::NOT_CONTROLLER, reason)
                }
                Attempt::Unknown(reason) => {
                    return Err(Failure::new(
                        ErrorCode::UNKNOWN_SERVER_ERROR,
                        format!(
                            "the controller went away while it made the change ({reason}): look \
                             whether it is there"
                        ),
                    ));
                }
            };
            if Instant::now() + PAUSE >= deadline {
                return Err(refused);
            }
            sleep(PAUSE).await;
        }
    }

    async fn attempt(
        &self,
        peers: &Peers,
        command: &Command,
        deadline: Instant,
    ) -> Attempt<(Reply, Offset)> {
        match self.controller() {
            ControllerAt::Broker { broker, raft_id } => {
                let connection = peers.connection(broker, Some(raft_id), Purpose::Control);
                match connection.await {
                    Ok(connection) => {
                        let passed_on = self.pass_on(&connection, command);
                        self.unless_replaced(raft_id, passed_on).await
                    }
                    Err(error) => Attempt::Again(no_way(broker, &error)),
                }
            }
            ControllerAt::Here | ControllerAt::Unknown => {
                let here = self.propose_here(command.clone());
                match tokio::time::timeout_at(deadline, here).await {
                    Ok(Ok(reply)) => Attempt::Done((reply, self.image().version())),
                    Ok(Err(failure)) if failure.error == ErrorCode::NOT_CONTROLLER => {
                        Attempt::Again(failure)
                    }
                    Ok(Err(failure)) => Attempt::Refused(failure),
                    Err(_) => Attempt::Refused(Failure::new(
                        ErrorCode::REQUEST_TIMED_OUT,
                        "the voters did not confirm the change in time, most of them may be away: \
                         look later whether it is there",
                    )),
                }
            }
        }
    }

    /// Passes a change on to the controller.
    async fn pass_on(
        &self,
        connection: &Connection,
        command: &Command,
    ) -> Attempt<(Reply, Offset)> {
        match command {
            Command::CreateTopics(request) => ask(connection, request, Reply::CreateTopics).await,
            Command::DeleteTopics(request) => ask(connection, request, Reply::DeleteTopics).await,
            Command::CreatePartitions(request) => {
                ask(connection, request, Reply::CreatePartitions).await
            }
            Command::AlterConfigs(request) => ask(connection, request, Reply::AlterConfigs).await,
            Command::ReserveProducerIds { broker, epoch } => {
                let request = ReserveProducerIdsRequest {
                    broker_id: *broker,
                    broker_epoch: *epoch,
                };
                let block =
                    |response: strandline_protocol::messages::ReserveProducerIdsResponse| {
                        Reply::ProducerIds(ProducerIdBlock {
                            first: response.first,
                            count: response.count,
                        })
                    };
                ask(connection, &request, block).await
            }
            Command::RegisterBroker(registration) => {
                let request = self.registration_request(registration);
                ask(connection, &request, |_| Reply::Registered).await
            }
            Command::UnregisterBroker { broker } => {
                let request = UnregisterBrokerRequest { broker_id: *broker };
                ask(connection, &request, |_| Reply::Done).await
            }
            Command::ChangeVoters(request) => {
                let wanted = |response: ChangeVotersResponse| Reply::VotersWanted(response.voters);
                ask(connection, request, wanted).await
            }
            Command::AlterPartitions(request) => {
                ask(connection, request, Reply::AlterPartitions).await
            }
            Command::ElectLeaders(request) => ask(connection, request, Reply::Elected).await,
            Command::ReassignPartitions(request) => {
                ask(connection, request, Reply::Reassigned).await
            }
            Command::DrainBroker(request) => ask(connection, request, Reply::Drained).await,
            Command::FenceBroker { .. }
            | Command::UnfenceBroker { .. }
            | Command::StopBroker { .. }
            | Command::TakeOut { .. }
            | Command::FinishElections
            | Command::BalanceLeaders => Attempt::Refused(Failure::new(
                ErrorCode::NOT_CONTROLLER,
                "the controller decides this by itself",
            )),
        }
    }

    /// What has become of an attempt at the controller with this Raft id. Once there is another
    /// one, a connection that may be dead is not waited for.
    pub(super) async fn unless_replaced<T>(
        &self,
        raft_id: u64,
        attempt: impl Future<Output = Attempt<T>>,
    ) -> Attempt<T> {
        tokio::select! {
            outcome = attempt => outcome,
            () = self.replaced(raft_id) => {
                Attempt::Unknown("another one has taken over".to_owned())
            }
        }
    }

    /// Waits until somebody else than `raft_id` is the controller, and a little longer: one that
    /// lives answers for itself that it is not the controller any more.
    async fn replaced(&self, raft_id: u64) {
        let raft = self.member().await;
        let mut metrics = raft.server_metrics();
        loop {
            let is_other = match self.controller() {
                ControllerAt::Here => true,
                ControllerAt::Broker { raft_id: now, .. } => now != raft_id,
                ControllerAt::Unknown => false,
            };
            if is_other {
                return sleep(LAST_WORD).await;
            }
            if metrics.changed().await.is_err() {
                // It is over with this broker, which tells whoever waits.
                return std::future::pending().await;
            }
        }
    }

    /// The epoch of a broker, as far as is known.
    pub(super) fn epoch_of(&self, broker: BrokerId) -> BrokerEpoch {
        let image = self.image();
        image
            .broker(broker)
            .map_or(BrokerEpoch(-1), |broker| broker.epoch)
    }

    /// Waits until the image reflects `version`. Cancel safe.
    pub async fn reached(&self, version: Offset) {
        let mut images = self.watch();
        // The sender lives as long as this handle: an error cannot be.
        let _ = images.wait_for(|image| image.version() >= version).await;
    }
}

/// Asks the controller for a change.
async fn ask<R: Request>(
    connection: &Connection,
    request: &R,
    reply: impl FnOnce(R::Response) -> Reply,
) -> Attempt<(Reply, Offset)> {
    match attempt_at(connection, request, PATIENCE).await {
        Attempt::Done((response, payload)) => {
            Attempt::Done((reply(response), version_in(&payload)))
        }
        Attempt::Refused(failure) => Attempt::Refused(failure),
        Attempt::Again(failure) => Attempt::Again(failure),
        Attempt::Unknown(reason) => Attempt::Unknown(reason),
    }
}

/// Asks whoever is at the other end, which may take `wait` and the time of any request.
pub(super) async fn attempt_at<R: Request>(
    connection: &Connection,
    request: &R,
    wait: Duration,
) -> Attempt<(R::Response, Bytes)> {
    let answer = connection
        .request_that_waits(request, Vec::new(), wait)
        .await;
    match answer {
        Ok(answer) => Attempt::Done(answer),
        Err(ClientError::Refused { code, message, .. }) => {
            let failure = Failure::new(code, message);
            match code {
                ErrorCode::NOT_CONTROLLER | ErrorCode::NOT_READY | ErrorCode::SHUTTING_DOWN => {
                    Attempt::Again(Failure {
                        error: ErrorCode::NOT_CONTROLLER,
                        ..failure
                    })
                }
                // It is its disk that has failed, not this broker's: another one takes over, and
                // knows what was made of the change.
                ErrorCode::STORAGE_ERROR => {
                    Attempt::Unknown(format!("the controller has failed: {}", failure.message))
                }
                _ => Attempt::Refused(failure),
            }
        }
        Err(ClientError::OutcomeUnknown { reason, .. }) => Attempt::Unknown(reason),
        Err(error) => Attempt::Again(Failure::new(ErrorCode::NOT_CONTROLLER, error.to_string())),
    }
}

/// The version of the metadata that reflects a change, as the controller tells its peers.
#[must_use]
pub fn version_payload(version: Offset) -> Bytes {
    Bytes::copy_from_slice(&version.0.to_be_bytes())
}

fn version_in(payload: &Bytes) -> Offset {
    let bytes = payload.first_chunk().copied();
    Offset(bytes.map_or(-1, i64::from_be_bytes))
}

pub(super) fn no_way(broker: BrokerId, error: &PeerError) -> Failure {
    Failure::new(
        ErrorCode::NOT_CONTROLLER,
        format!("broker {broker}, the controller, cannot be reached: {error}"),
    )
}

/// Whether a second time changes nothing more.
const fn is_idempotent(command: &Command) -> bool {
    !matches!(
        command,
        Command::CreateTopics(_)
            | Command::DeleteTopics(_)
            | Command::CreatePartitions(_)
            | Command::UnregisterBroker { .. }
    )
}
