//! The metadata log on a simulated disk: what was answered is there after a crash, and what is
//! damaged, foreign or newer stops the start.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use strandline_broker::metadata::{
    Flushing, Founding, METADATA_DIRECTORY, METADATA_TOPIC_ID, MetadataLog, MetadataOptions,
    SnapshotLimits,
};
use strandline_core::metadata::{
    Defaults, Entry, Image, METADATA_VERSION, Membership, Record, Registration, Voter,
};
use strandline_protocol::{
    BrokerId, ClusterId, DirectoryId, ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId,
    Timestamp, TopicId,
    batch::{BatchBuilder, Codec, NewRecord, ProducerStamp},
    messages::{
        CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, Failure,
        InitProducerIdRequest, NewTopic,
    },
};
use strandline_storage::{
    directory::RaftId,
    fs::{
        Operation,
        simulated::{Failure as DiskFailure, Fault, SimulatedDisk},
    },
    log::{Log, LogConfig, RecoveryHint, Shutdown},
};

const BROKER: BrokerId = BrokerId(1);

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

fn options(disk: &SimulatedDisk) -> MetadataOptions {
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
        snapshots: SnapshotLimits::default(),
    }
}

fn open(disk: &SimulatedDisk) -> MetadataLog {
    MetadataLog::open(options(disk)).unwrap().0
}

fn refusal(options: MetadataOptions) -> String {
    MetadataLog::open(options)
        .expect_err("the start is refused")
        .to_string()
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

async fn create(metadata: &MetadataLog, name: &str) -> Result<CreateTopicsResponse, Failure> {
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
    metadata.create_topics(request).await
}

fn names(image: &Image) -> BTreeSet<String> {
    image
        .topics()
        .map(|topic| topic.name.as_ref().into())
        .collect()
}

#[tokio::test]
async fn a_restart_replays_the_same_image_under_a_new_epoch() {
    let disk = disk();
    let metadata = open(&disk);
    assert_eq!(metadata.image().cluster(), ClusterId([5; 16]));
    let first = metadata.register(registration()).await.unwrap();
    assert_eq!(metadata.image().metadata_version(), METADATA_VERSION);
    let mut watch = metadata.watch();
    watch.mark_unchanged();
    create(&metadata, "orders").await.unwrap();
    create(&metadata, "gone").await.unwrap();
    let delete = DeleteTopicsRequest {
        names: vec!["gone".into()],
    };
    metadata.delete_topics(delete).await.unwrap();
    assert!(watch.has_changed().unwrap());
    let before = metadata.image();
    assert_eq!(watch.borrow_and_update().version(), before.version());
    let recovery_point = metadata.close().await.unwrap();
    assert_eq!(recovery_point, before.version().plus(1));
    let refused = create(&metadata, "late").await.unwrap_err();
    assert_eq!(refused.error, ErrorCode::SHUTTING_DOWN);

    let clean = MetadataOptions {
        hint: RecoveryHint {
            recovery_point,
            log_start: Offset::ZERO,
            shutdown: Shutdown::Clean,
        },
        ..options(&disk)
    };
    let (metadata, _) = MetadataLog::open(clean).unwrap();
    assert_eq!(*metadata.image(), *before);
    let second = metadata.register(registration()).await.unwrap();
    assert!(second > first);
    let image = metadata.image();
    assert!(image.term() > before.term());
    let orders = image.topic("orders").unwrap();
    assert_eq!(orders.partition_count(), 3);
    assert!(
        orders
            .partitions()
            .all(|(_, partition)| partition.leader_epoch == LeaderEpoch(1))
    );
}

/// Topics are created and deleted until the machine goes off in the middle of one of the operations
/// on its disk; after the power cut everything that was answered is there.
#[tokio::test]
async fn what_was_answered_survives_a_power_cut_at_any_point() {
    let changes = {
        let disk = disk();
        story(&disk).await;
        disk.changes()
    };
    assert!(changes > 20, "{changes}");
    for point in 1..=changes {
        for seed in 0..4 {
            let disk = disk();
            disk.crash_after(point);
            let answered = story(&disk).await;
            let disk = disk.power_cut(seed);
            let _ = disk.file_system().create_directory(Path::new("/data"));
            let metadata = open(&disk);
            let found = names(&metadata.image());
            for (name, is_there) in answered {
                assert_eq!(
                    found.contains(&name),
                    is_there,
                    "{name} after a crash at {point}, seed {seed}: {found:?}"
                );
            }
            metadata.register(registration()).await.unwrap();
            create(&metadata, "afterwards").await.unwrap();
        }
    }
}

/// What was answered: whether each topic is there. One that nobody answered for is not listed.
async fn story(disk: &SimulatedDisk) -> BTreeMap<String, bool> {
    let mut answered = BTreeMap::new();
    let Ok((metadata, _)) = MetadataLog::open(options(disk)) else {
        return answered;
    };
    if metadata.register(registration()).await.is_err() {
        return answered;
    }
    for number in 0..6 {
        let name = format!("t{number}");
        if create(&metadata, &name).await.is_ok() {
            answered.insert(name, true);
        }
        if number % 2 == 1 {
            let name = format!("t{}", number - 1);
            let names = vec![name.clone()];
            answered.remove(&name);
            let deleted = metadata.delete_topics(DeleteTopicsRequest { names }).await;
            if deleted.is_ok_and(|response| response.topics[0].failure.error.is_none()) {
                answered.insert(name, false);
            }
        }
    }
    answered
}

#[tokio::test]
async fn a_full_disk_refuses_changes_and_nothing_else() {
    let disk = disk();
    let metadata = open(&disk);
    metadata.register(registration()).await.unwrap();
    disk.set_capacity(Some(0));
    let mut refused = None;
    for number in 0..10_000 {
        match create(&metadata, &format!("t{number}")).await {
            Ok(_) => {}
            Err(failure) => {
                refused = Some((number, failure));
                break;
            }
        }
    }
    let (number, failure) = refused.expect("the disk is full at some time");
    assert_eq!(failure.error, ErrorCode::DISK_FULL);
    assert_eq!(metadata.image().topic_count(), number);
    assert_eq!(*metadata.failure().borrow(), None);
    disk.set_capacity(None);
    create(&metadata, "there.is.room").await.unwrap();
}

#[tokio::test]
async fn a_failed_sync_ends_the_log_and_says_so() {
    let disk = disk();
    let metadata = open(&disk);
    metadata.register(registration()).await.unwrap();
    create(&metadata, "before").await.unwrap();
    disk.inject(Fault::next(Operation::Sync, DiskFailure::Broken));
    let unknown = create(&metadata, "unknown").await.unwrap_err();
    assert_eq!(unknown.error, ErrorCode::UNKNOWN_SERVER_ERROR);
    let told = metadata.failure().borrow().clone().unwrap();
    assert!(told.contains("the metadata log is offline"), "{told}");
    let refused = create(&metadata, "after").await.unwrap_err();
    assert_eq!(refused.error, ErrorCode::STORAGE_ERROR);
    // What is public is what is known to be durable.
    assert_eq!(names(&metadata.image()), BTreeSet::from(["before".into()]));
    assert!(metadata.close().await.is_err());
}

#[tokio::test]
async fn a_damaged_log_stops_the_start_and_names_file_and_offset() {
    let disk = disk();
    let metadata = open(&disk);
    metadata.register(registration()).await.unwrap();
    create(&metadata, "orders").await.unwrap();
    let recovery_point = metadata.close().await.unwrap();
    let file = directory().join("00000000000000000000.log");
    let hint = RecoveryHint {
        recovery_point,
        log_start: Offset::ZERO,
        shutdown: Shutdown::Clean,
    };
    // In the middle of the record of the first batch.
    disk.rot(&file, 80, 0x10).unwrap();
    let refused = refusal(MetadataOptions {
        hint,
        ..options(&disk)
    });
    assert!(refused.contains("damaged"), "{refused}");
    assert!(refused.contains("00000000000000000000.log"), "{refused}");
    assert!(refused.contains("offset 0"), "{refused}");
}

#[tokio::test]
async fn a_foreign_or_missing_log_stops_the_start() {
    let disk = disk();
    let missing = MetadataOptions {
        founding: Founding::Forbidden,
        ..options(&disk)
    };
    let refused = refusal(missing);
    assert!(refused.contains("missing or empty"), "{refused}");
    open(&disk);
    let mut foreign = options(&disk);
    foreign.membership.cluster = ClusterId([6; 16]);
    let refused = refusal(foreign);
    assert!(refused.contains("belongs to cluster"), "{refused}");
}

/// Appends an entry as a broker of another version would.
fn append(disk: &SimulatedDisk, entry: &Entry) {
    let (mut log, _) = Log::open(
        disk.file_system(),
        &directory(),
        METADATA_TOPIC_ID,
        LogConfig::default(),
        RecoveryHint::default(),
        Timestamp(1),
    )
    .unwrap();
    let value = entry.encode();
    let mut batch = BatchBuilder::new(Codec::None, 1_000);
    let record = NewRecord {
        timestamp: Timestamp(1),
        value: Some(&value),
        ..NewRecord::default()
    };
    batch.try_append(1 << 20, record).unwrap();
    let batch = batch.finish(ProducerStamp::NONE).unwrap();
    log.append(&batch, LeaderEpoch(9), Timestamp(1)).unwrap();
    log.close(Timestamp(1)).unwrap();
}

#[tokio::test]
async fn a_newer_metadata_version_stops_the_start() {
    let disk = disk();
    open(&disk).close().await.unwrap();
    let version = METADATA_VERSION + 1;
    append(
        &disk,
        &Entry::Command(vec![Record::MetadataVersionSet { version }]),
    );
    let refused = refusal(options(&disk));
    assert!(
        refused.contains(&format!("metadata version {version} is newer")),
        "{refused}"
    );
    // Behind the founding and the first entry of the leader.
    assert!(refused.contains("offset 2"), "{refused}");
}

#[tokio::test]
async fn a_log_that_does_not_begin_with_its_founding_stops_the_start() {
    let disk = disk();
    append(&disk, &Entry::Blank);
    let refused = refusal(options(&disk));
    assert!(refused.contains("not a membership"), "{refused}");
}

#[tokio::test]
async fn a_log_that_creates_a_topic_twice_stops_the_start() {
    let disk = disk();
    open(&disk).close().await.unwrap();
    let created = |id: u8| Record::TopicCreated {
        name: "t".to_owned(),
        id: TopicId([id; 16]),
        configs: BTreeMap::new(),
        partitions: Vec::new(),
    };
    append(&disk, &Entry::Command(vec![created(1), created(2)]));
    let refused = refusal(options(&disk));
    assert!(
        refused.contains("entry 2 creates topic t") && refused.contains("second time"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_that_come_together_share_their_syncs() {
    let disk = disk();
    let blocking = MetadataOptions {
        flushing: Flushing::Blocking,
        ..options(&disk)
    };
    let (metadata, _) = MetadataLog::open(blocking).unwrap();
    metadata.register(registration()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..200 {
        let metadata = metadata.clone();
        tasks.spawn(async move {
            let name = format!("t{number}");
            let response = create(&metadata, &name).await.unwrap();
            assert_ne!(response.topics[0].id, TopicId::default());
            // Whoever has the answer finds the topic in the image.
            assert!(metadata.image().topic(&name).is_some());
            let new = InitProducerIdRequest {
                producer_id: ProducerId::NONE,
                producer_epoch: ProducerEpoch::NONE,
            };
            let producer = metadata.init_producer_id(BROKER, &new).await.unwrap();
            producer.producer_id
        });
    }
    let ids = tasks.join_all().await;
    let distinct: BTreeSet<ProducerId> = ids.iter().copied().collect();
    assert_eq!(distinct.len(), 200);
    let image = metadata.image();
    assert_eq!(image.topic_count(), 200);
    assert_eq!(image.next_producer_id(), ProducerId(1_000));
    metadata.close().await.unwrap();
    let metadata = open(&disk);
    // The new leader's first entry may be there already.
    assert!(metadata.image().topics().eq(image.topics()));
    let again = InitProducerIdRequest {
        producer_id: ids[0],
        producer_epoch: ProducerEpoch(0),
    };
    let bumped = metadata.init_producer_id(BROKER, &again).await.unwrap();
    assert_eq!(bumped.producer_id, ids[0]);
    assert_eq!(bumped.producer_epoch, ProducerEpoch(1));
}
