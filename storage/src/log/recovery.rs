//! What a restart finds.
//!
//! Below the recovery point everything was synced: segments and indexes are trusted, and checked
//! where they are used. Above it the log is scanned, cut at the first batch that is bad or does not
//! begin at exactly the expected offset, and what is kept is synced before it counts.

use std::{path::Path, sync::Arc};

use strandline_protocol::{Offset, Timestamp, TopicId};

use super::{Log, LogConfig};
use crate::{error::StorageError, fs::FileSystem};

/// What the data directory remembers of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryHint {
    /// From `recovery-point-offset-checkpoint`; 0 if it is not there.
    pub recovery_point: Offset,
    /// From `log-start-offset-checkpoint`; 0 if it is not there.
    pub log_start: Offset,
    /// How the process before ended.
    pub shutdown: Shutdown,
}

/// How the process before ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shutdown {
    /// It closed its logs and left the clean-shutdown mark.
    Clean,
    /// It did not.
    #[default]
    Unclean,
}

/// What recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// How many bytes were read to tell good from bad.
    pub bytes_scanned: u64,
    /// How many bytes behind the last good batch were not zero and have been cut.
    pub bytes_cut: u64,
    /// What is wrong below the recovery point, where it met the eye: data that was durable is
    /// damaged. It is never served, reads of it give [`super::ReadError::Corrupt`].
    pub damage: Vec<String>,
}

impl Log {
    /// Opens the log in `directory`, which need not exist, and recovers it. Afterwards all of it is
    /// durable. Costs what was written since the recovery point, not what the log holds.
    ///
    /// # Errors
    /// If the disk fails; if the directory belongs to another topic.
    pub fn open(
        file_system: Arc<dyn FileSystem>,
        directory: &Path,
        topic_id: TopicId,
        config: LogConfig,
        hint: RecoveryHint,
        now: Timestamp,
    ) -> Result<(Self, RecoveryReport), StorageError> {
        let _ = (file_system, directory, topic_id, config, hint, now);
        todo!()
    }
}
