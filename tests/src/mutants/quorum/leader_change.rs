//! A write waits for a follower whose disk does not get on; then another broker leads. Whoever sent
//! it must hear so at once, and not when the time that it gave the write is over.

use std::time::{Duration, Instant};

use strandline_client::Admin;
use strandline_protocol::{BrokerId, ErrorCode, Offset, PartitionId, TopicId, messages::Duty};
use strandline_storage::fs::{
    Operation,
    simulated::{Failure, Fault, SimulatedDisk},
};
use tokio::time::{sleep, timeout};

use super::{BROKERS, Cluster, PATIENCE, POLL, others, told, topic, until, writes::write};
use crate::random::Random;

const TOPIC: &str = "moves";

/// How long the write itself would wait.
const WRITE: Duration = Duration::from_secs(60);

/// How long the broker that has led may take to answer, from when it knows that it leads no more.
const ANSWER: Duration = Duration::from_secs(5);

/// See the module.
pub(super) fn run(cluster: &mut Cluster, random: &mut Random) -> Result<String, String> {
    cluster.form()?;
    let mut wanted = topic(TOPIC);
    wanted.replication_factor = Some(BROKERS as i16);
    cluster.create_as(&wanted)?;
    cluster.agree()?;
    let leader = led_by(cluster, 0, |_| true)?;
    let id = cluster.topic_id(leader, TOPIC)?;
    cluster.write_once(leader, id, &["first".into()])?;
    let slow = others(leader)[random.index(2)];
    let disk = cluster.machines[slow].disk().clone();
    let stalled = Fault::next(Operation::Sync, Failure::Stalled).on(&format!("/{TOPIC}-0/"));
    disk.inject(Fault {
        times: u64::MAX,
        ..stalled
    });
    let waited = hand_over(cluster, leader, id, &disk);
    disk.heal();
    disk.release();
    let waited = waited?;
    let next = led_by(cluster, leader, |next| next != leader)?;
    cluster.write_once(next, id, &["last".into()])?;
    Ok(format!(
        "broker {} handed over to broker {}, and the write that waited for broker {} heard so \
         after {waited:?}",
        leader + 1,
        next + 1,
        slow + 1
    ))
}

/// Sends a write that waits, and has another broker lead; tells how long the answer took from when
/// the broker knew.
fn hand_over(
    cluster: &Cluster,
    leader: usize,
    id: TopicId,
    disk: &SimulatedDisk,
) -> Result<Duration, String> {
    let connection = cluster.dial(leader)?;
    let admin = cluster.connect(leader)?.admin();
    cluster.runtime.block_on(async {
        let waits =
            tokio::spawn(async move { write(&connection, id, &["waits".into()], WRITE).await });
        let deadline = Instant::now() + PATIENCE;
        while disk.stalled() == 0 || !is_appended(&admin).await? {
            if waits.is_finished() || Instant::now() > deadline {
                return Err("the write does not wait for the follower's disk".to_owned());
            }
            sleep(POLL).await;
        }
        let own = BrokerId(leader as i32 + 1);
        let drained = admin.drain_broker(own, Duty::Drained).await;
        drained.map_err(|error| format!("it cannot be drained: {error}"))?;
        while leader_of(cluster, leader)? == Some(leader) {
            if Instant::now() > deadline {
                return Err("it leads although it was drained".to_owned());
            }
            sleep(POLL).await;
        }
        let since = Instant::now();
        let answer = timeout(ANSWER, waits).await.map_err(|_| {
            format!(
                "broker {} has known for {ANSWER:?} that it leads no more, and a write that waits \
                 there is not answered",
                leader + 1
            )
        })?;
        match answer.map_err(told)?? {
            ErrorCode::LEADERSHIP_LOST => Ok(since.elapsed()),
            other => Err(format!("the write is answered with {other:?}")),
        }
    })
}

/// Whether the leader has the second record.
async fn is_appended(admin: &Admin) -> Result<bool, String> {
    let described = admin.describe_replicas(TOPIC).await.map_err(told)?;
    let described = described.into_values().next().ok_or("no partition")?;
    Ok(described.map_err(told)?.log_end_offset == Offset(2))
}

/// Waits until a broker knows of a leader that is meant.
fn led_by(
    cluster: &Cluster,
    broker: usize,
    is_meant: impl Fn(usize) -> bool,
) -> Result<usize, String> {
    let mut found = None;
    until(|| {
        found = leader_of(cluster, broker)?.filter(|leader| is_meant(*leader));
        Ok(found
            .is_none()
            .then(|| format!("broker {} knows of no leader", broker + 1)))
    })?;
    found.ok_or_else(|| "nobody leads".to_owned())
}

/// Who leads, as one broker knows.
fn leader_of(cluster: &Cluster, broker: usize) -> Result<Option<usize>, String> {
    let image = cluster.machines[broker].image()?;
    let topic = image.as_ref().and_then(|image| image.topic(TOPIC));
    let partition = topic.and_then(|topic| topic.partition(PartitionId(0)));
    let leader = partition.and_then(|partition| partition.leader);
    Ok(leader.map(|broker| broker.0 as usize - 1))
}
