//! The Raft group that keeps the metadata log.
//!
//! *Patterns: consistent core, majority quorum, replicated log, generation clock.* openraft decides
//! who leads and what is committed; here is what it stands on: the log and the vote on the disk
//! ([`store`]), the image that committed entries become ([`machine`]), the way to the other members
//! ([`network`]), and what spares both all of the log ([`snapshot`]). The Raft id is the random one
//! of the data directory, so that a wiped disk is another member; the leader is the controller, its
//! term the controller epoch.
//!
//! **Never** decides what is proposed: that is the controller's, in the update queue.

mod failure;
mod machine;
mod membership;
mod network;
#[cfg(strandline_sim)]
mod observed;
mod raft_log;
mod snapshot;
mod store;
mod types;
pub(super) mod wire;

use std::sync::Arc;

use openraft::{Config, RaftNetworkFactory, network::NetSnapshot};
use strandline_core::metadata::Membership;
use strandline_storage::directory::RaftId;

pub(super) use failure::Failing;
pub(super) use machine::{FAILED, Machine, Proposal, Public};
pub(super) use membership::{keep_members, successor};
pub(super) use network::{NoPeers, PeerNetwork};
#[cfg(strandline_sim)]
pub(super) use observed::started;
#[cfg(strandline_sim)]
pub use observed::{Observed, Observer, members_started};
pub use snapshot::SnapshotLimits;
#[cfg(test)]
pub(super) use snapshot::send_snapshot;
pub(super) use snapshot::{
    Keeper, Kept, Loaded, Receiver, SnapshotFile, Snapshots, SnapshotsParts, Unusable, load_at,
    name_of, names_in,
};
pub use store::MetadataCheckpoint;
pub(super) use store::{Parts, Store};
pub(super) use types::{Change, LogId, Types, log_id, offset_of, term_of};

/// A handle of the group.
pub(super) type Raft = openraft::Raft<Types, Machine>;

/// Every so often a leader shows that it is there, in milliseconds.
const HEARTBEAT_MS: u64 = 100;

/// From where the patience of a follower is drawn, in milliseconds. It asks for votes once it has
/// heard nothing for the longest patience, within which a leader may take itself for one, and for
/// its own beyond that: after 0.75 to 0.9 s, seven to nine heartbeats, as two busy cores may well
/// miss a few.
const ELECTION_MS: std::ops::Range<u64> = 300..450;

/// The membership of the log as openraft wants to hear it, with the entry that it stands in; none
/// if nothing is known to be committed.
pub(super) fn stored_membership(
    membership: Option<&(Membership, LogId)>,
) -> openraft::alias::StoredMembershipOf<Types> {
    let Some((membership, at)) = membership else {
        return openraft::StoredMembership::default();
    };
    openraft::StoredMembership::new(Some(*at), types::raft_membership(membership))
}

/// Whether a member needs the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Company {
    /// It is the only voter: what it holds is committed.
    Alone,
    /// There are others, or it has no vote.
    Others,
}

/// Starts the member `id`. A member that is alone elects itself at once, instead of waiting for a
/// leader that nobody else can be.
///
/// # Errors
/// What the group says; the store may know more.
pub(super) async fn start<N>(
    id: RaftId,
    company: Company,
    store: Store,
    machine: Machine,
    network: N,
) -> Result<Raft, String>
where
    N: RaftNetworkFactory<Types>,
    N::Network: NetSnapshot<Types, SnapshotData = SnapshotFile>,
{
    let config = Config {
        cluster_name: "metadata".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS.start,
        election_timeout_max: ELECTION_MS.end,
        enable_pre_vote: Some(true),
        // Whoever is alone owes nobody a heartbeat and waits for nobody's: see `keep_time`.
        enable_tick: company == Company::Others,
        // A new start is a new leader: it may have lost what it had not told anybody.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        // When, and how much of the log goes then, is the keeper's to say.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    };
    let config = config.validate().map_err(|error| error.to_string())?;
    let started = Raft::new(id, Arc::new(config), network, store, machine).await;
    let raft = started.map_err(|error| error.to_string())?;
    if company == Company::Alone {
        let elected = raft.trigger().elect(false).await;
        elected.map_err(|error| error.to_string())?;
    }
    Ok(raft)
}

/// Keeps the group's time (heartbeats, elections) from the moment on that there is anybody else in
/// it. A broker that is alone and idle is not woken up fifty times a second for nothing.
pub(super) fn keep_time(raft: &Raft, members: usize) {
    if members > 1 {
        raft.runtime_config().tick(true);
    }
}

/// Runs `work` with the random numbers of openraft drawn from the seed of the simulation.
#[cfg(strandline_sim)]
pub(super) async fn seeded<F: Future>(work: F) -> F::Output {
    types::Runtime::scope(strandline_client::net::random(), work).await
}

/// Runs `work`.
#[cfg(not(strandline_sim))]
pub(super) async fn seeded<F: Future>(work: F) -> F::Output {
    work.await
}
