//! An answer before it is framed.

use bytes::Bytes;
use serde::Serialize;
use strandline_protocol::{
    ErrorCode,
    limits::ERROR_MESSAGE_BYTES_MAX,
    messages::{ErrorMessage, Failure, encode},
};

/// An answer: the frame's error code, its message and its payload.
#[derive(Clone, Debug)]
pub struct Reply {
    /// How the request ended as a whole.
    pub error: ErrorCode,
    /// The encoded message.
    pub message: Vec<u8>,
    /// Record batches: ranges of the log, not copied.
    pub payload: Vec<Bytes>,
}

impl Reply {
    /// A response without payload.
    #[must_use]
    pub fn of<R: Serialize>(response: &R) -> Self {
        Self::with_payload(response, Vec::new())
    }

    /// A response with the payload that it describes.
    #[must_use]
    pub fn with_payload<R: Serialize>(response: &R, payload: Vec<Bytes>) -> Self {
        Self {
            error: ErrorCode::NONE,
            message: encode(response),
            payload,
        }
    }

    /// The request failed as a whole.
    #[must_use]
    pub fn failure(error: ErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > ERROR_MESSAGE_BYTES_MAX {
            let end = message.floor_char_boundary(ERROR_MESSAGE_BYTES_MAX);
            message.truncate(end);
        }
        Self {
            error,
            message: encode(&ErrorMessage { message }),
            payload: Vec::new(),
        }
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        Self::failure(failure.error, failure.message)
    }
}

impl<R: Serialize> From<Result<R, Failure>> for Reply {
    fn from(outcome: Result<R, Failure>) -> Self {
        match outcome {
            Ok(response) => Self::of(&response),
            Err(failure) => failure.into(),
        }
    }
}
