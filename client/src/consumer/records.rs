//! What a poll brings: batches as they came, walked in place.

use std::sync::Arc;

use bytes::Bytes;
use strandline_protocol::{Offset, PartitionId, Timestamp, batch::Record};

use crate::ClientError;

/// Records of one partition, in order; owns the fetched bytes.
#[derive(Clone, Debug)]
pub struct Records {
    topic: Arc<str>,
    partition: PartitionId,
    high_watermark: Offset,
}

impl Records {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The end of what could be read when these were fetched.
    #[must_use]
    pub const fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Whether there are none; `poll` never returns none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Walks the records without copying them.
    ///
    /// A record that cannot be read is [`ClientError::MalformedRecord`] and ends the walk.
    pub fn iter(&self) -> impl Iterator<Item = Result<Record<'_>, ClientError>> {
        std::iter::empty()
    }

    /// Walks the records as owned ones, which keep the fetched bytes alive instead of copying them.
    pub fn into_owned(self) -> impl Iterator<Item = Result<OwnedRecord, ClientError>> {
        std::iter::empty()
    }
}

/// A record that lives on its own; keys, values and headers are slices of what was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// Its time.
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Vec<(String, Option<Bytes>)>,
}
