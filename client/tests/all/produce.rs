//! Writing, against brokers that lose, refuse and reorder.

use std::time::Duration;

use crate::support::{
    FakeCluster, Intercept, eventually,
    records::{numbers, send, small_batches},
};
use strandline_client::{
    ClientError, NewRecord, ProducerOptions, partition_for_key,
    protocol::{ApiKey, ErrorCode, Offset, PartitionId, messages::Acks},
};

async fn started() -> (FakeCluster, strandline_client::Client) {
    let cluster = FakeCluster::start(1).await;
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    (cluster, client)
}

#[tokio::test]
async fn records_arrive_in_order_with_their_offsets() {
    let (cluster, client) = started().await;
    let producer = client.producer(small_batches()).unwrap();
    let deliveries = send(&producer, 0..500).await;
    for (index, delivery) in deliveries.into_iter().enumerate() {
        let position = delivery.await.unwrap();
        assert_eq!(position.offset, Some(Offset(i64::try_from(index).unwrap())));
    }
    assert_eq!(cluster.values("t", 0), numbers(0..500));
    producer.close().await.unwrap();
    let late = producer.try_send(NewRecord::to("t").value(b"late"));
    assert_eq!(late.unwrap_err(), ClientError::Closed { what: "producer" });
}

#[tokio::test]
async fn keys_land_where_kafka_puts_them() {
    let cluster = FakeCluster::start(1).await;
    cluster.create_topic("t", 7);
    let producer = cluster
        .client()
        .await
        .producer(ProducerOptions::default())
        .unwrap();
    for key in 0..50_u8 {
        let key = [key];
        let delivery = producer
            .send(NewRecord::to("t").key(&key).value(b"v"))
            .await
            .unwrap();
        assert_eq!(
            delivery.await.unwrap().partition,
            partition_for_key(&key, 7)
        );
    }
}

#[tokio::test]
async fn records_without_a_key_use_all_partitions() {
    let cluster = FakeCluster::start(1).await;
    cluster.create_topic("t", 4);
    let producer = cluster.client().await.producer(small_batches()).unwrap();
    for _ in 0..1_000 {
        drop(
            producer
                .send(NewRecord::to("t").value(b"0123456789"))
                .await
                .unwrap(),
        );
    }
    producer.flush().await.unwrap();
    for partition in 0..4 {
        assert!(cluster.values("t", partition).len() > 100, "{partition}");
    }
}

#[tokio::test]
async fn lost_answers_neither_repeat_nor_reorder() {
    let (cluster, client) = started().await;
    cluster.intercept(|seen| match (seen.api, seen.count % 7) {
        (ApiKey::Produce, 3) => Intercept::LoseAnswer,
        (ApiKey::Produce, 5) => Intercept::Break,
        _ => Intercept::Serve,
    });
    let producer = client.producer(small_batches()).unwrap();
    let deliveries = send(&producer, 0..600).await;
    for (index, delivery) in deliveries.into_iter().enumerate() {
        let position = delivery.await.unwrap();
        assert_eq!(position.offset, Some(Offset(i64::try_from(index).unwrap())));
    }
    assert_eq!(cluster.values("t", 0), numbers(0..600));
    assert!(cluster.state.lock().topics["t"].logs[0].duplicates > 0);
}

#[tokio::test]
async fn refusals_that_pass_are_retried_in_order() {
    for code in [
        ErrorCode::NOT_ENOUGH_REPLICAS,
        ErrorCode::DISK_FULL,
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::REQUEST_TIMED_OUT,
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
    ] {
        let (cluster, client) = started().await;
        // A round of retries has at most five requests: with a period of five or less the first of
        // every round could be refused for ever.
        cluster.intercept(move |seen| match (seen.api, seen.count % 7) {
            (ApiKey::Produce, 1) => Intercept::Refuse(code),
            _ => Intercept::Serve,
        });
        let producer = client.producer(small_batches()).unwrap();
        drop(send(&producer, 0..300).await);
        producer.flush().await.unwrap();
        assert_eq!(cluster.values("t", 0), numbers(0..300), "{code}");
    }
}

/// The leader does not know the producer yet, and takes any sequence from it.
#[tokio::test]
async fn nothing_overtakes_the_first_batch_of_a_producer() {
    for code in [
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode::OFFSET_NOT_AVAILABLE,
    ] {
        let (cluster, client) = started().await;
        cluster.intercept(move |seen| match (seen.api, seen.count) {
            (ApiKey::Produce, 0) => Intercept::Refuse(code),
            _ => Intercept::Serve,
        });
        let producer = client.producer(small_batches()).unwrap();
        drop(send(&producer, 0..100).await);
        producer.flush().await.unwrap();
        assert_eq!(cluster.values("t", 0), numbers(0..100), "{code}");
    }
}

#[tokio::test]
async fn a_restarted_broker_gets_everything() {
    let (cluster, client) = started().await;
    let producer = client.producer(small_batches()).unwrap();
    drop(send(&producer, 0..100).await);
    cluster.stop();
    drop(send(&producer, 100..200).await);
    cluster.restart().await;
    producer.flush().await.unwrap();
    assert_eq!(cluster.values("t", 0), numbers(0..200));
}

#[tokio::test]
async fn a_new_leader_gets_the_rest() {
    let cluster = FakeCluster::start(2).await;
    cluster.create_topic("t", 1);
    let producer = cluster.client().await.producer(small_batches()).unwrap();
    for round in 0..6 {
        drop(send(&producer, round * 50..(round + 1) * 50).await);
        cluster.move_leader("t", 0, i32::try_from((round + 1) % 2).unwrap());
    }
    producer.flush().await.unwrap();
    assert_eq!(cluster.values("t", 0), numbers(0..300));
}

#[tokio::test]
async fn what_was_never_sent_times_out_for_sure() {
    let (cluster, client) = started().await;
    let options = ProducerOptions {
        delivery_timeout: Duration::from_millis(200),
        ..small_batches()
    };
    let producer = client.producer(options).unwrap();
    send(&producer, 0..1).await.pop().unwrap().await.unwrap();
    cluster.stop();
    // The first request may meet the closing socket, so that its outcome is unknown.
    let mut errors = Vec::new();
    for number in 1..4 {
        let delivery = send(&producer, number..number + 1).await.pop().unwrap();
        errors.push(delivery.await.unwrap_err());
    }
    let last = errors.pop().unwrap();
    assert!(
        matches!(last, ClientError::TimedOutBeforeSending { .. }),
        "{last}"
    );
    assert!(last.to_string().contains("strandline server"), "{last}");
}

#[tokio::test]
async fn a_time_out_names_what_was_in_the_way_of_the_first_batch() {
    let (cluster, client) = started().await;
    let options = ProducerOptions {
        delivery_timeout: Duration::from_millis(400),
        ..small_batches()
    };
    let producer = client.producer(options).unwrap();
    send(&producer, 0..1).await.pop().unwrap().await.unwrap();
    let full = |full: bool| {
        cluster.state.lock().topics.get_mut("t").unwrap().logs[0].full = full;
    };
    full(true);
    // Those behind the first are out of order.
    let deliveries = send(&producer, 1..100).await;
    eventually("it is told", || producer.obstacle().is_some()).await;
    for delivery in deliveries {
        let error = delivery.await.unwrap_err().to_string();
        assert!(error.contains("DISK_FULL"), "{error}");
    }
    assert_eq!(producer.acknowledged(), 1);
    full(false);
    assert!(producer.flush().await.is_err());
    send(&producer, 100..102)
        .await
        .pop()
        .unwrap()
        .await
        .unwrap();
    assert_eq!((producer.acknowledged(), producer.obstacle()), (3, None));
}

#[tokio::test]
async fn an_answer_that_never_comes_is_an_unknown_outcome_and_raises_the_epoch() {
    let (cluster, client) = started().await;
    let options = ProducerOptions {
        delivery_timeout: Duration::from_millis(200),
        ..small_batches()
    };
    let producer = client.producer(options).unwrap();
    send(&producer, 0..1).await.pop().unwrap().await.unwrap();
    cluster.intercept(|seen| match seen.api {
        ApiKey::Produce => Intercept::Swallow,
        _ => Intercept::Serve,
    });
    let swallowed = send(&producer, 1..2).await.pop().unwrap();
    let error = swallowed.await.unwrap_err();
    assert!(
        matches!(error, ClientError::OutcomeUnknown { .. }),
        "{error}"
    );
    cluster.intercept(|_| Intercept::Serve);
    send(&producer, 2..3).await.pop().unwrap().await.unwrap();
    assert_eq!(cluster.values("t", 0), numbers(0..3));
    let epochs = cluster.state.lock().topics["t"].logs[0].epochs.clone();
    assert_eq!(epochs, [0, 0, 1]);
}

#[tokio::test]
async fn a_refused_batch_fails_alone_and_the_rest_follows() {
    let (cluster, client) = started().await;
    cluster.intercept(|seen| match (seen.api, seen.count) {
        (ApiKey::Produce, 2) => Intercept::Refuse(ErrorCode::INVALID_RECORD),
        _ => Intercept::Serve,
    });
    let producer = client.producer(small_batches()).unwrap();
    let mut written = Vec::new();
    let mut failed = 0;
    let deliveries = send(&producer, 0..100).await;
    for (value, delivery) in numbers(0..100).into_iter().zip(deliveries) {
        match delivery.await {
            Ok(_) => written.push(value),
            Err(ClientError::Refused { code, .. }) => {
                assert_eq!(code, ErrorCode::INVALID_RECORD);
                failed += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(failed > 0 && failed < 20, "{failed}");
    assert_eq!(cluster.values("t", 0), written);
}

#[tokio::test]
async fn a_broker_that_forgot_the_producer_gets_the_next_epoch() {
    let (cluster, client) = started().await;
    let producer = client.producer(small_batches()).unwrap();
    drop(send(&producer, 0..50).await);
    producer.flush().await.unwrap();
    cluster.state.lock().topics.get_mut("t").unwrap().logs[0].forget_producers();
    drop(send(&producer, 50..100).await);
    producer.flush().await.unwrap();
    assert_eq!(cluster.values("t", 0), numbers(0..100));
    let state = cluster.state.lock();
    assert_eq!(state.topics["t"].logs[0].epochs.last(), Some(&1));
}

#[tokio::test]
async fn a_fenced_producer_says_so_and_stops() {
    let (cluster, client) = started().await;
    cluster.intercept(|seen| match seen.api {
        ApiKey::Produce => Intercept::Refuse(ErrorCode::INVALID_PRODUCER_EPOCH),
        _ => Intercept::Serve,
    });
    let producer = client.producer(small_batches()).unwrap();
    let fenced = send(&producer, 0..1)
        .await
        .pop()
        .unwrap()
        .await
        .unwrap_err();
    let error = producer
        .send(NewRecord::to("t").value(b"x"))
        .await
        .unwrap_err();
    for error in [fenced, error, producer.flush().await.unwrap_err()] {
        let named = matches!(
            error,
            ClientError::Fenced { .. } | ClientError::OutcomeUnknown { .. }
        );
        assert!(named, "{error}");
    }
}

#[tokio::test]
async fn memory_is_bounded_and_frees_itself() {
    let (cluster, client) = started().await;
    cluster.intercept(|seen| match seen.api {
        ApiKey::InitProducerId => Intercept::Swallow,
        _ => Intercept::Serve,
    });
    let options = ProducerOptions {
        memory_bytes_max: 2_000,
        delivery_timeout: Duration::from_millis(300),
        ..small_batches()
    };
    let producer = client.producer(options).unwrap();
    drop(send(&producer, 0..1).await);
    let record = NewRecord::to("t").value(&[7; 40]);
    let full = loop {
        match producer.try_send(record) {
            Ok(delivery) => drop(delivery),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, ClientError::WouldWait { .. }), "{full}");
    // Once the first records have timed out there is room again, well before this one has.
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(producer.send(record).await.unwrap());
}

#[tokio::test]
async fn a_record_that_is_too_large_names_the_maximum() {
    let (cluster, client) = started().await;
    cluster
        .state
        .lock()
        .topics
        .get_mut("t")
        .unwrap()
        .batch_bytes_max = 1_000;
    let producer = client.producer(small_batches()).unwrap();
    let large = producer.send(NewRecord::to("t").value(&[0; 2_000])).await;
    let error = large.unwrap_err();
    assert!(
        matches!(error, ClientError::RecordTooLarge { max: 1_000, .. }),
        "{error}"
    );
    // Larger than a batch is meant to be, but not than the topic accepts.
    let fits = producer
        .send(NewRecord::to("t").value(&[b'x'; 900]))
        .await
        .unwrap();
    fits.await.unwrap();
}

#[tokio::test]
async fn without_acknowledgements_nothing_is_asked_or_told() {
    let (cluster, client) = started().await;
    let options = ProducerOptions {
        acks: Acks::None,
        ..small_batches()
    };
    let producer = client.producer(options).unwrap();
    for delivery in send(&producer, 0..50).await {
        assert_eq!(delivery.await.unwrap().offset, None);
    }
    eventually("all are there", || cluster.values("t", 0).len() == 50).await;
    assert_eq!(cluster.values("t", 0), numbers(0..50));
    assert_eq!(cluster.count(ApiKey::InitProducerId), 0);
}

#[tokio::test]
async fn what_does_not_exist_is_named() {
    let (cluster, client) = started().await;
    let producer = client.producer(small_batches()).unwrap();
    let error = producer
        .send(NewRecord::to("nope").value(b""))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        ClientError::UnknownTopic {
            topic: "nope".to_owned()
        }
    );
    let record = NewRecord::to("t").partition(PartitionId(5)).value(b"");
    let error = producer.send(record).await.unwrap_err();
    assert!(
        error.to_string().contains("its partitions are 0 to 0"),
        "{error}"
    );
    drop(cluster);
}

#[tokio::test]
async fn partitions_of_one_broker_share_requests() {
    let cluster = FakeCluster::start(1).await;
    cluster.create_topic("t", 50);
    let options = ProducerOptions {
        linger: Duration::from_millis(50),
        ..ProducerOptions::default()
    };
    let producer = cluster.client().await.producer(options).unwrap();
    for partition in 0..50 {
        let record = NewRecord::to("t")
            .partition(PartitionId(partition))
            .value(b"v");
        drop(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
    let requests = cluster.count(ApiKey::Produce);
    assert!(requests <= 3, "{requests} requests");
}
