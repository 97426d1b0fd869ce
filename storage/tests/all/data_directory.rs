//! A data directory from its first opening to its last: whose it is, how it was left, what lies in
//! it.

use std::{fs as host, path::Path, sync::Arc};

use strandline_protocol::{BrokerEpoch, BrokerId, ClusterId, DirectoryId, Offset, TopicId};
use strandline_storage::{
    StorageError,
    directory::{
        Checkpoint, CheckpointedOffsets, Claim, DataDirectory, Found, Identity, Origin, PageCache,
        PartitionName, RaftId, ReserveState,
    },
    fs::{CacheLimits, FileSystem, mapped::MappedFileSystem},
    log::Shutdown,
};

fn claim() -> Claim {
    Claim {
        identity: Identity {
            cluster_id: ClusterId([1; 16]),
            node_id: BrokerId(4),
            directory_id: DirectoryId([2; 16]),
            raft_id: RaftId(u64::MAX - 7),
        },
        cluster_id: None,
        reserve_bytes: 100_000,
    }
}

fn disk() -> Arc<dyn FileSystem> {
    Arc::new(MappedFileSystem::new(CacheLimits::of_process()))
}

fn open(path: &Path) -> (DataDirectory, Found) {
    DataDirectory::open(disk(), path, &claim()).unwrap()
}

fn partition(name: &str) -> PartitionName {
    name.parse().unwrap()
}

fn offsets(recovery_point: i64, log_start: i64, high_watermark: i64) -> CheckpointedOffsets {
    CheckpointedOffsets {
        recovery_point: Offset(recovery_point),
        log_start: Offset(log_start),
        high_watermark: Offset(high_watermark),
    }
}

#[test]
fn a_new_directory_gets_its_identity_and_keeps_it() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("some/where/data");
    let (directory, found) = open(&path);
    assert_eq!(found.origin, Origin::New);
    assert_eq!(found.shutdown, Shutdown::Unclean);
    assert_eq!(found.last_run, None);
    assert_eq!(*directory.identity(), claim().identity);
    assert_eq!(directory.reserve_state(), ReserveState::Held);
    drop(directory);

    let mut other = claim();
    other.identity.directory_id = DirectoryId([9; 16]);
    other.identity.cluster_id = ClusterId([9; 16]);
    other.identity.raft_id = RaftId(1);
    let (directory, found) = DataDirectory::open(disk(), &path, &other).unwrap();
    assert_eq!(found.origin, Origin::Old);
    assert_eq!(*directory.identity(), claim().identity);
    let properties = host::read_to_string(path.join("meta.properties")).unwrap();
    for line in [
        "version=1",
        "node.id=4",
        "cluster.id=AQEBAQEBAQEBAQEBAQEBAQ",
    ] {
        assert!(
            properties.lines().any(|found| found == line),
            "{properties}"
        );
    }
}

#[test]
fn a_second_process_is_refused() {
    let path = tempfile::tempdir().unwrap();
    let _held = open(path.path());
    let refused = DataDirectory::open(disk(), path.path(), &claim()).unwrap_err();
    assert!(matches!(refused, StorageError::InUse { .. }));
    let message = refused.to_string();
    assert!(message.contains(path.path().to_str().unwrap()), "{message}");
    assert!(message.contains("another process"), "{message}");
}

#[test]
fn another_node_and_another_cluster_are_refused() {
    let path = tempfile::tempdir().unwrap();
    drop(open(path.path()));
    let mut other = claim();
    other.identity.node_id = BrokerId(5);
    let refused = DataDirectory::open(disk(), path.path(), &other).unwrap_err();
    assert!(
        refused.to_string().contains("belongs to node.id 4, not 5"),
        "{refused}"
    );
    let mut other = claim();
    other.cluster_id = Some(ClusterId([3; 16]));
    let refused = DataDirectory::open(disk(), path.path(), &other).unwrap_err();
    assert!(matches!(
        refused,
        StorageError::ForeignDirectory {
            field: "cluster.id",
            ..
        }
    ));
}

#[test]
fn a_rotten_identity_is_named() {
    let path = tempfile::tempdir().unwrap();
    drop(open(path.path()));
    for file in ["meta.properties", "meta.sealed"] {
        let at = path.path().join(file);
        let good = host::read_to_string(&at).unwrap();
        host::write(&at, good.replace("node.id=4", "node.id=6")).unwrap();
        let refused = DataDirectory::open(disk(), path.path(), &claim()).unwrap_err();
        assert!(matches!(refused, StorageError::Damaged { .. }), "{refused}");
        assert!(refused.to_string().contains(file), "{refused}");
        // The remedy: what is removed is written again from the other.
        host::remove_file(&at).unwrap();
        drop(open(path.path()));
        let again = host::read_to_string(&at).unwrap();
        assert!(again.contains("node.id=4"), "{again}");
    }
    host::remove_file(path.path().join("meta.properties")).unwrap();
    host::remove_file(path.path().join("meta.sealed")).unwrap();
    host::create_dir(path.path().join("orders-0")).unwrap();
    let refused = DataDirectory::open(disk(), path.path(), &claim()).unwrap_err();
    assert!(refused.to_string().contains("restore it"), "{refused}");
}

#[test]
fn a_directory_that_kafka_formatted_is_taken_over() {
    let path = tempfile::tempdir().unwrap();
    let text = "#\n#Mon Nov 23 06:00:00 UTC 2026\ncluster.id=AQEBAQEBAQEBAQEBAQEBAQ\n\
                directory.id=AwMDAwMDAwMDAwMDAwMDAw\nnode.id=4\nversion=1\n";
    host::write(path.path().join("meta.properties"), text).unwrap();
    host::write(
        path.path().join("recovery-point-offset-checkpoint"),
        "0\n2\na-0 0 5\norders 3 77\n",
    )
    .unwrap();
    let (directory, found) = open(path.path());
    assert_eq!(directory.identity().directory_id, DirectoryId([3; 16]));
    assert_eq!(directory.identity().raft_id, claim().identity.raft_id);
    let known = found
        .checkpoint
        .find(&partition("orders-3"), TopicId([8; 16]));
    assert_eq!(known, Some(offsets(77, 0, 0)));
    let known = found.checkpoint.find(&partition("a-0-0"), TopicId([8; 16]));
    assert_eq!(known, Some(offsets(5, 0, 0)));
}

#[test]
fn only_a_clean_end_leaves_the_mark_and_only_until_the_next_start() {
    let path = tempfile::tempdir().unwrap();
    let mark = path.path().join(".kafka_cleanshutdown");
    let (directory, _) = open(path.path());
    directory.set_broker_epoch(BrokerEpoch(41)).unwrap();
    drop(directory);
    let (directory, found) = open(path.path());
    assert_eq!(found.shutdown, Shutdown::Unclean);
    assert_eq!(found.page_cache, PageCache::Kept);
    assert_eq!(found.last_run.unwrap().broker_epoch, BrokerEpoch(41));
    directory
        .close_clean(BrokerEpoch(42), &Checkpoint::default())
        .unwrap();
    drop(directory);
    assert_eq!(
        host::read_to_string(&mark).unwrap(),
        r#"{"version":0,"brokerEpoch":42}"#
    );
    let (_directory, found) = open(path.path());
    assert_eq!(found.shutdown, Shutdown::Clean);
    assert!(!mark.exists());
}

#[test]
fn checkpoints_come_back_and_ours_wins() {
    let path = tempfile::tempdir().unwrap();
    let (directory, found) = open(path.path());
    assert!(found.checkpoint.is_empty());
    let topic = TopicId([7; 16]);
    let mut checkpoint = Checkpoint::default();
    checkpoint.insert(partition("orders-0"), topic, offsets(30, 10, 20));
    checkpoint.insert(partition("or-ders-12"), topic, offsets(3, 1, 2));
    directory.write_checkpoint(&checkpoint).unwrap();
    directory.write_checkpoint_for_kafka(&checkpoint).unwrap();
    drop(directory);
    let text = path.path().join("recovery-point-offset-checkpoint");
    let expected = "0\n2\nor-ders 12 3\norders 0 30\n";
    assert_eq!(host::read_to_string(&text).unwrap(), expected);
    host::write(&text, "0\n1\norders 0 99\n").unwrap();

    let (directory, found) = open(path.path());
    assert_eq!(found.checkpoint, checkpoint);
    assert_eq!(found.warnings, Vec::<String>::new());
    // A topic of the same name that was created later does not inherit.
    assert_eq!(
        found
            .checkpoint
            .find(&partition("orders-0"), TopicId([6; 16])),
        None
    );
    drop(directory);

    let sealed = path.path().join("checkpoint.sealed");
    let good = host::read_to_string(&sealed).unwrap();
    host::write(&sealed, good.replace(" 30 ", " 39 ")).unwrap();
    let (_directory, found) = open(path.path());
    assert_eq!(found.warnings.len(), 1);
    assert!(
        found.warnings[0].contains("checkpoint.sealed is damaged"),
        "{:?}",
        found.warnings
    );
    let known = found.checkpoint.find(&partition("orders-0"), topic);
    assert_eq!(known, Some(offsets(99, 10, 20)));
}

#[test]
fn partitions_are_found_and_set_aside_and_purged() {
    let path = tempfile::tempdir().unwrap();
    for name in ["orders-0", "orders-1", "lost+found", "x-y-3"] {
        host::create_dir(path.path().join(name)).unwrap();
    }
    let id = TopicId([5; 16]);
    let metadata = format!("version: 0\ntopic_id: {id}");
    host::write(path.path().join("orders-0/partition.metadata"), metadata).unwrap();
    host::write(path.path().join("checkpoint.sealed.tmp"), "half").unwrap();
    host::write(path.path().join("orders-0/00.log"), "batches").unwrap();
    let refused = DataDirectory::open(disk(), path.path(), &claim());
    assert!(refused.is_err(), "partitions without an identity");
    host::rename(path.path().join("orders-0"), path.path().join("kept")).unwrap();
    for name in ["orders-1", "x-y-3"] {
        host::remove_dir(path.path().join(name)).unwrap();
    }
    drop(open(path.path()));
    host::rename(path.path().join("kept"), path.path().join("orders-0")).unwrap();
    host::create_dir(path.path().join("x-y-3")).unwrap();

    let (directory, found) = open(path.path());
    assert_eq!(
        found.partitions,
        [partition("orders-0"), partition("x-y-3")]
    );
    assert_eq!(found.foreign, [path.path().join("lost+found")]);
    assert!(!path.path().join("checkpoint.sealed.tmp").exists());
    assert_eq!(
        directory.topic_id(&partition("orders-0")).unwrap(),
        Some(id)
    );
    assert_eq!(directory.topic_id(&partition("x-y-3")).unwrap(), None);
    let log = directory
        .partition_path(&partition("orders-0"))
        .join("00.log");
    let file = directory.file_system().open(&log).unwrap();
    let retired = directory.retire(&partition("orders-0"), [0xa; 16]).unwrap();
    assert!(retired.join("00.log").exists());
    let stray = directory
        .quarantine(&partition("x-y-3"), [0xb; 16])
        .unwrap();
    assert!(directory.retire(&partition("orders-0"), [0xc; 16]).is_err());
    assert!(directory.is_online());
    drop(directory);

    let (directory, found) = open(path.path());
    assert_eq!(found.partitions, []);
    assert_eq!(found.doomed, std::slice::from_ref(&retired));
    assert_eq!(found.stray, [stray]);
    directory.purge(&retired).unwrap();
    directory.purge(&retired).unwrap();
    assert!(!retired.exists());
    assert_eq!(&file.view(0..7).unwrap()[..], b"batches");
}

#[test]
fn an_offline_directory_stays_so_and_says_why() {
    let path = tempfile::tempdir().unwrap();
    let (directory, _) = open(path.path());
    assert!(directory.is_online());
    directory.fail(&"a sync of orders-0 failed");
    directory.fail(&"something later");
    assert_eq!(directory.failure(), Some("a sync of orders-0 failed"));
    let refused = directory
        .write_checkpoint(&Checkpoint::default())
        .unwrap_err();
    assert!(
        refused.to_string().contains("a sync of orders-0 failed"),
        "{refused}"
    );
    assert!(
        directory
            .close_clean(BrokerEpoch(1), &Checkpoint::default())
            .is_err()
    );
    drop(directory);
    assert_eq!(open(path.path()).1.shutdown, Shutdown::Unclean);
}
