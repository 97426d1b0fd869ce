//! Leaders and replicas that an operator moves, and a disk that is replaced.

use std::time::Duration;

use strandline_client::{NewRecord, ProducerOptions};
use strandline_protocol::{
    BrokerId, ErrorCode, PartitionId,
    messages::{
        Acks, DrainBrokerRequest, Duty, ElectLeadersRequest, Election, Failure, PartitionName,
        ReassignPartitionsRequest, Reassignment, Request,
    },
};
use tokio::time::Instant;

use super::{
    harness::{Cluster, caught_up, until},
    produce, read_all,
};

fn broker(id: usize) -> BrokerId {
    BrokerId(i32::try_from(id).unwrap())
}

/// Asks a broker that need not be the controller.
async fn ask<R: Request>(cluster: &Cluster, request: &R) -> R::Response {
    let id = *cluster.brokers.keys().next_back().unwrap();
    let connection = cluster.connect(id).await;
    connection.request(request, Vec::new()).await.unwrap().0
}

pub async fn elect(cluster: &Cluster, topic: &str, election: Election) -> Failure {
    let request = ElectLeadersRequest {
        election,
        partitions: vec![PartitionName {
            topic_id: cluster.topic_id(topic),
            partition: PartitionId(0),
        }],
    };
    ask(cluster, &request).await.partitions[0].failure.clone()
}

pub async fn reassign(cluster: &Cluster, topic: &str, target: Option<&[usize]>) -> Failure {
    let replicas = target.map(|ids| ids.iter().map(|id| broker(*id)).collect());
    let request = ReassignPartitionsRequest {
        partitions: vec![Reassignment {
            topic_id: cluster.topic_id(topic),
            partition: PartitionId(0),
            replicas,
        }],
        throttle_bytes_per_second: None,
    };
    ask(cluster, &request).await.partitions[0].failure.clone()
}

async fn set_duty(cluster: &Cluster, id: usize, duty: Duty) -> (u32, u32) {
    let request = DrainBrokerRequest {
        broker_id: broker(id),
        duty,
    };
    let response = ask(cluster, &request).await;
    (response.leads, response.keeps)
}

fn values(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| format!("value {number}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_moves_to_other_brokers_while_it_is_written() {
    let mut cluster = Cluster::of_three().await;
    cluster.create("moves", &[]).await;
    cluster.start(4).await;
    produce(&cluster, "moves", Acks::All, 0, 100).await;
    let keeps: Vec<usize> = cluster
        .placed(1, "moves")
        .replicas
        .iter()
        .map(|replica| usize::try_from(replica.broker.0).unwrap())
        .collect();
    let target = [4, keeps[1], keeps[2]];
    let since = Instant::now();
    assert!(
        reassign(&cluster, "moves", Some(&target))
            .await
            .error
            .is_none()
    );
    produce(&cluster, "moves", Acks::All, 100, 200).await;
    until("it lies where it is to lie", async || {
        cluster.brokers.keys().all(|id| {
            let known = cluster.placed(*id, "moves");
            let lies: Vec<BrokerId> = known.replicas.iter().map(|it| it.broker).collect();
            lies == target.map(broker) && !known.is_reassigned()
        })
    })
    .await;
    println!("moved {:?} after it was asked for", since.elapsed());
    produce(&cluster, "moves", Acks::All, 300, 50).await;
    let unneeded = reassign(&cluster, "moves", None).await.error;
    assert_eq!(unneeded, ErrorCode::NO_REASSIGNMENT_IN_PROGRESS);
    cluster.in_sync("moves", 3).await;
    let failure = elect(&cluster, "moves", Election::Preferred).await;
    assert!(
        failure.error.is_none() || failure.error == ErrorCode::ELECTION_NOT_NEEDED,
        "{failure:?}"
    );
    assert_eq!(cluster.leader("moves").await, 4);
    let needless = elect(&cluster, "moves", Election::Unclean).await.error;
    assert_eq!(needless, ErrorCode::ELECTION_NOT_NEEDED);
    assert!(read_all(&cluster, "moves").await == values(0, 350));
    caught_up(&cluster, "moves").await;
    cluster.stop_all().await;
    for id in &target[1..] {
        assert!(cluster.batches(*id, "moves") == cluster.batches(4, "moves"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_broker_leads_nothing_until_it_is_to_lead_again() {
    let mut cluster = Cluster::of_three().await;
    cluster.create("drained", &[]).await;
    produce(&cluster, "drained", Acks::All, 0, 50).await;
    let drained = cluster.leader("drained").await;
    assert_eq!(set_duty(&cluster, drained, Duty::Drained).await, (0, 1));
    let next = cluster.leader("drained").await;
    assert_ne!(next, drained);
    produce(&cluster, "drained", Acks::All, 50, 50).await;
    // It stays so over a start, and in sync.
    cluster.stop(drained).await;
    cluster.start(drained).await;
    cluster.in_sync("drained", 3).await;
    let failure = elect(&cluster, "drained", Election::Preferred).await;
    assert_eq!(failure.error, ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE);
    assert_ne!(cluster.leader("drained").await, drained);
    assert_eq!(set_duty(&cluster, drained, Duty::Full).await, (1, 1));
    assert_eq!(cluster.leader("drained").await, drained);
    produce(&cluster, "drained", Acks::All, 100, 50).await;
    assert!(read_all(&cluster, "drained").await == values(0, 150));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_was_replaced_is_filled_anew() {
    let mut cluster = Cluster::of_three().await;
    cluster.create("wiped", &[]).await;
    produce(&cluster, "wiped", Acks::All, 0, 100).await;
    let wiped = [1, 2, 3]
        .into_iter()
        .find(|id| broker(*id) != cluster.placed(1, "wiped").leader.unwrap())
        .unwrap();
    cluster.stop(wiped).await;
    std::fs::remove_dir_all(cluster.data(wiped)).unwrap();
    produce(&cluster, "wiped", Acks::All, 100, 100).await;
    cluster.start(wiped).await;
    cluster.in_sync("wiped", 3).await;
    assert_eq!(caught_up(&cluster, "wiped").await.0, 200);
    cluster.stop_all().await;
    let others: Vec<usize> = [1, 2, 3].into_iter().filter(|id| *id != wiped).collect();
    for id in others {
        assert!(cluster.batches(id, "wiped") == cluster.batches(wiped, "wiped"));
    }
}

/// Prints how long a partition is without a leader that acknowledges, and in which parts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_before_its_lease_is_over() {
    let mut cluster = Cluster::of_three().await;
    cluster.create("quick", &[]).await;
    produce(&cluster, "quick", Acks::All, 0, 20).await;
    // Not the controller: an election of that would come first.
    let controller = controller(&cluster).await;
    let leader = match cluster.leader("quick").await {
        leader if leader == controller => {
            set_duty(&cluster, leader, Duty::Drained).await;
            cluster.leader("quick").await
        }
        leader => leader,
    };
    let since = Instant::now();
    cluster.kill(leader);
    until("the others know another leader", async || {
        let known = cluster.brokers.keys();
        let leads = |id: &usize| cluster.placed(*id, "quick").leader;
        known
            .map(leads)
            .all(|next| next.is_some_and(|next| next != broker(leader)))
    })
    .await;
    let known = since.elapsed();
    let producer = cluster.client().await;
    let producer = producer.producer(ProducerOptions::default()).unwrap();
    let record = NewRecord::to("quick").value(b"after".as_slice());
    producer.send(record).await.unwrap().await.unwrap();
    println!(
        "another leader known {known:?}, acknowledged {:?} after the kill",
        since.elapsed()
    );
    assert!(known < Duration::from_millis(1_500), "{known:?}");
    producer.close().await.unwrap();
    cluster.stop_all().await;
}

/// Who decides, as everybody says.
async fn controller(cluster: &Cluster) -> usize {
    let description = cluster.client().await.admin().describe_cluster().await;
    usize::try_from(description.unwrap().controller.unwrap().0).unwrap()
}
