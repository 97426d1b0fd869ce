//! What the tests of the log share: batches, and a directory to put them in.
use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use strandline_protocol::{
    LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicId,
    batch::{BatchBuilder, BatchView, Codec, NewRecord, ProducerStamp, split_batches},
};
use strandline_storage::{
    StorageError,
    fs::{CacheLimits, FileSystem, mapped::MappedFileSystem},
    log::{
        AppendError, Appended, Log, LogConfig, ReadError, RecoveryHint, RecoveryReport, Shutdown,
    },
};

/// The topic of every test.
pub const TOPIC: TopicId = TopicId([7; 16]);

/// The leader epoch of every test that does not speak of epochs.
pub const EPOCH: LeaderEpoch = LeaderEpoch(0);

/// The broker's time where it does not matter.
pub const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// A batch of records with these values.
pub fn batch(values: &[&str], timestamp: i64, producer: ProducerStamp) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None, 1_024);
    for value in values {
        let record = NewRecord {
            timestamp: Timestamp(timestamp),
            value: Some(value.as_bytes()),
            ..NewRecord::default()
        };
        builder.try_append(1 << 20, record).unwrap();
    }
    builder.finish(producer).unwrap()
}

/// The stamp of producer 7.
pub fn stamp(epoch: i16, sequence: i32) -> ProducerStamp {
    ProducerStamp {
        id: ProducerId(7),
        epoch: ProducerEpoch(epoch),
        base_sequence: Sequence(sequence),
    }
}

/// A log on a disk, closed and opened at will.
pub struct Rig {
    pub files: Arc<dyn FileSystem>,
    pub directory: PathBuf,
    pub config: LogConfig,
    pub hint: RecoveryHint,
    _keep: Option<tempfile::TempDir>,
}

impl Rig {
    /// One on this machine's disk, written through mappings.
    pub fn mapped() -> Self {
        let keep = tempfile::tempdir().unwrap();
        Self {
            files: Arc::new(MappedFileSystem::new(CacheLimits::default())),
            directory: keep.path().join("topic-0"),
            config: LogConfig::test_min(),
            hint: RecoveryHint::default(),
            _keep: Some(keep),
        }
    }

    /// One on a disk of the caller's.
    pub fn on(files: Arc<dyn FileSystem>, directory: PathBuf) -> Self {
        Self {
            files,
            directory,
            config: LogConfig::test_min(),
            hint: RecoveryHint::default(),
            _keep: None,
        }
    }

    /// Opens the log.
    pub fn open(&self) -> Log {
        self.open_reported().0
    }

    /// Opens the log, and tells what was found.
    pub fn open_reported(&self) -> (Log, RecoveryReport) {
        self.try_open().unwrap()
    }

    /// Opens the log, unless the disk fails.
    pub fn try_open(&self) -> Result<(Log, RecoveryReport), StorageError> {
        Log::open(
            Arc::clone(&self.files),
            &self.directory,
            TOPIC,
            self.config,
            self.hint,
            NOW,
        )
    }

    /// Closes the log as a broker that shuts down does.
    pub fn close(&mut self, log: Log) {
        self.hint.log_start = log.start();
        self.hint.recovery_point = log.close(NOW).unwrap();
        self.hint.shutdown = Shutdown::Clean;
    }

    /// Drops the log as a process that is killed does; the last checkpoint was at `recovery_point`.
    pub fn kill(&mut self, log: Log, recovery_point: Offset) {
        drop(log);
        self.hint.recovery_point = recovery_point;
        self.hint.shutdown = Shutdown::Unclean;
    }
}

/// Appends one batch of these values.
pub fn append(log: &mut Log, values: &[&str]) -> Appended {
    let bytes = batch(values, NOW.0, ProducerStamp::NONE);
    log.append(&bytes, EPOCH, NOW).unwrap()
}

/// Appends a batch of producer 7.
pub fn produce(log: &mut Log, values: &[&str], sequence: i32) -> Result<Appended, AppendError> {
    log.append(&batch(values, NOW.0, stamp(0, sequence)), EPOCH, NOW)
}

/// The records of whole batches, with their offsets.
pub fn records(bytes: &[u8]) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    for view in split_batches(bytes) {
        let view: BatchView<'_> = view.unwrap();
        view.check_crc().unwrap();
        let mut scratch = Vec::new();
        for record in view.records(&mut scratch).unwrap() {
            let record = record.unwrap();
            let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            found.push((record.offset.0, value));
        }
    }
    found
}

/// Everything from `from` to the end, read in pieces of `bytes_max`.
pub fn read_all(
    log: &Log,
    from: Offset,
    bytes_max: usize,
) -> Result<Vec<(i64, String)>, ReadError> {
    let mut found = Vec::new();
    let mut at = from;
    while at < log.end() {
        let fetched = log.read(at, bytes_max, log.end())?;
        fetched.check()?;
        assert!(
            fetched.end_offset > at,
            "nothing at {at} though the log ends at {}",
            log.end()
        );
        found.extend(
            records(&fetched.bytes)
                .into_iter()
                .filter(|(offset, _)| *offset >= at.0),
        );
        at = fetched.end_offset;
    }
    Ok(found)
}

/// What [`read_all`] must give for a log of these values.
pub fn expect(values: impl IntoIterator<Item = String>) -> Vec<(i64, String)> {
    (0..).zip(values).collect()
}
