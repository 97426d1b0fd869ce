//! Random faults with quiet periods under a load, and what is left in the end.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use strandline_client::ProducerOptions;

use super::{
    checker::{Verdict, check_file},
    copies,
    event::What,
    faults::{Faults, KINDS, Kind},
    load::{self, Load},
    recorder::Recorder,
    stage::{self, Disks, Stage},
    stalls::Stalls,
};
use crate::random::{Random, fresh_seed};

/// The topic of every rig here.
pub const TOPIC: &str = "chaos";

/// Within which readers have everything once all is healed, in milliseconds.
const SEEN_MS: u64 = 30_000;

/// Within which every partition takes records once all is healed.
const RESUME_MAX: Duration = Duration::from_secs(30);

/// How long faults hold, and how long it is quiet behind them, in milliseconds.
const HELD_MS: std::ops::Range<u64> = 300..10_000;
const QUIET_MS: std::ops::Range<u64> = 1_000..8_000;

/// What a run does.
#[derive(Clone, Debug, clap::Args)]
pub struct Campaign {
    /// How many brokers there are.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub brokers: usize,
    /// How long faults come, in minutes; what follows is not counted.
    #[arg(long, default_value_t = 60.0, value_name = "M")]
    pub minutes: f64,
    /// Records a second, of all producers together.
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    pub rate: u64,
    /// From where faults and their times are drawn; another one each time if it is not given.
    #[arg(long, value_name = "N", default_value_t = fresh_seed(), hide_default_value = true)]
    pub seed: u64,
    /// How many brokers keep each partition.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub factor: i16,
    /// How many partitions there are.
    #[arg(long, default_value_t = 12, value_name = "N")]
    pub partitions: i32,
    /// How many producers there are, each writing to all partitions.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub producers: u32,
    /// How long a record is, in bytes.
    #[arg(long = "record-size", default_value_t = 200, value_name = "BYTES")]
    pub record_bytes: usize,
    /// When a record counts as written: `ack` once it is on the disk, `async` once it is in the
    /// page cache (which kills and pauses leave alone).
    #[arg(long, default_value = "ack", value_parser = ["ack", "async"], value_name = "WHEN")]
    pub flush: String,
    /// Only these kinds of faults: kill-leader, kill-controller, kill-two, kill-all, bounce, stop,
    /// pause-leader, pause-controller, isolate, isolate-wholly, deaf, mute, halves, link,
    /// no-clients, slow, reset; as root also full-disk, sync-fails, slow-sync.
    #[arg(long, value_delimiter = ',', value_name = "KIND,..")]
    pub kinds: Vec<String>,
}

impl Campaign {
    /// The kinds that are to be drawn from.
    ///
    /// # Errors
    /// If one is not known.
    pub fn chosen(&self) -> anyhow::Result<Vec<Kind>> {
        let root = rustix::process::geteuid().is_root();
        if self.kinds.is_empty() {
            let all = KINDS.iter().map(|(kind, ..)| *kind);
            return Ok(all.filter(|kind| root || !kind.needs_root()).collect());
        }
        let named = self.kinds.iter().map(|name| {
            let kind = Kind::named(name);
            let kind = kind.ok_or_else(|| anyhow::anyhow!("there is no fault `{name}`"))?;
            anyhow::ensure!(root || !kind.needs_root(), "`{name}` needs root");
            Ok(kind)
        });
        named.collect()
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Findings {
    /// How often each kind of fault was inflicted.
    pub faults: BTreeMap<Kind, u64>,
    /// From each heal until every partition took a record again; sorted.
    pub resumed: Vec<Duration>,
    /// How records ended that were not acknowledged, and how often.
    pub errors: BTreeMap<String, u64>,
    /// What readers were told instead of records, and how often.
    pub reader_errors: BTreeMap<String, u64>,
    /// What the checker says.
    pub verdict: Verdict,
    /// What else must never happen, and did.
    pub violations: Vec<String>,
}

/// Runs it in `directory`; `progress` hears of every round.
///
/// # Errors
/// If the rig itself does not work; what brokers do wrong is among the findings.
pub async fn run(
    directory: &Path,
    campaign: &Campaign,
    mut progress: impl FnMut(&str),
) -> anyhow::Result<Findings> {
    let kinds = campaign.chosen()?;
    let mut stage = set_stage(directory, campaign, &kinds).await?;
    let recorder = Arc::new(Recorder::create(&directory.join("history"))?);
    recorder.comment(&format!("{campaign:?}"));
    let plan = load::Plan {
        topic: TOPIC.to_owned(),
        partitions: campaign.partitions,
        producers: campaign.producers,
        first_producer: 0,
        rate: campaign.rate,
        record_bytes: campaign.record_bytes,
        options: ProducerOptions::default(),
        readers: (1, 1),
        seed: campaign.seed,
    };
    let mut load = Load::start(&plan, &stage.addresses(), &recorder).await?;
    let mut run = Run {
        campaign,
        kinds,
        random: Random::new(campaign.seed, 7),
        faults: Faults::default(),
        findings: Findings::default(),
        stalls: Stalls::watch(),
    };
    run.wait_for_records(&load, Instant::now()).await?;
    let until = Instant::now() + Duration::from_secs_f64(campaign.minutes * 60.0);
    while Instant::now() < until && run.findings.violations.is_empty() {
        let told = run.round(&mut stage, &load, &recorder).await?;
        recorder.flush()?;
        let left = until.saturating_duration_since(Instant::now()).as_secs();
        progress(&format!("{left:>5} s left  {told}"));
    }
    run.findings.violations.append(&mut run.faults.violations);
    run.findings.faults = std::mem::take(&mut run.faults.counts);
    run.findings.resumed.sort_unstable();
    progress("everything is healed; waiting until all is decided and read, then checking");
    finish(
        &mut stage,
        &mut load,
        &recorder,
        plan.options.delivery_timeout,
        &mut run.findings,
    )
    .await?;
    Ok(run.findings)
}

async fn set_stage(directory: &Path, campaign: &Campaign, kinds: &[Kind]) -> anyhow::Result<Stage> {
    let plan = stage::Plan {
        brokers: campaign.brokers,
        disks: if kinds.contains(&Kind::FullDisk) {
            Disks::InMemory(2)
        } else {
            Disks::Plain
        },
        arguments: Vec::new(),
    };
    let stage = Stage::set(directory, &plan).await?;
    let factor = campaign.factor.min(i16::try_from(campaign.brokers)?);
    let configs = [
        ("flush", campaign.flush.as_str()),
        ("segment.bytes", "8388608"),
    ];
    stage
        .create_topic(TOPIC, campaign.partitions, factor, &configs)
        .await?;
    Ok(stage)
}

/// Lets everything come to rest, stops, reads every copy and has the history checked: what is not
/// decided, read or in sync by then is found, and whatever else is wrong.
///
/// # Errors
/// If the rig itself does not work.
pub async fn finish(
    stage: &mut Stage,
    load: &mut Load,
    recorder: &Recorder,
    delivery_timeout: Duration,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    recorder.note(0, What::Healed { bound_ms: SEEN_MS });
    if let Err(error) = stage.until_in_sync(TOPIC).await {
        findings.violations.push(format!("{error:#}"));
    }
    load.stop_producing(delivery_timeout + RESUME_MAX).await?;
    for partition in 0..load.partitions() {
        for (error, count) in load.window(partition).errors {
            *findings.errors.entry(error).or_default() += count;
        }
    }
    load.until_read(Duration::from_millis(SEEN_MS)).await;
    load.stop_reading().await?;
    if let Err(error) = stage.until_in_sync(TOPIC).await {
        findings.violations.push(format!("{error:#}"));
    }
    // What followers were told last is on their way to them: they ask twice a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    if let Err(error) = stage.stop_all().await {
        findings.violations.push(format!("{error:#}"));
    }
    for node in &stage.nodes {
        copies::tell(
            &node.setup.data,
            node.id,
            TOPIC,
            load.partitions(),
            recorder,
        )?;
    }
    recorder.flush()?;
    findings.violations.extend(stage.panics());
    findings.reader_errors = load.reader_errors();
    findings.verdict = check_file(recorder.path())?;
    Ok(())
}

struct Run<'a> {
    campaign: &'a Campaign,
    kinds: Vec<Kind>,
    random: Random,
    faults: Faults,
    findings: Findings,
    stalls: Stalls,
}

impl Run<'_> {
    /// One or two faults, a while, the heal, and quiet. Returns what happened in words.
    async fn round(
        &mut self,
        stage: &mut Stage,
        load: &Load,
        recorder: &Recorder,
    ) -> anyhow::Result<String> {
        let mut told = Vec::new();
        let count = 1 + u64::from(self.random.one_in(3));
        for _ in 0..count {
            let kind = Kind::draw(&self.kinds, &mut self.random);
            let Some(kind) = kind else { continue };
            let begun = self.faults.begin(kind, stage, &mut self.random, TOPIC);
            if let Some(hit) = begun.await? {
                let text = format!("{kind} {hit:?}");
                recorder.comment(&text);
                told.push(text);
            }
            tokio::time::sleep(self.random.ms(HELD_MS)).await;
        }
        self.faults.heal(stage).await?;
        let healed = Instant::now();
        recorder.comment("healed");
        let resumed = self.wait_for_records(load, healed).await?;
        tokio::time::sleep(self.random.ms(QUIET_MS)).await;
        Ok(format!(
            "{:<40} writes go on {:>5} ms behind the heal; this rig itself stood still for {:>4} \
             ms",
            told.join(", "),
            resumed.as_millis(),
            self.stalls.take().as_millis()
        ))
    }

    /// L1: every partition takes records again.
    async fn wait_for_records(&mut self, load: &Load, since: Instant) -> anyhow::Result<Duration> {
        let partitions: Vec<i32> = (0..self.campaign.partitions).collect();
        loop {
            let resumed = load.resumed(&partitions, since);
            if let Some(all) = resumed.iter().copied().collect::<Option<Vec<_>>>() {
                for partition in partitions {
                    for (error, count) in load.window(partition).errors {
                        *self.findings.errors.entry(error).or_default() += count;
                    }
                }
                let longest = all.into_iter().max().unwrap_or_default();
                self.findings.resumed.push(longest);
                return Ok(longest);
            }
            if since.elapsed() > RESUME_MAX {
                let none = partitions.iter().zip(&resumed);
                let waiting: Vec<_> = none.filter(|(_, at)| at.is_none()).collect();
                let waiting: Vec<_> = waiting.iter().map(|(partition, _)| **partition).collect();
                self.findings.violations.push(format!(
                    "L1: partitions {waiting:?} take no records {RESUME_MAX:?} after the heal"
                ));
                return Ok(RESUME_MAX);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
