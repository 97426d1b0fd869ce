//! The voters of the metadata quorum while brokers come, go, are wiped and wished for: never may
//! two groups of members decide without knowing of each other.
//!
//! The steps are the controller's ([`next_step`]). A member acts by the newest membership in its
//! log, committed or not, so every one from the last committed on may be in force somewhere: a
//! majority by any of them must meet a majority by any other, or there are two controllers.
//!
//! Only the plan is at work here: beneath it openraft refuses a change while another one is under
//! way, so whole brokers would not show that the plan asks for one.

use strandline_core::metadata::{
    Membership, Voter,
    quorum_plan::{Liveness, Peer, Progress, Settled, Situation, Step, next_step},
};
use strandline_protocol::{BrokerId, ClusterId};

use crate::random::Random;

/// Clusters of one run.
const HISTORIES: u64 = 20;

/// What happens to one.
const EVENTS: u64 = 200;

/// Brokers that may come.
const BROKERS: u64 = 6;

/// Runs it; tells what was done.
///
/// # Errors
/// What must not be.
pub fn run(seed: u64) -> Result<String, String> {
    let mut random = Random::new(seed, 600);
    let (mut steps, mut compared) = (0, 0);
    for _ in 0..HISTORIES {
        let mut cluster = Cluster::founded();
        for _ in 0..EVENTS {
            cluster.happen(&mut random);
            if let Some(step) = cluster.step() {
                cluster.append(step);
                compared += cluster.check()?;
                steps += 1;
            }
        }
    }
    Ok(format!(
        "{steps} steps of memberships, {compared} pairs that were in force at once"
    ))
}

/// What its controller sees.
struct Cluster {
    /// The memberships in the log: the last one that is committed, and those after it.
    memberships: Vec<Membership>,
    peers: Vec<Peer>,
    wanted: Vec<BrokerId>,
    last_raft_id: u64,
}

impl Cluster {
    fn founded() -> Self {
        let first = Voter {
            raft_id: 1,
            broker: BrokerId(1),
        };
        Self {
            memberships: vec![Membership::of(ClusterId([1; 16]), vec![first])],
            peers: vec![Peer {
                broker: BrokerId(1),
                raft_id: Some(1),
                liveness: Liveness::Alive,
                progress: Progress::CaughtUp,
            }],
            wanted: Vec::new(),
            last_raft_id: 1,
        }
    }

    fn happen(&mut self, random: &mut Random) {
        match random.below(12) {
            0..=4 => {
                let broker = BrokerId(random.below(BROKERS) as i32 + 1);
                let is_wiped = broker.0 != 1 && random.one_in(5);
                let is_silent = broker.0 != 1 && random.one_in(4);
                self.last_raft_id += 1;
                let fresh = Peer {
                    broker,
                    raft_id: Some(self.last_raft_id),
                    liveness: Liveness::Alive,
                    progress: Progress::Behind,
                };
                match self.peers.iter_mut().find(|peer| peer.broker == broker) {
                    None => self.peers.push(fresh),
                    Some(peer) if is_wiped => *peer = fresh,
                    Some(peer) if is_silent => peer.liveness = Liveness::Silent,
                    Some(peer) => {
                        peer.liveness = Liveness::Alive;
                        peer.progress = Progress::CaughtUp;
                    }
                }
            }
            5 => {
                let count = [0, 1, 3, 5][random.index(4)];
                self.wanted.clear();
                if count <= self.peers.len() {
                    let first = self.peers.iter().map(|peer| peer.broker).take(count);
                    self.wanted.extend(first);
                }
            }
            6..=8 => self.commit(),
            _ => {}
        }
    }

    /// The newest membership is committed; a joint one is followed by its end.
    fn commit(&mut self) {
        if self.memberships.len() > 1 {
            let last = self.memberships.len() - 1;
            self.memberships.drain(..last);
            if !self.newest().voters_before.is_empty() {
                let mut end = self.newest().clone();
                let left = std::mem::take(&mut end.voters_before);
                let left = left.into_iter().filter(|voter| !end.voters.contains(voter));
                end.learners.extend(left.collect::<Vec<_>>());
                self.memberships.push(end);
            }
        }
    }

    fn newest(&self) -> &Membership {
        self.memberships.last().expect("one is committed")
    }

    fn step(&self) -> Option<Step> {
        next_step(&Situation {
            membership: self.newest(),
            settled: match self.memberships.len() {
                1 => Settled::Yes,
                _ => Settled::No,
            },
            peers: &self.peers,
            wanted: (!self.wanted.is_empty()).then_some(&self.wanted),
        })
    }

    fn append(&mut self, step: Step) {
        let mut next = self.newest().clone();
        match step {
            Step::AddLearner(learner) => next.learners.push(learner),
            Step::RemoveLearner(learner) => next.learners.retain(|kept| *kept != learner),
            Step::ChangeVoters(voters) => {
                next.learners.retain(|learner| !voters.contains(learner));
                next.voters_before = std::mem::replace(&mut next.voters, voters);
            }
            Step::FinishVoters(_) => next.voters_before.clear(),
        }
        self.memberships.push(next);
    }

    /// Holds the newest membership against all that may be in force with it.
    fn check(&self) -> Result<u64, String> {
        let newest = self.newest();
        let others = &self.memberships[..self.memberships.len() - 1];
        for other in others {
            if let Some(apart) = apart(newest, other) {
                return Err(format!(
                    "two controllers: by {} the members {apart:?} decide alone, and by {} others \
                     do, who never hear of it",
                    told(newest),
                    told(other)
                ));
            }
        }
        Ok(others.len() as u64)
    }
}

fn told(membership: &Membership) -> String {
    let ids = |voters: &[Voter]| voters.iter().map(|voter| voter.raft_id).collect::<Vec<_>>();
    match membership.voters_before.is_empty() {
        true => format!("{:?}", ids(&membership.voters)),
        false => format!(
            "{:?} after {:?}",
            ids(&membership.voters),
            ids(&membership.voters_before)
        ),
    }
}

/// A majority by `one` that has nobody in common with some majority by `other`.
fn apart(one: &Membership, other: &Membership) -> Option<Vec<u64>> {
    let mut ids: Vec<u64> = one
        .voters
        .iter()
        .chain(&one.voters_before)
        .map(|voter| voter.raft_id)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    (0_u32..1 << ids.len())
        .map(|chosen| {
            let numbered = ids.iter().enumerate();
            let among = numbered.filter(|(bit, _)| chosen >> bit & 1 == 1);
            among.map(|(_, id)| *id).collect::<Vec<u64>>()
        })
        .find(|group| {
            decides(one, |id| group.contains(&id)) && decides(other, |id| !group.contains(&id))
        })
}

/// Whether those for whom `is_there` holds can decide by a membership.
fn decides(membership: &Membership, is_there: impl Fn(u64) -> bool) -> bool {
    let majority = |voters: &[Voter]| {
        let there = voters.iter().filter(|voter| is_there(voter.raft_id));
        voters.is_empty() || there.count() * 2 > voters.len()
    };
    majority(&membership.voters) && majority(&membership.voters_before)
}
