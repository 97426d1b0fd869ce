//! The only replica of its partition.

use strandline_protocol::{ErrorCode, LeaderEpoch, Offset, messages::Acks};

use crate::{
    FlushMode,
    replica::{AckWait, Flush, Replica},
};

fn replica(flush: FlushMode) -> Replica {
    Replica::lead(LeaderEpoch(3), flush, Offset(0), Offset(10), Offset(10))
}

#[test]
fn under_ack_the_high_watermark_is_what_is_durable() {
    let mut replica = replica(FlushMode::Ack);
    assert_eq!(replica.appended(Offset(15)), Flush::Wanted);
    assert_eq!(replica.marks().high_watermark, Offset(10));
    let all = replica.ack_wait(Acks::All, Offset(15));
    assert_eq!(all, AckWait::HighWatermark(Offset(15)));
    let leader = replica.ack_wait(Acks::Leader, Offset(15));
    assert_eq!(leader, AckWait::Durable(Offset(15)));
    assert_eq!(replica.appended(Offset(20)), Flush::Wanted);
    assert_eq!(replica.flushed(Offset(15)), Flush::Wanted);
    assert_eq!(replica.marks().high_watermark, Offset(15));
    assert_eq!(replica.flushed(Offset(20)), Flush::NotNeeded);
    assert_eq!(replica.ack_wait(Acks::All, Offset(20)), AckWait::Nothing);
    assert_eq!(
        replica.ack_wait(Acks::None, Offset(20)),
        AckWait::Unanswered
    );
}

#[test]
fn under_async_it_is_the_log_end() {
    let mut replica = replica(FlushMode::Async);
    assert_eq!(replica.appended(Offset(15)), Flush::NotNeeded);
    assert_eq!(replica.marks().high_watermark, Offset(15));
    assert_eq!(replica.ack_wait(Acks::All, Offset(15)), AckWait::Nothing);
    assert_eq!(replica.ack_wait(Acks::Leader, Offset(15)), AckWait::Nothing);
}

#[test]
fn switching_to_ack_flushes_first() {
    let mut replica = replica(FlushMode::Async);
    assert_eq!(replica.appended(Offset(15)), Flush::NotNeeded);
    assert_eq!(replica.set_flush(FlushMode::Ack), Flush::Wanted);
    assert_eq!(replica.flush_in_force(), FlushMode::Async);
    // What consumers have seen stays visible; what comes now waits for the disk.
    assert_eq!(replica.appended(Offset(18)), Flush::Wanted);
    assert_eq!(replica.marks().high_watermark, Offset(15));
    assert_eq!(
        replica.ack_wait(Acks::Leader, Offset(18)),
        AckWait::Durable(Offset(18))
    );
    assert_eq!(replica.flushed(Offset(15)), Flush::Wanted);
    assert_eq!(replica.flush_in_force(), FlushMode::Ack);
    assert_eq!(replica.set_flush(FlushMode::Async), Flush::NotNeeded);
    assert_eq!(replica.marks().high_watermark, Offset(18));
}

#[test]
fn epochs_are_held_against_the_leaders() {
    let replica = replica(FlushMode::Ack);
    let error = |epoch| {
        replica
            .check_epoch(epoch)
            .err()
            .map(|failure| failure.error)
    };
    assert_eq!(error(None), None);
    assert_eq!(error(Some(LeaderEpoch(3))), None);
    assert_eq!(
        error(Some(LeaderEpoch(2))),
        Some(ErrorCode::FENCED_LEADER_EPOCH)
    );
    assert_eq!(
        error(Some(LeaderEpoch(4))),
        Some(ErrorCode::UNKNOWN_LEADER_EPOCH)
    );
}

#[test]
fn only_what_is_committed_can_be_deleted() {
    let mut replica = replica(FlushMode::Ack);
    assert_eq!(replica.appended(Offset(20)), Flush::Wanted);
    assert_eq!(replica.delete_target(None), Ok(Offset(10)));
    assert_eq!(replica.delete_target(Some(Offset(4))), Ok(Offset(4)));
    replica.log_started(Offset(6));
    assert_eq!(replica.delete_target(Some(Offset(4))), Ok(Offset(6)));
    for wrong in [Offset(11), Offset(-1)] {
        let refused = replica
            .delete_target(Some(wrong))
            .expect_err("out of range");
        assert_eq!(refused.error, ErrorCode::OFFSET_OUT_OF_RANGE);
    }
    assert!(replica.check_fetch(Offset(5)).is_err());
    assert!(replica.check_fetch(Offset(20)).is_ok());
    assert!(replica.check_fetch(Offset(21)).is_err());
}

#[test]
fn a_leader_that_is_not_durable_yet_does_not_know_the_end() {
    let mut replica = Replica::lead(
        LeaderEpoch(1),
        FlushMode::Ack,
        Offset(0),
        Offset(10),
        Offset(5),
    );
    assert!(!replica.knows_high_watermark());
    assert!(replica.delete_target(None).is_err());
    assert_eq!(replica.flushed(Offset(10)), Flush::NotNeeded);
    assert!(replica.knows_high_watermark());
}
