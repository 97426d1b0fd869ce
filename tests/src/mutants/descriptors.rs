//! More logs than descriptors, on the disk of this machine: whatever is not synced keeps a
//! descriptor open.
//!
//! Linux tells a failed write-back to the descriptors that are open on the file at that moment, and
//! to each once (`fsync(2)`, errseq). If there is none, the next sync may find the pages clean,
//! report nothing, and what was lost is acknowledged. A disk that fails on demand takes privileges
//! that a test does not have; the table of descriptors (`/proc/self/fd`) does not. So the rig lets
//! the write-back of a file fail in its own books at any moment, and asks the kernel whether
//! anybody would have been told.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use strandline_protocol::{
    LeaderEpoch, Offset, Timestamp, TopicId,
    batch::{BatchBuilder, Codec, NewRecord, ProducerStamp},
};
use strandline_storage::{
    fs::{CacheLimits, FileSystem, mapped::MappedFileSystem},
    log::{Log, LogConfig, RecoveryHint},
};

use crate::random::Random;

const LOGS: usize = 10;
const STEPS: u64 = 400;
const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// Far fewer than the logs have files.
const LIMITS: CacheLimits = CacheLimits {
    descriptors: 4,
    mappings: 4,
    mapping_bytes: 1 << 20,
};

/// Runs it; tells what was done.
///
/// # Errors
/// What must not be.
pub fn run(seed: u64) -> Result<String, String> {
    let mut random = Random::new(seed, 3);
    let keep = tempfile::tempdir().map_err(|error| error.to_string())?;
    let host = Arc::new(MappedFileSystem::new(LIMITS));
    let files: Arc<dyn FileSystem> = host.clone();
    let mut logs = Vec::new();
    for number in 0..LOGS {
        let directory = keep.path().join(format!("topic-{number}"));
        logs.push((open(&files, &directory)?, directory));
    }
    let (mut failures, mut least, mut most) = (0, usize::MAX, 0);
    for step in 0..STEPS {
        let (log, _) = &mut logs[random.within(0..LOGS as u64) as usize];
        match random.within(0..10) {
            0..4 => append(log, &mut random)?,
            4..7 => {
                log.flush().map_err(|error| error.to_string())?;
            }
            7 => {
                // A checkpoint may sync the log too, without a word about it: do so before.
                log.flush().map_err(|error| error.to_string())?;
                if let Some(job) = log.checkpoint_job(NOW) {
                    job.run().map_err(|error| error.to_string())?;
                }
            }
            _ => read(log, &mut random)?,
        }
        let open = open_files();
        for (log, directory) in &logs {
            for file in unsynced(log, directory)? {
                failures += 1;
                if !open.contains(&identity(&file)?) {
                    return Err(format!(
                        "step {step}: the write-back of {} fails and nobody is told: the next \
                         flush makes offsets {} to {} durable, which are lost",
                        file.strip_prefix(keep.path()).unwrap_or(&file).display(),
                        log.durable(),
                        log.end()
                    ));
                }
            }
        }
        (least, most) = (
            least.min(host.descriptors_open()),
            most.max(host.descriptors_open()),
        );
    }
    Ok(format!(
        "{failures} failing write-backs, {least} to {most} descriptors for {LOGS} logs"
    ))
}

/// The files that hold batches which no flush has covered.
fn unsynced(log: &Log, directory: &Path) -> Result<Vec<PathBuf>, String> {
    if log.durable() >= log.end() {
        return Ok(Vec::new());
    }
    let mut bases = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| error.to_string())? {
        let name = entry.map_err(|error| error.to_string())?.file_name();
        let name = name.to_string_lossy().into_owned();
        let base = name
            .strip_suffix(".log")
            .and_then(|base| base.parse::<i64>().ok());
        bases.extend(base.map(|base| (base, directory.join(&name))));
    }
    bases.sort();
    let ends: Vec<i64> = bases.iter().skip(1).map(|(base, _)| *base).collect();
    let (durable, end) = (log.durable().0, log.end().0);
    let covers = |at: usize, base: i64| {
        base < end && ends.get(at).copied().unwrap_or(end).min(end) > durable
    };
    let holding = bases
        .iter()
        .enumerate()
        .filter(|(at, (base, _))| covers(*at, *base));
    Ok(holding.map(|(_, (_, path))| path.clone()).collect())
}

/// Device and number of every file that this process has a descriptor of.
fn open_files() -> BTreeSet<(u64, u64)> {
    let entries = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| fs::metadata(entry.path()).ok())
        .map(|file| (file.dev(), file.ino()))
        .collect()
}

fn identity(path: &Path) -> Result<(u64, u64), String> {
    let file = fs::metadata(path).map_err(|error| error.to_string())?;
    Ok((file.dev(), file.ino()))
}

fn append(log: &mut Log, random: &mut Random) -> Result<(), String> {
    // Small ones are copied into a mapping, large ones written.
    let value = "x".repeat(random.within(10..3_000) as usize);
    let mut builder = BatchBuilder::new(Codec::None, 4_096);
    let record = NewRecord {
        timestamp: NOW,
        value: Some(value.as_bytes()),
        ..NewRecord::default()
    };
    builder.try_append(1 << 20, record).expect("it fits");
    let batch = builder.finish(ProducerStamp::NONE).expect("a batch");
    let placed = log.append(&batch, LeaderEpoch(0), NOW);
    placed.map(drop).map_err(|error| error.to_string())
}

fn read(log: &Log, random: &mut Random) -> Result<(), String> {
    if log.end() == Offset(0) {
        return Ok(());
    }
    let at = Offset(random.within(0..log.end().0 as u64) as i64);
    let fetched = log.read(at, 100, log.end());
    fetched.map(drop).map_err(|error| error.to_string())
}

fn open(files: &Arc<dyn FileSystem>, directory: &Path) -> Result<Log, String> {
    let config = LogConfig {
        segment_bytes: 20_000,
        max_message_bytes: 8_000,
        allocate_bytes_min: 4_096,
        ..LogConfig::test_min()
    };
    let (topic, hint) = (TopicId([7; 16]), RecoveryHint::default());
    let opened = Log::open(Arc::clone(files), directory, topic, config, hint, NOW);
    opened
        .map(|(log, _)| log)
        .map_err(|error| format!("it does not open: {error}"))
}
