//! Writes the part of a frame that is not payload.

use bytes::{BufMut, BytesMut};
use serde::Serialize;

use crate::{
    ErrorCode,
    api::ApiKey,
    frame::{Flags, FrameError, FrameHeader, HEADER_BYTES},
    ids::CorrelationId,
    limits::MESSAGE_BYTES_MAX,
};

/// What a frame is, next to its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameKind {
    /// Which API; a number, as an answer may be about one that is not known.
    pub api_key: u16,
    /// Its version.
    pub version: u16,
    /// Request, response or push.
    pub flags: Flags,
    /// How the request ended; [`ErrorCode::NONE`] in requests.
    pub error: ErrorCode,
    /// Which request it is or belongs to.
    pub correlation: CorrelationId,
}

impl FrameKind {
    /// A request of the highest version of this build.
    #[must_use]
    pub fn request(api: ApiKey, correlation: CorrelationId) -> Self {
        Self {
            api_key: api.code(),
            version: *api.api().versions.end(),
            flags: Flags::REQUEST,
            error: ErrorCode::NONE,
            correlation,
        }
    }

    /// A request that is not answered.
    #[must_use]
    pub fn one_way(api: ApiKey, correlation: CorrelationId) -> Self {
        Self {
            flags: Flags::ONE_WAY,
            ..Self::request(api, correlation)
        }
    }

    /// The answer to the request in the frame `of`.
    #[must_use]
    pub fn response(of: &FrameHeader, error: ErrorCode) -> Self {
        Self {
            api_key: of.api_key,
            version: of.version,
            flags: Flags::RESPONSE,
            error,
            correlation: of.correlation,
        }
    }

    /// A push of the subscription that the frame `of` asked for.
    #[must_use]
    pub fn push(of: &FrameHeader) -> Self {
        Self {
            flags: Flags::PUSH,
            ..Self::response(of, ErrorCode::NONE)
        }
    }
}

/// Appends the fixed part and the message of a frame to `buffer`; `payload_bytes` bytes of payload
/// must follow it on the connection.
///
/// # Errors
/// [`FrameError::MessageTooLarge`] or, beyond `u32::MAX` bytes in all, [`FrameError::TooLarge`];
/// the buffer is then as it was. Ask for less in one request.
pub fn put_frame<M: Serialize>(
    buffer: &mut BytesMut,
    kind: FrameKind,
    message: &M,
    payload_bytes: usize,
) -> Result<(), FrameError> {
    let start = buffer.len();
    buffer.put_bytes(0, HEADER_BYTES);
    if rmp_serde::encode::write_named(&mut buffer.writer(), message).is_err() {
        // Cannot happen, see `messages::encode`; the peer would refuse the empty message.
        buffer.truncate(start.saturating_add(HEADER_BYTES));
    }
    let outcome = finish_frame(buffer, start, kind, payload_bytes);
    if outcome.is_err() {
        buffer.truncate(start);
    }
    outcome
}

fn finish_frame(
    buffer: &mut BytesMut,
    start: usize,
    kind: FrameKind,
    payload_bytes: usize,
) -> Result<(), FrameError> {
    let frame = buffer.get_mut(start..).unwrap_or_default();
    let length = frame.len().saturating_add(payload_bytes);
    let Some((fixed, message)) = frame.split_first_chunk_mut::<HEADER_BYTES>() else {
        return Ok(());
    };
    let message_bytes = message.len();
    if message_bytes > MESSAGE_BYTES_MAX {
        return Err(FrameError::MessageTooLarge { message_bytes });
    }
    if let Err(_too_long) = u32::try_from(length) {
        let limit = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
        return Err(FrameError::TooLarge { length, limit });
    }
    *fixed = FrameHeader::encode(
        kind.api_key,
        kind.version,
        kind.flags,
        kind.error,
        kind.correlation,
        message,
        payload_bytes,
    );
    Ok(())
}
