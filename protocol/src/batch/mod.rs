//! The record batch: Kafka's RecordBatch v2, the same bytes in the client, on the wire, on disk and
//! on followers.
//!
//! [`header`] is the fixed part, [`view`] a batch in borrowed bytes, [`records`] walks its records
//! ([`record`]) and [`builder`] makes batches. A broker stamps two fields that the CRC does not
//! cover (base offset, leader epoch) and otherwise leaves the bytes alone.

pub mod builder;
pub mod header;
pub mod record;
pub mod records;
mod stamp;
mod varint;
pub mod view;

pub use builder::{AppendRefused, BatchBuilder, NewRecord, ProducerStamp};
pub use header::{Attributes, BatchHeader, Codec, HEADER_BYTES, TimestampType};
pub use record::{Header, Headers, Record};
pub use records::Records;
pub use stamp::{stamp_append_time, stamp_position, stamp_producer};
pub use varint::varint_bytes;
pub use view::{BatchError, BatchView, header_bytes, split_batches};
