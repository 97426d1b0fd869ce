//! Opening the metadata log: recovery, founding, the vote, replay.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use strandline_client::net::Clock;
use strandline_core::metadata::{Defaults, Entry, EntryError, Image, Membership};
use strandline_protocol::{
    LeaderEpoch, Offset, TopicId,
    batch::{BatchError, BatchView, split_batches},
};
use strandline_storage::{
    StorageError,
    directory::{Election, QUORUM_FILE, QuorumVote, RaftId, read_quorum_vote},
    fs::FileSystem,
    log::{Log, LogConfig, ReadError, RecoveryHint, RecoveryReport},
};

use super::{
    Flushing,
    base::{self, Base},
    batches::{self, Stored},
    error::MetadataError,
    quorum::{Company, Kept, LogId, SnapshotLimits, log_id},
};

/// The identity of the metadata log, as in Kafka.
pub const METADATA_TOPIC_ID: TopicId = TopicId([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// The directory of the metadata log in a data directory, as in Kafka.
pub const METADATA_DIRECTORY: &str = "__cluster_metadata-0";

/// How much is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

/// The size of a segment, in bytes.
const SEGMENT_BYTES: u32 = 16 << 20;

/// Whether an empty metadata log may be taken for a new cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Founding {
    /// The data directories are empty.
    Allowed,
    /// They hold partitions, so metadata has been lost.
    Forbidden,
    /// There is a cluster already, whose members send it.
    Elsewhere,
}

/// What it takes to open the metadata log.
#[derive(Debug)]
pub struct MetadataOptions {
    /// The disk.
    pub file_system: Arc<dyn FileSystem>,
    /// The directory of the log: [`METADATA_DIRECTORY`] in the first data directory. The vote lies
    /// beside it.
    pub directory: PathBuf,
    /// What the data directory remembers of the log.
    pub hint: RecoveryHint,
    /// As whom this broker keeps the log: the random Raft id of the data directory.
    pub raft_id: RaftId,
    /// The cluster of the data directory, and who votes in it if it is founded now.
    pub membership: Membership,
    /// Whether it may be founded now.
    pub founding: Founding,
    /// What new topics get by default.
    pub defaults: Defaults,
    /// Where syncs run.
    pub flushing: Flushing,
    /// How much is appended before a snapshot is written.
    pub snapshots: SnapshotLimits,
}

/// A log that was read to its end.
pub(super) struct Opened {
    pub(super) log: Log,
    pub(super) vote: QuorumVote,
    pub(super) company: Company,
    /// What is known to be committed.
    pub(super) image: Image,
    /// The snapshots, oldest first.
    pub(super) kept: Vec<Kept>,
    /// The last entry that was trimmed.
    pub(super) purged: Option<LogId>,
    /// How many bytes of batches lie behind the newest snapshot.
    pub(super) appended: u64,
    /// All that is written, committed or not.
    pub(super) written: Image,
    /// The last membership in the image, and where it stands; none if the image is empty.
    pub(super) membership: Option<(Membership, LogId)>,
    pub(super) report: RecoveryReport,
}

impl MetadataOptions {
    /// The broker whose log it is.
    #[cfg(strandline_sim)]
    pub(super) fn broker(&self) -> strandline_protocol::BrokerId {
        let voter = self.membership.voters.first();
        voter.map_or(strandline_protocol::BrokerId(-1), |voter| voter.broker)
    }

    /// The data directory that log and vote lie in.
    pub(super) fn data_directory(&self) -> &Path {
        self.directory.parent().unwrap_or(&self.directory)
    }
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
    let vote = read_quorum_vote(options.file_system.as_ref(), options.data_directory());
    let base = base::find(options, &mut log)?;
    if log.end() == Offset::ZERO {
        // Who has voted has had a log, or was about to get one.
        match (options.founding, &vote) {
            (Founding::Allowed, Ok(None)) => found(options, &mut log)?,
            (Founding::Elsewhere, Ok(_)) => return newcomer(options, log, report, vote?),
            _ => {
                return Err(MetadataError::Missing {
                    directory: options.directory.clone(),
                });
            }
        }
    }
    let Replayed {
        mut image,
        membership,
        bytes,
    } = replay(options, &log, &base)?;
    let (found, expected) = (image.cluster(), options.membership.cluster);
    if found != expected {
        return Err(MetadataError::OtherCluster {
            directory: options.directory.clone(),
            found,
            expected,
        });
    }
    let company = company(options, &membership.0)?;
    let term = log.latest_epoch().unwrap_or_default().max(base.term());
    let vote = settle_vote(options, term, vote, &membership.0)?;
    let mut membership = Some(membership);
    let written = image.clone();
    if company == Company::Others {
        // It reads well, but what of it is committed, the leader will tell; of a snapshot all is.
        (image, membership) = match base.loaded {
            Some(loaded) => (
                loaded.image,
                Some((loaded.membership, loaded.membership_at)),
            ),
            None => (Image::default(), None),
        };
    }
    Ok(Opened {
        log,
        vote,
        company,
        image,
        kept: base.kept,
        purged: base.purged,
        appended: bytes,
        written,
        membership,
        report,
    })
}

/// A member that knows nothing yet, and waits for a leader to call on it.
fn newcomer(
    options: &MetadataOptions,
    log: Log,
    report: RecoveryReport,
    vote: Option<QuorumVote>,
) -> Result<Opened, MetadataError> {
    let never = QuorumVote {
        term: LeaderEpoch(0),
        candidate: options.raft_id,
        election: Election::Open,
    };
    Ok(Opened {
        log,
        vote: vote.unwrap_or(never),
        company: Company::Others,
        image: Image::default(),
        kept: Vec::new(),
        purged: None,
        appended: 0,
        written: Image::default(),
        membership: None,
        report,
    })
}

/// Whether this member needs others to commit anything.
fn company(options: &MetadataOptions, membership: &Membership) -> Result<Company, MetadataError> {
    let raft_id = options.raft_id.0;
    let is_member = membership.members().any(|member| member.raft_id == raft_id);
    // Who has just joined may not have read so far.
    if !is_member && options.founding != Founding::Elsewhere {
        return Err(MetadataError::NotAMember {
            directory: options.directory.clone(),
            raft_id,
        });
    }
    if membership.is_alone(raft_id) {
        Ok(Company::Alone)
    } else {
        Ok(Company::Others)
    }
}

/// The vote that holds from here on. Who keeps the log for nobody but itself has no promise to
/// break: if its vote is missing, as in directories of versions that wrote none, or damaged, or
/// older than its log, the term of the log counts.
fn settle_vote(
    options: &MetadataOptions,
    term: LeaderEpoch,
    vote: Result<Option<QuorumVote>, StorageError>,
    membership: &Membership,
) -> Result<QuorumVote, MetadataError> {
    let vote = match vote {
        Err(StorageError::Fs(error)) => return Err(StorageError::from(error).into()),
        vote => vote,
    };
    let reason = match vote {
        Ok(Some(vote)) if vote.term >= term => return Ok(vote),
        Ok(Some(vote)) => format!("it is of term {}, and the log of term {term}", vote.term),
        Ok(None) => "it is missing".to_owned(),
        Err(error) => error.to_string(),
    };
    if membership.members().count() > 1 {
        return Err(MetadataError::VoteLost {
            file: options.data_directory().join(QUORUM_FILE),
            reason,
        });
    }
    tracing::debug!(%term, "the vote is not used, the term of the metadata log counts: {reason}");
    Ok(QuorumVote {
        term,
        candidate: options.raft_id,
        election: Election::Open,
    })
}

/// Nothing of the metadata log ever goes by age or size, and no clock can stop it. What a snapshot
/// makes superfluous goes in whole segments, so they are small.
fn log_config() -> LogConfig {
    LogConfig {
        segment_bytes: SEGMENT_BYTES,
        retention_ms: None,
        retention_bytes: None,
        max_message_bytes: batches::BATCH_BYTES_MAX,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        ..LogConfig::default()
    }
}

/// Writes the first entry. Raft counts terms from 1.
fn found(options: &MetadataOptions, log: &mut Log) -> Result<(), MetadataError> {
    let (entry, now) = (Entry::Membership(options.membership.clone()), Clock.now());
    let batch = batches::encode(&entry, now).map_err(MetadataError::Founding)?;
    log.append(&batch, LeaderEpoch(1), now)
        .map_err(|error| MetadataError::Founding(error.to_string()))?;
    log.flush()?;
    Ok(())
}

/// Why an entry cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// The batch is not one of ours.
    #[error("{0}")]
    Batch(String),
    /// The entry is not one that this broker knows.
    #[error(transparent)]
    Entry(#[from] EntryError),
}

/// The entries in `batches`, which are whole and checked.
pub(super) fn read_entries(
    batches: &[u8],
) -> impl Iterator<Item = Result<(Stored, Entry), Unreadable>> {
    split_batches(batches).map(read_entry)
}

fn read_entry(batch: Result<BatchView<'_>, BatchError>) -> Result<(Stored, Entry), Unreadable> {
    let batch = batch.map_err(|error| Unreadable::Batch(error.to_string()))?;
    let stored = batches::decode(&batch).map_err(Unreadable::Batch)?;
    let entry = Entry::decode(&stored.entry)?;
    Ok((stored, entry))
}

/// All that is written, committed or not.
struct Replayed {
    image: Image,
    membership: (Membership, LogId),
    /// How many bytes of batches were read.
    bytes: u64,
}

/// Reads and applies everything behind `base`.
fn replay(options: &MetadataOptions, log: &Log, base: &Base) -> Result<Replayed, MetadataError> {
    let (mut image, mut membership) = match &base.loaded {
        Some(loaded) => (
            loaded.image.clone(),
            Some((loaded.membership.clone(), loaded.membership_at)),
        ),
        None => (Image::default(), None),
    };
    let (mut next, mut bytes) = (base.end(), 0_u64);
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
        bytes = bytes.saturating_add(u64::try_from(fetched.bytes.len()).unwrap_or(0));
        for read in read_entries(&fetched.bytes) {
            let (stored, entry) = read.map_err(|error| match error {
                Unreadable::Batch(reason) => damaged(next, reason),
                Unreadable::Entry(source) => MetadataError::Entry {
                    file: segment_of(options, next),
                    offset: next,
                    source,
                },
            })?;
            if let Entry::Membership(kept_by) = &entry {
                membership = Some((kept_by.clone(), log_id(stored.term, stored.offset)));
            } else if membership.is_none() {
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
    let membership =
        membership.ok_or_else(|| damaged(next, "it holds no membership".to_owned()))?;
    Ok(Replayed {
        image,
        membership,
        bytes,
    })
}

/// The file in which `offset` lies, for messages.
pub(super) fn segment_of(options: &MetadataOptions, offset: Offset) -> PathBuf {
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
