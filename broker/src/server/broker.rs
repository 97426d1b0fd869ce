//! What all connections of one broker share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use strandline_client::net::Clock;
use strandline_core::TopicConfig;
use strandline_protocol::{
    ApiKey, BrokerId, ClusterId, DirectoryId, ErrorCode, Offset, api::Permission, messages::Failure,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    buffers::BufferPool,
    connection::{Event, Events, Turns},
    memory::MemoryBudget,
    spawn::Threads,
};
use crate::{
    metadata::MetadataLog,
    metrics::Metrics,
    partition::{Directory, FetchWaits, Partitions},
    settings::Limits,
};

/// Who this broker is.
#[derive(Clone, Copy, Debug)]
pub struct BrokerIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its number.
    pub broker: BrokerId,
    /// Its first data directory.
    pub directory: DirectoryId,
    /// The random Raft id of that directory.
    pub raft_id: u64,
}

/// The bounds that connections keep.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// The largest frame that is read, in bytes.
    pub frame_bytes_max: usize,
    /// The most payload of one fetch response, in bytes.
    pub fetch_bytes_max: usize,
    /// Requests of one connection that may be parked.
    pub requests_in_flight_max: usize,
    /// How long a connection may be silent with nothing in flight.
    pub idle_timeout: std::time::Duration,
    /// How long a peer may take to read something.
    pub write_timeout: std::time::Duration,
}

impl From<&Limits> for ConnectionLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            frame_bytes_max: limits.frame_bytes_max,
            // Leaves room for the header and the message in front of it.
            fetch_bytes_max: limits.frame_bytes_max.saturating_sub(2 << 20).max(1 << 20),
            requests_in_flight_max: limits.requests_in_flight_max,
            idle_timeout: limits.idle_timeout,
            write_timeout: limits.write_timeout,
        }
    }
}

/// What handlers and connections work with.
#[derive(Debug)]
pub struct Broker {
    /// Who this broker is.
    pub identity: BrokerIdentity,
    /// What connections may do.
    pub limits: ConnectionLimits,
    /// What topics are configured with that do not say otherwise.
    pub topic_defaults: TopicConfig,
    /// The metadata log and its image.
    pub metadata: MetadataLog,
    /// The partitions.
    pub partitions: Arc<Partitions>,
    /// The data directories, in the order of the settings.
    pub directories: Vec<Arc<Directory>>,
    /// Long polls.
    pub waits: Arc<FetchWaits>,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// The wall clock.
    pub clock: Clock,
    /// Memory for what is in flight.
    pub memory: MemoryBudget,
    /// Whose turn it is among large messages.
    pub turns: Turns,
    /// Receive buffers.
    pub buffers: BufferPool,
    /// Whether blocking work has threads.
    pub threads: Threads,
    /// Connections that watch metadata.
    pub watchers: Watchers,
    /// Up to where partitions follow the metadata.
    pub followed: watch::Sender<Offset>,
    /// Cancelled when the broker begins to stop.
    pub stopping: CancellationToken,
    /// Whether clients are served: not before the metadata is known.
    pub serving: AtomicBool,
    /// Since when it serves.
    pub started: Instant,
}

impl Broker {
    /// Whether requests of `api` can be handled now.
    ///
    /// # Errors
    /// `NOT_READY` before the metadata is known; what is between brokers works before that.
    /// `NOT_LEADER_OR_FOLLOWER` for what only a leader may do, while this broker is fenced.
    pub fn serves(&self, api: ApiKey) -> Result<(), Failure> {
        let is_between_brokers = matches!(
            api.api().permission,
            Permission::None | Permission::ClusterAction | Permission::DescribeCluster
        );
        if is_between_brokers {
            return Ok(());
        }
        if !self.serving.load(Ordering::Acquire) {
            return Err(Failure::new(
                ErrorCode::NOT_READY,
                "this broker has just started and waits for the metadata of its cluster: retry, \
                 or ask another one",
            ));
        }
        let leads = matches!(
            api,
            ApiKey::Produce | ApiKey::Fetch | ApiKey::ListOffsets | ApiKey::DeleteRecords
        );
        if leads && self.metadata.is_fenced() {
            return Err(Failure::new(
                ErrorCode::NOT_LEADER_OR_FOLLOWER,
                "this broker leads nothing now, as the controller has not heard of it or has \
                 fenced it: ask for metadata again, and retry",
            ));
        }
        Ok(())
    }

    /// Waits until the partitions of this broker follow the metadata up to `version`. Cancel safe.
    pub async fn follow(&self, version: Offset) {
        let mut followed = self.followed.subscribe();
        // The sender lives as long as the broker: an error cannot be.
        let _ = followed.wait_for(|followed| *followed >= version).await;
    }
}

/// Connections that are told when the metadata changes.
#[derive(Debug, Default)]
pub struct Watchers {
    connections: Mutex<BTreeMap<u64, Events>>,
}

impl Watchers {
    /// Tells the connection of every change from now on.
    pub fn insert(&self, connection: u64, events: Events) {
        self.connections.lock().insert(connection, events);
    }

    /// Tells it no more.
    pub fn remove(&self, connection: u64) {
        self.connections.lock().remove(&connection);
    }

    /// The metadata has changed.
    pub fn notify(&self) {
        for events in self.connections.lock().values() {
            let _ = events.send(Event::MetadataChanged);
        }
    }
}
