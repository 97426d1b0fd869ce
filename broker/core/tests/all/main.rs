//! What the decisions of a broker must be, as one program: it is linked once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

mod broker_costs;
mod cluster;
mod eligible;
mod entries;
mod leases;
mod pages;
mod quorum_plan;
mod scenarios;
mod snapshots;
mod twin_brokers;
mod twin_controller;
mod twin_waiting;
