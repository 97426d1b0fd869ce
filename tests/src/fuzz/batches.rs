//! Record batches of every codec: walked, decompressed, appended, served again.
//!
//! The input is batches as they are, or describes one that is valid but for a few edits in its
//! header, in its records, or in what they are compressed to; lengths and checksum are then made
//! right again, so that the checks behind them are reached.

use std::{path::Path, sync::Arc};

use strandline_protocol::{
    LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicId,
    batch::{
        Attributes, BatchHeader, BatchView, Codec, HEADER_BYTES, ProducerStamp, header_bytes,
        split_batches, stamp_append_time, stamp_position, stamp_producer,
    },
    compression,
};
use strandline_storage::{
    fs::simulated::SimulatedDisk,
    log::{Log, LogConfig, ReadError, RecoveryHint},
};

use super::choices::Choices;

/// The broker's time.
const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// A cap on decompression that small inputs meet as well, in bytes.
const SMALL_CAP: usize = 10_000;

/// The target.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    match choices.below(4) {
        0 => {
            let bytes = choices.rest().to_vec();
            look_at(&bytes);
            append(&bytes);
        }
        1 => decompress(&mut choices),
        _ => {
            let bytes = built(&mut choices);
            look_at(&bytes);
            append(&bytes);
        }
    }
}

/// A batch whose length and checksum are right, whatever was done to the rest of it.
fn built(choices: &mut Choices<'_>) -> Vec<u8> {
    let codec = choices.codec();
    let stamp = match choices.below(3) {
        0 => ProducerStamp::NONE,
        _ => ProducerStamp {
            id: ProducerId(choices.number()),
            epoch: ProducerEpoch(choices.u16().cast_signed()),
            base_sequence: Sequence(i32::try_from(choices.number()).unwrap_or(i32::MAX)),
        },
    };
    let edited = choices.below(4);
    let plain = choices.batch(Codec::None, NOW.0, stamp);
    let header = *BatchView::exactly(&plain).unwrap().header();
    let mut records = plain[HEADER_BYTES..].to_vec();
    if edited == 1 {
        choices.edit(&mut records);
    }
    let mut stored = Vec::new();
    compression::compress(codec, &records, &mut stored).unwrap();
    if edited == 2 {
        choices.edit(&mut stored);
    }
    let attributes = header.attributes().with_codec(codec);
    let header = header.with_attributes(attributes);
    seal(header, &stored, (edited == 3).then_some(choices))
}

/// The batch of `header`, with edits if they are asked for, and of `stored`.
fn seal(header: BatchHeader, stored: &[u8], edits: Option<&mut Choices<'_>>) -> Vec<u8> {
    let mut head = header_bytes(&header).to_vec();
    if let Some(choices) = edits {
        for _ in 0..=choices.below(3) {
            // Anything but length, magic and checksum.
            let fields = [
                0..8,
                12..16,
                21..23,
                23..27,
                27..35,
                35..43,
                43..51,
                51..53,
                53..61,
            ];
            let field = fields[choices.below(fields.len())].clone();
            for byte in &mut head[field] {
                *byte ^= choices.u8();
            }
        }
    }
    let length = u32::try_from(HEADER_BYTES + stored.len() - 12).unwrap();
    head[8..12].copy_from_slice(&length.to_be_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&head[21..]), stored);
    head[17..21].copy_from_slice(&sum.to_be_bytes());
    head.extend_from_slice(stored);
    head
}

/// Walks every batch and every record, and stamps what can be stamped.
fn look_at(bytes: &[u8]) {
    let mut walked = 0;
    for batch in split_batches(bytes) {
        let Ok(view) = batch else {
            break;
        };
        walked += view.bytes().len();
        walk(&view);
        let _ = view.check_produced();
        restamp(&view);
    }
    assert!(walked <= bytes.len());
    #[cfg(fuzzing)]
    for from in [0, 3] {
        strandline_client::fuzzing::walk_fetched(bytes, Offset(from));
    }
}

/// Every record lies within the batch, and they are as many as the header says.
fn walk(view: &BatchView<'_>) {
    let header = view.header();
    let mut scratch = Vec::new();
    let Ok(records) = view.records(&mut scratch) else {
        return;
    };
    let mut last = None;
    let mut count = 0;
    for record in records {
        let Ok(record) = record else {
            return;
        };
        assert!(last.is_none_or(|last| record.offset > last) || record.offset.0 == i64::MAX);
        assert!(record.offset <= header.last_offset());
        let headers = record.headers;
        assert_eq!(
            headers.len(),
            headers.count(),
            "a header that was checked is gone"
        );
        (last, count) = (Some(record.offset), count + 1);
    }
    assert_eq!(count, header.record_count());
}

/// Stamping keeps a good checksum good, and touches nothing else.
fn restamp(view: &BatchView<'_>) {
    let was_good = view.check_crc().is_ok();
    let mut bytes = view.bytes().to_vec();
    assert!(stamp_position(&mut bytes, Offset(77), LeaderEpoch(5)));
    let placed = BatchView::exactly(&bytes).unwrap();
    assert_eq!(placed.check_crc().is_ok(), was_good);
    assert_eq!(placed.header().base_offset(), Offset(77));
    assert!(stamp_append_time(&mut bytes, NOW));
    assert!(stamp_producer(&mut bytes, ProducerStamp::NONE));
    let stamped = BatchView::exactly(&bytes).unwrap();
    stamped.check_crc().unwrap();
    assert_eq!(stamped.stored_records(), view.stored_records());
}

/// What a log takes in, it serves again; what it refuses leaves no trace.
fn append(bytes: &[u8]) {
    let config = LogConfig {
        max_message_bytes: 1 << 20,
        allocate_bytes_min: 4_096,
        ..LogConfig::default()
    };
    let disk = SimulatedDisk::new(0);
    let (mut log, _) = Log::open(
        disk.file_system(),
        Path::new("t-0"),
        TopicId([7; 16]),
        config,
        RecoveryHint::default(),
        NOW,
    )
    .unwrap();
    let epoch = LeaderEpoch(3);
    let before = log.end();
    match log.append(bytes, epoch, NOW) {
        Ok(appended) => {
            assert!(appended.base_offset == before && appended.end_offset > before);
            let fetched = log.read(before, 1 << 20, log.end()).unwrap();
            fetched.check().unwrap();
            let view = BatchView::exactly(&fetched.bytes).unwrap();
            view.check_crc().unwrap();
            assert_eq!(view.stored_records(), &bytes[HEADER_BYTES..]);
            let again = log.append(bytes, epoch, NOW);
            let is_idempotent = view.header().producer_id() != ProducerId::NONE;
            assert_eq!(again.is_ok_and(|again| again.duplicate), is_idempotent);
            // Only this looks at records, which may be malformed.
            let found = log.offset_for_time(NOW, log.end());
            assert!(matches!(found, Ok(_) | Err(ReadError::Corrupt { .. })));
        }
        Err(error) => {
            assert!(error.fatal().is_none(), "{error}");
            assert_eq!(log.end(), before);
        }
    }
    replicate(&mut log, bytes, epoch);
    let files = Arc::clone(&disk.file_system());
    let (end, hint) = (log.end(), RecoveryHint::default());
    drop(log);
    let topic = TopicId([7; 16]);
    let (log, _) = Log::open(files, Path::new("t-0"), topic, config, hint, NOW).unwrap();
    assert_eq!(log.end(), end, "a restart makes a difference");
}

/// The same bytes from a leader: all of them or none.
fn replicate(log: &mut Log, bytes: &[u8], epoch: LeaderEpoch) {
    let before = log.end();
    let mut placed = bytes.to_vec();
    let _ = stamp_position(&mut placed, before, epoch);
    match log.append_replicated(&placed, epoch, NOW) {
        Ok(_) if bytes.is_empty() => {}
        Ok(appended) => {
            assert!(appended.end_offset > before);
            let fetched = log.read(before, 1 << 20, log.end()).unwrap();
            fetched.check().unwrap();
        }
        Err(error) => {
            assert!(error.fatal().is_none(), "{error}");
            assert_eq!(log.end(), before);
        }
    }
}

/// Compressed bytes as they are, and a round trip of plain ones.
fn decompress(choices: &mut Choices<'_>) {
    let codec = choices.codec();
    let is_plain = choices.below(4) == 0;
    let input = choices.rest();
    let mut output = Vec::new();
    if is_plain {
        let mut compressed = Vec::new();
        compression::compress(codec, input, &mut compressed).unwrap();
        compression::decompress(codec, &compressed, input.len(), &mut output).unwrap();
        assert_eq!(output, input);
        if let Some(short) = input.len().checked_sub(1) {
            let outcome = compression::decompress(codec, &compressed, short, &mut output);
            assert!(outcome.is_err(), "{codec:?} takes no notice of the cap");
        }
        return;
    }
    let small = compression::decompress(codec, input, SMALL_CAP, &mut output);
    let small = small.map(|()| std::mem::take(&mut output));
    if let Ok(small) = &small {
        assert!(small.len() <= SMALL_CAP);
        let mut again = Vec::with_capacity(7);
        compression::decompress(codec, input, SMALL_CAP * 2, &mut again).unwrap();
        assert_eq!(small, &again, "{codec:?} depends on the cap");
    }
    // A batch of them, whose header says whatever it takes to be looked into.
    let header = BatchHeader::empty()
        .with_records(1, 0)
        .with_attributes(Attributes::default().with_codec(codec))
        .with_timestamps(NOW, NOW);
    let batch = seal(header, input, None);
    let view = BatchView::exactly(&batch).unwrap();
    view.check_crc().unwrap();
    walk(&view);
}
