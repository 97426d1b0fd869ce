//! What a broker stands on: its data directories, and the metadata log in the first of them.

use std::sync::Arc;

use anyhow::Context as _;
use strandline_core::metadata::{Defaults, Membership, Voter};
use strandline_storage::fs::FileSystem;

use super::{
    broker::BrokerIdentity,
    disks::{Disks, open_directories},
    join::{self, Newcomer},
    spawn::{Threads, blocking},
};
use crate::{
    http::Readiness,
    metadata::{
        Flushing, Founding, METADATA_DIRECTORY, METADATA_TOPIC_ID, MetadataLog, MetadataOptions,
        PeerIdentity, Peers, SnapshotLimits,
    },
    metrics::Metrics,
    partition::metadata_name,
    settings::{Address, Settings},
};

/// See the module.
pub(super) struct Ground {
    pub(super) disks: Disks,
    pub(super) identity: BrokerIdentity,
    pub(super) newcomer: Newcomer,
    pub(super) metadata: MetadataLog,
}

/// What it takes to lay it.
pub(super) struct Site<'a> {
    pub(super) settings: &'a Settings,
    pub(super) file_system: Arc<dyn FileSystem>,
    pub(super) metrics: &'a Metrics,
    /// Told what a broker waits for that is about to join a cluster.
    pub(super) readiness: &'a Readiness,
    pub(super) threads: Threads,
    /// Where this broker is reached.
    pub(super) own: &'a Address,
}

impl Ground {
    /// Finds out which cluster the broker belongs to, and opens everything. A newcomer waits until
    /// a member of its cluster answers.
    ///
    /// # Errors
    /// If a data directory is in use, damaged, another one's, or cannot be used.
    pub(super) async fn lay(site: Site<'_>) -> anyhow::Result<Self> {
        let (settings, threads) = (site.settings, site.threads);
        let belonging = join::belonging(&site).await?;
        let file_system = site.file_system;
        let disks =
            open_directories(settings, file_system, site.metrics, threads, belonging).await?;
        let first = disks.first()?;
        let identity = BrokerIdentity {
            cluster: first.data().identity().cluster_id,
            broker: settings.node_id,
            directory: first.id(),
            raft_id: first.data().identity().raft_id.0,
        };
        let peers = Peers::new(
            PeerIdentity {
                cluster: identity.cluster,
                broker: identity.broker,
                raft_id: identity.raft_id,
                address: site.own.clone(),
            },
            settings.join.clone(),
        );
        let newcomer = belonging.newcomer;
        let metadata = open_metadata(settings, &disks, threads, newcomer, peers).await?;
        Ok(Self {
            disks,
            identity,
            newcomer,
            metadata,
        })
    }
}

async fn open_metadata(
    settings: &Settings,
    disks: &Disks,
    threads: Threads,
    newcomer: Newcomer,
    peers: Peers,
) -> anyhow::Result<MetadataLog> {
    let first = Arc::clone(disks.first()?);
    let shutdown = disks.found.first().map(|(_, found)| found.shutdown);
    let identity = *first.data().identity();
    let options = MetadataOptions {
        file_system: Arc::clone(first.data().file_system()),
        directory: first.path().join(METADATA_DIRECTORY),
        hint: first.hint(
            &metadata_name(),
            METADATA_TOPIC_ID,
            shutdown.unwrap_or_default(),
        ),
        raft_id: identity.raft_id,
        membership: Membership::of(
            identity.cluster_id,
            vec![Voter {
                raft_id: identity.raft_id.0,
                broker: settings.node_id,
            }],
        ),
        founding: match newcomer {
            Newcomer::Yes => Founding::Elsewhere,
            Newcomer::No if disks.hold_partitions() => Founding::Forbidden,
            Newcomer::No => Founding::Allowed,
        },
        defaults: Defaults {
            partitions: settings.default_partitions,
            config: settings.topic_defaults(),
        },
        flushing: match threads {
            Threads::Allowed => Flushing::Blocking,
            Threads::None => Flushing::Inline,
        },
        snapshots: SnapshotLimits::default(),
    };
    let (metadata, report) = blocking(threads, move || MetadataLog::open_among(options, peers))
        .await
        .context("the runtime stops")??;
    if report.bytes_cut > 0 {
        tracing::info!(
            bytes_cut = report.bytes_cut,
            "the metadata log was recovered: what was half written has been cut"
        );
    }
    Ok(metadata)
}
