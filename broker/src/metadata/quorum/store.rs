//! The metadata log and the vote of one member, on its disk.
//!
//! *Patterns: write-ahead log, majority quorum.* Nothing counts before it is durable: a vote when
//! [`Store::keep_vote`] returns, an entry when its sync is done. Syncs run one at a time
//! and outside of the lock; whatever is appended meanwhile shares the next one. A vote and a cut
//! wait for the sync that runs, so that nothing overtakes anything.

mod append;
mod trim;

use std::{
    collections::VecDeque,
    fmt, io,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use strandline_client::net::Clock;
use strandline_core::{
    metadata::Entry,
    mutants::{self, Mutant},
};
use strandline_protocol::{ClusterId, LeaderEpoch, Offset};
use strandline_storage::{
    StorageError,
    directory::{QuorumVote, write_quorum_vote},
    fs::FileSystem,
    log::{AppendError, CheckpointJob, FlushJob, Log},
};
use tokio::sync::{Notify, RwLock};

use super::{
    super::{Flushing, METADATA_DIRECTORY, batches, replay::read_entries},
    Company,
    failure::Failing,
    snapshot::Snapshots,
    types::{LogId, RaftEntry, Types, log_id, offset_of, to_raft},
};

/// How much of the log is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

/// What a store is made of.
pub(in crate::metadata) struct Parts {
    pub(in crate::metadata) files: Arc<dyn FileSystem>,
    /// Where the vote lies.
    pub(in crate::metadata) directory: PathBuf,
    pub(in crate::metadata) log: Log,
    pub(in crate::metadata) vote: QuorumVote,
    pub(in crate::metadata) cluster: ClusterId,
    pub(in crate::metadata) flushing: Flushing,
    /// Whether others go on while this member waits for room.
    pub(in crate::metadata) company: Company,
    pub(in crate::metadata) snapshots: Snapshots,
    /// The last entry that the log does not hold any more.
    pub(in crate::metadata) purged: Option<LogId>,
    /// How many bytes of batches lie behind the newest snapshot.
    pub(in crate::metadata) appended: u64,
}

/// The log and the vote of one member. Clones are handles of the same one.
#[derive(Clone)]
pub(in crate::metadata) struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    files: Arc<dyn FileSystem>,
    directory: PathBuf,
    cluster: ClusterId,
    flushing: Flushing,
    /// Whether others go on while this member waits for room.
    has_company: AtomicBool,
    failing: Failing,
    /// Whether this member waits for room now.
    stands_still: AtomicBool,
    /// Whether nobody is to wait for a full disk any more.
    leaving: AtomicBool,
    /// Wakes who waits for the last sync to end.
    idle: Notify,
    /// Held for reading while a checkpoint is written, for writing while the log is cut.
    checkpoints: Arc<RwLock<()>>,
    snapshots: Snapshots,
    state: Mutex<State>,
}

struct State {
    /// None once it is closed.
    log: Option<Log>,
    vote: QuorumVote,
    /// The last entry that was trimmed: nothing but its name is known.
    purged: Option<LogId>,
    /// Bytes of batches that were appended, or lay behind the newest snapshot at the start.
    appended: u64,
    /// What is appended and not yet applied, so that nobody reads it from the disk.
    tail: VecDeque<Held>,
    /// Who hears that the log is durable up to an offset (exclusive).
    waiting: VecDeque<(Offset, IOFlushed<Types>)>,
    sync: Sync,
    /// The term of a leader that has found no room for an entry, and the size of that in bytes;
    /// none once there is as much.
    refused: Option<(LeaderEpoch, usize)>,
}

/// An entry that is appended and not yet applied.
#[derive(Clone)]
pub(in crate::metadata) struct Held {
    pub(in crate::metadata) id: LogId,
    pub(in crate::metadata) entry: Arc<Entry>,
    /// How much it is in the log.
    bytes: usize,
}

/// Whether a sync is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sync {
    Idle,
    Running,
}

/// Writes down what makes the next start quick; see [`CheckpointJob`].
#[must_use = "nothing is written until it runs"]
pub struct MetadataCheckpoint {
    job: CheckpointJob,
    /// Nothing is cut while it runs.
    _shared: tokio::sync::OwnedRwLockReadGuard<()>,
}

impl MetadataCheckpoint {
    /// The recovery point: everything below it was synced and is settled.
    #[must_use]
    pub const fn recovery_point(&self) -> Offset {
        self.job.recovery_point()
    }

    /// Writes, and returns the recovery point.
    ///
    /// # Errors
    /// As [`CheckpointJob::run`].
    pub fn run(self) -> Result<Offset, StorageError> {
        self.job.run()
    }
}

impl Store {
    pub(in crate::metadata) fn new(parts: Parts, failing: Failing) -> Self {
        let state = State {
            log: Some(parts.log),
            vote: parts.vote,
            purged: parts.purged,
            appended: parts.appended,
            tail: VecDeque::new(),
            waiting: VecDeque::new(),
            sync: Sync::Idle,
            refused: None,
        };
        Self {
            shared: Arc::new(Shared {
                files: parts.files,
                directory: parts.directory,
                cluster: parts.cluster,
                flushing: parts.flushing,
                has_company: AtomicBool::new(parts.company == Company::Others),
                failing,
                stands_still: AtomicBool::new(false),
                leaving: AtomicBool::new(false),
                idle: Notify::new(),
                checkpoints: Arc::default(),
                snapshots: parts.snapshots,
                state: Mutex::new(state),
            }),
        }
    }

    /// The cluster whose log it is.
    pub(super) fn cluster(&self) -> ClusterId {
        self.shared.cluster
    }

    /// The vote that holds.
    pub(super) fn vote(&self) -> QuorumVote {
        self.shared.state.lock().vote
    }

    /// Makes `vote` durable. No sync of an older entry is left behind it.
    pub(super) async fn keep_vote(&self, vote: QuorumVote) -> io::Result<()> {
        self.quiet().await;
        if mutants::is_active(Mutant::VoteKeptAfterReply) {
            let later = self.clone();
            self.shared.state.lock().vote = vote;
            tokio::spawn(
                async move { later.blocking(move |shared| shared.write_vote(&vote)).await },
            );
            return Ok(());
        }
        self.blocking(move |shared| shared.write_vote(&vote)).await
    }

    /// Cuts what another leader has overruled, so that the log ends at `end`. Durable when it
    /// returns.
    pub(super) async fn cut(&self, end: Offset) -> io::Result<()> {
        let _no_checkpoint = Arc::clone(&self.shared.checkpoints).write_owned().await;
        self.quiet().await;
        self.blocking(move |shared| shared.cut(end)).await
    }

    /// The entries of `range`, as far as there are any; of more than `bytes_max` only the first
    /// ones, and one at least.
    pub(super) fn read(
        &self,
        range: Range<Offset>,
        bytes_max: usize,
    ) -> io::Result<Vec<RaftEntry>> {
        self.shared.read(range, bytes_max)
    }

    /// Where the log begins and ends; none once it is closed.
    #[cfg(strandline_sim)]
    pub(super) fn range(&self) -> Option<(Offset, Offset)> {
        let state = self.shared.state.lock();
        state.log.as_ref().map(|log| (log.start(), log.end()))
    }

    /// The last entry.
    pub(super) fn last(&self) -> io::Result<Option<LogId>> {
        let state = self.shared.state.lock();
        let log = state.log.as_ref().ok_or_else(closed)?;
        if log.start() == log.end() {
            return Ok(state.purged);
        }
        let last = log.end().plus(-1);
        Ok(log.epoch_at(last).map(|term| log_id(term, last)))
    }

    /// The last entry that was trimmed.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.shared.state.lock().purged
    }

    /// The first offset that can be read.
    pub(in crate::metadata) fn start(&self) -> io::Result<Offset> {
        let state = self.shared.state.lock();
        state.log.as_ref().ok_or_else(closed).map(Log::start)
    }

    /// A measure of how much has been appended, in bytes.
    pub(super) fn appended(&self) -> u64 {
        self.shared.state.lock().appended
    }

    /// Whether the log was given up.
    pub(super) fn is_closed(&self) -> bool {
        self.shared.state.lock().log.is_none()
    }

    /// The terms of the entries in `range`, each with the end (exclusive) of its entries there.
    pub(super) fn terms(&self, range: Range<Offset>) -> io::Result<Vec<(LeaderEpoch, Offset)>> {
        let state = self.shared.state.lock();
        let log = state.log.as_ref().ok_or_else(closed)?;
        let (mut terms, mut at) = (Vec::new(), range.start);
        while at < range.end {
            let known = log
                .epoch_at(at)
                .and_then(|term| log.end_offset_for(term))
                .filter(|(_, end)| *end > at);
            let Some((term, end)) = known else {
                return Err(io::Error::other(format!("no term is known of entry {at}")));
            };
            at = end.min(range.end);
            terms.push((term, at));
        }
        Ok(terms)
    }

    /// What is appended and not yet applied, oldest first.
    pub(in crate::metadata) fn tail(&self) -> Vec<Held> {
        self.shared.state.lock().tail.iter().cloned().collect()
    }

    /// The entries up to `offset` (inclusive) are applied: nobody asks for them soon.
    pub(in crate::metadata) fn applied(&self, offset: Offset) {
        let tail = &mut self.shared.state.lock().tail;
        while tail
            .front()
            .is_some_and(|held| offset_of(&held.id) <= offset)
        {
            tail.pop_front();
        }
    }

    /// The term of the entry at `offset`.
    pub(in crate::metadata) fn term_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let state = self.shared.state.lock();
        state.log.as_ref()?.epoch_at(offset)
    }

    /// There are others from now on, who go on while this member waits for room.
    pub(in crate::metadata) fn found_company(&self) {
        self.shared.has_company.store(true, Ordering::Release);
    }

    /// Whether this member follows nothing, as it waits for room.
    pub(in crate::metadata) fn stands_still(&self) -> bool {
        self.shared.stands_still.load(Ordering::Acquire)
    }

    /// Whether the leader of `term` has found no room for an entry, and none as large since.
    pub(super) fn lacks_room(&self, term: LeaderEpoch) -> bool {
        let state = self.shared.state.lock();
        state.refused.is_some_and(|(refused, _)| refused == term)
    }

    /// Takes room for an `entry` of the leader of `term` ahead, as an append that finds the disk
    /// full stands still.
    ///
    /// # Errors
    /// [`AppendError`], by its code and text; nothing has changed then.
    pub(in crate::metadata) fn reserve(
        &self,
        term: LeaderEpoch,
        entry: &Entry,
    ) -> Result<(), AppendError> {
        let (bytes, now) = (entry.encode().len() + batches::OVERHEAD_BYTES, Clock.now());
        let mut state = self.shared.state.lock();
        let Some(log) = &mut state.log else {
            return Ok(());
        };
        // The group's own entries are small, and come without asking.
        let reserved = log.reserve(bytes + OWN_ENTRY_BYTES_MAX, now);
        match (&reserved, state.refused) {
            (Err(AppendError::DiskFull(_)), _) => state.refused = Some((term, bytes)),
            (Ok(_), Some((_, refused))) if bytes >= refused => state.refused = None,
            _ => {}
        }
        drop(state);
        if let Err(error) = &reserved
            && let Some(fatal) = error.fatal()
        {
            self.shared.failing.fail(fatal);
        }
        reserved
    }

    /// The job that makes the next start quick; `settled` is the end (exclusive) of what is applied
    /// and can never be cut.
    pub(in crate::metadata) fn checkpoint_job(
        &self,
        settled: Offset,
    ) -> Option<MetadataCheckpoint> {
        // While the log is cut there is nothing to write down; the next time is a second away.
        let guard = Arc::clone(&self.shared.checkpoints).try_read_owned().ok()?;
        let mut state = self.shared.state.lock();
        let job = state
            .log
            .as_mut()?
            .checkpoint_job_to(settled, Clock.now())?;
        Some(MetadataCheckpoint {
            job,
            _shared: guard,
        })
    }

    pub(in crate::metadata) fn recovery_point(&self) -> Option<Offset> {
        let state = self.shared.state.lock();
        state.log.as_ref().map(Log::recovery_point)
    }

    /// Makes everything durable and gives the log up. Returns its end; none if it was closed
    /// before.
    pub(in crate::metadata) async fn close(&self) -> Result<Option<Offset>, StorageError> {
        self.quiet().await;
        let log = self.shared.state.lock().log.take();
        log.map(|log| log.close(Clock.now())).transpose()
    }

    /// Waits until no sync runs.
    async fn quiet(&self) {
        loop {
            // Asked for before the look at the state, so that no wake-up is missed.
            let idle = self.shared.idle.notified();
            if self.shared.state.lock().sync == Sync::Idle {
                return;
            }
            idle.await;
        }
    }

    /// Runs `work`, which waits for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let shared = Arc::clone(&self.shared);
        blocking(self.shared.flushing, move || work(&shared)).await
    }

    /// Runs syncs until nothing is left to be synced.
    fn run(&self, job: FlushJob) {
        let shared = Arc::clone(&self.shared);
        let work = move || {
            let mut next = Some(job);
            while let Some(job) = next {
                next = shared.synced(job);
            }
        };
        match self.shared.flushing {
            Flushing::Inline => work(),
            Flushing::Blocking => drop(tokio::task::spawn_blocking(work)),
        }
    }
}

/// Runs `work`, which waits for the disk, where that may be done.
pub(super) async fn blocking<T: Send + 'static>(
    flushing: Flushing,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match flushing {
        Flushing::Inline => work(),
        Flushing::Blocking => {
            let done = tokio::task::spawn_blocking(work);
            done.await.map_err(io::Error::other)?
        }
    }
}

/// The largest entry that the group writes by itself: a membership of five voters.
const OWN_ENTRY_BYTES_MAX: usize = 2_048;

impl Shared {
    /// Runs one sync, and tells who waits for what it has made durable. Returns the next one.
    fn synced(&self, job: FlushJob) -> Option<FlushJob> {
        let outcome = job.run();
        let mut state = self.state.lock();
        state.sync = Sync::Idle;
        let flushed = state.log.as_mut().map(|log| log.flushed(outcome));
        let mut ready = Vec::new();
        let (result, next) = match flushed {
            Some(Ok(durable)) => {
                while state
                    .waiting
                    .front()
                    .is_some_and(|(end, _)| *end <= durable)
                {
                    ready.extend(state.waiting.pop_front());
                }
                (Ok(()), state.next_job())
            }
            Some(Err(error)) => {
                ready.extend(state.waiting.drain(..));
                (Err(error), None)
            }
            None => (Ok(()), None),
        };
        drop(state);
        if let Err(error) = &result {
            self.failing.fail(error);
        }
        for (_, callback) in ready {
            let told = result.as_ref().map_err(io_error);
            callback.io_completed(told.copied());
        }
        if next.is_none() {
            self.idle.notify_waiters();
        }
        next
    }

    /// Writes the vote down. The only way by which it changes.
    fn write_vote(&self, vote: &QuorumVote) -> io::Result<()> {
        write_quorum_vote(self.files.as_ref(), &self.directory, vote).map_err(|error| {
            let error = StorageError::from(error);
            self.failing.fail(&error);
            io_error(&error)
        })?;
        self.state.lock().vote = *vote;
        Ok(())
    }

    fn cut(&self, end: Offset) -> io::Result<()> {
        let mut state = self.state.lock();
        while state
            .tail
            .back()
            .is_some_and(|held| offset_of(&held.id) >= end)
        {
            state.tail.pop_back();
        }
        let log = state.log.as_mut().ok_or_else(closed)?;
        let cut = log.truncate_to(end, Clock.now());
        drop(state);
        cut.map(drop).map_err(|error| {
            self.failing.fail(&error);
            io_error(&error)
        })
    }

    fn failed(&self, error: &StorageError) -> io::Error {
        self.failing.fail(error);
        io_error(error)
    }

    fn read(&self, range: Range<Offset>, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut next = range.start;
        while next < range.end && bytes < bytes_max {
            let fetched = {
                let state = self.state.lock();
                let log = state.log.as_ref().ok_or_else(closed)?;
                if next >= log.end() {
                    break;
                }
                if let Some(held) = state.held(next) {
                    entries.push(to_raft(held.id, &held.entry));
                    bytes += held.bytes;
                    next = next.plus(1);
                    continue;
                }
                log.read(next, READ_BYTES, range.end)
            };
            // Checked outside of the lock: it may look at every byte.
            let fetched = fetched
                .and_then(|fetched| fetched.check().map(|()| fetched))
                .map_err(|error| self.unreadable(&error))?;
            let from = next;
            for stored in read_entries(&fetched.bytes) {
                let (stored, entry) = stored.map_err(|error| self.unreadable(&error))?;
                if (from..range.end).contains(&stored.offset) && bytes < bytes_max {
                    bytes += stored.entry.len();
                    entries.push(to_raft(
                        log_id(stored.term, stored.offset),
                        &Arc::new(entry),
                    ));
                    next = stored.offset.plus(1);
                }
            }
            if next == from {
                break;
            }
        }
        Ok(entries)
    }

    /// An entry that cannot be read, with the name of the log.
    fn unreadable(&self, error: &dyn fmt::Display) -> io::Error {
        let log = self.directory.join(METADATA_DIRECTORY);
        io::Error::other(format!("{}: {error}", log.display()))
    }
}

impl State {
    /// The next sync, unless one is under way or none is needed.
    fn next_job(&mut self) -> Option<FlushJob> {
        if self.sync == Sync::Running {
            return None;
        }
        let job = self.log.as_mut()?.flush_job()?;
        self.sync = Sync::Running;
        Some(job)
    }

    fn held(&self, offset: Offset) -> Option<&Held> {
        let first = offset_of(&self.tail.front()?.id);
        self.tail.get(usize::try_from(offset.since(first)).ok()?)
    }
}

fn closed() -> io::Error {
    io::Error::other("the metadata log is closed")
}

fn io_error(error: &StorageError) -> io::Error {
    io::Error::other(error.to_string())
}
