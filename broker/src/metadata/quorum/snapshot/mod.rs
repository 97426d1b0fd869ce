//! The metadata image as a file, so that neither a start nor a newcomer needs all of the log.
//!
//! *Patterns: low-water mark, write-ahead log.* A snapshot holds what the log tells below an
//! offset: `format` is how it is laid out, `kept` which of them a member has, `keeper` when one is
//! written and the log trimmed, `sender` and `receiver` how one gets to a member that is behind the
//! log. A file that is damaged is never used; and nothing is trimmed that an older snapshot than
//! the newest needs, so that one damaged file costs nothing.

mod format;
mod keeper;
mod kept;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;

pub(in crate::metadata) use format::{Loaded, Unusable};
pub(in crate::metadata) use keeper::Keeper;
pub(in crate::metadata) use kept::{
    Kept, SnapshotBuilder, SnapshotFile, Snapshots, SnapshotsParts, load_at, name_of, names_in,
};
pub(in crate::metadata) use receiver::Receiver;
pub(in crate::metadata) use sender::send_snapshot;

/// How much is appended to the metadata log before a new snapshot is written. Whichever comes
/// first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotLimits {
    /// In entries.
    pub entries: u64,
    /// In bytes of batches.
    pub bytes: u64,
}

/// So many entries replay in well under a second.
#[cfg(not(any(strandline_sim, strandline_mutants)))]
const ENTRIES_BETWEEN: u64 = 20_000;

/// Few enough that a run of seconds sees many snapshots.
#[cfg(any(strandline_sim, strandline_mutants))]
const ENTRIES_BETWEEN: u64 = 25;

/// Kafka's `metadata.log.max.record.bytes.between.snapshots`, rounded down.
const BYTES_BETWEEN: u64 = 16 << 20;

impl Default for SnapshotLimits {
    fn default() -> Self {
        Self {
            entries: ENTRIES_BETWEEN,
            bytes: BYTES_BETWEEN,
        }
    }
}
