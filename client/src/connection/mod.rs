//! One socket to one broker, on which requests are pipelined.
//!
//! *Pattern: single-socket channel.* *Pattern: request pipeline.*

use bytes::Bytes;
use strandline_protocol::messages::{HelloResponse, Request};

use crate::{ClientError, ClientOptions};

/// One socket to one broker. Cheap to clone; the socket closes with the last clone.
#[derive(Clone, Debug)]
pub struct Connection {}

impl Connection {
    /// Opens a socket to `address` (`HOST:PORT`) and says `Hello`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], and what the broker says to a `Hello` that it refuses.
    pub async fn open(_address: &str, _options: &ClientOptions) -> Result<Self, ClientError> {
        todo!()
    }

    /// What the broker said to the `Hello`.
    #[must_use]
    pub fn hello(&self) -> &HelloResponse {
        todo!()
    }

    /// Sends a request at once and returns its answer and its payload. `payload` is written
    /// from where it lies. The request is sent even if the future is dropped; only its answer is
    /// then lost.
    ///
    /// # Errors
    /// See [`ClientError::class`]: [`ClientError::NotSent`] if it had no effect,
    /// [`ClientError::OutcomeUnknown`] if it may have had one, [`ClientError::Refused`] if the broker says so.
    pub fn request<R: Request>(
        &self,
        _request: &R,
        _payload: Vec<Bytes>,
    ) -> impl Future<Output = Result<(R::Response, Bytes), ClientError>> + Send + 'static {
        async { todo!() }
    }
}
