//! What a follower's session is told of: partitions about which there may be news.
//!
//! *Pattern: request waiting list.* A leader's partition knows the feeds of its followers, and
//! touches them when something is appended or committed. So a session looks at what has changed,
//! and never at what is idle.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use strandline_protocol::{BrokerId, TopicPartition};
use tokio::time::Instant;

use super::FetchToken;
use crate::server::Event;

/// The news of one session, and the fetch that waits for them.
#[derive(Debug, Default)]
pub struct Feed {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    changed: BTreeSet<TopicPartition>,
    /// Whether any of that is worth an answer of its own.
    is_urgent: bool,
    parked: Option<Waiting>,
    /// What the follower has named, and a time at which it certainly followed that.
    named: BTreeSet<TopicPartition>,
    followed: Option<Instant>,
}

/// A fetch that waits.
#[derive(Debug)]
struct Waiting {
    token: FetchToken,
    /// The least that wakes it.
    from: Urgency,
}

/// How soon a follower is to hear of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// With what else there is to tell, or a little later: the high watermark has moved.
    #[default]
    Soon,
    /// At once: there are records, or the leader is another one.
    Now,
}

impl Feed {
    /// There may be news of the partition. Wakes the fetch that waits, by [`Event::Ready`].
    pub fn touch(&self, partition: TopicPartition, urgency: Urgency) {
        let mut state = self.state.lock();
        state.changed.insert(partition);
        state.is_urgent |= urgency == Urgency::Now;
        if let Some(waiting) = state.parked.take_if(|waiting| urgency >= waiting.from) {
            waiting.wake();
        }
    }

    /// Takes the partitions of which there may be news, in the order of their ids from the one
    /// behind `after` on.
    #[must_use]
    pub fn take(&self, after: Option<TopicPartition>) -> Vec<TopicPartition> {
        let changed = {
            let mut state = self.state.lock();
            (state.is_urgent, state.parked) = (false, None);
            std::mem::take(&mut state.changed)
        };
        let Some(after) = after else {
            return changed.into_iter().collect();
        };
        let behind = changed.iter().filter(|id| **id > after);
        let before = changed.iter().filter(|id| **id <= after);
        behind.chain(before).copied().collect()
    }

    /// Looks at these again, at the next occasion. Wakes nobody.
    pub fn put_back(&self, partitions: impl IntoIterator<Item = TopicPartition>) {
        let mut state = self.state.lock();
        state.changed.extend(partitions);
        state.is_urgent = true;
    }

    /// Has the fetch woken by the next news. Returns false, and does nothing, if there are some.
    #[must_use]
    pub fn park(&self, token: FetchToken) -> bool {
        let mut state = self.state.lock();
        if !state.changed.is_empty() {
            return false;
        }
        state.parked = Some(Waiting {
            token,
            from: Urgency::Soon,
        });
        true
    }

    /// The same while there are only news that have time: more of those do not wake the fetch.
    /// Returns false, and does nothing, if there is something to be told at once, or nothing.
    #[must_use]
    pub fn linger(&self, token: FetchToken) -> bool {
        let mut state = self.state.lock();
        if state.is_urgent || state.changed.is_empty() {
            return false;
        }
        state.parked = Some(Waiting {
            token,
            from: Urgency::Now,
        });
        true
    }

    /// The follower still followed at `at` what it follows.
    pub fn followed(&self, at: Instant) {
        let mut state = self.state.lock();
        state.followed = state.followed.max(Some(at));
    }

    /// The follower follows this partition, too.
    pub fn names(&self, partition: TopicPartition) {
        self.state.lock().named.insert(partition);
    }

    /// The follower follows this partition no more, or not now.
    pub fn forgets(&self, partition: TopicPartition) {
        self.state.lock().named.remove(&partition);
    }

    /// Whether the follower has followed the partition at `since` or later, as far as it has told.
    fn follows(&self, partition: TopicPartition, since: Instant) -> bool {
        let state = self.state.lock();
        state.followed >= Some(since) && state.named.contains(&partition)
    }

    /// Wakes the fetch that waits, whether there are news or not.
    pub fn wake(&self) {
        if let Some(waiting) = self.state.lock().parked.take() {
            waiting.wake();
        }
    }

    /// The fetch waits no more.
    pub fn unpark(&self) {
        self.state.lock().parked = None;
    }
}

impl Waiting {
    fn wake(self) {
        let FetchToken { events, slot } = self.token;
        // A connection that is gone does not need the news.
        let _ = events.send(Event::Ready { slot });
    }
}

/// The feeds of one partition, by follower.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    feeds: Vec<(BrokerId, Weak<Feed>)>,
}

impl Feeds {
    /// The follower's session is this one now.
    pub(super) fn subscribe(&mut self, follower: BrokerId, feed: &Arc<Feed>) {
        let known = self.feeds.iter_mut().find(|(known, _)| *known == follower);
        match known {
            Some((_, known)) if std::ptr::eq(known.as_ptr(), Arc::as_ptr(feed)) => {}
            Some((_, known)) => *known = Arc::downgrade(feed),
            None => self.feeds.push((follower, Arc::downgrade(feed))),
        }
    }

    /// Whether a broker has followed the partition at `since` or later.
    pub(super) fn is_followed(
        &self,
        follower: BrokerId,
        partition: TopicPartition,
        since: Instant,
    ) -> bool {
        let feed = self.feeds.iter().find(|(known, _)| *known == follower);
        let feed = feed.and_then(|(_, feed)| feed.upgrade());
        feed.is_some_and(|feed| feed.follows(partition, since))
    }

    /// Those whose connections are still there.
    pub(super) fn all(&mut self) -> Vec<Arc<Feed>> {
        let mut all = Vec::with_capacity(self.feeds.len());
        self.feeds.retain(|(_, feed)| {
            let feed = feed.upgrade();
            let is_there = feed.is_some();
            all.extend(feed);
            is_there
        });
        all
    }

    /// The same, and knows none any more.
    pub(super) fn drain(&mut self) -> Vec<Arc<Feed>> {
        let all = self.all();
        self.feeds.clear();
        all
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use strandline_protocol::{PartitionId, TopicId};

    use super::*;
    use crate::server::Slot;

    fn id(number: i32) -> TopicPartition {
        TopicPartition {
            topic: TopicId([7; 16]),
            partition: PartitionId(number),
        }
    }

    #[test]
    fn who_was_served_last_comes_last() {
        let feed = Feed::default();
        for number in [3, 1, 2, 2] {
            feed.touch(id(number), Urgency::Now);
        }
        assert_eq!(feed.take(Some(id(1))), [id(2), id(3), id(1)]);
        assert_eq!(feed.take(None), []);
        feed.put_back([id(5)]);
        assert_eq!(feed.take(Some(id(5))), [id(5)]);
    }

    #[test]
    fn who_forgets_a_partition_follows_the_others_on() {
        let (mut feeds, feed) = (Feeds::default(), Arc::new(Feed::default()));
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let (leads, follows) = (BrokerId(1), BrokerId(2));
        feeds.subscribe(follows, &feed);
        let is_followed = |number, since| feeds.is_followed(follows, id(number), since);
        feed.names(id(1));
        feed.names(id(2));
        assert!(!is_followed(1, now), "it has not told yet");
        feed.followed(now);
        assert!(is_followed(1, now) && !is_followed(1, later));
        feed.forgets(id(2));
        assert!(is_followed(1, now) && !is_followed(2, now));
        let _ = feed.take(None);
        assert!(!is_followed(2, now), "it stays forgotten until it is named");
        feed.names(id(2));
        assert!(is_followed(2, now));
        feed.followed(later);
        feed.followed(now);
        assert!(is_followed(2, later), "what is heard late changes nothing");
        assert!(!feeds.is_followed(leads, id(1), now), "who has no session");
        drop(feed);
        assert!(!feeds.is_followed(follows, id(1), now));
    }

    #[test]
    fn what_has_time_does_not_wake_who_waits_for_more() {
        let (events, mut woken) = tokio::sync::mpsc::unbounded_channel();
        let slot = Slot::default();
        let token = || FetchToken {
            events: events.clone(),
            slot,
        };
        let feed = Feed::default();
        assert!(feed.park(token()));
        feed.touch(id(1), Urgency::Soon);
        assert!(woken.try_recv().is_ok());
        assert!(!feed.park(token()), "there are news");
        assert!(feed.linger(token()));
        feed.touch(id(2), Urgency::Soon);
        assert!(woken.try_recv().is_err());
        feed.touch(id(2), Urgency::Now);
        assert!(woken.try_recv().is_ok());
        assert!(!feed.linger(token()), "there is something to tell at once");
        assert_eq!(feed.take(None), [id(1), id(2)]);
        assert!(!feed.linger(token()), "there is nothing to tell");
    }
}
