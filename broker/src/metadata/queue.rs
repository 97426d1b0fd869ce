//! The update queue of the metadata log: decide, propose, and answer once it is committed.
//!
//! *Patterns: singular update queue, request waiting list.* One task decides, one command after the
//! other, each on all that is appended; the group commits in the meantime, and its syncs are
//! shared. Only the leader of the group decides, and only after its first own entry is applied:
//! before that it does not know all that was committed. What it proposes is bound to its term, so
//! that nothing which was decided on an older image slips in after another leader.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::Duration,
};

use openraft::{
    RaftNetworkFactory, ReadPolicy, ServerState, async_runtime::watch::WatchReceiver as _,
    network::NetSnapshot, vote::leader_id_std::CommittedLeaderId,
};
use parking_lot::Mutex;
use strandline_client::net::random;
use strandline_core::metadata::{Command, Controller, Entry, Image, Reply};
use strandline_protocol::{ErrorCode, LeaderEpoch, Offset, messages::Failure};
use strandline_storage::{StorageError, directory::RaftId};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::lessor::{Lessor, is_alone};
use super::quorum::{
    Change, Company, FAILED, Failing, Keeper, LogId, Machine, Proposal, Public, Raft, SnapshotFile,
    Store, Types, keep_time, log_id, offset_of, seeded, start, term_of,
};

/// How many commands may wait to be decided.
const COMMANDS_MAX: usize = 1_024;

/// How long a new leader is given to apply its first entry while somebody waits, and a closing
/// broker to commit what is under way.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the queue is asked.
pub(super) enum Request {
    /// A change.
    Propose(Command, oneshot::Sender<Result<Reply, Failure>>),
    /// The end: everything is made durable, and the log given up.
    Close(oneshot::Sender<Result<Offset, StorageError>>),
}

/// What the queue works with.
pub(super) struct Queue {
    pub(super) raft_id: RaftId,
    pub(super) company: Company,
    pub(super) controller: Arc<Mutex<Controller>>,
    pub(super) public: Public,
    pub(super) store: Store,
    pub(super) failing: Failing,
    pub(super) requests: mpsc::Receiver<Request>,
    /// Who is alive; none where there are no peers.
    pub(super) lessor: Option<Arc<Lessor>>,
    /// Where the member is found once it has started.
    pub(super) member: Arc<OnceLock<Raft>>,
    /// Sees to snapshots while the queue serves.
    pub(super) keeper: Keeper,
}

/// A queue's end for those who ask.
pub(super) fn channel() -> (mpsc::Sender<Request>, mpsc::Receiver<Request>) {
    mpsc::channel(COMMANDS_MAX)
}

/// The answer to whoever comes after the end.
pub(super) fn shutting_down() -> Failure {
    Failure::new(
        ErrorCode::SHUTTING_DOWN,
        "the broker is shutting down: retry with another one, or later",
    )
}

/// A leader's own view: all that is appended, committed or not.
struct Lead {
    term: LeaderEpoch,
    appended: Image,
}

/// The last entry that a decision rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Basis {
    /// It was there before, and the decision has added none.
    Known(LogId),
    /// The decision has added it.
    Written(LogId),
}

/// Whether the group is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Runs,
    Ended,
}

impl Group {
    /// What a look at its figures tells: they go with it.
    const fn of<T, E>(changed: &Result<T, E>) -> Self {
        match changed {
            Ok(_) => Self::Runs,
            Err(_) => Self::Ended,
        }
    }
}

/// The queue at work.
struct Running {
    queue: Queue,
    raft: Raft,
    metrics: openraft::alias::WatchReceiverOf<Types, openraft::metrics::RaftServerMetrics<Types>>,
    failed: watch::Receiver<Option<String>>,
    lead: Option<Lead>,
}

impl Queue {
    /// Starts the member and serves until it is told to end or nobody is left to ask.
    pub(super) async fn run<N>(self, machine: Machine, network: N)
    where
        N: RaftNetworkFactory<Types>,
        N::Network: NetSnapshot<Types, SnapshotData = SnapshotFile>,
    {
        if self.requests.is_closed() && self.requests.is_empty() {
            // Whoever opened the log has gone, and may have opened it again.
            return;
        }
        seeded(self.serve(machine, network)).await;
    }

    async fn serve<N>(mut self, machine: Machine, network: N)
    where
        N: RaftNetworkFactory<Types>,
        N::Network: NetSnapshot<Types, SnapshotData = SnapshotFile>,
    {
        let (id, store) = (self.raft_id, self.store.clone());
        match start(id, self.company, store, machine, network).await {
            Ok(raft) => {
                let _ = self.member.set(raft.clone());
                let keeping = self.keeper.clone().run(raft.clone());
                let mut running = Running {
                    metrics: raft.server_metrics(),
                    failed: self.failing.watch(),
                    lead: None,
                    queue: self,
                    raft,
                };
                tokio::select! {
                    biased;
                    () = running.serve() => {}
                    () = keeping => {}
                }
            }
            Err(error) => {
                self.failing.fail_with(ErrorCode::STORAGE_ERROR, &error);
                while let Some(request) = self.requests.recv().await {
                    match request {
                        Request::Propose(_, to) => {
                            let refusal = self.failing.refusal().unwrap_or_else(shutting_down);
                            let _ = to.send(Err(refusal));
                        }
                        Request::Close(to) => {
                            self.requests.close();
                            let _ = to.send(self.close().await);
                        }
                    }
                }
            }
        }
    }

    /// Gives the log up. Returns the end of what is settled, which may lie below that of the log.
    async fn close(&self) -> Result<Offset, StorageError> {
        let end = self.store.close().await?;
        let settled = self.public.image().version().plus(1);
        Ok(end.map_or(settled, |end| end.min(settled)))
    }
}

impl Running {
    async fn serve(&mut self) {
        self.keep_time();
        if self.queue.company == Company::Alone {
            self.elected().await;
        }
        let mut watched = true;
        loop {
            tokio::select! {
                biased;
                failed = self.failed.changed(), if watched => {
                    watched = failed.is_ok();
                    self.queue.public.give_up(FAILED);
                }
                changed = self.metrics.changed() => {
                    let group = Group::of(&changed);
                    self.group_changed(group);
                    if group == Group::Ended {
                        return self.refuse_all().await;
                    }
                }
                request = self.queue.requests.recv() => match request {
                    Some(Request::Propose(command, to)) => self.propose(&command, to).await,
                    Some(Request::Close(to)) => {
                        let _ = to.send(self.close().await);
                        return;
                    }
                    None => return,
                }
            }
        }
    }

    /// Waits until this member, which is alone, leads.
    async fn elected(&mut self) {
        while self.queue.failing.refusal().is_none() && !self.leads_settled() {
            self.something_changed().await;
        }
    }

    /// The term that this member leads, if it does.
    fn leads(&self) -> Option<LeaderEpoch> {
        let metrics = self.metrics.borrow_watched();
        let is_leader = metrics.state == ServerState::Leader && metrics.vote.is_committed();
        is_leader.then(|| LeaderEpoch(metrics.vote.leader_id().term))
    }

    /// Whether it leads and knows all that was committed before.
    fn leads_settled(&self) -> bool {
        self.leads() == Some(self.queue.public.image().term())
    }

    async fn something_changed(&mut self) {
        let mut images = self.queue.public.watch();
        let mut failed = self.queue.failing.watch();
        tokio::select! {
            biased;
            _ = failed.changed() => {}
            changed = self.metrics.changed() => self.group_changed(Group::of(&changed)),
            _ = images.changed() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }

    /// Notes who leads now, and that the group has ended if it has.
    fn group_changed(&mut self, group: Group) {
        if group == Group::Ended && self.queue.failing.refusal().is_none() {
            let stopped = "the quorum has stopped";
            self.queue
                .failing
                .fail_with(ErrorCode::STORAGE_ERROR, &stopped);
        }
        self.keep_time();
        self.keep_or_lose_lead();
    }

    fn keep_time(&self) {
        let metrics = self.metrics.borrow_watched();
        let members = metrics.membership_config.membership().nodes().count();
        keep_time(&self.raft, members);
        if members > 1 {
            self.queue.store.found_company();
        }
    }

    /// Who leads no longer cannot say what becomes of what it has proposed.
    fn keep_or_lose_lead(&mut self) {
        let term = self.lead.as_ref().map(|lead| lead.term);
        if term.is_some() && self.leads() != term {
            self.lead = None;
            self.queue.public.give_up(
                "this broker is not the controller any more: look whether the change is there",
            );
        }
    }

    async fn propose(&mut self, command: &Command, to: oneshot::Sender<Result<Reply, Failure>>) {
        let (reply, rests_on) = match self.ready().await {
            Err(refused) => (Err(refused), None),
            Ok(term) => self.decide(command, term).await,
        };
        let Some(basis) = rests_on else {
            let _ = to.send(reply);
            return;
        };
        let (Basis::Known(rests_on) | Basis::Written(rests_on)) = basis;
        let proposal = Proposal {
            reply,
            to,
            rests_on,
        };
        // Only what it has written itself proves that this member still leads, once committed.
        if matches!(basis, Basis::Known(_)) && self.has_company() {
            self.confirm(proposal);
        } else {
            self.queue.public.park(proposal, &self.queue.store);
        }
    }

    fn has_company(&self) -> bool {
        let metrics = self.metrics.borrow_watched();
        metrics.membership_config.membership().nodes().count() > 1
    }

    /// Answers once a majority has said that nobody else leads (the ReadIndex of Ongaro's
    /// dissertation, section 6.4). A controller that was cut off would otherwise tell what is no
    /// longer true.
    fn confirm(&self, proposal: Proposal) {
        let raft = self.raft.clone();
        let (public, store) = (self.queue.public.clone(), self.queue.store.clone());
        tokio::spawn(seeded(async move {
            let asked = raft.ensure_linearizable(ReadPolicy::ReadIndex);
            if let Ok(Ok(_)) = timeout(PATIENCE, asked).await {
                public.park(proposal, &store);
                return;
            }
            let refusal = "this broker cannot make sure that it still is the controller: retry";
            let refusal = Failure::new(ErrorCode::NOT_CONTROLLER, refusal);
            let _ = proposal.to.send(Err(refusal));
        }));
    }

    /// The term in which this member decides.
    async fn ready(&mut self) -> Result<LeaderEpoch, Failure> {
        let settled = timeout(PATIENCE, async {
            while self.queue.failing.refusal().is_none()
                && self.leads().is_some()
                && !self.leads_settled()
            {
                self.something_changed().await;
            }
        });
        let is_settled = settled.await.is_ok();
        if let Some(refusal) = self.queue.failing.refusal() {
            return Err(refusal);
        }
        match self.leads() {
            Some(term) if is_settled => Ok(term),
            _ => Err(self.not_controller()),
        }
    }

    fn not_controller(&self) -> Failure {
        let leader = self.metrics.borrow_watched().current_leader;
        let image = self.queue.public.image();
        let broker = image.membership().and_then(|membership| {
            membership
                .members()
                .find(|member| Some(RaftId(member.raft_id)) == leader)
                .map(|member| member.broker)
        });
        let message = match broker {
            Some(broker) => format!("the controller is broker {broker}: send the request to it"),
            None if self.queue.store.stands_still() => {
                "the disk of this broker is full, so that it follows no change of the metadata and \
                 knows of no controller: free space there, or ask another broker"
                    .to_owned()
            }
            None => "there is no controller now: a majority of the voters must run".to_owned(),
        };
        Failure::new(ErrorCode::NOT_CONTROLLER, message)
    }

    /// Decides on all that is appended, and appends what comes out. The reply may be given once the
    /// entry that is returned with it is committed; none if it rests on nothing.
    async fn decide(
        &mut self,
        command: &Command,
        term: LeaderEpoch,
    ) -> (Result<Reply, Failure>, Option<Basis>) {
        let mut lead = self.caught_up(term);
        let known = lead.appended.version();
        let held = self.queue.lessor.as_ref().map(|lessor| lessor.held(term));
        let leased = match held {
            Some(Some(leased)) => leased,
            // It does not know yet who is there.
            Some(None) if needs_leases(command) && !is_alone(&lead.appended) => {
                self.lead = Some(lead);
                return (Err(self.not_controller()), None);
            }
            Some(None) | None => BTreeSet::new(),
        };
        let decision = {
            let mut random = random_id;
            let mut controller = self.queue.controller.lock();
            let decision = controller.decide(&lead.appended, command, &leased, &mut random);
            if let (Ok(_), Command::RegisterBroker(registration)) = (&decision, command) {
                controller.broker_started(registration);
            }
            decision
        };
        let reply = match decision {
            // What refused may rest on entries that are not committed, so a refusal waits as well.
            Err(refused) => Err(refused),
            Ok(decision) => {
                let mut outcome = Ok(decision.reply);
                for entry in Entry::pack(decision.records) {
                    // Entries before one that fails are valid alone, and stay.
                    if let Err(failure) = self.append(&mut lead, entry).await {
                        outcome = Err(failure);
                        break;
                    }
                }
                outcome
            }
        };
        let rests_on = log_id(lead.appended.term(), lead.appended.version());
        let basis = if lead.appended.version() == known {
            Basis::Known(rests_on)
        } else {
            Basis::Written(rests_on)
        };
        self.lead = Some(lead);
        (reply, Some(basis))
    }

    /// All that is appended, as the leader of `term` sees it.
    fn caught_up(&mut self, term: LeaderEpoch) -> Lead {
        // In this order: an entry leaves the tail only after the image has it.
        let tail = self.queue.store.tail();
        let image = self.queue.public.image();
        let mut lead = match self.lead.take() {
            // What is published shares its parts with what was published before.
            Some(lead) if lead.term == term && lead.appended.version() > image.version() => lead,
            _ => Lead {
                term,
                appended: image.as_ref().clone(),
            },
        };
        for held in tail {
            if offset_of(&held.id) > lead.appended.version() {
                let (offset, term) = (offset_of(&held.id), term_of(&held.id));
                lead.appended.apply(offset, term, &held.entry);
            }
        }
        lead
    }

    /// Appends one entry, and waits until it has its place.
    async fn append(&mut self, lead: &mut Lead, entry: Entry) -> Result<(), Failure> {
        let store = &self.queue.store;
        store
            .reserve(lead.term, &entry)
            .map_err(|error| Failure::new(error.code(), error.to_string()))?;
        let entry = Arc::new(entry);
        let (change, placed) = Change::new(Arc::clone(&entry));
        let leader = CommittedLeaderId::new(lead.term.0);
        let sent = self.raft.write(change).with_leader(leader).await;
        let placed = match sent {
            Ok(()) => placed.await.ok(),
            Err(_) => None,
        };
        let Some(id) = placed else {
            return Err(match self.queue.failing.refusal() {
                // It may lie in the file all the same.
                Some(failed) if failed.error != ErrorCode::DISK_FULL => {
                    Failure::new(ErrorCode::UNKNOWN_SERVER_ERROR, FAILED)
                }
                Some(failed) => failed,
                None => self.not_controller(),
            });
        };
        if offset_of(&id) != lead.appended.version().plus(1) {
            // An entry of the group itself came in between: it is in the tail, before this one.
            self.lead = Some(Lead {
                term: lead.term,
                appended: lead.appended.clone(),
            });
            *lead = self.caught_up(lead.term);
            return Ok(());
        }
        lead.appended.apply(offset_of(&id), term_of(&id), &entry);
        self.queue.public.made(id, lead.appended.clone());
        Ok(())
    }

    async fn close(&mut self) -> Result<Offset, StorageError> {
        self.queue.requests.close();
        while let Ok(request) = self.queue.requests.try_recv() {
            match request {
                Request::Propose(_, to) => drop(to.send(Err(shutting_down()))),
                Request::Close(to) => drop(to.send(Ok(self.settled()))),
            }
        }
        if let Some(lead) = self.lead.take() {
            let appended = lead.appended.version();
            let committed = async {
                while self.queue.failing.refusal().is_none()
                    && self.queue.public.image().version() < appended
                {
                    self.something_changed().await;
                }
            };
            let _ = timeout(PATIENCE, committed).await;
        }
        self.queue.store.leave();
        let _ = self.raft.shutdown().await;
        self.queue
            .public
            .give_up("the broker stopped while it made the change: look whether it is there");
        self.queue.close().await
    }

    fn settled(&self) -> Offset {
        self.queue.public.image().version().plus(1)
    }

    /// The group has stopped: nothing can be changed any more, but the log can be closed.
    async fn refuse_all(&mut self) {
        self.queue.public.give_up(FAILED);
        while let Some(request) = self.queue.requests.recv().await {
            match request {
                Request::Propose(_, to) => {
                    let refusal = self.queue.failing.refusal().unwrap_or_else(shutting_down);
                    let _ = to.send(Err(refusal));
                }
                Request::Close(to) => {
                    let _ = to.send(self.close().await);
                    return;
                }
            }
        }
    }
}

/// How often a condition is looked at although nobody told of a change.
const POLL: Duration = Duration::from_millis(50);

/// Whether a decision depends on who is alive: what is placed on the dead has no leader.
const fn needs_leases(command: &Command) -> bool {
    matches!(
        command,
        Command::RegisterBroker(_)
            | Command::UnregisterBroker { .. }
            | Command::CreateTopics(_)
            | Command::CreatePartitions(_)
    )
}

fn random_id() -> [u8; 16] {
    let drawn = (u128::from(random()) << 64) | u128::from(random());
    drawn.to_be_bytes()
}
