//! One controller after the other is killed, while metadata changes and records are produced.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use strandline_client::{Client, ProducerOptions, protocol::messages::NewTopic};
use tokio::{sync::watch, task::JoinHandle};

use super::Cluster;
use crate::load::{Load, Plan, check_all, create_topic};

/// The topic that records are produced to, with a partition on each broker.
const TOPIC: &str = "produced";

/// Between two changes of the metadata.
const CHANGE_EVERY: Duration = Duration::from_millis(20);

/// How many topics one request deletes.
const DELETED_AT_ONCE: usize = 100;

/// What a campaign does.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Campaign {
    /// How often a controller is killed.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub rounds: u32,
    /// How long produce latencies are measured before the first kill, in seconds.
    #[arg(long, default_value_t = 60, value_name = "S")]
    pub before: u64,
    /// How many brokers there are.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub brokers: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// From each kill to the next metadata change that was acknowledged; sorted.
    pub resumed: Vec<Duration>,
    /// Changes that were acknowledged.
    pub changes: usize,
    /// From sending to the acknowledgement on brokers that were not killed: before, and in the
    /// seconds behind each kill; sorted.
    pub before: Vec<Duration>,
    /// The same behind kills.
    pub behind: Vec<Duration>,
    /// Records that were acknowledged, of unknown outcome, refused.
    pub records: (usize, usize, usize),
    /// Everything that must never happen, and did.
    pub violations: Vec<String>,
}

/// The share of `sorted` that is at most the result, in per cent.
#[must_use]
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or_default()
}

/// Runs a campaign in `directory`; `progress` hears of every round.
///
/// # Errors
/// If the cluster cannot be used as the campaign needs it.
pub async fn run(
    directory: &Path,
    campaign: Campaign,
    mut progress: impl FnMut(u32, Duration),
) -> anyhow::Result<Findings> {
    let mut cluster = Cluster::of(directory, campaign.brokers).await?;
    let addresses = cluster.addresses();
    let partitions = i32::try_from(campaign.brokers)?;
    create_topic(&addresses[0], TOPIC, partitions, &[]).await?;
    let leaders = leaders(&cluster.client().await?).await?;
    anyhow::ensure!(
        leaders.values().collect::<BTreeSet<_>>().len() == campaign.brokers,
        "the partitions are not spread over the brokers: {leaders:?}"
    );
    let plan = Plan {
        pace: (1, Duration::from_millis(4)),
        options: ProducerOptions {
            // The records for a broker that is down wait for it.
            delivery_timeout: Duration::from_secs(120),
            ..ProducerOptions::default()
        },
        ..Plan::one_to_one(TOPIC, partitions)
    };
    let load = Load::start(&plan, &addresses.join(",")).await?;
    let changes = Changes::start(cluster.client().await?);
    let mut findings = Findings::default();
    take_windows(&load, partitions);
    tokio::time::sleep(Duration::from_secs(campaign.before)).await;
    for window in take_windows(&load, partitions).into_values() {
        findings.before.extend(window.latencies);
    }

    for round in 1..=campaign.rounds {
        let controller = cluster.controller().await?;
        take_windows(&load, partitions);
        let killed = Instant::now();
        cluster.node(controller)?.kill();
        let resumed = changes.resumed(killed).await?;
        findings.resumed.push(resumed);
        tokio::time::sleep(Duration::from_secs(3).saturating_sub(killed.elapsed())).await;
        for (partition, window) in take_windows(&load, partitions) {
            if leaders.get(&partition) == Some(&controller) {
                continue;
            }
            if window.failed > 0 {
                let error = window.error.unwrap_or_default();
                findings.violations.push(format!(
                    "round {round}: {} records failed on a broker that was not killed: {error}",
                    window.failed
                ));
            }
            findings.behind.extend(window.latencies);
        }
        progress(round, resumed);
        cluster.node(controller)?.start().await?;
        cluster.until_voters(campaign.brokers.min(3)).await?;
        let created = changes.take();
        findings.changes += created.len();
        let violations = clear(&cluster.client().await?, &created).await?;
        findings.violations.extend(violations);
        until_quiet(&load, partitions).await?;
    }

    let created = changes.stop().await?;
    findings.changes += created.len();
    let violations = clear(&cluster.client().await?, &created).await?;
    findings.violations.extend(violations);
    let history = load.stop().await?;
    let checked = check_all(&addresses.join(","), TOPIC, partitions, &history).await?;
    findings.violations.extend(checked.violations);
    findings.records = history.counts();
    for sorted in [
        &mut findings.resumed,
        &mut findings.before,
        &mut findings.behind,
    ] {
        sorted.sort_unstable();
    }
    Ok(findings)
}

/// Waits until what had to wait for a broker that was down is through everywhere.
async fn until_quiet(load: &Load, partitions: i32) -> anyhow::Result<()> {
    const LOOK_EVERY: Duration = Duration::from_millis(200);
    let deadline = Instant::now() + super::PATIENCE;
    loop {
        take_windows(load, partitions);
        tokio::time::sleep(LOOK_EVERY).await;
        let windows = take_windows(load, partitions);
        let quiet = windows.values().all(|window| {
            let slowest = window.latencies.iter().max();
            slowest.is_some_and(|slowest| *slowest < 2 * LOOK_EVERY)
        });
        if quiet {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "records still wait after {:?}",
            super::PATIENCE
        );
    }
}

fn take_windows(load: &Load, partitions: i32) -> BTreeMap<i32, crate::load::Window> {
    let windows = (0..partitions).map(|partition| (partition, load.window(partition)));
    windows.collect()
}

/// Who leads each partition of [`TOPIC`].
async fn leaders(client: &Client) -> anyhow::Result<BTreeMap<i32, i32>> {
    let topics = client.admin().describe_topics(&[TOPIC]).await?;
    let topic = topics.first().context("the topic is not there")?;
    let leader = |partition: &strandline_client::protocol::messages::PartitionMetadata| {
        let leader = partition.leader.context("a partition has no leader")?;
        anyhow::Ok((partition.id.0, leader.0))
    };
    topic.partitions.iter().map(leader).collect()
}

/// Deletes the topics `created`, so that the last round has as many as the first, and says which of
/// them were not there.
async fn clear(client: &Client, created: &[String]) -> anyhow::Result<Vec<String>> {
    let admin = client.admin();
    let listed = admin.list_topics().await?;
    let listed: BTreeSet<_> = listed.into_iter().map(|topic| topic.name).collect();
    let (kept, lost): (Vec<_>, Vec<_>) = created.iter().partition(|topic| listed.contains(*topic));
    let kept: Vec<_> = kept.into_iter().map(String::as_str).collect();
    for some in kept.chunks(DELETED_AT_ONCE) {
        admin.delete_topics(some).await?;
    }
    let lost = lost.into_iter();
    Ok(lost.map(|topic| format!("topic {topic} is lost")).collect())
}

/// Somebody who changes the metadata all the time.
struct Changes {
    /// When a change was last acknowledged that had been asked for after the time before.
    acknowledged: watch::Receiver<Option<(Instant, Instant)>>,
    topics: Arc<Mutex<Vec<String>>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Changes {
    fn start(client: Client) -> Self {
        let (told, acknowledged) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let topics: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&topics);
        let task = tokio::spawn(async move {
            let admin = client.admin();
            let mut number = 0_u64;
            while !*stopped.borrow() {
                number += 1;
                let name = format!("changed-{number}");
                let topic = NewTopic {
                    name: name.clone(),
                    partitions: Some(1),
                    // As what is produced to: this is about controllers, not about replicas.
                    replication_factor: Some(1),
                    configs: BTreeMap::new(),
                };
                let asked = Instant::now();
                if admin.create_topics(&[topic]).await.is_ok() {
                    noted.lock().expect("nobody panics with it").push(name);
                    told.send_replace(Some((asked, Instant::now())));
                }
                tokio::time::sleep(CHANGE_EVERY).await;
            }
        });
        Self {
            acknowledged,
            topics,
            stop,
            task,
        }
    }

    /// From `since` to the first acknowledgement behind it. An answer that was on its way when the
    /// controller died counts as well as any: what is acknowledged stays.
    async fn resumed(&self, since: Instant) -> anyhow::Result<Duration> {
        let mut acknowledged = self.acknowledged.clone();
        let behind = acknowledged.wait_for(|told| told.is_some_and(|(asked, _)| asked > since));
        let told = tokio::time::timeout(super::PATIENCE, behind)
            .await
            .context("metadata changes do not resume")?
            .context("nobody changes anything any more")?;
        Ok(told.map_or(Duration::ZERO, |(_, at)| at - since))
    }

    /// The topics whose creation was acknowledged since the last call.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.topics.lock().expect("nobody panics with it"))
    }

    async fn stop(mut self) -> anyhow::Result<Vec<String>> {
        self.stop.send_replace(true);
        (&mut self.task).await?;
        Ok(self.take())
    }
}
