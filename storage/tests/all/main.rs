//! What logs, data directories and file systems must stand, as one program: it is linked once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

mod common;
mod data_directory;
mod data_directory_crashes;
mod file_system;
mod log;
mod log_creation;
mod log_damage;
mod log_follower;
mod log_gap;
mod log_indexes_after_crash;
mod log_low_water;
mod log_model;
mod log_outdated_state;
mod log_repair;
mod log_restart;
mod log_roll_on_full_disk;
mod log_verify_tail;
mod log_wrong_length;
mod simulated_disk;
