//! What must never happen, as predicates: used by assertions, simulations, real-process tests and
//! metrics alike.
//!
//! The names (S7, H1, …) are those of the catalogue that the project tests against: S for what can
//! be seen inside, H for what the history of clients shows.

mod replication;

use std::{collections::BTreeMap, fmt};

use strandline_protocol::{LeaderEpoch, Offset, Sequence};

pub use replication::{
    Entry, leader_is_complete, logs_match, one_leader_per_epoch, producers_are_gapless,
};

use crate::replica::Marks;

/// An invariant does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{invariant} is violated: {what}")]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

fn hold(
    invariant: &'static str,
    holds: impl FnOnce() -> bool,
    what: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds() {
        return Ok(());
    }
    Err(Violation {
        invariant,
        what: what(),
    })
}

/// The marks of one partition lie in their order: the log starts at or before the high watermark,
/// and neither that nor what is durable lies beyond the log end.
///
/// # Errors
/// The violation.
pub fn marks_are_ordered(marks: &Marks) -> Result<(), Violation> {
    hold(
        "marks in order",
        || {
            marks.log_start <= marks.high_watermark
                && marks.high_watermark <= marks.log_end
                && marks.durable_end <= marks.log_end
        },
        || format!("{marks:?}"),
    )
}

/// S7: a high watermark never goes back.
///
/// # Errors
/// The violation.
pub fn high_watermark_is_monotone(before: Offset, after: Offset) -> Result<(), Violation> {
    hold(
        "S7 high watermark monotone",
        || before <= after,
        || format!("{before} then {after}"),
    )
}

/// S6: an epoch never goes back.
///
/// # Errors
/// The violation.
pub fn epoch_is_monotone(before: LeaderEpoch, after: LeaderEpoch) -> Result<(), Violation> {
    hold(
        "S6 epoch monotone",
        || before <= after,
        || format!("{before} then {after}"),
    )
}

/// A log has no gap: the batch behind one that ends at `end` (exclusive) begins there.
///
/// # Errors
/// The violation.
pub fn offsets_are_gapless(end: Offset, next_base: Offset) -> Result<(), Violation> {
    hold(
        "offsets gapless",
        || end == next_base,
        || format!("a batch ends at {end}, the next begins at {next_base}"),
    )
}

/// S10: the sequences of one producer and epoch in one partition follow on each other.
///
/// # Errors
/// The violation.
pub fn sequences_are_gapless(
    before: Sequence,
    records: i32,
    next: Sequence,
) -> Result<(), Violation> {
    hold(
        "S10 sequences gapless",
        || before.plus(records) == next,
        || format!("{records} records from sequence {before}, then {next}"),
    )
}

/// H1 and H4 and H13: what was acknowledged is read exactly once; what has an unknown outcome at
/// most once; nothing else at all.
///
/// # Errors
/// The first violation, in the order of the values.
pub fn reads_match_writes<V: Ord + fmt::Debug>(
    acknowledged: impl IntoIterator<Item = V>,
    unknown: impl IntoIterator<Item = V>,
    read: impl IntoIterator<Item = V>,
) -> Result<(), Violation> {
    let mut counts: BTreeMap<V, (u64, u64, u64)> = BTreeMap::new();
    for value in acknowledged {
        counts.entry(value).or_default().0 += 1;
    }
    for value in unknown {
        counts.entry(value).or_default().1 += 1;
    }
    for value in read {
        counts.entry(value).or_default().2 += 1;
    }
    for (value, (acknowledged, unknown, read)) in counts {
        let invariant = if read < acknowledged {
            "H1 nothing acknowledged is lost"
        } else if acknowledged + unknown == 0 {
            "H13 nothing unwritten is read"
        } else {
            "H4 nothing is read twice"
        };
        hold(
            invariant,
            || (acknowledged..=acknowledged + unknown).contains(&read),
            || {
                format!(
                    "{value:?} was acknowledged {acknowledged} times, unknown {unknown} times, \
                     read {read} times"
                )
            },
        )?;
    }
    Ok(())
}

/// H3: one offset of one partition holds one value, whoever reads it and whenever.
///
/// # Errors
/// The first violation.
pub fn offsets_are_consistent<V: Eq + fmt::Debug>(
    seen: impl IntoIterator<Item = (Offset, V)>,
) -> Result<(), Violation> {
    let mut values: BTreeMap<Offset, V> = BTreeMap::new();
    for (offset, value) in seen {
        if let Some(before) = values.get(&offset) {
            hold(
                "H3 one value per offset",
                || *before == value,
                || format!("offset {offset} was {before:?}, then {value:?}"),
            )?;
        }
        values.insert(offset, value);
    }
    Ok(())
}

/// H6: what one reader polls, or one producer is acknowledged, in one partition goes up.
///
/// # Errors
/// The first violation.
pub fn offsets_go_up(offsets: impl IntoIterator<Item = Offset>) -> Result<(), Violation> {
    let mut last = None;
    for offset in offsets {
        hold(
            "H6 offsets go up",
            || last.is_none_or(|last| last < offset),
            || format!("{offset} after {last:?}"),
        )?;
        last = Some(offset);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(result: Result<(), Violation>) -> &'static str {
        result.expect_err("it is violated").invariant
    }

    #[test]
    fn histories_are_told_apart() {
        assert_eq!(reads_match_writes([1, 2], [3], [2, 1]), Ok(()));
        assert_eq!(reads_match_writes([1, 2], [3], [2, 1, 3]), Ok(()));
        assert!(name(reads_match_writes([1, 2], [], [1])).starts_with("H1"));
        assert!(name(reads_match_writes([1], [], [1, 1])).starts_with("H4"));
        assert!(name(reads_match_writes([1], [2], [1, 2, 2])).starts_with("H4"));
        assert!(name(reads_match_writes([1], [], [1, 9])).starts_with("H13"));
    }

    #[test]
    fn offsets_are_held_against_each_other() {
        assert_eq!(offsets_go_up([Offset(1), Offset(4)]), Ok(()));
        assert!(name(offsets_go_up([Offset(4), Offset(4)])).starts_with("H6"));
        let seen = [(Offset(1), "a"), (Offset(2), "b"), (Offset(1), "a")];
        assert_eq!(offsets_are_consistent(seen), Ok(()));
        assert!(
            name(offsets_are_consistent([(Offset(1), "a"), (Offset(1), "b")])).starts_with("H3")
        );
        assert_eq!(offsets_are_gapless(Offset(3), Offset(3)), Ok(()));
        assert!(offsets_are_gapless(Offset(3), Offset(4)).is_err());
        assert_eq!(
            sequences_are_gapless(Sequence(i32::MAX), 1, Sequence(0)),
            Ok(())
        );
        assert!(high_watermark_is_monotone(Offset(3), Offset(2)).is_err());
        assert!(epoch_is_monotone(LeaderEpoch(3), LeaderEpoch(2)).is_err());
    }
}
