//! Every broker is stopped in order and started again, one after the other, under a load.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use strandline_client::ProducerOptions;

use super::{
    load::{self, Load},
    recorder::Recorder,
    run::{self, Findings, TOPIC},
    stage::{self, Disks, Stage},
};
use crate::random::fresh_seed;

/// What is done.
#[derive(Clone, Debug, clap::Args)]
pub struct Campaign {
    /// How often each broker is restarted.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub rounds: u32,
    /// How many brokers there are.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub brokers: usize,
    /// How many partitions there are, each kept by three brokers.
    #[arg(long, default_value_t = 12, value_name = "N")]
    pub partitions: i32,
    /// Records a second, of all producers together.
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    pub rate: u64,
    /// Where readers that wander draw from.
    #[arg(long, value_name = "N", default_value_t = fresh_seed(), hide_default_value = true)]
    pub seed: u64,
}

/// What was measured; sorted.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// From sending to the acknowledgement before anything is restarted.
    pub before: Vec<Duration>,
    /// The same while brokers are restarted: the longest is the longest pause.
    pub during: Vec<Duration>,
    /// From the signal to stop to the readiness of the new process.
    pub restarts: Vec<Duration>,
}

/// Runs it in `directory`; `progress` hears of every restart.
///
/// # Errors
/// If the rig itself does not work.
pub async fn run(
    directory: &Path,
    campaign: &Campaign,
    mut progress: impl FnMut(&str),
) -> anyhow::Result<(Times, Findings)> {
    let plan = stage::Plan {
        brokers: campaign.brokers,
        disks: Disks::Plain,
        arguments: Vec::new(),
    };
    let mut stage = Stage::set(directory, &plan).await?;
    let factor = i16::try_from(campaign.brokers.min(3))?;
    stage
        .create_topic(TOPIC, campaign.partitions, factor, &[])
        .await?;
    let recorder = Arc::new(Recorder::create(&directory.join("history"))?);
    recorder.comment(&format!("{campaign:?}"));
    let plan = load::Plan {
        topic: TOPIC.to_owned(),
        partitions: campaign.partitions,
        producers: 4,
        first_producer: 0,
        rate: campaign.rate,
        record_bytes: 200,
        options: ProducerOptions::default(),
        readers: (1, 1),
        seed: campaign.seed,
    };
    let mut load = Load::start(&plan, &stage.addresses(), &recorder).await?;
    let (mut times, mut findings) = (Times::default(), Findings::default());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _ = take(&load, &mut findings);
    tokio::time::sleep(Duration::from_secs(5)).await;
    times.before = take(&load, &mut findings);
    for round in 1..=campaign.rounds {
        for id in 1..=i32::try_from(campaign.brokers)? {
            let since = Instant::now();
            let node = stage.node(id)?;
            if let Err(error) = node.stop().await {
                findings.violations.push(format!("{error:#}"));
            }
            let stopped = since.elapsed();
            node.spawn()?;
            node.until_ready().await?;
            let ready = since.elapsed();
            stage.until_in_sync(TOPIC).await?;
            let in_sync = since.elapsed();
            stage.elect_preferred(TOPIC).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let window = take(&load, &mut findings);
            let longest = window.iter().max().copied().unwrap_or_default();
            times.restarts.push(ready);
            times.during.extend(window);
            let text = format!(
                "round {round}: broker {id} stopped after {:>5} ms, ready after {:>5}, in sync \
                 after {:>5}; longest wait of a record {:>5} ms",
                stopped.as_millis(),
                ready.as_millis(),
                in_sync.as_millis(),
                longest.as_millis()
            );
            recorder.comment(&text);
            progress(&text);
        }
    }
    let patience = plan.options.delivery_timeout;
    run::finish(&mut stage, &mut load, &recorder, patience, &mut findings).await?;
    let counts = findings.verdict.counts;
    if counts.refused + counts.unknown > 0 {
        findings.violations.push(format!(
            "{} records were refused and {} are of unknown outcome: brokers stopped in order",
            counts.refused, counts.unknown
        ));
    }
    for sorted in [&mut times.before, &mut times.during, &mut times.restarts] {
        sorted.sort_unstable();
    }
    Ok((times, findings))
}

/// How long each record took since the last call.
fn take(load: &Load, findings: &mut Findings) -> Vec<Duration> {
    let mut taken = Vec::new();
    for partition in 0..load.partitions() {
        let window = load.window(partition);
        taken.extend(window.acknowledged.iter().map(|(_, took)| *took));
        for (error, count) in window.errors {
            *findings.errors.entry(error).or_default() += count;
        }
    }
    taken
}
