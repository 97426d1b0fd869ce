//! Snapshots of a broker that is alone: what a start reads, what is left of the log, and what a
//! power cut at any moment leaves of both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use strandline_broker::metadata::{
    Flushing, Founding, METADATA_DIRECTORY, MetadataLog, MetadataOptions, SnapshotLimits,
};
use strandline_core::metadata::{
    Defaults, Image, METADATA_VERSION, Membership, Registration, Voter,
};
use strandline_protocol::{
    BrokerId, ClusterId, DirectoryId, Offset,
    messages::{CreateTopicsRequest, DeleteTopicsRequest, Failure, NewTopic},
};
use strandline_storage::{directory::RaftId, fs::simulated::SimulatedDisk, log::RecoveryHint};

const BROKER: BrokerId = BrokerId(1);

/// So small that a few topics make several snapshots.
const SMALL: SnapshotLimits = SnapshotLimits {
    entries: 6,
    bytes: u64::MAX,
};

const NEVER: SnapshotLimits = SnapshotLimits {
    entries: u64::MAX,
    bytes: u64::MAX,
};

fn directory() -> PathBuf {
    Path::new("/data").join(METADATA_DIRECTORY)
}

fn disk() -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    let files = disk.file_system();
    files.create_directory(Path::new("/data")).unwrap();
    files.sync_directory(Path::new("/")).unwrap();
    disk
}

fn options(disk: &SimulatedDisk, snapshots: SnapshotLimits) -> MetadataOptions {
    MetadataOptions {
        file_system: disk.file_system(),
        directory: directory(),
        hint: RecoveryHint::default(),
        raft_id: RaftId(7),
        membership: Membership::of(
            ClusterId([5; 16]),
            vec![Voter {
                raft_id: 7,
                broker: BROKER,
            }],
        ),
        founding: Founding::Allowed,
        defaults: Defaults::default(),
        flushing: Flushing::Inline,
        snapshots,
    }
}

fn open(disk: &SimulatedDisk, snapshots: SnapshotLimits) -> MetadataLog {
    MetadataLog::open(options(disk, snapshots)).unwrap().0
}

fn refusal(disk: &SimulatedDisk) -> String {
    let refused = MetadataLog::open(options(disk, SMALL));
    refused.expect_err("the start is refused").to_string()
}

fn registration() -> Registration {
    Registration {
        broker: BROKER,
        incarnation: [0; 16],
        host: "localhost".into(),
        port: 9290,
        rack: None,
        directories: vec![DirectoryId([1; 16])],
        raft_id: Some(7),
        software: "strandline/0.0.0".into(),
        metadata_version_max: METADATA_VERSION,
        lossy: Vec::new(),
    }
}

async fn create(metadata: &MetadataLog, name: &str) -> Result<(), Failure> {
    let topic = NewTopic {
        name: name.into(),
        partitions: Some(3),
        replication_factor: None,
        configs: BTreeMap::new(),
    };
    let request = CreateTopicsRequest {
        topics: vec![topic],
        validate_only: false,
    };
    let response = metadata.create_topics(request).await?;
    response.topics[0].failure.clone().into_result()
}

async fn delete(metadata: &MetadataLog, name: &str) -> Result<(), Failure> {
    let request = DeleteTopicsRequest {
        names: vec![name.into()],
    };
    metadata.delete_topics(request).await.map(drop)
}

fn names(image: &Image) -> BTreeSet<String> {
    image.topics().map(|topic| topic.name.to_string()).collect()
}

fn snapshots_on(disk: &SimulatedDisk) -> Vec<String> {
    let entries = disk.file_system().list(&directory()).unwrap();
    let names = entries.into_iter().map(|entry| entry.name);
    names.filter(|name| name.ends_with(".checkpoint")).collect()
}

fn end_in(name: &str) -> Offset {
    Offset(name[..20].parse().unwrap())
}

/// Where the log on the disk starts.
fn log_start(disk: &SimulatedDisk) -> Offset {
    let path = directory().join("partition.state");
    let file = disk.file_system().open(&path).unwrap();
    let bytes = file.view(0..file.size()).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let start = text
        .lines()
        .find_map(|line| line.strip_prefix("log_start "));
    Offset(start.unwrap().parse().unwrap())
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("not in time: {what}");
}

/// A disk with two snapshots and a log behind the older one, and the image as it was.
async fn with_two_snapshots() -> (SimulatedDisk, Arc<Image>) {
    let disk = disk();
    let metadata = open(&disk, SMALL);
    metadata.register(registration()).await.unwrap();
    for number in 0..30 {
        create(&metadata, &format!("topic-{number}")).await.unwrap();
    }
    delete(&metadata, "topic-3").await.unwrap();
    // The last trimming may come a moment later.
    until("the log is trimmed", || {
        let kept = snapshots_on(&disk);
        kept.len() == 2 && log_start(&disk) == end_in(&kept[0])
    })
    .await;
    metadata.close().await.unwrap();
    let image = metadata.image();
    (disk, image)
}

/// What does not depend on how often the broker was started.
fn told(image: &Image) -> Vec<(String, i32, Offset)> {
    let topics = image.topics();
    topics
        .map(|topic| {
            (
                topic.name.to_string(),
                topic.partition_count(),
                topic.version,
            )
        })
        .collect()
}

#[tokio::test]
async fn a_start_reads_a_snapshot_and_the_log_behind_it() {
    let (disk, before) = with_two_snapshots().await;
    let start = log_start(&disk);
    assert!(start > Offset(10), "{start}");
    // Without what lies in front of the newest: it is not read.
    let kept = snapshots_on(&disk);
    disk.file_system()
        .remove(&directory().join(&kept[0]))
        .unwrap();
    let metadata = open(&disk, NEVER);
    assert_eq!(told(&metadata.image()), told(&before));
    assert_eq!(
        metadata.image().next_producer_id(),
        before.next_producer_id()
    );
    assert!(metadata.image().is_consistent());
    create(&metadata, "after").await.unwrap();
    metadata.close().await.unwrap();
    let end = metadata.image().version();
    drop(metadata);
    let metadata = open(&disk, NEVER);
    assert!(names(&metadata.image()).contains("after"));
    assert_eq!(metadata.image().version(), end);
}

#[tokio::test]
async fn a_damaged_snapshot_is_never_used() {
    let (disk, before) = with_two_snapshots().await;
    let kept = snapshots_on(&disk);
    let newest = directory().join(&kept[1]);
    disk.rot(&newest, 700, 4).unwrap();
    // The one before it, and the log from there on.
    let metadata = open(&disk, NEVER);
    assert_eq!(told(&metadata.image()), told(&before));
    drop(metadata);

    let older = directory().join(&kept[0]);
    disk.rot(&older, 900, 4).unwrap();
    let refused = refusal(&disk);
    assert!(refused.contains(&kept[1]), "{refused}");
    assert!(refused.contains("at byte "), "{refused}");
    assert!(refused.contains("restore the data directory"), "{refused}");
    let files = disk.file_system();
    files.remove(&newest).unwrap();
    files.remove(&older).unwrap();
    let refused = refusal(&disk);
    assert!(refused.contains("there is none"), "{refused}");
}

#[tokio::test]
async fn a_log_that_was_never_trimmed_does_without_its_damaged_snapshot() {
    let disk = disk();
    let metadata = open(&disk, SMALL);
    metadata.register(registration()).await.unwrap();
    for number in 0..6 {
        create(&metadata, &format!("topic-{number}")).await.unwrap();
    }
    until("there is a snapshot", || snapshots_on(&disk).len() == 1).await;
    metadata.close().await.unwrap();
    let before = metadata.image();
    drop(metadata);
    let only = directory().join(&snapshots_on(&disk)[0]);
    disk.rot(&only, 300, 1).unwrap();
    let metadata = open(&disk, NEVER);
    assert_eq!(told(&metadata.image()), told(&before));
}

#[tokio::test]
async fn the_log_of_a_broker_that_is_alone_cannot_end_below_its_snapshot() {
    let (disk, _) = with_two_snapshots().await;
    let files = disk.file_system();
    for entry in files.list(&directory()).unwrap() {
        if !entry.name.ends_with(".checkpoint") {
            files.remove(&directory().join(&entry.name)).unwrap();
        }
    }
    let refused = refusal(&disk);
    assert!(
        refused.contains("does not lead to its snapshot"),
        "{refused}"
    );
}

/// Works until the machine goes off. Returns what was acknowledged.
async fn work(disk: &SimulatedDisk, topics: usize) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    let Ok((metadata, _)) = MetadataLog::open(options(disk, SMALL)) else {
        return acknowledged;
    };
    if metadata.register(registration()).await.is_err() {
        return acknowledged;
    }
    for number in 0..topics {
        let name = format!("topic-{number}");
        if create(&metadata, &name).await.is_err() {
            break;
        }
        acknowledged.insert(name);
        if number % 5 == 4 {
            let gone = format!("topic-{}", number - 1);
            // Whether it is gone, a failure does not tell.
            acknowledged.remove(&gone);
            if delete(&metadata, &gone).await.is_err() {
                break;
            }
        }
    }
    let _ = metadata.close().await;
    acknowledged
}

#[tokio::test]
async fn a_power_cut_at_every_operation_loses_nothing_that_was_acknowledged() {
    const TOPICS: usize = 20;
    let counted = disk();
    work(&counted, TOPICS).await;
    let operations = counted.changes();
    let (mut cuts, mut found) = (0, BTreeMap::new());
    for operation in 0..operations {
        let disk = disk();
        disk.crash_after(operation);
        let acknowledged = work(&disk, TOPICS).await;
        for seed in [operation, operation + 1_000_000] {
            let left = disk.power_cut(seed);
            let once = open(&left, NEVER);
            let image = once.image();
            let missing: Vec<_> = acknowledged.difference(&names(&image)).cloned().collect();
            assert!(
                missing.is_empty(),
                "operation {operation}, seed {seed}: {missing:?} lost of {}",
                acknowledged.len()
            );
            assert!(image.is_consistent());
            *found.entry(snapshots_on(&left).len()).or_insert(0) += 1;
            drop(once);
            // Whatever opening did is as good as what it found.
            let again = open(&left.power_cut(seed + 1), NEVER);
            assert_eq!(again.image(), image, "operation {operation}, seed {seed}");
            cuts += 1;
        }
    }
    println!(
        "{cuts} power cuts at {operations} operations; by number of snapshots left: {found:?}"
    );
    assert!(found.len() >= 3, "{found:?}");
}
