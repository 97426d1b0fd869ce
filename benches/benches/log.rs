//! Instructions of the log: batches appended and read back. A system call counts as one
//! instruction: what the kernel does is not part of it.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that fails must say so at once; gungraun's macros make public items"
)]

mod common;

use std::{hint::black_box, sync::Arc};

use bytes::Bytes;
use common::{NOW, batch, config, values};
use gungraun::{library_benchmark, library_benchmark_group, main};
use strandline_protocol::{LeaderEpoch, Offset, TopicId, batch::Codec};
use strandline_storage::{
    fs::{CacheLimits, FileSystem, mapped::MappedFileSystem, pwrite::PwriteFileSystem},
    log::{Fetched, Log, LogConfig, RecoveryHint, Shutdown},
};
use tempfile::TempDir;

const EPOCH: LeaderEpoch = LeaderEpoch(0);

/// How many batches one benchmark appends, so that an index entry now and then is in the count.
const BATCHES: usize = 10;

/// Which way bytes enter files.
#[derive(Clone, Copy)]
enum Backend {
    Mapped,
    Pwrite,
}

/// A log in a directory that goes when this does.
struct Rig {
    log: Log,
    directory: TempDir,
    files: Arc<dyn FileSystem>,
}

impl Rig {
    fn new(backend: Backend) -> Self {
        let files: Arc<dyn FileSystem> = match backend {
            Backend::Mapped => Arc::new(MappedFileSystem::new(CacheLimits::default())),
            Backend::Pwrite => Arc::new(PwriteFileSystem::new(CacheLimits::default())),
        };
        let directory = tempfile::tempdir().unwrap();
        let log = open(&files, &directory, RecoveryHint::default());
        Self {
            log,
            directory,
            files,
        }
    }

    fn append(&mut self, batches: &[Bytes]) {
        for batch in batches {
            self.log.append(black_box(batch), EPOCH, NOW).unwrap();
        }
    }

    /// The same log as a restart finds it: none of it was appended by this process.
    fn restarted(self) -> Self {
        let Self {
            log,
            directory,
            files,
        } = self;
        let hint = RecoveryHint {
            log_start: log.start(),
            recovery_point: log.close(NOW).unwrap(),
            shutdown: Shutdown::Clean,
        };
        let log = open(&files, &directory, hint);
        Self {
            log,
            directory,
            files,
        }
    }
}

fn open(files: &Arc<dyn FileSystem>, directory: &TempDir, hint: RecoveryHint) -> Log {
    let config = LogConfig {
        allocate_bytes_min: 16 << 20,
        ..LogConfig::default()
    };
    let path = directory.path().join("topic-0");
    let topic = TopicId([7; 16]);
    let (log, _) = Log::open(Arc::clone(files), &path, topic, config, hint, NOW).unwrap();
    log
}

/// Batches of one producer, one behind the other.
fn batches(count: usize, records: usize, bytes: usize) -> Vec<Bytes> {
    let values = values(records, bytes);
    let records = i32::try_from(records).unwrap();
    (0..count)
        .map(|number| {
            batch(
                Codec::None,
                &values,
                records * i32::try_from(number).unwrap(),
            )
        })
        .collect()
}

/// A log that has its segment and all the room that it needs, and what to append.
fn appending(backend: Backend, records: usize, bytes: usize) -> (Rig, Vec<Bytes>) {
    let mut batches = batches(BATCHES + 1, records, bytes);
    let rest = batches.split_off(1);
    let mut rig = Rig::new(backend);
    rig.append(&batches);
    (rig, rest)
}

#[library_benchmark(setup = appending)]
#[bench::mapped_1_x_100_b(Backend::Mapped, 1, 100)]
#[bench::mapped_1000_x_100_b(Backend::Mapped, 1_000, 100)]
#[bench::pwrite_1_x_100_b(Backend::Pwrite, 1, 100)]
#[bench::pwrite_1000_x_100_b(Backend::Pwrite, 1_000, 100)]
fn append((mut rig, batches): (Rig, Vec<Bytes>)) -> (Rig, Vec<Bytes>) {
    rig.append(&batches);
    (rig, batches)
}

fn filled(records: usize, bytes: usize) -> Rig {
    let mut rig = Rig::new(Backend::Mapped);
    // The mapping of the file is part of no count.
    rig.append(&batches(64, records, bytes));
    rig.log.read(Offset(0), 1, rig.log.end()).unwrap();
    rig
}

fn filled_and_restarted(records: usize, bytes: usize) -> Rig {
    let rig = filled(records, bytes).restarted();
    rig.log.read(Offset(0), 1, rig.log.end()).unwrap();
    rig
}

// One fetch of about 1 MB from the middle of the log, and what it takes to serve it.
#[library_benchmark]
#[bench::appended_1_x_100_b(args = (1, 100), setup = filled)]
#[bench::appended_1000_x_100_b(args = (1_000, 100), setup = filled)]
#[bench::restarted_1000_x_100_b(args = (1_000, 100), setup = filled_and_restarted)]
fn read(rig: Rig) -> (Rig, Fetched) {
    let from = Offset(rig.log.end().0 / 2 + 1);
    let fetched = rig
        .log
        .read(black_box(from), 1 << 20, rig.log.end())
        .unwrap();
    fetched.check().unwrap();
    (rig, fetched)
}

library_benchmark_group!(name = log, benchmarks = [append, read]);

main!(config = config(), library_benchmark_groups = log);
