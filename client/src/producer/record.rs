//! What is sent.

use strandline_protocol::{PartitionId, Timestamp};

/// A record to send, borrowed: `send` copies it into its batch.
///
/// ```
/// use strandline_client::NewRecord;
/// let record = NewRecord::to("orders").key(b"customer-7").value(b"{}");
/// assert_eq!(record.topic, "orders");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// To which topic.
    pub topic: &'a str,
    /// To which partition; none leaves it to the [`Partitioner`](crate::Partitioner).
    pub partition: Option<PartitionId>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; none is a tombstone on a compacted topic.
    pub value: Option<&'a [u8]>,
    /// Its headers, in order; names may repeat.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// Its time; none takes the clock's.
    pub timestamp: Option<Timestamp>,
}

impl<'a> NewRecord<'a> {
    /// An empty record for `topic`.
    #[must_use]
    pub const fn to(topic: &'a str) -> Self {
        Self {
            topic,
            partition: None,
            key: None,
            value: None,
            headers: &[],
            timestamp: None,
        }
    }

    /// With a partition.
    #[must_use]
    pub const fn partition(mut self, partition: PartitionId) -> Self {
        self.partition = Some(partition);
        self
    }

    /// With a key.
    #[must_use]
    pub const fn key(mut self, key: &'a [u8]) -> Self {
        self.key = Some(key);
        self
    }

    /// With a value.
    #[must_use]
    pub const fn value(mut self, value: &'a [u8]) -> Self {
        self.value = Some(value);
        self
    }

    /// With headers.
    #[must_use]
    pub const fn headers(mut self, headers: &'a [(&'a str, Option<&'a [u8]>)]) -> Self {
        self.headers = headers;
        self
    }

    /// With a time.
    #[must_use]
    pub const fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }
}
