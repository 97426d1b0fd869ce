//! What must hold of all members at every moment: each is looked at after each step.
//!
//! The names are those of the catalogue of invariants: leader completeness (S3), committed entries
//! lie with a majority (S4), one leader per term (S5), terms and votes never go back (S6), what is
//! applied never goes back (S7), equal versions are equal images (S8), no older term commits after
//! a newer one (S9). What it knows comes from disks and images, never from what a member says about
//! another one.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use strandline_broker::metadata::{Observed, Observer};
use strandline_core::metadata::{BrokerState, Image, Voter};
use strandline_protocol::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, TopicId};
use strandline_storage::directory::{Election, QuorumVote};

use super::{Trace, machines::Machine};

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) elections: u64,
    pub(super) leader_changes: u64,
    pub(super) voter_changes: u64,
    pub(super) fencings: u64,
    pub(super) snapshots_installed: u64,
    pub(super) trimmed: u64,
    pub(super) images_compared: u64,
    pub(super) newest_term: i32,
}

/// What is known of one member, over all its starts.
#[derive(Default)]
struct Past {
    vote: Option<QuorumVote>,
    /// In the start of that number.
    start: u32,
    applied: Option<Offset>,
    log_start: Offset,
}

/// Whose member it is, and which one of those that have run there.
#[derive(Clone, Copy, Debug)]
struct Whose<'a> {
    host: &'a str,
    incarnation: u32,
}

impl<'a> Whose<'a> {
    fn of(machine: &'a Machine) -> Self {
        Self {
            host: &machine.host,
            incarnation: machine.incarnation(),
        }
    }
}

/// Whether a leader was just elected, and in the newest term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elected {
    Before,
    Newest,
}

/// Whether a member has applied anything since it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Applied {
    Same,
    More,
}

/// An entry that is known to be committed.
struct Committed {
    term: LeaderEpoch,
    image: Arc<Image>,
}

/// See the module.
pub(super) struct Checks {
    trace: Trace,
    members: RefCell<BTreeMap<u64, Past>>,
    /// Who led which term.
    leaders: RefCell<BTreeMap<i32, u64>>,
    committed: RefCell<BTreeMap<Offset, Committed>>,
    /// Topics that are in a committed image, or were.
    created: RefCell<BTreeSet<TopicId>>,
    /// Brokers that were just fenced, with their epochs.
    fenced: RefCell<Vec<(BrokerId, BrokerEpoch)>>,
    pub(super) seen: Cell<Seen>,
    violations: RefCell<Vec<String>>,
}

impl Checks {
    pub(super) fn new(trace: Trace) -> Self {
        Self {
            trace,
            members: RefCell::default(),
            leaders: RefCell::default(),
            committed: RefCell::default(),
            created: RefCell::default(),
            fenced: RefCell::default(),
            seen: Cell::default(),
            violations: RefCell::default(),
        }
    }

    /// Something happened that never must.
    pub(super) fn violation(&self, what: String) {
        self.trace.note("VIOLATION", &what);
        // A broker that trips over the same may end the process before anybody is told.
        eprintln!("VIOLATION {what}");
        self.violations.borrow_mut().push(what);
    }

    pub(super) fn take_violations(&self) -> Vec<String> {
        self.violations.take()
    }

    /// The newest version that is known to be committed; `-1` before the first.
    pub(super) fn newest_version(&self) -> Offset {
        let committed = self.committed.borrow();
        committed
            .last_key_value()
            .map_or(Offset(-1), |(offset, _)| *offset)
    }

    /// The image of that.
    pub(super) fn newest_image(&self) -> Option<Arc<Image>> {
        let committed = self.committed.borrow();
        let newest = committed.last_key_value()?;
        Some(Arc::clone(&newest.1.image))
    }

    /// Whether a topic of that identity was ever in a committed image.
    pub(super) fn was_created(&self, topic: TopicId) -> bool {
        self.created.borrow().contains(&topic)
    }

    fn count(&self, change: impl FnOnce(&mut Seen)) {
        let mut seen = self.seen.get();
        change(&mut seen);
        self.seen.set(seen);
    }

    /// S9: who was just fenced knows that its lease is over.
    pub(super) fn check_fenced(&self, machines: &[Rc<Machine>], now: Duration) {
        let newest = self.newest_image();
        for (broker, epoch) in self.fenced.take() {
            // A version that nobody was seen to have shows up late, at who replays its log.
            let state = newest.as_ref().and_then(|image| image.broker(broker));
            if !state.is_some_and(|it| it.state == BrokerState::Fenced && it.epoch == epoch) {
                continue;
            }
            let machine = machines.iter().find(|machine| machine.broker == broker);
            if machine.is_some_and(|machine| machine.holds_lease(epoch, now)) {
                self.violation(format!(
                    "S9: broker {broker} is fenced, and takes its lease to hold"
                ));
            }
        }
    }

    /// Looks at one member.
    pub(super) fn look(&self, machine: &Machine, observer: &Observer) {
        let (whose, now) = (Whose::of(machine), observer.observe());
        self.check(&whose, &now, |offset| observer.term_at(offset));
    }

    /// Holds one member against everything; `term_at` tells what stands in its log.
    fn check(
        &self,
        whose: &Whose<'_>,
        now: &Observed,
        term_at: impl Fn(Offset) -> Option<LeaderEpoch>,
    ) {
        self.check_vote(whose, now);
        if self.check_applied(whose, now) == Applied::More {
            self.check_image(whose, now);
        }
        if let Some(term) = now.leads
            && self.check_leader(whose, now, term) == Elected::Newest
        {
            self.check_complete(whose, now, term, term_at);
        }
    }

    /// S6: of a disk that was not wiped, terms never go back, and no term has two votes.
    fn check_vote(&self, whose: &Whose<'_>, now: &Observed) {
        let mut members = self.members.borrow_mut();
        let past = members.entry(now.raft_id).or_default();
        let (vote, host) = (now.vote, whose.host);
        if let Some(before) = past.vote {
            // Who has lost an election, or won none, takes over the vote of the leader.
            let is_kept = vote.candidate == before.candidate
                || (before.election == Election::Open && vote.election == Election::Won);
            let is_reopened = before.election == Election::Won && vote.election == Election::Open;
            let is_broken =
                vote.term < before.term || (vote.term == before.term && (!is_kept || is_reopened));
            if is_broken && before.term > LeaderEpoch(0) {
                self.violation(format!(
                    "S6: {host} ({}) had the vote {before:?} and has {vote:?}",
                    now.raft_id
                ));
            }
            if vote.term > before.term {
                self.count(|seen| seen.newest_term = seen.newest_term.max(vote.term.0));
            }
        }
        past.vote = Some(vote);
    }

    /// S7: within one start, what is applied never goes back; nor does the start of the log.
    fn check_applied(&self, whose: &Whose<'_>, now: &Observed) -> Applied {
        let mut members = self.members.borrow_mut();
        let past = members.entry(now.raft_id).or_default();
        let (start, version) = (whose.incarnation, now.image.version());
        if past.start != start {
            (past.start, past.applied) = (start, None);
        }
        if let Some(before) = past.applied {
            if version < before {
                self.violation(format!(
                    "S7: {} had applied {before} and then {version}",
                    whose.host
                ));
            }
            // A log that begins behind what was applied was replaced by a snapshot.
            if let Some((log_start, _)) = now.log
                && log_start > past.log_start
            {
                let is_installed = log_start > before.plus(1);
                self.count(|seen| {
                    seen.trimmed += 1;
                    seen.snapshots_installed += u64::from(is_installed);
                });
                self.trace
                    .note(whose.host, format_args!("the log starts at {log_start}"));
            }
        }
        past.log_start = now.log.map_or(past.log_start, |(start, _)| start);
        match past.applied.replace(version) {
            Some(before) if before == version => Applied::Same,
            _ => Applied::More,
        }
    }

    /// S8 and S9: one version, one image; and terms never decrease from version to version.
    fn check_image(&self, whose: &Whose<'_>, now: &Observed) {
        let (version, term) = (now.image.version(), now.image.term());
        if version < Offset::ZERO {
            return;
        }
        let mut committed = self.committed.borrow_mut();
        if let Some(known) = committed.get(&version) {
            if !Arc::ptr_eq(&known.image, &now.image) && *known.image != *now.image {
                self.violation(format!(
                    "S8: version {version} on {} is of term {term} and differs from what others \
                     have, of term {}",
                    whose.host, known.term
                ));
            }
            self.count(|seen| seen.images_compared += 1);
            return;
        }
        let before = committed.range(..version).next_back();
        let after = committed.range(version..).next();
        if before.is_some_and(|(_, known)| known.term > term)
            || after.is_some_and(|(_, known)| known.term < term)
        {
            self.violation(format!(
                "S9: {} has version {version} of term {term} between newer terms",
                whose.host
            ));
        }
        if let Some((_, known)) = before {
            self.tell_changes(&known.image, &now.image);
        }
        let topics = now.image.topics().map(|topic| topic.id);
        self.created.borrow_mut().extend(topics);
        let image = Arc::clone(&now.image);
        committed.insert(version, Committed { term, image });
    }

    /// What happened from one version to a later one.
    fn tell_changes(&self, before: &Image, after: &Image) {
        let voters = |image: &Image| -> Vec<Voter> {
            let membership = image.membership();
            membership.map_or_else(Vec::new, |it| [&it.voters[..], &it.voters_before].concat())
        };
        let version = after.version();
        let (old, new) = (voters(before), voters(after));
        if old != new {
            self.trace
                .note("quorum", format_args!("{version}: the voters are {new:?}"));
            self.count(|seen| seen.voter_changes += 1);
        }
        for broker in after.brokers() {
            let id = broker.registration.broker;
            let was = before.broker(id).map(|before| before.state);
            if was != Some(broker.state) {
                let state = broker.state;
                self.trace.note(
                    "quorum",
                    format_args!("{version}: broker {id} is {state:?}"),
                );
                if was == Some(BrokerState::Active) && state == BrokerState::Fenced {
                    self.count(|seen| seen.fencings += 1);
                    self.fenced.borrow_mut().push((id, broker.epoch));
                }
            }
        }
    }

    /// S5; tells whether it is seen leading for the first time, and nobody leads a newer term.
    fn check_leader(&self, whose: &Whose<'_>, now: &Observed, term: LeaderEpoch) -> Elected {
        let mut leaders = self.leaders.borrow_mut();
        if let Some(known) = leaders.get(&term.0) {
            if *known != now.raft_id {
                self.violation(format!(
                    "S5: {known} led term {term}, and {} ({}) leads it, too",
                    whose.host, now.raft_id
                ));
            }
            return Elected::Before;
        }
        let before = leaders.last_key_value().map(|(_, leader)| *leader);
        let is_newest = leaders.keys().next_back().is_none_or(|last| *last < term.0);
        leaders.insert(term.0, now.raft_id);
        self.trace
            .note(whose.host, format_args!("leads term {term}"));
        self.count(|seen| {
            seen.elections += 1;
            seen.leader_changes += u64::from(before.is_some_and(|it| it != now.raft_id));
        });
        if is_newest {
            Elected::Newest
        } else {
            Elected::Before
        }
    }

    /// S3: who is elected has everything that was committed.
    fn check_complete(
        &self,
        whose: &Whose<'_>,
        now: &Observed,
        term: LeaderEpoch,
        term_at: impl Fn(Offset) -> Option<LeaderEpoch>,
    ) {
        let Some((start, end)) = now.log else {
            return;
        };
        for (offset, known) in self.committed.borrow().range(start..) {
            if known.term > term {
                continue;
            }
            let has = term_at(*offset).filter(|_| *offset < end);
            if has != Some(known.term) {
                return self.violation(format!(
                    "S3: {} leads term {term} and has {has:?} at {offset}, where {} is committed",
                    whose.host, known.term
                ));
            }
        }
    }

    /// S4: what is known to be committed lies on the disks of a majority of the voters. To be asked
    /// when all machines that are left run and nobody is changing the voters.
    pub(super) fn check_majority(&self, observers: &[Observer]) {
        let held = |offset| {
            let of_each =
                |observer: &Observer| (observer.observe().raft_id, observer.term_at(offset));
            observers.iter().map(of_each).collect()
        };
        self.check_held(held);
    }

    /// `held` tells, by Raft ids, the term of the entry that each has at an offset.
    fn check_held(&self, held: impl Fn(Offset) -> Vec<(u64, Option<LeaderEpoch>)>) {
        let Some(image) = self.newest_image() else {
            return;
        };
        let (version, term) = (image.version(), image.term());
        let Some(membership) = image.membership() else {
            return;
        };
        let is_voter = |raft_id| {
            membership
                .voters
                .iter()
                .any(|voter| voter.raft_id == raft_id)
        };
        let held = held(version).into_iter();
        let holders = held.filter(|(raft_id, has)| is_voter(*raft_id) && *has == Some(term));
        let (holders, voters) = (holders.count(), membership.voters.len());
        if 2 * holders <= voters {
            self.violation(format!(
                "S4: version {version} of term {term} is committed, and {holders} of {voters} \
                 voters have it"
            ));
        }
    }
}

#[cfg(test)]
mod tests;
