//! What rots on one of three replicas is fetched again from another one.

use std::{fs::OpenOptions, os::unix::fs::FileExt as _, time::Duration};

use bytes::Bytes;
use strandline_client::ClientError;
use strandline_protocol::{
    BrokerId, ErrorCode, Offset, PartitionId,
    batch::split_batches,
    messages::{
        Acks, ElectLeadersRequest, Election, FetchPartition, FetchRequest, FetchedPartition,
        PartitionName,
    },
};
use strandline_storage::{
    fs::{CacheLimits, mapped::MappedFileSystem},
    log::inspect::plan_repair,
};

use tokio::time::sleep;

use super::{
    harness::{Cluster, caught_up, until},
    moves::reassign,
    produce,
};

const TOPIC: &str = "rots";

/// Flips a bit in each of these bytes of what a stopped broker keeps.
fn rot(cluster: &Cluster, id: usize, positions: &[u64]) {
    let directory = cluster.data(id).join(format!("{TOPIC}-0"));
    let path = directory.join("00000000000000000000.log");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let before = cluster.batches(id, TOPIC);
    for position in positions {
        let mut byte = [0];
        file.read_exact_at(&mut byte, *position).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], *position).unwrap();
    }
    assert!(cluster.batches(id, TOPIC) != before);
}

/// Reads from one broker, whoever leads.
async fn fetch(cluster: &Cluster, id: usize, from: Offset) -> (FetchedPartition, Bytes) {
    let request = FetchRequest {
        wait_ms_max: 0,
        bytes_min: 1,
        bytes_max: 1 << 20,
        rack: Some(format!("rack-{id}")),
        partitions: vec![FetchPartition {
            topic_id: cluster.topic_id(TOPIC),
            partition: PartitionId(0),
            fetch_offset: from,
            bytes_max: 1 << 20,
            current_leader_epoch: None,
        }],
    };
    let connection = cluster.connect(id).await;
    loop {
        match connection.request(&request, Vec::new()).await {
            Ok((mut response, payload)) => return (response.partitions.remove(0), payload),
            // It has just started, and has not been let in yet.
            Err(ClientError::Refused {
                code: ErrorCode::NOT_LEADER_OR_FOLLOWER,
                ..
            }) => sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Reads everything there, as often as it is told to try again.
async fn read_all(cluster: &Cluster, id: usize, end: Offset) {
    let at = std::cell::Cell::new(Offset(0));
    until("all of it can be read", async || {
        let (fetched, payload) = fetch(cluster, id, at.get()).await;
        match fetched.failure.error {
            ErrorCode::NONE | ErrorCode::OFFSET_NOT_AVAILABLE => {}
            _ => panic!("at {}: {:?}", at.get(), fetched.failure),
        }
        for batch in split_batches(&payload) {
            let batch = batch.unwrap();
            batch.check_crc().unwrap();
            assert_eq!(batch.header().base_offset(), at.get());
            at.set(batch.header().end_offset());
        }
        at.get() == end
    })
    .await;
}

/// Takes what is bad out of what a stopped broker keeps, as `strandline log repair` does.
fn take_out(cluster: &Cluster, id: usize) {
    let files = MappedFileSystem::new(CacheLimits::default());
    let directory = cluster.data(id).join(format!("{TOPIC}-0"));
    loop {
        let plan = plan_repair(&files, &directory).unwrap();
        if plan.is_empty() {
            break;
        }
        for step in plan {
            step.execute(&files).unwrap();
        }
    }
    assert_eq!(cluster.batches(id, TOPIC).len(), 20);
}

/// Positions in several batches, headers among them.
fn positions(cluster: &Cluster, id: usize) -> Vec<u64> {
    let batches = cluster.batches(id, TOPIC);
    assert!(batches.len() > 20, "{} batches", batches.len());
    let mut at = 0;
    let mut positions = Vec::new();
    for (number, (_, _, bytes)) in batches.iter().enumerate() {
        match number {
            // Records; a header's length; its offset; its epoch.
            2 | 3 => positions.push(at + 65),
            7 => positions.push(at + 10),
            11 => positions.push(at + 6),
            15 => positions.push(at + 14),
            _ => {}
        }
        at += u64::try_from(bytes.len()).unwrap();
    }
    positions
}

/// Stops all, and holds what the others keep against what one keeps.
async fn same_on_all(cluster: &mut Cluster, id: usize) {
    cluster.stop_all().await;
    for other in [1, 2, 3] {
        assert!(cluster.batches(id, TOPIC) == cluster.batches(other, TOPIC));
    }
}

async fn with_many_batches() -> (Cluster, Offset) {
    let cluster = Cluster::of_three().await;
    cluster.create(TOPIC, &[]).await;
    for number in 0..25 {
        produce(&cluster, TOPIC, Acks::All, number, 1).await;
    }
    let end = caught_up(&cluster, TOPIC).await;
    (cluster, end)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_gets_back_what_rots() {
    let (mut cluster, end) = with_many_batches().await;
    let leader = cluster.leader(TOPIC).await;
    let follower = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    cluster.stop(follower).await;
    let positions = positions(&cluster, follower);
    rot(&cluster, follower, &positions);
    cluster.start(follower).await;
    cluster.in_sync(TOPIC, 3).await;
    caught_up(&cluster, TOPIC).await;
    read_all(&cluster, follower, end).await;
    cluster.stop_all().await;
    assert!(cluster.batches(follower, TOPIC) == cluster.batches(leader, TOPIC));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_gets_back_what_rots() {
    let (mut cluster, end) = with_many_batches().await;
    let leader = cluster.leader(TOPIC).await;
    cluster.stop(leader).await;
    let positions = positions(&cluster, leader);
    rot(&cluster, leader, &positions);
    cluster.start(leader).await;
    cluster.in_sync(TOPIC, 3).await;
    let request = ElectLeadersRequest {
        election: Election::Preferred,
        partitions: vec![PartitionName {
            topic_id: cluster.topic_id(TOPIC),
            partition: PartitionId(0),
        }],
    };
    let connection = cluster.connect(leader).await;
    connection.request(&request, Vec::new()).await.unwrap();
    let wanted = BrokerId(i32::try_from(leader).unwrap());
    until("it leads again", async || {
        cluster.placed(leader, TOPIC).leader == Some(wanted)
    })
    .await;
    read_all(&cluster, leader, end).await;
    same_on_all(&mut cluster, leader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_out_of_one_replica_comes_back_from_another() {
    let (mut cluster, end) = with_many_batches().await;
    let leader = cluster.leader(TOPIC).await;
    cluster.stop(leader).await;
    let positions = positions(&cluster, leader);
    rot(&cluster, leader, &positions);
    take_out(&cluster, leader);
    cluster.start(leader).await;
    cluster.in_sync(TOPIC, 3).await;
    caught_up(&cluster, TOPIC).await;
    read_all(&cluster, leader, end).await;
    same_on_all(&mut cluster, leader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_has_any_more_is_left_out_by_new_replicas() {
    let mut cluster = Cluster::of_three().await;
    cluster.create_on(TOPIC, 1, &[]).await;
    for number in 0..25 {
        produce(&cluster, TOPIC, Acks::All, number, 1).await;
    }
    let only = cluster.leader(TOPIC).await;
    cluster.stop(only).await;
    let positions = positions(&cluster, only);
    rot(&cluster, only, &positions);
    take_out(&cluster, only);
    cluster.start(only).await;
    cluster.in_sync(TOPIC, 1).await;
    assert_eq!(cluster.leader(TOPIC).await, only);
    let mut all = vec![only];
    all.extend([1, 2, 3].into_iter().filter(|id| *id != only));
    reassign(&cluster, TOPIC, Some(&all))
        .await
        .into_result()
        .unwrap();
    cluster.in_sync(TOPIC, 3).await;
    produce(&cluster, TOPIC, Acks::All, 25, 5).await;
    let end = caught_up(&cluster, TOPIC).await;
    assert_eq!(end, Offset(30));
    cluster.stop_all().await;
    let kept = cluster.batches(only, TOPIC);
    assert!((21..=25).contains(&kept.len()), "{}", kept.len());
    for id in all {
        assert!(cluster.batches(id, TOPIC) == kept, "{id}");
    }
}
