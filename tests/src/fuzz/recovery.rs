//! A data directory with its logs, edited, then opened as a start of the broker opens it.
//!
//! Whatever lies there: opening ends, with a refusal or with a log that serves only batches whose
//! checksum is right, in order; that takes appends; and that is the same after another restart.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use strandline_protocol::{
    LeaderEpoch, Offset, Timestamp,
    batch::{Codec, ProducerStamp, split_batches},
};
use strandline_storage::{
    directory::{DataDirectory, Found},
    fs::{FileSystem, simulated::SimulatedDisk},
    log::{Log, ReadError, RecoveryHint, Shutdown, inspect},
};

use super::{
    choices::Choices,
    disk::{NOW, PARTITION, ROOT, TOPIC, claim, config, edit, put, templates},
};

/// How much is read at once, in bytes.
const READ_BYTES: usize = 700;

/// The target.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let start = usize::from(choices.u8());
    let mut contents = templates()[start % 4].clone();
    let with_tools = start / 4 % 2 == 1;
    edit(&mut contents, &mut choices);
    while !choices.is_over() && contents.len() < 40 {
        let path = name_of(&mut choices);
        contents.insert(path, choices.long().to_vec());
        edit(&mut contents, &mut choices);
    }
    let disk = SimulatedDisk::new(0);
    let files = disk.file_system();
    put(files.as_ref(), &contents);
    if with_tools {
        look(files.as_ref());
    }
    let Ok((directory, found)) = DataDirectory::open(Arc::clone(&files), Path::new(ROOT), &claim())
    else {
        return;
    };
    for aside in &found.doomed {
        directory.purge(aside).unwrap();
    }
    for name in &found.partitions {
        let _ = directory.topic_id(name).unwrap();
    }
    drop(directory);
    let log = restart(&files, hint(&found));
    let Some(log) = log else {
        return;
    };
    let second = exercise(log, &choices);
    let files = disk.kill().file_system();
    let again = restart(&files, second).expect("it opened before");
    let _ = serve(&again);
    drop(again);
    if with_tools {
        repair(&files);
    }
}

/// A name for a file of the input's own.
fn name_of(choices: &mut Choices<'_>) -> PathBuf {
    let partition = Path::new(PARTITION);
    let names = [
        "partition.state",
        "recovery.state",
        "leader-epoch-checkpoint",
        "partition.metadata",
    ];
    let suffixes = ["log", "index", "timeindex", "snapshot", "log.tmp"];
    match choices.below(3) {
        0 => partition.join(names[choices.below(names.len())]),
        1 => {
            let suffix = suffixes[choices.below(suffixes.len())];
            partition.join(format!("{:020}.{suffix}", choices.number()))
        }
        _ => {
            let kafka = [
                "recovery-point-offset-checkpoint",
                "log-start-offset-checkpoint",
                "checkpoint.sealed",
                ".kafka_cleanshutdown",
            ];
            PathBuf::from(kafka[choices.below(kafka.len())])
        }
    }
}

/// What the tools for people make of it. They change nothing here.
fn look(files: &dyn FileSystem) {
    let directory = Path::new(ROOT).join(PARTITION);
    let Ok(entries) = files.list(&directory) else {
        return;
    };
    for entry in entries {
        if let Ok(inspect::Dump::Log(pieces)) = inspect::dump(files, &directory.join(&entry.name)) {
            assert!(pieces.count() <= 100_000);
        }
    }
    let _ = inspect::verify(files, &directory);
    let _ = inspect::plan_repair(files, &directory);
}

fn hint(found: &Found) -> RecoveryHint {
    let name = PARTITION.parse().unwrap();
    let offsets = found.checkpoint.find(&name, TOPIC).unwrap_or_default();
    RecoveryHint {
        recovery_point: offsets.recovery_point,
        log_start: offsets.log_start,
        shutdown: found.shutdown,
    }
}

/// Opens the log, if it is not refused.
fn restart(files: &Arc<dyn FileSystem>, hint: RecoveryHint) -> Option<Log> {
    let directory = Path::new(ROOT).join(PARTITION);
    let (log, _) = Log::open(Arc::clone(files), &directory, TOPIC, config(), hint, NOW).ok()?;
    assert!(log.start() <= log.end() && log.durable() <= log.end());
    assert!(!log.is_offline());
    Some(log)
}

/// Reads all that the log has, as the broker does. Returns how many batches that were.
fn serve(log: &Log) -> usize {
    let (mut next, mut batches) = (log.start(), 0);
    while next < log.end() {
        if let Some(cold) = log.cold_range(next, READ_BYTES) {
            cold.populate().unwrap();
        }
        let fetched = log.read(next, READ_BYTES, log.end());
        match fetched.and_then(|fetched| fetched.check().map(|()| fetched)) {
            Ok(fetched) => {
                assert!(
                    fetched.end_offset > next,
                    "nothing at {next}, end {}",
                    log.end()
                );
                batches += check_served(&fetched.bytes, next);
                next = fetched.end_offset;
            }
            Err(ReadError::Corrupt {
                offset, next_good, ..
            }) => {
                assert!(offset >= next || next_good > next, "{offset} {next}");
                assert!(next_good > next, "reading cannot go on behind {next}");
                next = next_good;
            }
            Err(ReadError::Removed { next: behind, .. }) => {
                assert!(behind > next, "reading cannot go on behind {next}");
                next = behind;
            }
            Err(ReadError::OutOfRange { .. }) => panic!("{next} is out of range"),
            Err(ReadError::Storage(error)) => panic!("the disk is good: {error}"),
        }
    }
    batches
}

/// What was served holds `from` and is in order, and every checksum is right.
fn check_served(bytes: &[u8], from: Offset) -> usize {
    let (mut expected, mut batches) = (None, 0);
    for batch in split_batches(bytes) {
        let batch = batch.expect("what is served is whole");
        batch
            .check_crc()
            .expect("what is served has a right checksum");
        let header = batch.header();
        assert!(header.end_offset() > header.base_offset());
        match expected {
            None => assert!(header.base_offset() <= from && header.end_offset() > from),
            Some(expected) => assert_eq!(header.base_offset(), expected),
        }
        expected = Some(header.end_offset());
        batches += 1;
    }
    batches
}

/// Everything that is done to a log, on one that was recovered. Returns what the next start knows.
fn exercise(mut log: Log, choices: &Choices<'_>) -> RecoveryHint {
    let _ = serve(&log);
    for time in [i64::MIN, 0, NOW.0, NOW.0 + 7, i64::MAX] {
        let _ = log.offset_for_time(Timestamp(time), log.end());
    }
    let _ = log.max_timestamp();
    for epoch in [-1, 0, 1, i32::MAX] {
        let _ = log.end_offset_for(LeaderEpoch(epoch));
    }
    let mut choices = choices.clone();
    let epoch = log.latest_epoch().map_or(LeaderEpoch(0), LeaderEpoch::next);
    let batch = choices.batch(Codec::None, NOW.0, ProducerStamp::NONE);
    let before = log.end();
    if let Ok(appended) = log.append(&batch, epoch, NOW) {
        assert_eq!(appended.base_offset, before);
        let fetched = log.read(before, READ_BYTES, log.end()).unwrap();
        fetched.check().unwrap();
        assert_eq!(check_served(&fetched.bytes, before), 1);
    }
    assert_eq!(log.flush().unwrap(), log.end());
    if let Some(job) = log.checkpoint_job(NOW) {
        job.run().unwrap();
    }
    let middle = Offset(log.start().0 / 2 + log.end().0 / 2);
    log.delete_before(middle, NOW).unwrap().finish().unwrap();
    let end = log.end();
    log.apply_retention(NOW, end).unwrap().finish().unwrap();
    let (log_start, shutdown) = (log.start(), Shutdown::Clean);
    let _ = serve(&log);
    let recovery_point = log.close(NOW).unwrap();
    RecoveryHint {
        recovery_point,
        log_start,
        shutdown,
    }
}

/// A repair that was carried out leaves something that opens and serves.
fn repair(files: &Arc<dyn FileSystem>) {
    let directory = Path::new(ROOT).join(PARTITION);
    let Ok(plan) = inspect::plan_repair(files.as_ref(), &directory) else {
        return;
    };
    for step in plan {
        // Refuses where a step before it has moved what it is about.
        if step.execute(files.as_ref()).is_err() {
            break;
        }
    }
    if let Some(log) = restart(files, RecoveryHint::default()) {
        let _ = serve(&log);
    }
}
