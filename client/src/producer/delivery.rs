//! What becomes of a record: a handle that costs nothing until it is awaited.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use strandline_protocol::{Offset, PartitionId, Timestamp};

use crate::ClientError;

/// Where a record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPosition {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset; none with `acks` of none, which is not told.
    pub offset: Option<Offset>,
    /// Its time: the broker's where the topic's `message.timestamp.type` is `LogAppendTime`.
    pub timestamp: Timestamp,
}

/// What becomes of a record that was sent. A future; dropping it does not take the record back.
///
/// It is a batch and an index in it, and allocates nothing until it is awaited. Cancel safe.
#[derive(Debug)]
#[must_use = "a write is only known to have happened once its delivery was awaited, or `flush`"]
pub struct Delivery {
    batch: Arc<BatchOutcome>,
    index: i32,
    timestamp: Timestamp,
}

impl Delivery {
    pub(crate) const fn new(batch: Arc<BatchOutcome>, index: i32, timestamp: Timestamp) -> Self {
        Self {
            batch,
            index,
            timestamp,
        }
    }

    /// What became of the record, if it is decided.
    #[must_use]
    pub fn try_position(&self) -> Option<Result<RecordPosition, ClientError>> {
        let state = self.batch.state.lock();
        state.decided.as_ref().map(|decided| self.position(decided))
    }

    fn position(
        &self,
        decided: &Result<BatchPosition, ClientError>,
    ) -> Result<RecordPosition, ClientError> {
        match decided {
            Ok(batch) => Ok(RecordPosition {
                partition: batch.partition,
                offset: batch
                    .base_offset
                    .map(|base| base.plus(i64::from(self.index))),
                timestamp: batch.log_append_time.unwrap_or(self.timestamp),
            }),
            Err(error) => Err(error.clone()),
        }
    }
}

impl Future for Delivery {
    type Output = Result<RecordPosition, ClientError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.batch.state.lock();
        if let Some(decided) = &state.decided {
            return Poll::Ready(self.position(decided));
        }
        state.wait(i64::from(self.index), context);
        Poll::Pending
    }
}

/// Where a batch was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchPosition {
    pub(crate) partition: PartitionId,
    pub(crate) base_offset: Option<Offset>,
    pub(crate) log_append_time: Option<Timestamp>,
}

/// What all records of one batch share.
#[derive(Debug, Default)]
pub(crate) struct BatchOutcome {
    state: Mutex<OutcomeState>,
}

#[derive(Debug, Default)]
struct OutcomeState {
    decided: Option<Result<BatchPosition, ClientError>>,
    /// By what they wait for: an index of a record, or a negative number of a `flush`.
    waiting: BTreeMap<i64, Waker>,
}

impl OutcomeState {
    fn wait(&mut self, key: i64, context: &Context<'_>) {
        match self.waiting.get_mut(&key) {
            Some(waker) => waker.clone_from(context.waker()),
            None => {
                self.waiting.insert(key, context.waker().clone());
            }
        }
    }
}

impl BatchOutcome {
    /// Waits until it is decided, whatever comes out. `flush` tells this waiter from others.
    pub(crate) fn poll_decided(&self, flush: i64, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.decided.is_some() {
            return Poll::Ready(());
        }
        state.wait(-flush, context);
        Poll::Pending
    }

    /// Decides for all records of the batch and wakes who waits. Only the first decision counts.
    pub(crate) fn decide(&self, decided: Result<BatchPosition, ClientError>) {
        let waiting = {
            let mut state = self.state.lock();
            if state.decided.is_none() {
                state.decided = Some(decided);
            }
            std::mem::take(&mut state.waiting)
        };
        for waker in waiting.into_values() {
            waker.wake();
        }
    }
}
