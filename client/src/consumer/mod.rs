//! Reads records: from a position on, in order, each once.

mod options;
mod records;
mod stream;

use std::sync::Arc;

pub use options::{ConsumerOptions, OutOfRange};
pub use records::{OwnedRecord, Records};
use strandline_protocol::{Offset, PartitionId, Timestamp};
pub use stream::RecordStream;

use crate::{ClientError, routing::Cluster};

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// At the first record that there is.
    Beginning,
    /// Behind the last record that there is now.
    End,
    /// At this offset.
    Offset(Offset),
    /// At the first record of this time or later; at the end if there is none.
    Time(Timestamp),
    /// So many offsets before the end, or at the beginning if there are fewer.
    FromEnd(u64),
}

/// Where a consumer stands in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The offset that the next `poll` continues from.
    pub offset: Offset,
    /// The end of what could be read at the last fetch; none before the first.
    pub high_watermark: Option<Offset>,
}

/// Reads the partitions that are assigned to it. Positions are its own; it stores none.
#[derive(Debug)]
pub struct Consumer {}

impl Consumer {
    pub(crate) fn new(_cluster: Arc<Cluster>, _options: ConsumerOptions) -> Self {
        todo!()
    }

    /// Replaces what is read. Looks every position up at once, so that a topic that does not exist
    /// is told here. Cancel safe: dropped before it is done, it changes nothing.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], [`ClientError::UnknownPartition`], and what a leader says to a
    /// look-up.
    pub async fn assign(
        &mut self,
        _partitions: &[(&str, PartitionId, StartAt)],
    ) -> Result<(), ClientError> {
        todo!()
    }

    /// Replaces what is read by all partitions of one topic.
    ///
    /// # Errors
    /// As [`Consumer::assign`].
    pub async fn assign_topic(&mut self, _topic: &str, _start: StartAt) -> Result<(), ClientError> {
        todo!()
    }

    /// Moves the position in one assigned partition; what was fetched ahead is dropped. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::NotAssigned`], and what a leader says to a look-up.
    pub async fn seek(
        &mut self,
        _topic: &str,
        _partition: PartitionId,
        _to: StartAt,
    ) -> Result<(), ClientError> {
        todo!()
    }

    /// Waits for records and returns those of one partition, at least one. The position moves behind
    /// them as they are returned; the next fetch is on its way while the application works on
    /// them. Cancel safe: dropped before it is done, it has moved nothing.
    ///
    /// Brokers that cannot be reached are tried again for ever, with growing pauses; wrap it in
    /// `tokio::time::timeout` for a bound.
    ///
    /// # Errors
    /// [`ClientError::OutOfRange`] unless a policy was chosen, [`ClientError::Corrupt`],
    /// [`ClientError::TopicDeleted`], and what a broker refuses for good. The position stays; other
    /// partitions go on with the next call.
    pub async fn poll(&mut self) -> Result<Records, ClientError> {
        todo!()
    }

    /// As [`Consumer::poll`], but ends: returns none once every assigned partition was read to the
    /// end that it had when this was first called since the last `assign`. Cancel safe.
    ///
    /// # Errors
    /// As [`Consumer::poll`].
    pub async fn poll_to_end(&mut self) -> Result<Option<Records>, ClientError> {
        todo!()
    }

    /// Where it stands in every assigned partition, in the order of topics and partitions.
    #[must_use]
    pub fn positions(&self) -> Vec<Position> {
        todo!()
    }

    /// Asks for the end of every assigned partition now: the high watermark, which is exclusive.
    ///
    /// # Errors
    /// What a leader says.
    pub async fn end_offsets(&self) -> Result<Vec<Position>, ClientError> {
        todo!()
    }

    /// The records one by one, as a `Stream`.
    #[must_use]
    pub fn into_stream(self) -> RecordStream {
        todo!()
    }
}
