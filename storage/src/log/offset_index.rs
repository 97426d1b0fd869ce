//! `.index`: from offsets to positions.
//!
//! Entries of 8 bytes, big-endian: the last offset of a batch relative to the segment's base (i32),
//! and the position where that batch begins (i32). Both only grow. Source: Kafka's `OffsetIndex`.

/// The size of an entry.
pub const OFFSET_ENTRY_BYTES: usize = 8;

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetEntry {
    /// The last offset of the batch, less the segment's base offset.
    pub last_offset_delta: u32,
    /// Where the batch begins.
    pub position: u32,
}

impl OffsetEntry {
    /// Its bytes.
    #[must_use]
    pub fn encode(self) -> [u8; OFFSET_ENTRY_BYTES] {
        let value = u64::from(self.last_offset_delta) << 32 | u64::from(self.position);
        value.to_be_bytes()
    }

    /// The entry that these bytes are.
    #[must_use]
    pub fn decode(bytes: [u8; OFFSET_ENTRY_BYTES]) -> Self {
        let [d0, d1, d2, d3, p0, p1, p2, p3] = bytes;
        Self {
            last_offset_delta: u32::from_be_bytes([d0, d1, d2, d3]),
            position: u32::from_be_bytes([p0, p1, p2, p3]),
        }
    }
}

/// An index, as it is in a file or in memory.
#[derive(Clone, Copy, Debug)]
pub struct OffsetIndex<'a> {
    entries: &'a [[u8; OFFSET_ENTRY_BYTES]],
}

impl<'a> OffsetIndex<'a> {
    /// The index that `bytes` is. Bytes of half an entry at its end are left out.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        let (entries, _) = bytes.as_chunks();
        Self { entries }
    }

    /// Every entry, in order.
    pub fn iter(&self) -> impl Iterator<Item = OffsetEntry> + 'a {
        self.entries.iter().map(|entry| OffsetEntry::decode(*entry))
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> Option<OffsetEntry> {
        self.entries.last().map(|entry| OffsetEntry::decode(*entry))
    }

    /// The last entry whose batch ends at `last_offset_delta` or before.
    #[must_use]
    pub fn floor(&self, last_offset_delta: u32) -> Option<OffsetEntry> {
        self.last_where(|entry| entry.last_offset_delta <= last_offset_delta)
    }

    /// The last entry whose batch begins at `position` or before.
    #[must_use]
    pub fn floor_by_position(&self, position: u32) -> Option<OffsetEntry> {
        self.last_where(|entry| entry.position <= position)
    }

    /// How many entries at the front are what an index can hold: growing, and below `log_bytes`.
    /// Zeros that a crash left behind end it.
    #[must_use]
    pub fn valid_entries(&self, log_bytes: u64) -> usize {
        let mut last: Option<OffsetEntry> = None;
        self.iter()
            .take_while(|entry| {
                let grows = last.is_none_or(|last| {
                    last.position < entry.position
                        && last.last_offset_delta < entry.last_offset_delta
                });
                last = Some(*entry);
                // The first batch of a segment has no entry, so no entry has position 0.
                grows && entry.position > 0 && u64::from(entry.position) < log_bytes
            })
            .count()
    }

    fn last_where(&self, below: impl Fn(OffsetEntry) -> bool) -> Option<OffsetEntry> {
        let count = self
            .entries
            .partition_point(|entry| below(OffsetEntry::decode(*entry)));
        let entry = self.entries.get(count.checked_sub(1)?)?;
        Some(OffsetEntry::decode(*entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(entries: &[(u32, u32)]) -> Vec<u8> {
        let encode = |&(last_offset_delta, position): &(u32, u32)| {
            OffsetEntry {
                last_offset_delta,
                position,
            }
            .encode()
        };
        entries.iter().flat_map(encode).collect()
    }

    #[test]
    fn finds_the_entry_at_or_before() {
        let bytes = index(&[(9, 100), (19, 200), (29, 300)]);
        let index = OffsetIndex::new(&bytes);
        let found = |delta| index.floor(delta).map(|entry| entry.position);
        assert_eq!(
            [found(8), found(9), found(18), found(29), found(u32::MAX)],
            [None, Some(100), Some(100), Some(300), Some(300)]
        );
        let found = |position| {
            index
                .floor_by_position(position)
                .map(|entry| entry.position)
        };
        assert_eq!(
            [found(99), found(100), found(299)],
            [None, Some(100), Some(200)]
        );
    }

    #[test]
    fn entries_are_big_endian() {
        assert_eq!(index(&[(1, 0x0203)]), [0, 0, 0, 1, 0, 0, 2, 3]);
    }

    #[test]
    fn what_cannot_be_ends_the_valid_part() {
        let check = |entries: &[(u32, u32)], valid| {
            let bytes = index(entries);
            assert_eq!(
                OffsetIndex::new(&bytes).valid_entries(1_000),
                valid,
                "{entries:?}"
            );
        };
        check(&[(9, 100), (19, 200)], 2);
        check(&[(9, 100), (0, 0), (0, 0)], 1);
        check(&[(9, 100), (9, 200)], 1);
        check(&[(9, 100), (10, 100)], 1);
        check(&[(9, 100), (10, 1_000)], 1);
        check(&[(9, 0)], 0);
    }
}
