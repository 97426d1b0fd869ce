//! How long a broker's metadata take to write down and to read, at a size, on this machine's disk.
//!
//! Creates topics, changes their configuration again and again for a history, and prints: replay
//! from the log, writing a snapshot, its size, replay from the snapshot, and memory at each step.
//! Nothing is asserted: it measures.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use clap::Parser;
use strandline_broker::metadata::{
    Flushing, Founding, METADATA_DIRECTORY, MetadataLog, MetadataOptions, SnapshotLimits,
};
use strandline_core::metadata::{
    Command, Defaults, METADATA_VERSION, Membership, Registration, Voter,
};
use strandline_protocol::{
    BrokerId, ClusterId, DirectoryId,
    messages::{AlterConfigsRequest, ConfigChange, CreateTopicsRequest, NewTopic},
};
use strandline_storage::{
    directory::RaftId,
    fs::{CacheLimits, mapped::MappedFileSystem},
    log::{RecoveryHint, Shutdown},
};

/// How many topics one request creates.
const TOPICS_PER_REQUEST: usize = 100;

/// Measures the metadata of a broker at a size.
#[derive(Parser)]
struct Arguments {
    /// How many topics.
    #[arg(long, default_value_t = 10_000)]
    topics: usize,
    /// How many partitions each has.
    #[arg(long, default_value_t = 10)]
    partitions: i32,
    /// How many changes of configuration come after.
    #[arg(long, default_value_t = 20_000)]
    changes: usize,
    /// Only this step, in this directory.
    #[arg(long, hide = true)]
    data: Option<PathBuf>,
    #[arg(long, hide = true)]
    step: Option<String>,
}

fn options(data: &Path, snapshots: SnapshotLimits, shutdown: Shutdown) -> MetadataOptions {
    MetadataOptions {
        file_system: Arc::new(MappedFileSystem::new(CacheLimits::default())),
        directory: data.join(METADATA_DIRECTORY),
        hint: RecoveryHint {
            shutdown,
            ..RecoveryHint::default()
        },
        raft_id: RaftId(7),
        membership: Membership::of(
            ClusterId([5; 16]),
            vec![Voter {
                raft_id: 7,
                broker: BrokerId(1),
            }],
        ),
        founding: Founding::Allowed,
        defaults: Defaults::default(),
        flushing: Flushing::Blocking,
        snapshots,
    }
}

const NEVER: SnapshotLimits = SnapshotLimits {
    entries: u64::MAX,
    bytes: u64::MAX,
};

const AT_ONCE: SnapshotLimits = SnapshotLimits {
    entries: 1,
    bytes: u64::MAX,
};

/// Memory of this process that no file stands behind, in MiB.
fn memory() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u32 = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .context("no RssAnon")?
        .trim()
        .parse()?;
    Ok(f64::from(kib) / 1_024.0)
}

fn report(what: &str, took: Duration) -> anyhow::Result<()> {
    println!(
        "{what:<44} {:>9.1} ms   {:>7.1} MiB anonymous",
        took.as_secs_f64() * 1e3,
        memory()?
    );
    Ok(())
}

fn snapshots_in(data: &Path) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data.join(METADATA_DIRECTORY))? {
        let entry = entry?;
        if entry
            .path()
            .extension()
            .is_some_and(|suffix| suffix == "checkpoint")
        {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(found)
}

fn log_bytes(data: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(data.join(METADATA_DIRECTORY))? {
        let entry = entry?;
        if entry
            .path()
            .extension()
            .is_some_and(|suffix| suffix == "log")
        {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

async fn create(metadata: &MetadataLog, arguments: &Arguments) -> anyhow::Result<()> {
    for first in (0..arguments.topics).step_by(TOPICS_PER_REQUEST) {
        let last = arguments.topics.min(first + TOPICS_PER_REQUEST);
        let topics = (first..last).map(|number| NewTopic {
            name: format!("topic-{number:06}"),
            partitions: Some(arguments.partitions),
            replication_factor: None,
            configs: BTreeMap::new(),
        });
        let request = CreateTopicsRequest {
            topics: topics.collect(),
            validate_only: false,
        };
        let created = metadata.create_topics(request).await;
        created.map_err(|failure| anyhow!(failure.message))?;
    }
    Ok(())
}

/// One change of a topic's configuration.
async fn change(metadata: &MetadataLog, number: usize, topics: usize) -> anyhow::Result<()> {
    let request = AlterConfigsRequest {
        topic: format!("topic-{:06}", number % topics.max(1)),
        changes: vec![ConfigChange {
            key: "retention.ms".into(),
            value: Some(format!("{}", 1_000_000 + number)),
        }],
        validate_only: false,
    };
    let changed = metadata.alter_configs(request).await;
    changed
        .map(drop)
        .map_err(|failure| anyhow!(failure.message))
}

async fn fill(data: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    let began = Instant::now();
    let (metadata, _) = MetadataLog::open(options(data, NEVER, Shutdown::Clean))?;
    let registration = Registration {
        broker: BrokerId(1),
        incarnation: [0; 16],
        host: "localhost".into(),
        port: 9290,
        rack: None,
        directories: vec![DirectoryId([1; 16])],
        raft_id: Some(7),
        software: "strandline/0.0.0".into(),
        metadata_version_max: METADATA_VERSION,
        lossy: Vec::new(),
    };
    let registered = metadata
        .propose_here(Command::RegisterBroker(registration))
        .await;
    registered.map_err(|failure| anyhow!(failure.message))?;
    create(&metadata, arguments).await?;
    report("partitions created", began.elapsed())?;
    let began = Instant::now();
    for number in 0..arguments.changes {
        change(&metadata, number, arguments.topics).await?;
    }
    report("changes made, one after the other", began.elapsed())?;
    metadata.close().await?;
    println!("{:<44} {:>9.1} MiB", "log", mib(log_bytes(data)?));
    Ok(())
}

/// Opens it, and closes it again.
async fn replay(data: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    let (metadata, _) = MetadataLog::open(options(data, NEVER, Shutdown::Clean))?;
    let took = began.elapsed();
    let image = metadata.image();
    let (topics, partitions) = (image.topic_count(), image.partition_count());
    report(
        &format!("replayed: {topics} topics, {partitions} partitions"),
        took,
    )?;
    metadata.close().await?;
    Ok(())
}

/// Lets a snapshot be written while changes go on.
async fn snapshot(data: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    let (metadata, _) = MetadataLog::open(options(data, AT_ONCE, Shutdown::Clean))?;
    let before = memory()?;
    let (began, mut longest, mut changes) = (Instant::now(), Duration::ZERO, 0);
    while snapshots_in(data)?.is_empty() {
        let asked = Instant::now();
        change(&metadata, changes, arguments.topics).await?;
        longest = longest.max(asked.elapsed());
        changes += 1;
    }
    report("snapshot written and durable", began.elapsed())?;
    println!(
        "{:<44} {:>9.1} MiB more than before; {changes} changes meanwhile, the longest {:.1} ms",
        "",
        memory()? - before,
        longest.as_secs_f64() * 1e3
    );
    // A second one, so that the log is trimmed behind the first.
    while snapshots_in(data)?.len() < 2 {
        change(&metadata, changes, arguments.topics).await?;
        changes += 1;
    }
    metadata.close().await?;
    for (path, bytes) in snapshots_in(data)? {
        println!(
            "{:<44} {:>9.1} MiB",
            path.file_name().unwrap_or_default().display(),
            mib(bytes)
        );
    }
    println!("{:<44} {:>9.1} MiB", "log", mib(log_bytes(data)?));
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) / 1_024.0
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let Some((data, step)) = arguments.data.clone().zip(arguments.step.clone()) else {
        return steps();
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        match step.as_str() {
            "fill" => fill(&data, &arguments).await,
            "replay" => replay(&data).await,
            "snapshot" => snapshot(&data, &arguments).await,
            other => Err(anyhow!("there is no step {other}")),
        }
    })
}

/// Each step is a process of its own, so that its memory is.
fn steps() -> anyhow::Result<()> {
    let data = tempfile::tempdir()?;
    for step in ["fill", "replay", "snapshot", "replay"] {
        println!("{step}:");
        let mut child = std::process::Command::new(std::env::current_exe()?);
        child.args(std::env::args_os().skip(1));
        child.arg("--data").arg(data.path()).arg("--step").arg(step);
        let status = child.status()?;
        anyhow::ensure!(status.success(), "step {step} failed");
    }
    Ok(())
}
