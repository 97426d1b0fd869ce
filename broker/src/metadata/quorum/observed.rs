//! Members of the quorum as they are at a moment, for simulations that look on.
//!
//! Exists under `cfg(strandline_sim)` only. Every member that starts on this thread is put into a
//! list; a simulation takes it from there and looks after each of its steps. **Never** changes
//! anything.

use std::{cell::RefCell, mem, sync::Arc, time::Duration};

use openraft::{ServerState, async_runtime::watch::WatchReceiver as _};
use strandline_core::metadata::Image;
use strandline_protocol::{BrokerEpoch, BrokerId, LeaderEpoch, Offset};
use strandline_storage::directory::{QuorumVote, RaftId};

use super::{machine::Public, store::Store};
use crate::metadata::{Member, alive::Own};

thread_local! {
    static STARTED: RefCell<Vec<Observer>> = const { RefCell::new(Vec::new()) };
}

/// Looks at one member for as long as its process lives. Clones look at the same one.
#[derive(Clone)]
pub struct Observer {
    broker: BrokerId,
    raft_id: RaftId,
    public: Public,
    store: Store,
    member: Member,
    own: Arc<Own>,
}

/// What a member is at one moment.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The Raft id of its directory.
    pub raft_id: u64,
    /// What it has promised, as it is on its disk.
    pub vote: QuorumVote,
    /// The term that it leads, if it believes that it does.
    pub leads: Option<LeaderEpoch>,
    /// What it takes for committed.
    pub image: Arc<Image>,
    /// Where its log begins and ends (exclusive); none once it is closed.
    pub log: Option<(Offset, Offset)>,
}

impl Observer {
    /// Its broker.
    #[must_use]
    pub const fn broker(&self) -> BrokerId {
        self.broker
    }

    /// The member now.
    #[must_use]
    pub fn observe(&self) -> Observed {
        let leads = self.member.get().and_then(|raft| {
            let metrics = raft.server_metrics();
            let metrics = metrics.borrow_watched();
            let is_leader = metrics.state == ServerState::Leader && metrics.vote.is_committed();
            is_leader.then(|| LeaderEpoch(metrics.vote.leader_id().term))
        });
        Observed {
            raft_id: self.raft_id.0,
            vote: self.store.vote(),
            leads,
            image: self.public.image(),
            log: self.store.range(),
        }
    }

    /// The epoch under which its broker has registered in this start, and until when the broker
    /// takes its lease to hold, counted from when the metadata log was opened.
    #[must_use]
    pub fn lease(&self) -> Option<(BrokerEpoch, Duration)> {
        self.own.lease()
    }

    /// The term of the entry at `offset` in its log.
    #[must_use]
    pub fn term_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.store.term_at(offset)
    }
}

/// Puts a member that starts into the list.
pub(in crate::metadata) fn started(
    (broker, raft_id): (BrokerId, RaftId),
    public: &Public,
    store: &Store,
    member: &Member,
    own: &Arc<Own>,
) {
    let observer = Observer {
        broker,
        raft_id,
        public: public.clone(),
        store: store.clone(),
        member: Arc::clone(member),
        own: Arc::clone(own),
    };
    STARTED.with_borrow_mut(|started| started.push(observer));
}

/// The members that have started on this thread since this was asked last.
#[must_use]
pub fn members_started() -> Vec<Observer> {
    STARTED.with_borrow_mut(mem::take)
}
