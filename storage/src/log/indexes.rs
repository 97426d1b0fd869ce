//! The indexes of a segment while they grow: which batches get an entry.
//!
//! The rule is Kafka's (`LogSegment.append`), so that its own tool finds what it expects: before a
//! batch is accounted for, and if more than `index.interval.bytes` lie behind the last entry, the
//! batch gets one; the time index then gets one too if there is a larger timestamp than its last.
//! The first batch of a segment thus never has an entry. When the segment is closed, the time index
//! gets a final entry.

use strandline_protocol::{Offset, Timestamp, batch::BatchHeader};

use super::{
    offset_index::{OffsetEntry, OffsetIndex},
    time_index::{TimeEntry, TimeIndex},
};

/// Both indexes of one segment, in memory, as they will be in the files.
#[derive(Clone, Debug, Default)]
pub struct Indexes {
    base: Offset,
    interval_bytes: u64,
    offsets: Vec<u8>,
    times: Vec<u8>,
    bytes_since_entry: u64,
    first_timestamp: Option<Timestamp>,
    max_timestamp: Option<(Timestamp, Offset)>,
}

impl Indexes {
    /// Empty ones, for a segment that begins at `base`.
    #[must_use]
    pub fn new(base: Offset, interval_bytes: u32) -> Self {
        Self {
            base,
            interval_bytes: u64::from(interval_bytes),
            ..Self::default()
        }
    }

    /// Those that were written when the last offset entry had just been made. The batch of that
    /// entry, and those behind it, are to be noted again by [`Indexes::note`].
    #[must_use]
    pub fn resume(base: Offset, interval_bytes: u32, offsets: Vec<u8>, times: Vec<u8>) -> Self {
        let max_timestamp = TimeIndex::new(&times).last().map(|entry| {
            (
                entry.timestamp,
                base.plus(i64::from(entry.last_offset_delta)),
            )
        });
        Self {
            base,
            interval_bytes: u64::from(interval_bytes),
            offsets,
            times,
            max_timestamp,
            ..Self::default()
        }
    }

    /// Accounts for a batch that begins at `position`. Returns whether it got an entry.
    pub fn note(&mut self, header: &BatchHeader, position: u64, bytes: u64) -> bool {
        let (max, last_offset) = (header.max_timestamp(), header.last_offset());
        if max.0 >= 0 && self.max_timestamp.is_none_or(|(known, _)| max > known) {
            self.max_timestamp = Some((max, last_offset));
        }
        if self.first_timestamp.is_none() {
            self.first_timestamp = Some(max);
        }
        let indexed =
            self.bytes_since_entry > self.interval_bytes && self.push_offset(last_offset, position);
        if indexed {
            self.push_time();
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry = self.bytes_since_entry.saturating_add(bytes);
        indexed
    }

    /// Adds the final entry of the time index.
    pub fn finish(&mut self) {
        self.push_time();
    }

    /// The offset index, as in its file.
    #[must_use]
    pub fn offsets(&self) -> &[u8] {
        &self.offsets
    }

    /// The time index, as in its file.
    #[must_use]
    pub fn times(&self) -> &[u8] {
        &self.times
    }

    /// The larger of both sizes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.offsets.len().max(self.times.len())
    }

    /// The timestamp of the first batch.
    #[must_use]
    pub const fn first_timestamp(&self) -> Option<Timestamp> {
        self.first_timestamp
    }

    /// Tells the timestamp of the first batch, where [`Indexes::note`] has not seen it.
    pub fn note_first_timestamp(&mut self, timestamp: Timestamp) {
        self.first_timestamp = Some(timestamp);
    }

    /// The largest timestamp, and the last offset of the first batch that has it.
    #[must_use]
    pub const fn max_timestamp(&self) -> Option<(Timestamp, Offset)> {
        self.max_timestamp
    }

    /// Both indexes as bytes, offsets first.
    #[must_use]
    pub fn into_bytes(self) -> (Vec<u8>, Vec<u8>) {
        (self.offsets, self.times)
    }

    fn push_offset(&mut self, last_offset: Offset, position: u64) -> bool {
        let (Ok(last_offset_delta), Ok(position)) = (
            u32::try_from(last_offset.since(self.base)),
            u32::try_from(position),
        ) else {
            return false;
        };
        let entry = OffsetEntry {
            last_offset_delta,
            position,
        };
        // After `resume`, the batch of the last entry is noted a second time.
        if OffsetIndex::new(&self.offsets)
            .last()
            .is_none_or(|last| last.position < position)
        {
            self.offsets.extend_from_slice(&entry.encode());
        }
        true
    }

    fn push_time(&mut self) {
        let Some((timestamp, offset)) = self.max_timestamp else {
            return;
        };
        let Ok(last_offset_delta) = u32::try_from(offset.since(self.base)) else {
            return;
        };
        let last = TimeIndex::new(&self.times).last();
        if last.is_none_or(|last| last.timestamp < timestamp) {
            let entry = TimeEntry {
                timestamp,
                last_offset_delta,
            };
            self.times.extend_from_slice(&entry.encode());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(base: i64, records: i32, max: i64) -> BatchHeader {
        BatchHeader::empty()
            .with_records(records, 100)
            .with_timestamps(Timestamp(max), Timestamp(max))
            .with_position(Offset(base), strandline_protocol::LeaderEpoch(0))
    }

    #[test]
    fn entries_come_where_kafka_puts_them() {
        let mut indexes = Indexes::new(Offset(1_000), 250);
        // Batches of 100 bytes and ten records; the third makes 300 > 250, so the fourth is
        // indexed.
        for (batch, time) in [50, 40, 60, 55, 70, 65, 80].into_iter().enumerate() {
            let batch = i64::try_from(batch).unwrap();
            let position = u64::try_from(batch * 100).unwrap();
            indexes.note(&header(1_000 + batch * 10, 10, time), position, 100);
        }
        let entry = |last_offset_delta, position| OffsetEntry {
            last_offset_delta,
            position,
        };
        let offsets: Vec<_> = OffsetIndex::new(indexes.offsets()).iter().collect();
        assert_eq!(offsets, [entry(39, 300), entry(69, 600)]);
        let time = |time, last_offset_delta| TimeEntry {
            timestamp: Timestamp(time),
            last_offset_delta,
        };
        let times: Vec<_> = TimeIndex::new(indexes.times()).iter().collect();
        assert_eq!(times, [time(60, 29), time(80, 69)]);
        indexes.finish();
        assert_eq!(TimeIndex::new(indexes.times()).iter().count(), 2);
        assert_eq!(indexes.first_timestamp(), Some(Timestamp(50)));
    }

    #[test]
    fn resuming_at_the_last_entry_gives_the_same_indexes() {
        let batches: Vec<_> = (0..40)
            .map(|batch| (header(batch * 10, 10, batch * 7 % 23 + batch), batch))
            .collect();
        let position = |batch: i64| u64::try_from(batch * 100).unwrap();
        let mut whole = Indexes::new(Offset(0), 250);
        let mut snapshot = None;
        for (header, batch) in &batches {
            if whole.note(header, position(*batch), 100) && *batch > 20 && snapshot.is_none() {
                snapshot = Some((*batch, whole.clone().into_bytes()));
            }
        }
        let (from, (offsets, times)) = snapshot.unwrap();
        let mut resumed = Indexes::resume(Offset(0), 250, offsets, times);
        for (header, batch) in batches.iter().skip(usize::try_from(from).unwrap()) {
            resumed.note(header, position(*batch), 100);
        }
        assert_eq!(resumed.into_bytes(), whole.into_bytes());
    }
}
