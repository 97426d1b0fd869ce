//! A broker's own half of liveness: heartbeats to the controller, and the lease that they renew.
//!
//! *Patterns: heartbeat, lease.* A lease counts from when the last heartbeat that was granted was
//! *sent*, so that a broker that was paused knows that it may have been replaced. What only this
//! broker keeps it serves beyond that, until it is told that it is fenced: nobody can take it over,
//! and the death of a controller must not stop what works. A broker that is alone in its cluster
//! has a lease without end and sends nothing.

use std::{
    collections::BTreeSet,
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use strandline_client::{ClientError, connection::Connection};
use strandline_core::leases::{HEARTBEAT, OwnLease, SESSION};
use strandline_protocol::{
    BrokerEpoch, BrokerId, DirectoryId, ErrorCode, TopicPartition,
    messages::{BrokerHeartbeatRequest, BrokerHeartbeatResponse, Failure, PartitionName, Purpose},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::metrics::LeaseFigures;

use super::{MetadataLog, lessor::is_alone, member::ControllerAt};

/// How many heartbeats may be unanswered at once: one more than what a slow answer needs.
const IN_FLIGHT_MAX: usize = 2;

/// How many damaged partitions a heartbeat tells of.
const DAMAGED_PER_HEARTBEAT_MAX: usize = 1_000;

/// What a broker knows of its own lease.
pub(super) struct Own {
    base: Instant,
    lease: Mutex<OwnLease>,
    /// The same, for who looks often: in microseconds since `base`.
    until_us: AtomicU64,
    epoch: watch::Sender<Option<BrokerEpoch>>,
    failed: Mutex<BTreeSet<DirectoryId>>,
    damaged: Mutex<BTreeSet<TopicPartition>>,
    /// The data directories that lie on a full disk.
    full: Mutex<Vec<DirectoryId>>,
    recovering: AtomicBool,
    stopping: AtomicBool,
    may_stop: watch::Sender<bool>,
    renewals: AtomicU64,
    expiries: AtomicU64,
    in_flight: Mutex<InFlight>,
    /// The last heartbeat was lost, which has been told.
    is_silent: AtomicBool,
}

/// The heartbeats to one controller that are not answered yet.
struct InFlight {
    /// Its Raft id.
    to: u64,
    room: Arc<Semaphore>,
}

impl InFlight {
    fn to(controller: u64) -> Self {
        Self {
            to: controller,
            room: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
        }
    }
}

impl Own {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            base: Instant::now(),
            lease: Mutex::new(OwnLease::new()),
            until_us: AtomicU64::new(0),
            epoch: watch::Sender::new(None),
            failed: Mutex::default(),
            damaged: Mutex::default(),
            full: Mutex::default(),
            recovering: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            may_stop: watch::Sender::new(false),
            renewals: AtomicU64::new(0),
            expiries: AtomicU64::new(0),
            in_flight: Mutex::new(InFlight::to(0)),
            is_silent: AtomicBool::new(false),
        })
    }

    /// A data directory of this broker has failed.
    pub(super) fn directory_failed(&self, directory: DirectoryId) {
        self.failed.lock().insert(directory);
    }

    /// The data directories of this broker that lie on a full disk.
    pub(super) fn full(&self) -> Vec<DirectoryId> {
        self.full.lock().clone()
    }

    /// As many as a heartbeat tells of at once; the next ones once these are whole again.
    fn damaged(&self) -> Vec<PartitionName> {
        let damaged = self.damaged.lock();
        let names = damaged.iter().map(|of| PartitionName {
            topic_id: of.topic,
            partition: of.partition,
        });
        names.take(DAMAGED_PER_HEARTBEAT_MAX).collect()
    }

    /// The epoch under which this broker has registered.
    pub(super) fn registered(&self, epoch: BrokerEpoch) {
        self.epoch.send_replace(Some(epoch));
    }

    fn since_base(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.base)
    }

    fn change(&self, change: impl FnOnce(&mut OwnLease)) {
        let mut lease = self.lease.lock();
        change(&mut lease);
        let until = lease.until().unwrap_or_default();
        let until = u64::try_from(until.as_micros()).unwrap_or(u64::MAX);
        self.until_us.store(until, Ordering::Release);
    }

    fn holds(&self, now: Instant) -> bool {
        let now = u64::try_from(self.since_base(now).as_micros()).unwrap_or(u64::MAX);
        now < self.until_us.load(Ordering::Acquire)
    }

    /// The epoch that it registered under, and until when its lease holds, counted from the opening
    /// of the metadata log.
    #[cfg(strandline_sim)]
    pub(super) fn lease(&self) -> Option<(BrokerEpoch, Duration)> {
        let epoch = (*self.epoch.borrow())?;
        Some((
            epoch,
            Duration::from_micros(self.until_us.load(Ordering::Acquire)),
        ))
    }

    /// Room for one more heartbeat to the controller with this Raft id; none if it has not answered
    /// those before. What another one has not answered does not count.
    fn room_for_one(&self, controller: u64) -> Option<OwnedSemaphorePermit> {
        let mut in_flight = self.in_flight.lock();
        if in_flight.to != controller {
            *in_flight = InFlight::to(controller);
        }
        Arc::clone(&in_flight.room).try_acquire_owned().ok()
    }

    /// A heartbeat was not answered: told once, until one is answered again.
    fn unanswered(&self, controller: BrokerId, reason: impl Display) {
        if !self.is_silent.swap(true, Ordering::AcqRel) {
            tracing::warn!(%controller, "a heartbeat was lost: {reason}");
        }
    }

    /// A heartbeat was answered.
    fn answered(&self, sent: Instant, answer: Result<BrokerHeartbeatResponse, Failure>) {
        if self.is_silent.swap(false, Ordering::AcqRel) {
            tracing::info!("heartbeats are answered again");
        }
        match answer {
            Ok(response) if response.fenced => {
                self.lost();
                self.change(OwnLease::ended);
                self.told_to_stop(&response);
            }
            Ok(response) => {
                let session = Duration::from_millis(u64::from(response.session_ms));
                if !self.holds(Instant::now()) {
                    self.lost();
                }
                self.renewals.fetch_add(1, Ordering::Relaxed);
                let (sent, now) = (self.since_base(sent), self.since_base(Instant::now()));
                self.change(|lease| lease.granted(sent, now, session));
                self.told_to_stop(&response);
            }
            Err(failure) => match failure.error {
                ErrorCode::STALE_BROKER_EPOCH | ErrorCode::BROKER_ID_NOT_REGISTERED => {
                    if self.until_us.load(Ordering::Acquire) > 0 {
                        tracing::error!("this broker leads nothing any more: {}", failure.message);
                    }
                    self.lost();
                    self.change(OwnLease::ended);
                }
                _ => tracing::debug!("a heartbeat was refused: {}", failure.message),
            },
        }
    }

    /// Sends a heartbeat. A connection on which none is answered for a session is dead, whatever
    /// the system knows of it: the next one is opened anew, and who else waits on it waits no more.
    async fn ask_to_go_on(
        &self,
        connection: &Connection,
        request: &BrokerHeartbeatRequest,
        sent: Instant,
        controller: BrokerId,
    ) {
        match timeout(SESSION, connection.request(request, Vec::new())).await {
            Ok(Ok((response, _))) => self.answered(sent, Ok(response)),
            Ok(Err(ClientError::Refused { code, message, .. })) => {
                self.answered(sent, Err(Failure::new(code, message)));
            }
            Ok(Err(error)) => self.unanswered(controller, error),
            Err(_) => {
                let reason = format!("a heartbeat was not answered in {SESSION:?}");
                self.unanswered(controller, &reason);
                connection.abandon(&reason);
            }
        }
    }

    /// The lease that there was, if there was one, is over.
    fn lost(&self) {
        if self.until_us.load(Ordering::Acquire) > 0 {
            self.expiries.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn told_to_stop(&self, response: &BrokerHeartbeatResponse) {
        if response.may_stop {
            self.may_stop.send_replace(true);
        }
    }
}

impl MetadataLog {
    /// This broker opens its logs from now on: where there are others, it is not let in before
    /// [`MetadataLog::recovered`]. To be called before it registers.
    pub fn recovers(&self) {
        self.own.recovering.store(true, Ordering::Release);
    }

    /// Every log is open, or is known not to be: this broker may lead.
    pub fn recovered(&self) {
        self.own.recovering.store(false, Ordering::Release);
    }

    /// The copy of a partition on this broker cannot be trusted: the controller takes it out where
    /// another one has everything.
    pub fn partition_damaged(&self, of: TopicPartition) {
        self.own.damaged.lock().insert(of);
    }

    /// The copy of a partition on this broker is whole again, or gone.
    pub fn partition_repaired(&self, of: TopicPartition) {
        self.own.damaged.lock().remove(&of);
    }

    /// These data directories of this broker lie on a full disk, and no others: people are told of
    /// it, and others lead what they can.
    pub fn directories_full(&self, directories: Vec<DirectoryId>) {
        *self.own.full.lock() = directories;
    }

    /// Whether this broker has not been let in yet, or was told that it is fenced.
    ///
    /// A lease that is over because nobody renewed it does not count: what only this broker keeps,
    /// nobody else can lead. What others keep too, each partition decides for itself.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.own.until_us.load(Ordering::Acquire) == 0
    }

    /// Whether this broker holds its lease: nobody else leads what it leads.
    #[must_use]
    pub fn holds_lease(&self) -> bool {
        self.own.holds(Instant::now())
    }

    /// The epoch under which this broker has registered; none before that.
    #[must_use]
    pub fn broker_epoch(&self) -> Option<BrokerEpoch> {
        *self.own.epoch.borrow()
    }

    /// What the own lease tells for a scrape.
    #[must_use]
    pub fn lease_figures(&self) -> LeaseFigures {
        LeaseFigures {
            held: self.holds_lease(),
            renewals: self.own.renewals.load(Ordering::Relaxed),
            expiries: self.own.expiries.load(Ordering::Relaxed),
        }
    }

    /// Sends heartbeats, and keeps the own lease. Runs for as long as the quorum does.
    pub async fn keep_alive(self, broker: BrokerId) {
        let (mut images, mut epochs) = (self.watch(), self.own.epoch.subscribe());
        // Who needs nobody else to know what is committed is alone until somebody registers.
        let mut alone = !self.needs_others();
        while alone {
            self.own.change(|lease| *lease = OwnLease::without_end());
            let company = images.wait_for(|image| !is_alone(image) && image.brokers().count() > 0);
            if company.await.is_err() {
                return;
            }
            alone = false;
            // It is the controller itself: whoever comes after it waits for a session.
            let now = self.own.since_base(Instant::now());
            self.own.change(|lease| {
                *lease = OwnLease::new();
                lease.granted(now, now, SESSION);
            });
        }
        let known = epochs.wait_for(Option::is_some).await.map(|epoch| *epoch);
        let Ok(Some(epoch)) = known else {
            return;
        };
        let mut ticks = interval(HEARTBEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.send_heartbeat(broker, epoch);
        }
    }

    /// Sends one, and waits for nothing.
    fn send_heartbeat(&self, broker: BrokerId, epoch: BrokerEpoch) {
        let request = BrokerHeartbeatRequest {
            broker_id: broker,
            broker_epoch: epoch,
            applied: self.image().version(),
            stopping: self.own.stopping.load(Ordering::Acquire),
            offline: self.own.failed.lock().iter().copied().collect(),
            recovering: self.own.recovering.load(Ordering::Acquire),
            damaged: self.own.damaged(),
            full: self.own.full(),
        };
        let sent = Instant::now();
        match (self.controller(), self.peers.clone()) {
            (ControllerAt::Here, _) => self.own.answered(sent, self.heartbeat(&request)),
            (ControllerAt::Broker { broker, raft_id }, Some(peers)) => {
                let own = Arc::clone(&self.own);
                let Some(room) = own.room_for_one(raft_id) else {
                    return;
                };
                tokio::spawn(async move {
                    let way = peers.connection(broker, Some(raft_id), Purpose::Control);
                    match way.await {
                        Ok(connection) => {
                            own.ask_to_go_on(&connection, &request, sent, broker).await;
                        }
                        Err(error) => own.unanswered(broker, error),
                    }
                    drop(room);
                });
            }
            _ => {}
        }
    }

    /// Tells the controller that this broker is about to stop, and waits until others lead what it
    /// leads, or for `patience`. Nothing to do for a broker that is alone.
    pub async fn leave(&self, patience: Duration) {
        if is_alone(&self.image()) {
            return;
        }
        self.own.stopping.store(true, Ordering::Release);
        let mut may_stop = self.own.may_stop.subscribe();
        if timeout(patience, may_stop.wait_for(|may| *may))
            .await
            .is_err()
        {
            tracing::warn!("the controller did not confirm that this broker stops");
        }
    }
}
