//! The segmented log and everything else that Strandline keeps on disk.
//!
//! **Owns** the files of a data directory: segments, indexes, checkpoints, producer snapshots; what
//! is durable and what recovery makes of a directory after a crash.
//!
//! **Never** speaks to a network, starts a thread, reads a clock or waits for anything but the
//! disk: time is an argument, and work that may take long is handed out as a job that the caller
//! runs. Every file operation goes through [`fs`].

pub mod directory;
pub mod error;
pub mod fs;
pub mod log;

pub use error::StorageError;
