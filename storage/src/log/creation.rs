//! Making the first files of many new logs at once.
//!
//! A log on its own waits for the disk six times before its first batch: at each file and each
//! directory. Here every step is taken for all of them before the next one, so that whatever the
//! file system writes for the first is mostly on disk already when the others ask for it.
//!
//! What is durable in which order is as at a first append: the epoch before the segment, the
//! segment before a batch. Until all of it is, nothing of it counts: a crash in between leaves logs
//! without a batch.

use std::{collections::BTreeSet, sync::Arc};

use strandline_protocol::{LeaderEpoch, Offset, Timestamp};

use super::{
    Log, active::Active, epochs::Epochs, indexes::Indexes, partition_state::PartitionState,
    state_file::create_empty, units::FileKind,
};
use crate::{error::StorageError, fs::File};

/// A log to make files for, and the epoch of its leader.
#[derive(Debug)]
pub struct NewLog<'a> {
    /// The log.
    pub log: &'a mut Log,
    /// In which its first batch will be appended.
    pub leader_epoch: LeaderEpoch,
}

impl Log {
    /// Whether nothing was ever appended to it: it has no files yet.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.oldest_base().is_none() && self.epochs.latest().is_none() && self.end == Offset::ZERO
    }

    /// Makes what the first append to each of `logs` would make, durably: the directory, the epoch,
    /// the first segment. Takes no space for batches. Leaves alone what is not new. Costs little
    /// more for a hundred logs than for one.
    ///
    /// # Errors
    /// If the disk fails or is full ([`StorageError::is_full`]). No log has changed then; what is
    /// there of its files is taken up by its first append.
    pub fn create_together(logs: &mut [NewLog<'_>], now: Timestamp) -> Result<(), StorageError> {
        let mut new: Vec<_> = logs.iter_mut().filter(|new| new.log.is_new()).collect();
        let mut states = Vec::with_capacity(new.len());
        for each in &new {
            states.push(each.write_state()?);
        }
        for state in states {
            state.sync()?;
        }
        let mut segments = Vec::with_capacity(new.len());
        for each in &new {
            let path = FileKind::Log.path(&each.log.directory, Offset::ZERO);
            segments.push(create_empty(each.log.files.as_ref(), &path)?);
        }
        let mut parents = BTreeSet::new();
        for each in &new {
            each.log.files.sync_directory(&each.log.directory)?;
            if let Some(parent) = each.log.directory.parent()
                && parents.insert(parent)
            {
                // Every directory was made before the first of these.
                each.log.files.sync_directory(parent)?;
            }
        }
        for (each, file) in new.iter_mut().zip(segments) {
            let log = &mut *each.log;
            log.epochs.assign(each.leader_epoch, Offset::ZERO);
            let indexes = Indexes::new(Offset::ZERO, log.config.index_interval_bytes);
            log.active = Some(Active::over(file, Offset::ZERO, 0, indexes, now));
        }
        Ok(())
    }
}

impl NewLog<'_> {
    /// Writes directory and epoch; neither is durable yet.
    fn write_state(&self) -> Result<Arc<dyn File>, StorageError> {
        let (files, directory) = (self.log.files.as_ref(), self.log.directory.as_path());
        files.create_directory(directory)?;
        let mut epochs = Epochs::default();
        epochs.assign(self.leader_epoch, Offset::ZERO);
        let state = PartitionState {
            topic_id: self.log.topic_id,
            log_start: self.log.start,
            epochs,
        };
        Ok(state.write_new(files, directory)?)
    }
}
