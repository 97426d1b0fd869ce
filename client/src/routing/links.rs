//! Connections to brokers by address, opened when needed and again when they break.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use strandline_protocol::ClusterId;
use tokio::{sync::oneshot, time::Instant};

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
    address: String,
    options: ClientOptions,
    open: Mutex<Option<Connection>>,
    /// Held while a connection is being opened, so that those who come meanwhile share it.
    opening: tokio::sync::Mutex<Opening>,
}

#[derive(Debug)]
struct Opening {
    backoff: Backoff,
    not_before: Instant,
}

impl Link {
    /// The connection, if it is open as far as is known.
    fn connected(&self) -> Option<Connection> {
        let open = self.open.lock();
        open.as_ref().filter(|open| !open.is_closed()).cloned()
    }

    /// Opens it, unless somebody else just has.
    async fn connect(&self) -> Result<Connection, ClientError> {
        let mut opening = self.opening.lock().await;
        if let Some(connection) = self.connected() {
            return Ok(connection);
        }
        let broken = self.open.lock().take();
        if broken.is_some() {
            // It worked and broke: the first attempt comes soon, but not at once.
            let pause = opening.backoff.next_pause();
            opening.not_before = Instant::now() + pause;
        }
        tokio::time::sleep_until(opening.not_before).await;
        match Connection::open(&self.address, &self.options).await {
            Ok(connection) => {
                opening.backoff.reset();
                self.open.lock().replace(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                let pause = opening.backoff.next_pause();
                opening.not_before = Instant::now() + pause;
                Err(error)
            }
        }
    }
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
        if let Some(connection) = link.connected() {
            return Ok(connection);
        }
        // In a task of its own: who asks may not be polled for a long time, as the fetches of a
        // consumer that asks where partitions end, and would keep the link from everybody else.
        // Who gives up takes its attempt along.
        let (mut tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                biased;
                () = tell.closed() => return,
                outcome = link.connect() => outcome,
            };
            let _ = tell.send(outcome);
        });
        told.await.unwrap_or_else(|_| {
            Err(ClientError::Unreachable {
                address: address.to_owned(),
                reason: "the runtime shuts down".to_owned(),
            })
        })
    }

    fn link(&self, address: &str) -> Arc<Link> {
        let mut by_address = self.by_address.lock();
        if let Some(link) = by_address.get(address) {
            return Arc::clone(link);
        }
        let link = Arc::new(Link {
            address: address.to_owned(),
            options: self.options.clone(),
            open: Mutex::default(),
            opening: tokio::sync::Mutex::new(Opening {
                backoff: Backoff::new(&self.options),
                not_before: Instant::now(),
            }),
        });
        by_address.insert(address.to_owned(), Arc::clone(&link));
        link
    }
}
