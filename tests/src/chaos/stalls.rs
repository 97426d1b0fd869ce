//! How long this process itself stood still: on a machine that is busy with other things, what
//! looks like a slow broker may be a slow machine.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

/// How often it is looked.
const TICK: Duration = Duration::from_millis(10);

/// Watches from its creation on.
#[derive(Debug)]
pub struct Stalls {
    longest_us: Arc<AtomicU64>,
    watching: JoinHandle<()>,
}

impl Stalls {
    /// Begins to watch.
    #[must_use]
    pub fn watch() -> Self {
        let longest_us = Arc::new(AtomicU64::new(0));
        let longest = Arc::clone(&longest_us);
        let watching = tokio::spawn(async move {
            loop {
                let before = Instant::now();
                tokio::time::sleep(TICK).await;
                let late = before.elapsed().saturating_sub(TICK);
                let late = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
                longest.fetch_max(late, Ordering::Relaxed);
            }
        });
        Self {
            longest_us,
            watching,
        }
    }

    /// By how much a pause of 10 ms was longer than that, at most, since the last call.
    #[must_use]
    pub fn take(&self) -> Duration {
        Duration::from_micros(self.longest_us.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.watching.abort();
    }
}
