//! What is committed becomes the public image, and whoever waits for it gets the answer.
//!
//! *Patterns: replicated log, state watch, request waiting list.* The only place that publishes an
//! image: nothing is public before it is committed. A proposal is parked here by its place in the
//! log, and answered once that place is applied with the entry that was proposed.

use std::{collections::VecDeque, future::poll_fn, io, pin::Pin, sync::Arc};

use arc_swap::ArcSwap;
use futures_core::Stream;
use openraft::{
    OptionalSend,
    alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf},
    entry::RaftEntry as _,
    storage::{EntryResponder, RaftStateMachine},
};
use parking_lot::Mutex;
use strandline_core::{
    metadata::{Entry, Image, Reply},
    mutants::{self, Mutant},
    waiting::{Condition, Parked, WaitingList},
};
use strandline_protocol::{ErrorCode, LeaderEpoch, Offset, messages::Failure};
use tokio::sync::{oneshot, watch};

use super::{
    failure::Failing,
    snapshot::{SnapshotBuilder, SnapshotFile, Snapshots},
    store::Store,
    types::{LogId, RaftEntry, StoredMembership, Types, from_raft, offset_of, term_of},
};

/// A reply that is parked until the entries that it rests on are committed.
pub(in crate::metadata) struct Proposal {
    pub(in crate::metadata) reply: Result<Reply, Failure>,
    pub(in crate::metadata) to: oneshot::Sender<Result<Reply, Failure>>,
    /// The last entry that it rests on.
    pub(in crate::metadata) rests_on: LogId,
}

impl Proposal {
    fn release(self) {
        // Whoever proposed may have gone away; what was decided stands all the same.
        let _ = self.to.send(self.reply);
    }

    /// Whether its entries are committed, nobody can tell. What was refused as a whole has written
    /// nothing, and stays refused.
    fn release_unknown(self, why: &str) {
        let unknown = Failure::new(ErrorCode::UNKNOWN_SERVER_ERROR, why);
        let _ = self.to.send(self.reply.and(Err(unknown)));
    }
}

/// The public side: the image, who watches it, who waits for it. Clones are handles of the same.
#[derive(Clone)]
pub(in crate::metadata) struct Public {
    shared: Arc<Shared>,
}

struct Shared {
    image: ArcSwap<Image>,
    watch: watch::Sender<Arc<Image>>,
    failing: Failing,
    waiting: Mutex<WaitingList<(), Proposal, ()>>,
    /// Images that the controller has made already, for entries that are not committed yet: the
    /// same entry is not applied twice, and both images share what did not change.
    ahead: Mutex<VecDeque<(LogId, Image)>>,
}

impl Public {
    pub(in crate::metadata) fn new(image: Image, failing: Failing) -> Self {
        let image = Arc::new(image);
        Self {
            shared: Arc::new(Shared {
                image: ArcSwap::new(Arc::clone(&image)),
                watch: watch::Sender::new(image),
                failing,
                waiting: Mutex::new(WaitingList::new()),
                ahead: Mutex::default(),
            }),
        }
    }

    pub(in crate::metadata) fn image(&self) -> Arc<Image> {
        self.shared.image.load_full()
    }

    pub(in crate::metadata) fn watch(&self) -> watch::Receiver<Arc<Image>> {
        self.shared.watch.subscribe()
    }

    /// The controller has applied the entry `id` to what is appended.
    pub(in crate::metadata) fn made(&self, id: LogId, image: Image) {
        if mutants::is_active(Mutant::ImagePublishedBeforeCommit) {
            let early = Arc::new(image.clone());
            self.shared.image.store(Arc::clone(&early));
            self.shared.watch.send_replace(early);
        }
        self.shared.ahead.lock().push_back((id, image));
    }

    /// Parks a proposal until what it rests on is applied.
    pub(in crate::metadata) fn park(&self, proposal: Proposal, store: &Store) {
        let end = offset_of(&proposal.rests_on).plus(1);
        let mut waiting = self.shared.waiting.lock();
        // Whoever publishes does it before it looks for who waits.
        if self.image().version().plus(1) >= end {
            drop(waiting);
            answer(proposal, store);
            return;
        }
        if self.shared.failing.refusal().is_some() {
            drop(waiting);
            proposal.release_unknown(FAILED);
            return;
        }
        let parked = waiting.park(proposal, (), Condition::All(vec![((), end.0)]));
        drop(waiting);
        if let Parked::Ready(proposal) = parked {
            answer(proposal, store);
        }
    }

    /// Nobody can be answered any more as it was meant.
    pub(in crate::metadata) fn give_up(&self, why: &str) {
        self.shared.ahead.lock().clear();
        let waiting = self.shared.waiting.lock().drain();
        for proposal in waiting {
            proposal.release_unknown(why);
        }
    }

    /// The image that was made ahead for exactly this entry.
    fn take_made(&self, id: &LogId) -> Option<Image> {
        let mut ahead = self.shared.ahead.lock();
        while ahead
            .front()
            .is_some_and(|(made, _)| made.index() < id.index())
        {
            ahead.pop_front();
        }
        // Index and term name one entry and all that came before it.
        let is_this = ahead.front().is_some_and(|(made, _)| made == id);
        is_this
            .then(|| ahead.pop_front())
            .flatten()
            .map(|(_, image)| image)
    }

    fn publish(&self, image: &Image, store: &Store) {
        let version = image.version();
        let image = Arc::new(image.clone());
        self.shared.image.store(Arc::clone(&image));
        self.shared.watch.send_replace(image);
        // Only now, so that who looks for an entry finds it in the tail or in the image.
        store.applied(version);
        let ready = self.shared.waiting.lock().advance(&(), version.plus(1).0);
        for proposal in ready {
            answer(proposal, store);
        }
    }
}

/// Why proposals are given up when the disk fails.
pub(in crate::metadata) const FAILED: &str = "the metadata log failed while it wrote the change: \
                                              look after a restart whether it is there";

/// The place of the proposal is applied: the answer depends on whose entry stands there.
fn answer(proposal: Proposal, store: &Store) {
    let (term, offset) = (term_of(&proposal.rests_on), offset_of(&proposal.rests_on));
    // A closed log was not cut any more.
    if store.term_at(offset).is_none_or(|stands| stands == term) {
        proposal.release();
    } else {
        proposal.release_unknown(
            "another controller took over while the change was made: look whether it is there",
        );
    }
}

/// The state machine of the group.
pub(in crate::metadata) struct Machine {
    public: Public,
    store: Store,
    snapshots: Snapshots,
    image: Image,
    membership: StoredMembership,
}

impl Machine {
    /// A machine that has applied what `image` reflects; `membership` is the last one in that.
    pub(in crate::metadata) const fn new(
        public: Public,
        store: Store,
        snapshots: Snapshots,
        image: Image,
        membership: StoredMembership,
    ) -> Self {
        Self {
            public,
            store,
            snapshots,
            image,
            membership,
        }
    }

    fn take_in(&mut self, entry: RaftEntry) -> io::Result<()> {
        let id = entry.log_id;
        if let Some(membership) = entry.get_membership() {
            self.membership = StoredMembership::new(Some(id), membership);
        }
        if let Some(image) = self.public.take_made(&id) {
            self.image = image;
            return Ok(());
        }
        let (entry, _) =
            from_raft(self.store.cluster(), entry.payload).map_err(io::Error::other)?;
        self.apply_entry(offset_of(&id), term_of(&id), &entry)
    }

    fn apply_entry(&mut self, offset: Offset, term: LeaderEpoch, entry: &Entry) -> io::Result<()> {
        self.image.try_apply(offset, term, entry).map_err(|error| {
            let failing = &self.public.shared.failing;
            failing.fail_with(ErrorCode::STORAGE_ERROR, &error);
            io::Error::other(error.to_string())
        })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        let version = self.image.version();
        let applied =
            (version >= Offset::ZERO).then(|| super::types::log_id(self.image.term(), version));
        Ok((applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = poll_fn(|context| Pin::new(&mut entries).poll_next(context)).await {
            let (entry, responder) = next?;
            self.take_in(entry)?;
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        self.public.publish(&self.image, &self.store);
        Ok(())
    }

    /// The image is a value: what is applied from here on does not touch the builder's.
    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            snapshots: self.snapshots.clone(),
            image: self.image.clone(),
            membership: self.membership.clone(),
            store: self.store.clone(),
            failing: self.public.shared.failing.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let membership = meta.last_membership.clone();
        let installed = self.snapshots.install(snapshot, membership.clone()).await;
        let loaded = installed.inspect_err(|error| {
            let failing = &self.public.shared.failing;
            failing.fail_with(ErrorCode::STORAGE_ERROR, error);
        })?;
        (self.image, self.membership) = (loaded.image, membership);
        self.public.publish(&self.image, &self.store);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types, SnapshotFile>>, io::Error> {
        self.snapshots.current()
    }
}
