//! Memory that requests hold while they are in flight: reserved before it is allocated, so that no
//! number of clients makes the broker larger than it is configured to be.
//!
//! Who finds the budget used up waits in line and stops reading from its socket meanwhile: that is
//! the back-pressure. There is one budget for payloads and one for all other requests, so that
//! clients which produce cannot keep others from looking at metadata.
//!
//! What connections hold for answers on their way and for parked requests is counted beside: it is
//! there before anybody could be asked to wait for it. Beyond its bound, large requests wait, and
//! so does whoever holds more than a little.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use strandline_core::budget::{Budget, Pool, PoolSizes};

/// Answers and parked requests may hold this part of what requests may.
const HELD_PART: u64 = 4;

/// The pools of bytes that reservations share.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    shared: Arc<Mutex<Shared>>,
    counts: Arc<Counts>,
}

/// What is looked at without the lock.
#[derive(Debug)]
struct Counts {
    /// How many wait in line.
    waiting: AtomicUsize,
    /// Bytes of [`Held`], and from how many on they are too many.
    held: AtomicU64,
    held_max: u64,
}

/// Bytes that a connection holds for answers and parked requests; none once this is dropped.
#[derive(Debug)]
pub struct Held {
    memory: MemoryBudget,
    bytes: u64,
}

#[derive(Debug)]
struct Shared {
    budget: Budget,
    counts: Arc<Counts>,
    beyond: Beyond,
    next_ticket: u64,
    /// Who waits, by pool and then in the order of arrival.
    waiting: BTreeMap<(Pool, u64), Waker>,
}

/// Bytes that are in use; they are free again when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    shared: Arc<Mutex<Shared>>,
    pool: Pool,
    bytes: u64,
    source: Source,
}

/// Where reserved bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Pool,
    Beyond,
}

/// Whether the one reservation beyond the pools is to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beyond {
    Free,
    Taken,
}

/// Whether whoever asks holds a reservation already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    Anew,
    More,
}

/// A place in the line of those who wait for memory; it is given up when this is dropped.
#[derive(Debug)]
pub struct Ticket {
    shared: Arc<Mutex<Shared>>,
    pool: Pool,
    number: u64,
}

impl MemoryBudget {
    /// Pools of these sizes, all free.
    #[must_use]
    pub fn new(sizes: PoolSizes) -> Self {
        let counts = Arc::new(Counts {
            waiting: AtomicUsize::new(0),
            held: AtomicU64::new(0),
            held_max: sizes.client_bytes / HELD_PART,
        });
        let shared = Shared {
            budget: Budget::new(sizes),
            counts: Arc::clone(&counts),
            beyond: Beyond::Free,
            next_ticket: 0,
            waiting: BTreeMap::new(),
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
            counts,
        }
    }

    /// Whether somebody waits for memory, or connections hold too much of it for answers.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        self.counts.waiting.load(Ordering::Relaxed) > 0 || self.holds_too_much()
    }

    /// Whether connections hold too much for answers and parked requests.
    #[must_use]
    pub fn holds_too_much(&self) -> bool {
        self.counts.held.load(Ordering::SeqCst) >= self.counts.held_max
    }

    /// Whether a pool has so much room that `bytes` may be taken before they arrive: what is only
    /// declared never takes more than half of it.
    #[must_use]
    pub fn has_plenty(&self, pool: Pool, bytes: usize) -> bool {
        let shared = self.shared.lock();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        shared.budget.used(pool).saturating_add(bytes) <= shared.budget.size(pool) / 2
    }

    /// The account of a connection.
    #[must_use]
    pub fn hold(&self) -> Held {
        Held {
            memory: self.clone(),
            bytes: 0,
        }
    }

    /// How much of a pool is in use, in bytes.
    #[must_use]
    pub fn used(&self, pool: Pool) -> u64 {
        self.shared.lock().budget.used(pool)
    }

    /// Reserves `bytes`, waiting in line for them: `ticket` holds the place between two polls. More
    /// than the pool holds in all counts as all of it.
    pub fn poll_reserve(
        &self,
        pool: Pool,
        bytes: usize,
        ticket: &mut Option<Ticket>,
        context: &mut Context<'_>,
    ) -> Poll<Reservation> {
        self.poll_reserve_as(Asking::Anew, pool, bytes, ticket, context)
    }

    /// As [`MemoryBudget::poll_reserve`], for whoever holds a reservation already and needs a
    /// larger one. As many of those could wait for each other, the first in line gets one beyond
    /// the pool, one at a time: see [`Reservation::is_beyond`].
    pub fn poll_reserve_more(
        &self,
        pool: Pool,
        bytes: usize,
        ticket: &mut Option<Ticket>,
        context: &mut Context<'_>,
    ) -> Poll<Reservation> {
        self.poll_reserve_as(Asking::More, pool, bytes, ticket, context)
    }

    fn poll_reserve_as(
        &self,
        asking: Asking,
        pool: Pool,
        bytes: usize,
        ticket: &mut Option<Ticket>,
        context: &mut Context<'_>,
    ) -> Poll<Reservation> {
        let mut shared = self.shared.lock();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let bytes = bytes.min(shared.budget.size(pool));
        let first = shared.first(pool).map(|(number, _)| number);
        let own = ticket
            .as_ref()
            .filter(|ticket| ticket.pool == pool)
            .map(|ticket| ticket.number);
        let is_held_up = pool == Pool::Control && self.holds_too_much();
        let granted = if (first.is_some() && first != own) || is_held_up {
            None
        } else if shared.budget.reserve(pool, bytes).is_ok() {
            Some(Source::Pool)
        } else if asking == Asking::More && shared.beyond == Beyond::Free {
            shared.beyond = Beyond::Taken;
            Some(Source::Beyond)
        } else {
            None
        };
        if let Some(source) = granted {
            drop(shared);
            // Gives the place up, and lets the next one look.
            *ticket = None;
            return Poll::Ready(Reservation {
                shared: Arc::clone(&self.shared),
                pool,
                bytes,
                source,
            });
        }
        let number = own.unwrap_or(shared.next_ticket);
        shared
            .waiting
            .insert((pool, number), context.waker().clone());
        shared.count_waiting();
        if own.is_none() {
            shared.next_ticket += 1;
            drop(shared);
            *ticket = Some(Ticket {
                shared: Arc::clone(&self.shared),
                pool,
                number,
            });
        }
        Poll::Pending
    }
}

impl Shared {
    fn first(&self, pool: Pool) -> Option<(u64, &Waker)> {
        self.waiting
            .range((pool, 0)..=(pool, u64::MAX))
            .next()
            .map(|((_, number), waker)| (*number, waker))
    }

    fn count_waiting(&self) {
        self.counts
            .waiting
            .store(self.waiting.len(), Ordering::Relaxed);
    }

    fn wake_next(&self, pool: Pool) {
        if let Some((_, waker)) = self.first(pool) {
            waker.wake_by_ref();
        }
    }
}

impl Reservation {
    /// Whether it is beyond the pool. It serves for a whole frame then, whatever was asked for, so
    /// that its holder never has to wait again.
    #[must_use]
    pub fn is_beyond(&self) -> bool {
        self.source == Source::Beyond
    }
}

impl Held {
    /// How much it is, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// It is so much now.
    pub fn set(&mut self, bytes: u64) {
        let counts = &self.memory.counts;
        if bytes > self.bytes {
            counts.held.fetch_add(bytes - self.bytes, Ordering::SeqCst);
        } else {
            let less = self.bytes - bytes;
            let before = counts.held.fetch_sub(less, Ordering::SeqCst);
            let max = counts.held_max;
            if before >= max && before.saturating_sub(less) < max {
                self.memory.shared.lock().wake_next(Pool::Control);
            }
        }
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut shared = self.shared.lock();
        match self.source {
            Source::Pool => {
                shared.budget.release(self.pool, self.bytes);
                shared.wake_next(self.pool);
            }
            Source::Beyond => {
                shared.beyond = Beyond::Free;
                for pool in Pool::ALL {
                    shared.wake_next(pool);
                }
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut shared = self.shared.lock();
        shared.waiting.remove(&(self.pool, self.number));
        shared.count_waiting();
        shared.wake_next(self.pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: PoolSizes = PoolSizes {
        client_bytes: 100,
        replication_bytes: 10,
        control_bytes: 10,
    };

    fn reserve(
        budget: &MemoryBudget,
        bytes: usize,
        ticket: &mut Option<Ticket>,
    ) -> Option<Reservation> {
        let context = &mut Context::from_waker(Waker::noop());
        match budget.poll_reserve(Pool::Client, bytes, ticket, context) {
            Poll::Ready(reservation) => Some(reservation),
            Poll::Pending => None,
        }
    }

    #[test]
    fn those_who_wait_are_served_in_order() {
        let budget = MemoryBudget::new(SIZES);
        let held = reserve(&budget, 80, &mut None).unwrap();
        let (mut first, mut second) = (None, None);
        assert!(reserve(&budget, 50, &mut first).is_none());
        // Ten bytes would fit, but somebody is before.
        assert!(reserve(&budget, 10, &mut second).is_none());
        drop(held);
        assert!(reserve(&budget, 10, &mut second).is_none());
        let _served = reserve(&budget, 50, &mut first).unwrap();
        assert!(first.is_none());
        assert!(reserve(&budget, 10, &mut second).is_some());
    }

    #[test]
    fn whoever_leaves_the_line_lets_the_next_one_pass() {
        let budget = MemoryBudget::new(SIZES);
        let _held = reserve(&budget, 80, &mut None).unwrap();
        let (mut first, mut second) = (None, None);
        assert!(reserve(&budget, 50, &mut first).is_none());
        assert!(reserve(&budget, 10, &mut second).is_none());
        drop(first);
        assert!(reserve(&budget, 10, &mut second).is_some());
    }

    #[test]
    fn large_requests_wait_while_answers_hold_too_much() {
        let budget = MemoryBudget::new(SIZES);
        let context = &mut Context::from_waker(Waker::noop());
        let (mut held, mut ticket) = (budget.hold(), None);
        held.set(24);
        assert!(!budget.is_scarce());
        held.set(25);
        assert!(budget.is_scarce());
        let control = budget.poll_reserve(Pool::Control, 5, &mut ticket, context);
        assert!(control.is_pending());
        // Who produces does not wait for who does not read.
        assert!(reserve(&budget, 5, &mut None).is_some());
        drop(held);
        assert!(budget.is_scarce(), "somebody waits");
        let control = budget.poll_reserve(Pool::Control, 5, &mut ticket, context);
        assert!(control.is_ready() && !budget.is_scarce());
    }

    #[test]
    fn those_who_hold_and_wait_do_not_wait_for_each_other() {
        let budget = MemoryBudget::new(SIZES);
        let context = &mut Context::from_waker(Waker::noop());
        let _held = [50, 50].map(|bytes| reserve(&budget, bytes, &mut None).unwrap());
        let (mut first, mut second) = (None, None);
        let mut more = |ticket: &mut Option<Ticket>| {
            budget.poll_reserve_more(Pool::Client, 60, ticket, context)
        };
        let Poll::Ready(beyond) = more(&mut first) else {
            panic!("the first in line goes on");
        };
        assert!(beyond.is_beyond());
        assert!(more(&mut second).is_pending());
        drop(beyond);
        assert!(more(&mut second).is_ready());
    }

    #[test]
    fn what_is_declared_takes_no_more_than_half() {
        let budget = MemoryBudget::new(SIZES);
        assert!(budget.has_plenty(Pool::Client, 50));
        assert!(!budget.has_plenty(Pool::Client, 51));
        let _held = reserve(&budget, 20, &mut None).unwrap();
        assert!(budget.has_plenty(Pool::Client, 30));
        assert!(!budget.has_plenty(Pool::Client, 31));
    }

    #[test]
    fn more_than_all_is_all() {
        let budget = MemoryBudget::new(SIZES);
        let all = reserve(&budget, 1_000, &mut None).unwrap();
        assert_eq!(budget.used(Pool::Client), 100);
        drop(all);
        assert_eq!(budget.used(Pool::Client), 0);
    }
}
