//! Where two logs part.

use strandline_protocol::messages::EpochEnd;

use super::*;
use crate::replica::{
    Marks,
    divergence::{self, FetchAnswer, Reaction},
};

/// The epochs of a log from 0 to `end`, each with its start.
struct Log {
    epochs: Vec<(i32, i64)>,
    end: i64,
}

impl Log {
    fn new(epochs: &[(i32, i64)], end: i64) -> Self {
        Self {
            epochs: epochs.to_vec(),
            end,
        }
    }

    fn marks(&self) -> Marks {
        Marks {
            log_start: Offset(0),
            high_watermark: Offset(0),
            durable_end: Offset(self.end),
            log_end: Offset(self.end),
        }
    }

    /// Rule 23, in the plainest words.
    fn end_offset_for(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let next = self.epochs.iter().find(|it| it.0 > epoch.0);
        let known = self.epochs.iter().rev().find(|it| it.0 <= epoch.0);
        match (known, next) {
            (Some(known), None) if known.0 == epoch.0 => Some((epoch, Offset(self.end))),
            (_, None) => None,
            (Some(known), Some(next)) => Some((LeaderEpoch(known.0), Offset(next.1))),
            (None, Some(next)) => Some((epoch, Offset(next.1))),
        }
    }

    fn answer(&self, offset: i64, last: i32) -> Result<FetchAnswer, Failure> {
        let last = (last >= 0).then_some(LeaderEpoch(last));
        divergence::answer(Offset(offset), last, &self.marks(), |epoch| {
            self.end_offset_for(epoch)
        })
    }

    fn reaction(&self, epoch: i32, end: i64) -> Reaction {
        divergence::diverged(told(epoch, end), &self.marks(), |epoch| {
            self.end_offset_for(epoch)
        })
    }
}

fn told(epoch: i32, end: i64) -> EpochEnd {
    EpochEnd {
        epoch: LeaderEpoch(epoch),
        end_offset: Offset(end),
    }
}

fn diverging(epoch: i32, end: i64) -> Result<FetchAnswer, Failure> {
    Ok(FetchAnswer::Diverging(told(epoch, end)))
}

/// Rules 23 and 24.
#[test]
fn the_leader_finds_where_the_follower_has_left_it() {
    let log = Log::new(&[(1, 0), (3, 10), (5, 20)], 30);
    assert_eq!(log.answer(30, 5), Ok(FetchAnswer::Records));
    assert_eq!(log.answer(10, 1), Ok(FetchAnswer::Records));
    assert_eq!(log.answer(0, -1), Ok(FetchAnswer::Records));
    assert_eq!(log.answer(12, 1), diverging(1, 10), "further in an epoch");
    assert_eq!(log.answer(9, 2), diverging(1, 10), "an unknown epoch");
    assert_eq!(log.answer(15, 4), diverging(3, 20));
    let trimmed = Log::new(&[(3, 10), (5, 20)], 30);
    assert_eq!(
        trimmed.answer(12, 1),
        diverging(1, 10),
        "older than all it knows"
    );
}

/// Rule 24.
#[test]
fn outside_of_the_leaders_log_there_is_nothing_to_compare() {
    let log = Log::new(&[(1, 0)], 30);
    let mut marks = log.marks();
    marks.log_start = Offset(10);
    marks.high_watermark = Offset(10);
    let below = divergence::answer(Offset(9), Some(LeaderEpoch(1)), &marks, |epoch| {
        log.end_offset_for(epoch)
    });
    assert_eq!(code(below), Some(ErrorCode::OFFSET_OUT_OF_RANGE));
    let newer = code(log.answer(30, 2));
    assert_eq!(newer, Some(ErrorCode::OFFSET_OUT_OF_RANGE));
    let empty = code(log.answer(31, -1));
    assert_eq!(empty, Some(ErrorCode::OFFSET_OUT_OF_RANGE));
}

/// Rule 25.
#[test]
fn the_follower_cuts_where_the_epoch_ends_in_both() {
    let log = Log::new(&[(1, 0), (2, 10), (4, 20)], 30);
    let cut = |offset| Reaction::Truncate(Offset(offset));
    assert_eq!(log.reaction(4, 25), cut(25), "the leader's is shorter");
    assert_eq!(log.reaction(4, 99), cut(30), "its own is shorter");
    assert_eq!(log.reaction(1, 8), cut(8));
    assert_eq!(
        log.reaction(3, 25),
        cut(20),
        "it has 2 before: ask for that"
    );
    assert_eq!(
        log.reaction(5, 28),
        cut(28),
        "it has nothing of it or later"
    );
}

/// Rule 25 taken to its end, for every pair of small histories: logs agree in the end, and nothing
/// is cut that they agreed on before.
#[test]
fn cutting_and_asking_again_ends_where_the_logs_part() {
    let histories: Vec<Vec<i32>> = (0..4_i32.pow(4)).map(history).collect();
    for leader in &histories {
        for follower in &histories {
            if !may_both_be(leader, follower) {
                continue;
            }
            let common = leader
                .iter()
                .zip(follower)
                .take_while(|(a, b)| a == b)
                .count();
            let end = settle(leader, follower);
            assert_eq!(end, common, "{follower:?} follows {leader:?}");
        }
    }
}

/// Up to four records with epochs that do not go down.
fn history(number: i32) -> Vec<i32> {
    let mut epochs: Vec<i32> = (0..4).map(|at| number / 4_i32.pow(at) % 4).collect();
    epochs.retain(|epoch| *epoch > 0);
    epochs.sort_unstable();
    epochs
}

/// One epoch has one leader, which began it once: whoever has some of it has all from before.
fn may_both_be(one: &[i32], other: &[i32]) -> bool {
    (1..4).all(|epoch| {
        let start = |log: &[i32]| log.iter().position(|it| *it == epoch);
        match (start(one), start(other)) {
            (Some(start), Some(_)) => one[..=start] == other[..other.len().min(start + 1)],
            _ => true,
        }
    })
}

fn log_of(history: &[i32], leads_in: Option<i32>) -> Log {
    let mut epochs: Vec<(i32, i64)> = Vec::new();
    for (at, epoch) in history.iter().enumerate() {
        if epochs.last().is_none_or(|last| last.0 != *epoch) {
            epochs.push((*epoch, i64::try_from(at).unwrap()));
        }
    }
    let end = i64::try_from(history.len()).unwrap();
    epochs.extend(leads_in.map(|epoch| (epoch, end)));
    Log { epochs, end }
}

/// Where the follower's log ends once its leader, in epoch 9, has nothing against it.
fn settle(leader: &[i32], follower: &[i32]) -> usize {
    let leader = log_of(leader, Some(9));
    let mut follower = follower.to_vec();
    for _ in 0..10 {
        let log = log_of(&follower, None);
        let last = follower.last().copied().unwrap_or(-1);
        match leader.answer(log.end, last) {
            Ok(FetchAnswer::Records) => return follower.len(),
            Ok(FetchAnswer::Diverging(told)) => {
                let Reaction::Truncate(to) = log.reaction(told.epoch.0, told.end_offset.0) else {
                    panic!("it is cut")
                };
                assert!(to < Offset(log.end), "each answer cuts something");
                follower.truncate(usize::try_from(to.0).unwrap());
            }
            Err(failure) => panic!("{failure:?}"),
        }
    }
    panic!("it does not come to an end")
}

/// Rule 26.
#[test]
fn a_fetch_of_another_epoch_is_refused_and_tells_nothing() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    for (epoch, expected) in [
        (4, ErrorCode::FENCED_LEADER_EPOCH),
        (6, ErrorCode::UNKNOWN_LEADER_EPOCH),
    ] {
        let fetch = FollowerFetch {
            leader_epoch: LeaderEpoch(epoch),
            ..fetch_of(TWO, 10, 10)
        };
        assert_eq!(code(judge(&mut replica, &fetch, ms(1))), Some(expected));
        let flush = FollowerFlush {
            leader_epoch: LeaderEpoch(epoch),
            ..flush_of(TWO, 10)
        };
        let refused = code(replica.follower_flushed(&flush, ms(1)));
        assert_eq!(refused, Some(expected));
    }
    assert_eq!(high_watermark(&replica), 5);
}

/// Design 8.1.
#[test]
fn a_fetch_that_is_answered_with_a_divergence_is_no_progress() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    let told = (LeaderEpoch(3), Offset(7));
    let answer = replica.follower_fetched(&fetch_of(TWO, 10, 10), |_| Some(told), ms(1));
    assert_eq!(answer, diverging(3, 7));
    assert_eq!(replica.followers(ms(1)).next().unwrap().log_end, None);
    assert_eq!(high_watermark(&replica), 5);
}

/// Rule 27.
#[test]
fn out_of_the_leaders_range_a_follower_cuts_starts_again_or_waits() {
    let at = |log_start, log_end| Marks {
        log_start: Offset(log_start),
        high_watermark: Offset(log_start),
        durable_end: Offset(log_end),
        log_end: Offset(log_end),
    };
    let react = |start, end, marks| divergence::out_of_range(Offset(start), Offset(end), &marks);
    assert_eq!(react(0, 8, at(0, 10)), Reaction::Truncate(Offset(8)));
    assert_eq!(react(20, 30, at(0, 10)), Reaction::Restart(Offset(20)));
    assert_eq!(react(0, 30, at(0, 10)), Reaction::Retry);
    assert_eq!(
        react(0, 8, at(9, 10)),
        Reaction::Restart(Offset(0)),
        "there is nothing in common"
    );
}

/// Rule 28: what lies above the high watermark may be committed all the same.
#[test]
fn a_follower_keeps_what_lies_above_its_high_watermark() {
    let mut replica = follower(FlushMode::Ack);
    assert_eq!(high_watermark(&replica), 5);
    assert_eq!(replica.position(ONE).unwrap().fetch_offset, Offset(10));
    let mut next = changed(&[ONE, TWO]);
    next.leader_epoch = LeaderEpoch(6);
    next.leader = Some(THREE);
    let _ = replica.learn(TWO, &next, ms(1));
    let position = replica.position(THREE).unwrap();
    assert_eq!(position.fetch_offset, Offset(10));
    assert_eq!(position.leader_epoch, LeaderEpoch(6));
}
