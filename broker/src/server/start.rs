//! Starting, in the order in which nothing can be lost and mistakes show at once.
//!
//! Addresses are bound first, so that one that is taken is noticed before a disk is touched; they
//! are served once the metadata is known. Partitions recover then, several at once, and those that
//! are ready serve. Before the first append a data directory has durably lost its clean-shutdown
//! mark and has entered this run, and the broker has registered, so that it never leads under an
//! old epoch.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use strandline_client::net::{self, Clock, TcpListener};
use strandline_core::{
    budget::PoolSizes,
    metadata::{Defaults, Image, METADATA_VERSION, Membership, Registration, Voter},
};
use strandline_protocol::{BrokerEpoch, BrokerId, Offset};
use strandline_storage::{
    directory::Found,
    fs::{CacheLimits, FileSystem, mapped::MappedFileSystem, pwrite::PwriteFileSystem},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Server,
    broker::{Broker, BrokerIdentity, ConnectionLimits, Watchers},
    buffers::BufferPool,
    connection::Turns,
    disks::{Disks, open_directories, random_bytes, reason},
    figures::{collect_figures, say_serving},
    join::{self, Newcomer},
    listener::Listening,
    memory::MemoryBudget,
    recovery::Recovery,
    spawn::{Background, Threads, blocking, spawn},
};
use crate::{
    http::{self, HttpServer, Readiness},
    metadata::{
        Flushing, Founding, METADATA_DIRECTORY, METADATA_TOPIC_ID, MetadataLog, MetadataOptions,
        PeerIdentity, Peers, SOFTWARE, SnapshotLimits,
    },
    metrics::Metrics,
    partition::{
        Directory, FetchWaits, Flushers, OpenQueue, Opener, Partitions, Reconciler, Upkeep,
        metadata_name,
    },
    settings::{Address, Backend, Settings},
};

/// Memory for requests that carry no records, in bytes.
const CONTROL_BYTES: u64 = 16 << 20;

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
    let (threads, clock) = (Threads::of_this_build(), Clock);
    let metrics = Arc::new(Metrics::new());
    let readiness = Readiness::starting();
    let (listener, address) = listen(&settings).await?;
    let http = serve_http(&settings, &metrics, &readiness).await?;
    let own = advertised(&settings, address);
    let belonging = join::belonging(&settings, &file_system, threads, &own).await?;
    let disks = open_directories(&settings, file_system, &metrics, threads, belonging).await?;
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
            address: own.clone(),
        },
        settings.join.clone(),
    );
    let metadata = open_metadata(&settings, &disks, threads, belonging.newcomer, peers).await?;
    let waits = Arc::new(FetchWaits::default());
    let partitions = Arc::new(Partitions::default());
    let opener = Arc::new(Opener {
        directories: disks.with_shutdown(),
        partitions: Arc::clone(&partitions),
        waits: Arc::clone(&waits),
        metrics: Arc::clone(&metrics),
        defaults: settings.topic_defaults(),
        threads,
        queue: OpenQueue::default(),
    });
    let reconciler = Reconciler {
        broker: settings.node_id,
        opener: Arc::clone(&opener),
        followed: Offset(-1),
        names: BTreeMap::new(),
    };
    let broker = Arc::new(Broker {
        identity,
        limits: ConnectionLimits::from(&settings.limits),
        topic_defaults: settings.topic_defaults(),
        metadata: metadata.clone(),
        partitions: Arc::clone(&partitions),
        directories: disks.all(),
        waits,
        metrics: Arc::clone(&metrics),
        clock,
        memory: MemoryBudget::new(pool_sizes(&settings)),
        turns: Turns::new(started),
        buffers: BufferPool::default(),
        threads,
        watchers: Watchers::default(),
        followed: watch::Sender::new(Offset(-1)),
        stopping: CancellationToken::new(),
        serving: AtomicBool::new(false),
        started,
    });
    let listen_now = |listener| {
        Listening::start(
            listener,
            address,
            Arc::clone(&broker),
            settings.limits.connections_max,
            settings.shutdown_timeout,
        )
    };
    let halt = CancellationToken::new();
    let mut background = Background::default();
    keep_in_touch(&mut background, &halt, &metadata, settings.node_id);
    // Others must reach a member before it knows anything: it is they who tell it.
    let (mut native, mut listener) = (None, Some(listener));
    if metadata.needs_others() {
        native = listener.take().map(&listen_now);
    }
    let epoch = register(&settings, &metadata, &disks, own).await?;
    metadata.taking_part(settings.node_id).await;
    if belonging.newcomer == Newcomer::Yes {
        let settling = join::settle_in(metadata.clone(), Arc::clone(disks.first()?), threads);
        background.spawn(until(halt.clone(), settling));
    }
    let queues = broker
        .directories
        .iter()
        .map(|each| Arc::clone(each.queue()));
    let flushers = Flushers::start(queues.collect(), threads)
        .context("cannot start the threads that flush logs")?;
    let reconciler = first_follow(&broker, reconciler, disks.found).await?;
    broker.serving.store(true, Ordering::Release);
    let upkeep = Upkeep {
        directories: broker.directories.clone(),
        partitions,
        metadata,
        readiness: readiness.clone(),
        failures: disks.failures,
        checkpoint_interval: settings.storage.checkpoint_interval,
        retention_interval: settings.storage.retention_interval,
        threads,
        stopping: halt.clone(),
    };
    background.spawn(upkeep.run());
    background.spawn(follow(Arc::clone(&broker), reconciler, halt.clone()));
    background.spawn(until(halt.clone(), Arc::clone(&metrics).keep_up()));
    collect_figures(&broker, pool_sizes(&settings).client_bytes);
    say_serving(&broker, &settings, address, http.as_ref());
    let recovery = Recovery::new(Arc::clone(&broker), Arc::clone(&opener), readiness.clone());
    let recovered = recovery.recovered();
    background.spawn(recovery.run());
    let native = native.or_else(|| listener.take().map(&listen_now));
    let native = native.context("the listener is gone")?;
    Ok(Server {
        broker,
        opener,
        recovered,
        native,
        http,
        readiness,
        flushers,
        background,
        halt,
        epoch,
    })
}

async fn listen(settings: &Settings) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = net::listen(&settings.listen.to_string())
        .await
        .map_err(|error| cannot_listen(&settings.listen, "--listen", &error))?;
    let address = listener
        .local_addr()
        .context("the listener does not know its address")?;
    Ok((listener, address))
}

async fn serve_http(
    settings: &Settings,
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
) -> anyhow::Result<Option<HttpServer>> {
    let Some(address) = &settings.http else {
        return Ok(None);
    };
    let listener = tokio::net::TcpListener::bind(address.to_string())
        .await
        .map_err(|error| cannot_listen(address, "--http", &error))?;
    let server = http::serve(listener, Arc::clone(metrics), readiness.clone())
        .with_context(|| format!("cannot serve HTTP on {address}"))?;
    Ok(Some(server))
}

fn cannot_listen(address: &Address, flag: &str, error: &std::io::Error) -> anyhow::Error {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{address} is in use by another process; stop that, or take another address with {flag}"
        ),
        std::io::ErrorKind::PermissionDenied => anyhow::anyhow!(
            "this process may not listen on {address}; take a port from 1024 on with {flag}"
        ),
        _ => anyhow::anyhow!(
            "cannot listen on {address}: {}; name an address of this machine with {flag}",
            reason(error)
        ),
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

/// Where others reach this broker.
fn advertised(settings: &Settings, bound: SocketAddr) -> Address {
    settings.advertise.clone().unwrap_or_else(|| Address {
        // The host as it was written, as a name may mean more than the address that it stands for.
        host: settings.listen.host.clone(),
        port: bound.port(),
    })
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

/// Makes this start known to the cluster, and to every directory.
async fn register(
    settings: &Settings,
    metadata: &MetadataLog,
    disks: &Disks,
    own: Address,
) -> anyhow::Result<BrokerEpoch> {
    let raft_id = disks.first()?.data().identity().raft_id.0;
    let registration = Registration {
        broker: settings.node_id,
        incarnation: random_bytes(),
        host: own.host,
        port: own.port,
        rack: settings.rack.clone(),
        directories: disks.all().iter().map(|directory| directory.id()).collect(),
        raft_id: Some(raft_id),
        software: SOFTWARE.to_owned(),
        metadata_version_max: METADATA_VERSION,
    };
    let epoch = metadata
        .register(registration)
        .await
        .map_err(|failure| anyhow::anyhow!("cannot register the broker: {}", failure.message))?;
    for directory in disks.all() {
        let set = move || directory.data().set_broker_epoch(epoch);
        blocking(Threads::of_this_build(), set)
            .await
            .context("the runtime stops")??;
    }
    Ok(epoch)
}

/// Sets aside what nobody knows, and lines up every partition to be opened.
async fn first_follow(
    broker: &Arc<Broker>,
    mut reconciler: Reconciler,
    found: Vec<(Arc<Directory>, Found)>,
) -> anyhow::Result<Reconciler> {
    let image = broker.metadata.image();
    let version = image.version();
    let work = move || {
        let mut retired = Vec::new();
        for (directory, found) in found {
            reconciler.set_strays_aside(&image, &directory, &found.partitions);
            let doomed = found.doomed.into_iter();
            retired.extend(doomed.map(|path| (Arc::clone(&directory), path)));
        }
        let mut followed = reconciler.follow(&image);
        reconciler.opener.enqueue(followed.wanted);
        retired.append(&mut followed.retired);
        (reconciler, retired)
    };
    let (reconciler, retired) = blocking(broker.threads, work)
        .await
        .context("the runtime stops")?;
    purge(broker.threads, retired);
    broker.followed.send_replace(version);
    Ok(reconciler)
}

/// Keeps the partitions in step with the metadata until the broker halts.
async fn follow(broker: Arc<Broker>, mut reconciler: Reconciler, halt: CancellationToken) {
    let mut images = broker.metadata.watch();
    images.mark_changed();
    loop {
        let image: Arc<Image> = tokio::select! {
            biased;
            () = halt.cancelled() => return,
            changed = images.changed() => match changed {
                Ok(()) => Arc::clone(&images.borrow_and_update()),
                Err(_) => return,
            },
        };
        let version = image.version();
        let work = move || {
            let followed = reconciler.follow(&image);
            reconciler.opener.create(followed.wanted);
            (reconciler, followed.retired)
        };
        let Some((back, retired)) = blocking(broker.threads, work).await else {
            return;
        };
        reconciler = back;
        purge(broker.threads, retired);
        broker.followed.send_replace(version);
        broker.watchers.notify();
    }
}

/// Removes the files of deleted partitions in the background.
fn purge(threads: Threads, retired: Vec<(Arc<Directory>, PathBuf)>) {
    if retired.is_empty() {
        return;
    }
    spawn(async move {
        let work = move || {
            for (directory, path) in retired {
                if let Err(error) = directory.data().purge(&path) {
                    let path = path.display();
                    tracing::warn!(%path, "cannot remove a deleted partition: {error}");
                }
            }
        };
        blocking(threads, work).await;
    });
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
        replication_bytes: 0,
        control_bytes: CONTROL_BYTES,
    }
}
