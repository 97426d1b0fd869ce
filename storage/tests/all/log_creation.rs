//! Many new logs that get their first files together, on a disk that may lose power at any point.

use std::path::PathBuf;

use crate::common::{NOW, Rig, expect, read_all};
use strandline_protocol::{LeaderEpoch, Offset, batch::ProducerStamp};
use strandline_storage::{
    StorageError,
    fs::{
        Operation,
        simulated::{Failure, Fault, SimulatedDisk},
    },
    log::{Log, LogConfig, NewLog},
};

const LOGS: usize = 5;
const EPOCH: LeaderEpoch = LeaderEpoch(3);

fn rigs(disk: &SimulatedDisk) -> Vec<Rig> {
    let rig = |number| {
        Rig::on(
            disk.file_system(),
            PathBuf::from(format!("/data/topic-{number}")),
        )
    };
    (0..LOGS).map(rig).collect()
}

fn new_disk(seed: u64) -> SimulatedDisk {
    let disk = SimulatedDisk::new(seed);
    let files = disk.file_system();
    files.create_directory("/data".as_ref()).unwrap();
    files.sync_directory("/".as_ref()).unwrap();
    disk
}

fn create(logs: &mut [Log]) -> Result<(), StorageError> {
    let new = logs.iter_mut().map(|log| NewLog {
        log,
        leader_epoch: EPOCH,
    });
    Log::create_together(&mut new.collect::<Vec<_>>(), NOW)
}

fn append(log: &mut Log, value: &str, epoch: LeaderEpoch) {
    let bytes = crate::common::batch(&[value], NOW.0, ProducerStamp::NONE);
    log.append(&bytes, epoch, NOW).unwrap();
}

fn open_all(rigs: &[Rig]) -> Vec<Log> {
    rigs.iter().map(Rig::open).collect()
}

#[test]
fn a_log_that_was_created_needs_no_more_than_the_sync_of_its_batches() {
    for seed in 0..50 {
        let disk = new_disk(seed);
        let mut logs = open_all(&rigs(&disk));
        create(&mut logs).unwrap();
        assert!(logs.iter().all(|log| !log.is_new() && log.segments() == 1));
        for log in &mut logs {
            append(log, "first", EPOCH);
            assert_eq!(log.flush().unwrap(), Offset(1));
        }
        let cut = disk.power_cut(seed);
        for log in open_all(&rigs(&cut)) {
            let read = read_all(&log, Offset(0), 1 << 20).unwrap();
            assert_eq!(read, expect(["first".to_owned()]), "seed {seed}");
            assert_eq!(log.latest_epoch(), Some(EPOCH), "seed {seed}");
        }
    }
}

#[test]
fn every_crash_leaves_logs_that_open_empty_and_take_batches() {
    let whole = new_disk(0);
    let before = whole.changes();
    create(&mut open_all(&rigs(&whole))).unwrap();
    let steps = whole.changes() - before;
    println!("{steps} steps");
    for step in 1..=steps {
        let disk = new_disk(step);
        let mut logs = open_all(&rigs(&disk));
        disk.crash_after(step);
        let _ = create(&mut logs);
        for (seed, left) in (0..8).map(|seed| (seed, disk.power_cut(seed))) {
            let here = rigs(&left);
            let mut logs = open_all(&here);
            assert!(logs.iter().all(|log| log.end() == Offset(0)));
            // Lazily, or together: either takes up what is there.
            if seed % 2 == 0 {
                create(&mut logs).unwrap();
            }
            for log in &mut logs {
                append(log, "after", LeaderEpoch(4));
                log.flush().unwrap();
            }
            for log in open_all(&rigs(&left.power_cut(seed))) {
                let read = read_all(&log, Offset(0), 1 << 20).unwrap();
                assert_eq!(
                    read,
                    expect(["after".to_owned()]),
                    "step {step}, seed {seed}"
                );
            }
        }
    }
}

#[test]
fn a_log_that_holds_something_is_left_alone() {
    let disk = new_disk(1);
    let mut logs = open_all(&rigs(&disk));
    append(&mut logs[0], "there", LeaderEpoch(2));
    create(&mut logs).unwrap();
    assert_eq!(logs[0].latest_epoch(), Some(LeaderEpoch(2)));
    let read = read_all(&logs[0], Offset(0), 1 << 20).unwrap();
    assert_eq!(read, expect(["there".to_owned()]));
}

#[test]
fn a_full_disk_leaves_logs_that_are_created_later() {
    let disk = new_disk(2);
    let mut logs = open_all(&rigs(&disk));
    disk.set_capacity(Some(0));
    let error = create(&mut logs).unwrap_err();
    assert!(error.is_full(), "{error}");
    assert!(logs.iter().all(Log::is_new));
    disk.set_capacity(None);
    create(&mut logs).unwrap();
    assert!(logs.iter().all(|log| log.segments() == 1));
}

/// A start after a crash waits for the disk only where something was written since the last
/// checkpoint: ten thousand idle logs open without a sync.
#[test]
fn opening_what_was_synced_waits_for_no_disk() {
    let disk = new_disk(3);
    let mut all = rigs(&disk);
    for rig in &mut all {
        rig.config = LogConfig::default();
        let mut log = rig.open();
        append(&mut log, "there", EPOCH);
        log.flush().unwrap();
        rig.kill(log, Offset(1));
    }
    disk.inject(Fault::next(Operation::Sync, Failure::Broken));
    disk.inject(Fault::next(Operation::Truncate, Failure::Broken));
    disk.inject(Fault::next(Operation::Allocate, Failure::Broken));
    for rig in &all {
        let mut log = rig.open();
        assert_eq!(log.end(), Offset(1));
        append(&mut log, "next", EPOCH);
    }
}
