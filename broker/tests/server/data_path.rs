//! Produce and fetch.

use std::{path::Path, time::Duration};

use strandline_broker::server::Server;
use strandline_protocol::{
    ErrorCode, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, Timestamp,
    batch::builder::ProducerStamp,
    messages::{
        Acks, DeleteRecordsPartition, DeleteRecordsRequest, FetchRequest, InitProducerIdRequest,
        ListOffsetsPartition, ListOffsetsRequest, OffsetQuery, ProduceRequest,
    },
};

use strandline_storage::fs::simulated::SimulatedDisk;

use crate::{
    PATIENCE,
    peer::{Peer, batch, batch_of, fetch_request, produce_request},
    settings, start, until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_produced_is_fetched() {
    let data = tempfile::tempdir().unwrap();
    for flush in ["ack", "async"] {
        let server = start(&data.path().join(flush), &[("flush", flush)]).await;
        let mut peer = Peer::connect(&server).await;
        let topic = peer.create("t", 1, &[]).await;
        for acks in [Acks::Leader, Acks::All] {
            let produced = peer.produce(topic, acks, &batch(&["a", "b"])).await;
            assert!(produced.failure.error.is_none(), "{produced:?}");
        }
        // Nothing is answered to acks=0; what comes behind is.
        let alone = batch(&["c"]);
        let request = produce_request(topic, Acks::None, &[alone.len()]);
        peer.send(&request, &alone).await;
        until("everything is visible", async || {
            peer.values(topic, 0).await.len() == 5
        })
        .await;
        assert_eq!(peer.values(topic, 0).await, ["a", "b", "a", "b", "c"]);
        assert_eq!(peer.values(topic, 3).await, ["b", "c"]);
        server.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_wakes_when_data_arrives() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let mut writer = Peer::connect(&server).await;
    let mut reader = Peer::connect(&server).await;
    let topic = writer.create("t", 1, &[]).await;
    let started = std::time::Instant::now();
    let waiting = reader.send(&fetch_request(topic, 0, 1, 60_000), b"").await;
    // What is parked blocks nobody behind it.
    let probe = reader.send(&fetch_request(topic, 0, 1, 0), b"").await;
    let (empty, _) = reader.answer::<FetchRequest>(probe).await.unwrap();
    assert_eq!(empty.partitions[0].bytes, 0);
    writer.produce_values(topic, &["wake up"]).await;
    let (_, payload) = reader.answer::<FetchRequest>(waiting).await.unwrap();
    assert_eq!(crate::peer::records(&payload), [(0, "wake up".to_owned())]);
    assert!(started.elapsed() < PATIENCE);
    // A deadline answers with nothing.
    let (fetched, payload) = reader.fetch(topic, 1, 1, 50).await;
    assert!(fetched.failure.error.is_none() && payload.is_empty());
    assert_eq!(fetched.high_watermark, Offset(1));
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_waits_for_its_minimum() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[("flush", "async")]).await;
    let mut writer = Peer::connect(&server).await;
    let mut reader = Peer::connect(&server).await;
    let topic = writer.create("t", 1, &[]).await;
    let one = batch(&["0123456789"]).len();
    let minimum = u32::try_from(3 * one).unwrap();
    let waiting = reader
        .send(&fetch_request(topic, 0, minimum, 60_000), b"")
        .await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        writer.produce_values(topic, &["0123456789"]).await;
    }
    let (_, payload) = reader.answer::<FetchRequest>(waiting).await.unwrap();
    assert_eq!(payload.len(), 3 * one);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_gets_its_first_offsets() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let mut peer = Peer::connect(&server).await;
    let topic = peer.create("t", 1, &[]).await;
    let ask = InitProducerIdRequest {
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch::NONE,
    };
    let (identity, _) = peer.call(&ask, b"").await.unwrap();
    let stamp = |sequence| ProducerStamp {
        id: identity.producer_id,
        epoch: identity.producer_epoch,
        base_sequence: Sequence(sequence),
    };
    let batches: Vec<_> = (0..5).map(|each| batch_of(&["x"], stamp(each))).collect();
    // All in flight at once, as a producer has them.
    for batch in &batches {
        let request = produce_request(topic, Acks::All, &[batch.len()]);
        peer.send(&request, batch).await;
    }
    let mut answered = 0;
    while answered < batches.len() {
        assert!(peer.receive().await.unwrap().header.error.is_none());
        answered += 1;
    }
    for (offset, batch) in (0..).zip(&batches) {
        let again = peer.produce(topic, Acks::All, batch).await;
        assert!(again.failure.error.is_none(), "{again:?}");
        assert_eq!(again.base_offset, Offset(offset));
    }
    let gap = peer
        .produce(topic, Acks::All, &batch_of(&["x"], stamp(9)))
        .await;
    assert_eq!(gap.failure.error, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(peer.values(topic, 0).await.len(), 5);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_partition_of_a_produce_is_answered_on_its_own() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let mut peer = Peer::connect(&server).await;
    let topic = peer.create("t", 2, &[]).await;
    let good = batch(&["good"]);
    let mut bad = batch(&["bad"]).to_vec();
    *bad.last_mut().unwrap() ^= 1;
    let request = produce_request(topic, Acks::All, &[good.len(), bad.len(), good.len()]);
    let payload = [&good[..], &bad, &good].concat();
    let (response, _) = peer.call(&request, &payload).await.unwrap();
    let errors: Vec<_> = response
        .partitions
        .iter()
        .map(|partition| partition.failure.error)
        .collect();
    let expected = [
        ErrorCode::NONE,
        ErrorCode::CORRUPT_MESSAGE,
        ErrorCode::UNKNOWN_TOPIC_ID,
    ];
    assert_eq!(errors, expected);
    // Sizes that do not make up the payload refuse the whole, and the connection goes on.
    let wrong: ProduceRequest = produce_request(topic, Acks::All, &[good.len() + 1]);
    let (code, _) = peer.call(&wrong, &good).await.unwrap_err();
    assert_eq!(code, ErrorCode::INVALID_REQUEST);
    assert_eq!(peer.values(topic, 0).await, ["good"]);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_listed_and_records_deleted() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let mut peer = Peer::connect(&server).await;
    let topic = peer.create("t", 1, &[]).await;
    peer.produce_values(topic, &["a", "b", "c"]).await;
    let list = async |peer: &mut Peer, query| {
        let request = ListOffsetsRequest {
            partitions: vec![ListOffsetsPartition {
                topic_id: topic,
                partition: PartitionId(0),
                query,
            }],
        };
        let (response, _) = peer.call(&request, b"").await.unwrap();
        let found = &response.partitions[0];
        assert!(found.failure.error.is_none(), "{:?}", found.failure);
        found.offset
    };
    assert_eq!(
        list(&mut peer, OffsetQuery::Earliest).await,
        Some(Offset(0))
    );
    assert_eq!(list(&mut peer, OffsetQuery::Latest).await, Some(Offset(3)));
    assert_eq!(
        list(&mut peer, OffsetQuery::At(Timestamp(0))).await,
        Some(Offset(0))
    );
    assert_eq!(
        list(&mut peer, OffsetQuery::At(Timestamp(i64::MAX))).await,
        None
    );
    let delete = |before| DeleteRecordsRequest {
        partitions: vec![DeleteRecordsPartition {
            topic_id: topic,
            partition: PartitionId(0),
            before,
        }],
    };
    let (response, _) = peer.call(&delete(Some(Offset(2))), b"").await.unwrap();
    assert_eq!(response.partitions[0].log_start_offset, Offset(2));
    assert_eq!(
        list(&mut peer, OffsetQuery::Earliest).await,
        Some(Offset(2))
    );
    let (fetched, _) = peer.fetch(topic, 0, 0, 0).await;
    assert_eq!(fetched.failure.error, ErrorCode::OFFSET_OUT_OF_RANGE);
    assert_eq!(peer.values(topic, 2).await, ["c"]);
    let (response, _) = peer.call(&delete(Some(Offset(9))), b"").await.unwrap();
    assert_eq!(
        response.partitions[0].failure.error,
        ErrorCode::OFFSET_OUT_OF_RANGE
    );
    server.shutdown().await.unwrap();
}

/// One partition always has something to answer with; the other one is not in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_partition_does_not_keep_a_cold_one_from_being_read() {
    let data = Path::new("/data");
    let disk = SimulatedDisk::new(5);
    let server = Server::start_on(settings(data, &[]), disk.file_system());
    let server = server.await.unwrap();
    let mut peer = Peer::connect(&server).await;
    let busy = peer.create("busy", 1, &[]).await;
    let cold = peer.create("cold", 1, &[]).await;
    for topic in [busy, cold] {
        let large = "x".repeat(200_000);
        peer.produce_values(topic, &[&large]).await;
    }
    server.shutdown().await.unwrap();
    let server = Server::start_on(settings(data, &[]), disk.file_system());
    let server = server.await.unwrap();
    server.recovered().await;
    let mut peer = Peer::connect(&server).await;
    peer.produce_values(busy, &["new"]).await;
    disk.chill();
    let mut both = fetch_request(busy, 1, 1, 60_000);
    both.partitions
        .extend(fetch_request(cold, 0, 1, 0).partitions);
    until("the cold partition is read", async || {
        let (response, _) = peer.call(&both, b"").await.unwrap();
        assert!(response.partitions[0].bytes > 0, "{response:?}");
        response.partitions[1].bytes > 0
    })
    .await;
    server.shutdown().await.unwrap();
}
