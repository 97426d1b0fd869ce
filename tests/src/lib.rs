//! What the whole-broker tests share: a broker as a process, and the history of what was sent to it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions
)]

pub mod history;
