//! What the client library must do with brokers that answer as they please, as one program: it is
//! linked once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

mod brokers;
mod connect;
mod consume;
mod failover;
mod produce;
mod support;
