//! The one place where tasks and blocking work start.
//!
//! Tasks stay `Send`, so that a work-stealing runtime, a pinned one and the simulation can run
//! them. In the simulation there are no threads: blocking work runs where it is asked for.

use std::future::Future;

use tokio::task::JoinHandle;

/// Whether work that blocks may have threads of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// Blocking work runs on threads.
    Allowed,
    /// Everything runs on the runtime's thread, as a deterministic simulation needs it.
    None,
}

impl Threads {
    /// What this build uses: none in the simulation.
    #[must_use]
    pub const fn of_this_build() -> Self {
        if cfg!(strandline_sim) {
            Self::None
        } else {
            Self::Allowed
        }
    }
}

/// Tasks that end with the broker. Dropped, they are aborted.
#[derive(Debug, Default)]
pub struct Background {
    tasks: Vec<JoinHandle<()>>,
}

impl Background {
    /// Starts one.
    pub fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(spawn(work));
    }

    /// Waits for all of them, which somebody has told to end.
    pub async fn ended(mut self) {
        for task in std::mem::take(&mut self.tasks) {
            let _ = task.await;
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Starts a task.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}

/// Runs work that may wait for a disk, without holding up the tasks of this thread.
///
/// Returns none if the runtime is shutting down. Cancel safe: the work runs to its end all the
/// same.
pub async fn blocking<T, W>(threads: Threads, work: W) -> Option<T>
where
    T: Send + 'static,
    W: FnOnce() -> T + Send + 'static,
{
    match threads {
        Threads::Allowed => tokio::task::spawn_blocking(work).await.ok(),
        Threads::None => Some(work()),
    }
}
