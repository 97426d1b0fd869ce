//! Opening the metadata log: recovery, founding, replay.

use std::{path::PathBuf, sync::Arc};

use strandline_client::net::Clock;
use strandline_core::metadata::{Defaults, Entry, Image, Membership};
use strandline_protocol::{LeaderEpoch, Offset, TopicId, batch::split_batches};
use strandline_storage::{
    fs::FileSystem,
    log::{Log, LogConfig, ReadError, RecoveryHint, RecoveryReport},
};

use super::{Flushing, batches, error::MetadataError};

/// The identity of the metadata log, as in Kafka.
pub const METADATA_TOPIC_ID: TopicId = TopicId([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// The directory of the metadata log in a data directory, as in Kafka.
pub const METADATA_DIRECTORY: &str = "__cluster_metadata-0";

/// How much is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

/// Whether an empty metadata log may be taken for a new cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Founding {
    /// The data directories are empty.
    Allowed,
    /// They hold partitions, so metadata has been lost.
    Forbidden,
}

/// What it takes to open the metadata log.
#[derive(Debug)]
pub struct MetadataOptions {
    /// The disk.
    pub file_system: Arc<dyn FileSystem>,
    /// The directory of the log: [`METADATA_DIRECTORY`] in the first data directory.
    pub directory: PathBuf,
    /// What the data directory remembers of the log.
    pub hint: RecoveryHint,
    /// The cluster of the data directory, and who votes in it if it is founded now.
    pub membership: Membership,
    /// Whether it may be founded now.
    pub founding: Founding,
    /// What new topics get by default.
    pub defaults: Defaults,
    /// Where syncs run.
    pub flushing: Flushing,
}

/// A log that was read to its end.
pub(super) struct Opened {
    pub(super) log: Log,
    pub(super) image: Image,
    /// The term of this start.
    pub(super) term: LeaderEpoch,
    pub(super) report: RecoveryReport,
}

/// Recovers the log, founds the cluster if it is empty, and replays it. Waits for the disk.
///
/// # Errors
/// [`MetadataError`]; the broker must not start then.
pub(super) fn open(options: &MetadataOptions) -> Result<Opened, MetadataError> {
    let (mut log, report) = Log::open(
        Arc::clone(&options.file_system),
        &options.directory,
        METADATA_TOPIC_ID,
        log_config(),
        options.hint,
        Clock.now(),
    )?;
    if let Some(damage) = report.damage.first() {
        return Err(MetadataError::Damaged {
            file: segment_of(options, log.start()),
            offset: log.start(),
            reason: damage.clone(),
        });
    }
    // Raft counts terms from 1. A new start is a new leader, even of a quorum of one.
    let term = log.latest_epoch().map_or(LeaderEpoch(1), LeaderEpoch::next);
    if log.end() == Offset::ZERO {
        found(options, &mut log, term)?;
    }
    let image = replay(options, &log)?;
    let (found, expected) = (image.cluster(), options.membership.cluster);
    if found != expected {
        return Err(MetadataError::OtherCluster {
            directory: options.directory.clone(),
            found,
            expected,
        });
    }
    Ok(Opened {
        log,
        image,
        term,
        report,
    })
}

/// Nothing of the metadata log ever goes by age or size, and no clock can stop it.
fn log_config() -> LogConfig {
    LogConfig {
        retention_ms: None,
        retention_bytes: None,
        max_message_bytes: batches::BATCH_BYTES_MAX,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        ..LogConfig::default()
    }
}

fn found(options: &MetadataOptions, log: &mut Log, term: LeaderEpoch) -> Result<(), MetadataError> {
    if options.founding == Founding::Forbidden {
        return Err(MetadataError::Missing {
            directory: options.directory.clone(),
        });
    }
    let (entry, now) = (Entry::Membership(options.membership.clone()), Clock.now());
    let batch = batches::encode(&entry, now).map_err(MetadataError::Founding)?;
    log.append(&batch, term, now)
        .map_err(|error| MetadataError::Founding(error.to_string()))?;
    log.flush()?;
    Ok(())
}

fn replay(options: &MetadataOptions, log: &Log) -> Result<Image, MetadataError> {
    let mut image = Image::default();
    let mut next = Offset::ZERO;
    let damaged = |offset: Offset, reason: String| MetadataError::Damaged {
        file: segment_of(options, offset),
        offset,
        reason,
    };
    while next < log.end() {
        let fetched = log
            .read(next, READ_BYTES, log.end())
            .and_then(|fetched| fetched.check().map(|()| fetched))
            .map_err(|error| match error {
                ReadError::Corrupt { offset, reason, .. } => damaged(offset, reason),
                ReadError::OutOfRange { .. } | ReadError::Removed { .. } => {
                    damaged(next, error.to_string())
                }
                ReadError::Storage(error) => error.into(),
            })?;
        for batch in split_batches(&fetched.bytes) {
            let batch = batch.map_err(|error| damaged(next, error.to_string()))?;
            let stored = batches::decode(&batch).map_err(|reason| damaged(next, reason))?;
            let entry = Entry::decode(&stored.entry).map_err(|source| MetadataError::Entry {
                file: segment_of(options, next),
                offset: next,
                source,
            })?;
            let founds = matches!(entry, Entry::Membership(_));
            if next == Offset::ZERO && !founds {
                return Err(damaged(next, "the first entry is not a membership".into()));
            }
            image
                .try_apply(stored.offset, stored.term, &entry)
                .map_err(|error| damaged(next, error.to_string()))?;
            next = next.plus(1);
        }
        if fetched.bytes.is_empty() {
            return Err(damaged(next, "the log ends before its end".into()));
        }
    }
    Ok(image)
}

/// The file in which `offset` lies, for messages.
fn segment_of(options: &MetadataOptions, offset: Offset) -> PathBuf {
    let entries = options
        .file_system
        .list(&options.directory)
        .unwrap_or_default();
    let segment = entries
        .into_iter()
        .filter_map(|entry| {
            let base: i64 = entry.name.strip_suffix(".log")?.parse().ok()?;
            (base <= offset.0).then_some((base, entry.name))
        })
        .max();
    match segment {
        Some((_, name)) => options.directory.join(name),
        None => options.directory.clone(),
    }
}
