//! What went bad is put back from another replica, and from nothing else.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use crate::common::{NOW, Rig, batch, read_all};
use bytes::Bytes;
use strandline_protocol::{LeaderEpoch, Offset, batch::ProducerStamp};
use strandline_storage::{
    StorageError,
    fs::simulated::SimulatedDisk,
    log::{Log, ReadError, RepairError},
};

const RECORDS: i64 = 40;

fn directory() -> PathBuf {
    Path::new("/t-0").to_path_buf()
}

/// Forty batches in several segments and two epochs, all of them durable; the first offsets of
/// the segments.
fn filled(disk: &SimulatedDisk) -> Log {
    let mut log = Rig::on(disk.file_system(), directory()).open();
    for number in 0..RECORDS {
        let value = format!("value-{number:06}");
        let bytes = batch(&[&value], NOW.0, ProducerStamp::NONE);
        log.append(&bytes, LeaderEpoch(1 + i32::from(number >= 15)), NOW)
            .unwrap();
    }
    log.flush().unwrap();
    assert!(log.segments() > 1);
    log
}

/// Opens it again, so that nothing counts as written by this process.
fn reopened(disk: &SimulatedDisk) -> Log {
    let mut rig = Rig::on(disk.file_system(), directory());
    rig.hint.recovery_point = Offset(RECORDS);
    let (log, _) = rig.open_reported();
    assert_eq!((log.start(), log.end()), (Offset(0), Offset(RECORDS)));
    log
}

/// What a reader is told of the first damage.
fn damage(log: &Log) -> Option<Range<Offset>> {
    match read_all(log, Offset(0), 300) {
        Ok(records) => {
            assert_eq!(records.len(), usize::try_from(RECORDS).unwrap());
            None
        }
        Err(ReadError::Corrupt {
            offset, next_good, ..
        }) => Some(offset..next_good),
        Err(error) => panic!("{error}"),
    }
}

/// What a replica that is whole has there.
fn good(whole: &Log, offsets: &Range<Offset>) -> Bytes {
    let mut bytes = Vec::new();
    let mut at = offsets.start;
    while at < offsets.end {
        let fetched = whole.read(at, 1 << 20, offsets.end).unwrap();
        bytes.extend_from_slice(&fetched.bytes);
        at = fetched.end_offset;
    }
    bytes.into()
}

fn repair(log: &mut Log, whole: &Log, offsets: Range<Offset>) -> Result<(), StorageError> {
    let batches = good(whole, &offsets);
    let job = log.repair_job(offsets, batches).unwrap();
    log.repaired(job.run())
}

/// Files of segments, and how many bytes of each are batches.
fn segments(disk: &SimulatedDisk) -> Vec<(PathBuf, u64)> {
    let entries = disk.file_system().list(&directory()).unwrap();
    let logs = entries.iter().filter(|entry| entry.name.ends_with(".log"));
    logs.map(|entry| {
        let path = directory().join(&entry.name);
        let size = disk.file_system().open(&path).unwrap().size();
        (path, size)
    })
    .collect()
}

#[test]
fn whatever_bit_rots_is_put_back() {
    let whole_disk = SimulatedDisk::new(1);
    let whole = filled(&whole_disk);
    let mut repaired = 0;
    let pristine = SimulatedDisk::new(2);
    drop(filled(&pristine));
    let count = segments(&pristine).len();
    for number in 0..count {
        // Header fields and records of several batches, by positions that share no factor with
        // their size.
        for at in (0..2_000).step_by(37) {
            let disk = SimulatedDisk::new(2);
            drop(filled(&disk));
            let (path, size) = segments(&disk)[number].clone();
            if at >= size {
                continue;
            }
            disk.rot(&path, at, 0x11).unwrap();
            let mut log = reopened(&disk);
            let mut rounds = 0;
            while let Some(offsets) = damage(&log) {
                repair(&mut log, &whole, offsets).unwrap();
                repaired += 1;
                rounds += 1;
                assert!(rounds < 5, "{} at {at}", path.display());
            }
            drop(log);
            assert_eq!(damage(&reopened(&disk.power_cut(3))), None);
        }
    }
    assert!(repaired > 50, "{repaired} repairs");
}

#[test]
fn several_batches_in_a_row_are_put_back_at_once() {
    let whole = filled(&SimulatedDisk::new(1));
    let disk = SimulatedDisk::new(2);
    drop(filled(&disk));
    for (path, _) in segments(&disk) {
        for at in (60..900).step_by(20) {
            disk.rot(&path, at, 0xff).unwrap();
        }
    }
    let mut log = reopened(&disk);
    let mut longest = 0;
    while let Some(offsets) = damage(&log) {
        longest = longest.max(offsets.end.since(offsets.start));
        repair(&mut log, &whole, offsets).unwrap();
    }
    assert!(longest > 3, "{longest}");
}

#[test]
fn a_power_cut_leaves_what_can_be_repaired_again() {
    let whole = filled(&SimulatedDisk::new(1));
    let mut cuts = 0;
    for operation in 0.. {
        let disk = SimulatedDisk::new(operation);
        drop(filled(&disk));
        let (path, _) = segments(&disk)[0].clone();
        disk.rot(&path, 700, 0x40).unwrap();
        let mut log = reopened(&disk);
        let offsets = damage(&log).unwrap();
        disk.crash_after(operation);
        let done = repair(&mut log, &whole, offsets);
        if !disk.is_off() {
            done.unwrap();
            break;
        }
        drop(log);
        for seed in 0..8 {
            let mut log = reopened(&disk.power_cut(seed));
            while let Some(offsets) = damage(&log) {
                repair(&mut log, &whole, offsets).unwrap();
            }
            cuts += 1;
        }
    }
    assert!(cuts > 8, "{cuts}");
}

#[test]
fn nothing_else_is_put_there() {
    let whole = filled(&SimulatedDisk::new(1));
    let disk = SimulatedDisk::new(2);
    drop(filled(&disk));
    let (path, _) = segments(&disk)[0].clone();
    disk.rot(&path, 700, 0x40).unwrap();
    let log = reopened(&disk);
    let offsets = damage(&log).unwrap();
    let bytes = good(&whole, &offsets);
    let refused = |offsets: &Range<Offset>, bytes: &[u8]| {
        let bytes = Bytes::copy_from_slice(bytes);
        log.repair_job(offsets.clone(), bytes).unwrap_err()
    };
    // Damaged itself; of other offsets; more than there was; of another epoch; another batch.
    let mut spoilt = bytes.to_vec();
    *spoilt.last_mut().unwrap() ^= 1;
    assert!(matches!(
        refused(&offsets, &spoilt),
        RepairError::Invalid(_)
    ));
    let mut other_epoch = bytes.to_vec();
    other_epoch[15] ^= 2;
    let next = offsets.end..offsets.end.plus(1);
    let longer = offsets.start..offsets.end.plus(1);
    let other = {
        let disk = SimulatedDisk::new(3);
        let mut log = Rig::on(disk.file_system(), directory()).open();
        for _ in 0..RECORDS {
            let bytes = batch(&["another"], NOW.0, ProducerStamp::NONE);
            log.append(&bytes, LeaderEpoch(1), NOW).unwrap();
        }
        good(&log, &offsets)
    };
    let behind = offsets.start..Offset(RECORDS + 1);
    for (offsets, bytes) in [
        (&offsets, &good(&whole, &next)[..]),
        (&offsets, &good(&whole, &longer)[..]),
        (&offsets, &other_epoch[..]),
        (&offsets, &other[..]),
        (&offsets, &[]),
    ] {
        let error = refused(offsets, bytes);
        assert!(matches!(error, RepairError::Misfit { .. }), "{error}");
    }
    let error = refused(&behind, &bytes);
    assert!(matches!(error, RepairError::Gone { .. }), "{error}");
    assert_eq!(damage(&log), Some(offsets));
}

#[test]
fn the_batch_that_holds_the_log_start_is_put_back_whole() {
    let fill = |disk: &SimulatedDisk| {
        let mut log = Rig::on(disk.file_system(), directory()).open();
        for number in 0..3 {
            let values = [format!("first {number}"), format!("second {number}")];
            let values = values.each_ref().map(String::as_str);
            let bytes = batch(&values, NOW.0, ProducerStamp::NONE);
            log.append(&bytes, LeaderEpoch(1), NOW).unwrap();
        }
        log.flush().unwrap();
        log
    };
    let (whole_disk, disk) = (SimulatedDisk::new(1), SimulatedDisk::new(2));
    let whole = fill(&whole_disk);
    let mut log = fill(&disk);
    let removed = log.delete_before(Offset(3), NOW).unwrap();
    removed.finish().unwrap();
    drop(log);
    let path = directory().join("00000000000000000000.log");
    let size = whole.read(Offset(0), 1, Offset(6)).unwrap().bytes.len() as u64;
    disk.rot(&path, 2 * size - 3, 1).unwrap();
    let mut rig = Rig::on(disk.file_system(), directory());
    rig.hint.recovery_point = Offset(6);
    rig.hint.log_start = Offset(3);
    let (mut log, _) = rig.open_reported();
    assert_eq!((log.start(), log.end()), (Offset(3), Offset(6)));
    let read = |log: &Log| match read_all(log, Offset(3), 300) {
        Ok(records) => Ok(records.len()),
        Err(ReadError::Corrupt {
            offset, next_good, ..
        }) => Err(offset..next_good),
        Err(error) => panic!("{error}"),
    };
    let bad = read(&log).unwrap_err();
    assert_eq!(bad, Offset(2)..Offset(4));
    repair(&mut log, &whole, bad).unwrap();
    assert_eq!(read(&log), Ok(3));
    let gone = log.repair_job(Offset(0)..Offset(2), good(&whole, &(Offset(0)..Offset(2))));
    assert!(matches!(gone, Err(RepairError::Gone { .. })));
}
