//! One byte of a durable batch rots while the machine is off: that batch is never served, every
//! other one is, and nothing is cut.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use strandline_protocol::{
    LeaderEpoch, Offset, Timestamp, TopicId,
    batch::{BatchBuilder, Codec, NewRecord, ProducerStamp, split_batches},
};
use strandline_storage::{
    fs::{FileSystem, simulated::SimulatedDisk},
    log::{Log, LogConfig, ReadError, RecoveryHint, Shutdown},
};

use crate::random::Random;

/// How many logs rot in one run.
const LOGS: u64 = 60;

/// How many batches behind the rotten one may be out of reach with it, as a length that rots hides
/// where the next one begins.
const NEIGHBOURS: usize = 5;

const DIRECTORY: &str = "/data/topic-0";
const NOW: Timestamp = Timestamp(1_700_000_000_000);
const READ_BYTES: usize = 400;

/// A durable batch.
struct Durable {
    base: i64,
    end: i64,
    bytes: Bytes,
}

/// Runs it; tells what was done.
///
/// # Errors
/// What must not be.
pub fn run(seed: u64) -> Result<String, String> {
    let mut random = Random::new(seed, 2);
    let mut batches = 0;
    for number in 0..LOGS {
        batches += one(&mut random).map_err(|what| format!("log {number}: {what}"))?;
    }
    Ok(format!("{LOGS} rotten batches among {batches}"))
}

fn one(random: &mut Random) -> Result<usize, String> {
    let disk = SimulatedDisk::new(random.draw());
    let files = disk.file_system();
    files
        .create_directory(Path::new("/data"))
        .expect("no fault");
    files.sync_directory(Path::new("/")).expect("no fault");
    let mut log = open(&files, RecoveryHint::default())?;
    for _ in 0..random.within(10..80) {
        append(&mut log, random)?;
        if random.one_in(20)
            && let Some(job) = log.checkpoint_job(NOW)
        {
            job.run().map_err(|error| error.to_string())?;
        }
    }
    let recovery_point = log.flush().map_err(|error| error.to_string())?;
    let durable = read(&log, recovery_point)?;
    for _ in 0..random.within(0..3) {
        append(&mut log, random)?;
    }
    drop(log);
    let disk = disk.power_cut(random.draw());
    let rotten = random.within(0..durable.len() as u64) as usize;
    rot(&disk, &durable, rotten, random)?;
    let hint = RecoveryHint {
        recovery_point,
        log_start: Offset(0),
        shutdown: Shutdown::Unclean,
    };
    let log = open(&disk.file_system(), hint)?;
    hold(&log, &durable, rotten)?;
    Ok(durable.len())
}

fn append(log: &mut Log, random: &mut Random) -> Result<(), String> {
    let mut builder = BatchBuilder::new(Codec::None, 1_024);
    for _ in 0..random.within(1..4) {
        let value = random
            .draw()
            .to_string()
            .repeat(random.within(1..6) as usize);
        let record = NewRecord {
            timestamp: NOW,
            value: Some(value.as_bytes()),
            ..NewRecord::default()
        };
        builder.try_append(1 << 20, record).expect("it fits");
    }
    let batch = builder.finish(ProducerStamp::NONE).expect("a batch");
    let placed = log.append(&batch, LeaderEpoch(3), NOW);
    placed.map(drop).map_err(|error| error.to_string())
}

/// Flips a bit of a batch where it lies on the disk.
fn rot(
    disk: &SimulatedDisk,
    durable: &[Durable],
    rotten: usize,
    random: &mut Random,
) -> Result<(), String> {
    let directory = Path::new(DIRECTORY);
    let entries = disk
        .file_system()
        .list(directory)
        .map_err(|error| error.to_string())?;
    let bases = entries
        .iter()
        .filter_map(|entry| entry.name.strip_suffix(".log"));
    let segment = bases
        .filter_map(|base| base.parse::<i64>().ok())
        .filter(|base| *base <= durable[rotten].base)
        .max()
        .ok_or("no segment holds the batch")?;
    let before = durable[..rotten]
        .iter()
        .filter(|batch| batch.base >= segment);
    let position: u64 = before.map(|batch| batch.bytes.len() as u64).sum();
    // Mostly in the header, where a start meets it.
    let length = durable[rotten].bytes.len() as u64;
    let reach = if random.one_in(4) { length } else { 61 };
    let at = position + random.within(0..reach);
    let path = directory.join(format!("{segment:020}.log"));
    disk.rot(&path, at, 1 << random.within(0..8))
        .map_err(|error| error.to_string())
}

/// Reads everything that can be read, and holds it against what was durable.
fn hold(log: &Log, durable: &[Durable], rotten: usize) -> Result<(), String> {
    let end = durable.last().map_or(0, |batch| batch.end);
    let (bad, label) = (
        &durable[rotten],
        format!("the batch at {} rots", durable[rotten].base),
    );
    if log.end().0 < end {
        return Err(format!(
            "{label}, and the log is cut at {} of {end}",
            log.end()
        ));
    }
    let reach = durable
        .get(rotten + 1 + NEIGHBOURS)
        .map_or(log.end().0, |batch| batch.base);
    let mut next = Offset(0);
    while next.0 < end {
        let found = log.read(next, READ_BYTES, Offset(end));
        let until = match found.and_then(|fetched| fetched.check().map(|()| fetched)) {
            Ok(fetched) => {
                serve(&fetched.bytes, durable, bad).map_err(|what| format!("{label}: {what}"))?;
                fetched.end_offset
            }
            Err(ReadError::Corrupt { offset, .. }) if offset > next => {
                let fetched = log.read(next, READ_BYTES, offset);
                let fetched = fetched.and_then(|fetched| fetched.check().map(|()| fetched));
                let fetched = fetched.map_err(|error| format!("{label}: {error}"))?;
                serve(&fetched.bytes, durable, bad).map_err(|what| format!("{label}: {what}"))?;
                fetched.end_offset
            }
            Err(ReadError::Corrupt {
                offset, next_good, ..
            }) => {
                if offset.0 < bad.base || next_good.0 > reach {
                    return Err(format!(
                        "{label}, and {offset} to {next_good} cannot be read"
                    ));
                }
                next_good
            }
            Err(error) => return Err(format!("{label}: {error}")),
        };
        if until <= next {
            return Err(format!("{label}: a read at {next} gives nothing"));
        }
        next = until;
    }
    Ok(())
}

/// What is served is what was written, and not the bad batch.
fn serve(bytes: &Bytes, durable: &[Durable], bad: &Durable) -> Result<(), String> {
    for view in split_batches(bytes).flatten() {
        let base = view.header().base_offset().0;
        let known = durable.iter().find(|batch| batch.base == base);
        if base == bad.base || known.is_none_or(|known| known.bytes != view.bytes()) {
            return Err(format!("a bad batch is served at {base}"));
        }
    }
    Ok(())
}

fn read(log: &Log, end: Offset) -> Result<Vec<Durable>, String> {
    let mut durable = Vec::new();
    let mut next = Offset(0);
    while next < end {
        let fetched = log
            .read(next, READ_BYTES, end)
            .map_err(|error| error.to_string())?;
        for view in split_batches(&fetched.bytes).flatten() {
            durable.push(Durable {
                base: view.header().base_offset().0,
                end: view.header().end_offset().0,
                bytes: Bytes::copy_from_slice(view.bytes()),
            });
        }
        next = fetched.end_offset;
    }
    Ok(durable)
}

fn open(files: &Arc<dyn FileSystem>, hint: RecoveryHint) -> Result<Log, String> {
    let (directory, topic) = (Path::new(DIRECTORY), TopicId([7; 16]));
    let files = Arc::clone(files);
    let opened = Log::open(files, directory, topic, LogConfig::test_min(), hint, NOW);
    opened
        .map(|(log, _)| log)
        .map_err(|error| format!("it does not open: {error}"))
}
