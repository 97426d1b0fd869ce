//! Connections to brokers by address, opened when needed and again when they break.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use strandline_protocol::ClusterId;
use tokio::time::Instant;

use super::backoff::Backoff;
use crate::{ClientError, ClientOptions, connection::Connection};

/// The connections of one purpose: every producer and every consumer has its own, so that a large
/// fetch never stands in front of an acknowledgement.
#[derive(Debug)]
pub(crate) struct Links {
    options: ClientOptions,
    by_address: Mutex<BTreeMap<String, Arc<Link>>>,
}

#[derive(Debug)]
struct Link {
    /// Held while a connection is being opened, so that those who come meanwhile share it.
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug)]
struct State {
    connection: Option<Connection>,
    backoff: Backoff,
    not_before: Instant,
}

impl Links {
    /// None yet; brokers of another cluster than `cluster_id` will be refused.
    pub(crate) fn new(options: &ClientOptions, cluster_id: Option<ClusterId>) -> Self {
        let mut options = options.clone();
        options.cluster_id = cluster_id.or(options.cluster_id);
        Self {
            options,
            by_address: Mutex::new(BTreeMap::new()),
        }
    }

    /// The same connections; further ones are opened to this cluster only.
    pub(crate) fn bound_to(mut self, cluster_id: ClusterId) -> Self {
        self.options.cluster_id = Some(cluster_id);
        self
    }

    /// A connection to `address` that is open as far as is known. After a failure it waits for the
    /// pause that is due before it tries again, once.
    ///
    /// Cancel safe.
    pub(crate) async fn connection(&self, address: &str) -> Result<Connection, ClientError> {
        let link = self.link(address);
        let mut state = link.state.lock().await;
        if let Some(connection) = state.connection.as_ref().filter(|open| !open.is_closed()) {
            return Ok(connection.clone());
        }
        if state.connection.take().is_some() {
            // It worked and broke: the first attempt comes soon, but not at once.
            let pause = state.backoff.next_pause();
            state.not_before = Instant::now() + pause;
        }
        tokio::time::sleep_until(state.not_before).await;
        match Connection::open(address, &self.options).await {
            Ok(connection) => {
                state.backoff.reset();
                state.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                let pause = state.backoff.next_pause();
                state.not_before = Instant::now() + pause;
                Err(error)
            }
        }
    }

    fn link(&self, address: &str) -> Arc<Link> {
        let mut by_address = self.by_address.lock();
        if let Some(link) = by_address.get(address) {
            return Arc::clone(link);
        }
        let link = Arc::new(Link {
            state: tokio::sync::Mutex::new(State {
                connection: None,
                backoff: Backoff::new(&self.options),
                not_before: Instant::now(),
            }),
        });
        by_address.insert(address.to_owned(), Arc::clone(&link));
        link
    }
}
