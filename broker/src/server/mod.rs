//! The broker as a whole: listeners, connections, requests, start and stop.
//!
//! **Owns** the sockets and the life of everything else: it starts the metadata log, the partitions
//! and their upkeep, and ends them in order.
//!
//! **Never** decides what is acknowledged or who leads, and never holds up a connection for another
//! one's disk.

mod broker;
mod buffers;
mod connection;
mod disks;
mod fetch_session;
mod figures;
mod follow;
#[cfg(fuzzing)]
pub mod fuzzing;
mod ground;
mod handlers;
mod join;
mod listener;
mod memory;
mod recovery;
mod sockets;
pub mod spawn;
mod start;
mod stop;

use std::{net::SocketAddr, sync::Arc};

use strandline_core::metadata::Image;
use strandline_protocol::{BrokerEpoch, BrokerId, ClusterId};
use strandline_storage::fs::FileSystem;
use tokio_util::sync::CancellationToken;

pub use connection::{Event, Events, Slot};

use crate::{
    http::{HttpServer, Readiness},
    metadata::ControllerAt,
    metrics::Metrics,
    partition::{Flushers, Opener},
    settings::Settings,
};
use broker::Broker;
use listener::Listening;
use spawn::Background;

/// A running broker. It must be ended with [`Server::shutdown`]: dropped, it stops like a process
/// that was killed, and the next start recovers.
#[derive(Debug)]
pub struct Server {
    broker: Arc<Broker>,
    opener: Arc<Opener>,
    /// Cancelled once no partition recovers any more.
    recovered: CancellationToken,
    native: Listening,
    http: Option<HttpServer>,
    readiness: Readiness,
    flushers: Flushers,
    /// Upkeep, and what follows the metadata.
    background: Background,
    /// Ends the background tasks, after the last request was answered.
    halt: CancellationToken,
    epoch: BrokerEpoch,
}

impl Server {
    /// Starts a broker and returns once it serves. Partitions may still recover then: requests for
    /// them are answered with an error to be retried, and [`Server::recovered`] tells when that is
    /// over. Needs a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// One line that says what is wrong and what to do: an address that is taken, a data directory
    /// that is in use, damaged or not writable. Nothing runs then.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let file_system = start::file_system(&settings);
        Self::start_on(settings, file_system).await
    }

    /// As [`Server::start`], on another disk: for simulations.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_on(
        settings: Settings,
        file_system: Arc<dyn FileSystem>,
    ) -> anyhow::Result<Self> {
        start::start(settings, file_system).await
    }

    /// Where clients connect: the address that was bound, with its real port.
    #[must_use]
    pub const fn native_addr(&self) -> SocketAddr {
        self.native.address()
    }

    /// Where HTTP is served, if it is.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(HttpServer::address)
    }

    /// The cluster that this broker belongs to.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        self.broker.identity.cluster
    }

    /// Its number.
    #[must_use]
    pub fn broker_id(&self) -> BrokerId {
        self.broker.identity.broker
    }

    /// What it knows of the cluster's metadata.
    #[must_use]
    pub fn image(&self) -> Arc<Image> {
        self.broker.metadata.image()
    }

    /// Whether it is the controller now, as far as it knows.
    #[must_use]
    pub fn is_controller(&self) -> bool {
        self.broker.metadata.controller() == ControllerAt::Here
    }

    /// Its metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.broker.metrics
    }

    /// Whether it serves, as `/readyz` tells.
    #[must_use]
    pub const fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Waits until every partition is open, or could not be opened. Cancel safe.
    pub async fn recovered(&self) {
        self.recovered.cancelled().await;
    }

    /// Stops in order: takes no more requests, answers those in flight, flushes and closes every
    /// log, and leaves the clean-shutdown mark. Not cancel safe: dropped half-way, the next start
    /// recovers.
    ///
    /// # Errors
    /// If a data directory could not be closed cleanly; everything that can be closed is.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        stop::stop(self).await
    }
}

/// Runs a broker until SIGTERM or SIGINT; a second signal ends the process at once. Blocks, on a
/// runtime of its own.
///
/// # Errors
/// As [`Server::start`] and [`Server::shutdown`].
pub fn run(settings: Settings) -> anyhow::Result<()> {
    stop::run(settings)
}
