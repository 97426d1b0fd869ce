//! The decisions of a Strandline broker, as plain synchronous structs.
//!
//! **Owns** every decision that could lose data or split a brain: an input comes in (a request, a
//! tick, a completion), new state and a list of effects come out.
//!
//! **Never** does I/O, reads a clock or draws a random number: time and randomness are arguments,
//! so that a test or a simulation replays a run exactly.

pub mod budget;
pub mod follower_reads;
pub mod invariants;
pub mod leases;
pub mod metadata;
pub mod mutants;
pub mod placement;
pub mod replica;
pub mod shared_map;
pub mod topic_config;
pub mod topic_name;
pub mod waiting;

pub use topic_config::{FlushMode, TimestampType, TopicConfig};
