//! Writes records: in batches, in order, once.
//!
//! *Pattern: request pipeline.* Up to five requests of a partition are on their way at once.

mod delivery;
mod murmur2;
mod options;
mod record;

use std::sync::Arc;

pub use delivery::{Delivery, RecordPosition};
pub use murmur2::{murmur2, partition_for_key};
pub use options::{Compression, Partitioner, ProducerOptions};
pub use record::NewRecord;

use crate::{ClientError, routing::Cluster};

/// Writes records. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Producer {}

impl Producer {
    pub(crate) fn new(_cluster: Arc<Cluster>, _options: ProducerOptions) -> Self {
        todo!()
    }

    /// Puts a record into its batch, and waits only if the memory for records is used up or its
    /// topic is not known yet. That it is *written* is told by the [`Delivery`].
    ///
    /// Records of one task to one partition are written in the order of their `send`s. Cancel safe:
    /// a `send` that is dropped before it is done has not taken the record.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], [`ClientError::UnknownPartition`],
    /// [`ClientError::RecordTooLarge`], [`ClientError::Fenced`], [`ClientError::Closed`];
    /// [`ClientError::TimedOutBeforeSending`] if there is no room within `delivery_timeout`.
    pub async fn send(&self, _record: NewRecord<'_>) -> Result<Delivery, ClientError> {
        todo!()
    }

    /// As [`Producer::send`], but never waits.
    ///
    /// # Errors
    /// As [`Producer::send`], and [`ClientError::WouldWait`].
    pub fn try_send(&self, _record: NewRecord<'_>) -> Result<Delivery, ClientError> {
        todo!()
    }

    /// Sends everything now and waits until what was given to `send` before is decided: afterwards
    /// every such [`Delivery`] is ready at once. Cancel safe.
    ///
    /// # Errors
    /// The first failure of a batch since the last `flush`, so that who drops its deliveries still
    /// hears of it.
    pub async fn flush(&self) -> Result<(), ClientError> {
        todo!()
    }

    /// Flushes, then refuses everything further.
    ///
    /// # Errors
    /// As [`Producer::flush`]; the producer is closed all the same.
    pub async fn close(&self) -> Result<(), ClientError> {
        todo!()
    }
}
