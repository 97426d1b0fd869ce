//! Batches as a whole: what a builder makes reads back in every codec, damage is noticed, and
//! nothing that a peer can send makes a reader panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};
use strandline_protocol::{
    Offset, ProducerEpoch, ProducerId, Sequence, Timestamp,
    batch::{
        AppendRefused, BatchBuilder, BatchError, BatchView, Codec, HEADER_BYTES, NewRecord,
        ProducerStamp, TimestampType, split_batches, stamp_append_time, stamp_position,
        stamp_producer,
    },
    ids::LeaderEpoch,
    limits::RECORD_HEADERS_MAX,
};

const LIMIT: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn owned() -> impl Strategy<Value = Owned> {
    let bytes = || option::of(vec(any::<u8>(), 0..80));
    let headers = vec(("[a-zä]{0,6}", bytes()), 0..4);
    (any::<i64>(), bytes(), bytes(), headers).prop_map(|(timestamp, key, value, headers)| Owned {
        timestamp,
        key,
        value,
        headers,
    })
}

fn append(builder: &mut BatchBuilder, record: &Owned) -> Result<i32, AppendRefused> {
    let headers: Vec<_> = record
        .headers
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_deref()))
        .collect();
    builder.try_append(
        LIMIT,
        NewRecord {
            timestamp: Timestamp(record.timestamp),
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        },
    )
}

fn build(codec: Codec, records: &[Owned]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec, 1 << 10);
    for (index, record) in records.iter().enumerate() {
        assert_eq!(append(&mut builder, record), Ok(index as i32));
    }
    let estimate = builder.estimated_bytes();
    let batch = builder.finish(ProducerStamp::NONE).unwrap();
    assert!(batch.len() <= estimate);
    assert!(builder.is_empty());
    batch.to_vec()
}

fn read(batch: &BatchView<'_>) -> Result<Vec<(i64, Owned)>, BatchError> {
    let mut scratch = Vec::new();
    let records = batch.records(&mut scratch)?;
    records
        .map(|record| {
            record.map(|record| {
                let headers = record.headers.map(|header| {
                    let value = header.value.map(<[u8]>::to_vec);
                    (header.key.to_owned(), value)
                });
                let owned = Owned {
                    timestamp: record.timestamp.0,
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    headers: headers.collect(),
                };
                (record.offset.0, owned)
            })
        })
        .collect()
}

fn samples(count: usize) -> Vec<Owned> {
    (0..count)
        .map(|index| Owned {
            timestamp: 1_700_000_000_000 + index as i64,
            key: (index % 3 != 0).then(|| format!("key-{index}").into_bytes()),
            value: (index % 5 != 1).then(|| b"the same text again and again".repeat(index % 7)),
            headers: vec![("trace".to_owned(), None); index % 3],
        })
        .collect()
}

#[test]
fn a_batch_of_every_codec_reads_back() {
    let records = samples(500);
    for codec in Codec::ALL {
        let mut bytes = build(codec, &records);
        assert!(stamp_position(&mut bytes, Offset(1_000), LeaderEpoch(3)));
        let batch = BatchView::exactly(&bytes).unwrap();
        batch.check_crc().unwrap();
        batch.check_produced().unwrap();
        assert_eq!(batch.header().attributes().codec(), Some(codec));
        assert_eq!(batch.header().base_timestamp().0, 1_700_000_000_000);
        assert_eq!(batch.header().max_timestamp().0, 1_700_000_000_499);
        let read = read(&batch).unwrap();
        let offsets: Vec<_> = read.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, (1_000..1_500).collect::<Vec<_>>());
        let read: Vec<_> = read.into_iter().map(|(_, record)| record).collect();
        assert_eq!(read, records, "{}", codec.name());
    }
}

#[test]
fn a_batch_that_does_not_shrink_is_sent_as_it_is() {
    let record = Owned {
        timestamp: 0,
        key: None,
        value: Some(vec![7]),
        headers: vec![],
    };
    for codec in Codec::ALL {
        let bytes = build(codec, std::slice::from_ref(&record));
        let batch = BatchView::exactly(&bytes).unwrap();
        assert_eq!(batch.header().attributes().codec(), Some(Codec::None));
        assert_eq!(read(&batch).unwrap(), [(0, record.clone())]);
    }
}

#[test]
fn a_full_batch_refuses_and_stays_as_it_was() {
    let mut builder = BatchBuilder::new(Codec::None, 0);
    let value = [1; 100];
    let record = NewRecord {
        value: Some(&value),
        ..NewRecord::default()
    };
    let mut appended = 0;
    while builder.try_append(1_000, record).is_ok() {
        appended += 1;
    }
    assert_eq!(builder.try_append(1_000, record), Err(AppendRefused::Full));
    let batch = builder.finish(ProducerStamp::NONE).unwrap();
    assert!(batch.len() <= 1_000 && batch.len() > 850);
    let view = BatchView::exactly(&batch).unwrap();
    assert_eq!(view.header().record_count(), appended);
    // A record of 100 bytes takes 107 here: two lengths of two bytes, five fields of one.
    let alone = HEADER_BYTES + 109;
    assert_eq!(
        builder.try_append(100, record),
        Err(AppendRefused::RecordTooLarge {
            bytes: alone,
            limit: 100
        })
    );
    assert!(builder.try_append(alone, record).is_ok());
}

#[test]
fn more_headers_than_allowed_are_refused() {
    let headers = vec![("", None); RECORD_HEADERS_MAX + 1];
    let mut builder = BatchBuilder::new(Codec::None, 0);
    let mut record = NewRecord {
        headers: &headers,
        ..NewRecord::default()
    };
    let refused = builder.try_append(LIMIT, record);
    assert!(matches!(refused, Err(AppendRefused::TooManyHeaders { .. })));
    record.headers = &headers[1..];
    assert_eq!(builder.try_append(LIMIT, record), Ok(0));
    let batch = builder.finish(ProducerStamp::NONE).unwrap();
    let read = read(&BatchView::exactly(&batch).unwrap()).unwrap();
    assert_eq!(read[0].1.headers.len(), RECORD_HEADERS_MAX);
}

fn build_empty_records(builder: &mut BatchBuilder, records: usize) -> Bytes {
    for _ in 0..records {
        builder.try_append(LIMIT, NewRecord::default()).unwrap();
    }
    let batch = builder.finish(ProducerStamp::NONE).unwrap();
    let view = BatchView::exactly(&batch).unwrap();
    assert!(view.check_crc().is_ok());
    assert_eq!(view.header().record_count() as usize, records);
    batch
}

#[test]
fn buffers_are_reused() {
    let mut builder = BatchBuilder::new(Codec::None, 10_000);
    let first = build_empty_records(&mut builder, 1);
    let second = build_empty_records(&mut builder, 1);
    assert_eq!(first.as_ptr_range().end, second.as_ptr());
    // It outgrows the buffer, which grows by doubling, and takes the new one along.
    let third = build_empty_records(&mut builder, 1_000);
    let address = third.as_ptr();
    let buffer = third.try_into_mut().expect("nobody else shares the buffer");
    builder.recycle(buffer);
    let fourth = build_empty_records(&mut builder, 1_200);
    assert_eq!(fourth.as_ptr(), address);
    assert_ne!(first.as_ptr(), second.as_ptr());
}

#[test]
fn an_empty_batch_cannot_be_finished_and_a_cleared_one_starts_again() {
    let mut builder = BatchBuilder::new(Codec::Lz4, 100);
    assert!(builder.finish(ProducerStamp::NONE).is_err());
    append(&mut builder, &samples(1)[0]).unwrap();
    builder.clear();
    assert_eq!((builder.is_empty(), builder.estimated_bytes()), (true, 0));
    let records = samples(2);
    append(&mut builder, &records[1]).unwrap();
    let batch = builder.finish(ProducerStamp::NONE).unwrap();
    let read = read(&BatchView::exactly(&batch).unwrap()).unwrap();
    assert_eq!(read, [(0, records[1].clone())]);
}

#[test]
fn another_producer_can_be_stamped() {
    let mut bytes = build(Codec::Zstd, &samples(100));
    let stamp = ProducerStamp {
        id: ProducerId(4_000),
        epoch: ProducerEpoch(2),
        base_sequence: Sequence(17),
    };
    assert!(stamp_producer(&mut bytes, stamp));
    let batch = BatchView::exactly(&bytes).unwrap();
    batch.check_crc().unwrap();
    batch.check_produced().unwrap();
    let header = batch.header();
    let stamped = ProducerStamp {
        id: header.producer_id(),
        epoch: header.producer_epoch(),
        base_sequence: header.base_sequence(),
    };
    assert_eq!(stamped, stamp);
    assert!(!stamp_producer(&mut bytes[..60], stamp));
}

#[test]
fn the_append_time_holds_for_all_records() {
    let mut bytes = build(Codec::None, &samples(3));
    assert!(stamp_append_time(&mut bytes, Timestamp(42)));
    let batch = BatchView::exactly(&bytes).unwrap();
    batch.check_crc().unwrap();
    let attributes = batch.header().attributes();
    assert_eq!(attributes.timestamp_type(), TimestampType::LogAppendTime);
    let read = read(&batch).unwrap();
    assert!(read.iter().all(|(_, record)| record.timestamp == 42));
}

/// Rewrites the number of records and the last offset delta of an uncompressed batch.
fn recount(bytes: &mut [u8], last_offset_delta: i32, records: i32) {
    bytes[23..27].copy_from_slice(&last_offset_delta.to_be_bytes());
    bytes[57..61].copy_from_slice(&records.to_be_bytes());
}

fn outcome(bytes: &[u8]) -> Result<usize, String> {
    read(&BatchView::first(bytes).unwrap())
        .map(|records| records.len())
        .map_err(|error| error.to_string())
}

#[test]
fn a_header_that_contradicts_its_records_is_noticed() {
    let good = build(Codec::None, &samples(4));
    let check = |last, count, expect: &str| {
        let mut bytes = good.clone();
        recount(&mut bytes, last, count);
        let error = outcome(&bytes).unwrap_err();
        assert!(error.contains(expect), "{last} {count}: {error}");
    };
    check(3, 3, "left over");
    check(3, 0, "left over");
    check(3, -1, "left over");
    check(4, 5, "its length is not an integer");
    check(2, 4, "behind the end of the batch");
    let mut compacted = good.clone();
    recount(&mut compacted, 10, 4);
    assert_eq!(outcome(&compacted), Ok(4));
}

#[test]
fn offsets_must_ascend() {
    let record = NewRecord::default();
    let mut builder = BatchBuilder::new(Codec::None, 0);
    builder.try_append(LIMIT, record).unwrap();
    builder.try_append(LIMIT, record).unwrap();
    let mut bytes = builder.finish(ProducerStamp::NONE).unwrap().to_vec();
    // Length, attributes, timestamp, then the offset of the second record.
    let at = HEADER_BYTES + 7 + 3;
    assert_eq!(bytes[at], 2);
    for (delta, good) in [(0, false), (1, false), (2, true), (4, false)] {
        bytes[at] = delta;
        assert_eq!(outcome(&bytes).is_ok(), good, "{delta}");
    }
}

#[test]
fn a_walk_ends_after_an_error() {
    let mut bytes = build(Codec::None, &samples(4));
    bytes[HEADER_BYTES] = 1;
    let batch = BatchView::exactly(&bytes).unwrap();
    let mut scratch = Vec::new();
    let mut records = batch.records(&mut scratch).unwrap();
    assert!(records.next().unwrap().is_err());
    assert!(records.next().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn records_read_back(records in vec(owned(), 1..40)) {
        for codec in Codec::ALL {
            let bytes = build(codec, &records);
            let batch = BatchView::exactly(&bytes).unwrap();
            batch.check_crc().unwrap();
            let read = read(&batch).unwrap();
            prop_assert_eq!(read.len(), records.len());
            for (index, (offset, record)) in read.iter().enumerate() {
                prop_assert_eq!(*offset, index as i64);
                prop_assert_eq!(record, &records[index]);
            }
        }
    }

    #[test]
    fn a_flipped_byte_is_noticed(at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let good = build(Codec::None, &samples(20));
        let mut bytes = good.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        // Position and leader epoch are the leader's to write: a log checks them by what it
        // expects.
        let outside = at < 8 || (12..16).contains(&at);
        let noticed = BatchView::exactly(&bytes).and_then(|batch| batch.check_crc()).is_err();
        prop_assert_eq!(noticed, !outside, "byte {}", at);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        for batch in split_batches(&bytes).flatten() {
            let _ = batch.check_crc();
            let _ = batch.check_produced();
            let _ = read(&batch);
        }
    }

    #[test]
    fn arbitrary_records_in_a_good_header_never_panic(
        records in vec(any::<u8>(), 0..200),
        attributes in 0..16_u8,
        count in -2..20_i32,
        deltas in -2..20_i32,
    ) {
        let mut bytes = build(Codec::None, &samples(1));
        bytes.truncate(HEADER_BYTES);
        bytes.extend_from_slice(&records);
        let length = (bytes.len() - 12) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[22] = attributes;
        recount(&mut bytes, deltas, count);
        if let Ok(read) = read(&BatchView::exactly(&bytes).unwrap()) {
            prop_assert_eq!(read.len() as i32, count);
        }
    }

    #[test]
    fn one_damaged_byte_among_records_never_panics(
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        for codec in Codec::ALL {
            let mut bytes = build(codec, &samples(60));
            let at = HEADER_BYTES + at.index(bytes.len() - HEADER_BYTES);
            bytes[at] = value;
            let _ = read(&BatchView::exactly(&bytes).unwrap());
        }
    }
}
