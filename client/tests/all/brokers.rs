//! Several brokers, of which some die, move, or do not know better.

use std::time::{Duration, Instant};

use crate::support::{FakeCluster, Intercept, eventually};
use strandline_client::{
    Client, ClientError, ClientOptions, ConsumerOptions, NewRecord, Producer, ProducerOptions,
    StartAt,
    protocol::{ApiKey, BrokerId, ErrorCode, PartitionId, messages::OffsetQuery},
};
use tokio::net::TcpListener;

const P0: PartitionId = PartitionId(0);

async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Three brokers with a topic of one partition that the last one leads, and a client that was told
/// of the first one only.
async fn started() -> (FakeCluster, Client) {
    let cluster = FakeCluster::start(3).await;
    cluster.create_topic("t", 1);
    cluster.move_leader("t", 0, 2);
    let client = cluster.client().await;
    (cluster, client)
}

async fn write(producer: &Producer, value: &str) -> Result<(), ClientError> {
    let record = NewRecord::to("t").partition(P0).value(value.as_bytes());
    producer.send(record).await?.await.map(|_| ())
}

#[tokio::test]
async fn of_brokers_that_are_all_down_each_says_why() {
    let (refusing, silent) = (
        nobody().await,
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let silent_address = silent.local_addr().unwrap().to_string();
    let options = ClientOptions {
        connect_timeout: Duration::from_millis(100),
        ..ClientOptions::default()
    };
    let bootstrap = [refusing.clone(), silent_address.clone()];
    let error = Client::connect(&bootstrap, options).await.unwrap_err();
    let expected = format!(
        "cannot reach any of 2 brokers: {refusing}: connection refused, {silent_address}: it \
         accepts connections but does not answer; is the broker running? start one with \
         `strandline server`"
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_broker_that_says_nothing_does_not_hold_up_the_others() {
    let cluster = FakeCluster::start(1).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bootstrap = [
        silent.local_addr().unwrap().to_string(),
        cluster.state.lock().addresses[0].clone(),
    ];
    let options = ClientOptions {
        connect_timeout: Duration::from_secs(60),
        ..ClientOptions::default()
    };
    let began = Instant::now();
    Client::connect(&bootstrap, options).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_producer_and_a_consumer_survive_the_broker_they_were_told_of() {
    let (cluster, client) = started().await;
    let producer = client.producer(ProducerOptions::default()).unwrap();
    let mut consumer = client.consumer(ConsumerOptions::default()).unwrap();
    consumer
        .assign(&[("t", P0, StartAt::Beginning)])
        .await
        .unwrap();
    write(&producer, "before").await.unwrap();
    cluster.stop_broker(0);
    // Nobody watches at this moment, so that the change must be asked for.
    cluster.move_leader("t", 0, 1);
    write(&producer, "after").await.unwrap();
    assert_eq!(cluster.values("t", 0), ["before", "after"]);
    let mut read = 0;
    while read < 2 {
        read += consumer.poll().await.unwrap().iter().count();
    }
    // An identity and topics are learnt from those that live, too.
    let second = client.producer(ProducerOptions::default()).unwrap();
    write(&second, "new").await.unwrap();
    assert_eq!(client.admin().list_topics().await.unwrap().len(), 1);
    assert_eq!(cluster.state.lock().topics["t"].logs[0].duplicates, 0);
}

#[tokio::test]
async fn the_watch_moves_to_another_broker_and_asks_that_one() {
    let (cluster, client) = started().await;
    let producer = client.producer(ProducerOptions::default()).unwrap();
    write(&producer, "0").await.unwrap();
    eventually("a watch", || cluster.count(ApiKey::WatchMetadata) == 1).await;
    cluster.state.lock().seen.clear();
    cluster.stop_broker(0);
    let watched_by = || {
        let state = cluster.state.lock();
        let watch =
            |seen: &&crate::support::Seen| seen.api == ApiKey::WatchMetadata && seen.broker != 0;
        state.seen.iter().find(watch).map(|seen| seen.broker)
    };
    eventually("another watch", || watched_by().is_some()).await;
    let watched_by = watched_by().unwrap();
    eventually("a look behind the watch", || {
        let state = cluster.state.lock();
        let seen = state.seen.iter();
        let mut behind = seen.skip_while(|seen| seen.api != ApiKey::WatchMetadata);
        behind.any(|seen| seen.api == ApiKey::Metadata && seen.broker == watched_by)
    })
    .await;
    // From then on changes are pushed: the old leader is not asked any more.
    let before = cluster.state.lock().seen.len();
    cluster.move_leader("t", 0, 1);
    tokio::task::yield_now().await;
    write(&producer, "1").await.unwrap();
    assert!(cluster.state.lock().seen.len() > before);
    assert_eq!(cluster.values("t", 0), ["0", "1"]);
}

#[tokio::test]
async fn a_partition_that_nobody_leads_is_waited_for_and_then_told_of() {
    let (cluster, client) = started().await;
    cluster.move_leader("t", 0, -1);
    let options = ProducerOptions {
        delivery_timeout: Duration::from_millis(300),
        ..ProducerOptions::default()
    };
    let producer = client.producer(options).unwrap();
    let error = write(&producer, "lost").await.unwrap_err();
    let address = cluster.state.lock().addresses[2].clone();
    let says = format!("broker 2 ({address}) must run and be heard of by the controller");
    assert!(error.to_string().contains(&says), "{error}");
    assert!(matches!(error, ClientError::TimedOutBeforeSending { .. }));

    let patient = client.producer(ProducerOptions::default()).unwrap();
    let writing = write(&patient, "kept");
    let leading = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cluster.move_leader("t", 0, 1);
    };
    let (written, ()) = tokio::join!(writing, leading);
    written.unwrap();
    assert_eq!(cluster.values("t", 0), ["kept"]);
}

#[tokio::test]
async fn a_leader_that_is_gone_is_named_with_its_address() {
    let (cluster, client) = started().await;
    cluster.stop_broker(2);
    let options = ProducerOptions {
        delivery_timeout: Duration::from_millis(300),
        ..ProducerOptions::default()
    };
    let producer = client.producer(options).unwrap();
    let error = write(&producer, "lost").await.unwrap_err();
    let address = cluster.state.lock().addresses[2].clone();
    let says = format!("broker 2, its leader: cannot reach {address}: connection refused");
    assert!(error.to_string().contains(&says), "{error}");
    // Whoever shows a topic is not kept waiting by partitions that nobody leads.
    cluster.move_leader("t", 0, -1);
    let admin = client.admin();
    let found = admin.list_offsets_of_led("t", OffsetQuery::Latest).await;
    assert!(found.unwrap().is_empty());
}

#[tokio::test]
async fn a_broker_of_another_cluster_is_never_taken_for_one_of_ours() {
    let (cluster, client) = started().await;
    cluster.state.lock().foreign = Some(2);
    let options = ProducerOptions {
        delivery_timeout: Duration::from_millis(300),
        ..ProducerOptions::default()
    };
    let producer = client.producer(options).unwrap();
    let error = write(&producer, "lost").await.unwrap_err();
    assert!(
        error.to_string().contains("belongs to another cluster"),
        "{error}"
    );
    assert!(cluster.values("t", 0).is_empty());
}

#[tokio::test]
async fn what_concerns_the_cluster_is_asked_of_any_broker() {
    let cluster = FakeCluster::start(3).await;
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    let admin = client.admin();
    // The brokers become known.
    admin.describe_topics(&["t"]).await.unwrap();
    client
        .admin()
        .list_offsets("t", OffsetQuery::Latest)
        .await
        .unwrap();
    cluster.intercept(|seen| match (seen.api, seen.broker) {
        (ApiKey::DescribeCluster | ApiKey::ChangeVoters, 0) => {
            Intercept::Refuse(ErrorCode::NOT_CONTROLLER)
        }
        (ApiKey::UnregisterBroker, _) => Intercept::LoseAnswer,
        _ => Intercept::Serve,
    });
    let described = admin.describe_cluster().await.unwrap();
    assert_ne!(described.answered_by, BrokerId(0));
    let voters = admin.change_voters(&[BrokerId(1)], &[]).await.unwrap();
    assert_eq!(voters, [BrokerId(1)]);
    // Whether it was done is not known, so it is not done again.
    let lost = admin.unregister_broker(BrokerId(2)).await.unwrap_err();
    assert!(matches!(lost, ClientError::OutcomeUnknown { .. }), "{lost}");
    assert_eq!(cluster.count(ApiKey::UnregisterBroker), 1);
}
