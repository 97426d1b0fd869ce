//! The controller's half of liveness: it holds leases, and fences who is silent.
//!
//! *Patterns: lease, heartbeat.* The driver around `strandline_core::leases`: it keeps the time,
//! looks every so often, and proposes what is due. A new controller gives everybody a whole session
//! and calls on everybody at once: where nobody listens any more, nobody is waited for. A broker
//! that is alone in its cluster holds no leases, and is not woken up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use openraft::async_runtime::watch::WatchReceiver as _;
use parking_lot::Mutex;
use strandline_client::{ClientError, connection::Connection};
use strandline_core::{
    leases::{Heartbeat, IsFenced, Leases, SESSION},
    metadata::{BrokerState, Command, Image},
};
use strandline_protocol::{
    BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, TopicPartition,
    messages::{BrokerHeartbeatRequest, BrokerHeartbeatResponse, Failure, Purpose},
};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use super::{
    MetadataLog,
    full_disks::FullDisks,
    losses::{Losses, News},
    peers::{PeerError, Peers},
};

/// How often leases are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A look that comes so much too late tells that this process stood still: whoever was silent was
/// perhaps not heard.
const PAUSED: Duration = Duration::from_millis(500);

/// What became of this process since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    Ran,
    StoodStill,
}

/// How often leaders are given to where they are preferred, as Kafka does.
const BALANCE_EVERY: Duration = Duration::from_secs(300);

/// How long after a call that failed the next one follows.
const CALL_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// How long a new controller waits for everybody whom it calls on.
const CALL_PATIENCE: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct Lessor {
    base: Instant,
    tenure: Mutex<Option<Tenure>>,
    /// The newest term in which leadership is handed over.
    abdicated: AtomicI32,
    /// Something is due before the next look.
    news: Notify,
    /// The brokers that told of damaged copies or full disks last.
    troubled: Mutex<BTreeSet<BrokerId>>,
}

/// The leases of one term.
struct Tenure {
    term: LeaderEpoch,
    leases: Leases,
    /// Whether everybody was called on once, and who is gone is fenced.
    settled: bool,
    /// As of which version a broker was first seen to be fenced, or has begun to stop.
    fenced_at: BTreeMap<BrokerId, Offset>,
    stopping_at: BTreeMap<BrokerId, Offset>,
    wishes: BTreeSet<Wish>,
    visits: BTreeMap<BrokerId, Visit>,
    losses: Losses,
    full: FullDisks,
    /// When leaders were last given to where they are preferred.
    balanced: Duration,
}

/// What is to be proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    Fence(BrokerId, BrokerEpoch),
    Unfence(BrokerId, BrokerEpoch),
    Stop(BrokerId, BrokerEpoch),
    TakeOut(BrokerId, BrokerEpoch),
    /// Others lead what is led on full disks.
    Relieve,
    Balance,
}

/// How the controller looks after one broker.
enum Visit {
    Calling,
    Connected(Connection),
    /// Called again then.
    Failed(Duration),
}

impl Lessor {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            base: Instant::now(),
            tenure: Mutex::new(None),
            abdicated: AtomicI32::new(-1),
            news: Notify::new(),
            troubled: Mutex::default(),
        })
    }

    fn now(&self) -> Duration {
        self.base.elapsed()
    }

    /// The brokers that are alive, as the controller of `term` knows; none before it has taken
    /// over and called on everybody.
    pub(super) fn held(&self, term: LeaderEpoch) -> Option<BTreeSet<BrokerId>> {
        let tenure = self.tenure.lock();
        let tenure = tenure
            .as_ref()
            .filter(|tenure| tenure.term == term && tenure.settled)?;
        Some(tenure.leases.held(self.now()))
    }

    /// What is left of the lease of a broker, and up to where it follows the metadata log.
    pub(super) fn of(&self, broker: BrokerId) -> Option<(Duration, Option<Offset>)> {
        let tenure = self.tenure.lock();
        tenure.as_ref()?.leases.of(broker, self.now())
    }

    /// How many data directories of a broker lie on a full disk, as it told last.
    pub(super) fn full(&self, broker: BrokerId) -> usize {
        let tenure = self.tenure.lock();
        tenure.as_ref().map_or(0, |tenure| tenure.full.of(broker))
    }

    fn heartbeat(
        &self,
        request: &BrokerHeartbeatRequest,
        image: &Image,
    ) -> Result<BrokerHeartbeatResponse, Failure> {
        let (broker, epoch, now) = (request.broker_id, request.broker_epoch, self.now());
        let mut tenure = self.tenure.lock();
        let tenure = tenure.as_mut().ok_or_else(|| {
            Failure::new(
                ErrorCode::NOT_CONTROLLER,
                "this broker is not the controller, or has just become it: retry",
            )
        })?;
        let granted = tenure
            .leases
            .heartbeat(broker, epoch, request.applied, now)?;
        let fenced = granted == Heartbeat::Fenced;
        let known = image.broker(broker).filter(|known| known.epoch == epoch);
        let state = known.map(|known| known.state);
        let may_begin = !request.stopping && !request.recovering;
        if fenced && state == Some(BrokerState::Fenced) && may_begin {
            // It follows its fencing: what it led before, it knows to be others'.
            let since = *tenure.fenced_at.entry(broker).or_insert(image.version());
            if request.applied >= since {
                tenure.wishes.insert(Wish::Unfence(broker, epoch));
                self.news.notify_one();
            }
        }
        if tenure.full.told(broker, request.full.len(), now) == News::Due {
            tenure.wishes.insert(Wish::Relieve);
            self.news.notify_one();
        }
        if known.is_some() && tenure.losses.reported(image, request) == News::Due {
            tenure.wishes.insert(Wish::TakeOut(broker, epoch));
            self.news.notify_one();
        }
        let mut may_stop = false;
        if request.stopping {
            match tenure.stopping_at.get(&broker) {
                Some(at) => {
                    let applied = tenure.leases.applied_by_others(broker, now);
                    may_stop = applied.is_some_and(|applied| applied >= *at);
                }
                None => {
                    tenure.wishes.insert(Wish::Stop(broker, epoch));
                    self.news.notify_one();
                }
            }
        }
        Ok(BrokerHeartbeatResponse {
            controller_epoch: tenure.term,
            session_ms: u32::try_from(SESSION.as_millis()).unwrap_or(u32::MAX),
            fenced,
            may_stop,
        })
    }

    /// A sign of life of who registers, and cannot send heartbeats before it knows the controller.
    pub(super) fn seen(&self, broker: BrokerId, epoch: BrokerEpoch) {
        if let Some(tenure) = self.tenure.lock().as_mut() {
            // Who is not known yet is so at the next look, with a whole session.
            let _ = tenure
                .leases
                .heartbeat(broker, epoch, Offset(-1), self.now());
        }
    }

    /// Leadership is handed over, in `term` and those before: nothing is granted any more in them.
    pub(super) fn abdicate(&self, term: LeaderEpoch) {
        self.abdicated.fetch_max(term.0, Ordering::AcqRel);
        self.end();
    }

    fn end(&self) {
        *self.tenure.lock() = None;
    }

    /// Everybody was called on.
    fn settle(&self) {
        if let Some(tenure) = self.tenure.lock().as_mut() {
            tenure.settled = true;
        }
    }

    /// Whether the controller of `term` has to take over.
    fn is_new(&self, term: LeaderEpoch) -> bool {
        self.tenure
            .lock()
            .as_ref()
            .is_none_or(|tenure| tenure.term != term)
    }

    fn take_over(&self, term: LeaderEpoch, image: &Image) {
        let brokers = image.brokers().map(|broker| {
            let id = broker.registration.broker;
            (id, broker.epoch, is_fenced(broker.state))
        });
        let leases = Leases::taken_over(brokers, SESSION, self.now());
        *self.tenure.lock() = Some(Tenure {
            term,
            leases,
            settled: false,
            fenced_at: BTreeMap::new(),
            stopping_at: BTreeMap::new(),
            wishes: BTreeSet::new(),
            visits: BTreeMap::new(),
            losses: Losses::default(),
            full: FullDisks::default(),
            balanced: self.now(),
        });
    }

    /// Brings the leases in step with what is committed, and tells what is to be proposed next.
    fn next_wish(&self, image: &Image) -> Option<Wish> {
        let now = self.now();
        let mut tenure = self.tenure.lock();
        let tenure = tenure.as_mut()?;
        for broker in image.brokers() {
            let (id, epoch) = (broker.registration.broker, broker.epoch);
            tenure
                .leases
                .registered(id, epoch, is_fenced(broker.state), now);
            if broker.state == BrokerState::Fenced {
                tenure.leases.fenced(id, epoch);
            } else {
                tenure.fenced_at.remove(&id);
            }
        }
        if let Some(expired) = tenure.leases.expired(now) {
            return Some(Wish::Fence(expired.broker, expired.epoch));
        }
        if now.saturating_sub(tenure.balanced) >= BALANCE_EVERY {
            tenure.balanced = now;
            tenure.wishes.insert(Wish::Balance);
        }
        tenure.wishes.pop_first()
    }

    /// The command that grants a wish.
    fn command(&self, wish: Wish) -> Command {
        match wish {
            Wish::Fence(broker, epoch) => Command::FenceBroker { broker, epoch },
            Wish::Unfence(broker, epoch) => Command::UnfenceBroker { broker, epoch },
            Wish::Stop(broker, epoch) => Command::StopBroker { broker, epoch },
            Wish::TakeOut(broker, epoch) => {
                let mut tenure = self.tenure.lock();
                let losses = tenure.as_mut().and_then(|tenure| tenure.losses.ask(broker));
                let (directories, partitions) = losses.unwrap_or_default();
                Command::TakeOut {
                    broker,
                    epoch,
                    directories,
                    partitions,
                }
            }
            Wish::Relieve => Command::FinishElections,
            Wish::Balance => Command::BalanceLeaders,
        }
    }

    /// A proposal is committed; the image that reflects it has `version`.
    fn done(&self, wish: Wish, version: Offset) {
        let now = self.now();
        let mut tenure = self.tenure.lock();
        let Some(tenure) = tenure.as_mut() else {
            return;
        };
        match wish {
            Wish::Fence(broker, epoch) => {
                tenure.leases.fenced(broker, epoch);
                tenure.fenced_at.insert(broker, version);
            }
            Wish::Unfence(broker, epoch) => {
                tenure.leases.unfenced(broker, epoch, now);
                tenure.fenced_at.remove(&broker);
            }
            Wish::Stop(broker, _) => {
                tenure.stopping_at.insert(broker, version);
            }
            Wish::TakeOut(broker, epoch) => tenure.losses.taken_out(broker, epoch),
            Wish::Relieve | Wish::Balance => {}
        }
    }

    /// Whom to call on now: brokers that are not connected to.
    fn to_visit(&self, image: &Image, me: BrokerId) -> Vec<(BrokerId, BrokerEpoch)> {
        let now = self.now();
        let mut tenure = self.tenure.lock();
        let Some(tenure) = tenure.as_mut() else {
            return Vec::new();
        };
        let mut due = Vec::new();
        for broker in image
            .brokers()
            .filter(|broker| broker.state != BrokerState::Fenced)
        {
            let id = broker.registration.broker;
            let rests = match tenure.visits.get(&id) {
                None => false,
                Some(Visit::Calling) => true,
                Some(Visit::Connected(connection)) => !connection.is_closed(),
                Some(Visit::Failed(until)) => now < *until,
            };
            if id != me && !rests {
                tenure.visits.insert(id, Visit::Calling);
                due.push((id, broker.epoch));
            }
        }
        due
    }

    /// How a call has ended.
    fn visited(
        self: &Arc<Self>,
        broker: BrokerId,
        epoch: BrokerEpoch,
        outcome: Result<Connection, PeerError>,
    ) {
        let now = self.now();
        let mut tenure = self.tenure.lock();
        let Some(tenure) = tenure.as_mut() else {
            return;
        };
        let visit = match outcome {
            Ok(connection) => {
                // Whoever dies is called again at once, and found to be gone.
                let (closed, lessor) = (connection.closed(), Arc::clone(self));
                tokio::spawn(async move {
                    closed.await;
                    lessor.news.notify_one();
                });
                Visit::Connected(connection)
            }
            Err(error) => {
                if is_refused(&error) {
                    tenure.leases.connection_refused(broker, epoch, now);
                    self.news.notify_one();
                }
                let broke = matches!(error, PeerError::Client(_)) && !is_refused(&error);
                let pause = if broke {
                    self.look_again();
                    CALL_AGAIN_AFTER
                } else {
                    LOOK_EVERY
                };
                Visit::Failed(now.saturating_add(pause))
            }
        };
        tenure.visits.insert(broker, visit);
    }
}

impl Lessor {
    /// Whether a heartbeat tells of damaged copies or full disks, or that there are none any more.
    fn tells_of_trouble(&self, heartbeat: &BrokerHeartbeatRequest) -> bool {
        let (mut troubled, broker) = (self.troubled.lock(), heartbeat.broker_id);
        if heartbeat.damaged.is_empty() && heartbeat.full.is_empty() {
            troubled.remove(&broker)
        } else {
            troubled.insert(broker);
            true
        }
    }

    /// A process that dies may take a connection before its address refuses any: so whoever could
    /// not be called is called again soon.
    fn look_again(self: &Arc<Self>) {
        let lessor = Arc::clone(self);
        tokio::spawn(async move {
            sleep(CALL_AGAIN_AFTER).await;
            lessor.news.notify_one();
        });
    }
}

fn is_fenced(state: BrokerState) -> IsFenced {
    match state {
        BrokerState::Fenced => IsFenced::Yes,
        BrokerState::Active | BrokerState::Stopping => IsFenced::No,
    }
}

/// Whether the machine answered that nobody listens there.
fn is_refused(error: &PeerError) -> bool {
    matches!(
        error,
        PeerError::Client(ClientError::Unreachable { reason, .. }) if reason == "connection refused"
    )
}

/// Whether the cluster of `image` has one broker, to which nobody owes anything.
pub(super) fn is_alone(image: &Image) -> bool {
    let members = image
        .membership()
        .map_or(0, |known| known.members().count());
    image.brokers().count() <= 1 && members <= 1
}

impl MetadataLog {
    /// Takes the heartbeat of a broker.
    ///
    /// # Errors
    /// `NOT_CONTROLLER`; what [`Leases::heartbeat`] refuses.
    pub fn heartbeat(
        &self,
        request: &BrokerHeartbeatRequest,
    ) -> Result<BrokerHeartbeatResponse, Failure> {
        let image = self.image();
        let known = image.broker(request.broker_id);
        if known.is_some_and(|known| known.epoch == request.broker_epoch) {
            for directory in &request.offline {
                self.controller.lock().directory_failed(*directory);
            }
            if self.lessor.tells_of_trouble(request) {
                let copies = request.damaged.iter().map(|name| TopicPartition {
                    topic: name.topic_id,
                    partition: name.partition,
                });
                let mut controller = self.controller.lock();
                controller.copies_damaged(request.broker_id, copies.collect());
                let full = request.full.iter().copied().collect();
                controller.directories_full(request.broker_id, full);
            }
        }
        if !self.has_quorum() {
            return Err(Failure::new(
                ErrorCode::NOT_CONTROLLER,
                "this broker is not the controller, or has not heard of a majority: retry",
            ));
        }
        self.lessor.heartbeat(request, &image)
    }

    /// Holds the leases while this broker is the controller. Runs for as long as the quorum does.
    pub async fn keep_leases(self) {
        let Some(peers) = self.peers.clone() else {
            return;
        };
        let raft = self.member().await;
        let (mut images, mut metrics) = (self.watch(), raft.server_metrics());
        let mut process = Process::Ran;
        loop {
            let alone = {
                let image = images.borrow_and_update();
                is_alone(&image)
            };
            drop(metrics.borrow_and_update());
            let leads = self.leads_settled(&raft);
            let abdicated = self.lessor.abdicated.load(Ordering::Acquire);
            match leads.filter(|term| !alone && term.0 > abdicated) {
                Some(term) => self.look(term, &peers, process).await,
                None => self.lessor.end(),
            }
            let before = Instant::now();
            tokio::select! {
                changed = images.changed() => if changed.is_err() {
                    return;
                },
                changed = metrics.changed() => if changed.is_err() {
                    return;
                },
                () = self.lessor.news.notified() => {}
                () = sleep(LOOK_EVERY), if leads.is_some() && !alone => {}
            }
            process = if leads.is_some() && before.elapsed() > LOOK_EVERY + PAUSED {
                Process::StoodStill
            } else {
                Process::Ran
            };
        }
    }

    async fn look(&self, term: LeaderEpoch, peers: &Peers, process: Process) {
        let is_new = self.lessor.is_new(term);
        if is_new || process == Process::StoodStill {
            self.lessor.take_over(term, &self.image());
        }
        let mut calls = JoinSet::new();
        for (broker, epoch) in self.lessor.to_visit(&self.image(), peers.me().broker) {
            let (peers, lessor) = (peers.clone(), Arc::clone(&self.lessor));
            calls.spawn(async move {
                let outcome = peers.connection(broker, None, Purpose::Control).await;
                lessor.visited(broker, epoch, outcome);
            });
        }
        if is_new {
            tracing::info!(%term, "this broker is the controller");
            let deadline = Instant::now() + CALL_PATIENCE;
            // What the controller before has left undone.
            if let Err(failure) = self.propose_here(Command::FinishElections).await {
                tracing::debug!("elections are not finished: {}", failure.message);
            }
            // Who died with the controller before is noticed before anything is placed on it, and
            // waits for nobody who is slow to answer.
            while let Ok(Some(_)) = timeout_at(deadline, calls.join_next()).await {
                let _ = self.grant_wishes().await;
            }
        }
        calls.detach_all();
        if self.grant_wishes().await.is_ok() {
            self.lessor.settle();
        }
    }

    /// Proposes what is due, one after the other.
    ///
    /// # Errors
    /// The first refusal. It is looked at again later; a wish comes back with the next heartbeat.
    async fn grant_wishes(&self) -> Result<(), Failure> {
        while let Some(wish) = self.lessor.next_wish(&self.image()) {
            match self.propose_here(self.lessor.command(wish)).await {
                Ok(_) => {
                    if !matches!(wish, Wish::Relieve | Wish::Balance) {
                        tracing::info!("{wish:?} is done");
                    }
                    self.lessor.done(wish, self.image().version());
                }
                Err(failure) => {
                    tracing::debug!("{wish:?} is not done: {}", failure.message);
                    return Err(failure);
                }
            }
        }
        Ok(())
    }
}
