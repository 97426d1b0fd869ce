//! What happened in a run.

use std::fmt;

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub acknowledged: u64,
    pub epochs: u64,
    pub cuts: u64,
    pub starts: u64,
    pub isr_changes: u64,
    pub lost: u64,
}

impl Counts {
    pub const fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.epochs += other.epochs;
        self.cuts += other.cuts;
        self.starts += other.starts;
        self.isr_changes += other.isr_changes;
        self.lost += other.lost;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} writes acknowledged, {} leader epochs, {} starts, {} ISR changes, {} logs cut, {} \
             partitions without anybody who may lead",
            self.acknowledged, self.epochs, self.starts, self.isr_changes, self.cuts, self.lost
        )
    }
}
