//! Which leader epochs wrote the log, and where each begins.
//!
//! *Pattern: generation clock.* A leader's epoch is on disk before its first batch, so that two
//! leaders never give one epoch and offset to different bytes, and a follower can find where it
//! diverged.
//!
//! `leader-epoch-checkpoint` is Kafka's text: `0`, the number of entries, then one `epoch offset` a
//! line.

use std::fmt::Write;

use strandline_protocol::{LeaderEpoch, Offset};

/// The name of Kafka's file.
pub const EPOCH_FILE: &str = "leader-epoch-checkpoint";

/// An epoch, and the first offset that it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEntry {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Where it begins.
    pub start: Offset,
}

/// The epochs of one log; both fields grow strictly from entry to entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    entries: Vec<EpochEntry>,
}

impl Epochs {
    /// Every entry, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    /// The newest epoch.
    #[must_use]
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|entry| entry.epoch)
    }

    /// The epoch that wrote `offset`, if it is not behind the log's end.
    #[must_use]
    pub fn at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let count = self.entries.partition_point(|entry| entry.start <= offset);
        let entry = self.entries.get(count.checked_sub(1)?)?;
        Some(entry.epoch)
    }

    /// The entries that matter for `from..end`.
    #[must_use]
    pub fn covering(&self, from: Offset, end: Offset) -> &[EpochEntry] {
        let first = self.entries.partition_point(|entry| entry.start <= from);
        let last = self.entries.partition_point(|entry| entry.start < end);
        let first = first.saturating_sub(1);
        self.entries.get(first..last).unwrap_or_default()
    }

    /// Begins an epoch. Entries that it supersedes (an epoch not smaller, or a start not smaller)
    /// go.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) {
        self.entries
            .retain(|entry| entry.epoch < epoch && entry.start < start);
        self.entries.push(EpochEntry { epoch, start });
    }

    /// Drops what begins at `end` or later; returns whether anything did.
    pub fn truncate_to(&mut self, end: Offset) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.start < end);
        before != self.entries.len()
    }

    /// Drops what ends at `start` or before. The entry that covers `start` stays as it is: the
    /// batch that holds `start` may begin before it.
    pub fn trim_to(&mut self, start: Offset) {
        let covering = self.entries.partition_point(|entry| entry.start <= start);
        self.entries.drain(..covering.saturating_sub(1));
    }

    /// Where `epoch` ends in a log that ends at `log_end`. See [`super::Log::end_offset_for`].
    #[must_use]
    pub fn end_offset_for(
        &self,
        epoch: LeaderEpoch,
        log_end: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        let count = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let next = self.entries.get(count);
        let known = count.checked_sub(1).and_then(|at| self.entries.get(at));
        match (known, next) {
            (Some(known), None) if known.epoch == epoch => Some((epoch, log_end)),
            (_, None) => None,
            (None, Some(first)) => Some((epoch, first.start)),
            (Some(known), Some(next)) => Some((known.epoch, next.start)),
        }
    }

    /// Kafka's file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("0\n{}\n", self.entries.len());
        for EpochEntry { epoch, start } in &self.entries {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{epoch} {start}");
        }
        text
    }

    /// What Kafka's file says; none if it is damaged.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != "0" {
            return None;
        }
        let count: usize = lines.next()?.parse().ok()?;
        let mut epochs = Self::default();
        for line in lines {
            let (epoch, start) = line.split_once(' ')?;
            let entry = EpochEntry {
                epoch: LeaderEpoch(epoch.parse().ok()?),
                start: Offset(start.parse().ok()?),
            };
            let grows = epochs
                .entries
                .last()
                .is_none_or(|last| last.epoch < entry.epoch && last.start < entry.start);
            if !grows || entry.epoch.0 < 0 || entry.start.0 < 0 {
                return None;
            }
            epochs.entries.push(entry);
        }
        (epochs.entries.len() == count).then_some(epochs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(entries: &[(i32, i64)]) -> Epochs {
        let mut epochs = Epochs::default();
        for &(epoch, start) in entries {
            epochs.assign(LeaderEpoch(epoch), Offset(start));
        }
        epochs
    }

    #[test]
    fn an_epoch_ends_where_the_next_begins() {
        let epochs = epochs(&[(2, 10), (4, 20), (5, 50)]);
        let check = |epoch, expect: Option<(i32, i64)>| {
            let found = epochs.end_offset_for(LeaderEpoch(epoch), Offset(80));
            let expect = expect.map(|(epoch, end)| (LeaderEpoch(epoch), Offset(end)));
            assert_eq!(found, expect, "epoch {epoch}");
        };
        check(5, Some((5, 80)));
        check(6, None);
        check(1, Some((1, 10)));
        check(2, Some((2, 20)));
        check(3, Some((2, 20)));
        check(4, Some((4, 50)));
        assert_eq!(
            Epochs::default().end_offset_for(LeaderEpoch(0), Offset(0)),
            None
        );
    }

    #[test]
    fn a_leader_that_wrote_nothing_leaves_no_entry() {
        assert_eq!(
            epochs(&[(1, 0), (2, 10), (3, 10)]),
            epochs(&[(1, 0), (3, 10)])
        );
    }

    #[test]
    fn cutting_and_trimming() {
        let mut cut = epochs(&[(1, 0), (2, 10), (3, 20)]);
        assert!(cut.truncate_to(Offset(20)));
        assert_eq!(cut, epochs(&[(1, 0), (2, 10)]));
        let mut trimmed = epochs(&[(1, 0), (2, 10), (3, 20)]);
        trimmed.trim_to(Offset(15));
        assert_eq!(trimmed, epochs(&[(2, 10), (3, 20)]));
        assert_eq!(trimmed.at(Offset(9)), None);
        assert_eq!(trimmed.at(Offset(19)), Some(LeaderEpoch(2)));
        assert_eq!(trimmed.covering(Offset(19), Offset(21)).len(), 2);
        assert_eq!(trimmed.covering(Offset(15), Offset(20)).len(), 1);
        assert_eq!(trimmed.covering(Offset(25), Offset(30)).len(), 1);
    }

    #[test]
    fn the_file_is_kafkas() {
        let epochs = epochs(&[(1, 0), (3, 20)]);
        assert_eq!(epochs.to_text(), "0\n2\n1 0\n3 20\n");
        assert_eq!(Epochs::from_text(&epochs.to_text()), Some(epochs));
        for bad in [
            "",
            "1\n0\n",
            "0\n2\n1 0\n",
            "0\n2\n1 0\n1 5\n",
            "0\n1\nx 0\n",
            "0\n1\n1 -1\n",
        ] {
            assert_eq!(Epochs::from_text(bad), None, "{bad:?}");
        }
    }
}
