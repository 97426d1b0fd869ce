//! Which parts of a segment have been checked since they were last in memory.

use std::ops::Range;

use parking_lot::Mutex;

/// How many separate parts are remembered; beyond, a part is checked once more.
const PARTS_MAX: usize = 64;

/// The checked parts of one file, as positions. Shared between the log and whoever is checking what
/// it read without the log's lock.
#[derive(Debug, Default)]
pub struct Verified {
    parts: Mutex<Vec<Range<u64>>>,
}

impl Verified {
    /// Whether all of `range` has been checked.
    #[must_use]
    pub fn covers(&self, range: &Range<u64>) -> bool {
        let parts = self.parts.lock();
        let count = parts.partition_point(|part| part.start <= range.start);
        count
            .checked_sub(1)
            .and_then(|at| parts.get(at))
            .is_some_and(|part| range.end <= part.end)
    }

    /// Remembers that `range` has been checked.
    pub fn add(&self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut parts = self.parts.lock();
        let first = parts.partition_point(|part| part.end < range.start);
        let last = parts.partition_point(|part| part.start <= range.end);
        let joined = parts.get(first..last).unwrap_or_default();
        let start = joined
            .first()
            .map_or(range.start, |part| part.start.min(range.start));
        let end = joined
            .last()
            .map_or(range.end, |part| part.end.max(range.end));
        parts.splice(first..last, std::iter::once(start..end));
        if parts.len() > PARTS_MAX {
            parts.remove(0);
        }
    }

    /// Forgets what touches `range`: it is not in memory, so the disk will be asked again.
    pub fn forget(&self, range: &Range<u64>) {
        self.parts
            .lock()
            .retain(|part| part.end <= range.start || range.end <= part.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join() {
        let verified = Verified::default();
        for range in [0..10, 20..30, 10..20, 40..50] {
            verified.add(range);
        }
        assert_eq!(*verified.parts.lock(), [0..30, 40..50]);
        assert!(verified.covers(&(5..30)));
        assert!(!verified.covers(&(25..45)));
        verified.add(5..45);
        assert!(verified.covers(&(0..50)));
        assert_eq!(verified.parts.lock().len(), 1);
        verified.forget(&(49..60));
        assert!(!verified.covers(&(0..1)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let verified = Verified::default();
        for part in 0..1_000 {
            verified.add(part * 10..part * 10 + 5);
        }
        assert_eq!(verified.parts.lock().len(), PARTS_MAX);
        assert!(verified.covers(&(9_990..9_995)));
    }
}
