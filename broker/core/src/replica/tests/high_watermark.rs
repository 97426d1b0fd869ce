//! The high watermark.

use strandline_protocol::Offset;

use super::*;
use crate::replica::LeaderMarks;

/// Rule 14.
#[test]
fn it_is_the_least_that_anybody_in_sync_has() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO, THREE]);
    appended(&mut replica, 20);
    fetched(&mut replica, TWO, 18, ms(1));
    assert_eq!(high_watermark(&replica), 5, "nothing is known of three");
    fetched(&mut replica, THREE, 16, ms(1));
    assert_eq!(high_watermark(&replica), 16);
    fetched(&mut replica, THREE, 20, ms(2));
    assert_eq!(high_watermark(&replica), 18);
    fetched(&mut replica, TWO, 12, ms(3));
    assert_eq!(high_watermark(&replica), 18, "it never goes back");
}

/// Rule 14 for the leader itself, under `flush=ack`.
#[test]
fn the_leader_counts_with_what_it_has_flushed() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    let _ = replica.appended(Offset(20));
    fetched(&mut replica, TWO, 20, ms(1));
    assert_eq!(high_watermark(&replica), 10);
    let _ = replica.flushed(Offset(20));
    assert_eq!(high_watermark(&replica), 20);
}

/// Rule 14: who is about to join.
#[test]
fn it_waits_for_who_keeps_up_without_being_in_sync_yet() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    fetched(&mut replica, TWO, 10, ms(1));
    fetched(&mut replica, THREE, 10, ms(1));
    appended(&mut replica, 15);
    fetched(&mut replica, TWO, 15, ms(2));
    assert_eq!(high_watermark(&replica), 10);
    // Fenced, it cannot join.
    let mut fenced = facts(&[ONE, TWO]);
    fenced.replicas[2].standing = Standing::Ineligible;
    let _ = replica.learn(ONE, &fenced, ms(3));
    assert_eq!(high_watermark(&replica), 15);
}

/// Rule 14: for as long as it may be behind.
#[test]
fn it_does_not_wait_for_who_has_stopped_keeping_up() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    fetched(&mut replica, TWO, 10, ms(0));
    fetched(&mut replica, THREE, 10, ms(0));
    appended(&mut replica, 15);
    fetched(&mut replica, TWO, 15, LAG_MAX);
    assert_eq!(
        high_watermark(&replica),
        10,
        "three was level until 15 came"
    );
    appended(&mut replica, 20);
    fetched(&mut replica, TWO, 20, LAG_MAX * 2 + ms(1));
    assert_eq!(high_watermark(&replica), 20);
}

/// Rule 15.
#[test]
fn it_stands_still_while_too_few_are_in_sync() {
    let mut replica = leader(FlushMode::Ack, &[ONE]);
    appended(&mut replica, 20);
    fetched(&mut replica, TWO, 20, ms(1));
    assert_eq!(high_watermark(&replica), 5);
    let proposal = replica.propose(ms(1)).unwrap();
    assert_eq!(proposal.isr.len(), 2);
    assert_eq!(high_watermark(&replica), 5, "it has not joined yet");
    let _ = replica.learn(ONE, &changed(&[ONE, TWO]), ms(2));
    assert_eq!(high_watermark(&replica), 20);
}

/// Rule 15: a topic that asks for more than it has.
#[test]
fn a_smaller_least_number_lets_it_go_on() {
    let mut replica = leader(FlushMode::Ack, &[ONE]);
    appended(&mut replica, 20);
    let mut facts = facts(&[ONE]);
    facts.min_isr = 1;
    let _ = replica.learn(ONE, &facts, ms(1));
    assert_eq!(high_watermark(&replica), 20);
}

/// Rule 16: becoming leader.
#[test]
fn the_only_one_in_sync_commits_all_it_has_when_it_begins_to_lead() {
    let mut replica = Replica::open(FlushMode::Ack, opened(10));
    let mut facts = facts(&[ONE]);
    facts.min_isr = 1;
    let _ = replica.learn(ONE, &facts, ms(0));
    assert_eq!(high_watermark(&replica), 10);
    assert!(replica.knows_high_watermark());
}

/// Rule 17.
#[test]
fn a_followers_is_the_leaders_as_far_as_its_log_reaches() {
    let mut replica = follower(FlushMode::Ack);
    let told = |high_watermark, log_start| LeaderMarks {
        leader_epoch: EPOCH,
        high_watermark: Offset(high_watermark),
        log_start: Offset(log_start),
    };
    assert_eq!(replica.leader_told(told(7, 0)), None);
    assert_eq!(high_watermark(&replica), 7);
    let _ = replica.appended(Offset(12));
    assert_eq!(high_watermark(&replica), 7);
    assert_eq!(replica.leader_told(told(20, 3)), Some(Offset(3)));
    assert_eq!(high_watermark(&replica), 12);
    replica.log_started(Offset(3));
    assert_eq!(replica.leader_told(told(11, 2)), None, "neither goes back");
    assert_eq!(high_watermark(&replica), 12);
    assert_eq!(
        replica.leader_told(told(20, 18)),
        Some(Offset(12)),
        "nothing is deleted that is not committed here"
    );
}

/// Rule 17.
#[test]
fn what_was_written_down_counts_as_far_as_the_log_reaches() {
    let found = Opened {
        high_watermark: Offset(30),
        ..opened(10)
    };
    assert_eq!(high_watermark(&Replica::open(FlushMode::Ack, found)), 10);
    let found = Opened {
        log_start: Offset(8),
        ..opened(10)
    };
    assert_eq!(high_watermark(&Replica::open(FlushMode::Ack, found)), 8);
}

/// Rule 17: an answer from before the last change.
#[test]
fn the_marks_of_an_earlier_leader_tell_nothing() {
    let mut replica = follower(FlushMode::Ack);
    let late = LeaderMarks {
        leader_epoch: LeaderEpoch(4),
        high_watermark: Offset(9),
        log_start: Offset(4),
    };
    assert_eq!(replica.leader_told(late), None);
    assert_eq!(high_watermark(&replica), 5);
}

/// Rule 18.
#[test]
fn a_follower_serves_what_it_knows_to_be_committed() {
    let replica = follower(FlushMode::Ack);
    assert_eq!(code(replica.check_fetch(Offset(5))), None);
    let above = code(replica.check_fetch(Offset(6)));
    assert_eq!(above, Some(ErrorCode::OFFSET_NOT_AVAILABLE));
    let below = code(replica.check_fetch(Offset(-1)));
    assert_eq!(below, Some(ErrorCode::OFFSET_OUT_OF_RANGE));
    let idle = Replica::open(FlushMode::Ack, opened(10));
    let nobody = code(idle.check_fetch(Offset(0)));
    assert_eq!(nobody, Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
}

/// Design 8.5.
#[test]
fn the_true_one_is_known_once_the_leader_has_committed_what_it_began_with() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    fetched(&mut replica, TWO, 9, ms(1));
    assert!(!replica.knows_high_watermark());
    let refused = code(replica.delete_target(None));
    assert_eq!(refused, Some(ErrorCode::OFFSET_NOT_AVAILABLE));
    fetched(&mut replica, TWO, 10, ms(2));
    assert!(replica.knows_high_watermark());
    assert_eq!(replica.delete_target(None), Ok(Offset(10)));
    assert!(!follower(FlushMode::Ack).knows_high_watermark());
    let refused = code(follower(FlushMode::Ack).delete_target(None));
    assert_eq!(refused, Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
}

/// Design 8.2: `flush=ack` is in force once all that may be in sync have flushed what was
/// acknowledged before.
#[test]
fn after_a_switch_to_ack_everybody_flushes_first() {
    let mut replica = leader(FlushMode::Async, &[ONE, TWO]);
    let _ = replica.appended(Offset(20));
    judge(&mut replica, &fetch_of(TWO, 20, 3), ms(1)).unwrap();
    assert_eq!(high_watermark(&replica), 20);
    let _ = replica.set_flush(FlushMode::Ack);
    let _ = replica.flushed(Offset(20));
    assert_eq!(replica.flush_in_force(), FlushMode::Async);
    replica.follower_flushed(&flush_of(TWO, 19), ms(2)).unwrap();
    assert_eq!(replica.flush_in_force(), FlushMode::Async);
    replica.follower_flushed(&flush_of(TWO, 20), ms(3)).unwrap();
    assert_eq!(replica.flush_in_force(), FlushMode::Ack);
    assert_eq!(high_watermark(&replica), 20);
}
