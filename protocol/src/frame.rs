//! The frame: what one request, response or push looks like on a connection.
//!
//! *Pattern: single-socket channel.* Everything between two peers travels in order in frames.
//!
//! ```text
//! offset size field            big-endian
//!      0    4 length           of all that follows it
//!      4    2 API key
//!      6    2 version
//!      8    2 flags            bit 0 one-way, bit 1 push, bit 2 response
//!     10    2 error code       0 in requests
//!     12    4 correlation id
//!     16    4 message length   n, at most `MESSAGE_BYTES_MAX`
//!     20    4 CRC-32C          of bytes 0..20 and of the message
//!     24    n message          MessagePack, maps with named fields
//!   24+n      payload          record batches; each guards itself
//! ```
//!
//! A frame whose CRC does not match is the end of its connection: nothing after it can be trusted.

use crate::{ErrorCode, ids::CorrelationId, limits::MESSAGE_BYTES_MAX};

/// The size of the fixed part, the length field included.
pub const HEADER_BYTES: usize = 24;

/// The size of the length field, which does not count itself.
pub const LENGTH_BYTES: usize = 4;

/// What kind of frame it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u16);

impl Flags {
    /// A request that is answered.
    pub const REQUEST: Self = Self(0);
    /// A request that is never answered.
    pub const ONE_WAY: Self = Self(1);
    /// A frame that a subscription sends by itself; its correlation id is the subscription's.
    pub const PUSH: Self = Self(2);
    /// The answer to a request.
    pub const RESPONSE: Self = Self(4);
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of message and payload that follow the fixed part.
    pub body_bytes: usize,
    /// Which API; a number here, because it may be unknown.
    pub api_key: u16,
    /// Its version.
    pub version: u16,
    /// Its kind.
    pub flags: Flags,
    /// How a request ended; [`ErrorCode::NONE`] in requests.
    pub error: ErrorCode,
    /// Which request it belongs to.
    pub correlation: CorrelationId,
    /// Bytes of the message; the rest of the body is payload.
    pub message_bytes: usize,
    crc: u32,
}

/// Why the bytes of a connection are not a frame. The connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The declared length does not even hold the fixed part, or the message.
    #[error(
        "a frame of {length} bytes cannot hold a message of {message_bytes}: \
         the peer is broken or speaks another protocol"
    )]
    Inconsistent {
        /// The declared length.
        length: usize,
        /// The declared length of the message.
        message_bytes: usize,
    },
    /// The declared length exceeds what this side accepts.
    #[error(
        "a frame of {length} bytes exceeds the limit of {limit}: \
         send smaller batches, or raise `frame_bytes_max`"
    )]
    TooLarge {
        /// The declared length.
        length: usize,
        /// The limit in force.
        limit: usize,
    },
    /// The message part exceeds [`MESSAGE_BYTES_MAX`].
    #[error("a message of {message_bytes} bytes exceeds the limit of {MESSAGE_BYTES_MAX}")]
    MessageTooLarge {
        /// The declared length of the message.
        message_bytes: usize,
    },
    /// Header or message were damaged on the way.
    #[error("the checksum of a frame does not match: it was damaged on the way")]
    Checksum,
    /// The first bytes are those of another protocol.
    #[error("the peer speaks {protocol} instead of Strandline's own protocol{hint}")]
    OtherProtocol {
        /// What it seems to be.
        protocol: &'static str,
        /// Where to go instead.
        hint: &'static str,
    },
}

fn u16_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u16 {
    let mut field = [0; 2];
    field.copy_from_slice(bytes.get(at..at + 2).unwrap_or(&[0; 2]));
    u16::from_be_bytes(field)
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(bytes.get(at..at + 4).unwrap_or(&[0; 4]));
    u32::from_be_bytes(field)
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn to_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl FrameHeader {
    /// Reads the fixed part and holds its lengths against `frame_bytes_max`, which bounds the whole
    /// frame. The checksum needs the message: see [`FrameHeader::check`].
    ///
    /// # Errors
    /// [`FrameError`]; the connection must be closed.
    pub fn decode(bytes: &[u8; HEADER_BYTES], frame_bytes_max: usize) -> Result<Self, FrameError> {
        // Only what is no frame of ours is held against the looks of other protocols.
        Self::decode_lengths(bytes, frame_bytes_max)
            .map_err(|error| other_protocol(bytes).unwrap_or(error))
    }

    /// Looks at the first bytes of a frame whose fixed part is not all there: at least its length.
    ///
    /// # Errors
    /// [`FrameError`] if they cannot begin a frame of at most `frame_bytes_max` bytes.
    pub fn check_start(start: &[u8], frame_bytes_max: usize) -> Result<(), FrameError> {
        let Some(length) = start.first_chunk() else {
            return Ok(());
        };
        let length = to_usize(u32::from_be_bytes(*length));
        check_length(length, frame_bytes_max)
            .map_err(|error| other_protocol(start).unwrap_or(error))
    }

    fn decode_lengths(
        bytes: &[u8; HEADER_BYTES],
        frame_bytes_max: usize,
    ) -> Result<Self, FrameError> {
        let length = to_usize(u32_at(bytes, 0));
        let message_bytes = to_usize(u32_at(bytes, 16));
        check_length(length, frame_bytes_max)?;
        let Some(body_bytes) = length
            .checked_sub(HEADER_BYTES - LENGTH_BYTES)
            .filter(|body_bytes| message_bytes <= *body_bytes)
        else {
            return Err(FrameError::Inconsistent {
                length,
                message_bytes,
            });
        };
        if message_bytes > MESSAGE_BYTES_MAX {
            return Err(FrameError::MessageTooLarge { message_bytes });
        }
        Ok(Self {
            body_bytes,
            api_key: u16_at(bytes, 4),
            version: u16_at(bytes, 6),
            flags: Flags(u16_at(bytes, 8)),
            error: ErrorCode(u16_at(bytes, 10)),
            correlation: CorrelationId(u32_at(bytes, 12)),
            message_bytes,
            crc: u32_at(bytes, 20),
        })
    }

    /// The size of the whole frame.
    #[must_use]
    pub const fn frame_bytes(&self) -> usize {
        HEADER_BYTES.saturating_add(self.body_bytes)
    }

    /// Compares the checksum with the fixed part and the `message` that followed it.
    ///
    /// # Errors
    /// [`FrameError::Checksum`]; the connection must be closed.
    pub fn check(&self, bytes: &[u8; HEADER_BYTES], message: &[u8]) -> Result<(), FrameError> {
        if message.len() == self.message_bytes && checksum(bytes, message) == self.crc {
            Ok(())
        } else {
            Err(FrameError::Checksum)
        }
    }

    /// The fixed part in front of `message` and of `payload_bytes` bytes of payload.
    ///
    /// The caller holds the sum against the peer's limit; a frame that exceeds `u32::MAX` is
    /// declared as that long and will be refused by the peer.
    #[must_use]
    pub fn encode(
        api_key: u16,
        version: u16,
        flags: Flags,
        error: ErrorCode,
        correlation: CorrelationId,
        message: &[u8],
        payload_bytes: usize,
    ) -> [u8; HEADER_BYTES] {
        let length = (HEADER_BYTES - LENGTH_BYTES)
            .saturating_add(message.len())
            .saturating_add(payload_bytes);
        let mut bytes = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            if let Some(slot) = bytes.get_mut(at..at + field.len()) {
                slot.copy_from_slice(field);
            }
            at += field.len();
        };
        put(&to_u32(length).to_be_bytes());
        put(&api_key.to_be_bytes());
        put(&version.to_be_bytes());
        put(&flags.0.to_be_bytes());
        put(&error.0.to_be_bytes());
        put(&correlation.0.to_be_bytes());
        put(&to_u32(message.len()).to_be_bytes());
        let crc = checksum(&bytes, message);
        if let Some(slot) = bytes.last_chunk_mut() {
            *slot = crc.to_be_bytes();
        }
        bytes
    }
}

fn checksum(bytes: &[u8; HEADER_BYTES], message: &[u8]) -> u32 {
    let guarded = bytes.get(..20).unwrap_or(bytes);
    crc32c::crc32c_append(crc32c::crc32c(guarded), message)
}

fn check_length(length: usize, frame_bytes_max: usize) -> Result<(), FrameError> {
    if length.saturating_add(LENGTH_BYTES) > frame_bytes_max {
        let limit = frame_bytes_max;
        return Err(FrameError::TooLarge { length, limit });
    }
    if length < HEADER_BYTES - LENGTH_BYTES {
        let message_bytes = 0;
        return Err(FrameError::Inconsistent {
            length,
            message_bytes,
        });
    }
    Ok(())
}

/// Recognises what people point at the wrong port, so that the log can tell them by name.
fn other_protocol(start: &[u8]) -> Option<FrameError> {
    const HTTP: [&[u8]; 7] = [
        b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PRI ",
    ];
    // A Kafka client opens with ApiVersions (18); where ours has the length of the message, it has
    // text of its client id, which gives lengths beyond those that fit the frame.
    const KAFKA_API_VERSIONS: [u8; 2] = 18_u16.to_be_bytes();
    let (protocol, hint) = if HTTP.iter().any(|method| start.starts_with(method)) {
        ("HTTP", ": the HTTP listener has a port of its own")
    } else if start.starts_with(b"HTTP") {
        (
            "HTTP",
            ": it is a broker's HTTP port perhaps, the native one is another",
        )
    } else if start.starts_with(&[0x16, 0x03]) {
        ("TLS", ": connect without TLS")
    } else if start.get(4..6) == Some(&KAFKA_API_VERSIONS) {
        ("the Kafka protocol", "")
    } else {
        return None;
    };
    Some(FrameError::OtherProtocol { protocol, hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(message: &[u8], payload_bytes: usize) -> [u8; HEADER_BYTES] {
        let correlation = CorrelationId(7);
        FrameHeader::encode(
            3,
            1,
            Flags::REQUEST,
            ErrorCode::NONE,
            correlation,
            message,
            payload_bytes,
        )
    }

    #[test]
    fn a_header_reads_back() {
        let bytes = sample(b"hello", 100);
        let header = FrameHeader::decode(&bytes, 1_000).unwrap();
        assert_eq!((header.body_bytes, header.message_bytes), (105, 5));
        assert_eq!(
            (header.api_key, header.version, header.correlation.0),
            (3, 1, 7)
        );
        assert_eq!(header.check(&bytes, b"hello"), Ok(()));
        assert_eq!(header.check(&bytes, b"hellO"), Err(FrameError::Checksum));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = sample(b"hello", 0);
        for bit in 0..HEADER_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            let outcome = FrameHeader::decode(&damaged, 1_000)
                .and_then(|header| header.check(&damaged, b"hello"));
            assert!(outcome.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn lengths_are_held_against_their_container() {
        let bytes = sample(&[0; 50], 50);
        assert!(matches!(
            FrameHeader::decode(&bytes, 100),
            Err(FrameError::TooLarge { .. })
        ));
        let mut short = bytes;
        short[..4].copy_from_slice(&60_u32.to_be_bytes());
        assert!(matches!(
            FrameHeader::decode(&short, 1_000),
            Err(FrameError::Inconsistent { .. })
        ));
    }

    #[test]
    fn other_protocols_are_named() {
        let mut bytes = [b' '; HEADER_BYTES];
        bytes[..14].copy_from_slice(b"GET / HTTP/1.1");
        let error = FrameHeader::decode(&bytes, 1_000).unwrap_err();
        assert!(error.to_string().contains("HTTP"), "{error}");
    }
}
