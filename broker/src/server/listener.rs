//! Accepts connections, up to a limit.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use strandline_client::net::{self, TcpListener};
use tokio::task::{JoinHandle, JoinSet};

use super::{broker::Broker, connection::Connection, spawn::spawn};
use crate::metrics::Refusal;

/// How long accepting rests after the system refused (it ran out of descriptors, mostly).
const REST: Duration = Duration::from_millis(50);

/// A listener at work.
#[derive(Debug)]
pub struct Listening {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Listening {
    /// Accepts connections on `listener` until the broker stops; ends once the last of them has
    /// ended, or `cut_after` has passed since then.
    #[must_use]
    pub fn start(
        listener: TcpListener,
        address: SocketAddr,
        broker: Arc<Broker>,
        connections_max: usize,
        cut_after: Duration,
    ) -> Self {
        let task = spawn(async move {
            let mut connections = JoinSet::new();
            accept(listener, &broker, &mut connections, connections_max).await;
            let all = async { while connections.join_next().await.is_some() {} };
            if tokio::time::timeout(cut_after, all).await.is_err() {
                tracing::warn!("connections are cut: they did not end in {cut_after:?}");
            }
            connections.shutdown().await;
        });
        Self { address, task }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the last connection to end.
    pub async fn ended(mut self) {
        let _ = (&mut self.task).await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Connections are tasks of this one, and end with it.
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    broker: &Arc<Broker>,
    connections: &mut JoinSet<()>,
    connections_max: usize,
) {
    let mut number = 0_u64;
    loop {
        let accepted = tokio::select! {
            biased;
            () = broker.stopping.cancelled() => return,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    tracing::error!("a connection's task panicked: {error}");
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        if connections.len() >= connections_max {
            broker.metrics.native.refused(Refusal::Limit);
            tracing::warn!(
                %peer,
                "connection refused: {connections_max} are open; raise limits.connections_max"
            );
            continue;
        }
        if let Err(error) = net::prepare(&stream) {
            tracing::debug!(%peer, "cannot turn off the delay of small writes: {error}");
        }
        number += 1;
        let open = broker.metrics.native.accepted();
        let connection = Connection::new(Arc::clone(broker), stream, peer, number, open);
        connections.spawn(connection.run());
    }
}
