//! Requests of one connection that wait for something: an fsync, data to arrive, a metadata change.
//!
//! *Pattern: request pipeline.* A parked request blocks nobody behind it; its answer leaves when it
//! is there, and the correlation id says which one it is.

use std::collections::BTreeSet;

use tokio::time::Instant;

/// Where a parked request is kept. A slot is used again, its generation is not: what arrives late
/// for an earlier request is recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    index: usize,
    generation: u64,
}

/// The parked requests.
#[derive(Debug)]
pub struct Parked<T> {
    slots: Vec<(u64, Option<Entry<T>>)>,
    free: Vec<usize>,
    deadlines: BTreeSet<(Instant, usize)>,
    generation: u64,
}

#[derive(Debug)]
struct Entry<T> {
    request: T,
    deadline: Option<Instant>,
}

impl<T> Default for Parked<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            deadlines: BTreeSet::new(),
            generation: 0,
        }
    }
}

impl<T> Parked<T> {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slot that the next [`Parked::park`] takes, for tokens that have to exist before.
    #[must_use]
    pub fn next_slot(&self) -> Slot {
        Slot {
            index: self.free.last().copied().unwrap_or(self.slots.len()),
            generation: self.generation.saturating_add(1),
        }
    }

    /// Parks a request until it is taken, or until its deadline if it has one.
    pub fn park(&mut self, request: T, deadline: Option<Instant>) -> Slot {
        let slot = self.next_slot();
        self.generation = slot.generation;
        let entry = Some(Entry { request, deadline });
        self.free.pop();
        if let Some(free) = self.slots.get_mut(slot.index) {
            *free = (slot.generation, entry);
        } else {
            self.slots.push((slot.generation, entry));
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, slot.index));
        }
        slot
    }

    /// The request in the slot, if it is still there.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        match self.slots.get_mut(slot.index) {
            Some((generation, Some(entry))) if *generation == slot.generation => {
                Some(&mut entry.request)
            }
            _ => None,
        }
    }

    /// Takes the request out of the slot, if it is still there.
    pub fn take(&mut self, slot: Slot) -> Option<T> {
        let (generation, entry) = self.slots.get_mut(slot.index)?;
        if *generation != slot.generation {
            return None;
        }
        let entry = entry.take()?;
        self.free.push(slot.index);
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, slot.index));
        }
        Some(entry.request)
    }

    /// Every slot that is taken.
    #[must_use]
    pub fn slots(&self) -> Vec<Slot> {
        let taken = |(index, (generation, entry)): (usize, &(u64, Option<Entry<T>>))| {
            entry.as_ref().map(|_| Slot {
                index,
                generation: *generation,
            })
        };
        self.slots.iter().enumerate().filter_map(taken).collect()
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// A request whose deadline has come.
    #[must_use]
    pub fn expired(&self, now: Instant) -> Option<Slot> {
        let (deadline, index) = *self.deadlines.first()?;
        let (generation, _) = self.slots.get(index)?;
        (deadline <= now).then_some(Slot {
            index,
            generation: *generation,
        })
    }

    /// Takes all of them.
    pub fn drain(&mut self) -> Vec<T> {
        self.free.clear();
        self.deadlines.clear();
        let slots = std::mem::take(&mut self.slots);
        slots
            .into_iter()
            .filter_map(|(_, entry)| entry)
            .map(|entry| entry.request)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn late_news_for_an_earlier_request_is_recognised() {
        let mut parked = Parked::default();
        let first = parked.park("first", None);
        assert_eq!(parked.take(first), Some("first"));
        let second = parked.park("second", None);
        assert_eq!(parked.take(first), None);
        assert_eq!(parked.take(second), Some("second"));
        assert!(parked.is_empty());
    }

    #[test]
    fn deadlines_come_in_order() {
        let mut parked = Parked::default();
        let now = Instant::now();
        let later = parked.park("later", Some(now + Duration::from_secs(2)));
        let soon = parked.park("soon", Some(now + Duration::from_secs(1)));
        assert_eq!(parked.expired(now), None);
        assert_eq!(parked.next_deadline(), Some(now + Duration::from_secs(1)));
        assert_eq!(parked.expired(now + Duration::from_secs(3)), Some(soon));
        parked.take(soon);
        assert_eq!(parked.expired(now + Duration::from_secs(3)), Some(later));
    }
}
