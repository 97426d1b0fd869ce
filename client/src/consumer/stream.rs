//! Records one by one, as a `Stream`.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;

use super::{Consumer, OwnedRecord};
use crate::ClientError;

/// The records of a consumer one by one, backed by the bytes that were fetched.
///
/// It never ends by itself. After an error, the next item tries again from the same position.
#[derive(Debug)]
pub struct RecordStream {
    _consumer: Consumer,
}

impl RecordStream {
    /// The next record. Cancel safe.
    ///
    /// # Errors
    /// As [`Consumer::poll`].
    pub async fn next(&mut self) -> Result<OwnedRecord, ClientError> {
        todo!()
    }
}

impl Stream for RecordStream {
    type Item = Result<OwnedRecord, ClientError>;

    fn poll_next(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        todo!()
    }
}
