//! One entry of the metadata log as one record batch, and back.

use strandline_core::metadata::{Entry, limits::ENTRY_BYTES_MAX};
use strandline_protocol::{
    LeaderEpoch, Offset, Timestamp,
    batch::{BatchBuilder, BatchError, BatchView, Codec, NewRecord, ProducerStamp},
};

/// What a batch puts around an entry, at most.
pub(super) const OVERHEAD_BYTES: usize = 256;

/// The largest batch of an entry.
pub(super) const BATCH_BYTES_MAX: usize = ENTRY_BYTES_MAX + OVERHEAD_BYTES;

/// The batch of `entry`: one record without a key, whose value is the entry.
pub(super) fn encode(entry: &Entry, now: Timestamp) -> Result<bytes::Bytes, String> {
    encode_record(None, &entry.encode(), now)
}

/// A batch of one record.
pub(super) fn encode_record(
    key: Option<&[u8]>,
    value: &[u8],
    now: Timestamp,
) -> Result<bytes::Bytes, String> {
    let mut builder = BatchBuilder::new(Codec::None, value.len() + OVERHEAD_BYTES);
    let record = NewRecord {
        timestamp: now,
        key,
        value: Some(value),
        headers: &[],
    };
    builder
        .try_append(BATCH_BYTES_MAX, record)
        .map_err(|refused| refused.to_string())?;
    builder
        .finish(ProducerStamp::NONE)
        .map_err(|error| error.to_string())
}

/// What one batch of the log holds.
pub(super) struct Stored {
    pub(super) offset: Offset,
    pub(super) term: LeaderEpoch,
    /// The bytes of the entry.
    pub(super) entry: Vec<u8>,
}

/// Reads one batch of the log.
pub(super) fn decode(batch: &BatchView<'_>) -> Result<Stored, String> {
    Ok(Stored {
        offset: batch.header().base_offset(),
        term: batch.header().leader_epoch(),
        entry: decode_record(batch)?.1,
    })
}

/// Key and value of the one record of a batch.
pub(super) fn decode_record(batch: &BatchView<'_>) -> Result<(Option<Vec<u8>>, Vec<u8>), String> {
    let read = |error: BatchError| error.to_string();
    let mut scratch = Vec::new();
    let mut records = batch.records(&mut scratch).map_err(read)?;
    let record = records
        .next()
        .ok_or("a batch holds no record")?
        .map_err(read)?;
    if records.next().is_some() {
        return Err("a batch holds more than one record".into());
    }
    let value = record.value.ok_or("a record holds no entry")?.to_vec();
    Ok((record.key.map(<[u8]>::to_vec), value))
}
