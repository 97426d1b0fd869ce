//! What was sent and what became of it, held against what a partition holds in the end.
//!
//! The checker reads the history and nothing else: it knows neither client nor broker. What it
//! looks for is named as in the literature on log brokers: lost acknowledged records, duplicates,
//! gaps, records out of order, records that nobody sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// One record: the `counter`-th that `producer` sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// Who sent it.
    pub producer: u32,
    /// As its how manyeth record, over all partitions.
    pub counter: u64,
}

impl Mark {
    /// The record's value: the mark, readable, and filling that follows from it, so that a record
    /// which was mixed up with another one is noticed.
    #[must_use]
    pub fn value(self, bytes: usize) -> Vec<u8> {
        let mut value = format!("{}:{}:", self.producer, self.counter).into_bytes();
        let mut state = self.counter.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(self.producer);
        while value.len() < bytes {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            value.extend_from_slice(&state.to_be_bytes());
        }
        value.truncate(bytes.max(24));
        value
    }

    /// The mark of a value that [`Mark::value`] made; none if a byte of it is wrong.
    #[must_use]
    pub fn of(value: &[u8]) -> Option<Self> {
        let mut parts = value.splitn(3, |byte| *byte == b':');
        let producer = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let counter = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let mark = Self { producer, counter };
        (mark.value(value.len()) == value).then_some(mark)
    }
}

/// What a producer was told about one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is at that offset.
    Acknowledged(i64),
    /// It may be there or not.
    Unknown,
    /// It is not there.
    Refused,
}

/// Everything that producers did.
#[derive(Clone, Debug, Default)]
pub struct History {
    outcomes: BTreeMap<i32, BTreeMap<Mark, Outcome>>,
}

/// Something that must never happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An acknowledged record is not at its offset.
    Lost(i32, Mark, i64),
    /// A record is there twice.
    Duplicate(i32, Mark, i64),
    /// Offsets do not follow on each other.
    Gap(i32, i64, i64),
    /// A producer's records are not in the order in which it sent them.
    Order(i32, Mark, Mark),
    /// A record was refused and is there all the same, or was never sent.
    Unexpected(i32, i64, Option<Mark>),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(partition, mark, offset) => {
                write!(
                    f,
                    "partition {partition}: {mark:?}, acknowledged at {offset}, is lost"
                )
            }
            Self::Duplicate(partition, mark, offset) => {
                write!(
                    f,
                    "partition {partition}: {mark:?} appears again at {offset}"
                )
            }
            Self::Gap(partition, expected, found) => {
                write!(
                    f,
                    "partition {partition}: offset {found} follows where {expected} is due"
                )
            }
            Self::Order(partition, earlier, later) => {
                write!(
                    f,
                    "partition {partition}: {later:?} comes behind {earlier:?}"
                )
            }
            Self::Unexpected(partition, offset, mark) => {
                write!(
                    f,
                    "partition {partition}: {mark:?} at {offset} should not be there"
                )
            }
        }
    }
}

impl History {
    /// Notes what became of a record. An outcome that was unknown may become known later.
    pub fn note(&mut self, partition: i32, mark: Mark, outcome: Outcome) {
        self.outcomes
            .entry(partition)
            .or_default()
            .insert(mark, outcome);
    }

    /// How many records were acknowledged, have an unknown outcome, were refused.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let mut counts = (0, 0, 0);
        for outcome in self.outcomes.values().flat_map(BTreeMap::values) {
            match outcome {
                Outcome::Acknowledged(_) => counts.0 += 1,
                Outcome::Unknown => counts.1 += 1,
                Outcome::Refused => counts.2 += 1,
            }
        }
        counts
    }

    /// Holds what `partition` holds, from its start, against what was sent to it.
    #[must_use]
    pub fn check(&self, partition: i32, found: &[(i64, Option<Mark>)]) -> Vec<Violation> {
        let nothing = BTreeMap::new();
        let sent = self.outcomes.get(&partition).unwrap_or(&nothing);
        let mut violations = Vec::new();
        let mut seen: BTreeSet<Mark> = BTreeSet::new();
        let mut last_of: BTreeMap<u32, Mark> = BTreeMap::new();
        let mut expected = 0;
        for (offset, mark) in found {
            if *offset != expected {
                violations.push(Violation::Gap(partition, expected, *offset));
            }
            expected = offset + 1;
            let outcome = mark.and_then(|mark| sent.get(&mark));
            let (Some(mark), Some(Outcome::Acknowledged(_) | Outcome::Unknown)) = (mark, outcome)
            else {
                violations.push(Violation::Unexpected(partition, *offset, *mark));
                continue;
            };
            if !seen.insert(*mark) {
                violations.push(Violation::Duplicate(partition, *mark, *offset));
            }
            if let Some(earlier) = last_of.insert(mark.producer, *mark)
                && earlier > *mark
            {
                violations.push(Violation::Order(partition, earlier, *mark));
            }
        }
        let at: BTreeMap<i64, Option<Mark>> = found.iter().copied().collect();
        for (mark, outcome) in sent {
            if let Outcome::Acknowledged(offset) = outcome
                && at.get(offset) != Some(&Some(*mark))
            {
                violations.push(Violation::Lost(partition, *mark, *offset));
            }
        }
        violations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(producer: u32, counter: u64) -> Mark {
        Mark { producer, counter }
    }

    fn history() -> History {
        let mut history = History::default();
        history.note(0, mark(1, 0), Outcome::Acknowledged(0));
        history.note(0, mark(1, 1), Outcome::Unknown);
        history.note(0, mark(1, 2), Outcome::Acknowledged(1));
        history.note(0, mark(1, 3), Outcome::Refused);
        history
    }

    #[test]
    fn values_carry_their_mark() {
        let value = mark(3, 41).value(100);
        assert_eq!(value.len(), 100);
        assert_eq!(Mark::of(&value), Some(mark(3, 41)));
        let mut damaged = value;
        damaged[50] ^= 1;
        assert_eq!(Mark::of(&damaged), None);
    }

    #[test]
    fn a_faithful_partition_has_no_violation() {
        let found = [(0, Some(mark(1, 0))), (1, Some(mark(1, 2)))];
        assert_eq!(history().check(0, &found), []);
    }

    #[test]
    fn each_kind_of_violation_is_found() {
        let check = |found: &[(i64, Option<Mark>)]| history().check(0, found);
        assert_eq!(
            check(&[(0, Some(mark(1, 0)))]),
            [Violation::Lost(0, mark(1, 2), 1)]
        );
        let whole = [(0, Some(mark(1, 0))), (1, Some(mark(1, 2)))];
        let with = |more: (i64, Option<Mark>)| check(&[whole[0], whole[1], more]);
        assert_eq!(
            with((2, Some(mark(1, 2)))),
            [Violation::Duplicate(0, mark(1, 2), 2)]
        );
        assert_eq!(
            with((2, Some(mark(1, 3)))),
            [Violation::Unexpected(0, 2, Some(mark(1, 3)))]
        );
        assert_eq!(with((2, None)), [Violation::Unexpected(0, 2, None)]);
        assert_eq!(
            with((2, Some(mark(1, 1)))),
            [Violation::Order(0, mark(1, 2), mark(1, 1))]
        );
        assert_eq!(with((3, Some(mark(1, 1))))[0], Violation::Gap(0, 2, 3));
    }
}
