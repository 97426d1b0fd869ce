//! Appending.
//!
//! *Pattern: write-ahead log.* *Pattern: idempotent receiver.*
//!
//! Every check comes before the first byte is written, so a refused batch leaves no trace.

use std::path::Path;

use strandline_core::mutants::{self, Mutant};
use strandline_protocol::{
    LeaderEpoch, Offset, Timestamp,
    batch::{BatchError, BatchHeader, BatchView, HEADER_BYTES, TimestampType, split_batches},
};

use super::{
    Log, StoredEpochs,
    active::Incoming,
    epochs::Epochs,
    errors::AppendError,
    hole,
    producers::{BatchMark, Decision},
    units::{FileKind, to_u64},
};
use crate::error::StorageError;

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The offset of the first record.
    pub base_offset: Offset,
    /// The offset behind the last record: what must become durable before it is acknowledged.
    pub end_offset: Offset,
    /// Whether the batch was there already, and these are the offsets that it got the first time.
    pub duplicate: bool,
    /// The broker's time on the records, where the topic has `LogAppendTime`.
    pub log_append_time: Option<Timestamp>,
}

impl Log {
    /// Appends the one batch that `batch` is, as its leader in `leader_epoch`: checks it, decides
    /// by its producer's window whether it is new, and stamps offset, epoch and, if the topic wants
    /// that, the time. Costs one pass over the bytes for the CRC and one copy; does not wait for
    /// the disk but at the first append of an epoch and at a roll.
    ///
    /// The batch can be read at once, and is durable once [`Log::durable`] has reached
    /// [`Appended::end_offset`]. A duplicate may not be durable yet either.
    ///
    /// # Errors
    /// [`AppendError`] says why nothing was appended. After [`AppendError::Storage`] the batch may
    /// lie in the file all the same, where a recovery finds it, and the log refuses everything;
    /// take the data directory offline.
    pub fn append(
        &mut self,
        batch: &[u8],
        leader_epoch: LeaderEpoch,
        now: Timestamp,
    ) -> Result<Appended, AppendError> {
        self.check_online()?;
        let view = BatchView::exactly(batch)?;
        view.check_produced()?;
        self.check_bounds(&view, now)?;
        view.check_crc()?;
        self.check_epoch(leader_epoch)?;
        if let Decision::Duplicate(mark) = self.producers.decide(view.header())? {
            return Ok(self.duplicate(&mark));
        }
        let header = self.stamped(&view, leader_epoch, now);
        self.begin_epoch(leader_epoch)?;
        self.place(&header, view.stored_records(), now)?;
        self.producers.note(&header, now);
        Ok(Appended {
            base_offset: header.base_offset(),
            end_offset: self.end,
            duplicate: false,
            log_append_time: self.log_append_time(header.max_timestamp()),
        })
    }

    /// Appends batches that a leader has placed already, exactly as they are: each must begin where
    /// the one before ended, the first at [`Log::end`], and epochs must neither decrease nor exceed
    /// `leader_epoch`. Nothing is appended unless all of them are good.
    ///
    /// The first batch of a log that is empty may begin before its start, if it holds that: the
    /// start of the leader's log may lie within a batch, and batches are copied whole.
    ///
    /// # Errors
    /// As [`Log::append`]. If the disk is full, the first of them may be in the log: [`Log::end`]
    /// tells.
    pub fn append_replicated(
        &mut self,
        batches: &[u8],
        leader_epoch: LeaderEpoch,
        now: Timestamp,
    ) -> Result<Appended, AppendError> {
        self.check_online()?;
        let base_offset = self.first_base(batches);
        self.check_replicated(batches, base_offset, leader_epoch)?;
        if base_offset < self.end {
            self.begin_before(base_offset, now)?;
        }
        let appended = self.place_all(batches, now);
        if self.end < self.start {
            // Not even the first of them.
            (self.end, self.durable) = (self.start, self.start);
        }
        appended?;
        Ok(Appended {
            base_offset,
            end_offset: self.end,
            duplicate: false,
            log_append_time: None,
        })
    }

    /// Makes (`epoch`, log end) durable ahead of the first append of a leader, so that this does
    /// not wait for the disk. Does nothing for an epoch that is known.
    ///
    /// # Errors
    /// As [`Log::append`]; nothing has changed if the disk is full, and the first append does it.
    pub fn lead_in(&mut self, epoch: LeaderEpoch) -> Result<(), AppendError> {
        self.check_online()?;
        self.check_epoch(epoch)?;
        self.begin_epoch(epoch)
    }

    /// Leaves out the offsets from the log end up to `to`: the leader's log goes on there, as a
    /// repair took out what lay between, and nobody has it. The next batch begins at `to`, in a new
    /// segment. Waits for the disk.
    ///
    /// # Errors
    /// As [`Log::append`]; on a full disk nothing of the log has changed.
    pub fn leave_out(&mut self, to: Offset, now: Timestamp) -> Result<(), AppendError> {
        self.check_online()?;
        if to <= self.end {
            return Ok(());
        }
        self.flush()?;
        if self.active.is_none() {
            self.roll(0, now)?;
        }
        let active = self
            .active
            .as_ref()
            .ok_or_else(|| no_segment(&self.directory))?;
        let path = FileKind::Log.path(&self.directory, active.base);
        if let Err(error) = hole::declare(self.files.as_ref(), &path) {
            return Err(self.failed(error).into());
        }
        let end = std::mem::replace(&mut self.end, to);
        if let Err(error) = self.roll(0, now) {
            self.end = end;
            return Err(error.into());
        }
        self.durable = to;
        Ok(())
    }

    fn place_all(&mut self, batches: &[u8], now: Timestamp) -> Result<(), AppendError> {
        for batch in split_batches(batches) {
            let view = batch?;
            self.follow_epoch(view.header().leader_epoch())?;
            self.place(view.header(), view.stored_records(), now)?;
            if !mutants::is_active(Mutant::DuplicateAcceptedAfterFailover) {
                self.producers.note(view.header(), now);
            }
        }
        Ok(())
    }

    /// Where the first batch of a leader has to begin.
    fn first_base(&self, batches: &[u8]) -> Offset {
        let first = split_batches(batches).next().and_then(Result::ok);
        let Some(header) = first.as_ref().map(BatchView::header) else {
            return self.end;
        };
        let base = header.base_offset();
        let holds_start = Offset::ZERO <= base && base < self.end && self.end < header.end_offset();
        if self.start == self.end && holds_start {
            base
        } else {
            self.end
        }
    }

    /// An empty log is about to begin with a batch that begins at `base`, before its start. What
    /// lies in front of the start is no part of the log any more, and makes room.
    fn begin_before(&mut self, base: Offset, now: Timestamp) -> Result<(), StorageError> {
        if self.oldest_base().is_some() {
            self.restart_at(self.start, now)?;
        }
        (self.end, self.durable) = (base, base);
        Ok(())
    }

    /// Takes room for a batch of up to `bytes` ahead of its append, in a new segment if it belongs
    /// into one: whatever happens to the disk's free space, the next append of so much finds room.
    /// For a caller whose append must not fail because of a full disk.
    ///
    /// # Errors
    /// As [`Log::append`]; nothing of the log has changed if the disk is full.
    pub fn reserve(&mut self, bytes: usize, now: Timestamp) -> Result<(), AppendError> {
        self.check_online()?;
        let incoming = Incoming {
            bytes: to_u64(bytes),
            last_offset: self.end,
            max_timestamp: now,
        };
        Ok(self.make_room(&incoming, now)?)
    }

    /// Size and time of what a client sent, against the topic's configuration.
    fn check_bounds(&self, view: &BatchView<'_>, now: Timestamp) -> Result<(), AppendError> {
        let (bytes, bytes_max) = (view.bytes().len(), self.config.max_message_bytes);
        if bytes > bytes_max {
            return Err(AppendError::TooLarge { bytes, bytes_max });
        }
        if self.config.timestamp_type == TimestampType::LogAppendTime {
            return Ok(());
        }
        let (base, max) = (
            view.header().base_timestamp(),
            view.header().max_timestamp(),
        );
        let behind = now.0.saturating_sub(base.0);
        let ahead = max.0.saturating_sub(now.0);
        // Records without a time (-1) are as old as they like.
        let timestamp = if base.0 >= 0 && behind > self.config.timestamp_before_max_ms {
            base
        } else if ahead > self.config.timestamp_after_max_ms {
            max
        } else {
            return Ok(());
        };
        Err(AppendError::Timestamp { timestamp, now })
    }

    fn check_epoch(&self, epoch: LeaderEpoch) -> Result<(), AppendError> {
        match self.epochs.latest() {
            Some(current) if epoch < current => Err(AppendError::LeaderEpoch { epoch, current }),
            _ => Ok(()),
        }
    }

    /// Every batch that a leader sent, before the first one is appended.
    fn check_replicated(
        &self,
        batches: &[u8],
        base: Offset,
        leader_epoch: LeaderEpoch,
    ) -> Result<(), AppendError> {
        let mut end = base;
        let mut current = self.last_batch_epoch().unwrap_or(LeaderEpoch::NONE);
        for batch in split_batches(batches) {
            let view = batch?;
            view.check_crc()?;
            let header = view.header();
            let (base_offset, epoch) = (header.base_offset(), header.leader_epoch());
            if header.last_offset_delta().checked_add(1) != Some(header.record_count()) {
                // What cannot be read again must not be taken in.
                let reason = "the number of records is not the last offset delta and one";
                return Err(BatchError::BadHeader { reason }.into());
            }
            if base_offset != end || header.last_offset_delta() < 0 {
                let log_end = end;
                return Err(AppendError::NotAtLogEnd {
                    base_offset,
                    log_end,
                });
            }
            if epoch < current {
                return Err(AppendError::LeaderEpoch { epoch, current });
            }
            if epoch > leader_epoch {
                let current = leader_epoch;
                return Err(AppendError::LeaderEpoch { epoch, current });
            }
            (end, current) = (header.end_offset(), epoch);
        }
        Ok(())
    }

    fn duplicate(&self, mark: &BatchMark) -> Appended {
        Appended {
            base_offset: mark.base_offset(),
            end_offset: mark.last_offset.plus(1),
            duplicate: true,
            log_append_time: self.log_append_time(mark.timestamp),
        }
    }

    fn log_append_time(&self, max_timestamp: Timestamp) -> Option<Timestamp> {
        (self.config.timestamp_type == TimestampType::LogAppendTime).then_some(max_timestamp)
    }

    /// The header as it goes to disk.
    fn stamped(&self, view: &BatchView<'_>, epoch: LeaderEpoch, now: Timestamp) -> BatchHeader {
        let header = view.header().with_position(self.end, epoch);
        match self.config.timestamp_type {
            TimestampType::CreateTime => header,
            TimestampType::LogAppendTime => {
                let attributes = header.attributes();
                header
                    .with_attributes(attributes.with_timestamp_type(TimestampType::LogAppendTime))
                    .with_timestamps(header.base_timestamp(), now)
                    .with_crc(view.stored_records())
            }
        }
    }

    /// Makes (epoch, log end) durable before the first batch of an epoch: otherwise a leader that
    /// loses its tail could give one epoch and offset to other bytes.
    fn begin_epoch(&mut self, epoch: LeaderEpoch) -> Result<(), AppendError> {
        if self.epochs.latest().is_some_and(|latest| latest >= epoch) {
            return self.store_epochs_if_others();
        }
        let mut epochs = self.epochs.clone();
        epochs.assign(epoch, self.end);
        self.store_epochs(epochs)
    }

    /// The same for a batch of another leader. What begins at the log end then is an epoch in which
    /// this replica led and wrote nothing: the leader's log knows better which one goes on there.
    fn follow_epoch(&mut self, epoch: LeaderEpoch) -> Result<(), AppendError> {
        if self.epochs.latest() == Some(epoch) {
            return self.store_epochs_if_others();
        }
        let mut epochs = self.epochs.clone();
        epochs.truncate_to(self.end);
        if epochs.latest() != Some(epoch) {
            epochs.assign(epoch, self.end);
        }
        self.store_epochs(epochs)
    }

    /// What the recovery has dropped must not be in the file any more when a batch lies there: the
    /// next one would take that batch for torn.
    fn store_epochs_if_others(&mut self) -> Result<(), AppendError> {
        match self.progress.stored_epochs {
            StoredEpochs::AsHere => Ok(()),
            StoredEpochs::NotAsHere => self.store_epochs(self.epochs.clone()),
        }
    }

    fn store_epochs(&mut self, epochs: Epochs) -> Result<(), AppendError> {
        self.create_directory()
            .and_then(|()| self.store_state(&epochs, self.start))
            .map_err(|error| self.failed(error))?;
        self.epochs = epochs;
        self.progress.stored_epochs = StoredEpochs::AsHere;
        Ok(())
    }

    /// Writes a batch whose header says where it goes. Publishes it last: nothing fails after it,
    /// and the caller notes what it tells of its producer.
    fn place(
        &mut self,
        header: &BatchHeader,
        records: &[u8],
        now: Timestamp,
    ) -> Result<(), AppendError> {
        let bytes = to_u64(HEADER_BYTES.saturating_add(records.len()));
        let incoming = Incoming {
            bytes,
            last_offset: header.last_offset(),
            max_timestamp: header.max_timestamp(),
        };
        let room = self.make_room(&incoming, now);
        if room.is_err() && mutants::is_active(Mutant::FailedAppendKeepsProducerState) {
            self.producers.note(header, now);
        }
        room?;
        let active = self
            .active
            .as_mut()
            .ok_or_else(|| no_segment(&self.directory))?;
        if active.size == 0 {
            active.opened_at = now;
        }
        if let Err(error) = active.write(header, records) {
            return Err(self.failed(error).into());
        }
        self.end = header.end_offset();
        self.progress.is_dirty = true;
        self.progress.bytes_since_checkpoint =
            self.progress.bytes_since_checkpoint.saturating_add(bytes);
        Ok(())
    }

    /// Room for the batch in the active segment, which may be a new one.
    fn make_room(&mut self, incoming: &Incoming, now: Timestamp) -> Result<(), StorageError> {
        let is_full = self
            .active
            .as_ref()
            .is_none_or(|active| active.is_full_for(incoming, &self.config));
        if is_full {
            return self.roll(incoming.bytes, now);
        }
        let Some(active) = self.active.as_ref() else {
            return Ok(());
        };
        match active.make_room(incoming.bytes, &self.config) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }
}

fn no_segment(directory: &Path) -> StorageError {
    StorageError::damaged(directory, "there is no active segment: restart the broker")
}
