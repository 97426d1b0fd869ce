//! A batch in borrowed bytes: looked at, checked, never copied.

use zerocopy::{FromBytes, IntoBytes};

use super::header::{BatchHeader, CRC_START, HEADER_BYTES, MAGIC};
use crate::{
    compression::CompressionError,
    ids::{ProducerEpoch, ProducerId, Sequence},
    limits::DECOMPRESSED_BYTES_MAX,
};

/// Why bytes are not a batch, or not one that may be appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than a header, or than the header declares.
    #[error("a batch of {needed} bytes does not fit into the {available} that are there")]
    Truncated {
        /// What the batch needs.
        needed: usize,
        /// What is there.
        available: usize,
    },
    /// The declared length is negative or smaller than a header.
    #[error("the declared length of the batch cannot hold its header")]
    BadLength,
    /// Another version of the format.
    #[error("batches of magic {magic} are not supported, only of magic 2")]
    BadMagic {
        /// The declared version.
        magic: i8,
    },
    /// The CRC does not match.
    #[error("the CRC of the batch is {computed:#010x}, its header says {declared:#010x}")]
    BadCrc {
        /// What the header says.
        declared: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A header field contradicts another one or is out of range.
    #[error("the batch header is not valid: {reason}")]
    BadHeader {
        /// Which and why.
        reason: &'static str,
    },
    /// A record contradicts its length, or the batch's header.
    #[error("record {index} of the batch is not valid: {reason}")]
    BadRecord {
        /// Which one, counted from 0.
        index: i32,
        /// Why.
        reason: &'static str,
    },
    /// The records cannot be compressed or decompressed, or are larger than allowed.
    #[error("the records of the batch cannot be read: {0}")]
    BadCompression(#[from] CompressionError),
}

/// A batch whose bytes are all there. Nothing but its length and magic has been checked.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    header: &'a BatchHeader,
    bytes: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// The batch that `bytes` begins with. What lies behind it is not looked at.
    ///
    /// # Errors
    /// If the bytes do not hold a whole batch of magic 2.
    pub fn first(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let available = bytes.len();
        let (header, _) =
            BatchHeader::ref_from_prefix(bytes).map_err(|_| BatchError::Truncated {
                needed: HEADER_BYTES,
                available,
            })?;
        let needed = header.batch_bytes().ok_or(BatchError::BadLength)?;
        if header.magic() != MAGIC {
            return Err(BatchError::BadMagic {
                magic: header.magic(),
            });
        }
        let bytes = bytes
            .get(..needed)
            .ok_or(BatchError::Truncated { needed, available })?;
        Ok(Self { header, bytes })
    }

    /// The batch that is exactly `bytes`.
    ///
    /// # Errors
    /// As [`BatchView::first`], and if bytes are left over.
    pub fn exactly(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let batch = Self::first(bytes)?;
        if batch.bytes.len() == bytes.len() {
            Ok(batch)
        } else {
            Err(BatchError::BadHeader {
                reason: "bytes are left over behind the batch",
            })
        }
    }

    /// Its header.
    #[must_use]
    pub const fn header(&self) -> &'a BatchHeader {
        self.header
    }

    /// All of its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its records as they are stored: compressed, if a codec is set.
    #[must_use]
    pub fn stored_records(&self) -> &'a [u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// Compares the CRC with the bytes that it covers.
    ///
    /// # Errors
    /// [`BatchError::BadCrc`].
    pub fn check_crc(&self) -> Result<(), BatchError> {
        let computed = crc32c::crc32c(self.bytes.get(CRC_START..).unwrap_or_default());
        let declared = self.header.crc();
        if computed == declared {
            Ok(())
        } else {
            Err(BatchError::BadCrc { declared, computed })
        }
    }

    /// Checks the header as a leader must before it appends what a client sent: every field that
    /// can be checked without looking at a record.
    ///
    /// # Errors
    /// [`BatchError::BadHeader`] says which field and why.
    pub fn check_produced(&self) -> Result<(), BatchError> {
        let header = self.header;
        let attributes = header.attributes();
        let (count, last) = (header.record_count(), header.last_offset_delta());
        let least = i64::from(count).saturating_mul(MIN_RECORD_BYTES);
        let available = match attributes.codec() {
            Some(super::Codec::None) => self.stored_records().len(),
            _ => DECOMPRESSED_BYTES_MAX,
        };
        let available = i64::try_from(available).unwrap_or(i64::MAX);
        let reason = if count <= 0 {
            "it holds no records"
        } else if last.checked_add(1) != Some(count) {
            "the last offset delta is not the number of records less one"
        } else if attributes.codec().is_none() {
            "the codec is not assigned"
        } else if available < least {
            "it declares more records than its bytes can hold"
        } else if attributes.has_unknown() {
            "attributes are set that are not assigned"
        } else if attributes.is_control() {
            "clients must not send control batches"
        } else if attributes.has_delete_horizon() {
            "clients must not set a delete horizon"
        } else if attributes.timestamp_type() == super::TimestampType::LogAppendTime {
            "clients must not claim the broker's time"
        } else if header.max_timestamp() < header.base_timestamp() {
            "the max timestamp is smaller than the base timestamp"
        } else {
            return self.check_producer();
        };
        Err(BatchError::BadHeader { reason })
    }

    fn check_producer(&self) -> Result<(), BatchError> {
        let header = self.header;
        let (id, epoch, sequence) = (
            header.producer_id(),
            header.producer_epoch(),
            header.base_sequence(),
        );
        let idempotent = id.0 >= 0 && epoch.0 >= 0 && sequence.0 >= 0;
        let plain = id == ProducerId::NONE
            && epoch == ProducerEpoch::NONE
            && sequence == Sequence::NONE
            && !header.attributes().is_transactional();
        if idempotent || plain {
            Ok(())
        } else {
            let reason = "producer id, epoch and sequence are neither all set nor all -1";
            Err(BatchError::BadHeader { reason })
        }
    }
}

/// The smallest record: length, attributes, two deltas, two lengths, a count of headers.
const MIN_RECORD_BYTES: i64 = 7;

/// Walks the batches that `bytes` consists of. After an error the walk ends.
pub fn split_batches(bytes: &[u8]) -> impl Iterator<Item = Result<BatchView<'_>, BatchError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let batch = BatchView::first(rest);
        rest = batch
            .as_ref()
            .ok()
            .and_then(|batch| rest.get(batch.bytes.len()..))
            .unwrap_or_default();
        Some(batch)
    })
}

/// The bytes of a header, to be written in front of records.
#[must_use]
pub fn header_bytes(header: &BatchHeader) -> &[u8] {
    header.as_bytes()
}
