//! The record batch: Kafka's RecordBatch v2, the same bytes in the client, on the wire, on disk and
//! on followers.
//!
//! [`header`] is the fixed part, [`view`] a batch in borrowed bytes. A broker stamps two fields that
//! the CRC does not cover (base offset, leader epoch) and otherwise leaves the bytes alone.

pub mod header;
pub mod view;

pub use header::{Attributes, BatchHeader, Codec, HEADER_BYTES, TimestampType};
pub use view::{
    BatchError, BatchView, header_bytes, split_batches, stamp_append_time, stamp_position,
};
