//! Leaders that die, stop answering or move, and replicas that are read: order and uniqueness are
//! kept, and nobody waits for a broker that says nothing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::support::{
    FakeCluster, Intercept, eventually,
    records::{numbers, send, small_batches},
};
use strandline_client::{
    Client, ClientError, ClientOptions, Consumer, ConsumerOptions, Delivery, ProducerOptions,
    StartAt,
    protocol::{
        ApiKey, BrokerId, ErrorCode, Offset, PartitionId,
        messages::{Acks, Duty, Election},
    },
};

const P0: PartitionId = PartitionId(0);

/// Three brokers and a topic of two partitions that broker 2 leads; the client has real pauses, and
/// was told of broker 0.
async fn started() -> (FakeCluster, Client) {
    started_with(ClientOptions::default()).await
}

/// Pauses of a client that would be noticed: whatever ends soon all the same, ended them.
fn long_pauses() -> ClientOptions {
    ClientOptions {
        backoff_min: Duration::from_secs(20),
        backoff_max: Duration::from_secs(60),
        ..ClientOptions::default()
    }
}

/// What a busy machine may take for something that happens at once.
const AT_ONCE: Duration = Duration::from_secs(5);

async fn started_with(options: ClientOptions) -> (FakeCluster, Client) {
    let cluster = FakeCluster::start(3).await;
    cluster.create_topic("t", 2);
    cluster.replicate("t", &[0, 1, 2]);
    for partition in 0..2 {
        cluster.move_leader("t", partition, 2);
    }
    let client = cluster.client_with(options).await;
    (cluster, client)
}

async fn all_written(deliveries: Vec<Delivery>, first: i64) {
    for (offset, delivery) in (first..).zip(deliveries) {
        assert_eq!(delivery.await.unwrap().offset, Some(Offset(offset)));
    }
}

#[tokio::test]
async fn a_leadership_that_is_lost_is_found_again_with_the_same_sequences() {
    for code in [
        ErrorCode::LEADERSHIP_LOST,
        ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    ] {
        for written in [true, false] {
            let (cluster, client) = started().await;
            let producer = client.producer(small_batches()).unwrap();
            all_written(send(&producer, 0..20).await, 0).await;
            // The old leader has appended what it answers so, or has lost it with its leadership.
            let moved = cluster.clone();
            cluster.intercept(move |seen| match (seen.api, seen.broker) {
                (ApiKey::Produce, 2) if written => Intercept::ServeAndRefuse(code),
                (ApiKey::Produce, 2) => Intercept::Refuse(code),
                _ => Intercept::Serve,
            });
            let deliveries = send(&producer, 20..60).await;
            eventually("a refusal", || moved.count(ApiKey::Produce) > 0).await;
            cluster.move_leader("t", 0, 1);
            all_written(deliveries, 20).await;
            assert_eq!(cluster.values("t", 0), numbers(0..60), "{code} {written}");
            let duplicates = cluster.state.lock().topics["t"].logs[0].duplicates;
            assert_eq!(duplicates > 0, written, "{code}");
        }
    }
}

#[tokio::test]
async fn an_outcome_that_stays_unknown_is_not_called_a_failure() {
    let (cluster, client) = started().await;
    let options = ProducerOptions {
        delivery_timeout: Duration::from_millis(300),
        ..ProducerOptions::default()
    };
    let producer = client.producer(options).unwrap();
    cluster.intercept(|seen| match seen.api {
        ApiKey::Produce => Intercept::Refuse(ErrorCode::LEADERSHIP_LOST),
        _ => Intercept::Serve,
    });
    let mut deliveries = send(&producer, 0..1).await;
    let error = deliveries.remove(0).await.unwrap_err();
    assert!(
        matches!(error, ClientError::OutcomeUnknown { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("`t`-0"), "{error}");
}

#[tokio::test]
async fn too_few_replicas_are_waited_for_and_counted_in_the_end() {
    let (cluster, client) = started().await;
    let options = ProducerOptions {
        delivery_timeout: Duration::from_millis(800),
        ..ProducerOptions::default()
    };
    let producer = client.producer(options).unwrap();
    cluster.intercept(|seen| match seen.api {
        ApiKey::Produce => Intercept::Refuse(ErrorCode::NOT_ENOUGH_REPLICAS),
        _ => Intercept::Serve,
    });
    let mut deliveries = send(&producer, 0..1).await;
    let error = deliveries.remove(0).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ClientError::TimedOutBeforeSending { .. }));
    assert!(
        text.contains("`t`-0") && text.contains("3 of 3 replicas are in sync"),
        "{text}"
    );
    assert!(cluster.count(ApiKey::Produce) > 1);
    // One that comes back before the time is over writes what waited.
    let client = cluster.client_with(long_pauses()).await;
    let patient = client.producer(ProducerOptions::default()).unwrap();
    let before = cluster.count(ApiKey::Produce);
    let deliveries = send(&patient, 0..5).await;
    eventually("a refusal", || cluster.count(ApiKey::Produce) > before).await;
    eventually("a watch", || cluster.count(ApiKey::WatchMetadata) > 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.intercept(|_| Intercept::Serve);
    // The change of the ISR is pushed, and ends the pause.
    let began = Instant::now();
    cluster.replicate("t", &[1, 2]);
    all_written(deliveries, 0).await;
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_leader_that_dies_holds_nothing_up_once_the_next_is_elected() {
    let (cluster, client) = started_with(long_pauses()).await;
    let producer = client.producer(small_batches()).unwrap();
    all_written(send(&producer, 0..20).await, 0).await;
    cluster.stop_broker(2);
    let deliveries = send(&producer, 20..200).await;
    // The client has run against the dead broker for a while, and its pauses have grown.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let elected = Instant::now();
    cluster.move_leader("t", 0, 1);
    all_written(deliveries, 20).await;
    let took = elected.elapsed();
    assert!(took < AT_ONCE, "{took:?}");
    assert_eq!(cluster.values("t", 0), numbers(0..200));
}

#[tokio::test]
async fn a_leader_that_is_paused_is_left_once_another_is_known() {
    let (cluster, client) = started().await;
    let producer = client.producer(small_batches()).unwrap();
    all_written(send(&producer, 0..20).await, 0).await;
    eventually("a watch", || cluster.count(ApiKey::WatchMetadata) > 0).await;
    cluster.pause(2);
    let deliveries = send(&producer, 20..200).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let elected = Instant::now();
    cluster.move_leader("t", 0, 1);
    all_written(deliveries, 20).await;
    let took = elected.elapsed();
    assert!(took < AT_ONCE, "{took:?}");
    // It wakes up, and what lies in its socket is refused there; nobody listens to that any more.
    cluster.go_on(2);
    all_written(send(&producer, 200..300).await, 200).await;
    assert_eq!(cluster.values("t", 0), numbers(0..300));
}

#[tokio::test]
async fn a_paused_broker_that_held_the_watch_too_is_asked_about_elsewhere() {
    let (cluster, client) = started().await;
    cluster.move_leader("t", 0, 0);
    let producer = client.producer(small_batches()).unwrap();
    all_written(send(&producer, 0..20).await, 0).await;
    let mut consumer = reading_from(&client, None, 20).await;
    eventually("a watch", || cluster.count(ApiKey::WatchMetadata) > 0).await;
    let watched_by = cluster
        .state
        .lock()
        .seen
        .iter()
        .rev()
        .find_map(|seen| (seen.api == ApiKey::WatchMetadata).then_some(seen.broker));
    assert_eq!(watched_by, Some(0));
    cluster.pause(0);
    let paused = Instant::now();
    cluster.move_leader("t", 0, 1);
    let deliveries = send(&producer, 20..40).await;
    let read = async {
        let mut values = Vec::new();
        while values.len() < 20 {
            let records = consumer.poll().await.unwrap();
            let read = records.iter().map(|it| it.unwrap().value.unwrap().to_vec());
            values.extend(read.map(|value| String::from_utf8(value).unwrap()));
        }
        values
    };
    let ((), values) = tokio::join!(all_written(deliveries, 20), read);
    let took = paused.elapsed();
    assert!(took < 2 * AT_ONCE, "{took:?}");
    assert_eq!(values, numbers(20..40));
}

#[tokio::test]
async fn what_is_not_acknowledged_is_not_sent_twice() {
    let (cluster, client) = started().await;
    let options = ProducerOptions {
        acks: Acks::None,
        ..small_batches()
    };
    let producer = client.producer(options).unwrap();
    drop(send(&producer, 0..50).await);
    producer.flush().await.unwrap();
    eventually("the records", || cluster.values("t", 0).len() == 50).await;
    cluster.move_leader("t", 0, 1);
    drop(send(&producer, 50..100).await);
    producer.close().await.unwrap();
    eventually("the last", || {
        let last = cluster.values("t", 0).pop();
        last.is_some_and(|last| last == "0099" || last == "0049")
    })
    .await;
    let values = cluster.values("t", 0);
    let mut unique = values.clone();
    unique.dedup();
    assert_eq!(values, unique);
}

async fn reading_from(client: &Client, rack: Option<&str>, offset: i64) -> Consumer {
    // A long poll of a replica must not be what ends a wait.
    let wait_max = Duration::from_secs(if rack.is_some() { 20 } else { 1 });
    let options = ConsumerOptions {
        rack: rack.map(str::to_owned),
        wait_max,
        ..ConsumerOptions::default()
    };
    let mut consumer = client.consumer(options).unwrap();
    let start = StartAt::Offset(Offset(offset));
    consumer.assign(&[("t", P0, start)]).await.unwrap();
    consumer
}

async fn read(consumer: &mut Consumer, count: usize) -> Vec<i64> {
    let mut offsets = Vec::new();
    while offsets.len() < count {
        let records = consumer.poll().await.unwrap();
        offsets.extend(records.iter().map(|record| record.unwrap().offset.0));
    }
    offsets
}

#[tokio::test]
async fn a_consumer_reads_from_the_replica_in_its_rack_and_goes_back_when_it_fails() {
    let (cluster, client) = started().await;
    for (broker, rack) in [(0, "a"), (1, "b"), (2, "c")] {
        cluster.state.lock().racks.insert(broker, rack.to_owned());
    }
    let producer = client.producer(small_batches()).unwrap();
    all_written(send(&producer, 0..50).await, 0).await;
    let mut near = reading_from(&client, Some("b"), 0).await;
    assert_eq!(read(&mut near, 50).await, (0..50).collect::<Vec<_>>());
    assert_eq!(
        cluster.state.lock().served.get(&2),
        None,
        "the leader served"
    );
    assert!(cluster.state.lock().served[&1] > 0);
    // A rack that nobody is in, and none: the leader serves.
    for rack in [Some("elsewhere"), None] {
        let mut far = reading_from(&client, rack, 0).await;
        read(&mut far, 50).await;
    }
    assert!(cluster.state.lock().served[&2] > 0);
    // Every failure of the replica brings it back to the leader, records once and in order.
    for (round, code) in (1..).zip([
        ErrorCode::OFFSET_OUT_OF_RANGE,
        ErrorCode::OFFSET_NOT_AVAILABLE,
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::STORAGE_ERROR,
        ErrorCode::CORRUPT,
    ]) {
        cluster.intercept(move |seen| match (seen.api, seen.broker) {
            (ApiKey::Fetch, 1) => Intercept::Refuse(code),
            _ => Intercept::Serve,
        });
        let mut near = reading_from(&client, Some("b"), 0).await;
        let offsets = read(&mut near, 50 * round).await;
        let all: Vec<_> = (0..50 * i64::try_from(round).unwrap()).collect();
        assert_eq!(offsets, all, "{code}");
        let from = 50 * round;
        all_written(
            send(&producer, from..from + 50).await,
            i64::try_from(from).unwrap(),
        )
        .await;
    }
}

#[tokio::test]
async fn a_replica_that_falls_out_of_sync_or_dies_is_left() {
    let (cluster, client) = started().await;
    cluster.state.lock().racks.insert(1, "b".to_owned());
    let producer = client.producer(small_batches()).unwrap();
    all_written(send(&producer, 0..50).await, 0).await;
    let mut near = reading_from(&client, Some("b"), 0).await;
    read(&mut near, 50).await;
    cluster.pause(1);
    all_written(send(&producer, 50..60).await, 50).await;
    let began = Instant::now();
    cluster.replicate("t", &[0, 2]);
    assert_eq!(read(&mut near, 10).await, (50..60).collect::<Vec<_>>());
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    cluster.go_on(1);
    // It is back, and then gone for good.
    cluster.replicate("t", &[0, 1, 2]);
    let mut near = reading_from(&client, Some("b"), 0).await;
    read(&mut near, 60).await;
    cluster.stop_broker(1);
    all_written(send(&producer, 60..70).await, 60).await;
    assert_eq!(read(&mut near, 10).await, (60..70).collect::<Vec<_>>());
}

#[tokio::test]
async fn replicas_are_moved_elected_and_described() {
    let (cluster, client) = started().await;
    let admin = client.admin();
    let both = [P0, PartitionId(1)];
    let elected = admin.elect_leaders("t", &both, Election::Preferred).await;
    let elected = elected.unwrap();
    let refused = elected[0].outcome.clone().unwrap_err();
    assert!(matches!(
        refused,
        ClientError::Refused {
            code: ErrorCode::ELECTION_NOT_NEEDED,
            ..
        }
    ));
    assert_eq!(
        (elected[1].partition, elected[1].outcome.clone()),
        (PartitionId(1), Ok(()))
    );
    let unknown = admin
        .elect_leaders("t", &[PartitionId(2)], Election::Unclean)
        .await;
    assert!(matches!(unknown, Err(ClientError::UnknownPartition { .. })));
    cluster.move_leader("t", 1, 1);
    let described = admin.describe_replicas("t").await.unwrap();
    assert_eq!(described.len(), 2);
    let first = described[&P0].as_ref().unwrap();
    assert_eq!(first.replicas.first().unwrap().broker_id, BrokerId(2));
    // A leader that cannot tell is missed by its own partitions only.
    cluster.stop_broker(2);
    let described = admin.describe_replicas("t").await.unwrap();
    assert!(described[&P0].is_err() && described[&PartitionId(1)].is_ok());
    let to = BTreeMap::from([(P0, Some(vec![BrokerId(1), BrokerId(0)]))]);
    let moved = admin
        .reassign_partitions("t", &to, Some(1 << 20))
        .await
        .unwrap();
    assert_eq!(moved[0].outcome, Ok(()));
    let drained = admin
        .drain_broker(BrokerId(2), Duty::Drained)
        .await
        .unwrap();
    assert_eq!((drained.leads, drained.keeps), (1, 7));
}

#[tokio::test]
async fn leaders_that_move_all_the_time_neither_hide_nor_double_records() {
    const RECORDS: usize = 400;
    let (cluster, client) = started().await;
    let producer = client.producer(small_batches()).unwrap();
    // Long polls end without records as often as leaders move.
    let options = ConsumerOptions {
        wait_max: Duration::from_millis(1),
        ..ConsumerOptions::default()
    };
    let mut consumer = client.consumer(options).unwrap();
    let start = ("t", P0, StartAt::Beginning);
    consumer.assign(&[start]).await.unwrap();
    let moving = async {
        for turn in 0..300 {
            cluster.move_leader("t", 0, turn % 3);
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let writing = async {
        for number in 0..RECORDS {
            all_written(send(&producer, number..number + 1).await, number as i64).await;
        }
    };
    let ((), (), offsets) = tokio::join!(moving, writing, read(&mut consumer, RECORDS));
    assert_eq!(offsets, (0..RECORDS as i64).collect::<Vec<_>>());
}
