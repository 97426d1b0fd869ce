//! Cutting the log where it diverged from its leader's.
//!
//! What is cut is zeroed and not shortened, as readers may still have views of it; the log then
//! goes on in a new segment. Recovery ends a segment where its successor begins.

use std::sync::atomic::Ordering;

use strandline_core::mutants::{self, Mutant};
use strandline_protocol::{Offset, Timestamp};

use super::{
    Log,
    active::Active,
    errors::ReadError,
    listing::Listing,
    producer_snapshot::{RECOVERY_FILE, encode_snapshot},
    producers::Producers,
    recovery::load_recovery_state,
    remove_if_there,
    retention::rename_away,
    segment::Segment,
    state_file::replace_hint,
    units::FileKind,
};
use crate::error::StorageError;

impl Log {
    /// Cuts the log so that it ends at `offset`, or before it if that lies inside of a batch;
    /// returns where it ends. What was cut is gone durably when this returns, its epochs and
    /// producers' batches too. For a replica that diverged from its leader.
    ///
    /// The recovery point that the data directory has on disk must not be above what this returns,
    /// or the next start takes what was cut for damage: lower it durably before, to where the batch
    /// that holds `offset` begins, which may lie below the log start. No [`super::CheckpointJob`]
    /// may be running: it would write down producers that are cut.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn truncate_to(&mut self, offset: Offset, now: Timestamp) -> Result<Offset, StorageError> {
        self.check_online()?;
        if offset >= self.end {
            return Ok(self.end);
        }
        let result = self.cut_at(offset.max(self.start), now);
        if result.is_err() {
            // Half cut is not a state to go on from.
            self.take_offline();
        }
        result
    }

    /// Where a cut at `offset` ends the log at the latest, and so how far the recovery point has to
    /// be lowered before it: where the batch that holds `offset` begins. Reads a few headers.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn cut_target(&self, offset: Offset) -> Result<Offset, StorageError> {
        self.check_online()?;
        if offset >= self.end {
            return Ok(self.end);
        }
        let offset = offset.max(self.start);
        let Some(place) = self.place_of(offset)? else {
            return Ok(offset);
        };
        match self.locate(&place, offset) {
            Ok(batch) => Ok(batch.header.base_offset()),
            Err(ReadError::Storage(error)) => Err(error),
            // What is damaged is passed over in larger steps.
            Err(_) => Ok(place.base),
        }
    }

    fn cut_at(&mut self, offset: Offset, now: Timestamp) -> Result<Offset, StorageError> {
        // What was written down of producers holds still if it is of an earlier time than the cut.
        let written = load_recovery_state(self.files.as_ref(), &self.directory, now)?;
        self.prepare_cut()?;
        self.drop_segments_from(offset)?;
        let end = self.cut_within(offset)?;
        self.end = end;
        self.durable = self.durable.min(end);
        self.start = self.start.min(end);
        self.progress.cuts = self.progress.cuts.saturating_add(1);
        self.progress.checkpointed = self.progress.checkpointed.min(end);
        self.progress.reached.fetch_min(end.0, Ordering::Relaxed);
        self.progress.is_dirty = true;
        self.epochs.truncate_to(end);
        self.store_state(&self.epochs, self.start)?;
        let files = self.files.as_ref();
        let listing = Listing::take(files, &self.directory)?.unwrap_or_default();
        for at in listing.snapshots.iter().filter(|at| **at > end) {
            remove_if_there(files, &FileKind::Snapshot.path(&self.directory, *at))?;
        }
        files.sync_directory(&self.directory)?;
        self.producers = Producers::default();
        self.restore_producers(written.filter(|state| state.end <= end), now)?;
        let snapshot = FileKind::Snapshot.path(&self.directory, end);
        replace_hint(
            self.files.as_ref(),
            &snapshot,
            &encode_snapshot(&self.producers),
        )?;
        self.active = Some(Active::create(
            self.files.as_ref(),
            &self.directory,
            end,
            0,
            &self.config,
            now,
        )?);
        Ok(end)
    }

    /// Durable before the first byte goes: a start would take the log to be whole up to where the
    /// recovery file says; and where no segment is left, only the state tells where the log starts,
    /// which retention and a crash leave to the name of the oldest segment.
    fn prepare_cut(&self) -> Result<(), StorageError> {
        if !mutants::is_active(Mutant::ProducerSnapshotStaleAfterTruncation) {
            remove_if_there(self.files.as_ref(), &self.directory.join(RECOVERY_FILE))?;
        }
        self.store_state(&self.epochs, self.start)
    }

    /// Removes the segments that begin at `offset` or behind it, the youngest first.
    pub(super) fn drop_segments_from(&mut self, offset: Offset) -> Result<(), StorageError> {
        let (files, directory) = (self.files.as_ref(), &self.directory);
        let mut bases = Vec::new();
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.base >= offset)
        {
            bases.extend(self.active.take().map(|active| active.base));
        }
        while self
            .sealed
            .back()
            .is_some_and(|segment| segment.base >= offset)
        {
            bases.extend(self.sealed.pop_back().map(|segment| segment.base));
        }
        for base in bases {
            for path in rename_away(files, directory, base)? {
                remove_if_there(files, &path)?;
            }
        }
        Ok(())
    }

    /// Zeroes what lies at `offset` and behind it in the last segment that is left, and closes it.
    /// Returns where the log ends.
    fn cut_within(&mut self, offset: Offset) -> Result<Offset, StorageError> {
        if let Some(active) = self.active.take() {
            let size = active.size;
            let segment = Segment::new(active.base, self.end, active.file, size);
            self.sealed.push_back(segment);
        }
        let Some(last) = self.sealed.back() else {
            return Ok(offset);
        };
        if last.end <= offset {
            return Ok(last.end);
        }
        let interval = self.config.index_interval_bytes;
        last.reload(self.files.as_ref(), &self.directory, interval)?;
        let place = self.place_in(last)?;
        let Some(batch) = place.find(offset)? else {
            let reason = format!("offset {offset} cannot be found in it: restore the partition");
            return Err(StorageError::damaged(&self.directory, reason));
        };
        let (position, end) = (batch.position, batch.header.base_offset());
        let (base, file) = (last.base, last.file.clone());
        if !mutants::is_active(Mutant::TruncationLeavesBytes) {
            file.zero(position..file.size())?;
        }
        file.sync()?;
        self.sealed.pop_back();
        if position == 0 {
            // Nothing is left of it; the next segment has its name.
            for path in rename_away(self.files.as_ref(), &self.directory, base)? {
                remove_if_there(self.files.as_ref(), &path)?;
            }
            return Ok(end);
        }
        for kind in [FileKind::Index, FileKind::TimeIndex] {
            remove_if_there(self.files.as_ref(), &kind.path(&self.directory, base))?;
        }
        self.sealed
            .push_back(Segment::new(base, end, file, position));
        Ok(end)
    }
}
