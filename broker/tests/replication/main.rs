//! Replicated partitions on three whole brokers in this process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    missing_docs
)]

mod full;
mod harness;
mod moves;
mod raw;
mod repair;

use std::time::Duration;

use harness::{Cluster, PATIENCE, caught_up, until};
use strandline_client::{ConsumerOptions, NewRecord, ProducerOptions, StartAt};
use strandline_protocol::{
    ErrorCode,
    messages::{Acks, OffsetQuery},
};
use strandline_storage::fs::{
    Operation,
    simulated::{Failure, Fault, SimulatedDisk},
};
use tokio::time::{Instant, timeout};

/// Produces so many records, and waits until each is acknowledged.
async fn produce(cluster: &Cluster, topic: &str, acks: Acks, from: usize, count: usize) {
    let values = (from..from + count).map(|number| format!("value {number}"));
    produce_values(cluster, topic, acks, &values.collect::<Vec<_>>()).await;
}

/// The same with these values.
async fn produce_values(cluster: &Cluster, topic: &str, acks: Acks, values: &[String]) {
    let options = ProducerOptions {
        acks,
        delivery_timeout: Duration::from_secs(60),
        ..ProducerOptions::default()
    };
    let producer = cluster.client().await.producer(options).unwrap();
    let mut deliveries = Vec::new();
    for value in values {
        let record = NewRecord::to(topic).value(value.as_bytes());
        deliveries.push(producer.send(record).await.unwrap());
    }
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    producer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_by_all_is_on_all() {
    let mut cluster = Cluster::of_three().await;
    cluster.create("copied", &[]).await;
    let since = Instant::now();
    produce(&cluster, "copied", Acks::All, 0, 500).await;
    println!("500 records acknowledged in {:?}", since.elapsed());
    let end = caught_up(&cluster, "copied").await;
    assert_eq!(end.0, 500);
    cluster.stop_all().await;
    let of_first = cluster.batches(1, "copied");
    assert!(!of_first.is_empty());
    for id in [2, 3] {
        assert!(cluster.batches(id, "copied") == of_first, "broker {id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_leaves_those_in_sync_and_who_is_back_joins_them() {
    let mut cluster = Cluster::of_three().await;
    cluster.create("shrinks", &[]).await;
    produce(&cluster, "shrinks", Acks::All, 0, 50).await;
    let leader = cluster.leader("shrinks").await;
    let follower = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    let since = Instant::now();
    cluster.stop(follower).await;
    cluster.in_sync("shrinks", 2).await;
    println!("two in sync {:?} after one began to stop", since.elapsed());
    produce(&cluster, "shrinks", Acks::All, 50, 50).await;
    let since = Instant::now();
    cluster.start(follower).await;
    cluster.in_sync("shrinks", 3).await;
    println!(
        "three in sync {:?} after it began to start",
        since.elapsed()
    );
    assert_eq!(caught_up(&cluster, "shrinks").await.0, 100);
    cluster.stop_all().await;
    assert!(cluster.batches(follower, "shrinks") == cluster.batches(leader, "shrinks"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_one_leads_once_the_leader_is_gone_and_nothing_is_lost() {
    let mut cluster = Cluster::of_three().await;
    cluster.create("survives", &[]).await;
    produce(&cluster, "survives", Acks::All, 0, 200).await;
    let leader = cluster.leader("survives").await;
    let before = cluster.placed(leader, "survives").leader_epoch;
    let client = cluster.client().await;
    let producer = client
        .producer(ProducerOptions {
            delivery_timeout: Duration::from_secs(60),
            ..ProducerOptions::default()
        })
        .unwrap();
    let mut deliveries = Vec::new();
    let since = Instant::now();
    for number in 200..400 {
        if number == 250 {
            cluster.kill(leader);
        }
        let value = format!("value {number}");
        let record = NewRecord::to("survives").value(value.as_bytes());
        deliveries.push(producer.send(record).await.unwrap());
    }
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    println!(
        "200 more acknowledged {:?} after the first was sent",
        since.elapsed()
    );
    let next = cluster.leader("survives").await;
    assert_ne!(next, leader);
    assert!(cluster.placed(next, "survives").leader_epoch > before);
    let values = read_all(&cluster, "survives").await;
    let expected: Vec<String> = (0..400).map(|number| format!("value {number}")).collect();
    assert!(values == expected, "each once and in order");

    cluster.start(leader).await;
    cluster.in_sync("survives", 3).await;
    caught_up(&cluster, "survives").await;
    cluster.stop_all().await;
    let of_next = cluster.batches(next, "survives");
    for id in [1, 2, 3] {
        assert!(cluster.batches(id, "survives") == of_next, "broker {id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_old_leader_has_is_cut() {
    let mut cluster = Cluster::of_three().await;
    cluster.create("parts", &[]).await;
    produce(&cluster, "parts", Acks::All, 0, 20).await;
    let leader = cluster.leader("parts").await;
    let epoch = cluster.placed(leader, "parts").leader_epoch;
    let topic = cluster.topic_id("parts");
    cluster.kill(leader);
    // What it had appended, and nobody has fetched.
    let end = raw::append_to_log(&cluster.data(leader).join("parts-0"), topic, epoch, 30);
    assert_eq!(end.0, 50);
    let next = cluster.leader("parts").await;
    produce(&cluster, "parts", Acks::All, 20, 5).await;
    cluster.start(leader).await;
    cluster.in_sync("parts", 3).await;
    assert_eq!(caught_up(&cluster, "parts").await.0, 25);
    let values = read_all(&cluster, "parts").await;
    let expected: Vec<String> = (0..25).map(|number| format!("value {number}")).collect();
    assert!(values == expected, "{values:?}");
    cluster.stop_all().await;
    let of_next = cluster.batches(next, "parts");
    for id in [1, 2, 3] {
        assert!(cluster.batches(id, "parts") == of_next, "broker {id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_in_sync_refuse_what_all_must_acknowledge() {
    let mut cluster = Cluster::of_three().await;
    cluster
        .create("strict", &[("min.insync.replicas", "3")])
        .await;
    produce(&cluster, "strict", Acks::All, 0, 10).await;
    let leader = cluster.leader("strict").await;
    let follower = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    cluster.stop(follower).await;
    cluster.in_sync("strict", 2).await;
    let refused = raw::produce(&cluster, "strict", Acks::All).await;
    assert_eq!(refused, ErrorCode::NOT_ENOUGH_REPLICAS);
    let taken = raw::produce(&cluster, "strict", Acks::Leader).await;
    assert_eq!(taken, ErrorCode::NONE);
    let described = cluster.describe("strict").await;
    // It is appended and not committed.
    assert_eq!(described.log_end_offset.0, 11);
    assert_eq!(described.high_watermark.0, 10);
    cluster.start(follower).await;
    cluster.in_sync("strict", 3).await;
    assert_eq!(caught_up(&cluster, "strict").await.0, 11);
    assert_eq!(
        raw::produce(&cluster, "strict", Acks::All).await,
        ErrorCode::NONE
    );
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_where_it_is_reads_from_whom_is_near() {
    let mut cluster = Cluster::of_three().await;
    cluster.create("near", &[]).await;
    produce(&cluster, "near", Acks::All, 0, 10).await;
    caught_up(&cluster, "near").await;
    let leader = cluster.leader("near").await;
    let follower = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    let rack = format!("rack-{follower}");
    let sent_on = raw::fetch(&cluster, leader, "near", Some(&rack)).await;
    let number = i32::try_from(follower).unwrap();
    assert_eq!(sent_on.preferred_replica.map(|id| id.0), Some(number));
    assert_eq!(sent_on.bytes, 0);
    until("the follower knows what is committed", async || {
        let there = raw::fetch(&cluster, follower, "near", Some(&rack)).await;
        there.failure.error.is_none() && there.high_watermark.0 == 10 && there.bytes > 0
    })
    .await;
    let stays = raw::fetch(&cluster, leader, "near", Some(&format!("rack-{leader}"))).await;
    assert!(stays.preferred_replica.is_none() && stays.bytes > 0);
    // Who believes to ask the leader is told better.
    let refused = raw::fetch(&cluster, follower, "near", None).await;
    assert_eq!(refused.failure.error, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert!(
        refused
            .failure
            .message
            .contains(&format!("broker {leader}"))
    );
    for (query, id, expected) in [
        (OffsetQuery::Latest, leader, ErrorCode::NONE),
        (
            OffsetQuery::Latest,
            follower,
            ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ),
        (
            OffsetQuery::Earliest,
            follower,
            ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ),
    ] {
        let listed = raw::list_offset(&cluster, id, "near", query).await;
        assert_eq!(listed.failure.error, expected, "{query:?} at broker {id}");
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_makes_nothing_durable_any_more_is_not_waited_for() {
    let disk = SimulatedDisk::new(11);
    let mut cluster = Cluster::of_two_and(disk.file_system()).await;
    cluster.create("lags", &[]).await;
    let leader = cluster.leader("lags").await;
    assert_ne!(leader, 3, "the first of equals leads");
    produce(&cluster, "lags", Acks::All, 0, 10).await;
    disk.inject(Fault::next(Operation::Sync, Failure::Stalled).on("/lags-0/"));
    let since = Instant::now();
    produce(&cluster, "lags", Acks::All, 10, 10).await;
    let took = since.elapsed();
    println!("acknowledged after {took:?}, {} stalled", disk.stalled());
    assert_eq!(disk.stalled(), 1);
    assert!(took >= Duration::from_secs(2), "{took:?}");
    cluster.in_sync("lags", 2).await;
    disk.release();
    cluster.in_sync("lags", 3).await;
    assert_eq!(caught_up(&cluster, "lags").await.0, 20);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_waits_hears_that_its_leader_leads_no_more() {
    let disk = SimulatedDisk::new(12);
    let mut cluster = Cluster::of_two_and(disk.file_system()).await;
    cluster.create("moves", &[]).await;
    assert_eq!(cluster.leader("moves").await, 1, "the first of equals");
    produce(&cluster, "moves", Acks::All, 0, 10).await;
    caught_up(&cluster, "moves").await;
    disk.inject(Fault::next(Operation::Sync, Failure::Stalled).on("/moves-0/"));
    let request = raw::one_record(&cluster, "moves", Acks::All);
    let connection = cluster.connect(1).await;
    let waiting = tokio::spawn(async move { raw::send(&connection, request).await });
    until("one replica makes it durable no more", async || {
        disk.stalled() == 1
    })
    .await;
    assert!(!waiting.is_finished());
    raw::drain(&cluster, 1).await;
    let outcome = timeout(PATIENCE, waiting).await.expect("it is answered");
    assert_eq!(outcome.unwrap(), ErrorCode::LEADERSHIP_LOST);
    disk.release();
    until("another one leads", async || {
        cluster.leader("moves").await != 1
    })
    .await;
    cluster.in_sync("moves", 3).await;
    assert_eq!(caught_up(&cluster, "moves").await.0, 11);
    cluster.stop_all().await;
}

/// Nobody is left who could confirm the write or lead next: the stop does not wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_replicas_that_are_gone() {
    let disk = SimulatedDisk::new(13);
    let mut cluster = Cluster::of_two_and(disk.file_system()).await;
    cluster.create("left", &[]).await;
    assert_eq!(cluster.leader("left").await, 1, "the first of equals");
    produce(&cluster, "left", Acks::All, 0, 10).await;
    caught_up(&cluster, "left").await;
    disk.inject(Fault::next(Operation::Sync, Failure::Stalled).on("/left-0/"));
    let request = raw::one_record(&cluster, "left", Acks::All);
    let connection = cluster.connect(1).await;
    let waiting = tokio::spawn(async move { raw::send(&connection, request).await });
    until("one replica makes it durable no more", async || {
        disk.stalled() == 1
    })
    .await;
    cluster.kill(2);
    cluster.kill(3);
    assert!(!waiting.is_finished());
    let (since, stopped) = (Instant::now(), cluster.stop(1));
    timeout(PATIENCE, stopped).await.expect("it stops");
    assert!(
        since.elapsed() < Duration::from_secs(10),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(waiting.await.unwrap(), ErrorCode::LEADERSHIP_LOST);
    disk.release();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_is_deleted_everywhere() {
    let mut cluster = Cluster::of_three().await;
    cluster.create("deleted", &[]).await;
    produce(&cluster, "deleted", Acks::All, 0, 10).await;
    caught_up(&cluster, "deleted").await;
    let leader = cluster.leader("deleted").await;
    for id in [1, 2, 3].into_iter().filter(|id| *id != leader) {
        let refused = raw::delete_before(&cluster, id, "deleted", 4).await;
        assert_eq!(refused, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    }
    let deleted = raw::delete_before(&cluster, leader, "deleted", 4).await;
    assert_eq!(deleted, ErrorCode::NONE);
    for id in [1, 2, 3].into_iter().filter(|id| *id != leader) {
        until("the follower's log starts there, too", async || {
            let rack = format!("rack-{id}");
            let there = raw::fetch(&cluster, id, "deleted", Some(&rack)).await;
            there.log_start_offset.0 == 4 || there.failure.error == ErrorCode::OFFSET_OUT_OF_RANGE
        })
        .await;
    }
    cluster.stop_all().await;
}

/// Every value, from the start to the end.
async fn read_all(cluster: &Cluster, topic: &str) -> Vec<String> {
    let client = cluster.client().await;
    let mut consumer = client.consumer(ConsumerOptions::default()).unwrap();
    consumer
        .assign_topic(topic, StartAt::Beginning)
        .await
        .unwrap();
    let mut values = Vec::new();
    while let Some(records) = consumer.poll_to_end().await.unwrap() {
        for record in &records {
            let value = record.unwrap().value.unwrap().to_vec();
            values.push(String::from_utf8(value).unwrap());
        }
    }
    values
}
