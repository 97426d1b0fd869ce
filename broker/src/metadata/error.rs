//! Why the metadata log cannot be opened. Every one of them stops the start: a broker that guessed
//! what its cluster holds could delete or overwrite what was acknowledged.

use std::path::PathBuf;

use strandline_core::metadata::EntryError;
use strandline_protocol::{ClusterId, Offset};
use strandline_storage::StorageError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The disk failed.
    #[error("the metadata log cannot be opened: {0}")]
    Storage(#[from] StorageError),
    /// What is there is not what was written.
    #[error(
        "the metadata log is damaged: {file} at offset {offset}: {reason}; restore the data \
         directory from a backup, nothing in it has been changed"
    )]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// The first offset that does not read.
        offset: Offset,
        /// What is wrong.
        reason: String,
    },
    /// An entry cannot be applied by this broker.
    #[error("the metadata log cannot be used: {file} at offset {offset}: {source}")]
    Entry {
        /// The segment.
        file: PathBuf,
        /// The entry.
        offset: Offset,
        /// What is wrong with it.
        source: EntryError,
    },
    /// A snapshot is needed and cannot be used.
    #[error(
        "the metadata snapshot {file} cannot be used: {reason}; the metadata log holds only \
         {held}, which is not enough without it; restore the data directory from a backup, or, \
         where other brokers keep the metadata, give this one an empty data directory and let it \
         join again; nothing has been changed"
    )]
    Snapshot {
        /// The snapshot, or the directory if there is none.
        file: PathBuf,
        /// What is wrong with it, and at which byte.
        reason: String,
        /// The offsets that the log holds.
        held: String,
    },
    /// There is no metadata, but there is data.
    #[error(
        "the metadata log {directory} is missing or empty, but the data directory holds \
         partitions or a vote; restore it from a backup, or start with an empty data directory"
    )]
    Missing {
        /// Where it should be.
        directory: PathBuf,
    },
    /// The log belongs to somebody else.
    #[error(
        "the metadata log {directory} belongs to cluster {found}, the data directory to cluster \
         {expected}; put the directories back where they came from"
    )]
    OtherCluster {
        /// Where the log is.
        directory: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Whose it should be.
        expected: ClusterId,
    },
    /// The promises of this member of the quorum are lost.
    #[error(
        "the vote {file} cannot be used ({reason}), and this broker does not keep the metadata \
         log alone: it could vote twice; give it an empty data directory and let it join again"
    )]
    VoteLost {
        /// Where it should be.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The log is kept by others.
    #[error(
        "the metadata log {directory} is not kept by this data directory (Raft id {raft_id}): its \
         broker was removed from the cluster, or directories were swapped; put them back where \
         they came from, or give the broker an empty data directory and --join"
    )]
    NotAMember {
        /// Where the log is.
        directory: PathBuf,
        /// As whom this broker would keep it.
        raft_id: u64,
    },
    /// The first entry could not be written.
    #[error("the metadata log cannot be founded: {0}")]
    Founding(String),
}
