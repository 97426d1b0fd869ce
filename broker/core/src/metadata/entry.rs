//! The bytes of one entry of the metadata log.
//!
//! *Pattern: write-ahead log.* An entry is the value of the one record of its batch: a format
//! version (u8), a kind (u8: 0 blank, 1 membership, 2 command), then MessagePack with named fields.
//! All changes of a decision that fit stand in one entry, and an entry is applied whole.

use serde::de::DeserializeOwned;

use super::{
    limits::ENTRY_BYTES_MAX,
    record::{METADATA_VERSION, Membership, Record},
};

/// The format of the bytes around the records. Another one means another layout.
pub const ENTRY_FORMAT: u8 = 1;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing: a leader makes its term known with it.
    Blank,
    /// Who keeps the log. The entry at offset 0 is one.
    Membership(Membership),
    /// Facts, applied in their order, all at once.
    Command(Vec<Record>),
}

/// The bytes are not an entry that this broker can apply. It must not start on such a log.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// There is less than a header.
    #[error("a metadata entry of {bytes} bytes is too short")]
    TooShort {
        /// How many bytes there are.
        bytes: usize,
    },
    /// More than any entry may hold.
    #[error("a metadata entry of {bytes} bytes is larger than {ENTRY_BYTES_MAX}")]
    TooLong {
        /// How many bytes there are.
        bytes: usize,
    },
    /// A newer broker wrote it.
    #[error(
        "metadata entry format {format} is newer than {ENTRY_FORMAT}, the newest that this broker \
         knows; start the version of strandline that wrote it"
    )]
    UnknownFormat {
        /// The format.
        format: u8,
    },
    /// A newer broker wrote it.
    #[error("metadata entry kind {kind} is unknown; start the version of strandline that wrote it")]
    UnknownKind {
        /// The kind.
        kind: u8,
    },
    /// The cluster was upgraded beyond this broker.
    #[error(
        "metadata version {version} is newer than {METADATA_VERSION}, the newest that this broker \
         knows; start the version of strandline that wrote it"
    )]
    NewerVersion {
        /// The version.
        version: u16,
    },
    /// The body does not read.
    #[error("a metadata entry cannot be read: {source}")]
    Unreadable {
        /// What the decoder met.
        source: rmp_serde::decode::Error,
    },
}

impl Entry {
    /// The bytes of the entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, mut body) = match self {
            Self::Blank => (0, Vec::new()),
            Self::Membership(membership) => (1, message(membership)),
            Self::Command(records) => (2, message(records)),
        };
        let mut bytes = vec![ENTRY_FORMAT, kind];
        bytes.append(&mut body);
        bytes
    }

    /// Reads the bytes of an entry and makes sure that this broker can apply it.
    ///
    /// # Errors
    /// [`EntryError`] if it is damaged or written by a newer broker.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(EntryError::TooLong { bytes: bytes.len() });
        }
        let [format, kind, body @ ..] = bytes else {
            return Err(EntryError::TooShort { bytes: bytes.len() });
        };
        if *format != ENTRY_FORMAT {
            return Err(EntryError::UnknownFormat { format: *format });
        }
        match kind {
            0 => Ok(Self::Blank),
            1 => body_of(body).map(Self::Membership),
            2 => {
                let records: Vec<Record> = body_of(body)?;
                records.iter().try_for_each(check_version)?;
                Ok(Self::Command(records))
            }
            kind => Err(EntryError::UnknownKind { kind: *kind }),
        }
    }

    /// Puts records into as few entries as hold them, in their order. Each record is valid alone,
    /// so a crash between two entries leaves a state that is whole.
    #[must_use]
    pub fn pack(records: Vec<Record>) -> Vec<Self> {
        // Format, kind, and the head of a MessagePack array of any length.
        const HEAD_BYTES: usize = 2 + 5;
        let mut entries = Vec::new();
        let (mut current, mut bytes) = (Vec::new(), HEAD_BYTES);
        for record in records {
            let size = message(&record).len();
            if bytes + size > ENTRY_BYTES_MAX && !current.is_empty() {
                entries.push(Self::Command(std::mem::take(&mut current)));
                bytes = HEAD_BYTES;
            }
            bytes += size;
            current.push(record);
        }
        if !current.is_empty() {
            entries.push(Self::Command(current));
        }
        entries
    }
}

fn check_version(record: &Record) -> Result<(), EntryError> {
    match record {
        Record::MetadataVersionSet { version } if *version > METADATA_VERSION => {
            Err(EntryError::NewerVersion { version: *version })
        }
        _ => Ok(()),
    }
}

fn message<M: serde::Serialize>(body: &M) -> Vec<u8> {
    // The records hold nothing that the encoder can refuse: no sequence of unknown length, and no
    // map with keys that are not strings.
    rmp_serde::to_vec_named(body).unwrap_or_default()
}

fn body_of<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, EntryError> {
    let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
    decoder.set_max_depth(16);
    M::deserialize(&mut decoder).map_err(|source| EntryError::Unreadable { source })
}
