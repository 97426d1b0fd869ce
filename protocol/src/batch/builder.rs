//! A batch under construction.
//!
//! *Pattern: request batch.* Records are encoded where they will be sent from: straight into the
//! buffer of the batch, behind the space for its header. Nothing is allocated per record.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    header::{Attributes, BatchHeader, Codec, HEADER_BYTES},
    varint::{Encoded, varint_bytes},
    view::{BatchError, header_bytes},
};
use crate::{
    compression,
    ids::{ProducerEpoch, ProducerId, Sequence, Timestamp},
    limits::RECORD_HEADERS_MAX,
};

/// A record to be appended.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewRecord<'a> {
    /// When it was created.
    pub timestamp: Timestamp,
    /// Its key; null is not the same as empty.
    pub key: Option<&'a [u8]>,
    /// Its value; null is not the same as empty.
    pub value: Option<&'a [u8]>,
    /// Its headers, in their order; keys may repeat.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// Which producer sends a batch, and the sequence of its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerStamp {
    /// The producer.
    pub id: ProducerId,
    /// Its incarnation.
    pub epoch: ProducerEpoch,
    /// The sequence of the first record.
    pub base_sequence: Sequence,
}

impl ProducerStamp {
    /// A producer that is not idempotent.
    pub const NONE: Self = Self {
        id: ProducerId::NONE,
        epoch: ProducerEpoch::NONE,
        base_sequence: Sequence::NONE,
    };
}

/// Why a record was not appended. The batch is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendRefused {
    /// The batch has no room for it: send the batch, then append to the next one.
    #[error("the batch is full")]
    Full,
    /// No batch has room for it.
    #[error(
        "a record that makes a batch of {bytes} bytes exceeds the limit of {limit}: \
         send smaller records, or raise the topic's `max.message.bytes`"
    )]
    RecordTooLarge {
        /// The size of a batch of this record alone.
        bytes: usize,
        /// The limit that was given.
        limit: usize,
    },
    /// It has more headers than [`RECORD_HEADERS_MAX`].
    #[error("a record of {headers} headers exceeds the limit of {RECORD_HEADERS_MAX}")]
    TooManyHeaders {
        /// How many it has.
        headers: usize,
    },
}

/// Collects records and makes a batch of them, again and again.
///
/// A small batch shares its buffer with the batches after it; one that fills most of its buffer
/// takes it along. To reuse the buffer of a batch that was sent, take it back by
/// [`Bytes::try_into_mut`], which works once nothing else shares it, and hand it to
/// [`BatchBuilder::recycle`].
#[derive(Debug)]
pub struct BatchBuilder {
    buffer: BytesMut,
    codec: Codec,
    bytes_hint: usize,
    records: i32,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
}

impl BatchBuilder {
    /// A builder whose batches are compressed by `codec` and are expected to take at most
    /// `bytes_hint` bytes: its buffer grows to that by doubling, so that a small batch takes little
    /// memory.
    #[must_use]
    pub fn new(codec: Codec, bytes_hint: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            codec,
            bytes_hint,
            records: 0,
            base_timestamp: Timestamp::NONE,
            max_timestamp: Timestamp::NONE,
        }
    }

    /// Uses the memory of `buffer` for the next batches. Ignored while a batch is under
    /// construction or if the buffer is smaller than the one in use.
    pub fn recycle(&mut self, mut buffer: BytesMut) {
        if self.is_empty() && buffer.capacity() > self.buffer.capacity() {
            buffer.clear();
            self.buffer = buffer;
        }
    }

    /// Sets the codec of the batch under construction and of those after it.
    pub fn use_codec(&mut self, codec: Codec) {
        self.codec = codec;
    }

    /// Whether it holds no record.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// How many records it holds.
    #[must_use]
    pub const fn record_count(&self) -> i32 {
        self.records
    }

    /// The size of the batch if it were finished now and did not compress; it never gets larger.
    #[must_use]
    pub fn estimated_bytes(&self) -> usize {
        if self.is_empty() {
            0
        } else {
            self.buffer.len()
        }
    }

    /// Appends a record unless the batch would exceed `limit_bytes`, and returns its offset
    /// relative to the batch.
    ///
    /// Compression is not counted on: a batch that does not shrink stays below the limit too.
    ///
    /// # Errors
    /// [`AppendRefused`]; the batch is as it was.
    #[inline(always)]
    pub fn try_append(
        &mut self,
        limit_bytes: usize,
        record: NewRecord<'_>,
    ) -> Result<i32, AppendRefused> {
        let delta = self.records;
        let first = delta == 0;
        let base_timestamp = if first {
            record.timestamp
        } else {
            self.base_timestamp
        };
        // Wrapping, as the reader's addition: any two timestamps read back.
        let timestamp_delta = record.timestamp.0.wrapping_sub(base_timestamp.0);
        let body = body_bytes(timestamp_delta, delta, &record);
        let length = plain_length(body);
        let needed = body.saturating_add(varint_bytes(length));
        let start = if first {
            HEADER_BYTES
        } else {
            self.buffer.len()
        };
        let end = start.saturating_add(needed);
        let limit = limit_bytes.min(BYTES_MAX);
        if end > limit || delta == i32::MAX {
            return Err(refusal(needed, limit));
        }
        if record.headers.len() > RECORD_HEADERS_MAX {
            let headers = record.headers.len();
            return Err(AppendRefused::TooManyHeaders { headers });
        }
        if first {
            self.begin(end, record.timestamp);
        } else {
            self.make_room(end);
        }
        self.encode(length, timestamp_delta, delta, &record);
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        self.records += 1;
        Ok(delta)
    }

    /// Makes the batch: with its header and CRC, compressed if that makes it smaller, at base
    /// offset 0 and without a leader epoch, which the leader stamps. The builder is then empty.
    ///
    /// # Errors
    /// If it holds no record, or if the codec fails; the records are gone then.
    pub fn finish(&mut self, producer: ProducerStamp) -> Result<Bytes, BatchError> {
        if self.is_empty() {
            return Err(BatchError::BadHeader {
                reason: "it holds no records",
            });
        }
        let header = BatchHeader::empty()
            .with_timestamps(self.base_timestamp, self.max_timestamp)
            .with_producer(producer.id, producer.epoch, producer.base_sequence);
        let records = std::mem::take(&mut self.records);
        let codec = self.codec;
        if codec != Codec::None {
            let raw = self.buffer.get(HEADER_BYTES..).unwrap_or_default();
            let compressed = compress_behind_header(codec, raw)?;
            if let Some(mut batch) = compressed {
                self.buffer.clear();
                let header = header.with_attributes(Attributes::default().with_codec(codec));
                seal(&mut batch, header, records);
                return Ok(Bytes::from(batch));
            }
        }
        let left = self.buffer.capacity().saturating_sub(self.buffer.len());
        let mut batch = if left < self.buffer.len() {
            std::mem::take(&mut self.buffer)
        } else {
            self.buffer.split()
        };
        seal(&mut batch, header, records);
        Ok(batch.freeze())
    }

    /// Forgets the records.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.records = 0;
    }

    #[cold]
    fn begin(&mut self, end: usize, timestamp: Timestamp) {
        self.buffer.clear();
        self.make_room(end);
        self.buffer.extend_from_slice(&[0; HEADER_BYTES]);
        self.base_timestamp = timestamp;
        self.max_timestamp = timestamp;
    }

    #[inline]
    fn make_room(&mut self, end: usize) {
        if end > self.buffer.capacity() {
            self.grow(end);
        }
    }

    /// By doubling, but to the expected size exactly.
    #[cold]
    fn grow(&mut self, end: usize) {
        let doubled = self.buffer.len().saturating_mul(2).max(BYTES_FIRST);
        let target = if end <= self.bytes_hint {
            doubled.min(self.bytes_hint).max(end)
        } else {
            doubled.max(end)
        };
        self.buffer
            .reserve(target.saturating_sub(self.buffer.len()));
    }

    #[inline(always)]
    fn encode(&mut self, length: i64, timestamp_delta: i64, delta: i32, record: &NewRecord<'_>) {
        let mut encoded = Encoded::new();
        encoded.varint(length);
        encoded.byte(0);
        encoded.varint(timestamp_delta);
        encoded.varint(i64::from(delta));
        encoded.varint(nullable_length(record.key));
        if let Some(key) = record.key {
            self.put(&encoded);
            self.buffer.extend_from_slice(key);
            encoded.clear();
        }
        encoded.varint(nullable_length(record.value));
        self.put(&encoded);
        self.buffer
            .extend_from_slice(record.value.unwrap_or_default());
        if record.headers.is_empty() {
            self.buffer.put_u8(0);
        } else {
            self.encode_headers(record.headers);
        }
    }

    /// Copies sixteen bytes and keeps those that count, where there is room: a copy of a known
    /// length takes two instructions.
    #[inline(always)]
    fn put(&mut self, encoded: &Encoded) {
        let (bytes, start) = (encoded.as_bytes(), self.buffer.len());
        match encoded.first_bytes() {
            Some(first) if self.buffer.capacity().saturating_sub(start) >= first.len() => {
                self.buffer.extend_from_slice(first);
                self.buffer.truncate(start.saturating_add(bytes.len()));
            }
            _ => self.buffer.extend_from_slice(bytes),
        }
    }

    fn encode_headers(&mut self, headers: &[(&str, Option<&[u8]>)]) {
        let mut encoded = Encoded::new();
        encoded.varint(plain_length(headers.len()));
        for (key, value) in headers {
            encoded.varint(plain_length(key.len()));
            self.buffer.extend_from_slice(encoded.as_bytes());
            self.buffer.extend_from_slice(key.as_bytes());
            encoded.clear();
            encoded.varint(nullable_length(*value));
            self.buffer.extend_from_slice(encoded.as_bytes());
            self.buffer.extend_from_slice(value.unwrap_or_default());
            encoded.clear();
        }
    }
}

/// How much a buffer takes at first.
const BYTES_FIRST: usize = 4 << 10;

/// Lengths within a batch are 32 bits.
const BYTES_MAX: usize = 0x7fff_ffff;

#[cold]
fn refusal(needed: usize, limit: usize) -> AppendRefused {
    let bytes = needed.saturating_add(HEADER_BYTES);
    if bytes > limit {
        AppendRefused::RecordTooLarge { bytes, limit }
    } else {
        AppendRefused::Full
    }
}

fn seal(batch: &mut [u8], header: BatchHeader, records: i32) {
    let batch_bytes = batch.len();
    if let Some((head, body)) = batch.split_at_mut_checked(HEADER_BYTES) {
        let header = header.with_records(records, batch_bytes).with_crc(body);
        head.copy_from_slice(header_bytes(&header));
    }
}

/// None if the result is not smaller than what went in.
fn compress_behind_header(codec: Codec, raw: &[u8]) -> Result<Option<Vec<u8>>, BatchError> {
    let mut batch = Vec::with_capacity(HEADER_BYTES + raw.len() / 2);
    batch.resize(HEADER_BYTES, 0);
    compression::compress(codec, raw, &mut batch)?;
    Ok((batch.len() < HEADER_BYTES + raw.len()).then_some(batch))
}

#[inline]
fn plain_length(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[inline]
fn nullable_length(bytes: Option<&[u8]>) -> i64 {
    bytes.map_or(-1, |bytes| plain_length(bytes.len()))
}

#[inline]
fn nullable_bytes(bytes: Option<&[u8]>) -> usize {
    varint_bytes(nullable_length(bytes)).saturating_add(bytes.map_or(0, <[u8]>::len))
}

/// The size of a record without its length field.
#[inline]
fn body_bytes(timestamp_delta: i64, delta: i32, record: &NewRecord<'_>) -> usize {
    let mut bytes = 1_usize
        .saturating_add(varint_bytes(timestamp_delta))
        .saturating_add(varint_bytes(i64::from(delta)))
        .saturating_add(nullable_bytes(record.key))
        .saturating_add(nullable_bytes(record.value))
        .saturating_add(varint_bytes(plain_length(record.headers.len())));
    for (key, value) in record.headers {
        bytes = bytes
            .saturating_add(nullable_bytes(Some(key.as_bytes())))
            .saturating_add(nullable_bytes(*value));
    }
    bytes
}
