//! What a restart finds.
//!
//! Below the recovery point everything was synced: segments and indexes are trusted, and checked
//! where they are used. Above it the log is scanned, cut at the first batch that is bad or does not
//! begin at exactly the expected offset, and what is kept is synced before it counts.

use std::{
    ops::Range,
    path::Path,
    sync::{Arc, atomic::AtomicI64},
};

use parking_lot::Mutex;
use strandline_protocol::{Offset, Timestamp, TopicId};

use super::{
    Health, Log, LogConfig, Progress, StoredEpochs,
    epochs::Epochs,
    errors::ReadError,
    listing::Listing,
    partition_state::{PartitionState, Source},
    producer_snapshot::{RECOVERY_FILE, RecoveryState, decode_snapshot},
    producers::Producers,
    remove_if_there,
    scan::Scan,
    segment::Loss,
    state_file::read_file,
    units::FileKind,
    walk::{HeaderWalk, Located, WalkError},
};
use crate::{error::StorageError, fs::FileSystem};

/// What the data directory remembers of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryHint {
    /// From `recovery-point-offset-checkpoint`; 0 if it is not there.
    pub recovery_point: Offset,
    /// From `log-start-offset-checkpoint`; 0 if it is not there. Counts only where
    /// `partition.state` does not tell.
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
    /// The same as offsets: from the first that cannot be read to the next good one.
    pub damaged: Vec<Range<Offset>>,
    /// What a repair took out, of which nothing was put back since. Reads of it give
    /// [`super::ReadError::Removed`].
    pub removed: Vec<Range<Offset>>,
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
        let files = file_system.as_ref();
        let mut report = RecoveryReport::default();
        let listing = Listing::take(files, directory)?;
        let state = match &listing {
            Some(_) => PartitionState::load(files, directory)?,
            None => None,
        };
        if let Some((state, _)) = &state
            && state.topic_id != topic_id
        {
            let reason = format!(
                "it belongs to topic {}, not to {topic_id}: move it out of the data directory",
                state.topic_id
            );
            return Err(StorageError::damaged(directory, reason));
        }
        let stored = state.as_ref().map(|(state, _)| state);
        let log_start = start_of(state.as_ref(), &hint);
        let mut hint = hint;
        if hint.recovery_point <= log_start {
            // It speaks of what is gone. The batch that holds the start may have come later, whole.
            hint.recovery_point = Offset::ZERO;
        }
        let resume = match &listing {
            Some(_) => load_recovery_state(files, directory, now)?,
            None => None,
        };
        let listing = listing.unwrap_or_default();
        let scan = Scan {
            files,
            directory,
            config: &config,
            hint: &hint,
            now,
            mark: resume.as_ref().map(|state| state.index),
            epochs: stored.map_or_else(Epochs::default, |state| state.epochs.clone()),
            source: state.as_ref().map(|(_, source)| *source),
            report: &mut report,
        };
        let scanned = scan.run(&listing.segments)?;
        let mut log = Self {
            files: Arc::clone(&file_system),
            directory: directory.to_path_buf(),
            topic_id,
            config,
            start: Offset::ZERO,
            end: scanned.end,
            durable: scanned.end,
            sealed: scanned.sealed,
            active: scanned.active,
            epochs: scanned.epochs,
            producers: Producers::default(),
            loaded: Mutex::default(),
            health: Health::Online,
            progress: Progress::default(),
        };
        log.begin_at(log_start)?;
        log.settle_epochs(state.as_ref().map(|(state, source)| (state, *source)))?;
        log.drop_stale(&listing, resume.as_ref())?;
        log.restore_producers(resume, now)?;
        log.progress.checkpointed = hint.recovery_point.min(log.end);
        log.progress.reached = Arc::new(AtomicI64::new(log.progress.checkpointed.0));
        report.removed = log.removed(&listing.repaired)?;
        Ok((log, report))
    }

    /// What is missing behind the segments that begin at `repaired`.
    fn removed(&self, repaired: &[Offset]) -> Result<Vec<Range<Offset>>, StorageError> {
        let mut removed = Vec::new();
        for segment in &self.sealed {
            if segment.end <= self.start || !repaired.contains(&segment.base) {
                continue;
            }
            let interval = self.config.index_interval_bytes;
            let loaded = segment.load(self.files.as_ref(), &self.directory, interval)?;
            let gone = loaded.damage.iter().filter(|it| it.loss == Loss::Removed);
            removed.extend(gone.map(|it| it.offsets.clone()));
        }
        Ok(removed)
    }

    /// Moves the start to where it was, or where the oldest segment begins.
    fn begin_at(&mut self, start: Offset) -> Result<(), StorageError> {
        self.start = start.max(self.oldest_base().unwrap_or(Offset::ZERO));
        if self.start > self.end {
            // The start was durable, what lay in front of it was not: nothing is left.
            self.drop_segments_from(Offset::ZERO)?;
            (self.end, self.durable) = (self.start, self.start);
        } else if self.oldest_base().is_none() {
            (self.end, self.durable) = (self.start, self.start);
        }
        Ok(())
    }

    /// Drops epochs that begin at or behind the end, takes up those that only the log knows, and
    /// makes that durable if it is not what the files say.
    fn settle_epochs(
        &mut self,
        stored: Option<(&PartitionState, Source)>,
    ) -> Result<(), StorageError> {
        if self.oldest_base().is_none() {
            self.epochs = Epochs::default();
            return Ok(());
        }
        if stored.is_none() {
            let mut epochs = Epochs::default();
            self.for_each_header(self.start, |batch| {
                let epoch = batch.header.leader_epoch();
                if epochs.latest().is_none_or(|latest| latest < epoch) {
                    epochs.assign(epoch, batch.header.base_offset());
                }
            })?;
            self.epochs = epochs;
        }
        self.epochs.truncate_to(self.end);
        // An entry that begins at the end or behind it may stay in the file: it is dropped again by
        // whoever reads it before an append, and an append writes the file anew.
        if let Some((state, Source::Protected)) = stored {
            let mut known = state.epochs.clone();
            let names_more = known.truncate_to(self.end);
            if known == self.epochs {
                if names_more {
                    self.progress.stored_epochs = StoredEpochs::NotAsHere;
                }
                return Ok(());
            }
        }
        match self.store_state(&self.epochs, self.start) {
            Err(error) if error.is_full() => {
                self.progress.stored_epochs = StoredEpochs::NotAsHere;
                Ok(())
            }
            result => result,
        }
    }

    /// Removes what tells of offsets that are not in the log: once the log has grown over them with
    /// other batches, it would be believed.
    fn drop_stale(
        &mut self,
        listing: &Listing,
        resume: Option<&RecoveryState>,
    ) -> Result<(), StorageError> {
        let files = self.files.as_ref();
        let mut removed = false;
        let newest = listing.snapshots.iter().rfind(|at| **at <= self.end);
        for at in &listing.snapshots {
            let is_base = self.sealed.iter().any(|segment| segment.base == *at)
                || self
                    .active
                    .as_ref()
                    .is_some_and(|active| active.base == *at);
            if *at > self.end || !(is_base || Some(at) == newest) {
                let path = FileKind::Snapshot.path(&self.directory, *at);
                removed |= remove_if_there(files, &path)?;
            }
        }
        if resume.is_some_and(|state| state.end > self.end) {
            removed |= remove_if_there(files, &self.directory.join(RECOVERY_FILE))?;
        }
        if removed {
            files.sync_directory(&self.directory)?;
        }
        Ok(())
    }

    /// The producers as of the log end: from our file and the headers behind it. Without it, from
    /// all headers, as Kafka's snapshots hold only one batch of the five; the oldest segment's
    /// tells what was before.
    pub(super) fn restore_producers(
        &mut self,
        resume: Option<RecoveryState>,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        let Some(oldest) = self.oldest_base() else {
            return Ok(());
        };
        let usable = |at: Offset| oldest <= at && at <= self.end;
        let (mut from, mut producers) = (oldest, Producers::default());
        if let Some(state) = resume.filter(|state| usable(state.end)) {
            (from, producers) = (state.end, state.producers);
        } else {
            let path = FileKind::Snapshot.path(&self.directory, oldest);
            let bytes = read_file(self.files.as_ref(), &path)?;
            if let Some(found) = bytes.and_then(|bytes| decode_snapshot(bytes, now)) {
                producers = found;
            }
        }
        self.for_each_header(from, |batch| producers.note(&batch.header, now))?;
        self.producers = producers;
        Ok(())
    }

    /// Every batch from the one that begins at `from` on, by its header; damaged ones are left out.
    pub(super) fn for_each_header(
        &self,
        from: Offset,
        mut take: impl FnMut(&Located),
    ) -> Result<(), StorageError> {
        let mut next = from;
        for place in self.places_from(from) {
            let place = place?;
            next = next.max(place.base);
            while next < place.end {
                let first = match self.locate(&place, next) {
                    Ok(batch) => batch,
                    Err(
                        ReadError::Corrupt { next_good, .. }
                        | ReadError::Removed {
                            next: next_good, ..
                        },
                    ) if next_good > next => {
                        next = next_good;
                        continue;
                    }
                    Err(ReadError::Storage(error)) => return Err(error),
                    Err(_) => break,
                };
                let base = Some(first.header.base_offset());
                let mut walk = HeaderWalk::new(place.file, first.position, place.size, base);
                walk = walk.cold();
                while walk.expected().is_some_and(|expected| expected < place.end) {
                    match walk.next() {
                        Ok(Some(batch)) => take(&batch),
                        Ok(None) | Err(WalkError::Broken { .. }) => break,
                        Err(WalkError::Fs(error)) => return Err(error.into()),
                    }
                }
                let reached = walk.expected().unwrap_or(place.end);
                if reached <= next {
                    break;
                }
                next = reached;
            }
        }
        Ok(())
    }
}

/// Where the log starts. The protected file is written whenever the start moves within a segment,
/// so it is newer than what the directory remembers.
fn start_of(state: Option<&(PartitionState, Source)>, hint: &RecoveryHint) -> Offset {
    match state {
        Some((state, Source::Protected)) => state.log_start,
        Some((state, Source::Outdated)) => state.log_start.max(hint.log_start),
        _ => hint.log_start,
    }
}

/// What a checkpoint wrote down of the active index and the producers.
pub(super) fn load_recovery_state(
    files: &dyn FileSystem,
    directory: &Path,
    now: Timestamp,
) -> Result<Option<RecoveryState>, StorageError> {
    let bytes = read_file(files, &directory.join(RECOVERY_FILE))?;
    Ok(bytes.and_then(|bytes| RecoveryState::decode(bytes, now)))
}
