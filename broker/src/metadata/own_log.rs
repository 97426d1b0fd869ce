//! How far this member's copy of the metadata log is: figures for people and for metrics.

use openraft::async_runtime::watch::WatchReceiver as _;
use strandline_protocol::Offset;

use super::{MetadataLog, quorum::offset_of};

/// What this member of the quorum knows of its own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnLog {
    /// The end of the log, committed or not.
    pub end: Offset,
    /// The end of what it knows to be committed.
    pub committed: Offset,
}

impl MetadataLog {
    /// How far this member's own log is.
    #[must_use]
    pub fn own_log(&self) -> OwnLog {
        // The image may be newer than the figures of the member.
        let applied = self.image().version().plus(1);
        let (mut end, mut committed) = (applied, applied);
        if let Some(raft) = self.member.get() {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let last = metrics.last_log_index.map(i64::try_from);
            if let Some(Ok(last)) = last {
                end = end.max(Offset(last).plus(1));
            }
            if let Some(last) = &metrics.local_committed {
                committed = committed.max(offset_of(last).plus(1));
            }
        }
        OwnLog {
            end: end.max(committed),
            committed,
        }
    }
}
