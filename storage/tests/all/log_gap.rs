//! What a repair took out of a log stays a gap until it is put back, and costs nothing behind it.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use crate::common::{NOW, Rig, batch, read_all};
use strandline_protocol::{LeaderEpoch, Offset, batch::ProducerStamp};
use strandline_storage::{
    fs::simulated::SimulatedDisk,
    log::{Log, ReadError, RecoveryReport, Shutdown, inspect},
};

const RECORDS: i64 = 40;
const EPOCH: LeaderEpoch = LeaderEpoch(1);

fn directory() -> PathBuf {
    Path::new("/t-0").to_path_buf()
}

/// Forty batches in several segments, all of them durable.
fn filled(disk: &SimulatedDisk) -> Log {
    let mut log = Rig::on(disk.file_system(), directory()).open();
    for number in 0..RECORDS {
        let value = format!("value-{number:036}");
        let bytes = batch(&[&value], NOW.0, ProducerStamp::NONE);
        log.append(&bytes, EPOCH, NOW).unwrap();
    }
    log.flush().unwrap();
    assert!(log.segments() > 2);
    log
}

/// As after a `kill -9` with that recovery point.
fn killed(disk: &SimulatedDisk, recovery_point: Offset) -> (Log, RecoveryReport) {
    let mut rig = Rig::on(disk.file_system(), directory());
    rig.hint.recovery_point = recovery_point;
    rig.hint.shutdown = Shutdown::Unclean;
    rig.open_reported()
}

/// A log out of which a repair took a batch in the middle of its segment number `number`.
fn repaired(disk: &SimulatedDisk, number: usize) {
    drop(filled(disk));
    let files = disk.file_system();
    let names = files.list(&directory()).unwrap();
    let mut logs = names.iter().filter(|it| it.name.ends_with(".log"));
    let path = directory().join(&logs.nth(number).unwrap().name);
    disk.rot(&path, 300, 0x11).unwrap();
    loop {
        let plan = inspect::plan_repair(files.as_ref(), &directory()).unwrap();
        if plan.is_empty() {
            break;
        }
        for step in plan {
            step.execute(files.as_ref()).unwrap();
        }
    }
}

fn gap(log: &Log) -> Range<Offset> {
    match read_all(log, Offset(0), 300) {
        Err(ReadError::Removed { offset, next }) => offset..next,
        other => panic!("{other:?}"),
    }
}

/// All records but those of the gap.
fn records(log: &Log, gap: &Range<Offset>) -> Vec<(i64, String)> {
    let mut records = Vec::new();
    let mut at = Offset(0);
    while at < gap.start {
        let fetched = log.read(at, 300, gap.start).unwrap();
        records.extend(crate::common::records(&fetched.bytes));
        at = fetched.end_offset;
    }
    records.extend(read_all(log, gap.end, 300).unwrap());
    records
}

#[test]
fn what_a_repair_took_out_is_known_at_a_start_and_can_be_put_back() {
    let whole = filled(&SimulatedDisk::new(1));
    for number in 0..3 {
        for recovery_point in [0, 7, 20, RECORDS] {
            let disk = SimulatedDisk::new(2);
            repaired(&disk, number);
            let (mut log, report) = killed(&disk, Offset(recovery_point));
            let label = format!("segment {number}, recovery point {recovery_point}");
            let gap = gap(&log);
            assert_eq!(report.removed, std::slice::from_ref(&gap), "{label}");
            assert_eq!(report.damage, [""; 0], "{label}");
            assert_eq!((log.start(), log.end()), (Offset(0), Offset(RECORDS)));
            let lost = gap.end.since(gap.start);
            assert_eq!(records(&log, &gap).len() as i64, RECORDS - lost, "{label}");

            let batches = whole.read(gap.start, 1 << 20, gap.end).unwrap().bytes;
            let job = log.repair_job(gap, batches).unwrap();
            log.repaired(job.run()).unwrap();
            assert_eq!(read_all(&log, Offset(0), 300).unwrap().len(), 40);
            drop(log);
            let (log, report) = killed(&disk.power_cut(3), Offset(recovery_point));
            assert_eq!(report.removed, [], "{label}");
            assert_eq!(read_all(&log, Offset(0), 300).unwrap().len(), 40);
        }
    }
}

/// Appends what the leader has, as a follower does; returns what failed.
fn follow(follower: &mut Log, leader: &Log) -> Result<(), strandline_storage::log::AppendError> {
    while follower.end() < leader.end() {
        let fetched = match leader.read(follower.end(), 300, leader.end()) {
            Err(ReadError::Removed { next, .. }) => {
                follower.leave_out(next, NOW)?;
                continue;
            }
            fetched => fetched.unwrap(),
        };
        follower.append_replicated(&fetched.bytes, EPOCH, NOW)?;
    }
    follower.flush()?;
    Ok(())
}

#[test]
fn a_follower_leaves_out_what_its_leader_has_not_and_keeps_what_follows() {
    for number in 0..3 {
        let leader_disk = SimulatedDisk::new(1);
        repaired(&leader_disk, number);
        let (leader, _) = killed(&leader_disk, Offset(RECORDS));
        let gap = gap(&leader);
        let expected = records(&leader, &gap);
        let disk = SimulatedDisk::new(2);
        let mut follower = Rig::on(disk.file_system(), directory()).open();
        follow(&mut follower, &leader).unwrap();
        assert_eq!(follower.durable(), Offset(RECORDS));
        assert_eq!(records(&follower, &gap), expected);
        drop(follower);
        for seed in 0..8 {
            for recovery_point in [Offset(0), gap.start, gap.end, Offset(RECORDS)] {
                let (log, report) = killed(&disk.power_cut(seed), recovery_point);
                assert_eq!(
                    report.removed,
                    std::slice::from_ref(&gap),
                    "{number} {recovery_point}"
                );
                assert_eq!(report.damage, [""; 0]);
                assert_eq!(log.end(), Offset(RECORDS), "{number} {recovery_point}");
                assert_eq!(records(&log, &gap), expected);
            }
        }
    }
}

#[test]
fn a_power_cut_while_it_is_left_out_loses_nothing_in_front_of_it() {
    let leader_disk = SimulatedDisk::new(1);
    repaired(&leader_disk, 1);
    let (leader, _) = killed(&leader_disk, Offset(RECORDS));
    let gap = gap(&leader);
    let expected = records(&leader, &gap);
    let mut cuts = 0;
    for operation in 0.. {
        let disk = SimulatedDisk::new(operation);
        let mut follower = Rig::on(disk.file_system(), directory()).open();
        while follower.end() < gap.start {
            let bytes = leader.read(follower.end(), 300, gap.start).unwrap().bytes;
            follower.append_replicated(&bytes, EPOCH, NOW).unwrap();
        }
        follower.flush().unwrap();
        disk.crash_after(operation);
        let done = follower.leave_out(gap.end, NOW);
        if !disk.is_off() {
            done.unwrap();
            break;
        }
        drop(follower);
        for seed in 0..8 {
            let (mut log, _) = killed(&disk.power_cut(seed), Offset(0));
            assert!([gap.start, gap.end].contains(&log.end()), "{}", log.end());
            follow(&mut log, &leader).unwrap();
            assert_eq!(records(&log, &gap), expected);
            cuts += 1;
        }
    }
    assert!(cuts > 8, "{cuts}");
}
