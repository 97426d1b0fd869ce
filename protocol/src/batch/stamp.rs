//! Rewrites header fields of a finished batch where it lies.
//!
//! The position is outside of the CRC, so that a leader stamps it for free; the other fields are
//! covered and cost a pass over the batch.

use zerocopy::FromBytes;

use super::{
    builder::ProducerStamp,
    header::{BatchHeader, HEADER_BYTES, TimestampType},
};
use crate::ids::{LeaderEpoch, Offset, Timestamp};

/// Places the batch that is exactly `bytes` in a log: its base offset and leader epoch, which the
/// CRC does not cover.
///
/// Returns whether `bytes` held a header to write to.
pub fn stamp_position(bytes: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch) -> bool {
    let Ok((header, _)) = BatchHeader::mut_from_prefix(bytes) else {
        return false;
    };
    *header = header.with_position(base_offset, leader_epoch);
    true
}

/// Gives the batch that is exactly `bytes` the broker's time: attributes, max timestamp and, as
/// these are covered, a new CRC.
///
/// Returns whether `bytes` held a header to write to.
pub fn stamp_append_time(bytes: &mut [u8], now: Timestamp) -> bool {
    let Some((head, records)) = bytes.split_at_mut_checked(HEADER_BYTES) else {
        return false;
    };
    let Ok(header) = BatchHeader::mut_from_bytes(head) else {
        return false;
    };
    let attributes = header
        .attributes()
        .with_timestamp_type(TimestampType::LogAppendTime);
    *header = header
        .with_attributes(attributes)
        .with_timestamps(header.base_timestamp(), now)
        .with_crc(records);
    true
}

/// Gives the batch that is exactly `bytes` another producer, epoch or sequence and, as these are
/// covered, a new CRC: a producer does so with what it has not sent when its epoch was raised.
///
/// Returns whether `bytes` held a header to write to.
pub fn stamp_producer(bytes: &mut [u8], producer: ProducerStamp) -> bool {
    let Some((head, records)) = bytes.split_at_mut_checked(HEADER_BYTES) else {
        return false;
    };
    let Ok(header) = BatchHeader::mut_from_bytes(head) else {
        return false;
    };
    *header = header
        .with_producer(producer.id, producer.epoch, producer.base_sequence)
        .with_crc(records);
    true
}
