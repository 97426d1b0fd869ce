//! A disk that takes nothing more.

use std::time::Duration;

use strandline_protocol::{
    BrokerId, ErrorCode,
    messages::{Acks, CreateTopicsRequest, DescribeClusterRequest, Election, NewTopic},
};
use strandline_storage::fs::simulated::SimulatedDisk;

use tokio::time::timeout;

use super::{
    harness::{Cluster, caught_up, until},
    moves::{elect, reassign},
    produce_values, read_all,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_lead_what_lies_on_a_full_disk_until_there_is_space() {
    let disk = SimulatedDisk::new(14);
    let mut cluster = Cluster::of_two_and(disk.file_system()).await;
    cluster.create("full", &[]).await;
    let ordered = reassign(&cluster, "full", Some(&[3, 1, 2])).await;
    assert!(ordered.error.is_none(), "{ordered:?}");
    let elected = elect(&cluster, "full", Election::Preferred).await;
    assert!(elected.error.is_none(), "{elected:?}");
    assert_eq!(cluster.leader("full").await, 3);
    let mut values = vec!["before".to_owned()];
    produce_values(&cluster, "full", Acks::All, &values).await;
    caught_up(&cluster, "full").await;

    disk.set_capacity(Some(0));
    until("another one leads", async || {
        let value = vec![format!("{:0>60000}", values.len())];
        produce_values(&cluster, "full", Acks::All, &value).await;
        values.extend(value);
        cluster.leader("full").await != 3
    })
    .await;
    println!("another one leads after {} values", values.len());
    cluster.in_sync("full", 2).await;
    let refused = elect(&cluster, "full", Election::Preferred).await;
    assert_eq!(refused.error, ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE);
    // What is new is led elsewhere, too.
    cluster.create("new", &[]).await;
    let ordered = reassign(&cluster, "new", Some(&[3, 1, 2])).await;
    assert!(ordered.error.is_none(), "{ordered:?}");
    let refused = elect(&cluster, "new", Election::Preferred).await;
    assert_eq!(refused.error, ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE);
    let leader = cluster.placed(1, "new").leader;
    assert!(leader.is_some_and(|it| it != BrokerId(3)), "{leader:?}");

    disk.set_capacity(None);
    cluster.in_sync("full", 3).await;
    until("it leads again", async || {
        elect(&cluster, "full", Election::Preferred).await;
        cluster.leader("full").await == 3
    })
    .await;
    let last = vec!["after".to_owned()];
    produce_values(&cluster, "full", Acks::All, &last).await;
    values.extend(last);
    caught_up(&cluster, "full").await;
    assert!(read_all(&cluster, "full").await == values);
    cluster.stop_all().await;
    assert!(cluster.batches(1, "full") == cluster.batches(2, "full"));
}

/// Asks the second broker for a topic of twenty partitions, for which there is no disk to be full
/// but that of the metadata. Returns what came of it, if anything did in time.
async fn create_at_second(cluster: &Cluster, name: &str) -> Option<ErrorCode> {
    let connection = cluster.connect(2).await;
    let topic = NewTopic {
        name: name.into(),
        partitions: Some(20),
        replication_factor: Some(3),
        configs: Default::default(),
    };
    let request = CreateTopicsRequest {
        topics: vec![topic],
        validate_only: false,
    };
    let answer = connection.request(&request, Vec::new());
    let answer = timeout(Duration::from_secs(2), answer).await.ok()?.ok()?;
    Some(answer.0.topics[0].failure.error)
}

/// Who is the controller, as the second broker knows.
async fn controller(cluster: &Cluster) -> Option<BrokerId> {
    let connection = cluster.connect(2).await;
    let request = DescribeClusterRequest::default();
    let (cluster, _) = connection.request(&request, Vec::new()).await.ok()?;
    cluster.controller
}

/// The founder, too, which was alone when it started.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_whose_disk_is_full_hands_over() {
    let disk = SimulatedDisk::new(15);
    let mut cluster = Cluster::of_three_on(1, disk.file_system()).await;
    cluster.create("kept", &[]).await;
    let mut values = vec!["before".to_owned()];
    produce_values(&cluster, "kept", Acks::All, &values).await;
    caught_up(&cluster, "kept").await;
    assert_eq!(controller(&cluster).await, Some(BrokerId(1)));
    disk.set_capacity(Some(0));
    let mut created = 0;
    until("another voter is the controller", async || {
        let outcome = create_at_second(&cluster, &format!("topic-{created}")).await;
        created += usize::from(outcome == Some(ErrorCode::NONE));
        let controller = controller(&cluster).await;
        controller.is_some_and(|it| it != BrokerId(1))
    })
    .await;
    println!("another voter is the controller after {created} topics");
    until("a topic is created", async || {
        let outcome = create_at_second(&cluster, "last").await;
        [ErrorCode::NONE, ErrorCode::TOPIC_ALREADY_EXISTS]
            .map(Some)
            .contains(&outcome)
    })
    .await;
    let more = vec!["meanwhile".to_owned()];
    produce_values(&cluster, "kept", Acks::All, &more).await;
    values.extend(more);

    disk.set_capacity(None);
    until("the first one follows again", async || {
        let [first, second] = [1, 2].map(|id| cluster.brokers[&id].image().version());
        first == second
    })
    .await;
    cluster.in_sync("kept", 3).await;
    assert!(read_all(&cluster, "kept").await == values);
    cluster.stop_all().await;
}
