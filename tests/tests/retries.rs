//! A batch that is sent again gets the offsets of its first time: after a roll, a kill, a restart.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

use std::path::Path;

use bytes::Bytes;
use strandline_client::{Client, ClientOptions, connection::Connection};
use strandline_protocol::{
    Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicId,
    batch::{BatchBuilder, Codec, NewRecord, ProducerStamp},
    limits::PRODUCER_WINDOW,
    messages::{
        Acks, InitProducerIdRequest, NewTopic, ProducePartition, ProduceRequest, ProducedPartition,
    },
};
use strandline_tests::{Broker, BrokerSetup};

const RECORDS_PER_BATCH: i32 = 10;

/// One idempotent producer that is told exactly what to send.
struct Sender {
    connection: Connection,
    topic: TopicId,
    producer: (ProducerId, ProducerEpoch),
}

impl Sender {
    async fn new(address: &str, topic: TopicId) -> Self {
        let connection = Connection::open(address, &ClientOptions::default())
            .await
            .unwrap();
        let request = InitProducerIdRequest {
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
        };
        let (answer, _) = connection.request(&request, Vec::new()).await.unwrap();
        Self {
            connection,
            topic,
            producer: (answer.producer_id, answer.producer_epoch),
        }
    }

    /// The same producer on a new connection.
    async fn reconnect(&mut self, address: &str) {
        self.connection = Connection::open(address, &ClientOptions::default())
            .await
            .unwrap();
    }

    fn batch(&self, number: i32) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None, 32 << 10);
        for record in 0..RECORDS_PER_BATCH {
            let value = format!("{number}/{record}/{}", "x".repeat(1_000));
            let record = NewRecord {
                timestamp: Timestamp(1_700_000_000_000),
                key: None,
                value: Some(value.as_bytes()),
                headers: &[],
            };
            builder.try_append(1 << 20, record).unwrap();
        }
        let (id, epoch) = self.producer;
        let base_sequence = Sequence(number * RECORDS_PER_BATCH);
        builder
            .finish(ProducerStamp {
                id,
                epoch,
                base_sequence,
            })
            .unwrap()
    }

    /// Sends a batch at once; its answer is the future.
    fn send(&self, number: i32) -> impl Future<Output = Option<ProducedPartition>> + use<> {
        let batch = self.batch(number);
        let partition = ProducePartition {
            topic_id: self.topic,
            partition: PartitionId(0),
            bytes: u32::try_from(batch.len()).unwrap(),
        };
        let request = ProduceRequest {
            acks: Acks::All,
            timeout_ms: 10_000,
            partitions: vec![partition],
        };
        let answer = self.connection.request(&request, vec![batch]);
        async move {
            answer
                .await
                .ok()
                .map(|(response, _)| response.partitions[0].clone())
        }
    }

    async fn offset(&self, number: i32) -> Offset {
        let produced = self.send(number).await.expect("an answer");
        assert!(
            produced.failure.error.is_none(),
            "batch {number}: {:?}",
            produced.failure
        );
        produced.base_offset
    }
}

async fn topic(address: &str) -> TopicId {
    let client = Client::connect(&[address], ClientOptions::default())
        .await
        .unwrap();
    let topic = NewTopic {
        name: "retries".to_owned(),
        partitions: Some(1),
        replication_factor: None,
        configs: [("segment.bytes", "65536"), ("retention.ms", "-1")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    };
    client.admin().create_topics(&[topic]).await.unwrap()[0]
}

async fn end(address: &str) -> Offset {
    let client = Client::connect(&[address], ClientOptions::default())
        .await
        .unwrap();
    let query = strandline_protocol::messages::OffsetQuery::Latest;
    client.admin().list_offsets("retries", query).await.unwrap()[0]
        .offset
        .unwrap()
}

/// Sends `0..sent` batches, lets `event` happen, and sends the last five again, in every order that
/// starts with another one of them.
async fn retried_after(sent: i32, event: impl AsyncFnOnce(Broker, TopicId) -> Broker) {
    let directory = tempfile::tempdir().unwrap();
    let broker = start(directory.path());
    let topic = topic(&broker.address()).await;
    let mut sender = Sender::new(&broker.address(), topic).await;
    let mut first = Vec::new();
    for number in 0..sent {
        first.push(sender.offset(number).await);
    }
    let broker = event(broker, topic).await;
    sender.reconnect(&broker.address()).await;
    let before = end(&broker.address()).await;
    let window = i32::try_from(PRODUCER_WINDOW).unwrap();
    for start in 0..window {
        for step in 0..window {
            let number = sent - window + (start + step) % window;
            let again = sender.offset(number).await;
            assert_eq!(again, first[number as usize], "batch {number}");
        }
    }
    assert_eq!(end(&broker.address()).await, before, "a retry was appended");
    assert_eq!(sender.offset(sent).await, before, "the next batch is new");
}

fn start(data: &Path) -> Broker {
    BrokerSetup::on(data).start()
}

#[tokio::test]
async fn at_once() {
    retried_after(5, async |broker, _| broker).await;
}

#[tokio::test]
async fn after_a_roll() {
    retried_after(8, async |broker, topic| {
        // 30 batches of 10 KB of somebody else's in segments of 64 KiB.
        let other = Sender::new(&broker.address(), topic).await;
        for number in 0..30 {
            other.offset(number).await;
        }
        broker
    })
    .await;
}

#[tokio::test]
async fn after_a_clean_restart() {
    retried_after(7, async |broker, _| {
        let setup = broker.setup().clone();
        let (status, log) = broker.stop();
        assert!(status.success(), "{status}: {log}");
        setup.start()
    })
    .await;
}

#[tokio::test]
async fn after_a_kill() {
    retried_after(20, async |broker, _| {
        let setup = broker.setup().clone();
        broker.kill();
        setup.start()
    })
    .await;
}

#[tokio::test]
async fn after_a_kill_that_nobody_had_an_answer_before() {
    for round in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let broker = start(directory.path());
        let topic = topic(&broker.address()).await;
        let mut sender = Sender::new(&broker.address(), topic).await;
        let answers: Vec<_> = (0..5).map(|number| sender.send(number)).collect();
        // Let some of them arrive: as many as this round says.
        for answer in answers.into_iter().take(round) {
            answer.await;
        }
        let setup = broker.setup().clone();
        broker.kill();
        let broker = setup.start();
        sender.reconnect(&broker.address()).await;
        for number in 0..5 {
            let offset = sender.offset(number).await;
            assert_eq!(
                offset.0,
                i64::from(number * RECORDS_PER_BATCH),
                "round {round}"
            );
        }
        assert_eq!(
            end(&broker.address()).await.0,
            i64::from(5 * RECORDS_PER_BATCH)
        );
    }
}
