//! The files of a data directory, by what they are for.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use strandline_broker::metadata::METADATA_DIRECTORY;
use strandline_storage::{
    directory::QUORUM_FILE,
    fs::{FileSystem, FsError},
};

use super::machine::DATA;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    /// Batches of a partition.
    Segment,
    /// The index of a segment by offset.
    OffsetIndex,
    /// The index of a segment by time.
    TimeIndex,
    /// Kafka's snapshot of the producers.
    Snapshot,
    /// Identity, epochs and start of a partition.
    PartitionState,
    /// Producers and how good the indexes are.
    RecoveryState,
    /// Kafka's epochs.
    Epochs,
    /// Kafka's identity of a partition.
    PartitionMetadata,
    /// Batches of the metadata log.
    MetadataSegment,
    /// What the metadata log told up to an offset.
    MetadataSnapshot,
    /// What lies beside them.
    MetadataOther,
    /// How far each partition had come.
    Checkpoint,
    /// The same in Kafka's files.
    KafkaCheckpoint,
    /// Kafka's identity of the directory.
    Properties,
    /// Its twin.
    SealedProperties,
    /// Which run has the directory.
    Incarnation,
    /// That everything was closed.
    CleanMark,
    /// For whom the member of the metadata quorum has voted.
    Vote,
}

impl FileKind {
    /// What it is called in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::OffsetIndex => "index",
            Self::TimeIndex => "timeindex",
            Self::Snapshot => "snapshot",
            Self::PartitionState => "partition.state",
            Self::RecoveryState => "recovery.state",
            Self::Epochs => "leader-epoch-checkpoint",
            Self::PartitionMetadata => "partition.metadata",
            Self::MetadataSegment => "metadata log",
            Self::MetadataSnapshot => "metadata snapshot",
            Self::MetadataOther => "metadata log, other files",
            Self::Checkpoint => "checkpoint.sealed",
            Self::KafkaCheckpoint => "*-offset-checkpoint",
            Self::Properties => "meta.properties",
            Self::SealedProperties => "meta.sealed",
            Self::Incarnation => "incarnation",
            Self::CleanMark => ".kafka_cleanshutdown",
            Self::Vote => "quorum.sealed",
        }
    }

    /// The one that lies at `path`; none for files that hold nothing.
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let suffix = path.extension().and_then(|suffix| suffix.to_str());
        let is_metadata = path
            .components()
            .any(|part| part.as_os_str() == METADATA_DIRECTORY);
        let kind = match (name, suffix) {
            (_, Some("log")) => Self::Segment,
            (_, Some("index")) => Self::OffsetIndex,
            (_, Some("timeindex")) => Self::TimeIndex,
            (_, Some("snapshot")) => Self::Snapshot,
            (_, Some("checkpoint")) => Self::MetadataSnapshot,
            ("partition.state", _) => Self::PartitionState,
            ("recovery.state", _) => Self::RecoveryState,
            ("leader-epoch-checkpoint", _) => Self::Epochs,
            ("partition.metadata", _) => Self::PartitionMetadata,
            ("checkpoint.sealed", _) => Self::Checkpoint,
            ("meta.properties", _) => Self::Properties,
            ("meta.sealed", _) => Self::SealedProperties,
            ("incarnation", _) => Self::Incarnation,
            (".kafka_cleanshutdown", _) => Self::CleanMark,
            (QUORUM_FILE, _) => Self::Vote,
            _ if name.ends_with("-offset-checkpoint") => Self::KafkaCheckpoint,
            _ => return None,
        };
        Some(match kind {
            Self::Segment if is_metadata => Self::MetadataSegment,
            Self::MetadataSnapshot => Self::MetadataSnapshot,
            _ if is_metadata => Self::MetadataOther,
            kind => kind,
        })
    }

    /// Whether `strandline log verify` looks at it.
    #[must_use]
    pub fn is_of_a_log(self) -> bool {
        self <= Self::MetadataOther
    }

    /// Whether a broker may refuse to start because of it: it would not know who it is, or what
    /// there is.
    #[must_use]
    pub const fn may_stop_the_start(self) -> bool {
        matches!(
            self,
            Self::MetadataSegment | Self::Properties | Self::SealedProperties
        )
    }

    /// Whether any change of it must be told: it is under a checksum.
    #[must_use]
    pub const fn must_be_told(self) -> bool {
        matches!(
            self,
            Self::Snapshot
                | Self::PartitionState
                | Self::RecoveryState
                | Self::Checkpoint
                | Self::SealedProperties
        )
    }
}

/// Every file of the data directory that holds something.
///
/// # Errors
/// If the disk fails.
pub fn list(files: &dyn FileSystem) -> Result<Vec<(PathBuf, FileKind, Bytes)>, FsError> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from(DATA)];
    while let Some(directory) = directories.pop() {
        for entry in files.list(&directory)? {
            let path = directory.join(&entry.name);
            // What was set aside is served by nobody.
            if entry.is_directory && !entry.name.contains('.') {
                directories.push(path);
            } else if let Some(kind) = FileKind::of(&path) {
                let bytes = contents(files, &path)?;
                if !bytes.is_empty() {
                    found.push((path, kind, bytes));
                }
            }
        }
    }
    Ok(found)
}

/// All of a file.
///
/// # Errors
/// If it is not there, or the disk fails.
pub fn contents(files: &dyn FileSystem, path: &Path) -> Result<Bytes, FsError> {
    let file = files.open(path)?;
    file.view(0..file.size())
}

/// Puts other bytes in the place of a file's, durably.
///
/// # Errors
/// If the disk fails.
pub fn overwrite(files: &dyn FileSystem, path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    let file = files.open(path)?;
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    file.allocate(size)?;
    file.truncate(size)?;
    file.write(0, &[bytes])?;
    file.sync()
}
