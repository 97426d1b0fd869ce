//! The partitions of this broker: a log and the state of its replica behind one short lock each.
//!
//! *Patterns: singular update queue, high-water mark, write-ahead log.*
//!
//! **Owns** the data directories, the registry of partitions, group commit, retention, checkpoints,
//! and what follows from a change of metadata: creating, deleting and configuring partitions.
//!
//! **Never** decides what may be appended (storage does) or acknowledged (core does), and never
//! waits for a disk while it holds a partition's lock on behalf of a request.

mod care;
mod configuration;
mod damage;
mod directory;
mod feed;
mod flusher;
mod follower;
mod isr;
mod leading;
mod mend;
#[cfg(strandline_sim)]
mod observed;
mod opener;
mod reconcile;
mod registry;
mod requests;
mod role;
mod state;
mod tokens;
mod upkeep;
mod waits;

pub use configuration::log_config;
pub use directory::{Directory, Failures, metadata_name};
pub use feed::Feed;
pub use flusher::{FlushQueue, Flushers};
pub use follower::{FetchOutcome, FetchPosition};
pub use isr::{IsrDriver, Proposals};
pub use leading::Led;
#[cfg(strandline_sim)]
pub(crate) use observed::started;
#[cfg(strandline_sim)]
pub use observed::{ObservedReplica, PartitionsObserver, partitions_started};
pub use opener::{OpenQueue, Opener, Wanted};
pub use reconcile::{Followed, Reconciler, Retired};
pub use registry::{PartitionCounts, Partitions};
pub use role::facts;
pub use state::Partition;
pub use tokens::{
    AckToken, Acknowledged, Appended, FetchToken, Figures, Look, Opening, Read, ReadFailure,
    Reading, ReplicaRead, ReplicaReadFailure, Source, Surroundings,
};
pub use upkeep::Upkeep;
pub use waits::FetchWaits;
