//! The Strandline broker: drivers around the decisions of `strandline-core` and the files of
//! `strandline-storage`, and the command line.
//!
//! **Owns** sockets, threads, time and configuration.
//!
//! **Never** decides: what could lose data or split a brain is decided in `core` or `storage`.

pub mod cli;
pub mod http;
pub mod logging;
pub mod metadata;
pub mod metrics;
pub mod partition;
pub mod replication;
pub mod server;
pub mod settings;

#[cfg(test)]
mod reference;
