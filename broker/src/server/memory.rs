//! Memory that requests hold while they are in flight: reserved before it is allocated, so that no
//! number of clients makes the broker larger than it is configured to be.
//!
//! Who finds the budget used up waits in line and stops reading from its socket meanwhile: that is
//! the back-pressure. There is one budget for payloads and one for all other requests, so that
//! clients which produce cannot keep others from looking at metadata.

use std::{
    collections::BTreeMap,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use strandline_core::budget::{Budget, Pool, PoolSizes};

/// The pools of bytes that reservations share.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    budget: Budget,
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
        let shared = Shared {
            budget: Budget::new(sizes),
            next_ticket: 0,
            waiting: BTreeMap::new(),
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
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
        let mut shared = self.shared.lock();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let bytes = bytes.min(shared.budget.size(pool));
        let first = shared.first(pool).map(|(number, _)| number);
        let own = ticket
            .as_ref()
            .filter(|ticket| ticket.pool == pool)
            .map(|ticket| ticket.number);
        if (first.is_none() || first == own) && shared.budget.reserve(pool, bytes).is_ok() {
            drop(shared);
            // Gives the place up, and lets the next one look.
            *ticket = None;
            return Poll::Ready(Reservation {
                shared: Arc::clone(&self.shared),
                pool,
                bytes,
            });
        }
        let number = own.unwrap_or(shared.next_ticket);
        shared
            .waiting
            .insert((pool, number), context.waker().clone());
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

    fn wake_next(&self, pool: Pool) {
        if let Some((_, waker)) = self.first(pool) {
            waker.wake_by_ref();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut shared = self.shared.lock();
        shared.budget.release(self.pool, self.bytes);
        shared.wake_next(self.pool);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut shared = self.shared.lock();
        shared.waiting.remove(&(self.pool, self.number));
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
    fn more_than_all_is_all() {
        let budget = MemoryBudget::new(SIZES);
        let all = reserve(&budget, 1_000, &mut None).unwrap();
        assert_eq!(budget.used(Pool::Client), 100);
        drop(all);
        assert_eq!(budget.used(Pool::Client), 0);
    }
}
