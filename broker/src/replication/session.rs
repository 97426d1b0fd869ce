//! What a follower asks a leader for next, and what it makes of the answers: the pure half.
//!
//! *Patterns: leader and followers, request batch.* A session keeps on both sides which partitions
//! are fetched and from where on, so that a request names only what has changed (KIP-227). One
//! request waits at the leader; only when a partition is to be named meanwhile, a second one goes
//! behind it, and the leader answers the first at once. What cannot go on now is forgotten by the
//! leader until it is named again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use strandline_protocol::{
    LeaderEpoch, Offset, TopicPartition,
    messages::{FetchSession, PartitionName, ReplicaFetchPartition},
};
use tokio::time::Instant;

use crate::partition::{FetchOutcome, FetchPosition};

/// How many partitions one request names, or forgets, at most: far from the largest message.
const NAMED_MAX: usize = 2_000;

/// How many requests are under way at most.
const IN_FLIGHT_MAX: usize = 2;

/// How long the leader may hold back an answer, in milliseconds.
const WAIT_MS_MAX: u32 = 500;

/// How long a partition rests after its first failure; twice as long after each further one.
const BACK_OFF_MIN: Duration = Duration::from_millis(10);

/// How long it rests at most.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// A request to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// Which one of which session.
    pub session: FetchSession,
    /// How long its answer may be held back, in milliseconds.
    pub wait_ms_max: u32,
    /// What it names.
    pub partitions: Vec<ReplicaFetchPartition>,
    /// What the leader is to forget.
    pub forgotten: Vec<PartitionName>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Session {
    /// What the leader has given it; 0 if it is to be opened.
    id: u64,
    /// The number of the next request.
    number: u32,
    in_flight: usize,
    followed: BTreeMap<TopicPartition, Followed>,
    /// What the next request names.
    to_name: BTreeSet<TopicPartition>,
    /// What it has the leader forget.
    to_forget: BTreeSet<TopicPartition>,
    /// What rests, and until when.
    resting: BTreeSet<(Instant, TopicPartition)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Followed {
    /// Under which epoch it was named last, and in which request; none while the leader does not
    /// know of it.
    named: Option<(LeaderEpoch, u32)>,
    /// Up to where the leader knows that it is durable.
    told_durable: Offset,
    failures: u32,
    rests_until: Option<Instant>,
}

impl Session {
    /// Fetches the partition from now on. If it is fetched already, it is named again, and its
    /// failures are forgotten.
    pub fn follow(&mut self, id: TopicPartition) {
        self.wake(id);
        let followed = self.followed.entry(id).or_default();
        followed.failures = 0;
        self.to_name.insert(id);
    }

    /// Fetches the partition no more.
    pub fn leave(&mut self, id: TopicPartition) {
        self.wake(id);
        self.to_name.remove(&id);
        if let Some(followed) = self.followed.remove(&id)
            && followed.named.is_some()
        {
            self.to_forget.insert(id);
        }
    }

    /// Whether it fetches nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.followed.is_empty()
    }

    /// Whether the partition is one of those that it fetches.
    #[must_use]
    pub fn follows(&self, id: TopicPartition) -> bool {
        self.followed.contains_key(&id)
    }

    /// The leader knows nothing of it any more: the connection or the session is gone. What is
    /// under way will not be answered.
    pub fn reset(&mut self) {
        (self.id, self.number, self.in_flight) = (0, 0, 0);
        self.to_forget.clear();
        for (id, followed) in &mut self.followed {
            followed.named = None;
            if followed.rests_until.is_none() {
                self.to_name.insert(*id);
            }
        }
    }

    /// The next request, if one is due. `position` tells where a partition stands and how many
    /// bytes of it are wanted at most; one that has no position is followed no more.
    pub fn next(
        &mut self,
        mut position: impl FnMut(TopicPartition) -> Option<(FetchPosition, u32)>,
    ) -> Option<Asking> {
        if !self.is_due() {
            return None;
        }
        let number = self.number;
        let mut partitions = Vec::new();
        while partitions.len() < NAMED_MAX
            && let Some(id) = self.to_name.pop_first()
        {
            let Some((at, bytes_max)) = position(id) else {
                self.leave(id);
                continue;
            };
            if let Some(followed) = self.followed.get_mut(&id) {
                followed.named = Some((at.leader_epoch, number));
                followed.told_durable = at.durable_offset;
                self.to_forget.remove(&id);
                partitions.push(naming(id, &at, bytes_max));
            }
        }
        let mut forgotten = Vec::new();
        while forgotten.len() < NAMED_MAX
            && let Some(id) = self.to_forget.pop_first()
        {
            forgotten.push(PartitionName {
                topic_id: id.topic,
                partition: id.partition,
            });
        }
        if self.followed.is_empty() && self.id == 0 {
            // All that was to be named has gone meanwhile.
            return None;
        }
        let is_last = self.to_name.is_empty() && self.to_forget.is_empty();
        let session = FetchSession {
            id: self.id,
            number,
        };
        self.number = self.number.wrapping_add(1);
        self.in_flight = self.in_flight.saturating_add(1);
        Some(Asking {
            session,
            // Only behind its answer the session has an identity under which more can be named.
            wait_ms_max: if is_last && session.id != 0 {
                WAIT_MS_MAX
            } else {
                0
            },
            partitions,
            forgotten,
        })
    }

    /// Whether a request is to be sent now: none is under way, or there is something to be named
    /// for which the one that waits should not be waited for.
    fn is_due(&self) -> bool {
        match self.in_flight {
            0 => !self.followed.is_empty() || (self.id != 0 && !self.to_forget.is_empty()),
            in_flight => self.id != 0 && in_flight < IN_FLIGHT_MAX && !self.to_name.is_empty(),
        }
    }

    /// An answer has come, of the session that the leader calls `id`.
    pub fn answered(&mut self, id: u64) {
        self.id = id;
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// The epoch under which a partition was named for whose answer to request `number` something
    /// has come; none if that is out of date, or nobody asked.
    #[must_use]
    pub fn asked(&self, id: TopicPartition, number: u32) -> Option<LeaderEpoch> {
        let (epoch, since) = self.followed.get(&id)?.named?;
        (since <= number).then_some(epoch)
    }

    /// What became of a partition of an answer.
    pub fn take(&mut self, id: TopicPartition, outcome: FetchOutcome, now: Instant) {
        let Some(followed) = self.followed.get_mut(&id) else {
            return;
        };
        match outcome {
            FetchOutcome::Told => {}
            FetchOutcome::Moved => {
                followed.failures = 0;
                if followed.rests_until.is_none() {
                    self.to_name.insert(id);
                }
            }
            FetchOutcome::Failed => {
                let doubled = BACK_OFF_MIN.saturating_mul(1 << followed.failures.min(10));
                followed.failures = followed.failures.saturating_add(1);
                self.rest(id, now + doubled.min(BACK_OFF_MAX));
            }
        }
    }

    /// Leaves the partition alone until then.
    pub fn rest(&mut self, id: TopicPartition, until: Instant) {
        self.wake(id);
        let Some(followed) = self.followed.get_mut(&id) else {
            return;
        };
        followed.rests_until = Some(until);
        if followed.named.take().is_some() {
            self.to_forget.insert(id);
        }
        self.to_name.remove(&id);
        self.resting.insert((until, id));
    }

    /// Names what has rested long enough.
    pub fn rested(&mut self, now: Instant) {
        while let Some((until, id)) = self.resting.first().copied()
            && until <= now
        {
            self.wake(id);
            self.to_name.insert(id);
        }
    }

    /// Has the next request name the partition, unless it rests: it is named behind that.
    pub fn name_again(&mut self, id: TopicPartition) {
        let followed = self.followed.get(&id);
        if followed.is_some_and(|it| it.rests_until.is_none()) {
            self.to_name.insert(id);
        }
    }

    /// Leaves alone for a while what would be named next, where `until` says so.
    pub fn hold(&mut self, mut until: impl FnMut(TopicPartition) -> Option<Instant>) {
        let held = |id: &TopicPartition| until(*id).map(|until| (*id, until));
        let held: Vec<_> = self.to_name.iter().filter_map(held).collect();
        for (id, until) in held {
            self.rest(id, until);
        }
    }

    /// The epoch under which the leader is to be told that the partition is durable up to
    /// `durable`; none if it knows, or will be told when the partition is named. What was named
    /// already need not be named again soon, also while the session is still being opened.
    pub fn tell_durable(&mut self, id: TopicPartition, durable: Offset) -> Option<LeaderEpoch> {
        let followed = self.followed.get_mut(&id)?;
        let (epoch, _) = followed.named?;
        if durable <= followed.told_durable || self.to_name.contains(&id) {
            return None;
        }
        followed.told_durable = durable;
        Some(epoch)
    }

    /// When [`Session::rested`] has something to do next.
    #[must_use]
    pub fn next_rested(&self) -> Option<Instant> {
        self.resting.first().map(|(until, _)| *until)
    }

    fn wake(&mut self, id: TopicPartition) {
        if let Some(followed) = self.followed.get_mut(&id)
            && let Some(until) = followed.rests_until.take()
        {
            self.resting.remove(&(until, id));
        }
    }
}

fn naming(id: TopicPartition, at: &FetchPosition, bytes_max: u32) -> ReplicaFetchPartition {
    ReplicaFetchPartition {
        topic_id: id.topic,
        partition: id.partition,
        leader_epoch: at.leader_epoch,
        fetch_offset: at.fetch_offset,
        last_epoch: at.last_epoch,
        durable_offset: at.durable_offset,
        log_start_offset: at.log_start_offset,
        bytes_max,
    }
}

#[cfg(test)]
mod tests {
    use strandline_protocol::{PartitionId, TopicId};

    use super::*;

    fn id(number: i32) -> TopicPartition {
        TopicPartition {
            topic: TopicId([1; 16]),
            partition: PartitionId(number),
        }
    }

    fn at(offset: i64) -> Option<(FetchPosition, u32)> {
        let position = FetchPosition {
            leader_epoch: LeaderEpoch(3),
            fetch_offset: Offset(offset),
            last_epoch: None,
            durable_offset: Offset(0),
            log_start_offset: Offset(0),
        };
        Some((position, 1_000))
    }

    fn named(asking: &Asking) -> Vec<i32> {
        let partitions = asking.partitions.iter();
        partitions.map(|each| each.partition.0).collect()
    }

    fn forgotten(asking: &Asking) -> Vec<i32> {
        let forgotten = asking.forgotten.iter();
        forgotten.map(|each| each.partition.0).collect()
    }

    /// A session that follows so many partitions and has been opened.
    fn open(partitions: i32) -> Session {
        let mut session = Session::default();
        for number in 0..partitions {
            session.follow(id(number));
        }
        let opening = session.next(|_| at(0)).unwrap();
        assert_eq!((opening.session.id, opening.wait_ms_max), (0, 0));
        assert_eq!(
            opening.partitions.len(),
            usize::try_from(partitions).unwrap()
        );
        assert!(session.next(|_| at(0)).is_none());
        session.answered(9);
        session
    }

    #[test]
    fn what_is_idle_is_not_named_again() {
        let mut session = open(1_000);
        for number in 1..4 {
            let asking = session.next(|_| at(0)).unwrap();
            assert_eq!(asking.session, FetchSession { id: 9, number });
            assert_eq!(asking.wait_ms_max, WAIT_MS_MAX);
            assert!(asking.partitions.is_empty() && asking.forgotten.is_empty());
            assert!(session.next(|_| at(0)).is_none());
            session.answered(9);
        }
    }

    #[test]
    fn what_has_moved_is_named_and_what_was_told_is_not() {
        let mut session = open(3);
        let now = Instant::now();
        session.take(id(0), FetchOutcome::Told, now);
        session.take(id(2), FetchOutcome::Moved, now);
        let asking = session.next(|_| at(7)).unwrap();
        assert_eq!(named(&asking), [2]);
        assert_eq!(asking.partitions[0].fetch_offset, Offset(7));
    }

    #[test]
    fn a_new_partition_does_not_wait_for_the_request_that_waits() {
        let mut session = open(1);
        let first = session.next(|_| at(0)).unwrap();
        session.follow(id(5));
        let second = session.next(|_| at(0)).unwrap();
        assert_eq!(named(&second), [5]);
        session.follow(id(6));
        assert!(session.next(|_| at(0)).is_none(), "two are under way");
        session.answered(9);
        let third = session.next(|_| at(0)).unwrap();
        assert_eq!(named(&third), [6]);
        assert!(first.session.number < second.session.number);
    }

    #[test]
    fn an_answer_to_an_older_naming_is_out_of_date() {
        let mut session = open(1);
        let first = session.next(|_| at(0)).unwrap().session.number;
        assert_eq!(session.asked(id(0), first), Some(LeaderEpoch(3)));
        session.follow(id(0));
        let second = session.next(|_| at(4)).unwrap().session.number;
        assert_eq!(session.asked(id(0), first), None);
        assert_eq!(session.asked(id(0), second), Some(LeaderEpoch(3)));
        assert_eq!(session.asked(id(1), second), None);
    }

    #[test]
    fn a_failure_rests_alone_and_longer_each_time() {
        let mut session = open(2);
        let start = Instant::now();
        let mut now = start;
        let mut rests = Vec::new();
        for _ in 0..9 {
            session.take(id(1), FetchOutcome::Failed, now);
            let until = session.next_rested().unwrap();
            rests.push((until - now).as_millis());
            session.rested(until - Duration::from_millis(1));
            let asking = session.next(|_| at(0)).unwrap();
            assert_eq!((named(&asking), forgotten(&asking)), (vec![], vec![1]));
            session.answered(9);
            now = until;
            session.rested(now);
            assert_eq!(named(&session.next(|_| at(0)).unwrap()), [1]);
            session.answered(9);
        }
        assert_eq!(rests, [10, 20, 40, 80, 160, 320, 640, 1_000, 1_000]);
        session.take(id(1), FetchOutcome::Moved, now);
        session.take(id(1), FetchOutcome::Failed, now);
        assert_eq!(session.next_rested(), Some(now + BACK_OFF_MIN));
        session.follow(id(1));
        assert_eq!(session.next_rested(), None);
    }

    #[test]
    fn the_leader_is_told_once_how_far_a_partition_is_durable() {
        let mut session = open(2);
        let told = |session: &mut Session, number, durable| {
            let epoch = session.tell_durable(id(number), Offset(durable));
            epoch.map(|epoch| epoch.0)
        };
        assert_eq!(told(&mut session, 0, 0), None, "it was named with that");
        assert_eq!(told(&mut session, 0, 5), Some(3));
        assert_eq!(told(&mut session, 0, 5), None);
        assert_eq!(told(&mut session, 0, 6), Some(3));
        session.take(id(1), FetchOutcome::Moved, Instant::now());
        assert_eq!(told(&mut session, 1, 5), None, "the next request tells");
        session.reset();
        assert_eq!(told(&mut session, 0, 9), None);
        assert_eq!(told(&mut session, 7, 9), None);
    }

    #[test]
    fn what_becomes_durable_while_the_session_is_opened_is_told() {
        let mut session = Session::default();
        session.follow(id(0));
        assert_eq!(session.tell_durable(id(0), Offset(4)), None, "not named");
        session.next(|_| at(0)).unwrap();
        let told = session.tell_durable(id(0), Offset(5));
        assert_eq!(told, Some(LeaderEpoch(3)), "nothing else would tell it");
    }

    #[test]
    fn what_cannot_be_told_between_requests_is_named() {
        let mut session = open(2);
        let _ = session.next(|_| at(0)).unwrap();
        session.name_again(id(1));
        session.name_again(id(7));
        assert_eq!(named(&session.next(|_| at(0)).unwrap()), [1]);
        session.answered(9);
        session.take(id(0), FetchOutcome::Failed, Instant::now());
        session.name_again(id(0));
        assert!(session.next(|_| at(0)).is_none());
    }

    #[test]
    fn what_is_held_back_is_named_later() {
        let mut session = open(2);
        let now = Instant::now();
        for number in 0..2 {
            session.take(id(number), FetchOutcome::Moved, now);
        }
        let until = now + Duration::from_secs(2);
        session.hold(|held| (held == id(0)).then_some(until));
        let asking = session.next(|_| at(0)).unwrap();
        assert_eq!((named(&asking), forgotten(&asking)), (vec![1], vec![0]));
        session.answered(9);
        session.rested(until);
        assert_eq!(named(&session.next(|_| at(0)).unwrap()), [0]);
    }

    #[test]
    fn who_leaves_is_forgotten_if_the_leader_knows_of_it() {
        let mut session = open(2);
        session.leave(id(0));
        session.follow(id(7));
        session.leave(id(7));
        let asking = session.next(|_| at(0)).unwrap();
        assert_eq!((named(&asking), forgotten(&asking)), (vec![], vec![0]));
        session.answered(9);
        session.leave(id(1));
        assert!(session.is_empty());
        assert_eq!(forgotten(&session.next(|_| at(0)).unwrap()), [1]);
        session.answered(9);
        assert!(session.next(|_| at(0)).is_none());
    }

    #[test]
    fn who_comes_back_before_it_is_forgotten_is_only_named() {
        let mut session = open(1);
        session.leave(id(0));
        session.follow(id(0));
        let asking = session.next(|_| at(0)).unwrap();
        assert_eq!((named(&asking), forgotten(&asking)), (vec![0], vec![]));
    }

    #[test]
    fn a_partition_without_a_position_is_gone() {
        let mut session = open(2);
        session.take(id(0), FetchOutcome::Moved, Instant::now());
        let asking = session.next(|_| None).unwrap();
        assert_eq!((named(&asking), forgotten(&asking)), (vec![], vec![0]));
        assert!(!session.follows(id(0)) && session.follows(id(1)));
    }

    #[test]
    fn a_lost_session_is_opened_with_everything() {
        let mut session = open(3);
        let now = Instant::now();
        session.take(id(2), FetchOutcome::Failed, now);
        let _ = session.next(|_| at(0)).unwrap();
        session.reset();
        let asking = session.next(|_| at(0)).unwrap();
        assert_eq!(asking.session, FetchSession { id: 0, number: 0 });
        assert_eq!((named(&asking), forgotten(&asking)), (vec![0, 1], vec![]));
        session.answered(10);
        session.rested(now + BACK_OFF_MAX);
        assert_eq!(named(&session.next(|_| at(0)).unwrap()), [2]);
    }

    #[test]
    fn many_are_named_in_several_requests_without_a_wait() {
        let mut session = Session::default();
        for number in 0..5_000 {
            session.follow(id(number));
        }
        let mut sizes = Vec::new();
        loop {
            let asking = session.next(|_| at(0)).unwrap();
            sizes.push((asking.partitions.len(), asking.wait_ms_max));
            session.answered(4);
            if asking.wait_ms_max > 0 {
                break;
            }
        }
        assert_eq!(sizes, [(2_000, 0), (2_000, 0), (1_000, WAIT_MS_MAX)]);
    }
}
