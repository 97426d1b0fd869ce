//! The command line, as one program: it is linked once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

mod cluster;
mod errors;
mod log;
mod pipes;
mod replication;
