//! Starting, in the order in which nothing can be lost and mistakes show at once.
//!
//! Addresses are bound first, so that one that is taken is noticed before a disk is touched; they are
//! served last. Before the first append a data directory has durably lost its clean-shutdown mark and
//! has entered this run, and the broker has registered, so that it never leads under an old epoch.

use std::{collections::BTreeMap, future::Future, net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use strandline_client::net::{self, Clock, TcpListener, random};
use strandline_core::{
    FlushMode,
    budget::{Pool, PoolSizes},
    metadata::{Defaults, Image, Membership, Registration, Voter},
};
use strandline_protocol::{BrokerEpoch, ClusterId, DirectoryId, Offset};
use strandline_storage::{
    directory::{
        Claim, DataDirectory, Found, Identity, PageCache, PartitionName, RESERVE_BYTES, RaftId,
    },
    fs::{CacheLimits, FileSystem, mapped::MappedFileSystem, pwrite::PwriteFileSystem},
    log::Shutdown,
};
use tokio::{
    sync::{mpsc::unbounded_channel, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Server,
    broker::{Broker, BrokerIdentity, ConnectionLimits, Watchers},
    buffers::BufferPool,
    listener::Listening,
    memory::MemoryBudget,
    spawn::{Background, Threads, blocking, spawn},
};
use crate::{
    http::{self, HttpServer, Readiness},
    metadata::{
        Flushing, Founding, METADATA_DIRECTORY, METADATA_TOPIC_ID, MetadataLog, MetadataOptions,
    },
    metrics::{DirectoryFigures, Metrics, PartitionFigures, Scrape},
    partition::{Directory, FetchWaits, Flushers, Partitions, Reconciler, Upkeep, metadata_name},
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
    let disks = open_directories(&settings, file_system, &metrics, threads).await?;
    let first = disks.first()?;
    let identity = BrokerIdentity {
        cluster: first.data().identity().cluster_id,
        broker: settings.node_id,
        directory: first.id(),
    };
    let metadata = open_metadata(&settings, &disks, threads).await?;
    let epoch = register(&settings, &metadata, &disks, address).await?;
    let waits = Arc::new(FetchWaits::default());
    let partitions = Arc::new(Partitions::default());
    let reconciler = Reconciler {
        broker: settings.node_id,
        directories: disks.with_shutdown(),
        partitions: Arc::clone(&partitions),
        waits: Arc::clone(&waits),
        metrics: Arc::clone(&metrics),
        defaults: settings.topic_defaults(),
        threads,
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
        buffers: BufferPool::default(),
        threads,
        watchers: Watchers::default(),
        followed: watch::Sender::new(Offset(-1)),
        stopping: CancellationToken::new(),
        started,
    });
    let queues = broker
        .directories
        .iter()
        .map(|each| Arc::clone(each.queue()));
    let flushers = Flushers::start(queues.collect(), threads)
        .context("cannot start the threads that flush logs")?;
    let reconciler = first_follow(&broker, reconciler, disks.found).await?;
    let halt = CancellationToken::new();
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
    let mut background = Background::default();
    background.spawn(upkeep.run());
    background.spawn(follow(Arc::clone(&broker), reconciler, halt.clone()));
    background.spawn(until(halt.clone(), Arc::clone(&metrics).keep_up()));
    collect_figures(&broker, &settings);
    let native = Listening::start(
        listener,
        address,
        Arc::clone(&broker),
        settings.limits.connections_max,
        settings.shutdown_timeout,
    );
    readiness.ready();
    say_started(&broker, &settings, address, http.as_ref());
    Ok(Server {
        broker,
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
            "{address} is in use by another process: stop that, or take another address with {flag}"
        ),
        _ => anyhow::anyhow!("cannot listen on {address}: {error}; see {flag}"),
    }
}

/// The data directories, just opened.
struct Disks {
    found: Vec<(Arc<Directory>, Found)>,
    failures: tokio::sync::mpsc::UnboundedReceiver<DirectoryId>,
}

impl Disks {
    fn first(&self) -> anyhow::Result<&Arc<Directory>> {
        self.found
            .first()
            .map(|(directory, _)| directory)
            .context("no data directory is configured: set --data")
    }

    fn all(&self) -> Vec<Arc<Directory>> {
        self.found
            .iter()
            .map(|(directory, _)| Arc::clone(directory))
            .collect()
    }

    fn with_shutdown(&self) -> Vec<(Arc<Directory>, Shutdown)> {
        self.found
            .iter()
            .map(|(directory, found)| (Arc::clone(directory), found.shutdown))
            .collect()
    }

    /// Whether any of them holds partitions of topics.
    fn hold_partitions(&self) -> bool {
        let of_topics = |found: &Found| found.partitions.iter().any(|name| !is_metadata(name));
        self.found.iter().any(|(_, found)| of_topics(found))
    }
}

fn is_metadata(name: &PartitionName) -> bool {
    name.to_string() == METADATA_DIRECTORY
}

async fn open_directories(
    settings: &Settings,
    file_system: Arc<dyn FileSystem>,
    metrics: &Metrics,
    threads: Threads,
) -> anyhow::Result<Disks> {
    let (told, failures) = unbounded_channel();
    let mut cluster: Option<ClusterId> = None;
    let mut found = Vec::new();
    for path in &settings.data {
        let claim = Claim {
            identity: Identity {
                cluster_id: cluster.unwrap_or(ClusterId(random_bytes())),
                node_id: settings.node_id,
                directory_id: DirectoryId(random_bytes()),
                raft_id: RaftId(random()),
            },
            cluster_id: cluster,
            reserve_bytes: RESERVE_BYTES,
        };
        let (fs, at) = (Arc::clone(&file_system), path.clone());
        let (data, what) = blocking(threads, move || DataDirectory::open(fs, &at, &claim))
            .await
            .context("the runtime stops")??;
        cluster = Some(data.identity().cluster_id);
        for warning in &what.warnings {
            tracing::warn!(directory = %path.display(), "{warning}");
        }
        if what.shutdown == Shutdown::Unclean && what.last_run.is_some() {
            let cache = match what.page_cache {
                PageCache::Kept => "what it wrote is still in memory",
                PageCache::Lost => "the machine has restarted since",
            };
            tracing::info!(
                directory = %path.display(),
                "the last run did not stop in order ({cache}): logs are recovered"
            );
        }
        let directory = Directory::new(
            data,
            what.checkpoint.clone(),
            metrics.directory(path),
            told.clone(),
        );
        found.push((Arc::new(directory), what));
    }
    Ok(Disks { found, failures })
}

async fn open_metadata(
    settings: &Settings,
    disks: &Disks,
    threads: Threads,
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
        membership: Membership {
            cluster: identity.cluster_id,
            voters: vec![Voter {
                raft_id: identity.raft_id.0,
                broker: settings.node_id,
            }],
        },
        founding: if disks.hold_partitions() {
            Founding::Forbidden
        } else {
            Founding::Allowed
        },
        defaults: Defaults {
            partitions: settings.default_partitions,
            config: settings.topic_defaults(),
        },
        flushing: match threads {
            Threads::Allowed => Flushing::Blocking,
            Threads::None => Flushing::Inline,
        },
    };
    let (metadata, report) = blocking(threads, move || MetadataLog::open(options))
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

/// Makes this start known to the cluster, and to every directory.
async fn register(
    settings: &Settings,
    metadata: &MetadataLog,
    disks: &Disks,
    address: SocketAddr,
) -> anyhow::Result<BrokerEpoch> {
    let (host, port) = match &settings.advertise {
        Some(advertised) => (advertised.host.clone(), advertised.port),
        // The host as it was written, as a name may mean more than the address that it stands for.
        None => (settings.listen.host.clone(), address.port()),
    };
    let registration = Registration {
        broker: settings.node_id,
        incarnation: random_bytes(),
        host,
        port,
        rack: settings.rack.clone(),
        directories: disks.all().iter().map(|directory| directory.id()).collect(),
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

/// Recovers and opens every partition.
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
        retired.append(&mut reconciler.follow(&image));
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
            let retired = reconciler.follow(&image);
            (reconciler, retired)
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
                    tracing::warn!(path = %path.display(), "cannot remove a deleted partition: {error}");
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

/// Has `/metrics` tell what is read from live state.
fn collect_figures(broker: &Arc<Broker>, settings: &Settings) {
    let shared = Arc::downgrade(broker);
    let limit = pool_sizes(settings).client_bytes;
    broker.metrics.collect_with(move |scrape: &mut Scrape| {
        let Some(broker) = shared.upgrade() else {
            return;
        };
        for partition in broker.partitions.all() {
            let Some(figures) = partition.figures() else {
                continue;
            };
            let shown = PartitionFigures {
                log_start: figures.marks.log_start,
                log_end: figures.marks.log_end,
                high_watermark: figures.marks.high_watermark,
                bytes: figures.bytes,
                segments: figures.segments,
            };
            scrape.partition(partition.topic(), partition.id().partition, shown);
        }
        for directory in &broker.directories {
            let figures = DirectoryFigures {
                online: directory.data().is_online(),
                free_bytes: directory.data().space().ok().map(|space| space.available),
            };
            scrape.directory(&directory.path().display().to_string(), figures);
        }
        scrape.memory(broker.memory.used(Pool::Client), limit);
    });
}

/// The one line of a start: where clients connect, where the data is, what an acknowledgement means.
fn say_started(
    broker: &Broker,
    settings: &Settings,
    address: SocketAddr,
    http: Option<&HttpServer>,
) {
    let data: Vec<String> = settings
        .data
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let flush = match settings.flush {
        FlushMode::Ack => "ack (acknowledged once it is fsynced)",
        FlushMode::Async => "async (acknowledged from the page cache)",
    };
    let http = http.map_or_else(|| "off".to_owned(), |http| http.address().to_string());
    tracing::info!(
        listen = %address,
        http,
        data = data.join(","),
        flush,
        cluster = %broker.identity.cluster,
        broker = %broker.identity.broker,
        topics = broker.metadata.image().topic_count(),
        ready_ms = u64::try_from(broker.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "ready"
    );
}

fn random_bytes() -> [u8; 16] {
    let drawn = (u128::from(random()) << 64) | u128::from(random());
    drawn.to_be_bytes()
}
