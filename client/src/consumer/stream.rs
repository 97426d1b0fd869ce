//! Records one by one, as a `Stream`.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::Stream;

use super::{Consumer, OwnedRecord, Records, records::OwnedRecords};
use crate::ClientError;

type Polling = Pin<Box<dyn Future<Output = (Consumer, Result<Records, ClientError>)> + Send>>;

/// The records of a consumer one by one, backed by the bytes that were fetched.
///
/// It never ends by itself. After an error, the next item tries again from the same position.
pub struct RecordStream {
    left: Option<OwnedRecords>,
    polling: Polling,
}

impl fmt::Debug for RecordStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordStream")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

fn poll(mut consumer: Consumer) -> Polling {
    Box::pin(async move {
        let records = consumer.poll().await;
        (consumer, records)
    })
}

impl RecordStream {
    pub(super) fn new(consumer: Consumer) -> Self {
        Self {
            left: None,
            polling: poll(consumer),
        }
    }

    /// The next record. Cancel safe.
    ///
    /// # Errors
    /// As [`Consumer::poll`].
    pub async fn next(&mut self) -> Result<OwnedRecord, ClientError> {
        std::future::poll_fn(|context| self.poll_record(context)).await
    }

    fn poll_record(&mut self, context: &mut Context<'_>) -> Poll<Result<OwnedRecord, ClientError>> {
        loop {
            if let Some(record) = self.left.as_mut().and_then(OwnedRecords::next) {
                return Poll::Ready(record);
            }
            let (consumer, polled) = ready!(self.polling.as_mut().poll(context));
            self.polling = poll(consumer);
            match polled {
                Ok(records) => self.left = Some(OwnedRecords::new(records)),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Stream for RecordStream {
    type Item = Result<OwnedRecord, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_record(context).map(Some)
    }
}
