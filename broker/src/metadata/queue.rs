//! The update queue of the metadata log: decide, append, sync in groups, publish, answer.
//!
//! *Patterns: singular update queue, request waiting list, write-ahead log.* One critical section
//! decides and appends; one sync at a time runs outside of it, and whatever was appended meanwhile
//! shares the next one. Decisions see what is appended, readers only what is durable.

use std::{collections::VecDeque, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use strandline_client::net::{Clock, random};
use strandline_core::{
    metadata::{Command, Controller, Entry, Image, Reply},
    waiting::{Condition, Parked, WaitingList},
};
use strandline_protocol::{DirectoryId, ErrorCode, LeaderEpoch, Offset, messages::Failure};
use strandline_storage::{
    StorageError,
    log::{CheckpointJob, FlushJob, Log},
};
use tokio::sync::{Notify, oneshot, watch};

use super::{Flushing, batches, replay::Opened};

/// A reply that is parked until its entries are durable.
struct Proposal {
    reply: Result<Reply, Failure>,
    to: oneshot::Sender<Result<Reply, Failure>>,
}

impl Proposal {
    fn release(self) {
        // Whoever proposed may have gone away; what was decided stands all the same.
        let _ = self.to.send(self.reply);
    }
}

/// Everything behind a [`super::MetadataLog`].
pub(super) struct Queue {
    flushing: Flushing,
    term: LeaderEpoch,
    image: ArcSwap<Image>,
    watch: watch::Sender<Arc<Image>>,
    failure: watch::Sender<Option<String>>,
    /// Wakes who waits for the last sync to end.
    idle: Notify,
    state: Mutex<State>,
}

struct State {
    /// None once it is closed.
    log: Option<Log>,
    controller: Controller,
    /// All that is appended, durable or not.
    appended: Image,
    /// Images that become public once the log is durable up to their offset.
    unpublished: VecDeque<(Offset, Arc<Image>)>,
    waiting: WaitingList<(), Proposal, ()>,
    sync: Sync,
    /// Why an append has failed for good, until the queue has told everybody.
    broken: Option<String>,
}

/// Whether a sync is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sync {
    Idle,
    Running,
}

impl Queue {
    pub(super) fn new(opened: Opened, controller: Controller, flushing: Flushing) -> Self {
        let image = Arc::new(opened.image.clone());
        Self {
            flushing,
            term: opened.term,
            image: ArcSwap::new(Arc::clone(&image)),
            watch: watch::Sender::new(image),
            failure: watch::Sender::new(None),
            idle: Notify::new(),
            state: Mutex::new(State {
                log: Some(opened.log),
                controller,
                appended: opened.image,
                unpublished: VecDeque::new(),
                waiting: WaitingList::new(),
                sync: Sync::Idle,
                broken: None,
            }),
        }
    }

    pub(super) fn image(&self) -> Arc<Image> {
        self.image.load_full()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<Image>> {
        self.watch.subscribe()
    }

    pub(super) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.subscribe()
    }

    pub(super) fn directory_failed(&self, directory: DirectoryId) {
        self.state.lock().controller.directory_failed(directory);
    }

    pub(super) fn checkpoint_job(&self) -> Option<CheckpointJob> {
        let mut state = self.state.lock();
        state.log.as_mut()?.checkpoint_job(Clock.now())
    }

    pub(super) fn recovery_point(&self) -> Option<Offset> {
        let state = self.state.lock();
        state.log.as_ref().map(Log::recovery_point)
    }

    /// Decides and appends, and sees to it that a sync runs. What comes out of the receiver is
    /// durable and published.
    pub(super) fn submit(
        self: &Arc<Self>,
        command: &Command,
    ) -> oneshot::Receiver<Result<Reply, Failure>> {
        let (to, from) = oneshot::channel();
        let (ready, job) = {
            let mut state = self.state.lock();
            let reply = self.failed().map_or_else(
                || state.decide_and_append(command, self.term),
                |failure| Err(Failure::new(ErrorCode::STORAGE_ERROR, failure)),
            );
            // What refused may rest on entries that are not durable, so a refusal waits as well.
            let mut ready: Vec<Proposal> = state.park(Proposal { reply, to }).into_iter().collect();
            if let Some(error) = state.broken.take() {
                self.fail(&error);
            }
            let job = state.next_job();
            if job.is_none() && state.sync == Sync::Idle {
                // The log is out of service and hands out no sync: nobody must wait for one.
                ready.extend(state.waiting.drain().into_iter().map(unknown));
            }
            (ready, job)
        };
        for proposal in ready {
            proposal.release();
        }
        if let Some(job) = job {
            self.run(job);
        }
        from
    }

    /// Makes everything durable, writes the checkpoint and gives the log up; later proposals are
    /// refused. Returns the recovery point.
    pub(super) async fn close(&self) -> Result<Offset, StorageError> {
        loop {
            // Asked for before the look at the state, so that no wake-up is missed.
            let idle = self.idle.notified();
            let log = {
                let mut state = self.state.lock();
                match state.sync {
                    Sync::Running => None,
                    Sync::Idle => Some(state.log.take()),
                }
            };
            match log {
                Some(Some(log)) => return log.close(Clock.now()),
                Some(None) => return Ok(self.image().version().plus(1)),
                None => idle.await,
            }
        }
    }

    /// Runs syncs until nothing is left to be synced.
    fn run(self: &Arc<Self>, job: FlushJob) {
        let queue = Arc::clone(self);
        let work = move || {
            let mut next = Some(job);
            while let Some(job) = next {
                next = queue.committed(job);
            }
        };
        match self.flushing {
            Flushing::Inline => work(),
            Flushing::Blocking => drop(tokio::task::spawn_blocking(work)),
        }
    }

    /// Runs one sync, and publishes and answers what it has made durable. Returns the next one.
    fn committed(&self, job: FlushJob) -> Option<FlushJob> {
        let outcome = job.run();
        let mut state = self.state.lock();
        state.sync = Sync::Idle;
        let flushed = state.log.as_mut().map(|log| log.flushed(outcome));
        let (ready, next) = match flushed {
            Some(Ok(durable)) => {
                if let Some(image) = state.durable_image(durable) {
                    self.image.store(Arc::clone(&image));
                    self.watch.send_replace(image);
                }
                (state.waiting.advance(&(), durable.0), state.next_job())
            }
            Some(Err(error)) => {
                self.fail(&error.to_string());
                (
                    state.waiting.drain().into_iter().map(unknown).collect(),
                    None,
                )
            }
            None => (Vec::new(), None),
        };
        let idle = next.is_none();
        drop(state);
        for proposal in ready {
            proposal.release();
        }
        if idle {
            self.idle.notify_waiters();
        }
        next
    }

    fn failed(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    fn fail(&self, error: &str) {
        let text = format!("the metadata log is offline: {error}; see to the disk, then restart");
        tracing::error!("{text}");
        self.failure.send_replace(Some(text));
    }
}

/// The sync of its entries failed: whether they survive a restart, nobody can tell. What was
/// refused as a whole has written nothing, and stays refused.
fn unknown(proposal: Proposal) -> Proposal {
    let Proposal { reply, to } = proposal;
    Proposal {
        reply: reply.and(Err(Failure::new(
            ErrorCode::UNKNOWN_SERVER_ERROR,
            "the metadata log failed while it wrote the change: look after a restart whether it is \
             there",
        ))),
        to,
    }
}

impl State {
    fn decide_and_append(
        &mut self,
        command: &Command,
        term: LeaderEpoch,
    ) -> Result<Reply, Failure> {
        let mut random = random_id;
        let decision = self
            .controller
            .decide(&self.appended, command, &mut random)?;
        let Some(log) = &mut self.log else {
            return Err(Failure::new(
                ErrorCode::SHUTTING_DOWN,
                "the broker is shutting down: retry with another one, or later",
            ));
        };
        let before = self.appended.version();
        let mut outcome = Ok(decision.reply);
        for entry in Entry::pack(decision.records) {
            let now = Clock.now();
            let appended = batches::encode(&entry, now)
                .map_err(|reason| Failure::new(ErrorCode::UNKNOWN_SERVER_ERROR, reason))
                .and_then(|batch| {
                    log.append(&batch, term, now).map_err(|error| {
                        self.broken = error.fatal().map(ToString::to_string);
                        Failure::new(error.code(), error.to_string())
                    })
                });
            match appended {
                Ok(appended) => self.appended.apply(appended.base_offset, term, &entry),
                Err(failure) => {
                    // The entries before it are valid alone, and stay.
                    outcome = Err(failure);
                    break;
                }
            }
        }
        if self.appended.version() > before {
            let image = Arc::new(self.appended.clone());
            let end = self.appended.version().plus(1);
            self.unpublished.push_back((end, image));
        }
        outcome
    }

    /// Parks a proposal until all that is appended is durable; gives it back if that is so.
    fn park(&mut self, proposal: Proposal) -> Option<Proposal> {
        let Some(log) = &self.log else {
            return Some(proposal);
        };
        let (end, durable) = (log.end(), log.durable());
        if durable >= end {
            return Some(proposal);
        }
        match self
            .waiting
            .park(proposal, (), Condition::All(vec![((), end.0)]))
        {
            Parked::Ready(proposal) => Some(proposal),
            Parked::Waiting(_) => None,
        }
    }

    /// The newest image of which all is durable, if it is not public yet.
    fn durable_image(&mut self, durable: Offset) -> Option<Arc<Image>> {
        let mut newest = None;
        while self
            .unpublished
            .front()
            .is_some_and(|(end, _)| *end <= durable)
        {
            newest = self.unpublished.pop_front();
        }
        newest.map(|(_, image)| image)
    }

    /// The next sync, unless one is under way or none is needed.
    fn next_job(&mut self) -> Option<FlushJob> {
        if self.sync == Sync::Running {
            return None;
        }
        let job = self.log.as_mut()?.flush_job()?;
        self.sync = Sync::Running;
        Some(job)
    }
}

fn random_id() -> [u8; 16] {
    let drawn = (u128::from(random()) << 64) | u128::from(random());
    drawn.to_be_bytes()
}
