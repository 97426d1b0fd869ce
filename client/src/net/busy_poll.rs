//! Staying awake for what comes in a moment.
//!
//! To wake a thread that sleeps takes tens of microseconds, several times what a small request
//! takes by itself, and whoever sends one request at a time waits for that twice. A task that has
//! just been answered quickly therefore looks a little longer before its thread sleeps; others on
//! the thread run in between. It pays at most [`AWAKE_MAX`] of a core for it, once: what did not
//! come in that time is waited for asleep, until something comes as quickly again. One task of a
//! process stays awake at a time, as the peer may need the other core.

use std::{
    future::Future as _,
    pin::pin,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::Context,
    thread::available_parallelism,
    time::{Duration, Instant},
};

/// How long a task stays awake. More than a peer takes that has to be woken up first.
const AWAKE_MAX: Duration = Duration::from_micros(100);

/// The most that counts as small, in bytes: more than this keeps cores busy by itself.
const SMALL_BYTES: usize = 16 << 10;

/// Whether a task of this process stays awake.
static AWAKE: AtomicBool = AtomicBool::new(false);

/// Decides for one task whether it stays awake.
#[derive(Debug, Default)]
pub struct BusyPoll {
    /// Since when there has been nothing to do.
    since: Option<Instant>,
    /// Whether what came last was small and came quickly.
    was_quick: bool,
    turn: Option<Turn>,
}

/// The right to stay awake.
#[derive(Debug)]
struct Turn;

impl Turn {
    fn take() -> Option<Self> {
        static ALLOWED: OnceLock<bool> = OnceLock::new();
        // With one core the peer could not run; in a simulation no time would pass.
        let allowed = *ALLOWED.get_or_init(|| {
            !cfg!(strandline_sim) && available_parallelism().is_ok_and(|cores| cores.get() > 1)
        });
        (allowed && !AWAKE.swap(true, Ordering::Relaxed)).then_some(Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        AWAKE.store(false, Ordering::Relaxed);
    }
}

impl BusyPoll {
    /// Bytes have arrived.
    pub fn arrived(&mut self, bytes: usize) {
        let waited = self.since.take().map(|since| since.elapsed());
        self.was_quick = bytes <= SMALL_BYTES && waited.is_some_and(|waited| waited <= AWAKE_MAX);
        self.turn = None;
    }

    /// Something was sent: what comes next is the answer to it.
    pub const fn sent(&mut self) {
        self.since = None;
    }

    /// There is nothing to do until something arrives; to be called last in a poll that returns
    /// pending. Sees to it that the task is polled again if it had better stay awake.
    pub fn rest(&mut self, context: &mut Context<'_>) {
        let since = *self.since.get_or_insert_with(Instant::now);
        if !self.was_quick {
            return;
        }
        if since.elapsed() > AWAKE_MAX {
            self.was_quick = false;
            self.turn = None;
            return;
        }
        if self.turn.is_none() {
            self.turn = Turn::take();
        }
        if self.turn.is_some() {
            // Polled once, it has the task polled again after the sockets were looked at.
            let _ = pin!(tokio::task::yield_now()).poll(context);
        }
    }

    /// Nothing is awaited.
    pub fn pause(&mut self) {
        self.since = None;
        self.turn = None;
    }

    /// Something slow is awaited, such as a disk, which takes the core better than this task does.
    pub fn sleep(&mut self) {
        self.pause();
        self.was_quick = false;
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    /// How often a task is polled that rests for some milliseconds: at their begin and their end,
    /// or more often.
    async fn polls(busy: &mut BusyPoll) -> usize {
        let mut count = 0;
        let resting = std::future::poll_fn(|context| {
            count += 1;
            busy.rest(context);
            Poll::<()>::Pending
        });
        let _ = tokio::time::timeout(Duration::from_millis(5), resting).await;
        count
    }

    #[tokio::test]
    async fn only_what_came_quickly_keeps_awake_and_only_once() {
        let mut busy = BusyPoll::default();
        assert_eq!(polls(&mut busy).await, 2, "nothing is known yet");
        busy.arrived(100);
        assert_eq!(polls(&mut busy).await, 2, "it came late");
        busy.sent();
        busy.since = Some(Instant::now());
        busy.arrived(100);
        let awake = polls(&mut busy).await;
        let cores = available_parallelism().unwrap().get();
        assert_eq!(awake > 2, cores > 1, "{awake} polls on {cores} cores");
        assert_eq!(polls(&mut busy).await, 2, "it did not come");
        busy.since = Some(Instant::now());
        busy.arrived(1 << 20);
        assert_eq!(polls(&mut busy).await, 2, "it was large");
    }
}
