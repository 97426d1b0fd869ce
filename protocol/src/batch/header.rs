//! The 61 bytes in front of every batch.
//!
//! ```text
//! offset size field                      big-endian
//!      0    8 base offset                set by the leader
//!      8    4 length                     of all that follows this field
//!     12    4 partition leader epoch     set by the leader
//!     16    1 magic                      2
//!     17    4 CRC-32C                    of bytes 21 to the end
//!     21    2 attributes                 see `Attributes`
//!     23    4 last offset delta
//!     27    8 base timestamp
//!     35    8 max timestamp
//!     43    8 producer id                -1: not idempotent
//!     51    2 producer epoch
//!     53    4 base sequence
//!     57    4 number of records
//!     61      records                    one compressed blob if a codec is set
//! ```
//!
//! Source: Kafka's `DefaultRecordBatch`.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::big_endian::{I16, I32, I64, U32},
};

use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// The size of the header.
pub const HEADER_BYTES: usize = 61;

/// Where the length field ends: a batch is this and its length.
pub const LENGTH_END: usize = 12;

/// Where the bytes begin that the CRC covers.
pub const CRC_START: usize = 21;

/// The only magic that is spoken here.
pub const MAGIC: i8 = 2;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Snappy in xerial's framing; raw Snappy is read too.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Codec {
    /// Every codec.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The number in the attributes.
    #[must_use]
    pub const fn number(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The name, as in `compression.type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }
}

/// Whose clock the timestamps of a batch are from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's, when it appended; the max timestamp then holds for all records.
    LogAppendTime,
}

/// The flags of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub i16);

impl Attributes {
    const CODEC: i16 = 0b111;
    const LOG_APPEND_TIME: i16 = 1 << 3;
    const TRANSACTIONAL: i16 = 1 << 4;
    const CONTROL: i16 = 1 << 5;
    const DELETE_HORIZON: i16 = 1 << 6;
    const KNOWN: i16 = (1 << 7) - 1;

    /// The codec; none if its number is not assigned.
    #[must_use]
    pub const fn codec(self) -> Option<Codec> {
        match self.0 & Self::CODEC {
            0 => Some(Codec::None),
            1 => Some(Codec::Gzip),
            2 => Some(Codec::Snappy),
            3 => Some(Codec::Lz4),
            4 => Some(Codec::Zstd),
            _ => None,
        }
    }

    /// The same with another codec.
    #[must_use]
    pub const fn with_codec(self, codec: Codec) -> Self {
        Self(self.0 & !Self::CODEC | codec.number())
    }

    /// Whose clock the timestamps are from.
    #[must_use]
    pub const fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// The same with timestamps of another clock.
    #[must_use]
    pub const fn with_timestamp_type(self, timestamp_type: TimestampType) -> Self {
        match timestamp_type {
            TimestampType::CreateTime => Self(self.0 & !Self::LOG_APPEND_TIME),
            TimestampType::LogAppendTime => Self(self.0 | Self::LOG_APPEND_TIME),
        }
    }

    /// Whether the batch is part of a transaction.
    #[must_use]
    pub const fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch is a marker that applications never see.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Whether the base timestamp is a delete horizon, as compaction leaves it.
    #[must_use]
    pub const fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }

    /// Whether a bit is set that nobody has assigned.
    #[must_use]
    pub const fn has_unknown(self) -> bool {
        self.0 & !Self::KNOWN != 0
    }
}

/// The header, laid over its bytes. Fields are private: what they mean is read by methods.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BatchHeader {
    base_offset: I64,
    length: I32,
    leader_epoch: I32,
    magic: i8,
    crc: U32,
    attributes: I16,
    last_offset_delta: I32,
    base_timestamp: I64,
    max_timestamp: I64,
    producer_id: I64,
    producer_epoch: I16,
    base_sequence: I32,
    record_count: I32,
}

const _: () = assert!(size_of::<BatchHeader>() == HEADER_BYTES);

impl BatchHeader {
    /// A header for a batch of no records yet: no codec, not idempotent, base offset 0, no epoch.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            base_offset: I64::ZERO,
            length: I32::ZERO,
            leader_epoch: I32::new(-1),
            magic: MAGIC,
            crc: U32::ZERO,
            attributes: I16::ZERO,
            last_offset_delta: I32::new(-1),
            base_timestamp: I64::new(-1),
            max_timestamp: I64::new(-1),
            producer_id: I64::new(-1),
            producer_epoch: I16::new(-1),
            base_sequence: I32::new(-1),
            record_count: I32::ZERO,
        }
    }

    /// The offset of the first record.
    #[must_use]
    pub fn base_offset(&self) -> Offset {
        Offset(self.base_offset.get())
    }

    /// The offset of the last record that the batch had when it was written.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset()
            .plus(i64::from(self.last_offset_delta.get()))
    }

    /// The offset behind the batch.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// The size of the whole batch as declared; none if it cannot hold a header.
    #[must_use]
    pub fn batch_bytes(&self) -> Option<usize> {
        let bytes = usize::try_from(self.length.get())
            .ok()?
            .checked_add(LENGTH_END)?;
        (bytes >= HEADER_BYTES).then_some(bytes)
    }

    /// The epoch of the leader that appended it.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.leader_epoch.get())
    }

    /// The version of the format.
    #[must_use]
    pub const fn magic(&self) -> i8 {
        self.magic
    }

    /// The CRC-32C as declared.
    #[must_use]
    pub fn crc(&self) -> u32 {
        self.crc.get()
    }

    /// The flags.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        Attributes(self.attributes.get())
    }

    /// The offset of the last record, relative to the first.
    #[must_use]
    pub fn last_offset_delta(&self) -> i32 {
        self.last_offset_delta.get()
    }

    /// The timestamp of the first record, or the delete horizon.
    #[must_use]
    pub fn base_timestamp(&self) -> Timestamp {
        Timestamp(self.base_timestamp.get())
    }

    /// The largest timestamp of a record.
    #[must_use]
    pub fn max_timestamp(&self) -> Timestamp {
        Timestamp(self.max_timestamp.get())
    }

    /// Who produced it.
    #[must_use]
    pub fn producer_id(&self) -> ProducerId {
        ProducerId(self.producer_id.get())
    }

    /// In which incarnation.
    #[must_use]
    pub fn producer_epoch(&self) -> ProducerEpoch {
        ProducerEpoch(self.producer_epoch.get())
    }

    /// The sequence of its first record.
    #[must_use]
    pub fn base_sequence(&self) -> Sequence {
        Sequence(self.base_sequence.get())
    }

    /// How many records it holds.
    #[must_use]
    pub fn record_count(&self) -> i32 {
        self.record_count.get()
    }

    /// The same header, describing `records` records in `batch_bytes` bytes in all.
    #[must_use]
    pub fn with_records(mut self, records: i32, batch_bytes: usize) -> Self {
        let length = batch_bytes.saturating_sub(LENGTH_END);
        self.length.set(i32::try_from(length).unwrap_or(i32::MAX));
        self.last_offset_delta.set(records.saturating_sub(1));
        self.record_count.set(records);
        self
    }

    /// The same header with the flags.
    #[must_use]
    pub fn with_attributes(mut self, attributes: Attributes) -> Self {
        self.attributes.set(attributes.0);
        self
    }

    /// The same header with the timestamps of its first and of its youngest record.
    #[must_use]
    pub fn with_timestamps(mut self, base: Timestamp, max: Timestamp) -> Self {
        self.base_timestamp.set(base.0);
        self.max_timestamp.set(max.0);
        self
    }

    /// The same header, sent by an idempotent producer.
    #[must_use]
    pub fn with_producer(
        mut self,
        id: ProducerId,
        epoch: ProducerEpoch,
        base_sequence: Sequence,
    ) -> Self {
        self.producer_id.set(id.0);
        self.producer_epoch.set(epoch.0);
        self.base_sequence.set(base_sequence.0);
        self
    }

    /// The same header, placed in a log.
    #[must_use]
    pub fn with_position(mut self, base_offset: Offset, leader_epoch: LeaderEpoch) -> Self {
        self.base_offset.set(base_offset.0);
        self.leader_epoch.set(leader_epoch.0);
        self
    }

    /// The same header with its checksum, which must be the last field to be set: it covers all but
    /// position and length, and `records`.
    #[must_use]
    pub fn with_crc(mut self, records: &[u8]) -> Self {
        let covered = crc32c::crc32c(self.as_bytes().get(CRC_START..).unwrap_or_default());
        self.crc.set(crc32c::crc32c_append(covered, records));
        self
    }
}
