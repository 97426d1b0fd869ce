//! What a poll brings: batches as they came, walked in place.

use std::{
    collections::{VecDeque, vec_deque},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use strandline_protocol::{
    Offset, PartitionId, Timestamp,
    batch::{self, BatchError, BatchHeader, BatchView, Codec, Record, split_batches},
    compression::{CompressionError, decompress},
    limits::DECOMPRESSED_BYTES_MAX,
};

use crate::ClientError;

/// Records of one partition, in order; owns the fetched bytes.
///
/// Batches that were compressed have been decompressed once, the others are the bytes that came
/// from the socket.
#[derive(Clone, Debug)]
pub struct Records {
    topic: Arc<str>,
    partition: PartitionId,
    high_watermark: Offset,
    /// Offsets that are wanted: the first batch may begin before, the last may end behind.
    from: Offset,
    until: Offset,
    batches: VecDeque<FetchedBatch>,
}

/// One batch whose CRC has been checked.
#[derive(Clone, Debug)]
struct FetchedBatch {
    header: BatchHeader,
    records: Bytes,
}

/// What the bytes of a fetch are.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// The records that are wanted.
    pub(crate) records: Records,
    /// Where the next fetch begins.
    pub(crate) next: Offset,
    /// What was met behind the records, and at which offset.
    pub(crate) damage: Option<(Offset, BatchError)>,
}

impl Records {
    /// Checks what was fetched from `from` on. Batches behind a damaged one are not looked at.
    pub(crate) fn decode(
        topic: Arc<str>,
        partition: PartitionId,
        from: Offset,
        high_watermark: Offset,
        bytes: &Bytes,
    ) -> Decoded {
        let mut decoded = Decoded {
            records: Self {
                topic,
                partition,
                high_watermark,
                from,
                until: Offset(i64::MAX),
                batches: VecDeque::new(),
            },
            next: from,
            damage: None,
        };
        let mut behind = Offset::ZERO;
        let mut room = DECOMPRESSED_BYTES_MAX;
        for batch in split_batches(bytes) {
            let fetched = batch.and_then(|batch| {
                let header = *batch.header();
                check(&batch, behind)?;
                let is_wanted = header.end_offset() > from;
                let wanted = is_wanted.then(|| fetched_batch(&batch, bytes, &mut room));
                Ok((header, wanted.transpose()?.flatten()))
            });
            match fetched {
                // Batches that are small as they come can be large all together: who fetches again
                // gets the rest.
                Err(BatchError::BadCompression(CompressionError::TooLarge { .. }))
                    if room < DECOMPRESSED_BYTES_MAX =>
                {
                    break;
                }
                Ok((header, fetched)) => {
                    behind = header.end_offset();
                    decoded.next = decoded.next.max(behind);
                    decoded.records.batches.extend(fetched);
                }
                Err(error) => {
                    decoded.damage = Some((decoded.next, error));
                    break;
                }
            }
        }
        if decoded.next == from && !bytes.is_empty() && decoded.damage.is_none() {
            // Asking again would bring the same.
            let reason = "everything that was sent lies before what was asked for";
            decoded.damage = Some((from, BatchError::BadHeader { reason }));
        }
        decoded
    }

    /// Forgets what lies at or behind `until`.
    pub(crate) fn cut(&mut self, until: Offset) {
        self.until = self.until.min(until);
        self.batches
            .retain(|batch| batch.header.base_offset() < until);
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The end of what could be read when these were fetched.
    #[must_use]
    pub const fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// How many records there are, as far as the batches' headers tell.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batches.iter().map(|batch| self.len_of(batch)).sum()
    }

    fn len_of(&self, batch: &FetchedBatch) -> usize {
        let header = &batch.header;
        if header.base_offset() >= self.from && header.end_offset() <= self.until {
            return usize::try_from(header.record_count()).unwrap_or(0);
        }
        let records = batch::Records::new(header, &batch.records);
        let wanted = |record: &Record<'_>| self.is_wanted(record.offset);
        records
            .filter(|record| record.as_ref().is_ok_and(wanted))
            .count()
    }

    #[inline]
    fn is_wanted(&self, offset: Offset) -> bool {
        offset >= self.from && offset < self.until
    }

    /// Whether there are none; `poll` never returns none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches.iter().all(|batch| self.len_of(batch) == 0)
    }

    /// The offsets that the batches cover, in order. What lies between two of them, or before the
    /// first one, is not in the log: a compaction or a repair has taken it out.
    pub fn ranges(&self) -> impl Iterator<Item = Range<Offset>> + '_ {
        let (from, until) = (self.from, self.until);
        self.batches.iter().map(move |batch| {
            batch.header.base_offset().max(from)..batch.header.end_offset().min(until)
        })
    }

    /// How many bytes of the process's memory the records take.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.records.len()).sum()
    }

    /// Walks the records without copying them.
    ///
    /// A record that cannot be read is [`ClientError::MalformedRecord`]; the walk goes on with the
    /// next batch.
    #[must_use]
    pub fn iter(&self) -> RecordsIter<'_> {
        RecordsIter {
            of: self,
            batches: self.batches.iter(),
            walk: None,
        }
    }

    /// Walks the records as owned ones, which keep the fetched bytes alive instead of copying them.
    pub fn into_owned(self) -> impl Iterator<Item = Result<OwnedRecord, ClientError>> + Send {
        let mut left = OwnedRecords::new(self);
        std::iter::from_fn(move || left.next())
    }
}

/// Checks what must hold of a batch before anything in it is believed.
fn check(batch: &BatchView<'_>, behind: Offset) -> Result<(), BatchError> {
    batch.check_crc()?;
    let header = batch.header();
    let reason = if header.base_offset() < Offset::ZERO || header.last_offset_delta() < 0 {
        "its offsets are negative"
    } else if header.base_offset() < behind {
        "it overlaps the batch before it"
    } else {
        return Ok(());
    };
    Err(BatchError::BadHeader { reason })
}

/// The records of a batch, decompressed if need be, which takes of `room`; none if applications
/// never see them.
fn fetched_batch(
    batch: &BatchView<'_>,
    bytes: &Bytes,
    room: &mut usize,
) -> Result<Option<FetchedBatch>, BatchError> {
    let header = *batch.header();
    if header.attributes().is_control() {
        return Ok(None);
    }
    let Some(codec) = header.attributes().codec() else {
        let reason = "the codec is not assigned";
        return Err(BatchError::BadHeader { reason });
    };
    let records = if codec == Codec::None {
        bytes.slice_ref(batch.stored_records())
    } else {
        let mut records = Vec::new();
        decompress(codec, batch.stored_records(), *room, &mut records)?;
        *room = room.saturating_sub(records.capacity());
        Bytes::from(records)
    };
    Ok(Some(FetchedBatch { header, records }))
}

/// Walks borrowed records: see [`Records::iter`].
#[derive(Clone, Debug)]
pub struct RecordsIter<'a> {
    of: &'a Records,
    batches: vec_deque::Iter<'a, FetchedBatch>,
    walk: Option<Walk<'a>>,
}

impl<'a> Iterator for RecordsIter<'a> {
    type Item = Result<Record<'a>, ClientError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(walk) = &mut self.walk {
                match walk.next() {
                    Some(Ok(record)) if !self.of.is_wanted(record.offset) => continue,
                    None => {}
                    read => return read,
                }
            }
            self.walk = Some(Walk::new(self.of, self.batches.next()?));
        }
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = Result<Record<'a>, ClientError>;
    type IntoIter = RecordsIter<'a>;

    fn into_iter(self) -> RecordsIter<'a> {
        self.iter()
    }
}

/// Walks one batch and gives an error its offset.
#[derive(Clone, Debug)]
struct Walk<'a> {
    of: &'a Records,
    records: batch::Records<'a>,
    next: Offset,
}

impl<'a> Walk<'a> {
    fn new(of: &'a Records, batch: &'a FetchedBatch) -> Self {
        Self {
            of,
            records: batch::Records::new(&batch.header, &batch.records),
            next: batch.header.base_offset(),
        }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<Record<'a>, ClientError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        match self.records.next()? {
            Ok(record) => {
                self.next = record.offset.plus(1);
                Some(Ok(record))
            }
            Err(error) => Some(Err(malformed(self.of, self.next, &error))),
        }
    }
}

#[cold]
fn malformed(of: &Records, offset: Offset, error: &BatchError) -> ClientError {
    ClientError::MalformedRecord {
        topic: of.topic.to_string(),
        partition: of.partition,
        offset,
        reason: error.to_string(),
    }
}

/// A record that lives on its own; keys, values and headers are slices of what was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// Its time.
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// Owned records, one batch at a time.
#[derive(Debug)]
pub(super) struct OwnedRecords {
    records: Records,
    ready: VecDeque<Result<OwnedRecord, ClientError>>,
}

impl OwnedRecords {
    pub(super) const fn new(records: Records) -> Self {
        Self {
            records,
            ready: VecDeque::new(),
        }
    }

    /// The next record; none after the last.
    pub(super) fn next(&mut self) -> Option<Result<OwnedRecord, ClientError>> {
        while self.ready.is_empty() {
            let batch = self.records.batches.pop_front()?;
            let of = &self.records;
            let owned = Walk::new(of, &batch).filter_map(|record| match record {
                Ok(record) => of
                    .is_wanted(record.offset)
                    .then(|| Ok(owned_record(of, &batch.records, &record))),
                Err(error) => Some(Err(error)),
            });
            self.ready.extend(owned);
        }
        self.ready.pop_front()
    }
}

fn owned_record(of: &Records, bytes: &Bytes, record: &Record<'_>) -> OwnedRecord {
    let own = |slice: &[u8]| bytes.slice_ref(slice);
    OwnedRecord {
        topic: Arc::clone(&of.topic),
        partition: of.partition,
        offset: record.offset,
        timestamp: record.timestamp,
        key: record.key.map(own),
        value: record.value.map(own),
        headers: record
            .headers
            .map(|header| (header.key.to_owned(), header.value.map(own)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use strandline_protocol::{
        LeaderEpoch,
        batch::{BatchBuilder, NewRecord, ProducerStamp, stamp_position},
    };

    use super::*;

    /// A batch of `count` records at `base`, whose values are their offsets.
    fn batch(base: i64, count: i64, codec: Codec) -> Vec<u8> {
        let mut builder = BatchBuilder::new(codec, 1 << 10);
        for offset in base..base + count {
            let value = format!("value {offset} value value value");
            let record = NewRecord {
                timestamp: Timestamp(offset),
                value: Some(value.as_bytes()),
                ..NewRecord::default()
            };
            builder.try_append(1 << 20, record).unwrap();
        }
        let mut bytes = builder.finish(ProducerStamp::NONE).unwrap().to_vec();
        assert!(stamp_position(&mut bytes, Offset(base), LeaderEpoch(0)));
        bytes
    }

    fn decode(from: i64, bytes: Vec<u8>) -> Decoded {
        let (partition, end) = (PartitionId(0), Offset(100));
        Records::decode(
            Arc::from("t"),
            partition,
            Offset(from),
            end,
            &Bytes::from(bytes),
        )
    }

    fn offsets(records: &Records) -> Vec<i64> {
        records
            .iter()
            .map(|record| record.unwrap().offset.0)
            .collect()
    }

    #[test]
    fn records_before_the_wanted_offset_are_skipped() {
        for codec in Codec::ALL {
            let bytes = [batch(0, 5, codec), batch(5, 5, codec), batch(10, 3, codec)].concat();
            let decoded = decode(7, bytes);
            assert_eq!(
                offsets(&decoded.records),
                [7, 8, 9, 10, 11, 12],
                "{codec:?}"
            );
            assert_eq!((decoded.next, decoded.records.len()), (Offset(13), 6));
            let owned: Vec<_> = decoded.records.into_owned().map(Result::unwrap).collect();
            assert_eq!(
                owned[0].value.as_deref(),
                Some(&b"value 7 value value value"[..])
            );
            assert_eq!(owned.len(), 6);
        }
    }

    #[test]
    fn small_batches_that_are_large_once_decompressed_come_one_after_the_other() {
        let large = vec![0; 50 << 20];
        let mut builder = BatchBuilder::new(Codec::Zstd, 1 << 10);
        let record = NewRecord {
            value: Some(&large),
            ..NewRecord::default()
        };
        builder.try_append(64 << 20, record).unwrap();
        let mut batch = builder.finish(ProducerStamp::NONE).unwrap().to_vec();
        let mut bytes = Vec::new();
        for base in 0..3 {
            assert!(stamp_position(&mut batch, Offset(base), LeaderEpoch(0)));
            bytes.extend_from_slice(&batch);
        }
        let decoded = decode(0, bytes.clone());
        assert!(decoded.damage.is_none());
        assert_eq!(decoded.next, Offset(2));
        assert!(decoded.records.memory_bytes() <= DECOMPRESSED_BYTES_MAX);
        assert_eq!(offsets(&decoded.records), [0, 1]);
        assert_eq!(decode(2, bytes).next, Offset(3));
    }

    #[test]
    fn offsets_that_are_not_in_the_log_are_passed_over() {
        let bytes = [batch(3, 2, Codec::None), batch(9, 3, Codec::Lz4)].concat();
        let mut decoded = decode(1, bytes);
        assert!(decoded.damage.is_none());
        assert_eq!(offsets(&decoded.records), [3, 4, 9, 10, 11]);
        assert_eq!(decoded.next, Offset(12));
        decoded.records.cut(Offset(10));
        let ranges: Vec<_> = decoded.records.ranges().collect();
        assert_eq!(ranges, [Offset(3)..Offset(5), Offset(9)..Offset(10)]);
    }

    #[test]
    fn what_lies_behind_the_cut_is_forgotten() {
        let mut decoded = decode(
            2,
            [batch(0, 5, Codec::None), batch(5, 5, Codec::None)].concat(),
        );
        decoded.records.cut(Offset(4));
        assert_eq!(offsets(&decoded.records), [2, 3]);
        assert_eq!(decoded.records.len(), 2);
    }

    #[test]
    fn damage_ends_the_records_and_names_its_offset() {
        let mut bytes = [batch(0, 5, Codec::None), batch(5, 5, Codec::None)].concat();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let decoded = decode(0, bytes);
        assert_eq!(offsets(&decoded.records), [0, 1, 2, 3, 4]);
        let (offset, error) = decoded.damage.unwrap();
        assert_eq!(offset, Offset(5));
        assert!(matches!(error, BatchError::BadCrc { .. }));
        let cut = batch(0, 5, Codec::None);
        let decoded = decode(0, cut[..cut.len() - 1].to_vec());
        assert!(decoded.records.is_empty() && decoded.damage.is_some());
    }

    #[test]
    fn a_malformed_record_in_a_valid_batch_is_an_error_with_its_offset() {
        let bytes = batch(20, 3, Codec::None);
        let view = BatchView::first(&bytes).unwrap();
        let mut records = view.stored_records().to_vec();
        // The length of the second record, one too large.
        let second = records.len() / 3;
        records[second] += 2;
        let header = view.header().with_crc(&records);
        let bytes = [batch::header_bytes(&header), &records].concat();
        let decoded = decode(20, bytes);
        assert!(decoded.damage.is_none());
        let walked: Vec<_> = decoded.records.iter().collect();
        assert_eq!(walked.len(), 2);
        let error = walked[1].as_ref().unwrap_err();
        assert!(
            matches!(
                error,
                ClientError::MalformedRecord {
                    offset: Offset(21),
                    ..
                }
            ),
            "{error}"
        );
    }
}
