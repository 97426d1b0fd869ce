//! What the whole-broker tests share: a broker as a process, and the history of what was sent to
//! it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions
)]

pub mod attack;
pub mod broker;
pub mod chaos;
pub mod cluster;
pub mod crash;
pub mod disk;
pub mod faults;
pub mod fuzz;
pub mod history;
pub mod load;
pub mod mounts;
pub mod mutants;
pub mod power;
pub mod random;
pub mod scrape;
#[cfg(strandline_sim)]
pub mod simulation;
pub mod strace;
pub mod sweep;

pub use broker::{Broker, BrokerSetup, http_get, kept_port, strandline_binary, wait_until};
