//! The record batch: Kafka's RecordBatch v2, the same bytes in the client, on the wire, on disk and
//! on followers.
//!
//! [`header`] is the fixed part, [`view`] a batch in borrowed bytes, [`records`] walks its records
//! ([`record`]) and [`builder`] makes batches. A broker stamps two fields that the CRC does not
//! cover (base offset, leader epoch) and otherwise leaves the bytes alone.
//!
//! ```
//! use strandline_protocol::batch::{BatchBuilder, BatchView, Codec, NewRecord, ProducerStamp};
//!
//! let mut builder = BatchBuilder::new(Codec::Zstd, 16 << 10);
//! let value = b"the same, the same, the same, the same, the same".repeat(10);
//! let record = NewRecord { key: Some(b"k"), value: Some(&value), ..NewRecord::default() };
//! assert_eq!(builder.try_append(1 << 20, record)?, 0);
//! assert_eq!(builder.try_append(1 << 20, record)?, 1);
//! let bytes = builder.finish(ProducerStamp::NONE)?;
//!
//! let batch = BatchView::exactly(&bytes)?;
//! batch.check_crc()?;
//! let mut scratch = Vec::new();
//! for record in batch.records(&mut scratch)? {
//!     assert_eq!(record?.value, Some(value.as_slice()));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod builder;
pub mod header;
pub mod record;
pub mod records;
mod stamp;
mod varint;
pub mod view;

pub use builder::{AppendRefused, BatchBuilder, NewRecord, ProducerStamp};
pub use header::{Attributes, BatchHeader, CRC_START, Codec, HEADER_BYTES, MAGIC, TimestampType};
pub use record::{Header, Headers, Record};
pub use records::Records;
pub use stamp::{stamp_append_time, stamp_position, stamp_producer};
pub use varint::varint_bytes;
pub use view::{BatchError, BatchView, header_bytes, split_batches};
