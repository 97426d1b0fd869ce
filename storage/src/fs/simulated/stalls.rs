//! Operations that wait.

use std::path::Path;

use super::fault::Fault;
use crate::fs::Operation;

/// Which operations are to wait, and how many do.
#[derive(Clone, Debug, Default)]
pub(super) struct Stalls {
    faults: Vec<Fault>,
    /// How often all were released.
    releases: u64,
    waiting: usize,
}

/// An operation that waits; since which release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stalled(u64);

impl Stalls {
    pub(super) fn add(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Lets everything go on that waits, and has nothing wait any more.
    pub(super) fn release(&mut self) {
        self.faults.clear();
        self.releases = self.releases.saturating_add(1);
    }

    /// Takes note of an operation; tells whether it has to wait.
    pub(super) fn begin(&mut self, operation: Operation, path: &Path) -> Option<Stalled> {
        let mut strikes = false;
        for fault in &mut self.faults {
            strikes |= fault.strikes(operation, path).is_some();
        }
        self.faults.retain(|fault| !fault.is_spent());
        strikes.then(|| {
            self.waiting = self.waiting.saturating_add(1);
            Stalled(self.releases)
        })
    }

    pub(super) const fn holds(&self, stalled: Stalled) -> bool {
        self.releases == stalled.0
    }

    pub(super) const fn end(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }
}
