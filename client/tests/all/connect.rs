//! Connecting, and what is said when it fails.

use std::time::Duration;

use crate::support::{FakeCluster, Intercept, keep_an_address};
use strandline_client::{
    Client, ClientError, ClientOptions, ConsumerOptions, ProducerOptions,
    connection::Connection,
    protocol::{ApiKey, ErrorCode, messages::MetadataRequest},
};
use tokio::net::TcpListener;

#[tokio::test]
async fn a_broker_that_is_down_is_named_with_the_remedy() {
    let down = keep_an_address();
    let address = down.local_addr().unwrap().to_string();
    let error = Client::connect(&[&address], ClientOptions::default())
        .await
        .unwrap_err();
    let expected = format!(
        "cannot reach {address}: connection refused; is the broker running? start one with \
         `strandline server`"
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn the_first_bootstrap_address_that_answers_is_taken() {
    let cluster = FakeCluster::start(1).await;
    let down = keep_an_address();
    let down = down.local_addr().unwrap().to_string();
    let bootstrap = [down, cluster.state.lock().addresses[0].clone()];
    Client::connect(&bootstrap, ClientOptions::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn who_accepts_and_says_nothing_is_unreachable() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ClientOptions {
        connect_timeout: Duration::from_millis(50),
        ..ClientOptions::default()
    };
    let address = silent.local_addr().unwrap().to_string();
    let error = Client::connect(&[address], options).await.unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error}");
}

#[tokio::test]
async fn a_connection_that_is_abandoned_fails_what_is_under_way_at_once() {
    let cluster = FakeCluster::start(1).await;
    let address = cluster.state.lock().addresses[0].clone();
    let connection = Connection::open(&address, &ClientOptions::default())
        .await
        .unwrap();
    cluster.intercept(|_| Intercept::Swallow);
    let other = connection.clone();
    let ask = || other.request(&MetadataRequest::default(), Vec::new());
    let asked = ask();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let since = std::time::Instant::now();
    connection.abandon("it is dead");
    let error = asked.await.unwrap_err();
    assert!(
        matches!(error, ClientError::OutcomeUnknown { .. }) && error.to_string().contains("dead"),
        "{error}"
    );
    let late = ask().await.unwrap_err();
    assert!(matches!(late, ClientError::NotSent { .. }), "{late}");
    assert!(other.is_closed());
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn requests_end_as_refused_unknown_or_not_sent() {
    let cluster = FakeCluster::start(1).await;
    let options = ClientOptions {
        request_timeout: Duration::from_millis(100),
        ..ClientOptions::default()
    };
    let address = cluster.state.lock().addresses[0].clone();
    let connection = Connection::open(&address, &options).await.unwrap();
    let ask = || connection.request(&MetadataRequest::default(), Vec::new());
    ask().await.unwrap();

    cluster.intercept(|seen| match (seen.api, seen.count) {
        (ApiKey::Metadata, 0) => Intercept::Refuse(ErrorCode::OVERLOADED),
        (ApiKey::Metadata, _) => Intercept::Swallow,
        _ => Intercept::Serve,
    });
    let refused = ask().await.unwrap_err();
    assert!(matches!(
        refused,
        ClientError::Refused {
            code: ErrorCode::OVERLOADED,
            ..
        }
    ));
    // Two in one write: neither is answered, and both may have had an effect.
    let (first, second) = (ask(), ask());
    for unanswered in [first.await.unwrap_err(), second.await.unwrap_err()] {
        assert!(
            matches!(unanswered, ClientError::OutcomeUnknown { .. }),
            "{unanswered}"
        );
    }
    assert!(connection.is_closed());
    let late = ask().await.unwrap_err();
    assert!(matches!(late, ClientError::NotSent { .. }), "{late}");
}

#[tokio::test]
async fn a_dropped_connection_closes_its_socket() {
    let cluster = FakeCluster::start(1).await;
    let client = cluster.client().await;
    cluster.create_topic("t", 1);
    let mut consumer = client.consumer(ConsumerOptions::default()).unwrap();
    consumer
        .assign_topic("t", strandline_client::StartAt::End)
        .await
        .unwrap();
    drop((client, consumer));
    let open = || {
        cluster
            .connections
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    crate::support::eventually("all sockets close", || open() == 0).await;
}

#[test]
fn options_out_of_their_bounds_are_named() {
    let producer = |change: fn(&mut ProducerOptions)| {
        let mut options = ProducerOptions::default();
        change(&mut options);
        options.validate()
    };
    let rejected = [
        producer(|options| options.in_flight_max = 6),
        producer(|options| options.batch_bytes = 0),
        producer(|options| options.linger = Duration::from_secs(3_600)),
        producer(|options| options.memory_bytes_max = 0),
    ];
    let named: Vec<_> = rejected
        .into_iter()
        .map(|rejected| match rejected.unwrap_err() {
            ClientError::InvalidOption { option, .. } => option,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(
        named,
        ["in_flight_max", "batch_bytes", "linger", "memory_bytes_max"]
    );
    ClientOptions::default().validate().unwrap();
    ProducerOptions::default().validate().unwrap();
    ConsumerOptions::default().validate().unwrap();
}
