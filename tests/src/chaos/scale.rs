//! Many partitions over three brokers: how soon leaderships move when one dies, and what the three
//! cost when nothing happens.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use strandline_client::protocol::messages::NewTopic;

use super::{
    node::Node,
    stage::{self, Disks, Stage},
};
use crate::random::{Random, fresh_seed};

/// How many partitions one topic has.
const PARTITIONS_PER_TOPIC: usize = 100;

/// How many topics one request creates.
const TOPICS_PER_REQUEST: usize = 10;

/// How long a death may take to be dealt with before the rig gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Campaign {
    /// How many partitions there are, each kept by all three brokers.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub partitions: usize,
    /// How often a broker is killed.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub rounds: u32,
    /// How long the idle cluster is watched, in seconds.
    #[arg(long, default_value_t = 30, value_name = "S")]
    pub idle: u64,
    /// From where victims are drawn; another one each time if it is not given.
    #[arg(long, value_name = "N", default_value_t = fresh_seed(), hide_default_value = true)]
    pub seed: u64,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// How long it took to create everything until all was in sync.
    pub created: Duration,
    /// From each kill until every partition had a living leader, as a broker tells; sorted.
    pub moved: Vec<Duration>,
    /// From each start of the killed broker until all was in sync again; sorted.
    pub back: Vec<Duration>,
    /// What part of one core each broker took while nothing happened.
    pub idle: Vec<f64>,
}

/// Measures in `directory`; `progress` hears how far it is.
///
/// # Errors
/// If the rig itself does not work, or the cluster does not come to what is asked of it.
pub async fn measure(
    directory: &Path,
    campaign: &Campaign,
    mut progress: impl FnMut(&str),
) -> anyhow::Result<Findings> {
    let plan = stage::Plan {
        brokers: 3,
        disks: Disks::Plain,
        arguments: Vec::new(),
    };
    let mut stage = Stage::set(directory, &plan).await?;
    let mut findings = Findings::default();
    let begun = Instant::now();
    create(&stage, campaign.partitions).await?;
    until_in_sync(&stage).await?;
    findings.created = begun.elapsed();
    progress(&format!(
        "all is created and in sync after {:?}",
        findings.created
    ));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = cpu_times(&stage)?;
    let watched = Instant::now();
    tokio::time::sleep(Duration::from_secs(campaign.idle)).await;
    let seconds = watched.elapsed().as_secs_f64();
    for (before, after) in before.into_iter().zip(cpu_times(&stage)?) {
        findings.idle.push((after - before) / seconds);
    }
    progress(&format!("idle: {:.4?} of a core each", findings.idle));
    let mut random = Random::new(campaign.seed, 9);
    for round in 1..=campaign.rounds {
        let victim = stage.nodes[random.index(stage.nodes.len())].id;
        let watchers = stage.client().await?;
        let since = Instant::now();
        stage.node(victim)?.kill().await?;
        let moved = until_led(&watchers, victim, since).await?;
        let started = Instant::now();
        stage.start_all().await?;
        until_in_sync(&stage).await?;
        findings.moved.push(moved);
        findings.back.push(started.elapsed());
        let back = started.elapsed().as_millis();
        progress(&format!(
            "round {round}: leaderships of broker {victim} moved within {} ms, in sync again \
             {back} ms behind its start",
            moved.as_millis()
        ));
    }
    stage.stop_all().await?;
    findings.moved.sort_unstable();
    findings.back.sort_unstable();
    Ok(findings)
}

async fn create(stage: &Stage, partitions: usize) -> anyhow::Result<()> {
    let count = partitions.div_ceil(PARTITIONS_PER_TOPIC);
    let partitions = i32::try_from(partitions / count)?;
    let topic = |number: usize| NewTopic {
        name: format!("many-{number}"),
        partitions: Some(partitions),
        replication_factor: Some(3),
        configs: [].into(),
    };
    let topics: Vec<NewTopic> = (0..count).map(topic).collect();
    let admin = stage.client().await?.admin();
    for some in topics.chunks(TOPICS_PER_REQUEST) {
        admin.create_topics(some).await?;
    }
    Ok(())
}

async fn until_in_sync(stage: &Stage) -> anyhow::Result<()> {
    let look = || async {
        let topics = stage.client().await?.admin().list_topics().await?;
        let partitions = topics.iter().flat_map(|topic| &topic.partitions);
        let behind = partitions.filter(|partition| {
            partition.leader.is_none() || partition.isr.len() < partition.replicas.len()
        });
        let behind = behind.count();
        anyhow::ensure!(behind == 0, "{behind} partitions are not in sync");
        Ok(())
    };
    stage::patiently("every partition in sync", look).await
}

/// Waits until every partition is led by somebody else than `dead`.
async fn until_led(
    client: &strandline_client::Client,
    dead: i32,
    since: Instant,
) -> anyhow::Result<Duration> {
    loop {
        let topics = client.admin().list_topics().await.unwrap_or_default();
        let looked = since.elapsed();
        let mut partitions = topics.iter().flat_map(|topic| &topic.partitions);
        let led = |leader: Option<_>| {
            leader.is_some_and(|leader: strandline_client::protocol::BrokerId| leader.0 != dead)
        };
        if !topics.is_empty() && partitions.all(|partition| led(partition.leader)) {
            return Ok(looked);
        }
        anyhow::ensure!(
            looked < PATIENCE,
            "broker {dead} still leads after {PATIENCE:?}"
        );
    }
}

/// How much time each broker has had of a core so far, in seconds.
fn cpu_times(stage: &Stage) -> anyhow::Result<Vec<f64>> {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let of = |node: &Node| {
        let process = node.process.as_ref().context("a broker is down")?;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.process_id()))?;
        let (_, rest) = stat.rsplit_once(')').context("/proc is not as expected")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let spent = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
        // User and system time: fields 14 and 15, of which the first two lie before the bracket.
        let spent = spent(11)
            .zip(spent(12))
            .context("/proc is not as expected")?;
        anyhow::Ok((spent.0 + spent.1) / ticks)
    };
    stage.nodes.iter().map(of).collect()
}
