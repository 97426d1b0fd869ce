//! Cuts the bytes of a connection into frames.

use bytes::{Bytes, BytesMut};

use crate::frame::{FrameError, FrameHeader, HEADER_BYTES, LENGTH_BYTES};

/// A frame whose lengths and checksum are right.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The fixed part.
    pub header: FrameHeader,
    /// The message: MessagePack, see [`crate::messages::decode`].
    pub message: Bytes,
    /// Record batches, not looked at. It shares the receive buffer.
    pub payload: Bytes,
}

/// Cuts frames off the front of a receive buffer, as far as it has been filled.
///
/// The driver's loop: read from the socket into the buffer, then call [`FrameDecoder::decode`]
/// until it gives none, then make room for [`FrameDecoder::bytes_needed`] and read again. Between
/// the fixed part and the rest, [`FrameDecoder::header`] tells how large the frame will be, so that
/// its memory is reserved from a budget before the buffer grows. Lengths are held against the limit
/// as soon as they are there, the checksum as soon as the message is there, before the payload.
#[derive(Debug)]
pub struct FrameDecoder {
    frame_bytes_max: usize,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Waits for the fixed part.
    Header,
    /// Waits for the message.
    Message(FrameHeader),
    /// The message has been checked; waits for the payload.
    Payload(FrameHeader),
}

impl FrameDecoder {
    /// A decoder that refuses frames of more than `frame_bytes_max` bytes in all.
    #[must_use]
    pub const fn new(frame_bytes_max: usize) -> Self {
        Self {
            frame_bytes_max,
            state: State::Header,
        }
    }

    /// The limit on the size of a frame.
    #[must_use]
    pub const fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max
    }

    /// Another limit, from the next frame on: a `Hello` may be held to a smaller one.
    pub const fn limit_frames(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// The fixed part of the frame whose rest is awaited; none between frames. Its checksum has
    /// been looked at only once the message was there: trust its lengths as limits, not its
    /// meaning.
    #[must_use]
    pub const fn header(&self) -> Option<&FrameHeader> {
        match &self.state {
            State::Header => None,
            State::Message(header) | State::Payload(header) => Some(header),
        }
    }

    /// How many bytes the buffer must hold, counted from its front, for the frame to be whole or,
    /// if that is not known yet, for its fixed part.
    #[must_use]
    pub const fn bytes_needed(&self) -> usize {
        match &self.state {
            State::Header => HEADER_BYTES,
            State::Message(header) | State::Payload(header) => header.frame_bytes(),
        }
    }

    /// The next frame, if `buffer` holds all of it: it is split off without a copy, and the buffer
    /// keeps what follows. None if more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`]; the connection must be closed, as what follows cannot be told apart.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let State::Header = self.state {
            let Some(fixed) = buffer.first_chunk::<HEADER_BYTES>() else {
                // A length beyond the limit is another protocol more often than not, and its peer
                // may wait for an answer before it sends as many bytes as our fixed part has.
                let length = buffer.first_chunk::<LENGTH_BYTES>();
                return length.map_or(Ok(None), |_| {
                    FrameHeader::check_start(buffer, self.frame_bytes_max).map(|()| None)
                });
            };
            let header = FrameHeader::decode(fixed, self.frame_bytes_max)?;
            self.state = State::Message(header);
        }
        if let State::Message(header) = self.state {
            let Some((fixed, behind)) = buffer.split_first_chunk::<HEADER_BYTES>() else {
                return Ok(None);
            };
            let Some(message) = behind.get(..header.message_bytes) else {
                return Ok(None);
            };
            header.check(fixed, message)?;
            self.state = State::Payload(header);
        }
        let State::Payload(header) = self.state else {
            return Ok(None);
        };
        if buffer.len() < header.frame_bytes() {
            return Ok(None);
        }
        self.state = State::Header;
        let mut message = buffer.split_to(header.frame_bytes()).freeze();
        let payload = message.split_off(HEADER_BYTES + header.message_bytes);
        let message = message.split_off(HEADER_BYTES);
        Ok(Some(Frame {
            header,
            message,
            payload,
        }))
    }
}
