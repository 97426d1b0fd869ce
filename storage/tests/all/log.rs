//! The partition log on a real disk: append, read, roll, close, kill, and what is there then.

use crate::common::{Rig, append, expect, produce, read_all};
use strandline_protocol::Offset;

fn value(number: usize) -> String {
    format!("value-{number:06}")
}

/// Appends batches of one to three records until there are `count`.
fn fill(log: &mut strandline_storage::log::Log, count: usize) {
    let mut number = usize::try_from(log.end().0).unwrap();
    while number < count {
        let size = (number % 3 + 1).min(count - number);
        let values: Vec<_> = (number..number + size).map(value).collect();
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        append(log, &values);
        number += size;
    }
}

#[test]
fn what_is_appended_is_read_across_segments() {
    let rig = Rig::mapped();
    let mut log = rig.open();
    assert!(!rig.directory.exists(), "files appear at the first append");
    fill(&mut log, 500);
    assert!(log.segments() > 5, "{} segments", log.segments());
    for bytes_max in [1, 100, 777, 1 << 20] {
        let read = read_all(&log, Offset(0), bytes_max).unwrap();
        assert_eq!(read, expect((0..500).map(value)));
    }
    for from in 0..500 {
        let read = read_all(&log, Offset(from), 1 << 20).unwrap();
        assert_eq!(read.len(), 500 - from as usize);
        assert_eq!(read[0].0, from);
    }
}

#[test]
fn a_read_ends_at_the_high_watermark() {
    let rig = Rig::mapped();
    let mut log = rig.open();
    fill(&mut log, 100);
    let ends: Vec<_> = (0..100)
        .map(|end| {
            log.read(Offset(0), 1 << 20, Offset(end))
                .unwrap()
                .end_offset
                .0
        })
        .collect();
    for (end, read) in ends.iter().enumerate() {
        assert!(
            *read <= end as i64,
            "read to {read} though {end} is the end"
        );
    }
    assert!(ends.windows(2).all(|pair| pair[0] <= pair[1]));
}

#[test]
fn a_clean_restart_finds_everything() {
    let mut rig = Rig::mapped();
    for round in 1..6 {
        let mut log = rig.open();
        fill(&mut log, round * 97);
        rig.close(log);
        let (log, report) = rig.open_reported();
        assert_eq!(report, Default::default());
        assert_eq!(log.durable(), log.end());
        let read = read_all(&log, Offset(0), 300).unwrap();
        assert_eq!(read, expect((0..round * 97).map(value)));
        rig.close(log);
    }
}

#[test]
fn a_kill_loses_nothing_that_the_kernel_has() {
    let mut rig = Rig::mapped();
    for round in 1..6 {
        let mut log = rig.open();
        fill(&mut log, round * 97);
        let checkpoint = log.flush().unwrap();
        if round % 2 == 0 {
            log.checkpoint_job(crate::common::NOW)
                .unwrap()
                .run()
                .unwrap();
        }
        fill(&mut log, round * 97 + 20);
        rig.kill(log, checkpoint);
        let (log, report) = rig.open_reported();
        assert_eq!((report.bytes_cut, report.damage.len()), (0, 0));
        assert_eq!(log.durable(), log.end());
        let read = read_all(&log, Offset(0), 300).unwrap();
        assert_eq!(read, expect((0..round * 97 + 20).map(value)));
        rig.kill(log, Offset(0));
    }
}

#[test]
fn each_of_the_last_five_batches_is_recognised_after_roll_restart_and_kill() {
    let mut rig = Rig::mapped();
    let mut log = rig.open();
    let mut placed = Vec::new();
    for sequence in 0..60 {
        let text = value(sequence as usize);
        placed.push(produce(&mut log, &[&text], sequence).unwrap());
    }
    assert!(log.segments() > 2);
    let check = |log: &mut strandline_storage::log::Log| {
        for sequence in 55..60_i32 {
            let text = value(sequence as usize);
            let again = produce(log, &[&text], sequence).unwrap();
            let first = placed[sequence as usize];
            assert!(again.duplicate);
            assert_eq!(again.base_offset, first.base_offset);
            assert_eq!(again.end_offset, first.end_offset);
        }
        assert!(produce(log, &["x"], 54).is_err());
        assert_eq!(log.end(), Offset(60));
    };
    check(&mut log);
    rig.close(log);
    let mut log = rig.open();
    check(&mut log);
    rig.kill(log, Offset(60));
    let mut log = rig.open();
    check(&mut log);
    rig.kill(log, Offset(0));
    let mut log = rig.open();
    check(&mut log);
}

#[test]
fn a_restart_scans_what_was_written_since_the_checkpoint() {
    let mut rig = Rig::mapped();
    rig.config = strandline_storage::log::LogConfig::default();
    let mut log = rig.open();
    fill(&mut log, 3_000);
    log.flush().unwrap();
    let point = log
        .checkpoint_job(crate::common::NOW)
        .unwrap()
        .run()
        .unwrap();
    let before = log.bytes();
    fill(&mut log, 3_030);
    let since = log.bytes() - before;
    rig.kill(log, point);
    let (log, report) = rig.open_reported();
    assert_eq!((log.end(), report.bytes_scanned), (Offset(3_030), since));
    assert_eq!(read_all(&log, Offset(0), 1 << 20).unwrap().len(), 3_030);
}

#[test]
fn idle_logs_have_no_files_and_a_clean_close_leaves_no_allocation() {
    let mut rig = Rig::mapped();
    let log = rig.open();
    rig.close(log);
    assert!(!rig.directory.exists());
    let mut log = rig.open();
    fill(&mut log, 10);
    let bytes = log.bytes();
    rig.close(log);
    let path = rig.directory.join("00000000000000000000.log");
    assert_eq!(std::fs::metadata(path).unwrap().len(), bytes);
}
