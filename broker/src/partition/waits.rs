//! Long polls: fetches that wait for more bytes to become visible.
//!
//! *Pattern: request waiting list.*
//!
//! Positions in the list count bytes ever made visible in a partition. A partition only takes the
//! list's lock when somebody waits at all. That is safe because both sides do two things in
//! opposite order: a reader raises `waiting` and then looks at the position again, a writer moves
//! the position and then looks at `waiting`; with sequentially consistent accesses one of them sees
//! the other.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use strandline_core::waiting::{Condition, Parked, Ticket, WaitingList};
use strandline_protocol::TopicPartition;
use tokio::time::Instant;

use super::FetchToken;
use crate::server::Event;

/// All fetches that wait.
#[derive(Debug, Default)]
pub struct FetchWaits {
    waiting: AtomicUsize,
    list: Mutex<WaitingList<TopicPartition, FetchToken, Instant>>,
}

impl FetchWaits {
    /// Parks a fetch until the partitions of `from` have grown by `growth` bytes in all since the
    /// positions in it. Its connection hears of it by [`Event::Ready`]; deadlines are its own
    /// affair.
    ///
    /// Returns none if that is so already. `positions` are looked at once more after parking.
    pub fn park(
        &self,
        token: FetchToken,
        deadline: Instant,
        from: Vec<(TopicPartition, i64)>,
        growth: i64,
        positions: impl Fn() -> Vec<(TopicPartition, i64)>,
    ) -> Option<Ticket> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut list = self.list.lock();
        for (key, position) in positions() {
            let others = list.advance(&key, position);
            self.ready(others);
        }
        match list.park(token, deadline, Condition::Sum { from, growth }) {
            Parked::Waiting(ticket) => Some(ticket),
            Parked::Ready(_) => {
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                None
            }
        }
    }

    /// The partition has `position` visible bytes in all now.
    pub fn advance(&self, partition: TopicPartition, position: i64) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let ready = self.list.lock().advance(&partition, position);
        self.ready(ready);
    }

    /// The partition is gone; whoever waits for it has to look again.
    pub fn remove(&self, partition: TopicPartition) {
        let ready = self.list.lock().remove_key(&partition);
        self.ready(ready);
    }

    /// Takes a fetch out that nobody waits for any more.
    pub fn cancel(&self, ticket: Ticket) {
        if self.list.lock().cancel(ticket).is_some() {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn ready(&self, tokens: Vec<FetchToken>) {
        for token in tokens {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            // A connection that is gone does not need the answer.
            let _ = token.events.send(Event::Ready { slot: token.slot });
        }
    }
}
