//! Looking into the files of a log that no broker has open: dump, verify, repair.
//!
//! [`dump`] shows what one file holds. [`verify`] holds the files of a partition against each other
//! and changes nothing. [`plan_repair`] tells what would make them whole, and each
//! [`RepairStep`] is done only when it is asked for; what it takes away is kept beside the log
//! under a name that ends in `.removed`.

mod dump;
mod repair;
mod verify;

pub use self::{
    dump::{Batches, Dump, Piece, dump, is_known, is_segment},
    repair::{RepairStep, plan_repair},
    verify::{Finding, Severity, verify},
};
pub use super::{
    epochs::EpochEntry,
    offset_index::OffsetEntry,
    producers::{BatchMark, Producer},
    time_index::TimeEntry,
};
