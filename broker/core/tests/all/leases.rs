//! Leases: what each side may believe, whatever the network and the scheduler do.

use std::time::Duration;

use strandline_core::leases::{Expired, HEARTBEAT, Heartbeat, IsFenced, Leases, OwnLease, SESSION};
use strandline_protocol::{BrokerEpoch, BrokerId, ErrorCode, Offset};

const ONE: BrokerId = BrokerId(1);
const TWO: BrokerId = BrokerId(2);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn two_at(now: Duration) -> Leases {
    let brokers = [
        (ONE, BrokerEpoch(10), IsFenced::No),
        (TWO, BrokerEpoch(20), IsFenced::No),
    ];
    Leases::taken_over(brokers, SESSION, now)
}

fn beat(leases: &mut Leases, broker: BrokerId, epoch: i64, now: Duration) -> Heartbeat {
    leases
        .heartbeat(broker, BrokerEpoch(epoch), Offset(5), now)
        .unwrap()
}

#[test]
fn a_new_controller_gives_everybody_a_whole_session() {
    let mut leases = two_at(ms(70_000));
    assert_eq!(leases.next_deadline(), Some(ms(71_500)));
    assert_eq!(leases.held(ms(71_499)).len(), 2);
    assert_eq!(leases.expired(ms(71_499)), None);
    assert!(leases.held(ms(71_500)).is_empty());
    assert!(leases.expired(ms(71_500)).is_some());
}

#[test]
fn the_silent_are_fenced_one_at_a_time_the_longest_silent_first() {
    let mut leases = two_at(ms(0));
    assert_eq!(
        beat(&mut leases, ONE, 10, ms(100)),
        Heartbeat::Granted { session: SESSION }
    );
    let (one, two) = (
        Expired {
            broker: ONE,
            epoch: BrokerEpoch(10),
        },
        Expired {
            broker: TWO,
            epoch: BrokerEpoch(20),
        },
    );
    assert_eq!(leases.expired(ms(1_599)), Some(two));
    assert_eq!(leases.expired(ms(9_000)), Some(two), "until it is fenced");
    leases.fenced(TWO, BrokerEpoch(20));
    assert_eq!(leases.expired(ms(9_000)), Some(one));
    leases.fenced(ONE, BrokerEpoch(9));
    assert_eq!(
        leases.expired(ms(9_000)),
        Some(one),
        "another epoch was fenced"
    );
    leases.fenced(ONE, BrokerEpoch(10));
    assert_eq!(
        (leases.expired(ms(9_000)), leases.next_deadline()),
        (None, None)
    );
}

#[test]
fn a_heartbeat_that_comes_too_late_saves_nobody() {
    let mut leases = two_at(ms(0));
    // Nobody has looked, and the lease is over all the same.
    assert_eq!(beat(&mut leases, ONE, 10, ms(1_500)), Heartbeat::Fenced);
    assert!(
        leases.held(ms(1_501)).contains(&ONE),
        "but its number is taken"
    );
    assert_eq!(
        leases.expired(ms(1_501)).map(|expired| expired.broker),
        Some(TWO)
    );
    leases.fenced(TWO, BrokerEpoch(20));
    leases.fenced(ONE, BrokerEpoch(10));
    assert_eq!(beat(&mut leases, ONE, 10, ms(1_700)), Heartbeat::Fenced);
    leases.unfenced(ONE, BrokerEpoch(10), ms(1_800));
    assert_eq!(leases.next_deadline(), Some(ms(3_300)));
    assert_eq!(
        beat(&mut leases, ONE, 10, ms(1_900)),
        Heartbeat::Granted { session: SESSION }
    );
}

#[test]
fn a_refused_connection_ends_the_lease_of_that_process_and_no_other() {
    let mut leases = two_at(ms(0));
    leases.connection_refused(ONE, BrokerEpoch(9), ms(10));
    assert_eq!(leases.expired(ms(10)), None);
    leases.connection_refused(ONE, BrokerEpoch(10), ms(10));
    assert!(!leases.held(ms(10)).contains(&ONE));
    assert_eq!(leases.next_deadline(), Some(ms(0)), "at once");
    assert_eq!(
        leases.expired(ms(10)).map(|expired| expired.broker),
        Some(ONE)
    );
    // Its next start has a lease of its own, which an old registration does not take back.
    leases.registered(ONE, BrokerEpoch(30), IsFenced::Yes, ms(20));
    leases.registered(ONE, BrokerEpoch(10), IsFenced::No, ms(21));
    assert_eq!(leases.expired(ms(30)), None);
    assert!(leases.held(ms(30)).contains(&ONE));
    leases.connection_refused(ONE, BrokerEpoch(30), ms(40));
    assert_eq!(leases.expired(ms(40)), None, "it is fenced already");
    assert!(!leases.held(ms(40)).contains(&ONE));
}

#[test]
fn an_old_epoch_and_a_stranger_are_refused() {
    let mut leases = two_at(ms(0));
    let mut refusal = |broker, epoch| {
        let beat = leases.heartbeat(broker, BrokerEpoch(epoch), Offset(0), ms(1));
        beat.unwrap_err().error
    };
    assert_eq!(refusal(ONE, 9), ErrorCode::STALE_BROKER_EPOCH);
    assert_eq!(refusal(BrokerId(3), 9), ErrorCode::BROKER_ID_NOT_REGISTERED);
    leases.unregistered(ONE);
    assert_eq!(leases.held(ms(1)).len(), 1);
}

#[test]
fn who_stops_waits_for_the_others_that_are_alive() {
    let mut leases = two_at(ms(0));
    assert_eq!(
        leases.applied_by_others(ONE, ms(1)),
        None,
        "nobody has told yet"
    );
    leases
        .heartbeat(TWO, BrokerEpoch(20), Offset(7), ms(1))
        .unwrap();
    leases
        .heartbeat(TWO, BrokerEpoch(20), Offset(6), ms(2))
        .unwrap();
    assert_eq!(leases.applied_by_others(ONE, ms(1)), Some(Offset(7)));
    assert_eq!(leases.of(TWO, ms(2)), Some((ms(1_500), Some(Offset(7)))));
    assert_eq!(
        leases.applied_by_others(ONE, ms(5_000)),
        Some(Offset(i64::MAX))
    );
}

#[test]
fn a_broker_that_was_paused_knows_that_its_lease_is_over() {
    let mut own = OwnLease::new();
    assert!(!own.holds(ms(0)));
    own.granted(ms(100), ms(110), SESSION);
    assert_eq!(own.until(), Some(ms(1_600)));
    assert!(own.holds(ms(1_599)) && !own.holds(ms(1_600)));
    // The answer lay there while the process stood still: it is worth nothing any more.
    own.granted(ms(300), ms(60_000), SESSION);
    assert!(!own.holds(ms(60_000)));
    // An answer that was overtaken takes nothing back.
    own.granted(ms(60_100), ms(60_110), SESSION);
    own.granted(ms(59_900), ms(60_120), SESSION);
    assert_eq!(own.until(), Some(ms(61_600)));
    own.ended();
    assert!(!own.holds(ms(60_200)));
    assert!(OwnLease::without_end().holds(Duration::MAX - ms(1)));
}

/// A controller and a broker with clocks of their own, a network that delays and loses, a broker
/// that stands still at times: once the controller has fenced it, it never believes that it leads.
#[test]
fn nobody_who_is_fenced_believes_that_it_leads() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let mut state = seed.unwrap_or(0x5eed_u64);
    println!("SEED={state}");
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut fenced_count, mut led_ms) = (0, 0_u64);
    for _ in 0..40 {
        // What the broker's clock shows when the controller's shows 0.
        let ahead = random(100_000);
        let mut leases = Leases::taken_over([(ONE, BrokerEpoch(1), IsFenced::No)], SESSION, ms(0));
        let (mut own, mut fenced) = (OwnLease::new(), false);
        let (mut paused_until, mut next_beat) = (0, 0);
        let mut requests: Vec<(u64, u64)> = Vec::new();
        let mut answers: Vec<(u64, u64, Heartbeat)> = Vec::new();
        for now in 0..20_000_u64 {
            if now >= paused_until {
                if random(2_000) == 0 {
                    paused_until = now + random(5_000);
                }
                let here = ms(now + ahead);
                answers.retain(|&(arrives, sent, answer)| {
                    if arrives > now {
                        return true;
                    }
                    match answer {
                        Heartbeat::Granted { session } => own.granted(ms(sent), here, session),
                        Heartbeat::Fenced => own.ended(),
                    }
                    false
                });
                if now >= next_beat {
                    next_beat = now + HEARTBEAT.as_millis() as u64;
                    if random(4) != 0 {
                        requests.push((now + 1 + random(600), now + ahead));
                    }
                }
                led_ms += u64::from(own.holds(here));
                assert!(!(fenced && own.holds(here)), "at {now}");
            }
            requests.retain(|&(arrives, sent)| {
                if arrives > now {
                    return true;
                }
                let answer = leases
                    .heartbeat(ONE, BrokerEpoch(1), Offset(0), ms(now))
                    .unwrap();
                answers.push((now + 1 + random(600), sent, answer));
                false
            });
            if leases.expired(ms(now)).is_some() && random(20) == 0 {
                leases.fenced(ONE, BrokerEpoch(1));
                (fenced, fenced_count) = (true, fenced_count + 1);
            }
            if fenced && leases.held(ms(now)).contains(&ONE) && random(50) == 0 {
                leases.unfenced(ONE, BrokerEpoch(1), ms(now));
                fenced = false;
            }
        }
    }
    println!("fenced {fenced_count} times, led for {led_ms} ms");
    assert!(
        fenced_count > 100 && led_ms > 100_000,
        "{fenced_count} {led_ms}"
    );
}
