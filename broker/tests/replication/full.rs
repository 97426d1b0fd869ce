//! A disk that takes nothing more.

use strandline_protocol::{
    BrokerId, ErrorCode,
    messages::{Acks, Election},
};
use strandline_storage::fs::simulated::SimulatedDisk;

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
