//! The records of a batch, walked in place.

use super::{
    header::{BatchHeader, Codec, TimestampType},
    record::{Record, read_record},
    varint::Cursor,
    view::{BatchError, BatchView},
};
use crate::{
    compression,
    ids::{Offset, Timestamp},
    limits::DECOMPRESSED_BYTES_MAX,
};

/// Walks the records of a batch without copying them. After an error the walk ends.
///
/// It checks what the batch's CRC cannot: that lengths stay within their container, that offsets
/// ascend and stay within the batch (they have gaps only where compaction removed records), that
/// there are as many records as the header says and no bytes behind them.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    cursor: Cursor<'a>,
    base_offset: Offset,
    base_timestamp: Timestamp,
    append_time: Option<Timestamp>,
    last_offset_delta: i32,
    count: i32,
    index: i32,
    previous_delta: i32,
    finished: bool,
}

impl<'a> Records<'a> {
    /// The records of the batch with that `header`, which are `records` once decompressed (see
    /// [`BatchView::uncompressed_records`]). For whoever keeps the two apart; else
    /// [`BatchView::records`] is shorter.
    #[must_use]
    pub fn new(header: &BatchHeader, records: &'a [u8]) -> Self {
        let append_time = match header.attributes().timestamp_type() {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(header.max_timestamp()),
        };
        Self {
            cursor: Cursor::new(records),
            base_offset: header.base_offset(),
            base_timestamp: header.base_timestamp(),
            append_time,
            last_offset_delta: header.last_offset_delta(),
            count: header.record_count(),
            index: 0,
            previous_delta: -1,
            finished: false,
        }
    }

    #[inline(always)]
    fn read(&mut self) -> Result<Record<'a>, &'static str> {
        let record = read_record(&mut self.cursor)?;
        let delta = record.offset_delta;
        if delta <= self.previous_delta {
            return Err("its offset is not larger than that of the record before it");
        }
        if delta > self.last_offset_delta {
            return Err("its offset lies behind the end of the batch");
        }
        self.previous_delta = delta;
        let created = || {
            let delta = record.timestamp_delta;
            Timestamp(self.base_timestamp.0.wrapping_add(delta))
        };
        Ok(Record {
            offset: self.base_offset.plus(i64::from(delta)),
            timestamp: self.append_time.unwrap_or_else(created),
            key: record.key,
            value: record.value,
            headers: record.headers,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let index = self.index;
        let outcome = if index < self.count {
            self.index += 1;
            self.read()
        } else {
            self.finished = true;
            if self.count >= 0 && self.cursor.rest().is_empty() {
                return None;
            }
            Err("bytes are left over behind the last record that the header counts")
        };
        self.finished |= outcome.is_err();
        Some(outcome.map_err(|reason| BatchError::BadRecord { index, reason }))
    }
}

impl<'a> BatchView<'a> {
    /// The bytes of the records, decompressed into `scratch` if a codec is set; `scratch` is left
    /// alone otherwise, so that one serves many batches.
    ///
    /// # Errors
    /// [`BatchError::BadCompression`] if the codec is not known, the bytes are not valid, or the
    /// records are larger than [`DECOMPRESSED_BYTES_MAX`].
    pub fn uncompressed_records<'s>(&self, scratch: &'s mut Vec<u8>) -> Result<&'s [u8], BatchError>
    where
        'a: 's,
    {
        let Some(codec) = self.header().attributes().codec() else {
            return Err(BatchError::BadHeader {
                reason: "the codec is not assigned",
            });
        };
        if codec == Codec::None {
            return Ok(self.stored_records());
        }
        let stored = self.stored_records();
        compression::decompress(codec, stored, DECOMPRESSED_BYTES_MAX, scratch)?;
        Ok(scratch)
    }

    /// Its records, borrowed from the batch or, if they are compressed, from `scratch`.
    ///
    /// The CRC is not looked at: see [`BatchView::check_crc`].
    ///
    /// # Errors
    /// As [`BatchView::uncompressed_records`]; each record has an outcome of its own.
    pub fn records<'s>(&self, scratch: &'s mut Vec<u8>) -> Result<Records<'s>, BatchError>
    where
        'a: 's,
    {
        let records = self.uncompressed_records(scratch)?;
        Ok(Records::new(self.header(), records))
    }
}
