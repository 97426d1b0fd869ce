//! `.timeindex`: from timestamps to offsets.
//!
//! Entries of 12 bytes, big-endian: the largest timestamp so far (i64), and the last offset of the
//! batch that has it, relative to the segment's base (i32). Timestamps strictly grow. Source:
//! Kafka's `TimeIndex`.

use strandline_protocol::Timestamp;

/// The size of an entry.
pub const TIME_ENTRY_BYTES: usize = 12;

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeEntry {
    /// The largest timestamp up to here.
    pub timestamp: Timestamp,
    /// The last offset of the batch that has it, less the segment's base offset.
    pub last_offset_delta: u32,
}

impl TimeEntry {
    /// Its bytes.
    #[must_use]
    pub fn encode(self) -> [u8; TIME_ENTRY_BYTES] {
        let [t0, t1, t2, t3, t4, t5, t6, t7] = self.timestamp.0.to_be_bytes();
        let [d0, d1, d2, d3] = self.last_offset_delta.to_be_bytes();
        [t0, t1, t2, t3, t4, t5, t6, t7, d0, d1, d2, d3]
    }

    /// The entry that these bytes are.
    #[must_use]
    pub fn decode(bytes: [u8; TIME_ENTRY_BYTES]) -> Self {
        let [t0, t1, t2, t3, t4, t5, t6, t7, d0, d1, d2, d3] = bytes;
        Self {
            timestamp: Timestamp(i64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7])),
            last_offset_delta: u32::from_be_bytes([d0, d1, d2, d3]),
        }
    }
}

/// An index, as it is in a file or in memory.
#[derive(Clone, Copy, Debug)]
pub struct TimeIndex<'a> {
    entries: &'a [[u8; TIME_ENTRY_BYTES]],
}

impl<'a> TimeIndex<'a> {
    /// The index that `bytes` is. Bytes of half an entry at its end are left out.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        let (entries, _) = bytes.as_chunks();
        Self { entries }
    }

    /// Every entry, in order.
    pub fn iter(&self) -> impl Iterator<Item = TimeEntry> + 'a {
        self.entries.iter().map(|entry| TimeEntry::decode(*entry))
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> Option<TimeEntry> {
        self.entries.last().map(|entry| TimeEntry::decode(*entry))
    }

    /// The last entry whose timestamp is smaller than `timestamp`: what is at least that old lies
    /// behind it.
    #[must_use]
    pub fn before(&self, timestamp: Timestamp) -> Option<TimeEntry> {
        let count = self
            .entries
            .partition_point(|entry| TimeEntry::decode(*entry).timestamp < timestamp);
        let entry = self.entries.get(count.checked_sub(1)?)?;
        Some(TimeEntry::decode(*entry))
    }

    /// How many entries at the front are what an index can hold: timestamps strictly growing,
    /// offsets growing. Zeros that a crash left behind end it.
    #[must_use]
    pub fn valid_entries(&self) -> usize {
        let mut last: Option<TimeEntry> = None;
        self.iter()
            .take_while(|entry| {
                let grows = last.is_none_or(|last| {
                    last.timestamp < entry.timestamp
                        && last.last_offset_delta < entry.last_offset_delta
                });
                last = Some(*entry);
                grows && entry.timestamp.0 >= 0
            })
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(entries: &[(i64, u32)]) -> Vec<u8> {
        let encode = |&(timestamp, last_offset_delta): &(i64, u32)| {
            TimeEntry {
                timestamp: Timestamp(timestamp),
                last_offset_delta,
            }
            .encode()
        };
        entries.iter().flat_map(encode).collect()
    }

    #[test]
    fn finds_the_entry_before() {
        let bytes = index(&[(100, 9), (200, 19)]);
        let index = TimeIndex::new(&bytes);
        let found = |time| {
            index
                .before(Timestamp(time))
                .map(|entry| entry.last_offset_delta)
        };
        assert_eq!(
            [found(100), found(101), found(200), found(201)],
            [None, Some(9), Some(9), Some(19)]
        );
    }

    #[test]
    fn zeros_end_the_valid_part() {
        let bytes = index(&[(100, 9), (200, 19), (0, 0)]);
        assert_eq!(TimeIndex::new(&bytes).valid_entries(), 2);
        assert_eq!(bytes.len(), 36);
        assert_eq!(bytes[..12], [0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 9]);
    }
}
