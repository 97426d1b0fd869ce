//! The membership task: the controller makes voters of the brokers that have registered.
//!
//! *Pattern: majority quorum.* What comes next is decided from a plain view of the group; this is
//! its driver. Only the leader acts, one step at a time, and a step that fails is decided anew. A
//! group of one that nobody has joined is left alone, and costs nothing.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use openraft::{
    ChangeMembers, Instant as _, ServerState, async_runtime::watch::WatchReceiver as _,
};
use strandline_core::metadata::{
    Image, Voter,
    quorum_plan::{self, Liveness, Peer, Progress, Settled, Situation, Step},
};
use strandline_protocol::LeaderEpoch;
use strandline_storage::directory::RaftId;
use tokio::time::{sleep, timeout};

use super::{
    super::lessor::{Lessor, is_alone},
    Raft, Store,
    machine::Public,
    types::core_membership,
};

/// How often the view is looked at while somebody else is in the group.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How far behind a learner may be and still count as caught up, in entries.
const LAG_MAX: u64 = 100;

/// How long a step may take before it is decided anew.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// After how long without an answer a voter is not asked to lead.
const SILENCE_MAX: Duration = Duration::from_millis(500);

/// Runs for as long as the group does.
pub(in crate::metadata) async fn keep_members(
    raft: Raft,
    store: Store,
    public: Public,
    lessor: Arc<Lessor>,
) {
    let (mut images, mut metrics) = (public.watch(), raft.server_metrics());
    images.mark_changed();
    loop {
        let image = Arc::clone(&images.borrow_and_update());
        drop(metrics.borrow_and_update());
        let alone = is_alone(&image);
        if let Some(step) = next_step(&raft, &image, &lessor) {
            take(&raft, step).await;
        }
        if let Some(term) = voted_out(&raft) {
            tracing::info!(%term, "this controller votes no more, and hands over");
            hand_over(&raft, &lessor, term).await;
        } else if let Some(term) = without_room(&raft, &store, &lessor) {
            tracing::warn!(%term, "the disk of this controller is full: it hands over");
            hand_over(&raft, &lessor, term).await;
        }
        tokio::select! {
            changed = images.changed() => if changed.is_err() {
                return;
            },
            changed = metrics.changed() => if changed.is_err() {
                return;
            },
            () = sleep(LOOK_EVERY), if !alone => {}
        }
    }
}

/// What the leader does next; nothing on everybody else.
fn next_step(raft: &Raft, image: &Image, lessor: &Lessor) -> Option<Step> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let term = LeaderEpoch(metrics.current_term);
    if metrics.state != ServerState::Leader || image.term() != term {
        return None;
    }
    let alive = lessor.held(term)?;
    let settled = metrics.membership_config == metrics.committed_membership_config;
    let membership = metrics.membership_config.membership();
    let membership = core_membership(image.cluster(), membership).ok()?;
    // Who was voted out hands over, and changes nothing more: what it proposed would be of no
    // member.
    let votes = |voter: &Voter| voter.raft_id == metrics.id.0;
    let mut voters = membership.voters.iter().chain(&membership.voters_before);
    if !voters.any(votes) {
        return None;
    }
    let last = metrics.last_log_index.unwrap_or_default();
    let behind = |raft_id: u64| {
        let matched = metrics.replication.as_ref()?.get(&RaftId(raft_id));
        let matched = matched?.as_ref().map(openraft::LogId::index)?;
        Some(last.saturating_sub(matched))
    };
    let peers = image.brokers().map(|broker| {
        let registration = &broker.registration;
        let is_me = registration.raft_id == Some(metrics.id.0);
        let lag = registration.raft_id.and_then(behind);
        Peer {
            broker: registration.broker,
            raft_id: registration.raft_id,
            liveness: if is_me || alive.contains(&registration.broker) {
                Liveness::Alive
            } else {
                Liveness::Silent
            },
            progress: if is_me || lag.is_some_and(|lag| lag <= LAG_MAX) {
                Progress::CaughtUp
            } else {
                Progress::Behind
            },
        }
    });
    let peers: Vec<Peer> = peers.collect();
    let situation = Situation {
        membership: &membership,
        settled: if settled { Settled::Yes } else { Settled::No },
        peers: &peers,
        wanted: image.wanted_voters(),
    };
    quorum_plan::next_step(&situation)
}

/// The term that this member leads although it was voted out, and that is committed. Nobody else
/// is elected while it sends heartbeats.
fn voted_out(raft: &Raft) -> Option<LeaderEpoch> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let settled = metrics.membership_config == metrics.committed_membership_config;
    let mut voters = metrics.membership_config.membership().voter_ids();
    let leads = metrics.state == ServerState::Leader && metrics.vote.is_committed();
    let is_out = leads && settled && voters.all(|voter| voter != metrics.id);
    is_out.then_some(LeaderEpoch(metrics.current_term))
}

/// The term that this member leads although its disk has no room for what it decides, where another
/// voter has room as far as is known.
fn without_room(raft: &Raft, store: &Store, lessor: &Lessor) -> Option<LeaderEpoch> {
    let term = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.state == ServerState::Leader && metrics.vote.is_committed();
        leads.then_some(LeaderEpoch(metrics.current_term))?
    };
    if !store.lacks_room(term) {
        return None;
    }
    let successor = successor(raft, lessor)?;
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let broker = metrics
        .membership_config
        .membership()
        .get_node(&successor)?;
    (lessor.full(*broker) == 0).then_some(term)
}

/// Has a voter lead instead. If that fails, it is tried again with the next look.
async fn hand_over(raft: &Raft, lessor: &Lessor, term: LeaderEpoch) {
    let Some(successor) = successor(raft, lessor) else {
        return;
    };
    // The next one may lead before this one hears of it.
    lessor.abdicate(term);
    if let Err(error) = raft.trigger().transfer_leader(successor).await {
        tracing::warn!("the leadership of the quorum is not handed over: {error}");
    }
    // What comes of it takes a moment.
    sleep(LOOK_EVERY).await;
}

/// The other voter that has most of the log, if this member leads; one whose disk is full only if
/// there is no other.
pub(in crate::metadata) fn successor(raft: &Raft, lessor: &Lessor) -> Option<RaftId> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let replication = metrics.replication.as_ref()?;
    let heard = metrics.heartbeat.as_ref()?;
    let membership = metrics.membership_config.membership();
    let others = membership.voter_ids().filter(|id| *id != metrics.id);
    let alive = others.filter(|id| {
        let heard = heard.get(id).and_then(Option::as_ref);
        heard.is_some_and(|heard| heard.elapsed() < SILENCE_MAX)
    });
    alive.max_by_key(|id| {
        let matched = replication.get(id).and_then(Option::as_ref);
        let broker = membership.get_node(id);
        let has_room = broker.is_none_or(|broker| lessor.full(*broker) == 0);
        (has_room, matched.map(openraft::LogId::index))
    })
}

async fn take(raft: &Raft, step: Step) {
    tracing::info!("the metadata quorum changes: {step:?}");
    let node = |voter: &Voter| (RaftId(voter.raft_id), voter.broker);
    let change = match step {
        Step::AddLearner(learner) => ChangeMembers::AddNodes([node(&learner)].into()),
        Step::ChangeVoters(voters) | Step::FinishVoters(voters) => {
            let voters = voters.iter().map(|voter| RaftId(voter.raft_id));
            ChangeMembers::ReplaceAllVoters(voters.collect::<BTreeSet<RaftId>>())
        }
        Step::RemoveLearner(learner) => {
            ChangeMembers::RemoveNodes([RaftId(learner.raft_id)].into())
        }
    };
    // Who loses its vote follows as a learner: it goes on to serve, and may start again.
    let change = raft.change_membership(change, true);
    match timeout(STEP_TIMEOUT, change).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!("a change of the metadata quorum failed: {error}"),
        Err(_) => tracing::warn!("a change of the metadata quorum takes longer than it should"),
    }
}
