//! Producers on disk: Kafka's `.snapshot`, and our `recovery.state` that says more.
//!
//! `<offset>.snapshot` holds the last batch of each producer as of that offset (exclusive):
//!
//! ```text
//! offset size                        big-endian; Kafka's ProducerSnapshot.json, version 1
//!      0    2 version                1
//!      2    4 CRC-32C                of bytes 6 to the end
//!      6    4 number of entries
//!     10   46 each: producer id i64, epoch i16, last sequence i32, last offset i64,
//!             offset delta i32, timestamp i64, coordinator epoch i32, transaction start i64
//! ```
//!
//! `recovery.state` holds the whole window of five, so that any of five batches that were not yet
//! acknowledged is recognised after a restart, and how much of the active segment's indexes was
//! good when it was written.

use bytes::{Buf, BufMut, Bytes, TryGetError};
use strandline_protocol::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

use super::{
    producers::{BatchMark, Producer, Producers},
    state_file::{seal, unseal},
};

/// The name of our file.
pub const RECOVERY_FILE: &str = "recovery.state";

const KIND: [u8; 4] = *b"SLRS";
const SNAPSHOT_VERSION: i16 = 1;
const SNAPSHOT_ENTRY_BYTES: usize = 46;

/// Kafka's file for these producers.
#[must_use]
pub fn encode_snapshot(producers: &Producers) -> Vec<u8> {
    let mut body = Vec::with_capacity(producers.count().saturating_mul(SNAPSHOT_ENTRY_BYTES));
    body.put_i32(i32::try_from(producers.count()).unwrap_or(i32::MAX));
    for (id, producer) in producers.iter() {
        let last = producer.window().last().copied().unwrap_or(BatchMark {
            last_sequence: Sequence::NONE,
            last_offset: Offset(-1),
            offset_delta: 0,
            timestamp: Timestamp::NONE,
        });
        body.put_i64(id.0);
        body.put_i16(producer.epoch.0);
        put_mark(&mut body, &last);
        body.put_i32(producer.coordinator_epoch);
        body.put_i64(producer.transaction_start);
    }
    let mut bytes = Vec::with_capacity(body.len().saturating_add(6));
    bytes.put_i16(SNAPSHOT_VERSION);
    bytes.put_u32(crc32c::crc32c(&body));
    bytes.extend_from_slice(&body);
    bytes
}

/// The producers in Kafka's file; none if it is damaged or of another version.
#[must_use]
pub fn decode_snapshot(mut bytes: Bytes, now: Timestamp) -> Option<Producers> {
    let version = bytes.try_get_i16().ok()?;
    let crc = bytes.try_get_u32().ok()?;
    if version != SNAPSHOT_VERSION || crc != crc32c::crc32c(&bytes) {
        return None;
    }
    read_snapshot(&mut bytes, now).ok()
}

fn read_snapshot(bytes: &mut Bytes, now: Timestamp) -> Result<Producers, TryGetError> {
    let mut producers = Producers::default();
    for _ in 0..bytes.try_get_i32()? {
        let id = ProducerId(bytes.try_get_i64()?);
        let mut producer = Producer::new(ProducerEpoch(bytes.try_get_i16()?), now);
        let last = get_mark(bytes)?;
        if last.last_offset.0 >= 0 {
            producer.push(last);
        }
        producer.coordinator_epoch = bytes.try_get_i32()?;
        producer.transaction_start = bytes.try_get_i64()?;
        producers.restore(id, producer);
    }
    Ok(producers)
}

/// How much of the active segment's index files is good, as they were when this was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexMark {
    /// The segment.
    pub base: Offset,
    /// How many bytes of the offset index.
    pub offset_bytes: u64,
    /// How many bytes of the time index.
    pub time_bytes: u64,
    /// The CRC-32C of both, the offset index first.
    pub crc: u32,
    /// The timestamp of the segment's first batch.
    pub first_timestamp: Timestamp,
}

/// Where a restart can begin to replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryState {
    /// The end of the log when this was written: the producers are as of here (exclusive).
    pub end: Offset,
    /// The indexes.
    pub index: IndexMark,
    /// The producers.
    pub producers: Producers,
}

impl RecoveryState {
    /// The file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.put_i64(self.end.0);
        body.put_i64(self.index.base.0);
        body.put_u64(self.index.offset_bytes);
        body.put_u64(self.index.time_bytes);
        body.put_u32(self.index.crc);
        body.put_i64(self.index.first_timestamp.0);
        body.put_u32(u32::try_from(self.producers.count()).unwrap_or(u32::MAX));
        for (id, producer) in self.producers.iter() {
            body.put_i64(id.0);
            body.put_i16(producer.epoch.0);
            body.put_i32(producer.coordinator_epoch);
            body.put_i64(producer.transaction_start);
            body.put_u8(u8::try_from(producer.window().len()).unwrap_or(u8::MAX));
            for mark in producer.window() {
                put_mark(&mut body, mark);
            }
        }
        seal(KIND, &body)
    }

    /// What the file says; none if it is damaged.
    #[must_use]
    pub fn decode(bytes: Bytes, now: Timestamp) -> Option<Self> {
        let mut body = unseal(KIND, bytes)?;
        Self::read(&mut body, now).ok()
    }

    fn read(body: &mut Bytes, now: Timestamp) -> Result<Self, TryGetError> {
        let mut state = Self {
            end: Offset(body.try_get_i64()?),
            index: IndexMark {
                base: Offset(body.try_get_i64()?),
                offset_bytes: body.try_get_u64()?,
                time_bytes: body.try_get_u64()?,
                crc: body.try_get_u32()?,
                first_timestamp: Timestamp(body.try_get_i64()?),
            },
            producers: Producers::default(),
        };
        for _ in 0..body.try_get_u32()? {
            let id = ProducerId(body.try_get_i64()?);
            let mut producer = Producer::new(ProducerEpoch(body.try_get_i16()?), now);
            producer.coordinator_epoch = body.try_get_i32()?;
            producer.transaction_start = body.try_get_i64()?;
            for _ in 0..body.try_get_u8()? {
                producer.push(get_mark(body)?);
            }
            state.producers.restore(id, producer);
        }
        Ok(state)
    }
}

fn put_mark(body: &mut Vec<u8>, mark: &BatchMark) {
    body.put_i32(mark.last_sequence.0);
    body.put_i64(mark.last_offset.0);
    body.put_i32(mark.offset_delta);
    body.put_i64(mark.timestamp.0);
}

fn get_mark(bytes: &mut Bytes) -> Result<BatchMark, TryGetError> {
    Ok(BatchMark {
        last_sequence: Sequence(bytes.try_get_i32()?),
        last_offset: Offset(bytes.try_get_i64()?),
        offset_delta: bytes.try_get_i32()?,
        timestamp: Timestamp(bytes.try_get_i64()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn producers(batches: i32) -> Producers {
        let mut producer = Producer::new(ProducerEpoch(2), Timestamp(5));
        for batch in 0..batches {
            producer.push(BatchMark {
                last_sequence: Sequence(batch * 10 + 9),
                last_offset: Offset(i64::from(batch) * 10 + 109),
                offset_delta: 9,
                timestamp: Timestamp(1_000),
            });
        }
        let mut producers = Producers::default();
        producers.restore(ProducerId(7), producer);
        producers.restore(ProducerId(8), Producer::new(ProducerEpoch(0), Timestamp(5)));
        producers
    }

    #[test]
    fn a_snapshot_keeps_the_last_batch() {
        let bytes = encode_snapshot(&producers(3));
        assert_eq!(bytes.len(), 10 + 2 * SNAPSHOT_ENTRY_BYTES);
        let read = decode_snapshot(bytes.into(), Timestamp(5)).unwrap();
        let windows: Vec<_> = read
            .iter()
            .map(|(_, producer)| producer.window().len())
            .collect();
        assert_eq!(windows, [1, 0]);
    }

    #[test]
    fn the_recovery_state_keeps_the_window() {
        let state = RecoveryState {
            end: Offset(200),
            index: IndexMark {
                crc: 17,
                ..IndexMark::default()
            },
            producers: producers(7),
        };
        let read = RecoveryState::decode(state.encode().into(), Timestamp(5));
        assert_eq!(read, Some(state));
    }

    #[test]
    fn damage_is_noticed() {
        let mut bytes = encode_snapshot(&producers(1));
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(decode_snapshot(bytes.into(), Timestamp(0)), None);
        assert_eq!(decode_snapshot(Bytes::new(), Timestamp(0)), None);
    }
}
