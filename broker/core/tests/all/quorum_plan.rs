//! The membership of the metadata quorum, step by step.

use std::collections::BTreeSet;

use strandline_core::metadata::{
    Membership, Voter,
    quorum_plan::{Liveness, Peer, Progress, Settled, Situation, Step, next_step},
};
use strandline_protocol::{BrokerId, ClusterId};

fn voter(raft_id: u64, broker: i32) -> Voter {
    Voter {
        raft_id,
        broker: BrokerId(broker),
    }
}

/// `1 2b 3s 4b:77`: broker 2 is behind, broker 3 is silent, broker 4 has Raft id 77 instead of 40.
fn peers(text: &str) -> Vec<Peer> {
    let peer = |word: &str| {
        let (word, raft_id) = word.split_once(':').unwrap_or((word, ""));
        let number: i32 = word.trim_end_matches(['b', 's']).parse().unwrap();
        Peer {
            broker: BrokerId(number),
            raft_id: Some(raft_id.parse().unwrap_or(number as u64 * 10)),
            liveness: if word.ends_with('s') {
                Liveness::Silent
            } else {
                Liveness::Alive
            },
            progress: if word.ends_with('b') {
                Progress::Behind
            } else {
                Progress::CaughtUp
            },
        }
    };
    text.split_whitespace().map(peer).collect()
}

fn members(text: &str) -> Vec<Voter> {
    let all = peers(text);
    all.iter()
        .map(|peer| voter(peer.raft_id.unwrap(), peer.broker.0))
        .collect()
}

fn ids(voters: &[Voter]) -> String {
    let ids: Vec<_> = voters.iter().map(|it| it.raft_id.to_string()).collect();
    ids.join(" ")
}

/// `voters / before / learners`, the peers and who is wanted; the step as text.
fn check(membership: &str, registered: &str, wanted: &[i32], expect: &str) {
    let parts: Vec<&str> = membership.split('/').collect();
    let membership = Membership {
        voters_before: members(parts[1]),
        learners: members(parts[2]),
        ..Membership::of(ClusterId([1; 16]), members(parts[0]))
    };
    let (peers, wanted): (_, Vec<_>) = (
        peers(registered),
        wanted.iter().map(|id| BrokerId(*id)).collect(),
    );
    let situation = Situation {
        membership: &membership,
        settled: Settled::Yes,
        peers: &peers,
        wanted: (!wanted.is_empty()).then_some(&wanted),
    };
    let told = match next_step(&situation) {
        None => "nothing".into(),
        Some(Step::AddLearner(one)) => format!("learner {}", one.raft_id),
        Some(Step::RemoveLearner(one)) => format!("remove {}", one.raft_id),
        Some(Step::ChangeVoters(voters)) => format!("voters {}", ids(&voters)),
        Some(Step::FinishVoters(voters)) => format!("finish {}", ids(&voters)),
    };
    assert_eq!(told, expect, "{situation:?}");
    let unsettled = Situation {
        settled: Settled::No,
        ..situation
    };
    assert_eq!(next_step(&unsettled), None);
}

#[test]
fn a_newcomer_becomes_a_learner() {
    check("1//", "1", &[], "nothing");
    check("1//", "1 2b", &[], "learner 20");
    check("1//", "1 2s 3b", &[], "learner 30");
    check("1//2", "1 2", &[], "nothing");
}

#[test]
fn one_grows_to_three_and_never_to_two() {
    check("1//2 3", "1 2 3", &[], "voters 10 20 30");
    check("1//2 3", "1 2 3b", &[], "nothing");
    check("1//2 3", "1 2s 3", &[], "nothing");
    check("1//2 3 4", "1 2s 3 4", &[], "voters 10 30 40");
    check("1 2 3//4 5", "1 2 3 4 5", &[], "nothing");
    check("1 2//3", "1 2 3", &[], "voters 10 20 30");
    check("1 2//3", "1 2s 3", &[], "nothing");
}

#[test]
fn what_is_half_done_is_finished_before_anything_begins() {
    check("1 2 3/1/", "1 2 3 4", &[], "finish 10 20 30");
    check("1 2 3/1/4", "1 2 3", &[1], "finish 10 20 30");
}

#[test]
fn a_wiped_disk_is_replaced_in_one_change() {
    check("1 2 3//", "1 2 3b:77", &[], "learner 77");
    check("1 2 3//3:77", "1 2 3b:77", &[], "nothing");
    check("1 2 3//3:77", "1 2 3:77", &[], "voters 10 20 77");
    check("1 2 3//3:77", "1 2s 3:77", &[], "voters 10 20 77");
    // A learner that was wiped is let go once the new one is there.
    check("1 2 3//4 4:99", "1 2 3 4:99", &[], "remove 40");
    check("1 2 3//4", "1 2 3", &[], "remove 40");
}

#[test]
fn what_was_asked_for_is_done_in_one_change() {
    check("1 2 3//", "1 2 3", &[1], "voters 10");
    check("1//2 3", "1 2 3", &[1], "nothing");
    check("1 2 3//4 5", "1 2 3 4 5", &[1, 4, 5], "voters 10 40 50");
    check("1 2 3//4", "1 2 3 4 5", &[1, 4, 5], "learner 50");
    check("1 2 3//4 5", "1 2 3 4 5b", &[1, 4, 5], "nothing");
    // Too few of the wanted are alive: that would never end.
    check("1 2 3//", "1s 2 3", &[1], "nothing");
}

/// Random brokers come, go, are wiped and wished for; the steps are taken as they come.
#[test]
fn steps_never_leave_the_quorum_in_danger() {
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
    let (mut changes, mut grown) = (0, 0);
    for _ in 0..300 {
        let mut membership = Membership::of(ClusterId([1; 16]), vec![voter(10, 1)]);
        let mut peers = peers("1");
        let mut wanted: Vec<BrokerId> = Vec::new();
        let mut fresh = 1_000;
        for _ in 0..100 {
            match random(10) {
                0..=3 => {
                    let number = random(6) as i32 + 1;
                    let known = peers.iter_mut().find(|peer| peer.broker.0 == number);
                    match known {
                        Some(peer) if random(4) == 0 && number != 1 => {
                            fresh += 1;
                            peer.raft_id = Some(fresh);
                            peer.progress = Progress::Behind;
                        }
                        Some(peer) => {
                            let silent = random(3) == 0 && number != 1;
                            peer.liveness = if silent {
                                Liveness::Silent
                            } else {
                                Liveness::Alive
                            };
                            peer.progress = Progress::CaughtUp;
                        }
                        None => {
                            fresh += 1;
                            peers.push(Peer {
                                broker: BrokerId(number),
                                raft_id: Some(fresh),
                                liveness: Liveness::Alive,
                                progress: Progress::Behind,
                            });
                        }
                    }
                }
                4 if random(5) == 0 => {
                    let count = [0, 1, 3, 5][random(4) as usize];
                    wanted = peers.iter().map(|peer| peer.broker).take(count).collect();
                    if wanted.len().is_multiple_of(2) {
                        wanted.clear();
                    }
                }
                5 => {
                    let left = std::mem::take(&mut membership.voters_before);
                    let votes = membership.voters.clone();
                    let left = left.into_iter().filter(|voter| !votes.contains(voter));
                    membership.learners.extend(left);
                }
                _ => {}
            }
            let situation = Situation {
                membership: &membership,
                settled: Settled::Yes,
                peers: &peers,
                wanted: (!wanted.is_empty()).then_some(&wanted),
            };
            let under_way = !membership.voters_before.is_empty();
            let Some(step) = next_step(&situation) else {
                continue;
            };
            let finishes = matches!(step, Step::FinishVoters(_));
            assert_eq!(under_way, finishes, "{step:?}");
            match step {
                Step::FinishVoters(voters) => {
                    assert_eq!(voters, membership.voters);
                    // It may be interrupted once more.
                    if random(2) == 0 {
                        let left = std::mem::take(&mut membership.voters_before);
                        let left = left.into_iter().filter(|voter| !voters.contains(voter));
                        membership.learners.extend(left);
                    }
                }
                Step::AddLearner(one) => {
                    assert!(
                        membership
                            .members()
                            .all(|member| member.raft_id != one.raft_id)
                    );
                    membership.learners.push(one);
                }
                Step::RemoveLearner(one) => membership.learners.retain(|kept| *kept != one),
                Step::ChangeVoters(next) => {
                    let brokers: BTreeSet<_> = next.iter().map(|voter| voter.broker).collect();
                    assert_eq!(brokers.len(), next.len(), "one vote for each broker");
                    assert!(next.len() % 2 == 1, "{next:?}");
                    let alive = next.iter().filter(|voter| {
                        let mut all = peers.iter();
                        all.any(|peer| {
                            peer.raft_id == Some(voter.raft_id) && peer.liveness == Liveness::Alive
                        })
                    });
                    assert!(alive.count() * 2 > next.len(), "{next:?} of {peers:?}");
                    grown += u64::from(membership.voters.len() == 1 && next.len() == 3);
                    changes += 1;
                    membership
                        .learners
                        .retain(|learner| !next.contains(learner));
                    membership.voters_before = std::mem::replace(&mut membership.voters, next);
                }
            }
        }
    }
    println!("{changes} changes of voters, {grown} times one grew to three");
    assert!(changes > 500 && grown > 200, "{changes} {grown}");
}
