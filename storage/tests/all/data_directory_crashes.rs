//! A data directory whose machine crashes in the middle of every step, whose disk is full, and
//! whose disk fails.

use std::path::Path;

use strandline_protocol::{BrokerEpoch, BrokerId, ClusterId, DirectoryId, Offset, TopicId};
use strandline_storage::{
    StorageError,
    directory::{
        Checkpoint, CheckpointedOffsets, Claim, DataDirectory, Found, Identity, Origin, PageCache,
        PartitionName, RaftId, ReserveState,
    },
    fs::{
        FileSystem, Operation,
        simulated::{Failure, Fault, MachineOff, SimulatedDisk},
    },
    log::Shutdown,
};

const SEEDS: u64 = 25;
const PATH: &str = "/srv/data";

fn claim(id: u8) -> Claim {
    Claim {
        identity: Identity {
            cluster_id: ClusterId([id; 16]),
            node_id: BrokerId(4),
            directory_id: DirectoryId([id; 16]),
            raft_id: RaftId(u64::from(id)),
        },
        cluster_id: None,
        reserve_bytes: 64 * 1024,
    }
}

fn open(disk: &SimulatedDisk, id: u8) -> Result<(DataDirectory, Found), StorageError> {
    DataDirectory::open(disk.file_system(), Path::new(PATH), &claim(id))
}

fn partition(name: &str) -> PartitionName {
    name.parse().unwrap()
}

fn checkpoint(offset: i64, partitions: i32) -> Checkpoint {
    let mut checkpoint = Checkpoint::default();
    for number in 0..partitions {
        let offsets = CheckpointedOffsets {
            recovery_point: Offset(offset + i64::from(number)),
            log_start: Offset(0),
            high_watermark: Offset(offset),
        };
        let name = partition(&format!("orders-{number}"));
        checkpoint.insert(name, TopicId([3; 16]), offsets);
    }
    checkpoint
}

fn create_partition(fs: &dyn FileSystem, name: &str) -> Result<(), StorageError> {
    let path = Path::new(PATH).join(name);
    fs.create_directory(&path)?;
    let file = fs.create(&path.join("0.log"))?;
    file.allocate(10_000)?;
    file.sync()?;
    fs.sync_directory(&path)?;
    Ok(fs.sync_directory(Path::new(PATH))?)
}

/// What a run was told that it had done before the machine went off.
#[derive(Debug, Default)]
struct Done {
    opened: bool,
    epoch: bool,
    created: bool,
    checkpoints: i64,
    retired: bool,
    purged: bool,
    closed: bool,
}

/// One run from its start to its clean end; `done` is how far it came.
fn run(disk: &SimulatedDisk, done: &mut Done) -> Result<(), StorageError> {
    let (directory, _) = open(disk, 1)?;
    done.opened = true;
    directory.set_broker_epoch(BrokerEpoch(17))?;
    done.epoch = true;
    create_partition(&*disk.file_system(), "orders-0")?;
    done.created = true;
    for number in 1..=2 {
        directory.write_checkpoint(&checkpoint(number, 20))?;
        done.checkpoints = number;
    }
    let retired = directory.retire(&partition("orders-0"), [8; 16])?;
    done.retired = true;
    directory.purge(&retired)?;
    done.purged = true;
    directory.close_clean(BrokerEpoch(17), &checkpoint(3, 20))?;
    done.closed = true;
    Ok(())
}

fn check(found: &Found, directory: &DataDirectory, done: &Done, context: &str) {
    let identity = directory.identity();
    let expected = match found.origin {
        Origin::Old => 1,
        Origin::New => 2,
    };
    assert_eq!(*identity, claim(expected).identity, "{context}");
    assert!(!done.opened || found.origin == Origin::Old, "{context}");
    let epoch = found.last_run.as_ref().map(|run| run.broker_epoch.0);
    assert!(!done.opened || epoch.is_some(), "{context}");
    assert!(!done.epoch || epoch == Some(17), "{context}");
    let is_named = found.partitions.contains(&partition("orders-0"));
    assert!(
        !done.created || done.retired || is_named || !found.doomed.is_empty(),
        "{context}"
    );
    assert!(!(done.retired && is_named), "{context}");
    assert!(!done.purged || found.doomed.is_empty(), "{context}");
    let at_least = if done.closed { 3 } else { done.checkpoints };
    let number = (0..=3)
        .find(|number| {
            let known = if *number == 0 {
                Checkpoint::default()
            } else {
                checkpoint(*number, 20)
            };
            found.checkpoint == known
        })
        .unwrap_or_else(|| panic!("{context}: a checkpoint that nobody wrote"));
    assert!(
        (at_least..=at_least + 1).contains(&number),
        "{context}: {number}"
    );
    assert_eq!(found.warnings, Vec::<String>::new(), "{context}");
    match found.shutdown {
        Shutdown::Clean => assert!(number == 3 && done.purged, "{context}"),
        Shutdown::Unclean => assert!(!done.closed, "{context}"),
    }
}

#[test]
fn every_crash_leaves_a_directory_that_opens_and_tells_the_truth() {
    let whole = SimulatedDisk::new(0);
    run(&whole, &mut Done::default()).unwrap();
    let steps = whole.changes();
    println!("{steps} steps");
    for step in 1..=steps {
        let disk = SimulatedDisk::new(step);
        disk.crash_after(step);
        let mut done = Done::default();
        let error = run(&disk, &mut done).unwrap_err();
        assert!(matches!(&error, StorageError::Fs(error) if MachineOff::is_cause_of(error)));
        for seed in 0..SEEDS {
            let context = format!("step {step} of {steps}, seed {seed}, after {done:?}");
            let cut = disk.power_cut(seed);
            let (directory, found) =
                open(&cut, 2).unwrap_or_else(|error| panic!("{context}: {error}"));
            check(&found, &directory, &done, &context);
            assert_eq!(found.page_cache, PageCache::Lost, "{context}");
            assert_eq!(directory.reserve_state(), ReserveState::Held, "{context}");
        }
        let context = format!("step {step} of {steps}, killed, after {done:?}");
        let (directory, found) = open(&disk.kill(), 2).unwrap();
        check(&found, &directory, &done, &context);
        assert!(
            !done.opened || found.page_cache == PageCache::Kept,
            "{context}"
        );
    }
}

/// A run that ends before it has registered has told nobody what the one before may have lost.
#[test]
fn what_may_be_lost_is_remembered_until_it_was_told() {
    let disk = SimulatedDisk::new(1);
    let (directory, found) = open(&disk, 1).unwrap();
    assert!(!found.is_lossy(), "there was nothing");
    directory.set_broker_epoch(BrokerEpoch(5)).unwrap();
    let mut disk = disk.power_cut(1);
    for start in 0..3 {
        let (_, found) = open(&disk, 1).unwrap();
        assert!(found.is_lossy(), "start {start}");
        assert_eq!(found.last_run.unwrap().broker_epoch, BrokerEpoch(5));
        disk = disk.kill();
    }
    let (directory, _) = open(&disk, 1).unwrap();
    directory.set_broker_epoch(BrokerEpoch(9)).unwrap();
    let (_, found) = open(&disk.kill(), 1).unwrap();
    assert!(!found.is_lossy(), "it was told");
    assert_eq!(found.last_run.unwrap().broker_epoch, BrokerEpoch(9));
}

#[test]
fn the_clean_mark_is_gone_for_good_before_anything_can_be_appended() {
    let start = || {
        let disk = SimulatedDisk::new(0);
        run(&disk, &mut Done::default()).unwrap();
        disk.power_cut(0)
    };
    let disk = start();
    let opened = open(&disk, 1).unwrap();
    assert_eq!(opened.1.shutdown, Shutdown::Clean);
    let steps = disk.changes();
    for seed in 0..SEEDS {
        let found = open(&disk.power_cut(seed), 1).unwrap().1;
        assert_eq!(found.shutdown, Shutdown::Unclean, "seed {seed}");
    }
    for step in 1..=steps {
        let disk = start();
        disk.crash_after(step);
        open(&disk, 1).unwrap_err();
        for seed in 0..SEEDS {
            // Nothing was appended, so either answer is true; it only has to open.
            let (_, found) = open(&disk.power_cut(seed), 1).unwrap();
            assert_eq!(
                found.checkpoint,
                checkpoint(3, 20),
                "step {step}, seed {seed}"
            );
        }
    }
}

#[test]
fn a_full_disk_still_takes_what_makes_room() {
    let disk = SimulatedDisk::new(0);
    let fs = disk.file_system();
    let (directory, _) = open(&disk, 1).unwrap();
    create_partition(&*fs, "orders-0").unwrap();
    directory.write_checkpoint(&checkpoint(1, 20)).unwrap();
    let ballast = fs.create(Path::new("/ballast")).unwrap();
    disk.set_capacity(Some(1 << 20));
    ballast
        .allocate(directory.space().unwrap().available)
        .unwrap();
    assert_eq!(directory.space().unwrap().available, 0);

    directory.write_checkpoint(&checkpoint(2, 20)).unwrap();
    assert_eq!(directory.reserve_state(), ReserveState::Released);
    let retired = directory.retire(&partition("orders-0"), [1; 16]).unwrap();
    directory.purge(&retired).unwrap();
    assert_eq!(
        directory.replenish_reserve().unwrap(),
        ReserveState::Released
    );

    let available = directory.space().unwrap().available;
    ballast
        .allocate(ballast.size() + available / 4096 * 4096)
        .unwrap();
    let refused = directory.write_checkpoint(&checkpoint(3, 20)).unwrap_err();
    assert!(refused.is_full(), "{refused}");
    assert!(directory.is_online(), "a full disk is not a broken one");
    assert!(!directory.release_reserve().unwrap());

    ballast.truncate(0).unwrap();
    directory.write_checkpoint(&checkpoint(4, 20)).unwrap();
    assert_eq!(directory.replenish_reserve().unwrap(), ReserveState::Held);
    let found = open(&disk.power_cut(1), 1).unwrap().1;
    assert_eq!(found.checkpoint, checkpoint(4, 20));
}

#[test]
fn a_directory_can_be_opened_on_a_full_disk() {
    let disk = SimulatedDisk::new(0);
    drop(open(&disk, 1).unwrap());
    let fs = disk.file_system();
    let ballast = fs.create(Path::new("/ballast")).unwrap();
    disk.set_capacity(Some(1 << 20));
    let space = fs.space(Path::new("/")).unwrap();
    ballast.allocate(space.available).unwrap();
    let (directory, _) = open(&disk, 1).unwrap();
    assert_eq!(directory.reserve_state(), ReserveState::Released);
    directory.write_checkpoint(&checkpoint(1, 20)).unwrap();
}

#[test]
fn a_directory_can_be_opened_on_a_disk_that_is_full_to_the_last_block() {
    let disk = SimulatedDisk::new(0);
    let (directory, _) = open(&disk, 1).unwrap();
    let fs = disk.file_system();
    let ballast = fs.create(Path::new("/ballast")).unwrap();
    disk.set_capacity(Some(1 << 20));
    directory.release_reserve().unwrap();
    drop(directory);
    let fill = || {
        let available = fs.space(Path::new("/")).unwrap().available;
        ballast.allocate(ballast.size() + available).unwrap();
    };
    fill();
    // Each time somebody takes what the file of the last run has given.
    for _ in 0..3 {
        let (directory, found) = open(&disk, 1).unwrap();
        assert!(directory.is_online());
        assert_eq!(found.shutdown, Shutdown::Unclean);
        directory.set_broker_epoch(BrokerEpoch(9)).unwrap();
        fill();
    }
    ballast.truncate(0).unwrap();
    let (directory, _) = open(&disk, 1).unwrap();
    directory.set_broker_epoch(BrokerEpoch(11)).unwrap();
    drop(directory);
    let found = open(&disk, 1).unwrap().1;
    assert_eq!(found.last_run.unwrap().broker_epoch, BrokerEpoch(11));
}

#[test]
fn a_failing_disk_takes_the_directory_offline() {
    for (operation, failure) in [
        (Operation::Sync, Failure::Broken),
        (Operation::Sync, Failure::Full),
        (Operation::Write, Failure::Broken),
        (Operation::Allocate, Failure::Broken),
        (Operation::Rename, Failure::Broken),
    ] {
        let disk = SimulatedDisk::new(0);
        let (directory, _) = open(&disk, 1).unwrap();
        directory.write_checkpoint(&checkpoint(1, 20)).unwrap();
        disk.inject(Fault::next(operation, failure));
        let error = directory.write_checkpoint(&checkpoint(2, 20));
        if failure == Failure::Full {
            // The reserve does not help against lost bytes, but the second try was synced afresh.
            assert_eq!(directory.reserve_state(), ReserveState::Released);
            continue;
        }
        let error = error.unwrap_err();
        assert_eq!(directory.failure(), Some(error.to_string().as_str()));
        let refused = directory.write_checkpoint(&checkpoint(3, 20)).unwrap_err();
        assert!(
            matches!(refused, StorageError::DirectoryOffline { .. }),
            "{refused}"
        );
        assert!(
            directory
                .close_clean(BrokerEpoch(1), &checkpoint(3, 20))
                .is_err()
        );
        for seed in 0..SEEDS {
            let found = open(&disk.power_cut(seed), 1).unwrap().1;
            let is_known = [1, 2].map(|number| found.checkpoint == checkpoint(number, 20));
            assert!(is_known.contains(&true), "{operation}, seed {seed}");
            assert_eq!(found.shutdown, Shutdown::Unclean);
        }
    }
}

#[test]
fn a_rotten_checkpoint_is_noticed_at_every_byte() {
    let disk = SimulatedDisk::new(0);
    let (directory, _) = open(&disk, 1).unwrap();
    directory
        .write_checkpoint_for_kafka(&checkpoint(1, 3))
        .unwrap();
    directory.write_checkpoint(&checkpoint(2, 3)).unwrap();
    let path = Path::new(PATH).join("checkpoint.sealed");
    let size = disk.file_system().open(&path).unwrap().size();
    drop(directory);
    for at in 0..size {
        let cut = disk.kill();
        cut.rot(&path, at, 1 << (at % 8)).unwrap();
        let found = open(&cut, 1).unwrap().1;
        assert_eq!(found.warnings.len(), 1, "byte {at}");
        assert!(
            found.warnings[0].contains("checkpoint.sealed"),
            "{:?}",
            found.warnings
        );
        let known = found
            .checkpoint
            .find(&partition("orders-0"), TopicId([3; 16]));
        assert_eq!(known.unwrap().recovery_point, Offset(1), "byte {at}");
    }
}
