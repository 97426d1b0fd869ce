//! Whether the broker serves clients, and if not, why.

use std::sync::Arc;

use arc_swap::ArcSwap;

/// Whether the broker serves clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// It does.
    Yes,
    /// It does not, for this reason.
    No(String),
}

/// Shared between the broker, which sets it, and the HTTP listener, which tells it.
#[derive(Clone, Debug)]
pub struct Readiness {
    state: Arc<ArcSwap<Ready>>,
}

impl Readiness {
    /// Not ready: the broker starts.
    #[must_use]
    pub fn starting() -> Self {
        let ready = Ready::No("the broker is starting".to_owned());
        Self {
            state: Arc::new(ArcSwap::from_pointee(ready)),
        }
    }

    /// The broker serves clients from now on.
    pub fn ready(&self) {
        self.state.store(Arc::new(Ready::Yes));
    }

    /// The broker does not serve clients from now on, for this reason: it shuts down, or has no
    /// data directory left.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.state.store(Arc::new(Ready::No(reason.into())));
    }

    /// What was last said.
    #[must_use]
    pub fn get(&self) -> Ready {
        self.state.load().as_ref().clone()
    }
}
