//! Torn tails, rotten bytes, lost and wrong index files: what is served, what is cut, what is told.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::common::{NOW, Rig, append, expect, produce, read_all};
use strandline_protocol::{Offset, batch::ProducerStamp};
use strandline_storage::{
    fs::{CacheLimits, mapped::MappedFileSystem},
    log::{
        Log, LogConfig, ReadError,
        inspect::{self, Dump, Piece, RepairStep, Severity},
    },
};

fn value(number: usize) -> String {
    format!("value-{number:06}")
}

/// One record a batch, `count` in all.
fn fill(log: &mut Log, count: usize) {
    let from = usize::try_from(log.end().0).unwrap();
    for number in from..count {
        append(log, &[&value(number)]);
    }
}

fn segments(rig: &Rig) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(&rig.directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "log"))
        .collect();
    found.sort();
    found
}

fn damage(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// The size of a batch of one record of [`value`].
const BATCH: usize = 61 + 19;

#[test]
fn a_tail_torn_at_any_byte_is_cut_at_the_last_whole_batch() {
    // The last byte of a batch is a zero anyway.
    for torn in (2..=2 * BATCH).step_by(7) {
        let mut rig = Rig::mapped();
        let mut log = rig.open();
        fill(&mut log, 15);
        assert_eq!(log.segments(), 1);
        let checkpoint = Offset(10);
        rig.kill(log, checkpoint);
        let path = &segments(&rig)[0];
        let mut bytes = fs::read(path).unwrap();
        let end = 15 * BATCH;
        assert!(bytes[end..].iter().all(|byte| *byte == 0));
        bytes[end - torn..end].fill(0);
        fs::write(path, bytes).unwrap();
        let (mut log, report) = rig.open_reported();
        let kept = (end - torn) / BATCH;
        assert_eq!(log.end(), Offset(kept as i64), "torn {torn}");
        assert!(report.damage.is_empty());
        fill(&mut log, 40);
        assert_eq!(
            read_all(&log, Offset(0), 500).unwrap(),
            expect((0..40).map(value))
        );
        rig.kill(log, checkpoint);
        let log = rig.open();
        assert_eq!(
            read_all(&log, Offset(0), 500).unwrap(),
            expect((0..40).map(value))
        );
    }
}

#[test]
fn a_torn_batch_in_a_middle_segment_ends_the_log_there() {
    let mut rig = Rig::mapped();
    let mut log = rig.open();
    fill(&mut log, 100);
    assert!(log.segments() > 3);
    rig.kill(log, Offset(0));
    let paths = segments(&rig);
    damage(&paths[1], 3 * BATCH + 30);
    let (log, report) = rig.open_reported();
    let per_segment = fs::metadata(&paths[0]).unwrap().len() / BATCH as u64;
    assert_eq!(log.end(), Offset(per_segment as i64 + 3));
    assert!(report.bytes_cut > 0);
    assert_eq!(segments(&rig), paths[..2]);
    let read = read_all(&log, Offset(0), 500).unwrap();
    assert_eq!(read, expect((0..per_segment as usize + 3).map(value)));
}

#[test]
fn rot_below_the_recovery_point_is_never_served_and_never_cut() {
    // Anywhere in a batch: header in front of the CRC, header behind it, record.
    for at in [0, 6, 9, 11, 13, 15, 16, 18, 22, 25, 40, 60, 65, 75] {
        for segment in [0, 1, 5] {
            let mut rig = Rig::mapped();
            let mut log = rig.open();
            fill(&mut log, 120);
            assert_eq!(log.segments(), 6);
            let end = log.flush().unwrap();
            rig.kill(log, end);
            let paths = segments(&rig);
            let base: i64 = paths[segment]
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .parse()
                .unwrap();
            damage(&paths[segment], 5 * BATCH + at);
            let (log, _) = rig.open_reported();
            let label = format!("byte {at} of segment {segment}");
            assert_eq!(log.end(), Offset(120), "{label}");
            let bad = base + 5;
            let mut found = Vec::new();
            let mut next = Offset(0);
            let mut corrupt = Vec::new();
            while next < log.end() {
                let fetched = log.read(next, 400, log.end());
                match fetched.and_then(|fetched| fetched.check().map(|()| fetched)) {
                    Ok(fetched) => {
                        found.extend(crate::common::records(&fetched.bytes));
                        next = fetched.end_offset;
                    }
                    Err(ReadError::Corrupt {
                        offset, next_good, ..
                    }) => {
                        if offset > next {
                            let fetched = log.read(next, 400, offset).unwrap();
                            fetched.check().unwrap();
                            found.extend(crate::common::records(&fetched.bytes));
                        }
                        assert!(next_good > offset, "{label}");
                        corrupt.push((offset.0, next_good.0));
                        next = next_good;
                    }
                    Err(error) => panic!("{label}: {error}"),
                }
            }
            assert!(
                !found.iter().any(|(offset, _)| *offset == bad),
                "{label}: served"
            );
            assert_eq!(corrupt.len(), 1, "{label}: {corrupt:?}");
            assert_eq!(corrupt[0].0, bad, "{label}");
            assert!(corrupt[0].1 <= bad + 5, "{label}: {corrupt:?}");
            let whole = expect((0..120).map(value));
            assert!(found.iter().all(|record| whole.contains(record)), "{label}");
        }
    }
}

#[test]
fn appends_go_on_behind_damage_up_to_the_end() {
    let mut rig = Rig::mapped();
    let mut log = rig.open();
    fill(&mut log, 15);
    rig.kill(log, Offset(15));
    let path = segments(&rig)[0].clone();
    let mut bytes = fs::read(&path).unwrap();
    bytes[10 * BATCH..].fill(0);
    fs::write(&path, bytes).unwrap();
    let (mut log, report) = rig.open_reported();
    assert_eq!(report.damage.len(), 1);
    assert_eq!((log.end(), log.start()), (Offset(15), Offset(0)));
    append(&mut log, &["later"]);
    let read = |log: &Log| {
        let error = read_all(log, Offset(10), 500).unwrap_err();
        assert!(
            matches!(
                error,
                ReadError::Corrupt {
                    offset: Offset(10),
                    next_good: Offset(15),
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(
            read_all(log, Offset(15), 500).unwrap(),
            [(15, "later".to_owned())]
        );
    };
    read(&log);
    let end = log.flush().unwrap();
    rig.kill(log, end);
    read(&rig.open());
}

#[test]
fn indexes_that_are_missing_or_wrong_are_built_again() {
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 5] = [
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("emptied", |path| fs::write(path, []).unwrap()),
        ("zeroed", |path| {
            let length = fs::metadata(path).unwrap().len() as usize;
            fs::write(path, vec![0; length]).unwrap();
        }),
        ("half an entry", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 3]).unwrap();
        }),
        ("wrong in its middle", |path| damage(path, 7)),
    ];
    for (name, spoil) in spoils {
        let mut rig = Rig::mapped();
        let mut log = rig.open();
        fill(&mut log, 120);
        let mut good = Vec::new();
        rig.close(log);
        for path in segments(&rig) {
            for suffix in ["index", "timeindex"] {
                let path = path.with_extension(suffix);
                let bytes = fs::read(&path).unwrap();
                if bytes.len() > 8 {
                    spoil(&path);
                }
                good.push((path, bytes));
            }
        }
        let log = rig.open();
        for from in 0..120 {
            let read = read_all(&log, Offset(from), 300).unwrap();
            assert_eq!(read[0].0, from, "{name}");
        }
        rig.close(log);
        for (path, bytes) in &good[..good.len() - 2] {
            if path.extension().unwrap() == "index" && name != "wrong in its middle" {
                assert_eq!(
                    &fs::read(path).unwrap(),
                    bytes,
                    "{name}: {}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn damaged_state_files_fall_back() {
    for name in [
        "partition.state",
        "recovery.state",
        "leader-epoch-checkpoint",
    ] {
        let mut rig = Rig::mapped();
        let mut log = rig.open();
        for sequence in 0..40 {
            produce(&mut log, &["x"], sequence).unwrap();
        }
        rig.close(log);
        damage(&rig.directory.join(name), 4);
        let mut log = rig.open();
        assert_eq!(log.end(), Offset(40), "{name}");
        assert_eq!(log.latest_epoch(), Some(crate::common::EPOCH), "{name}");
        assert!(produce(&mut log, &["x"], 39).unwrap().duplicate, "{name}");
        assert_eq!(
            produce(&mut log, &["x"], 40).unwrap().base_offset,
            Offset(40),
            "{name}"
        );
    }
}

#[test]
fn another_topics_directory_is_refused() {
    let rig = Rig::mapped();
    append(&mut rig.open(), &["x"]);
    let other = strandline_protocol::TopicId([8; 16]);
    let files = std::sync::Arc::clone(&rig.files);
    let error = Log::open(files, &rig.directory, other, rig.config, rig.hint, NOW).unwrap_err();
    assert!(error.to_string().contains("belongs to topic"), "{error}");
}

#[test]
fn a_damaged_log_is_verified_and_repaired() {
    let mut rig = Rig::mapped();
    let mut log = rig.open();
    fill(&mut log, 60);
    rig.close(log);
    let files = rig.files.as_ref();
    assert_eq!(inspect::verify(files, &rig.directory).unwrap(), []);
    let paths = segments(&rig);
    damage(&paths[0], 5 * BATCH + 70);
    damage(&paths[1].with_extension("index"), 7);
    let findings = inspect::verify(files, &rig.directory).unwrap();
    assert_eq!(findings.len(), 2, "{findings:#?}");
    assert_eq!(findings[0].severity, Severity::Damage);
    assert_eq!(
        (
            findings[0].offset,
            findings[0].next_good,
            findings[0].position
        ),
        (Some(Offset(5)), Some(Offset(6)), Some(5 * BATCH as u64))
    );
    let before = fs::read(&paths[0]).unwrap();
    let plan = inspect::plan_repair(files, &rig.directory).unwrap();
    assert!(matches!(
        plan[..],
        [RepairStep::Split { .. }, RepairStep::SetAside { .. }]
    ));
    assert_eq!(
        fs::read(&paths[0]).unwrap(),
        before,
        "a plan changes nothing"
    );
    for step in plan {
        step.execute(files).unwrap();
    }
    let log_removed = PathBuf::from(format!("{}.removed", paths[0].display()));
    assert_eq!(fs::read(log_removed).unwrap(), before, "all of it is kept");
    let log = rig.open();
    let error = read_all(&log, Offset(0), 500).unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::Removed {
                offset: Offset(5),
                next: Offset(6)
            }
        ),
        "{error}"
    );
    let read = read_all(&log, Offset(6), 500).unwrap();
    assert_eq!(read, expect((0..60).map(value))[6..]);
}

#[test]
fn a_segment_of_megabytes_is_repaired_and_its_hole_is_a_note() {
    let mut rig = Rig::mapped();
    rig.config = LogConfig::default();
    let mut log = rig.open();
    let value = |number: usize| format!("{number:08}").repeat(1_250);
    for number in 0..400 {
        let time = NOW.0 + number as i64;
        let bytes = crate::common::batch(&[&value(number)], time, ProducerStamp::NONE);
        log.append(&bytes, crate::common::EPOCH, NOW).unwrap();
    }
    rig.close(log);
    let files = rig.files.as_ref();
    let path = segments(&rig)[0].clone();
    damage(&path, 2_000_000);
    let before = fs::read(&path).unwrap();
    let findings = inspect::verify(files, &rig.directory).unwrap();
    // Both indexes point to the batch that is bad.
    assert_eq!(findings.len(), 3, "{findings:#?}");
    let lost = findings[0].offset.unwrap();
    let plan = inspect::plan_repair(files, &rig.directory).unwrap();
    assert!(matches!(plan[..], [RepairStep::Split { .. }]), "{plan:#?}");
    for step in plan {
        step.execute(files).unwrap();
    }
    for suffix in ["log", "index", "timeindex"] {
        let kept = path.with_extension(format!("{suffix}.removed"));
        assert!(kept.exists(), "{}", kept.display());
    }
    assert_eq!(
        fs::read(path.with_extension("log.removed")).unwrap(),
        before
    );

    {
        let findings = inspect::verify(files, &rig.directory).unwrap();
        let [note] = &findings[..] else {
            panic!("{findings:#?}");
        };
        assert_eq!(note.severity, Severity::Note);
        assert_eq!(
            (note.offset, note.next_good),
            (Some(lost), Some(lost.plus(1)))
        );
        let named = format!("offsets {lost} to {lost} ");
        assert!(note.what.contains(&named), "{}", note.what);
        assert_eq!(inspect::plan_repair(files, &rig.directory).unwrap(), []);
    }
    rig.files = Arc::new(MappedFileSystem::new(CacheLimits::default()));
    let mut log = rig.open();
    let whole = expect((0..400).map(value));
    let at = lost.0 as usize;
    let first = log.read(Offset(0), 20 << 20, lost).unwrap();
    assert_eq!(crate::common::records(&first.bytes), whole[..at]);
    let error = read_all(&log, lost, 1 << 20).unwrap_err();
    assert!(
        matches!(error, ReadError::Removed { offset, next }
            if offset == lost && next == lost.plus(1)),
        "{error}"
    );
    assert_eq!(
        read_all(&log, lost.plus(1), 1 << 20).unwrap(),
        whole[at + 1..]
    );
    append(&mut log, &["later"]);
    rig.close(log);
    let files = &rig.files;
    let findings = inspect::verify(files.as_ref(), &rig.directory).unwrap();
    assert_eq!(findings.len(), 1, "{findings:#?}");

    // What is lost after the repair is no note.
    fs::remove_file(&segments(&rig)[1]).unwrap();
    fs::write(rig.directory.join("00000000000000000400.log"), []).unwrap();
    let findings = inspect::verify(files.as_ref(), &rig.directory).unwrap();
    let is_damage = |it: &inspect::Finding| it.severity == Severity::Damage;
    assert!(findings.iter().any(is_damage), "{findings:#?}");
}

#[test]
fn a_dump_shows_every_batch_and_what_is_bad() {
    let mut rig = Rig::mapped();
    let mut log = rig.open();
    fill(&mut log, 15);
    rig.kill(log, Offset(15));
    let path = &segments(&rig)[0];
    damage(path, 5 * BATCH + 70);
    let Dump::Log(batches) = inspect::dump(rig.files.as_ref(), path).unwrap() else {
        panic!("not a log");
    };
    let mut shown = String::new();
    for piece in batches {
        shown.push(match piece.unwrap() {
            Piece::Batch { .. } => 'b',
            Piece::Bad {
                offset, next_good, ..
            } => {
                assert_eq!((offset, next_good), (Offset(5), Some(Offset(6))));
                'X'
            }
            Piece::Unused { .. } => '0',
        });
    }
    assert_eq!(shown, "bbbbbXbbbbbbbbb0");
}
