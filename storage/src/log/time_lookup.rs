//! Finding offsets by time.

use strandline_protocol::{
    LeaderEpoch, Offset, Timestamp,
    batch::{BatchView, TimestampType},
};

use super::{
    Log,
    errors::ReadError,
    place::Place,
    time_index::TimeEntry,
    walk::{HeaderWalk, Located, WalkError},
};
use crate::error::StorageError;

/// A record that was found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampedOffset {
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Its offset.
    pub offset: Offset,
    /// The epoch of the leader that appended it.
    pub leader_epoch: LeaderEpoch,
}

impl Log {
    /// The first record below `end` whose timestamp is `timestamp` or later. May read a few
    /// batches, so it may wait for the disk.
    ///
    /// # Errors
    /// If what is there is damaged; if the disk fails.
    pub fn offset_for_time(
        &self,
        timestamp: Timestamp,
        end: Offset,
    ) -> Result<Option<TimestampedOffset>, ReadError> {
        self.check_online()?;
        let end = end.min(self.end);
        for place in self.places_from(self.start) {
            let place = place?;
            if place.base >= end {
                break;
            }
            if self.is_too_old(&place, timestamp) {
                continue;
            }
            if let Some(found) = self.search(&place, timestamp, end)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The largest timestamp of any record, and the last offset of the batch that has it; none if
    /// no record has one.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn max_timestamp(&self) -> Result<Option<(Timestamp, Offset)>, StorageError> {
        let mut newest: Option<(Timestamp, Offset)> = None;
        for place in self.places_from(self.start) {
            let found = self.newest_in(&place?);
            if let Some((timestamp, _)) = found
                && newest.is_none_or(|(known, _)| timestamp > known)
            {
                newest = found;
            }
        }
        Ok(newest)
    }

    /// The largest timestamp of a segment, and the last offset of the batch that has it.
    fn newest_in(&self, place: &Place<'_>) -> Option<(Timestamp, Offset)> {
        match &self.active {
            Some(active) if active.base == place.base => active.indexes.max_timestamp(),
            _ => {
                let last = place.times().last()?;
                let offset = place.base.plus(i64::from(last.last_offset_delta));
                Some((last.timestamp, offset))
            }
        }
    }

    fn is_too_old(&self, place: &Place<'_>, timestamp: Timestamp) -> bool {
        // Records without a time count as -1.
        let newest = self
            .newest_in(place)
            .map_or(Timestamp::NONE, |(newest, _)| newest);
        newest < timestamp
    }

    /// The first record of a segment that is young enough.
    fn search(
        &self,
        place: &Place<'_>,
        timestamp: Timestamp,
        end: Offset,
    ) -> Result<Option<TimestampedOffset>, ReadError> {
        // Whatever is young enough lies behind the last entry that is too old.
        let entry = place.times().before(timestamp);
        let from = entry.map_or(place.base, |entry| {
            place.base.plus(i64::from(entry.last_offset_delta))
        });
        let least = place.base.max(self.start);
        if from.max(least) >= place.end {
            return Ok(None);
        }
        let mut first = match self.locate(place, from.max(least)) {
            // Nothing of the segment is left.
            Err(ReadError::Removed { .. }) => return Ok(None),
            located => located?,
        };
        let is_hint = |it: &TimeEntry| it.timestamp == first.header.max_timestamp();
        if from > least && !entry.as_ref().is_some_and(is_hint) {
            // The entry leads astray: from the beginning, then.
            first = self.locate(place, least)?;
        }
        let expected = Some(first.header.base_offset());
        let mut walk = HeaderWalk::new(place.file, first.position, place.size, expected);
        while walk.expected().is_some_and(|next| next < place.end) {
            let batch = match walk.next() {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                Err(WalkError::Broken { .. }) => {
                    // Says what is wrong there.
                    let at = walk.expected().unwrap_or(least);
                    self.locate(place, at)?;
                    break;
                }
                Err(WalkError::Fs(error)) => return Err(StorageError::from(error).into()),
            };
            if batch.header.base_offset() >= end {
                break;
            }
            if batch.header.max_timestamp() < timestamp {
                continue;
            }
            if let Some(found) = self.search_batch(place, &batch, timestamp, end)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The first record of a batch that is young enough.
    fn search_batch(
        &self,
        place: &Place<'_>,
        batch: &Located,
        timestamp: Timestamp,
        end: Offset,
    ) -> Result<Option<TimestampedOffset>, ReadError> {
        let header = &batch.header;
        let found = |offset: Offset, timestamp: Timestamp| TimestampedOffset {
            timestamp,
            offset,
            leader_epoch: header.leader_epoch(),
        };
        if header.attributes().timestamp_type() == TimestampType::LogAppendTime {
            let offset = header.base_offset().max(self.start);
            return Ok(Some(found(offset, header.max_timestamp())));
        }
        let range = batch.position..batch.end();
        place
            .file
            .populate(range.clone())
            .map_err(StorageError::from)?;
        let bytes = place.file.view(range).map_err(StorageError::from)?;
        let mut scratch = Vec::new();
        let corrupt = |error: strandline_protocol::batch::BatchError| ReadError::Corrupt {
            offset: header.base_offset(),
            next_good: header.end_offset(),
            reason: error.to_string(),
        };
        let view = BatchView::exactly(&bytes).map_err(corrupt)?;
        view.check_crc().map_err(corrupt)?;
        for record in view.records(&mut scratch).map_err(corrupt)? {
            let record = record.map_err(corrupt)?;
            if record.offset >= self.start && record.offset < end && record.timestamp >= timestamp {
                return Ok(Some(found(record.offset, record.timestamp)));
            }
        }
        Ok(None)
    }
}
