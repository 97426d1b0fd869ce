//! Starting, in the order in which nothing can be lost and mistakes show at once.
//!
//! Addresses are bound first, so that one that is taken is noticed before a disk is touched; they
//! are served once the metadata is known. Partitions recover then, several at once, and those that
//! are ready serve; in a cluster, others lead until all of them are. Before the first append a data
//! directory has durably lost its clean-shutdown mark and has entered this run, and the broker has
//! registered, so that it never leads under an old epoch.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use strandline_client::net::{Clock, random};
use strandline_core::{
    budget::PoolSizes,
    metadata::{METADATA_VERSION, Registration, incarnation},
};
use strandline_protocol::{BrokerEpoch, BrokerId, DirectoryId, Offset};
use strandline_storage::fs::{
    CacheLimits, FileSystem, mapped::MappedFileSystem, pwrite::PwriteFileSystem,
};
use tokio::{
    sync::{mpsc::UnboundedReceiver, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Server,
    broker::{Broker, ConnectionLimits, Watchers},
    buffers::BufferPool,
    connection::Turns,
    disks::Disks,
    figures::{collect_figures, say_serving},
    follow::{first_follow, follow},
    ground::{Ground, Site},
    join::{self, Newcomer},
    listener::Listening,
    memory::MemoryBudget,
    recovery::Recovery,
    sockets::Sockets,
    spawn::{Background, Threads, blocking},
};
use crate::{
    http::Readiness,
    metadata::{MetadataLog, SOFTWARE},
    metrics::Metrics,
    partition::{Flushers, IsrDriver, OpenQueue, Opener, Reconciler, Surroundings, Upkeep},
    replication::Replication,
    settings::{Address, Backend, Settings},
};

/// Memory for requests that carry no records, in bytes.
const CONTROL_BYTES: u64 = 16 << 20;

/// Memory for the fetches of followers, in bytes.
const REPLICATION_BYTES: u64 = 16 << 20;

/// The disk that the settings name.
pub(super) fn file_system(settings: &Settings) -> Arc<dyn FileSystem> {
    match settings.storage.backend {
        Backend::Mapped => Arc::new(MappedFileSystem::new(CacheLimits::default())),
        Backend::Pwrite => Arc::new(PwriteFileSystem::new(CacheLimits::default())),
    }
}

/// See [`Server::start`].
pub(super) async fn start(
    settings: Settings,
    file_system: Arc<dyn FileSystem>,
) -> anyhow::Result<Server> {
    settings.validate()?;
    let started = Instant::now();
    let threads = Threads::of_this_build();
    let metrics = Arc::new(Metrics::new());
    let readiness = Readiness::starting();
    let sockets = Sockets::bind(&settings, &metrics, &readiness).await?;
    let own = sockets.advertised(&settings);
    let ground = Ground::lay(Site {
        settings: &settings,
        file_system,
        metrics: &metrics,
        readiness: &readiness,
        threads,
        own: &own,
    })
    .await?;
    let (opener, reconciler) = keep_partitions(&settings, &ground, &metrics, started);
    #[cfg(strandline_sim)]
    crate::partition::started(settings.node_id, &opener.partitions);
    let broker = Arc::new(assemble(&settings, &ground, &opener, started));
    let listen = |listener| {
        Listening::start(
            listener,
            sockets.address,
            Arc::clone(&broker),
            settings.limits.connections_max,
            settings.shutdown_timeout,
        )
    };
    let halt = CancellationToken::new();
    let mut background = Background::default();
    keep_in_touch(&mut background, &halt, &broker.metadata, settings.node_id);
    // Others must reach a member before it knows anything: it is they who tell it.
    let (mut native, mut listener) = (None, Some(sockets.listener));
    if broker.metadata.needs_others() {
        native = listener.take().map(&listen);
    }
    let epoch = make_known(&settings, &ground, own, &readiness).await?;
    if ground.newcomer == Newcomer::Yes {
        let first = Arc::clone(ground.disks.first()?);
        let settling = join::settle_in(broker.metadata.clone(), first, threads);
        background.spawn(until(halt.clone(), settling));
    }
    let flushers = start_flushers(&broker)?;
    let Disks { found, failures } = ground.disks;
    let reconciler = first_follow(&broker, reconciler, found).await?;
    broker.serving.store(true, Ordering::Release);
    let upkeep = upkeep(&settings, &broker, &readiness, failures, halt.clone());
    background.spawn(upkeep.run());
    background.spawn(until(
        halt.clone(),
        isr_driver(&settings, &broker, &opener).run(),
    ));
    let replication = opener.surroundings.replication.clone();
    background.spawn(replication.run(Arc::clone(&broker.partitions), halt.clone()));
    background.spawn(follow(Arc::clone(&broker), reconciler, halt.clone()));
    background.spawn(until(halt.clone(), metrics.keep_up()));
    collect_figures(&broker, pool_sizes(&settings).client_bytes);
    let recovery = Recovery::new(Arc::clone(&broker), Arc::clone(&opener), readiness.clone());
    let recovered = recovery.recovered();
    background.spawn(recovery.run());
    let metadata = &broker.metadata;
    metadata.taking_part(settings.node_id, &readiness).await;
    say_serving(&broker, &settings, sockets.address, sockets.http.as_ref());
    let native = native.or_else(|| listener.take().map(&listen));
    Ok(Server {
        opener,
        recovered,
        native: native.context("the listener is gone")?,
        http: sockets.http,
        readiness,
        flushers,
        background,
        halt,
        epoch,
        broker,
    })
}

/// What opens partitions, and what has it do so.
fn keep_partitions(
    settings: &Settings,
    ground: &Ground,
    metrics: &Arc<Metrics>,
    started: Instant,
) -> (Arc<Opener>, Reconciler) {
    let threads = Threads::of_this_build();
    let surroundings = Surroundings {
        broker: settings.node_id,
        metadata: ground.metadata.clone(),
        waits: Arc::default(),
        replication: Replication::new(
            ground.metadata.clone(),
            settings.node_id,
            metrics.replication.clone(),
            threads,
        ),
        proposals: Arc::default(),
        metrics: metrics.replication.clone(),
        started,
    };
    let opener = Arc::new(Opener {
        directories: ground.disks.with_shutdown(),
        partitions: Arc::default(),
        surroundings: Arc::new(surroundings),
        metrics: Arc::clone(metrics),
        defaults: settings.topic_defaults(),
        threads,
        queue: OpenQueue::default(),
    });
    let reconciler = Reconciler {
        broker: settings.node_id,
        opener: Arc::clone(&opener),
        followed: Offset(-1),
        lag_max: settings.replication.lag_max,
        names: BTreeMap::new(),
    };
    (opener, reconciler)
}

/// What connections share, before anything is served.
fn assemble(settings: &Settings, ground: &Ground, opener: &Opener, started: Instant) -> Broker {
    Broker {
        identity: ground.identity,
        limits: ConnectionLimits::from(&settings.limits),
        topic_defaults: settings.topic_defaults(),
        metadata: ground.metadata.clone(),
        partitions: Arc::clone(&opener.partitions),
        directories: ground.disks.all(),
        waits: Arc::clone(&opener.surroundings.waits),
        metrics: Arc::clone(&opener.metrics),
        clock: Clock,
        memory: MemoryBudget::new(pool_sizes(settings)),
        turns: Turns::new(started),
        buffers: BufferPool::default(),
        threads: opener.threads,
        watchers: Watchers::default(),
        followed: watch::Sender::new(Offset(-1)),
        stopping: CancellationToken::new(),
        serving: AtomicBool::new(false),
        started,
    }
}

fn isr_driver(settings: &Settings, broker: &Broker, opener: &Opener) -> IsrDriver {
    IsrDriver {
        broker: settings.node_id,
        metadata: broker.metadata.clone(),
        partitions: Arc::clone(&broker.partitions),
        proposals: Arc::clone(&opener.surroundings.proposals),
        lag_max: settings.replication.lag_max,
    }
}

fn start_flushers(broker: &Broker) -> anyhow::Result<Flushers> {
    let directories = broker.directories.iter();
    let queues = directories.map(|each| Arc::clone(each.queue())).collect();
    Flushers::start(queues, broker.threads).context("cannot start the threads that flush logs")
}

fn upkeep(
    settings: &Settings,
    broker: &Broker,
    readiness: &Readiness,
    failures: UnboundedReceiver<DirectoryId>,
    stopping: CancellationToken,
) -> Upkeep {
    Upkeep {
        directories: broker.directories.clone(),
        partitions: Arc::clone(&broker.partitions),
        metadata: broker.metadata.clone(),
        readiness: readiness.clone(),
        failures,
        checkpoint_interval: settings.storage.checkpoint_interval,
        retention_interval: settings.storage.retention_interval,
        threads: broker.threads,
        stopping,
    }
}

/// Starts what keeps a broker and its cluster in touch. One that is alone is not woken up by it.
fn keep_in_touch(
    background: &mut Background,
    halt: &CancellationToken,
    metadata: &MetadataLog,
    broker: BrokerId,
) {
    background.spawn(until(halt.clone(), follow_peers(metadata.clone())));
    background.spawn(until(halt.clone(), metadata.clone().keep_leases()));
    background.spawn(until(halt.clone(), metadata.clone().keep_members()));
    let alive = metadata.clone().keep_alive(broker);
    background.spawn(until(halt.clone(), alive));
}

/// Keeps in step where the other brokers are.
async fn follow_peers(metadata: MetadataLog) {
    let Some(peers) = metadata.peers().cloned() else {
        return;
    };
    let mut images = metadata.watch();
    drop(metadata);
    images.mark_changed();
    while images.changed().await.is_ok() {
        let image = Arc::clone(&images.borrow_and_update());
        peers.follow(&image);
    }
}

/// Makes this start known to the cluster and to every directory. Where there are others, the broker
/// takes part once its logs are open.
async fn make_known(
    settings: &Settings,
    ground: &Ground,
    own: Address,
    readiness: &Readiness,
) -> anyhow::Result<BrokerEpoch> {
    let directories = ground.disks.all();
    let last_run = ground
        .disks
        .found
        .first()
        .and_then(|(_, found)| found.last_run.as_ref());
    let last_run = last_run.map(|run| run.broker_epoch);
    let registration = Registration {
        broker: settings.node_id,
        incarnation: incarnation(last_run, random()),
        host: own.host,
        port: own.port,
        rack: settings.rack.clone(),
        directories: directories.iter().map(|each| each.id()).collect(),
        raft_id: Some(ground.identity.raft_id),
        software: SOFTWARE.to_owned(),
        metadata_version_max: METADATA_VERSION,
        lossy: ground.disks.lossy(),
    };
    ground.metadata.recovers();
    let epoch = ground
        .metadata
        .register_telling(registration, readiness)
        .await
        .map_err(|failure| anyhow::anyhow!("cannot register the broker: {}", failure.message))?;
    for directory in directories {
        let set = move || directory.data().set_broker_epoch(epoch);
        blocking(Threads::of_this_build(), set)
            .await
            .context("the runtime stops")??;
    }
    readiness.waits_no_more();
    Ok(epoch)
}

async fn until(halt: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = halt.cancelled() => {}
        () = work => {}
    }
}

fn pool_sizes(settings: &Settings) -> PoolSizes {
    let bytes = settings.limits.memory_in_flight_bytes_max;
    PoolSizes {
        client_bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
        replication_bytes: REPLICATION_BYTES,
        control_bytes: CONTROL_BYTES,
    }
}
