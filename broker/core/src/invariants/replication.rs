//! What must never happen between the replicas of one partition.

use std::{
    collections::{BTreeMap, btree_map},
    fmt,
};

use strandline_protocol::{BrokerId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

use super::{Violation, hold, sequences_are_gapless};

/// What a log holds at one offset; of a batch it is enough to give its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<V> {
    /// Where it lies.
    pub offset: Offset,
    /// The epoch of the leader that wrote it.
    pub epoch: LeaderEpoch,
    /// What it is.
    pub value: V,
}

/// S1, log matching: where two logs have an entry of the same epoch at the same offset, they are
/// the same up to there. Below the start of the shorter one there is nothing to compare; both logs
/// go up in offsets.
///
/// Costs one pass over both.
///
/// # Errors
/// The first difference that lies below a place where the logs agree.
pub fn logs_match<V: Eq + fmt::Debug>(
    one: impl IntoIterator<Item = Entry<V>>,
    other: impl IntoIterator<Item = Entry<V>>,
) -> Result<(), Violation> {
    let (mut one, mut other) = (one.into_iter().peekable(), other.into_iter().peekable());
    let mut difference: Option<(Entry<V>, Entry<V>)> = None;
    while let (Some(left), Some(right)) = (one.peek(), other.peek()) {
        if left.offset < right.offset {
            one.next();
            continue;
        }
        if right.offset < left.offset {
            other.next();
            continue;
        }
        let (Some(left), Some(right)) = (one.next(), other.next()) else {
            break;
        };
        let agree = left.epoch == right.epoch;
        if left != right && difference.is_none() {
            difference = Some((left, right));
        }
        if let (true, Some((left, right))) = (agree, &difference) {
            return hold(
                "S1 log matching",
                || false,
                || format!("{left:?} and {right:?} lie below or at an offset of one epoch"),
            );
        }
    }
    Ok(())
}

/// S2, leader completeness: whoever leads has everything that was committed before, at its place.
/// `committed` and `log` go up in offsets; what lies below `log_start` was deleted.
///
/// # Errors
/// The first committed entry that the log lacks, or has another one for.
pub fn leader_is_complete<V: Eq + fmt::Debug>(
    committed: impl IntoIterator<Item = (Offset, V)>,
    log_start: Offset,
    log: impl IntoIterator<Item = (Offset, V)>,
) -> Result<(), Violation> {
    let mut log = log.into_iter().peekable();
    for (offset, value) in committed {
        if offset < log_start {
            continue;
        }
        while log.next_if(|(at, _)| *at < offset).is_some() {}
        let found = log.peek();
        hold(
            "S2 leader completeness",
            || matches!(found, Some((at, there)) if *at == offset && *there == value),
            || format!("{value:?} was committed at {offset}, the leader has {found:?} next"),
        )?;
    }
    Ok(())
}

/// S5, one leader per epoch: no two brokers have led in the same epoch.
///
/// # Errors
/// The first epoch with two.
pub fn one_leader_per_epoch(
    leaders: impl IntoIterator<Item = (LeaderEpoch, BrokerId)>,
) -> Result<(), Violation> {
    let mut known: BTreeMap<LeaderEpoch, BrokerId> = BTreeMap::new();
    for (epoch, leader) in leaders {
        let before = *known.entry(epoch).or_insert(leader);
        hold(
            "S5 one leader per epoch",
            || before == leader,
            || format!("brokers {before} and {leader} lead in epoch {epoch}"),
        )?;
    }
    Ok(())
}

/// S10 for a whole log: the batches of each producer and epoch follow on each other without a gap
/// and without repetition. `batches` come in the order of their offsets, each with its producer,
/// its first sequence and its number of records; those without a producer are passed over. The
/// first batch of each producer is taken as it is, as the one before may have been deleted.
///
/// # Errors
/// The first batch that does not follow.
pub fn producers_are_gapless(
    batches: impl IntoIterator<Item = (ProducerId, ProducerEpoch, Sequence, i32)>,
) -> Result<(), Violation> {
    let mut known = BTreeMap::new();
    for (producer, epoch, sequence, records) in batches {
        if producer == ProducerId::NONE {
            continue;
        }
        match known.entry(producer) {
            btree_map::Entry::Vacant(place) => {
                place.insert((epoch, sequence, records));
            }
            btree_map::Entry::Occupied(mut place) => {
                let (last_epoch, last, count) = *place.get();
                if last_epoch == epoch {
                    sequences_are_gapless(last, count, sequence)?;
                } else {
                    hold(
                        "S10 sequences gapless",
                        || last_epoch < epoch && sequence == Sequence(0),
                        || {
                            format!(
                                "producer {producer}: epoch {last_epoch}, then epoch {epoch} from \
                                 sequence {sequence}"
                            )
                        },
                    )?;
                }
                place.insert((epoch, sequence, records));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: &[(i64, i32, char)]) -> Vec<Entry<char>> {
        let entry = |&(offset, epoch, value): &(i64, i32, char)| Entry {
            offset: Offset(offset),
            epoch: LeaderEpoch(epoch),
            value,
        };
        entries.iter().map(entry).collect()
    }

    #[test]
    fn logs_may_part_but_not_meet_again() {
        let one = log(&[(0, 1, 'a'), (1, 1, 'b'), (2, 1, 'c')]);
        let parted = log(&[(0, 1, 'a'), (1, 2, 'x'), (2, 3, 'y')]);
        assert_eq!(logs_match(one.clone(), parted.clone()), Ok(()));
        let met = log(&[(1, 2, 'z'), (2, 3, 'y'), (3, 3, 'w')]);
        assert!(logs_match(parted, met).is_err());
        let other_bytes = log(&[(0, 1, 'a'), (1, 1, 'B')]);
        assert!(logs_match(one.clone(), other_bytes).is_err());
        assert_eq!(logs_match(one, log(&[(2, 1, 'c')])), Ok(()));
    }

    #[test]
    fn a_leader_has_what_was_committed() {
        let at = |entries: &[(i64, char)]| -> Vec<(Offset, char)> {
            entries.iter().map(|it| (Offset(it.0), it.1)).collect()
        };
        let committed = at(&[(0, 'a'), (1, 'b')]);
        let check = |start, log: &[(i64, char)]| {
            leader_is_complete(committed.clone(), Offset(start), at(log))
        };
        assert_eq!(check(0, &[(0, 'a'), (1, 'b'), (2, 'c')]), Ok(()));
        assert_eq!(check(1, &[(1, 'b')]), Ok(()));
        assert!(check(0, &[(0, 'a')]).is_err());
        assert!(check(0, &[(0, 'a'), (1, 'x')]).is_err());
        assert!(check(0, &[(1, 'b')]).is_err());
    }

    #[test]
    fn an_epoch_has_one_leader() {
        let led = |pairs: &[(i32, i32)]| {
            let pairs = pairs.iter().map(|it| (LeaderEpoch(it.0), BrokerId(it.1)));
            one_leader_per_epoch(pairs.collect::<Vec<_>>())
        };
        assert_eq!(led(&[(1, 1), (2, 2), (1, 1)]), Ok(()));
        assert!(led(&[(1, 1), (1, 2)]).is_err());
    }

    #[test]
    fn a_producers_batches_follow_on_each_other() {
        let check = |batches: &[(i64, i16, i32, i32)]| {
            let batches = batches.iter().map(|it| {
                let (producer, epoch) = (ProducerId(it.0), ProducerEpoch(it.1));
                (producer, epoch, Sequence(it.2), it.3)
            });
            producers_are_gapless(batches.collect::<Vec<_>>())
        };
        assert_eq!(check(&[(1, 0, 4, 2), (2, 0, 0, 1), (1, 0, 6, 1)]), Ok(()));
        assert_eq!(check(&[(1, 0, 4, 2), (1, 1, 0, 3), (1, 1, 3, 1)]), Ok(()));
        assert_eq!(check(&[(-1, -1, -1, 2), (-1, -1, -1, 2)]), Ok(()));
        assert!(check(&[(1, 0, 4, 2), (1, 0, 4, 2)]).is_err());
        assert!(check(&[(1, 0, 4, 2), (1, 0, 7, 2)]).is_err());
        assert!(check(&[(1, 1, 4, 2), (1, 0, 6, 2)]).is_err());
    }
}
