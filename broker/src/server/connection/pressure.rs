//! What keeps one connection from taking what others need: memory that it holds without going on,
//! and processor time for requests that name thousands of things.
//!
//! None of this applies to a connection whose requests and answers are small and are taken: it only
//! touches those that hold a shared buffer or more than [`FREE_BYTES`].

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::server::memory::{Held, MemoryBudget};

/// What a connection may hold for answers and parked requests whatever others hold, in bytes.
pub const FREE_BYTES: u64 = 64 << 10;

/// A change of what is held is told once it is this large, in bytes.
const TOLD_BYTES: u64 = 16 << 10;

/// A parked request takes about so many times the size of its message.
const PARKED_FACTOR: usize = 3;

/// How often a connection that holds what others may need is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How much has to move between two looks while memory is scarce, in bytes.
const PROGRESS_BYTES: u64 = 64 << 10;

/// How many looks in a row may find less: on a connection that could go on, and on one that is
/// itself kept waiting.
const LOOKS_STALLED_MAX: u32 = 2;
const LOOKS_WAITING_MAX: u32 = 12;

/// A message of more bytes waits for its turn; smaller ones cost too little to matter.
pub const LARGE_MESSAGE_BYTES: usize = 16 << 10;

/// Large messages take one in so many parts of a processor's time.
const TURN_PART: u32 = 5;

/// Upon what it depends that a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// Upon the peer.
    Peer,
    /// Upon memory, or its turn: neither may be long in coming.
    Share,
    /// Upon work that is done for it, such as a flush.
    Work,
}

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It was too early, or all is well.
    Fine,
    /// Others wait for what the connection holds: let go what can be let go.
    Scarce,
    /// It has been so for too long, and nothing moves.
    Stalled,
}

/// What one connection holds, and whether it goes on.
#[derive(Debug)]
pub struct Pressure {
    memory: MemoryBudget,
    held: Held,
    parked_bytes: u64,
    /// What it holds in all, as last counted.
    bytes: u64,
    next_look: Option<Instant>,
    /// Bytes that had moved at the last look.
    moved: u64,
    stalled: u32,
}

impl Pressure {
    /// That of a new connection.
    #[must_use]
    pub fn new(memory: &MemoryBudget) -> Self {
        Self {
            memory: memory.clone(),
            held: memory.hold(),
            parked_bytes: 0,
            bytes: 0,
            next_look: None,
            moved: 0,
            stalled: 0,
        }
    }

    /// A request whose message has so many bytes was parked.
    pub fn parked(&mut self, message_bytes: usize) {
        self.parked_bytes = self.parked_bytes.saturating_add(cost(message_bytes));
    }

    /// It is parked no more.
    pub fn unparked(&mut self, message_bytes: usize) {
        self.parked_bytes = self.parked_bytes.saturating_sub(cost(message_bytes));
    }

    /// Counts what the connection holds, `answer_bytes` of it for answers. Returns whether it may
    /// come to hold more.
    pub fn may_hold_more(&mut self, answer_bytes: usize) -> bool {
        let answers = u64::try_from(answer_bytes).unwrap_or(u64::MAX);
        let bytes = self.parked_bytes.saturating_add(answers);
        self.bytes = bytes;
        if bytes.abs_diff(self.held.bytes()) >= TOLD_BYTES || bytes == 0 && self.held.bytes() > 0 {
            self.held.set(bytes);
        }
        bytes <= FREE_BYTES || !self.memory.holds_too_much()
    }

    /// Whether it holds more than is nobody's business.
    #[must_use]
    pub const fn holds_much(&self) -> bool {
        self.bytes > FREE_BYTES
    }

    /// When the next look is due.
    #[must_use]
    pub const fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// The connection holds nothing that others may need.
    pub const fn at_ease(&mut self) {
        self.next_look = None;
        self.stalled = 0;
    }

    /// Looks whether a connection goes on that holds what others may need; `moved` bytes have gone
    /// in and out of it so far.
    pub fn look(&mut self, now: Instant, moved: u64, awaited: Awaited) -> Look {
        let Some(due) = self.next_look else {
            self.next_look = Some(now + LOOK_INTERVAL);
            self.moved = moved;
            return Look::Fine;
        };
        if now < due {
            return Look::Fine;
        }
        self.next_look = Some(now + LOOK_INTERVAL);
        let progress = moved.saturating_sub(self.moved);
        self.moved = moved;
        if !self.memory.is_scarce() {
            self.stalled = 0;
            return Look::Fine;
        }
        if progress >= PROGRESS_BYTES || awaited == Awaited::Work {
            self.stalled = 0;
            return Look::Scarce;
        }
        self.stalled = self.stalled.saturating_add(1);
        let most = match awaited {
            Awaited::Share => LOOKS_WAITING_MAX,
            _ => LOOKS_STALLED_MAX,
        };
        if self.stalled >= most {
            Look::Stalled
        } else {
            Look::Scarce
        }
    }
}

fn cost(message_bytes: usize) -> u64 {
    u64::try_from(message_bytes.saturating_mul(PARKED_FACTOR)).unwrap_or(u64::MAX)
}

/// Whose turn it is among large messages, over all connections.
#[derive(Debug)]
pub struct Turns {
    next: Mutex<Instant>,
}

impl Turns {
    /// The first one is at once.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            next: Mutex::new(now),
        }
    }

    /// Takes the turn, or tells when to come again.
    ///
    /// # Errors
    /// The time.
    pub fn take(&self, now: Instant) -> Result<(), Instant> {
        let mut next = self.next.lock();
        if now < *next {
            return Err(*next);
        }
        *next = now;
        Ok(())
    }

    /// The turn took so long.
    pub fn took(&self, time: Duration) {
        let mut next = self.next.lock();
        *next += time * TURN_PART;
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use strandline_core::budget::{Pool, PoolSizes};

    use super::*;

    fn memory() -> MemoryBudget {
        MemoryBudget::new(PoolSizes {
            client_bytes: 1 << 20,
            replication_bytes: 0,
            control_bytes: 1 << 20,
        })
    }

    #[test]
    fn who_stalls_while_others_wait_is_told_from_who_goes_on() {
        let memory = memory();
        let (mut stalls, mut goes_on) = (Pressure::new(&memory), Pressure::new(&memory));
        let mut now = Instant::now();
        let mut look = |now, moved| {
            let first = stalls.look(now, 10, Awaited::Peer);
            (first, goes_on.look(now, moved, Awaited::Peer))
        };
        assert_eq!(look(now, 0), (Look::Fine, Look::Fine));
        now += LOOK_INTERVAL;
        // Nobody waits.
        assert_eq!(look(now, 0), (Look::Fine, Look::Fine));
        let context = &mut Context::from_waker(Waker::noop());
        let all = memory.poll_reserve(Pool::Client, 1 << 20, &mut None, context);
        let mut ticket = None;
        let next = memory.poll_reserve(Pool::Client, 1, &mut ticket, context);
        assert!(next.is_pending());
        now += LOOK_INTERVAL;
        assert_eq!(look(now, 1 << 20), (Look::Scarce, Look::Scarce));
        now += LOOK_INTERVAL;
        assert_eq!(look(now, 2 << 20), (Look::Stalled, Look::Scarce));
        drop(all);
    }

    #[test]
    fn little_is_free_and_much_depends_on_the_others() {
        let memory = memory();
        let (mut hog, mut small) = (Pressure::new(&memory), Pressure::new(&memory));
        assert!(hog.may_hold_more(100 << 10));
        hog.parked(100 << 10);
        assert!(!hog.may_hold_more(100 << 10));
        assert!(hog.holds_much() && !small.holds_much());
        assert!(small.may_hold_more(60 << 10));
        hog.unparked(100 << 10);
        assert!(hog.may_hold_more(0));
    }

    #[test]
    fn large_messages_take_turns() {
        let now = Instant::now();
        let turns = Turns::new(now);
        assert_eq!(turns.take(now), Ok(()));
        turns.took(Duration::from_millis(2));
        let next = now + Duration::from_millis(10);
        assert_eq!(turns.take(now), Err(next));
        assert_eq!(turns.take(next), Ok(()));
    }
}
