//! What was durable at the end of a log and is not there any more: `verify` says so.

use std::{fs, path::PathBuf};

use crate::common::{Rig, append};
use strandline_protocol::Offset;
use strandline_storage::{
    directory::write_checkpoint_file,
    log::inspect::{self, Finding, Severity},
};

/// A closed log of 60 records, and what the data directory around it remembers.
fn rig() -> Rig {
    let mut rig = Rig::mapped();
    let mut log = rig.open();
    for number in 0..60 {
        append(&mut log, &[&format!("record {number}")]);
    }
    rig.close(log);
    let checkpoint = rig.directory.parent().unwrap();
    let checkpoint = checkpoint.join("recovery-point-offset-checkpoint");
    write_checkpoint_file(rig.files.as_ref(), &checkpoint, &["topic 0 60".to_owned()]).unwrap();
    assert_eq!(damages(&rig), []);
    rig
}

fn damages(rig: &Rig) -> Vec<Finding> {
    let findings = inspect::verify(rig.files.as_ref(), &rig.directory).unwrap();
    let is_damage = |finding: &Finding| finding.severity == Severity::Damage;
    findings.into_iter().filter(is_damage).collect()
}

fn segments(rig: &Rig) -> Vec<PathBuf> {
    let entries = fs::read_dir(&rig.directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut logs: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "log"))
        .collect();
    logs.sort();
    logs
}

/// Zeros up to the end are what space that is only allocated looks like: they were taken for that.
#[test]
fn a_tail_that_is_zeroed_or_cut_below_the_recovery_point_is_damage() {
    let whole = rig();
    let path = segments(&whole).pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    let base: i64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    for is_zeroed in [false, true] {
        for at in [0, 1, 30, 61, bytes.len() / 2, bytes.len() - 10] {
            let mut changed = bytes[..at].to_vec();
            if is_zeroed {
                changed.resize(bytes.len(), 0);
            }
            fs::write(&path, changed).unwrap();
            let found = damages(&whole);
            let [found] = &found[..] else {
                panic!("{at}: {found:#?}");
            };
            assert_eq!(found.path, path);
            assert!(found.offset.unwrap() >= Offset(base), "{found:#?}");
        }
    }
    fs::write(&path, bytes).unwrap();
    assert_eq!(damages(&whole), []);
}

#[test]
fn a_log_without_a_segment_that_was_durable_is_damaged() {
    let whole = rig();
    for path in segments(&whole) {
        fs::remove_file(path).unwrap();
    }
    let found = damages(&whole);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].next_good, Some(Offset(60)));
}
