//! How far a follower is.

use strandline_protocol::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset};

use super::*;

fn behind(replica: &Replica, broker: BrokerId, now: Duration) -> Option<Duration> {
    let mut followers = replica.followers(now);
    followers.find(|it| it.broker == broker)?.behind
}

/// Rule 1.
#[test]
fn a_fetch_tells_where_the_followers_log_ends() {
    let mut replica = leader(FlushMode::Async, &[ONE, TWO, THREE]);
    fetched(&mut replica, TWO, 8, ms(1));
    let state = replica.followers(ms(1)).next().unwrap();
    assert_eq!(
        (state.log_end, state.durable_end),
        (Some(Offset(8)), Some(Offset(8)))
    );
    // It may go back: another fetch of the same incarnation says what is so now.
    fetched(&mut replica, TWO, 7, ms(2));
    assert_eq!(
        replica.followers(ms(2)).next().unwrap().log_end,
        Some(Offset(7))
    );
}

/// Rule 1 under `flush=ack` (design 8.1).
#[test]
fn under_ack_a_follower_counts_with_what_is_durable() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    judge(&mut replica, &fetch_of(TWO, 10, 6), ms(1)).unwrap();
    assert_eq!(high_watermark(&replica), 6);
    replica.follower_flushed(&flush_of(TWO, 9), ms(2)).unwrap();
    assert_eq!(high_watermark(&replica), 9);
    let mut replica = leader(FlushMode::Async, &[ONE, TWO]);
    judge(&mut replica, &fetch_of(TWO, 10, 6), ms(1)).unwrap();
    assert_eq!(high_watermark(&replica), 10);
}

/// Rule 2, first half.
#[test]
fn who_fetches_at_the_leaders_end_is_caught_up_now() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO, THREE]);
    fetched(&mut replica, TWO, 10, ms(300));
    appended(&mut replica, 15);
    assert_eq!(behind(&replica, TWO, ms(300)), Some(ms(0)));
    assert_eq!(behind(&replica, TWO, ms(400)), Some(ms(100)));
}

/// Rule 2, second half.
#[test]
fn who_reaches_the_end_of_the_fetch_before_was_caught_up_then() {
    let mut replica = leader(FlushMode::Async, &[ONE, TWO, THREE]);
    fetched(&mut replica, TWO, 4, ms(100));
    appended(&mut replica, 20);
    fetched(&mut replica, TWO, 10, ms(500));
    assert_eq!(behind(&replica, TWO, ms(600)), Some(ms(500)));
    // It has not reached 20, where the leader was then.
    fetched(&mut replica, TWO, 19, ms(700));
    assert_eq!(behind(&replica, TWO, ms(800)), Some(ms(700)));
}

/// Rule 2 for sessions, in which an idle follower names nothing.
#[test]
fn an_idle_follower_is_behind_only_since_its_leader_went_on() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO, THREE]);
    fetched(&mut replica, TWO, 10, ms(0));
    fetched(&mut replica, THREE, 10, ms(0));
    let hour = Duration::from_secs(3_600);
    assert_eq!(replica.propose(hour), None);
    appended(&mut replica, 11);
    assert_eq!(replica.propose(hour + ms(1)), None);
    assert_eq!(replica.propose(hour + LAG_MAX), None);
    let late = replica.propose(hour + LAG_MAX + ms(2));
    assert_eq!(proposed(late), Some(vec![1]));
}

/// Rule 3.
#[test]
fn an_earlier_incarnation_is_refused() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO, THREE]);
    let old = FollowerFetch {
        broker_epoch: BrokerEpoch(199),
        ..fetch_of(TWO, 10, 10)
    };
    let refused = code(judge(&mut replica, &old, ms(1)));
    assert_eq!(refused, Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    let stranger = fetch_of(BrokerId(4), 10, 10);
    let refused = code(judge(&mut replica, &stranger, ms(1)));
    assert_eq!(refused, Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    let mut flush = flush_of(TWO, 10);
    flush.broker_epoch = BrokerEpoch(199);
    let refused = code(replica.follower_flushed(&flush, ms(1)));
    assert_eq!(refused, Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
}

/// Rule 3, once metadata tells that a broker has come back.
#[test]
fn what_an_earlier_incarnation_had_a_new_one_need_not_have() {
    let mut replica = leader(FlushMode::Async, &[ONE, TWO]);
    fetched(&mut replica, TWO, 10, ms(1));
    appended(&mut replica, 12);
    let mut facts = changed(&[ONE, TWO]);
    facts.replicas[1].epoch = BrokerEpoch(250);
    let _ = replica.learn(ONE, &facts, ms(2));
    let state = replica.followers(ms(2)).next().unwrap();
    assert_eq!((state.log_end, state.durable_end), (None, None));
    let newer = FollowerFetch {
        broker_epoch: BrokerEpoch(250),
        ..fetch_of(TWO, 12, 12)
    };
    judge(&mut replica, &newer, ms(3)).unwrap();
    assert_eq!(high_watermark(&replica), 12);
}

/// Rule 3, while metadata is behind.
#[test]
fn an_earlier_incarnation_is_refused_once_a_newer_one_has_fetched() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO, THREE]);
    let newer = FollowerFetch {
        broker_epoch: BrokerEpoch(250),
        ..fetch_of(TWO, 9, 9)
    };
    judge(&mut replica, &newer, ms(1)).unwrap();
    let late = code(judge(&mut replica, &fetch_of(TWO, 10, 10), ms(2)));
    assert_eq!(late, Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
}

/// Rule 4.
#[test]
fn in_a_new_epoch_nobody_knows_how_far_followers_are() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    fetched(&mut replica, TWO, 10, ms(100));
    let mut next = changed(&[ONE, TWO]);
    next.leader_epoch = LeaderEpoch(6);
    assert_eq!(replica.learn(ONE, &next, ms(5_000)), RoleChange::Leads);
    for state in replica.followers(ms(5_500)) {
        assert_eq!((state.log_end, state.durable_end), (None, None));
        let expected = (state.broker == TWO).then_some(ms(500));
        assert_eq!(state.behind, expected, "broker {}", state.broker);
    }
}

/// Rule 5.
#[test]
fn out_of_sync_is_who_was_behind_for_too_long_whatever_it_lacks() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO, THREE]);
    fetched(&mut replica, TWO, 10, ms(0));
    fetched(&mut replica, THREE, 10, ms(0));
    appended(&mut replica, 1_000_000);
    assert_eq!(replica.propose(ms(0)), None);
    fetched(&mut replica, TWO, 1_000_000, ms(9_000));
    assert_eq!(replica.propose(LAG_MAX), None);
    let late = replica.propose(LAG_MAX + ms(1));
    assert_eq!(proposed(late), Some(vec![1, 2]));
}

/// Rule 5 for one that has never fetched: it has its time since the epoch began.
#[test]
fn who_does_not_fetch_at_all_is_out_of_sync_in_time() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO, THREE]);
    fetched(&mut replica, TWO, 10, ms(0));
    assert_eq!(replica.propose(LAG_MAX), None);
    let late = replica.propose(LAG_MAX + ms(1));
    assert_eq!(proposed(late), Some(vec![1, 2]));
}

/// A flush that is told before the first fetch says nothing of where the log ends.
#[test]
fn a_flush_counts_only_behind_a_fetch_of_the_same_incarnation() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    replica.follower_flushed(&flush_of(TWO, 10), ms(1)).unwrap();
    assert_eq!(replica.followers(ms(1)).next().unwrap().durable_end, None);
    judge(&mut replica, &fetch_of(TWO, 8, 6), ms(2)).unwrap();
    replica.follower_flushed(&flush_of(TWO, 9), ms(3)).unwrap();
    // It may be late, and then tells nothing new.
    replica.follower_flushed(&flush_of(TWO, 7), ms(4)).unwrap();
    assert_eq!(high_watermark(&replica), 9);
    // What the leader does not have yet cannot be its follower's.
    replica.follower_flushed(&flush_of(TWO, 50), ms(5)).unwrap();
    assert_eq!(high_watermark(&replica), 10);
}
