//! Finding the next good batch behind damage.
//!
//! Lengths need not be right where batches are bad, so a batch may begin at any byte. Bytes that
//! merely look like a header may claim any length, and a client can send as many of them as it
//! likes: a CRC of its own for each would read the file once per candidate. The CRC of a part
//! follows from those of what lies before it and of what it ends with, so that all candidates
//! together cost one pass over the file and a constant each.

use std::{ops::Range, sync::Arc};

use strandline_protocol::{
    Offset,
    batch::{BatchHeader, CRC_START, HEADER_BYTES, MAGIC},
};
use zerocopy::FromBytes;

use super::{
    units::{to_u64, to_usize},
    walk::Located,
};
use crate::fs::{File, FsError};

/// How much is brought into memory and looked through at once.
const WINDOW_BYTES: u64 = 8 << 20;

/// How far apart the CRCs lie that are remembered. A smaller candidate is read by itself.
const STEP_BYTES: u64 = 8 << 10;

/// A search for good batches in one file. It remembers what it has read, so whoever comes upon
/// several damages in a file keeps one search for all of them.
#[derive(Debug)]
pub struct Search {
    file: Arc<dyn File>,
    end: u64,
    crcs: PrefixCrcs,
}

impl Search {
    /// A search in what lies before `end` in `file`, which nobody writes to meanwhile.
    #[must_use]
    pub const fn new(file: Arc<dyn File>, end: u64) -> Self {
        Self {
            file,
            end,
            crcs: PrefixCrcs::new(end),
        }
    }

    /// The first batch at or behind `from` that is whole, has a good CRC and an offset of `least`
    /// or more: where reading can go on behind damage.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn next_good(&mut self, from: u64, least: Offset) -> Result<Option<Located>, FsError> {
        self.next_accepted(from, least, |_| true)
    }

    /// As [`Search::next_good`], of the batches whose header `accepts` takes.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn next_accepted(
        &mut self,
        from: u64,
        least: Offset,
        accepts: impl Fn(&BatchHeader) -> bool,
    ) -> Result<Option<Located>, FsError> {
        let header_bytes = to_u64(HEADER_BYTES);
        self.crcs.begin(from);
        let mut start = from;
        while start.saturating_add(header_bytes) <= self.end {
            let window_end = self.end.min(start.saturating_add(WINDOW_BYTES));
            self.file.populate(start..window_end)?;
            let window = self.file.view(start..window_end)?;
            for (at, candidate) in window.windows(HEADER_BYTES).enumerate() {
                let Ok(header) = BatchHeader::ref_from_bytes(candidate) else {
                    continue;
                };
                let position = start.saturating_add(to_u64(at));
                let available = self.end.saturating_sub(position);
                let Some(bytes) = plausible_bytes(header, least, available) else {
                    continue;
                };
                if accepts(header) && self.has_good_crc(position, bytes, header)? {
                    let header = *header;
                    return Ok(Some(Located {
                        position,
                        bytes,
                        header,
                    }));
                }
            }
            if window_end == self.end {
                break;
            }
            start = window_end.saturating_sub(header_bytes.saturating_sub(1));
        }
        Ok(None)
    }

    /// Where a walk of headers goes on that broke at `broken_at`, where the batch of `expected` had
    /// to begin, and the first offset that is lost. The batch before, if one was passed, may be the
    /// bad one: with a wrong length it leads to the wrong place, and what follows it begins before
    /// or behind.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn resume_behind(
        &mut self,
        before: Option<&Located>,
        broken_at: u64,
        expected: Offset,
    ) -> Result<(Option<Located>, Offset), FsError> {
        if let Some(before) = before {
            self.crcs.begin(before.position);
            if !self.has_good_crc(before.position, before.bytes, &before.header)? {
                let next = self.next_good(before.position.saturating_add(1), expected)?;
                return Ok((next, before.header.base_offset()));
            }
        }
        let next = self.next_good(broken_at.saturating_add(1), expected.plus(1))?;
        Ok((next, expected))
    }

    fn has_good_crc(
        &mut self,
        position: u64,
        bytes: u64,
        header: &BatchHeader,
    ) -> Result<bool, FsError> {
        let covered = position.saturating_add(to_u64(CRC_START))..position.saturating_add(bytes);
        Ok(self.crcs.of(self.file.as_ref(), covered)? == header.crc())
    }
}

/// The size of the batch that may begin with `header`; none if it is not worth a CRC to find out.
fn plausible_bytes(header: &BatchHeader, least: Offset, available: u64) -> Option<u64> {
    let base = header.base_offset();
    let is_plausible = header.magic() == MAGIC
        && base >= least
        && base.since(least) <= i64::from(i32::MAX)
        && header.last_offset_delta() >= 0
        && header.last_offset_delta().checked_add(1) == Some(header.record_count());
    let bytes = header.batch_bytes().map(to_u64).filter(|_| is_plausible)?;
    (bytes <= available).then_some(bytes)
}

/// The CRCs of what lies between one position in a file and several behind it, as far as they were
/// needed.
#[derive(Debug)]
struct PrefixCrcs {
    from: u64,
    /// Of `from..from + n * STEP_BYTES`, by n.
    steps: Vec<u32>,
    /// Up to where the file has been brought into memory.
    populated: u64,
    /// Where the file ends.
    end: u64,
}

impl PrefixCrcs {
    const fn new(end: u64) -> Self {
        Self {
            from: 0,
            steps: Vec::new(),
            populated: 0,
            end,
        }
    }

    /// From now on only parts behind `from` are asked for. What lies between the last part that was
    /// read and `from` need not be read.
    fn begin(&mut self, from: u64) {
        let read_to = self.position(to_u64(self.steps.len()));
        if self.steps.is_empty() || from < self.from || from > read_to {
            self.from = from;
            self.populated = from;
            self.steps = vec![0];
        }
    }

    /// The CRC-32C of a part of the file.
    fn of(&mut self, file: &dyn File, part: Range<u64>) -> Result<u32, FsError> {
        let bytes = part.end.saturating_sub(part.start);
        if bytes <= STEP_BYTES {
            file.populate(part.clone())?;
            return Ok(crc32c::crc32c(&file.view(part)?));
        }
        let before = self.until(file, part.start)?;
        let with_it = self.until(file, part.end)?;
        // What lies before, moved past the part, is what it has added to the CRC of both.
        Ok(with_it ^ crc32c::crc32c_combine(before, 0, to_usize(bytes)))
    }

    /// The CRC-32C of what lies between `from` and `end`.
    fn until(&mut self, file: &dyn File, end: u64) -> Result<u32, FsError> {
        let wanted = end.saturating_sub(self.from) / STEP_BYTES;
        self.populate(file, end)?;
        let mut known = self.steps.last().copied().unwrap_or(0);
        while to_u64(self.steps.len()) <= wanted {
            let to = self.position(to_u64(self.steps.len()));
            known = crc32c::crc32c_append(known, &file.view(to.saturating_sub(STEP_BYTES)..to)?);
            self.steps.push(known);
        }
        let step = self.steps.get(to_usize(wanted)).copied().unwrap_or(0);
        let rest = file.view(self.position(wanted)..end)?;
        Ok(crc32c::crc32c_append(step, &rest))
    }

    fn position(&self, step: u64) -> u64 {
        self.from.saturating_add(step.saturating_mul(STEP_BYTES))
    }

    fn populate(&mut self, file: &dyn File, until: u64) -> Result<(), FsError> {
        if until > self.populated {
            let ahead = self.populated.saturating_add(WINDOW_BYTES);
            let until = until.max(ahead).min(self.end);
            file.populate(self.populated..until)?;
            self.populated = until;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::Bytes;
    use strandline_protocol::{
        LeaderEpoch, Timestamp,
        batch::{BatchBuilder, Codec, NewRecord, ProducerStamp, stamp_position},
    };

    use super::*;

    /// Bytes that cannot change, and how many of them were looked at.
    #[derive(Debug)]
    struct Counted {
        bytes: Bytes,
        viewed: AtomicU64,
    }

    impl File for Counted {
        fn size(&self) -> u64 {
            to_u64(self.bytes.len())
        }

        fn allocate(&self, _: u64) -> Result<(), FsError> {
            unreachable!()
        }

        fn write(&self, _: u64, _: &[&[u8]]) -> Result<(), FsError> {
            unreachable!()
        }

        fn zero(&self, _: Range<u64>) -> Result<(), FsError> {
            unreachable!()
        }

        fn truncate(&self, _: u64) -> Result<(), FsError> {
            unreachable!()
        }

        fn sync(&self) -> Result<(), FsError> {
            unreachable!()
        }

        fn start_writeback(&self, _: Range<u64>) {}

        fn view(&self, range: Range<u64>) -> Result<Bytes, FsError> {
            self.viewed
                .fetch_add(range.end - range.start, Ordering::Relaxed);
            Ok(self.bytes.slice(to_usize(range.start)..to_usize(range.end)))
        }

        fn is_resident(&self, _: Range<u64>) -> bool {
            true
        }

        fn populate(&self, range: Range<u64>) -> Result<(), FsError> {
            assert!(range.start <= range.end && range.end <= self.size());
            Ok(())
        }
    }

    fn file(bytes: Vec<u8>) -> Arc<Counted> {
        Arc::new(Counted {
            bytes: bytes.into(),
            viewed: AtomicU64::new(0),
        })
    }

    fn batch(base: i64, value: &[u8]) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Codec::None, 1 << 20);
        let record = NewRecord {
            timestamp: Timestamp(7),
            value: Some(value),
            ..NewRecord::default()
        };
        builder.try_append(1 << 20, record).unwrap();
        let mut bytes = builder.finish(ProducerStamp::NONE).unwrap().to_vec();
        stamp_position(&mut bytes, Offset(base), LeaderEpoch(3));
        bytes
    }

    /// Headers that look like that of a batch which reaches to the end of `bytes`.
    fn forge(bytes: &mut [u8], base: i64) -> usize {
        let header = batch(base, b"")[..HEADER_BYTES].to_vec();
        let (end, mut count) = (bytes.len(), 0);
        for at in (0..end - HEADER_BYTES).step_by(HEADER_BYTES) {
            let length = u32::try_from(end - at - 12).unwrap().to_be_bytes();
            bytes[at..at + HEADER_BYTES].copy_from_slice(&header);
            bytes[at + 8..at + 12].copy_from_slice(&length);
            count += 1;
        }
        count
    }

    #[test]
    fn the_crc_of_any_part_is_what_reading_it_gives() {
        let bytes: Vec<u8> = (0..200_000_u32)
            .map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[1])
            .collect();
        let end = to_u64(bytes.len());
        let file = file(bytes.clone());
        let mut crcs = PrefixCrcs::new(end);
        crcs.begin(3);
        for number in 0..3_000_u64 {
            let one = number * 7_919 % (end - 3) + 3;
            let other = number * 104_729 % (end - 3) + 3;
            let part = one.min(other)..one.max(other);
            let due = crc32c::crc32c(&bytes[to_usize(part.start)..to_usize(part.end)]);
            assert_eq!(crcs.of(&*file, part.clone()).unwrap(), due, "{part:?}");
        }
    }

    /// What a client can put into one batch: each of these headers was once worth a CRC of
    /// everything behind it, 8 GB in all here.
    #[test]
    fn headers_that_claim_everything_cost_one_pass() {
        let mut bytes = vec![0; 1 << 20];
        let count = forge(&mut bytes, 5);
        assert!(count > 17_000);
        let (position, size) = (to_u64(bytes.len()), bytes.len());
        bytes.extend(batch(6, b"good"));
        let file = file(bytes);
        let mut search = Search::new(file.clone(), file.size());
        let found = search.next_good(1, Offset(5)).unwrap().unwrap();
        assert_eq!(
            (found.position, found.header.base_offset()),
            (position, Offset(6))
        );
        let (viewed, bound) = (
            file.viewed.load(Ordering::Relaxed),
            count * 20_000 + 3 * size,
        );
        assert!(viewed < to_u64(bound), "{viewed} bytes were looked at");
    }

    /// Also where candidates that reach far lie in front of what is found, and behind it.
    #[test]
    fn one_search_finds_every_good_batch_behind_several_damages() {
        let mut bytes = Vec::new();
        let mut good = Vec::new();
        for number in 0..200_u32 {
            let mut bad = batch(i64::from(number) * 2, &[0; 100]);
            bad[8..12].copy_from_slice(&(number * 900).to_be_bytes());
            bytes.extend(bad);
            good.push(to_u64(bytes.len()));
            let value = vec![1; to_usize(u64::from(number % 9) * 2_000)];
            bytes.extend(batch(i64::from(number) * 2 + 1, &value));
        }
        let size = to_u64(bytes.len());
        let mut search = Search::new(file(bytes), size);
        let mut from = 0;
        for (position, number) in good.into_iter().zip(0..) {
            let found = search.next_good(from, Offset(number * 2)).unwrap();
            let found = found.map(|found| (found.position, found.header.base_offset()));
            assert_eq!(found, Some((position, Offset(number * 2 + 1))));
            from = position + 1;
        }
    }
}
