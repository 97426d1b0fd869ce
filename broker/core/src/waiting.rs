//! Who waits for what, until when.
//!
//! *Pattern: request waiting list.* A request that cannot be answered yet is data: a condition on
//! the positions of keys, a deadline, and a token by which the driver finds the reply. `acks=all`
//! waits for high watermarks, a long poll for bytes, a proposal for its commit: one list serves
//! all.
//!
//! A position only grows. What it counts is the caller's choice, one meaning per list: offsets for
//! acknowledgements, bytes ever made visible for long polls.
//!
//! Parking and advancing must be serialised with the change of the position itself (one lock), or
//! the list must have been told of the position before: a key's last position is remembered, and
//! parking for what is already reached hands the token straight back.

use std::collections::{BTreeMap, BTreeSet};

/// What a token waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition<K> {
    /// Every key has reached its position.
    All(Vec<(K, i64)>),
    /// The keys have moved on from the given positions by at least `growth` taken together.
    Sum {
        /// From where each counts; each key once.
        from: Vec<(K, i64)>,
        /// How much is worth waking up for.
        growth: i64,
    },
}

/// Names a parked token, to take it back with [`WaitingList::cancel`]. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What became of a token that was to be parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parked<T> {
    /// It waits.
    Waiting(Ticket),
    /// Its condition already holds.
    Ready(T),
}

/// Parked tokens. `I` is the caller's instant. Every operation costs O(log n) per key of the tokens
/// that it touches; time does not matter to tokens that are not due.
#[derive(Clone, Debug)]
pub struct WaitingList<K, T, I> {
    next_ticket: u64,
    waiters: BTreeMap<Ticket, Waiter<K, T, I>>,
    by_deadline: BTreeSet<(I, Ticket)>,
    keys: BTreeMap<K, Watched>,
}

#[derive(Clone, Debug)]
struct Waiter<K, T, I> {
    token: T,
    deadline: I,
    need: Need<K>,
}

/// What is still missing. The alarms of each key lie in [`Watched::alarms`].
#[derive(Clone, Debug)]
enum Need<K> {
    All {
        /// The keys that have not reached their position.
        missing: BTreeMap<K, i64>,
    },
    Sum {
        from: BTreeMap<K, i64>,
        growth: i64,
        /// Where each key's alarm lies.
        alarms: BTreeMap<K, i64>,
    },
}

#[derive(Clone, Debug, Default)]
struct Watched {
    position: Option<i64>,
    alarms: BTreeSet<(i64, Ticket)>,
}

impl<K: Ord + Clone, T, I: Ord + Copy> Default for WaitingList<K, T, I> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord + Clone, T, I: Ord + Copy> WaitingList<K, T, I> {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            next_ticket: 0,
            waiters: BTreeMap::new(),
            by_deadline: BTreeSet::new(),
            keys: BTreeMap::new(),
        }
    }

    /// How many tokens wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// The earliest deadline: when the driver should call [`WaitingList::expire`] next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<I> {
        self.by_deadline.first().map(|&(deadline, _)| deadline)
    }

    /// Parks `token` until `condition` holds, `deadline` passes or one of its keys is removed.
    pub fn park(&mut self, token: T, deadline: I, condition: Condition<K>) -> Parked<T> {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let need = match condition {
            Condition::All(keys) => self.need_all(keys),
            Condition::Sum { from, growth } => Need::Sum {
                from: from.into_iter().collect(),
                growth,
                alarms: BTreeMap::new(),
            },
        };
        let mut waiter = Waiter {
            token,
            deadline,
            need,
        };
        if self.arm(ticket, &mut waiter.need) == Armed::Holds {
            return Parked::Ready(waiter.token);
        }
        self.by_deadline.insert((deadline, ticket));
        self.waiters.insert(ticket, waiter);
        Parked::Waiting(ticket)
    }

    /// `key` has reached `position`; a smaller one than before is ignored. Returns the tokens whose
    /// conditions hold now, in the order in which they were parked.
    pub fn advance(&mut self, key: &K, position: i64) -> Vec<T> {
        let Some(watched) = self.keys.get_mut(key) else {
            self.keys.insert(
                key.clone(),
                Watched {
                    position: Some(position),
                    alarms: BTreeSet::new(),
                },
            );
            return Vec::new();
        };
        if watched.position.is_some_and(|before| position <= before) {
            return Vec::new();
        }
        watched.position = Some(position);
        // Everything up to `position` has rung; what lies beyond stays.
        let mut ringing = BTreeSet::new();
        while let Some(&(at, ticket)) = watched.alarms.first() {
            if at > position {
                break;
            }
            watched.alarms.pop_first();
            ringing.insert(ticket);
        }
        ringing
            .into_iter()
            .filter_map(|ticket| self.ring(ticket, key))
            .collect()
    }

    /// Takes out the tokens whose deadline is at or before `now`, earliest first.
    pub fn expire(&mut self, now: I) -> Vec<T> {
        let mut expired = Vec::new();
        while let Some(&(deadline, ticket)) = self.by_deadline.first() {
            if deadline > now {
                break;
            }
            expired.extend(self.cancel(ticket));
        }
        expired
    }

    /// Forgets `key` (its partition moved away or was deleted) and takes out every token that waits
    /// for it, as none of them can be answered as it was meant.
    pub fn remove_key(&mut self, key: &K) -> Vec<T> {
        let Some(watched) = self.keys.remove(key) else {
            return Vec::new();
        };
        let tickets: BTreeSet<Ticket> = watched
            .alarms
            .into_iter()
            .map(|(_, ticket)| ticket)
            .collect();
        tickets
            .into_iter()
            .filter_map(|ticket| self.cancel(ticket))
            .collect()
    }

    /// Takes back a token that waits, because nobody wants its answer any more.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<T> {
        let waiter = self.waiters.remove(&ticket)?;
        self.by_deadline.remove(&(waiter.deadline, ticket));
        self.disarm(ticket, &waiter.need);
        Some(waiter.token)
    }

    /// Takes out every token, in the order in which they were parked: the broker stops.
    pub fn drain(&mut self) -> Vec<T> {
        let tickets: Vec<Ticket> = self.waiters.keys().copied().collect();
        tickets
            .into_iter()
            .filter_map(|ticket| self.cancel(ticket))
            .collect()
    }

    fn position(&self, key: &K) -> Option<i64> {
        self.keys.get(key).and_then(|watched| watched.position)
    }

    /// How far `key` is, as seen by somebody who has seen it at `from`.
    fn reached(&self, key: &K, from: i64) -> i64 {
        self.position(key)
            .map_or(from, |position| position.max(from))
    }

    fn need_all(&self, keys: Vec<(K, i64)>) -> Need<K> {
        let mut missing: BTreeMap<K, i64> = BTreeMap::new();
        for (key, at_least) in keys {
            if self
                .position(&key)
                .is_none_or(|position| position < at_least)
            {
                // A key that is named twice has to reach the further position.
                let further = missing.get(&key).map_or(at_least, |at| at_least.max(*at));
                missing.insert(key, further);
            }
        }
        Need::All { missing }
    }

    /// One of the waiter's alarms, at `key`, has gone off. Returns its token if the condition
    /// holds.
    fn ring(&mut self, ticket: Ticket, key: &K) -> Option<T> {
        let mut waiter = self.waiters.remove(&ticket)?;
        let armed = match &mut waiter.need {
            Need::All { missing } => {
                missing.remove(key);
                if missing.is_empty() {
                    Armed::Holds
                } else {
                    Armed::Waits
                }
            }
            Need::Sum { .. } => {
                self.disarm(ticket, &waiter.need);
                self.arm(ticket, &mut waiter.need)
            }
        };
        if armed == Armed::Waits {
            self.waiters.insert(ticket, waiter);
            return None;
        }
        self.by_deadline.remove(&(waiter.deadline, ticket));
        Some(waiter.token)
    }

    /// Sets the alarms of a waiter, unless its condition holds.
    ///
    /// A sum over k keys that lacks r cannot be reached before one of them has moved on by r/k: an
    /// alarm there on each key is enough, and every time that one rings the rest has shrunk by the
    /// k-th part. So a key that moves in small steps does not touch its waiters at each of them.
    fn arm(&mut self, ticket: Ticket, need: &mut Need<K>) -> Armed {
        match need {
            Need::All { missing } => {
                if missing.is_empty() {
                    return Armed::Holds;
                }
                for (key, at) in missing.iter() {
                    self.watch(key).alarms.insert((*at, ticket));
                }
            }
            Need::Sum {
                from,
                growth,
                alarms,
            } => {
                let grown: i64 = from
                    .iter()
                    .map(|(key, from)| self.reached(key, *from).saturating_sub(*from))
                    .fold(0, i64::saturating_add);
                let lacking = growth.saturating_sub(grown);
                if lacking <= 0 {
                    return Armed::Holds;
                }
                let keys = i64::try_from(from.len()).unwrap_or(i64::MAX).max(1);
                let step = (lacking - 1) / keys + 1;
                for (key, from) in from.iter() {
                    let at = self.reached(key, *from).saturating_add(step);
                    self.watch(key).alarms.insert((at, ticket));
                    alarms.insert(key.clone(), at);
                }
            }
        }
        Armed::Waits
    }

    fn disarm(&mut self, ticket: Ticket, need: &Need<K>) {
        let (Need::All { missing: alarms } | Need::Sum { alarms, .. }) = need;
        for (key, at) in alarms {
            if let Some(watched) = self.keys.get_mut(key) {
                watched.alarms.remove(&(*at, ticket));
            }
        }
    }

    fn watch(&mut self, key: &K) -> &mut Watched {
        self.keys.entry(key.clone()).or_default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Armed {
    Waits,
    Holds,
}

#[cfg(test)]
mod tests {
    use super::*;

    type List = WaitingList<&'static str, u32, u64>;

    fn sum(from: &[(&'static str, i64)], growth: i64) -> Condition<&'static str> {
        Condition::Sum {
            from: from.to_vec(),
            growth,
        }
    }

    #[test]
    fn all_waits_for_every_key() {
        let mut list = List::new();
        assert!(matches!(
            list.park(1, 100, Condition::All(vec![("a", 5), ("b", 2)])),
            Parked::Waiting(_)
        ));
        assert_eq!(list.advance(&"a", 5), []);
        assert_eq!(list.advance(&"b", 1), []);
        assert_eq!(list.advance(&"b", 3), [1]);
        assert!(list.is_empty());
        assert_eq!(list.next_deadline(), None);
        // What is already reached is handed straight back.
        assert_eq!(
            list.park(2, 100, Condition::All(vec![("a", 4), ("b", 3)])),
            Parked::Ready(2)
        );
        assert_eq!(list.park(3, 100, Condition::All(vec![])), Parked::Ready(3));
    }

    #[test]
    fn a_sum_wakes_at_its_growth_and_not_before() {
        let mut list = List::new();
        list.advance(&"a", 10);
        assert!(matches!(
            list.park(1, 100, sum(&[("a", 10), ("b", 0)], 7)),
            Parked::Waiting(_)
        ));
        assert_eq!(list.advance(&"a", 13), []);
        assert_eq!(list.advance(&"b", 3), []);
        assert_eq!(list.advance(&"a", 14), [1]);
        // It grew between the caller's look and its parking.
        assert_eq!(list.park(2, 100, sum(&[("a", 13)], 1)), Parked::Ready(2));
    }

    #[test]
    fn deadlines_and_removed_keys_take_tokens_out_once() {
        let mut list = List::new();
        list.park(1, 20, Condition::All(vec![("a", 5), ("b", 5)]));
        list.park(2, 10, sum(&[("a", 0)], 5));
        let Parked::Waiting(third) = list.park(3, 30, Condition::All(vec![("b", 5)])) else {
            panic!("it waits")
        };
        assert_eq!(list.next_deadline(), Some(10));
        assert_eq!(list.expire(9), []);
        assert_eq!(list.expire(10), [2]);
        assert_eq!(list.remove_key(&"a"), [1]);
        assert_eq!(list.cancel(third), Some(3));
        assert_eq!(list.cancel(third), None);
        assert_eq!(list.advance(&"b", 9), []);
        assert!(list.is_empty());
    }
}
