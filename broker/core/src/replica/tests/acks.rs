//! What a write waits for.

use strandline_protocol::messages::Acks;

use super::*;
use crate::replica::AckWait;

/// Rule 19.
#[test]
fn nothing_is_appended_for_all_while_too_few_are_in_sync() {
    let mut replica = leader(FlushMode::Ack, &[ONE]);
    let refused = code(replica.check_append(Acks::All));
    assert_eq!(refused, Some(ErrorCode::NOT_ENOUGH_REPLICAS));
    assert_eq!(replica.check_append(Acks::Leader), Ok(()));
    // Who may join counts once it has.
    fetched(&mut replica, TWO, 10, ms(1));
    assert!(replica.propose(ms(1)).is_some());
    let refused = code(replica.check_append(Acks::All));
    assert_eq!(refused, Some(ErrorCode::NOT_ENOUGH_REPLICAS));
    let _ = replica.learn(ONE, &changed(&[ONE, TWO]), ms(2));
    assert_eq!(replica.check_append(Acks::All), Ok(()));
    let refused = code(follower(FlushMode::Ack).check_append(Acks::None));
    assert_eq!(refused, Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
}

/// Rule 20.
#[test]
fn for_all_a_write_waits_for_the_high_watermark() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    appended(&mut replica, 12);
    let wait = replica.ack_wait(Acks::All, Offset(12));
    assert_eq!(wait, AckWait::HighWatermark(Offset(12)));
    fetched(&mut replica, TWO, 12, ms(1));
    let wait = replica.ack_wait(Acks::All, Offset(12));
    assert_eq!(wait, AckWait::Nothing);
    assert_eq!(replica.check_completion(Acks::All), Ok(()));
    assert_eq!(
        replica.ack_wait(Acks::Leader, Offset(13)),
        AckWait::Durable(Offset(13))
    );
}

/// Rule 20.
#[test]
fn too_few_in_sync_at_completion_is_told() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    appended(&mut replica, 12);
    fetched(&mut replica, TWO, 12, ms(1));
    let _ = replica.learn(ONE, &changed(&[ONE]), ms(2));
    let told = code(replica.check_completion(Acks::All));
    assert_eq!(told, Some(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND));
    assert_eq!(replica.check_completion(Acks::Leader), Ok(()));
    // One that may have joined by now counts.
    fetched(&mut replica, TWO, 12, ms(3));
    assert!(replica.propose(ms(3)).is_some());
    assert_eq!(replica.check_completion(Acks::All), Ok(()));
}
