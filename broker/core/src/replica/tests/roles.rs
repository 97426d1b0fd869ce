//! Changes of the role.

use super::*;
use crate::replica::{LeaderMarks, Role};

fn facts_in(epoch: i32, leader: Option<BrokerId>) -> PartitionFacts {
    PartitionFacts {
        leader,
        leader_epoch: LeaderEpoch(epoch),
        ..changed(&[ONE, TWO, THREE])
    }
}

/// Rule 22.
#[test]
fn a_new_leader_begins_its_epoch_at_the_end_of_its_log() {
    let mut replica = follower(FlushMode::Ack);
    let _ = replica.appended(Offset(14));
    let facts = facts_in(6, Some(TWO));
    assert!(replica.would_lead(TWO, &facts));
    assert!(!replica.would_lead(THREE, &facts));
    assert_eq!(replica.learn(TWO, &facts, ms(1)), RoleChange::Leads);
    assert!(!replica.would_lead(TWO, &facts), "it does already");
    assert_eq!(replica.role(), Role::Leader);
    assert_eq!(replica.leader_epoch(), LeaderEpoch(6));
    assert!(!replica.knows_high_watermark());
}

/// The marks are those of the log, whatever the role.
#[test]
fn marks_stay_when_the_role_changes() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    appended(&mut replica, 14);
    fetched(&mut replica, TWO, 12, ms(1));
    let marks = replica.marks();
    let change = replica.learn(ONE, &facts_in(6, Some(TWO)), ms(2));
    assert_eq!(change, RoleChange::Follows { leader: TWO });
    assert_eq!(replica.marks(), marks);
    assert_eq!(
        replica.learn(ONE, &facts_in(7, None), ms(3)),
        RoleChange::Idles
    );
    assert_eq!(replica.role(), Role::Idle);
    assert_eq!(replica.marks(), marks);
    let change = replica.learn(ONE, &facts_in(8, Some(ONE)), ms(4));
    assert_eq!(change, RoleChange::Leads);
    assert_eq!(replica.marks(), marks);
}

/// Metadata may be told twice, and late.
#[test]
fn an_older_or_the_same_epoch_changes_no_role() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    for facts in [facts_in(4, Some(TWO)), facts_in(5, Some(ONE))] {
        assert_eq!(replica.learn(ONE, &facts, ms(1)), RoleChange::Unchanged);
        assert_eq!(replica.role(), Role::Leader);
    }
}

/// Before it has heard of anything, a replica does nothing.
#[test]
fn who_has_heard_nothing_neither_leads_nor_follows() {
    let mut replica = Replica::open(FlushMode::Ack, opened(10));
    assert_eq!(replica.role(), Role::Idle);
    assert_eq!(replica.leader_epoch(), LeaderEpoch::NONE);
    assert_eq!(replica.position(ONE), None);
    let refused = code(judge(&mut replica, &fetch_of(TWO, 10, 10), ms(1)));
    assert_eq!(refused, Some(ErrorCode::UNKNOWN_LEADER_EPOCH));
    assert_eq!(replica.propose(ms(1)), None);
    assert_eq!(replica.followers(ms(1)).count(), 0);
}

/// Design 8.1: a follower says what a power cut leaves, under either mode.
#[test]
fn a_follower_tells_its_log_end_and_what_is_durable() {
    for flush in [FlushMode::Ack, FlushMode::Async] {
        let mut replica = follower(flush);
        let _ = replica.appended(Offset(14));
        let position = replica.position(ONE).unwrap();
        assert_eq!(position.fetch_offset, Offset(14));
        assert_eq!(position.durable_offset, Offset(10));
        assert_eq!(replica.position(THREE), None, "three does not lead");
    }
}

/// What is durable here counts there only if it is the same.
#[test]
fn between_fetches_a_follower_tells_nothing_before_its_log_was_found_to_match() {
    let mut replica = follower(FlushMode::Ack);
    assert_eq!(replica.progress(ONE), None);
    let told = LeaderMarks {
        leader_epoch: EPOCH,
        high_watermark: Offset(10),
        log_start: Offset(0),
    };
    let _ = replica.leader_told(told);
    assert!(replica.progress(ONE).is_some());
    replica.truncated(Offset(8));
    assert_eq!(replica.progress(ONE), None);
}

/// Answers of before a change are dropped.
#[test]
fn what_was_fetched_in_another_epoch_is_not_appended() {
    let mut replica = follower(FlushMode::Ack);
    assert_eq!(replica.check_following(EPOCH), Ok(()));
    let late = code(replica.check_following(LeaderEpoch(4)));
    assert_eq!(late, Some(ErrorCode::FENCED_LEADER_EPOCH));
    let _ = replica.learn(TWO, &facts_in(6, Some(TWO)), ms(1));
    let late = code(replica.check_following(LeaderEpoch(6)));
    assert_eq!(late, Some(ErrorCode::FENCED_LEADER_EPOCH));
}

#[test]
fn after_a_cut_all_marks_lie_below_it() {
    let mut replica = follower(FlushMode::Ack);
    let _ = replica.appended(Offset(20));
    replica.truncated(Offset(4));
    let marks = replica.marks();
    assert_eq!(
        (marks.high_watermark, marks.durable_end, marks.log_end),
        (Offset(4), Offset(4), Offset(4))
    );
    replica.restarted(Offset(100));
    let marks = replica.marks();
    assert_eq!(
        (marks.log_start, marks.high_watermark, marks.log_end),
        (Offset(100), Offset(100), Offset(100))
    );
}
