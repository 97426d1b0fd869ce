//! Putting damaged parts of a log back, as another replica has them.

use std::ops::Range;

use bytes::Bytes;
use strandline_protocol::{Offset, messages::Failure};
use strandline_storage::log::RepairError;

use super::Partition;
use crate::replication::Hope;

impl Partition {
    /// Puts `batches` where `offsets` cannot be read, durably, if that is what stood there. Waits
    /// for the disk.
    ///
    /// # Errors
    /// [`RepairError`]: nothing has changed. If the disk failed, its directory is offline.
    pub fn put_back(&self, offsets: Range<Offset>, batches: Bytes) -> Result<(), RepairError> {
        let gone = || RepairError::Gone {
            start: offsets.start,
            end: offsets.end,
        };
        // Nothing may be cut or deleted where it is written.
        let _upkeep = self.upkeep.lock();
        let job = {
            let inner = self.inner.lock();
            let log = inner.log.as_ref().ok_or_else(gone)?;
            log.repair_job(offsets.clone(), batches)?
        };
        let outcome = job.run();
        let mut inner = self.inner.lock();
        let log = inner.log.as_mut().ok_or_else(gone)?;
        if let Err(error) = log.repaired(outcome) {
            drop(inner);
            self.directory.refuse(&error);
            return Err(error.into());
        }
        Ok(())
    }

    /// Where the log of this replica starts and ends.
    #[must_use]
    pub fn bounds(&self) -> (Offset, Offset) {
        let marks = self.inner.lock().replica.marks();
        (marks.log_start, marks.log_end)
    }

    /// What reading `offsets` is answered with while they are being fetched from another replica;
    /// none if there is no hope for that.
    pub(super) fn being_repaired(&self, offsets: &Range<Offset>) -> Option<Failure> {
        let hope = self.surroundings.replication.damaged(self.id, offsets);
        underway(hope, offsets)
    }

    /// The same for what a repair took out here.
    pub(super) fn being_put_back(&self, offsets: &Range<Offset>) -> Option<Failure> {
        let hope = self.surroundings.replication.removed(self.id, offsets);
        underway(hope, offsets)
    }
}

fn underway(hope: Hope, offsets: &Range<Offset>) -> Option<Failure> {
    match hope {
        Hope::Underway => Some(Failure::new(
            strandline_protocol::ErrorCode::OFFSET_NOT_AVAILABLE,
            format!(
                "offset {} is not good on this disk and is being fetched from another replica: \
                 retry",
                offsets.start
            ),
        )),
        Hope::None => None,
    }
}
