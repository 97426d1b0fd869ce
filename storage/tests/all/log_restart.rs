//! A log that is emptied and goes on further up, whatever a power cut leaves of it.

use std::path::{Path, PathBuf};

use crate::common::{NOW, Rig, append, batch, read_all};
use strandline_protocol::{LeaderEpoch, Offset, batch::ProducerStamp};
use strandline_storage::{fs::simulated::SimulatedDisk, log::Log};

const RECORDS: usize = 40;

fn directory() -> PathBuf {
    Path::new("/t-0").to_path_buf()
}

fn filled(disk: &SimulatedDisk) -> Log {
    let mut log = Rig::on(disk.file_system(), directory()).open();
    for number in 0..RECORDS {
        append(&mut log, &[&format!("value-{number:06}")]);
    }
    log.flush().unwrap();
    assert!(log.segments() > 1);
    log
}

/// The log goes on at `at`, in an epoch that may be older than the last one it had.
fn goes_on(log: &mut Log, at: Offset) {
    assert_eq!((log.start(), log.end(), log.durable()), (at, at, at));
    let bytes = batch(&["next"], NOW.0, ProducerStamp::NONE);
    let appended = log.append(&bytes, LeaderEpoch(1), NOW).unwrap();
    assert_eq!(appended.base_offset, at);
    log.flush().unwrap();
    let kept = read_all(log, at, 500).unwrap();
    assert_eq!(kept, [(at.0, "next".to_owned())]);
}

#[test]
fn a_log_is_emptied_at_its_end_behind_it_and_within_it() {
    for at in [10, 40, 41, 1_000] {
        let disk = SimulatedDisk::new(1);
        let mut log = filled(&disk);
        log.restart_at(Offset(at), NOW).unwrap();
        goes_on(&mut log, Offset(at));
        drop(log);
        let disk = disk.power_cut(at.unsigned_abs());
        let log = Rig::on(disk.file_system(), directory()).open();
        assert_eq!((log.start(), log.end()), (Offset(at), Offset(at + 1)));
    }
}

#[test]
fn a_log_that_never_held_anything_can_begin_anywhere() {
    let disk = SimulatedDisk::new(1);
    let mut log = Rig::on(disk.file_system(), directory()).open();
    log.restart_at(Offset(70), NOW).unwrap();
    goes_on(&mut log, Offset(70));
    let refused = log.restart_at(Offset(69), NOW).unwrap_err().to_string();
    assert!(refused.contains("69"), "{refused}");
}

#[test]
fn a_power_cut_leaves_a_log_that_can_be_emptied_again() {
    let mut cuts = 0;
    for at in [Offset(10), Offset(40), Offset(70)] {
        for operation in 0.. {
            let disk = SimulatedDisk::new(operation);
            let mut log = filled(&disk);
            disk.crash_after(operation);
            let emptied = log.restart_at(at, NOW);
            if !disk.is_off() {
                emptied.unwrap();
                break;
            }
            for seed in 0..4 {
                let disk = disk.power_cut(seed);
                let mut log = Rig::on(disk.file_system(), directory()).open();
                let found = (log.start().0, log.end().0);
                assert!(
                    found.0 == at.0 || found.0 == 0 && found.1 <= RECORDS as i64,
                    "{found:?} after operation {operation}, seed {seed}"
                );
                log.restart_at(at, NOW).unwrap();
                goes_on(&mut log, at);
                cuts += 1;
            }
        }
    }
    assert!(cuts > 50, "{cuts} power cuts");
}

#[test]
fn a_log_can_begin_again_below_its_start() {
    for operation in 0.. {
        let disk = SimulatedDisk::new(operation);
        let mut log = filled(&disk);
        let removed = log.delete_before(Offset(25), NOW).unwrap();
        removed.finish().unwrap();
        disk.crash_after(operation);
        let restarted = log.restart_before(Offset(7), NOW);
        if !disk.is_off() {
            restarted.unwrap();
            assert_eq!((log.start(), log.end()), (Offset(7), Offset(7)));
            break;
        }
        drop(log);
        for seed in 0..4 {
            let disk = disk.power_cut(seed);
            let mut log = Rig::on(disk.file_system(), directory()).open();
            let found = (log.start().0, log.end().0);
            assert!(
                found == (7, 7) || found.0 == 25,
                "{found:?} after operation {operation}, seed {seed}"
            );
            log.restart_before(Offset(7), NOW).unwrap();
            goes_on(&mut log, Offset(7));
        }
    }
}
