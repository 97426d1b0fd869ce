//! How long writes stand still when the leader of a partition is lost.
//!
//! Three brokers with default settings, a load with default options. In each round a broker that
//! leads something is lost in one of four ways; measured is the time from there until every
//! partition that it led has acknowledged a record which was sent afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use strandline_client::ProducerOptions;

use super::{
    load::{self, Load},
    proxy::Party,
    recorder::Recorder,
    run::{self, Findings, TOPIC},
    stage::{self, Disks, Stage},
    stalls::Stalls,
};
use crate::random::{Random, fresh_seed};

/// How long a measurement may take at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it is quiet between two rounds.
const QUIET: Duration = Duration::from_millis(500);

/// A way to lose a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Loss {
    /// Killed, and it was not the controller.
    Killed,
    /// Killed, and it was the controller too.
    KilledController,
    /// It stands still (SIGSTOP) for as long as it is measured.
    Paused,
    /// Nobody hears of it, nor it of anybody.
    CutOff,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Killed,
        Self::KilledController,
        Self::Paused,
        Self::CutOff,
    ];

    /// Within which writes must go on, at the 99th percentile.
    #[must_use]
    pub const fn limit(self) -> Duration {
        Duration::from_millis(match self {
            Self::Killed => 1_000,
            Self::KilledController => 2_500,
            Self::Paused | Self::CutOff => 3_000,
        })
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Killed => "killed, not the controller",
            Self::KilledController => "killed, the controller too",
            Self::Paused => "paused",
            Self::CutOff => "cut off",
        })
    }
}

/// What a measurement does.
#[derive(Clone, Debug, clap::Args)]
pub struct Campaign {
    /// How often a leader is lost in each way.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub rounds: u32,
    /// Only these ways.
    #[arg(long, value_delimiter = ',', value_name = "WAY,..")]
    pub ways: Vec<Loss>,
    /// How many partitions there are, each kept by all three brokers.
    #[arg(long, default_value_t = 6, value_name = "N")]
    pub partitions: i32,
    /// Records a second, of all producers together.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub rate: u64,
    /// From where victims and moments are drawn; another one each time if it is not given.
    #[arg(long, value_name = "N", default_value_t = fresh_seed(), hide_default_value = true)]
    pub seed: u64,
}

/// Runs it in `directory`; `progress` hears of every round. Returns the times of each way, sorted,
/// and what else was found.
///
/// # Errors
/// If the rig itself does not work.
pub async fn measure(
    directory: &Path,
    campaign: &Campaign,
    mut progress: impl FnMut(&str),
) -> anyhow::Result<(BTreeMap<Loss, Vec<Duration>>, Findings)> {
    let plan = stage::Plan {
        brokers: 3,
        disks: Disks::Plain,
        arguments: Vec::new(),
    };
    let mut stage = Stage::set(directory, &plan).await?;
    stage
        .create_topic(TOPIC, campaign.partitions, 3, &[])
        .await?;
    let recorder = Arc::new(Recorder::create(&directory.join("history"))?);
    recorder.comment(&format!("{campaign:?}"));
    let plan = load::Plan {
        topic: TOPIC.to_owned(),
        partitions: campaign.partitions,
        producers: 2,
        first_producer: 0,
        rate: campaign.rate,
        record_bytes: 200,
        options: ProducerOptions::default(),
        readers: (1, 0),
        seed: campaign.seed,
    };
    let mut load = Load::start(&plan, &stage.addresses(), &recorder).await?;
    let ways = match campaign.ways.as_slice() {
        [] => Loss::ALL.to_vec(),
        chosen => chosen.to_vec(),
    };
    let mut random = Random::new(campaign.seed, 8);
    let mut times: BTreeMap<Loss, Vec<Duration>> = BTreeMap::new();
    let stalls = Stalls::watch();
    for round in 1..=campaign.rounds {
        for way in &ways {
            tokio::time::sleep(QUIET + random.ms(0..200)).await;
            let _ = stalls.take();
            let took = lose(&mut stage, &load, *way, &mut random).await?;
            let stalled = stalls.take();
            let text = format!(
                "round {round}: {way:<28} {:>6} ms; this rig itself stood still for {:>4} ms",
                took.as_millis(),
                stalled.as_millis()
            );
            recorder.comment(&text);
            recorder.flush()?;
            progress(&text);
            times.entry(*way).or_default().push(took);
            recover(&mut stage, &load, campaign.partitions).await?;
        }
    }
    let mut findings = Findings::default();
    let patience = plan.options.delivery_timeout;
    run::finish(&mut stage, &mut load, &recorder, patience, &mut findings).await?;
    times.values_mut().for_each(|times| times.sort_unstable());
    Ok((times, findings))
}

/// Loses a leader, and returns how long what it led stood still.
async fn lose(
    stage: &mut Stage,
    load: &Load,
    way: Loss,
    random: &mut Random,
) -> anyhow::Result<Duration> {
    let (victim, led) = victim(stage, way, random).await?;
    for partition in 0..load.partitions() {
        let _ = load.window(partition);
    }
    let since = Instant::now();
    match way {
        Loss::Killed | Loss::KilledController => stage.node(victim)?.kill().await?,
        Loss::Paused => stage.node(victim)?.pause().await,
        Loss::CutOff => {
            let here = Party::Broker(victim);
            stage.network.cut_both(here, Party::Client);
            for node in &stage.nodes {
                if node.id != victim {
                    stage.network.cut_both(here, Party::Broker(node.id));
                }
            }
        }
    }
    loop {
        let resumed: Option<Vec<Duration>> = load.resumed(&led, since).into_iter().collect();
        if let Some(longest) = resumed.and_then(|times| times.into_iter().max()) {
            return Ok(longest);
        }
        if since.elapsed() > PATIENCE {
            return Ok(since.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Who is lost, and what it leads.
async fn victim(stage: &Stage, way: Loss, random: &mut Random) -> anyhow::Result<(i32, Vec<i32>)> {
    let look = || async {
        let controller = stage.controller().await?;
        let topic = stage.describe(TOPIC).await?;
        let leader_of = topic.partitions.iter();
        let leader_of = leader_of.filter_map(|it| Some((it.id.0, it.leader?.0)));
        let leader_of: Vec<(i32, i32)> = leader_of.collect();
        let leaders: BTreeSet<i32> = leader_of.iter().map(|(_, leader)| *leader).collect();
        let fits = |leader: &i32| match way {
            Loss::Killed => *leader != controller,
            Loss::KilledController => *leader == controller,
            Loss::Paused | Loss::CutOff => true,
        };
        let fitting: Vec<i32> = leaders.into_iter().filter(fits).collect();
        anyhow::ensure!(!fitting.is_empty(), "no leader suits: {leader_of:?}");
        Ok((fitting, leader_of))
    };
    let (fitting, leader_of) = stage::patiently(&format!("a leader to be {way}"), look).await?;
    let victim = fitting[random.index(fitting.len())];
    let led = leader_of.iter().filter(|(_, leader)| *leader == victim);
    let led: Vec<i32> = led.map(|(partition, _)| *partition).collect();
    anyhow::ensure!(!led.is_empty(), "broker {victim} leads nothing");
    Ok((victim, led))
}

/// Takes it back, and waits until all is as it was.
async fn recover(stage: &mut Stage, load: &Load, partitions: i32) -> anyhow::Result<()> {
    stage.network.heal();
    for node in &stage.nodes {
        node.resume();
    }
    stage.start_all().await?;
    stage.until_in_sync(TOPIC).await?;
    stage.elect_preferred(TOPIC).await?;
    let healed = Instant::now();
    let all: Vec<i32> = (0..partitions).collect();
    let quiet = || async {
        let resumed = load.resumed(&all, healed);
        let is_quiet = resumed.iter().all(Option::is_some);
        anyhow::ensure!(is_quiet, "{resumed:?}");
        Ok(())
    };
    let quiet = stage::patiently("writes everywhere", quiet).await;
    quiet.context("the cluster does not recover")
}
