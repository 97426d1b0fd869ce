//! Whether the broker serves clients, and if not, why.

use std::sync::Arc;

use parking_lot::Mutex;

/// Whether the broker serves clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// It does.
    Yes,
    /// It does not, or not all of them, for this reason.
    No(String),
}

/// Shared between the broker, which sets it, and the HTTP listener, which tells it.
#[derive(Clone, Debug)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
}

/// In the order in which they follow each other; there is no way back.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Starting,
    /// The broker waits for its cluster, as this text says.
    Waiting(String),
    /// So many of so many partitions are open, or could not be opened.
    Recovering {
        done: usize,
        of: usize,
    },
    Ready,
    Ended(String),
}

impl Readiness {
    /// Not ready: the broker starts.
    #[must_use]
    pub fn starting() -> Self {
        Self {
            state: Arc::new(Mutex::new(State::Starting)),
        }
    }

    /// Not ready: the broker starts, and waits for what `reason` says.
    pub fn waits(&self, reason: impl Into<String>) {
        let mut state = self.state.lock();
        let may_wait = match *state {
            State::Starting | State::Waiting(_) => true,
            State::Recovering { done, of } => done == of,
            State::Ready | State::Ended(_) => false,
        };
        if may_wait {
            *state = State::Waiting(reason.into());
        }
    }

    /// Not ready: the broker goes on with its start.
    pub fn waits_no_more(&self) {
        let mut state = self.state.lock();
        if matches!(*state, State::Waiting(_)) {
            *state = State::Starting;
        }
    }

    /// Clients are served; of the broker's `of` partitions, `done` are open or could not be opened.
    pub fn recovering(&self, done: usize, of: usize) {
        let mut state = self.state.lock();
        if matches!(*state, State::Starting | State::Recovering { .. }) {
            *state = State::Recovering { done, of };
        }
    }

    /// The broker serves clients from now on, unless it has stopped doing so for good.
    pub fn ready(&self) {
        let mut state = self.state.lock();
        if !matches!(*state, State::Ended(_)) {
            *state = State::Ready;
        }
    }

    /// The broker does not serve clients from now on, for this reason: it shuts down, or has no
    /// data directory left.
    pub fn not_ready(&self, reason: impl Into<String>) {
        *self.state.lock() = State::Ended(reason.into());
    }

    /// What was last said.
    #[must_use]
    pub fn get(&self) -> Ready {
        match &*self.state.lock() {
            State::Starting => Ready::No("the broker is starting".to_owned()),
            State::Waiting(reason) => Ready::No(format!("the broker is starting: {reason}")),
            State::Recovering { done, of } => Ready::No(format!(
                "the broker is recovering: {done} of {of} partitions are done"
            )),
            State::Ready => Ready::Yes,
            State::Ended(reason) => Ready::No(reason.clone()),
        }
    }
}
