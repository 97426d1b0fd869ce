//! Reading, against brokers that move, break and lie.

use std::time::Duration;

use crate::support::{FakeCluster, Intercept};
use strandline_client::{
    Client, ClientError, Compression, Consumer, ConsumerOptions, NewRecord, OutOfRange,
    ProducerOptions, StartAt,
    protocol::{ApiKey, ErrorCode, Offset, PartitionId, batch::Codec},
};

const P0: PartitionId = PartitionId(0);

async fn filled(records: usize, codec: Codec) -> (FakeCluster, Client) {
    let cluster = FakeCluster::start(2).await;
    cluster.create_topic("t", 2);
    let client = cluster.client().await;
    let options = ProducerOptions {
        batch_bytes: 200,
        compression: Compression::Codec(codec),
        ..ProducerOptions::default()
    };
    let producer = client.producer(options).unwrap();
    for number in 0..records {
        let value = format!("{number:04}");
        let record = NewRecord::to("t")
            .partition(P0)
            .key(b"k")
            .value(value.as_bytes());
        let record = record.headers(&[("h", Some(b"v")), ("h", None)]);
        drop(producer.send(record).await.unwrap());
    }
    producer.close().await.unwrap();
    (cluster, client)
}

fn consumer(client: &Client) -> Consumer {
    let options = ConsumerOptions {
        partition_bytes_max: 1_000,
        wait_max: Duration::from_millis(50),
        ..ConsumerOptions::default()
    };
    client.consumer(options).unwrap()
}

async fn read_to_end(consumer: &mut Consumer) -> Vec<i64> {
    let mut offsets = Vec::new();
    while let Some(records) = consumer.poll_to_end().await.unwrap() {
        assert!(!records.is_empty());
        for record in records.iter() {
            let record = record.unwrap();
            let value = format!("{:04}", record.offset.0);
            assert_eq!(record.value, Some(value.as_bytes()));
            assert_eq!(record.key, Some(&b"k"[..]));
            assert_eq!(record.headers.count(), 2);
            offsets.push(record.offset.0);
        }
    }
    offsets
}

#[tokio::test]
async fn everything_is_read_once_and_in_order() {
    for codec in Codec::ALL {
        let (_cluster, client) = filled(300, codec).await;
        let mut consumer = consumer(&client);
        consumer
            .assign_topic("t", StartAt::Beginning)
            .await
            .unwrap();
        let offsets = read_to_end(&mut consumer).await;
        assert_eq!(offsets, (0..300).collect::<Vec<_>>(), "{codec:?}");
        let positions = consumer.positions();
        assert_eq!(positions[0].offset, Offset(300));
        assert_eq!(positions[0].high_watermark, Some(Offset(300)));
    }
}

#[tokio::test]
async fn reading_begins_where_it_is_told() {
    let (_cluster, client) = filled(100, Codec::None).await;
    let mut consumer = consumer(&client);
    for (start, first) in [
        (StartAt::Beginning, 0),
        (StartAt::Offset(Offset(37)), 37),
        (StartAt::FromEnd(7), 93),
        (StartAt::FromEnd(1_000), 0),
        (StartAt::End, 100),
    ] {
        consumer.assign(&[("t", P0, start)]).await.unwrap();
        let offsets = read_to_end(&mut consumer).await;
        assert_eq!(offsets, (first..100).collect::<Vec<_>>(), "{start:?}");
    }
    consumer
        .seek("t", P0, StartAt::Offset(Offset(50)))
        .await
        .unwrap();
    let records = consumer.poll().await.unwrap();
    assert_eq!(records.iter().next().unwrap().unwrap().offset, Offset(50));
    let error = consumer
        .seek("t", PartitionId(1), StartAt::End)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::NotAssigned { .. }), "{error}");
}

#[tokio::test]
async fn a_long_poll_wakes_up_and_a_dropped_poll_loses_nothing() {
    let (cluster, client) = filled(10, Codec::None).await;
    let mut consumer = consumer(&client);
    consumer
        .assign(&[("t", P0, StartAt::Offset(Offset(10)))])
        .await
        .unwrap();
    let short = Duration::from_millis(20);
    assert!(tokio::time::timeout(short, consumer.poll()).await.is_err());
    let producer = client.producer(ProducerOptions::default()).unwrap();
    for number in 10..20 {
        let value = format!("{number:04}");
        let record = NewRecord::to("t").partition(P0).value(value.as_bytes());
        producer.send(record).await.unwrap().await.unwrap();
    }
    let mut offsets = Vec::new();
    while offsets.len() < 10 {
        // Dropped again and again in the middle of what it does.
        let short = Duration::from_micros(300);
        if let Ok(records) = tokio::time::timeout(short, consumer.poll()).await {
            let records = records.unwrap();
            offsets.extend(records.iter().map(|record| record.unwrap().offset.0));
        }
    }
    assert_eq!(offsets, (10..20).collect::<Vec<_>>());
    drop(cluster);
}

#[tokio::test]
async fn out_of_range_is_an_error_unless_a_policy_was_chosen() {
    let (cluster, client) = filled(50, Codec::None).await;
    cluster.state.lock().topics.get_mut("t").unwrap().logs[0].start = 20;
    let start = [("t", P0, StartAt::Offset(Offset(5)))];
    let mut strict = consumer(&client);
    strict.assign(&start).await.unwrap();
    for _ in 0..2 {
        let error = strict.poll().await.unwrap_err();
        let ClientError::OutOfRange { start, end, .. } = error else {
            panic!("{error}");
        };
        assert_eq!((start, end), (Offset(20), Offset(50)));
    }
    let options = ConsumerOptions {
        out_of_range: OutOfRange::Beginning,
        ..ConsumerOptions::default()
    };
    let mut lenient = client.consumer(options).unwrap();
    lenient.assign(&start).await.unwrap();
    let records = lenient.poll().await.unwrap();
    assert_eq!(records.iter().next().unwrap().unwrap().offset, Offset(20));
}

#[tokio::test]
async fn damage_is_told_with_the_next_good_offset() {
    let (cluster, client) = filled(50, Codec::None).await;
    let mut consumer = consumer(&client);
    consumer
        .assign(&[("t", P0, StartAt::Beginning)])
        .await
        .unwrap();
    cluster.intercept(|seen| match seen.api {
        ApiKey::Fetch => Intercept::Refuse(ErrorCode::CORRUPT),
        _ => Intercept::Serve,
    });
    let error = consumer.poll().await.unwrap_err();
    let ClientError::Corrupt {
        offset, next_good, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((*offset, *next_good), (Offset(0), Some(Offset(77))));
    cluster.intercept(|_| Intercept::Serve);
    cluster.state.lock().topics.get_mut("t").unwrap().logs[0].damage_last();
    let error = loop {
        match consumer.poll().await {
            Ok(records) => assert!(records.iter().all(|record| record.is_ok())),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(
            error,
            ClientError::Corrupt {
                next_good: None,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn reading_survives_broken_connections_and_new_leaders() {
    let (cluster, client) = filled(300, Codec::None).await;
    cluster.intercept(|seen| match (seen.api, seen.count % 5) {
        (ApiKey::Fetch, 1) => Intercept::Break,
        (ApiKey::Fetch, 3) => Intercept::Refuse(ErrorCode::NOT_LEADER_OR_FOLLOWER),
        _ => Intercept::Serve,
    });
    let mut consumer = consumer(&client);
    consumer
        .assign(&[("t", P0, StartAt::Beginning)])
        .await
        .unwrap();
    let mut offsets = Vec::new();
    while offsets.len() < 300 {
        let records = consumer.poll().await.unwrap();
        offsets.extend(records.iter().map(|record| record.unwrap().offset.0));
        cluster.move_leader("t", 0, i32::try_from(offsets.len() % 2).unwrap());
    }
    assert_eq!(offsets, (0..300).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stream_gives_owned_records() {
    let (_cluster, client) = filled(100, Codec::Lz4).await;
    let mut consumer = consumer(&client);
    consumer
        .assign(&[("t", P0, StartAt::Offset(Offset(40)))])
        .await
        .unwrap();
    let mut stream = consumer.into_stream();
    for offset in 40..100 {
        let record = stream.next().await.unwrap();
        assert_eq!(record.offset, Offset(offset));
        assert_eq!(record.headers[0].0, "h");
    }
}

#[tokio::test]
async fn unknown_topics_are_told_at_once() {
    let (_cluster, client) = filled(1, Codec::None).await;
    let mut consumer = consumer(&client);
    let error = consumer
        .assign_topic("nope", StartAt::End)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::UnknownTopic { .. }), "{error}");
    let error = consumer
        .assign(&[("t", PartitionId(9), StartAt::End)])
        .await
        .unwrap_err();
    assert!(
        matches!(error, ClientError::UnknownPartition { .. }),
        "{error}"
    );
}
