//! Who keeps the metadata log next: one step at a time.
//!
//! *Patterns: majority quorum, consistent core.* Membership follows registrations: whoever is
//! registered follows the log as a learner. A quorum of one grows to three by itself, in one joint
//! change and never over two, of which each would be needed. Nobody's vote is taken by itself, but
//! for that of a wiped disk, whose broker has registered with another Raft id. Any other change of
//! the voters was asked for, and stands in the image.

use std::collections::BTreeSet;

use strandline_protocol::{
    BrokerId, ErrorCode,
    messages::{ChangeVotersRequest, Failure},
};

use super::{
    image::Image,
    limits::VOTERS_MAX,
    record::{Membership, Registration, Voter},
};
use crate::mutants::{self, Mutant};

/// How many voters a quorum grows to by itself.
const VOTERS_BY_ITSELF: usize = 3;

/// A registered broker, as the controller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub broker: BrokerId,
    /// The Raft id that it has registered; none of a broker of the first metadata version.
    pub raft_id: Option<u64>,
    /// Whether its lease holds. The controller itself is alive.
    pub liveness: Liveness,
    /// How far behind its copy of the log is.
    pub progress: Progress,
}

/// Whether a lease holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It does.
    Alive,
    /// It does not.
    Silent,
}

/// How far behind a copy of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It could vote without holding anybody up. The controller itself has caught up.
    CaughtUp,
    /// It is too far behind, or nothing is known of it.
    Behind,
}

/// Whether the last membership is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is committed.
    Yes,
    /// A change was proposed, and it is not known what has become of it.
    No,
}

/// What a step is decided on.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// The newest membership in the log of the controller, committed or not.
    pub membership: &'a Membership,
    /// Whether that is committed, and nothing else was proposed.
    pub settled: Settled,
    /// Every registered broker, the controller included.
    pub peers: &'a [Peer],
    /// Who shall vote, if somebody has said so: [`Image::wanted_voters`].
    pub wanted: Option<&'a [BrokerId]>,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Somebody shall follow the log without a vote.
    AddLearner(Voter),
    /// These shall vote, by one joint change. Who voted and is not among them follows as a learner.
    ChangeVoters(Vec<Voter>),
    /// A change of the voters, to these, that a controller has begun and did not live to end.
    FinishVoters(Vec<Voter>),
    /// Somebody follows no more.
    RemoveLearner(Voter),
}

/// The registered brokers of an image as peers: `alive` are those whose leases hold, the controller
/// included, `caught_up` the Raft ids of those whose copies are near enough to the end.
#[must_use]
pub fn peers(image: &Image, alive: &BTreeSet<BrokerId>, caught_up: &BTreeSet<u64>) -> Vec<Peer> {
    let peer = |registration: &Registration| Peer {
        broker: registration.broker,
        raft_id: registration.raft_id,
        liveness: match alive.contains(&registration.broker) {
            true => Liveness::Alive,
            false => Liveness::Silent,
        },
        progress: match registration.raft_id {
            Some(raft_id) if caught_up.contains(&raft_id) => Progress::CaughtUp,
            _ => Progress::Behind,
        },
    };
    let brokers = image.brokers();
    brokers.map(|broker| peer(&broker.registration)).collect()
}

/// The one step that is due, if any is. Take it, and ask again once it is committed.
#[must_use]
pub fn next_step(situation: &Situation<'_>) -> Option<Step> {
    let membership = situation.membership;
    let is_half_done = !membership.voters_before.is_empty();
    let under_way = situation.settled == Settled::No || is_half_done;
    if under_way && !mutants::is_active(Mutant::TwoVoterChangesAtOnce) {
        let is_left = is_half_done && situation.settled == Settled::Yes;
        return is_left.then(|| Step::FinishVoters(membership.voters.clone()));
    }
    situation
        .newcomer()
        .map(Step::AddLearner)
        .or_else(|| situation.other_voters().map(Step::ChangeVoters))
        .or_else(|| situation.leaver().map(Step::RemoveLearner))
}

impl Situation<'_> {
    /// A broker that is alive and no member yet.
    fn newcomer(&self) -> Option<Voter> {
        let alive = self
            .peers
            .iter()
            .filter(|peer| peer.liveness == Liveness::Alive)
            .filter_map(as_voter);
        alive
            .filter(|peer| !self.is_member(peer.raft_id))
            .min_by_key(|peer| peer.broker)
    }

    /// A learner whose broker is unregistered, or has registered with another Raft id.
    fn leaver(&self) -> Option<Voter> {
        let stays = |learner: &Voter| {
            self.peers.iter().any(|peer| {
                peer.broker == learner.broker
                    && peer
                        .raft_id
                        .is_none_or(|raft_id| raft_id == learner.raft_id)
            })
        };
        let mut learners = self.membership.learners.iter();
        learners.find(|learner| !stays(learner)).cloned()
    }

    /// The voters that there should be, if they are others than now and can be had.
    fn other_voters(&self) -> Option<Vec<Voter>> {
        let voters = &self.membership.voters;
        let present: BTreeSet<BrokerId> = voters.iter().map(|voter| voter.broker).collect();
        let brokers = match self.wanted {
            Some(wanted) => wanted.iter().copied().collect(),
            None => self.grown(present),
        };
        let next: Vec<Voter> = brokers
            .iter()
            .map(|broker| self.voter_of(*broker))
            .collect::<Option<_>>()?;
        let ids = |voters: &[Voter]| -> BTreeSet<u64> {
            voters.iter().map(|voter| voter.raft_id).collect()
        };
        // A change to voters of whom too few are alive would never end.
        let alive = next.iter().filter(|voter| self.is_alive(voter)).count();
        (ids(&next) != ids(voters) && alive * 2 > next.len()).then_some(next)
    }

    /// Three instead of fewer, if so many are alive and have caught up.
    fn grown(&self, present: BTreeSet<BrokerId>) -> BTreeSet<BrokerId> {
        if present.len() >= VOTERS_BY_ITSELF {
            return present;
        }
        let ready: BTreeSet<BrokerId> = self.ready().map(|voter| voter.broker).collect();
        let newcomers = ready.difference(&present);
        let wanting = VOTERS_BY_ITSELF - present.len();
        let grown: BTreeSet<BrokerId> = present
            .intersection(&ready)
            .chain(newcomers.take(wanting))
            .copied()
            .collect();
        if grown.len() == VOTERS_BY_ITSELF {
            grown
        } else {
            present
        }
    }

    /// The member that votes for `broker`: the one that has registered, as soon as it is ready,
    /// until then the one that votes now.
    fn voter_of(&self, broker: BrokerId) -> Option<Voter> {
        let ready = self.ready().find(|voter| voter.broker == broker);
        let mut present = self.membership.voters.iter();
        ready.or_else(|| present.find(|voter| voter.broker == broker).cloned())
    }

    /// Members that are alive and have caught up.
    fn ready(&self) -> impl Iterator<Item = Voter> {
        let ready = self
            .peers
            .iter()
            .filter(|peer| peer.liveness == Liveness::Alive && peer.progress == Progress::CaughtUp);
        ready
            .filter_map(as_voter)
            .filter(|voter| self.is_member(voter.raft_id))
    }

    fn is_member(&self, raft_id: u64) -> bool {
        self.membership
            .members()
            .any(|member| member.raft_id == raft_id)
    }

    fn is_alive(&self, voter: &Voter) -> bool {
        self.peers.iter().any(|peer| {
            peer.broker == voter.broker
                && peer.raft_id.is_none_or(|raft_id| raft_id == voter.raft_id)
                && peer.liveness == Liveness::Alive
        })
    }
}

fn as_voter(peer: &Peer) -> Option<Voter> {
    Some(Voter {
        raft_id: peer.raft_id?,
        broker: peer.broker,
    })
}

/// The brokers that shall vote after `request`, counted from those that are wanted now or vote now:
/// so a change that waits for somebody who is not there can be taken back. Who loses its vote goes
/// on to serve, whatever it keeps.
///
/// # Errors
/// `INVALID_REQUEST` if it contradicts itself or ends in an even number, `VOTERS_CHANGING`,
/// `BROKER_ID_NOT_REGISTERED`, `DUPLICATE_VOTER`, `VOTER_NOT_FOUND`, and `NOT_REMOVABLE` for the
/// last voter.
pub fn check_change(
    image: &Image,
    request: &ChangeVotersRequest,
) -> Result<Vec<BrokerId>, Failure> {
    let refuse = |code, message: String| Err(Failure::new(code, message));
    let Some(membership) = image.membership() else {
        return refuse(
            ErrorCode::NOT_CONTROLLER,
            "the cluster is not founded yet: try again".into(),
        );
    };
    if !membership.voters_before.is_empty() {
        return refuse(
            ErrorCode::VOTERS_CHANGING,
            "a change of the voters is under way: try again once it is done".into(),
        );
    }
    let mut voters: BTreeSet<BrokerId> = match image.wanted_voters() {
        Some(wanted) => wanted.iter().copied().collect(),
        None => membership.voters.iter().map(|voter| voter.broker).collect(),
    };
    let named: BTreeSet<_> = request.add.iter().chain(&request.remove).collect();
    if named.is_empty() || named.len() != request.add.len() + request.remove.len() {
        return refuse(
            ErrorCode::INVALID_REQUEST,
            "a change of the voters names at least one broker, and each of them once".into(),
        );
    }
    for broker in &request.remove {
        if !voters.remove(broker) {
            let message =
                format!("broker {broker} has no vote, and is not to have one: see who has");
            return refuse(ErrorCode::VOTER_NOT_FOUND, message);
        }
    }
    for broker in &request.add {
        if image.broker(*broker).is_none() {
            let message = format!("broker {broker} is not registered: start it with --join first");
            return refuse(ErrorCode::BROKER_ID_NOT_REGISTERED, message);
        }
        if !voters.insert(*broker) {
            let message = format!("broker {broker} votes already: leave it out");
            return refuse(ErrorCode::DUPLICATE_VOTER, message);
        }
    }
    check_count(voters.len())?;
    Ok(voters.into_iter().collect())
}

fn check_count(count: usize) -> Result<(), Failure> {
    let (code, message) = match count {
        0 => (
            ErrorCode::NOT_REMOVABLE,
            "that would take the last vote: the cluster could decide nothing any more".into(),
        ),
        _ if count > VOTERS_MAX => (
            ErrorCode::INVALID_REQUEST,
            format!("{count} voters are too many: {VOTERS_MAX} are allowed"),
        ),
        _ if count.is_multiple_of(2) => (
            ErrorCode::INVALID_REQUEST,
            format!(
                "{count} voters survive no more failures than {}: change to an odd number in one \
                 request (`strandline cluster add-voter NEW --instead-of OLD` replaces one)",
                count - 1
            ),
        ),
        _ => return Ok(()),
    };
    Err(Failure::new(code, message))
}
