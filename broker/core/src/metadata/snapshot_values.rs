//! The records of a snapshot as bytes: as many of them in one value as make a batch worth it.
//!
//! A value is a format version (u8), then one MessagePack message with named fields per record, one
//! behind the other. It is never larger than an entry of the log may be.

use serde::Deserialize;

use super::{
    image::{Image, ImageBuilder, SnapshotError, SnapshotRecord},
    limits::ENTRY_BYTES_MAX,
};

/// The format of the values. Another one means another layout.
const FORMAT: u8 = 1;

/// A value is closed once it has so many bytes. A record has less than what is left of an entry.
const VALUE_BYTES: usize = 64 << 10;

/// The bytes are not a part of a snapshot that this broker can use.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotValueError {
    /// It has another format.
    #[error(
        "part of a metadata snapshot has format {format:?}, and this broker knows {FORMAT}; start \
         the version of strandline that wrote it"
    )]
    UnknownFormat {
        /// The format; none if there is not a byte.
        format: Option<u8>,
    },
    /// It is larger than any.
    #[error("part of a metadata snapshot of {bytes} bytes is larger than {ENTRY_BYTES_MAX}")]
    TooLong {
        /// How large it is.
        bytes: usize,
    },
    /// A record does not read.
    #[error("part of a metadata snapshot cannot be read: {0}")]
    Unreadable(#[from] rmp_serde::decode::Error),
    /// A record does not fit to those before it.
    #[error(transparent)]
    Unfit(#[from] SnapshotError),
}

impl Image {
    /// The records of [`Image::snapshot`] as bytes, made one value after the other.
    pub fn snapshot_values(&self) -> impl Iterator<Item = Vec<u8>> {
        let mut records = self.snapshot();
        std::iter::from_fn(move || {
            let mut value = vec![FORMAT];
            while value.len() < VALUE_BYTES {
                let Some(record) = records.next() else {
                    break;
                };
                // The records hold nothing that the encoder can refuse: no sequence of unknown
                // length, and no map with keys that are not strings.
                value.append(&mut rmp_serde::to_vec_named(&record).unwrap_or_default());
            }
            (value.len() > 1).then_some(value)
        })
    }
}

impl ImageBuilder {
    /// Takes in the next of [`Image::snapshot_values`].
    ///
    /// # Errors
    /// [`SnapshotValueError`]; the builder is then good for nothing.
    pub fn add_value(&mut self, value: &[u8]) -> Result<(), SnapshotValueError> {
        if value.len() > ENTRY_BYTES_MAX {
            let bytes = value.len();
            return Err(SnapshotValueError::TooLong { bytes });
        }
        let Some((&FORMAT, mut rest)) = value.split_first() else {
            let format = value.first().copied();
            return Err(SnapshotValueError::UnknownFormat { format });
        };
        while !rest.is_empty() {
            let mut decoder = rmp_serde::Deserializer::new(&mut rest);
            decoder.set_max_depth(16);
            self.add(SnapshotRecord::deserialize(&mut decoder)?)?;
        }
        Ok(())
    }
}
