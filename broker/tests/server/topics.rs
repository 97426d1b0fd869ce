//! Topics come, change and go while the broker runs.

use strandline_client::{Client, ClientOptions, NewRecord, ProducerOptions};
use strandline_protocol::{
    ErrorCode,
    frame::Flags,
    messages::{
        Acks, AlterConfigsRequest, ConfigChange, CreatePartitionsRequest, MetadataPush,
        MetadataRequest, NewPartitions, NewTopic, WatchMetadataRequest, decode,
    },
};

use crate::{
    peer::{Peer, batch},
    start,
};

async fn alter(peer: &mut Peer, key: &str, value: &str) {
    let request = AlterConfigsRequest {
        topic: "t".to_owned(),
        changes: vec![ConfigChange {
            key: key.to_owned(),
            value: Some(value.to_owned()),
        }],
        validate_only: false,
    };
    let (response, _) = peer.call(&request, b"").await.unwrap();
    assert!(response.failure.error.is_none(), "{:?}", response.failure);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_configuration_is_in_force_at_once() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let mut peer = Peer::connect(&server).await;
    let topic = peer.create("t", 1, &[("flush", "async")]).await;
    let large = batch(&[&"x".repeat(5_000)]);
    let produced = peer.produce(topic, Acks::All, &large).await;
    assert!(produced.failure.error.is_none());
    alter(&mut peer, "max.message.bytes", "1000").await;
    let refused = peer.produce(topic, Acks::All, &large).await;
    assert_eq!(refused.failure.error, ErrorCode::MESSAGE_TOO_LARGE);
    alter(&mut peer, "max.message.bytes", "10000").await;
    alter(&mut peer, "flush", "ack").await;
    let produced = peer.produce(topic, Acks::All, &large).await;
    assert!(produced.failure.error.is_none(), "{produced:?}");
    assert_eq!(peer.values(topic, 0).await.len(), 2);
    server.shutdown().await.unwrap();
}

/// A topic that a producer had just taken up was once missing from an older image, and counted as
/// deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_takes_up_many_topics_in_a_row() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[("flush", "async")]).await;
    let bootstrap = [server.native_addr().to_string()];
    let client = Client::connect(&bootstrap, ClientOptions::default());
    let client = client.await.unwrap();
    let name = |number| format!("t-{number}");
    let topics: Vec<_> = (0..300).map(|number| new_topic(&name(number))).collect();
    client.admin().create_topics(&topics).await.unwrap();
    let producer = client.producer(ProducerOptions::default()).unwrap();
    let mut deliveries = Vec::new();
    for number in 0..300 {
        let name = name(number);
        let record = NewRecord::to(&name).value(b"x");
        deliveries.push(producer.send(record).await.unwrap());
    }
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    server.shutdown().await.unwrap();
}

fn new_topic(name: &str) -> NewTopic {
    NewTopic {
        name: name.to_owned(),
        partitions: Some(1),
        replication_factor: None,
        configs: Default::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_created_again_is_empty() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let mut peer = Peer::connect(&server).await;
    let before = peer.create("t", 2, &[]).await;
    peer.produce_values(before, &["old"]).await;
    peer.delete("t").await;
    let refused = peer.produce(before, Acks::All, &batch(&["late"])).await;
    assert_eq!(refused.failure.error, ErrorCode::UNKNOWN_TOPIC_ID);
    let after = peer.create("t", 1, &[]).await;
    assert_ne!(before, after);
    assert_eq!(peer.values(after, 0).await, [""; 0]);
    peer.produce_values(after, &["new"]).await;
    assert_eq!(peer.values(after, 0).await, ["new"]);
    server.shutdown().await.unwrap();
    let left: Vec<_> = std::fs::read_dir(data.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("t-"))
        .collect();
    assert_eq!(left, ["t-0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_fetch_hears_that_its_topic_is_gone() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let mut reader = Peer::connect(&server).await;
    let mut other = Peer::connect(&server).await;
    let topic = other.create("t", 1, &[]).await;
    let request = crate::peer::fetch_request(topic, 0, 1, 60_000);
    let waiting = reader.send(&request, b"").await;
    other.delete("t").await;
    let (response, _) = reader
        .answer::<strandline_protocol::messages::FetchRequest>(waiting)
        .await
        .unwrap();
    assert_eq!(
        response.partitions[0].failure.error,
        ErrorCode::UNKNOWN_TOPIC_ID
    );
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_is_told() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let mut watcher = Peer::connect(&server).await;
    let mut other = Peer::connect(&server).await;
    let request = WatchMetadataRequest {
        topics: vec!["t".to_owned()],
    };
    let watch = watcher.send(&request, b"").await;
    watcher.answer::<WatchMetadataRequest>(watch).await.unwrap();
    other.create("unwatched", 1, &[]).await;
    other.create("t", 1, &[]).await;
    let pushed = async |peer: &mut Peer| -> MetadataPush {
        let answer = peer.receive().await.unwrap();
        assert_eq!(answer.header.flags, Flags::PUSH);
        assert_eq!(answer.header.correlation, watch);
        decode(strandline_protocol::ApiKey::WatchMetadata, &answer.message).unwrap()
    };
    let push = pushed(&mut watcher).await;
    assert_eq!(push.topics.len(), 1);
    assert_eq!(
        (push.topics[0].name.as_str(), push.topics[0].partition_count),
        ("t", 1)
    );
    let more = CreatePartitionsRequest {
        topics: vec![NewPartitions {
            name: "t".to_owned(),
            total: 3,
        }],
    };
    other.call(&more, b"").await.unwrap();
    assert_eq!(pushed(&mut watcher).await.topics[0].partition_count, 3);
    let (page, _) = other.call(&MetadataRequest::default(), b"").await.unwrap();
    let names: Vec<_> = page
        .topics
        .iter()
        .map(|topic| topic.name.as_str())
        .collect();
    assert_eq!(names, ["t", "unwatched"]);
    assert_eq!(page.brokers[0].port, server.native_addr().port());
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_moves_the_start() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[("storage.retention_interval", "20ms")]).await;
    let mut peer = Peer::connect(&server).await;
    // The records' time is years ago, and only their size is to count here.
    let by_size = ("retention.bytes", "2048");
    let configs = [("segment.bytes", "1024"), by_size, ("retention.ms", "-1")];
    let topic = peer.create("t", 1, &configs).await;
    let value = "x".repeat(200);
    for _ in 0..50 {
        peer.produce_values(topic, &[&value]).await;
    }
    crate::until("old segments go", async || {
        peer.fetch(topic, 49, 0, 0).await.0.log_start_offset.0 > 30
    })
    .await;
    let (gone, _) = peer.fetch(topic, 0, 0, 0).await;
    assert_eq!(gone.failure.error, ErrorCode::OFFSET_OUT_OF_RANGE);
    let start_offset = peer.fetch(topic, 49, 0, 0).await.0.log_start_offset.0;
    server.shutdown().await.unwrap();
    let server = start(data.path(), &[]).await;
    let mut peer = Peer::connect(&server).await;
    let kept = peer.values(topic, start_offset).await;
    assert_eq!(i64::try_from(kept.len()).unwrap(), 50 - start_offset);
    server.shutdown().await.unwrap();
}
