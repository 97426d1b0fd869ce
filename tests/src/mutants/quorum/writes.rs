//! Single writes to one broker, each once, whatever a client would do about the answer.

use std::time::Duration;

use bytes::Bytes;
use strandline_client::{ClientError, ClientOptions, connection::Connection};
use strandline_protocol::{
    ErrorClass, ErrorCode, PartitionId, Timestamp, TopicId,
    batch::{BatchBuilder, Codec, NewRecord, ProducerStamp},
    messages::{Acks, ProducePartition, ProduceRequest},
};

use super::{Cluster, PATIENCE, told, until};

/// A batch of records with these values.
fn batch(values: &[String]) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None, 1 << 10);
    for value in values {
        let record = NewRecord {
            timestamp: Timestamp(1_700_000_000_000),
            value: Some(value.as_bytes()),
            ..NewRecord::default()
        };
        builder.try_append(1 << 20, record).expect("it fits");
    }
    builder.finish(ProducerStamp::NONE).expect("a batch")
}

/// Sends one batch to partition 0, to be acknowledged by all within `timeout`; tells the answer.
pub(super) async fn write(
    connection: &Connection,
    topic_id: TopicId,
    values: &[String],
    timeout: Duration,
) -> Result<ErrorCode, String> {
    let batch = batch(values);
    let request = ProduceRequest {
        acks: Acks::All,
        timeout_ms: timeout.as_millis() as u32,
        partitions: vec![ProducePartition {
            topic_id,
            partition: PartitionId(0),
            bytes: batch.len() as u32,
        }],
    };
    let answer = connection.request_that_waits(&request, vec![batch], timeout);
    let (response, _) = match answer.await {
        Ok(response) => response,
        Err(ClientError::Refused { code, .. }) => return Ok(code),
        Err(error) => return Err(told(error)),
    };
    let first = response.partitions.first().ok_or("an empty answer")?;
    Ok(first.failure.error)
}

impl Cluster {
    /// A connection to one broker, and to no other.
    pub(super) fn dial(&self, broker: usize) -> Result<Connection, String> {
        let address = self.address(broker);
        let options = ClientOptions::default();
        let opened = self.runtime.block_on(Connection::open(&address, &options));
        opened.map_err(told)
    }

    /// Writes one batch, once: asks again only while nothing has been appended.
    pub(super) fn write_once(
        &self,
        broker: usize,
        topic_id: TopicId,
        values: &[String],
    ) -> Result<(), String> {
        let connection = self.dial(broker)?;
        until(|| {
            let written = write(&connection, topic_id, values, PATIENCE);
            let answer = self.runtime.block_on(written)?;
            let what = format!("a write is answered with {answer:?}");
            if answer.is_none() {
                Ok(None)
            } else if answer.class() == ErrorClass::OutcomeUnknown {
                Err(what)
            } else {
                Ok(Some(what))
            }
        })
    }

    /// The identity of a topic, once one broker shows it.
    pub(super) fn topic_id(&self, broker: usize, name: &str) -> Result<TopicId, String> {
        let mut id = None;
        until(|| {
            let image = self.machines[broker].image()?;
            id = image.and_then(|image| image.topic(name).map(|topic| topic.id));
            Ok(id
                .is_none()
                .then(|| format!("broker {} does not show {name}", broker + 1)))
        })?;
        id.ok_or_else(|| format!("there is no {name}"))
    }
}
