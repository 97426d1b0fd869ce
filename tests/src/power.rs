//! Power cuts on the real path: the real broker, the real backend, a real file system.
//!
//! The data lies on an ext4 in a file ([`crate::mounts`]). Under load the broker is stopped by
//! `SIGSTOP` and the file is copied: the copy holds what was synced, and not what was only in the
//! page cache. Then the broker is killed, and starts again on the copy; the producers go on where
//! they were, as clients do after a power cut. Before the next cut the load is held, every
//! partition is read from its start and held against the history.
//!
//! A cut only counts if it has cut something: just before it a file is written without a sync, and
//! if the copy has its content, something else has synced the disk and the cut is repeated. What
//! this cannot show is a disk that lies about its cache, as the copy has all that was written to
//! the device, flushed or not.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use strandline_client::{Client, ClientOptions};

use crate::{
    Broker, BrokerSetup,
    load::{Checked, Load, Plan, check_all, create_topic},
    mounts::LoopDisk,
    random::{Random, fresh_seed},
};

const TOPIC: &str = "power";

/// The size of the disk, in MiB; the file is sparse.
const DISK_MEBIBYTES: u64 = 1_024;

/// What is written without a sync before a cut.
const UNSYNCED: &[u8] = &[0x5a; 16 << 10];

/// How many cuts in a row may be none.
const REPEATS_MAX: u32 = 20;

/// Dirty pages are written back after 30 s without anybody's asking: load that runs for about as
/// long may be synced by that.
const LOADED_MAX: Duration = Duration::from_secs(25);

/// What a campaign does.
#[derive(Clone, Debug, clap::Args)]
pub struct Campaign {
    /// How often the power is cut.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rounds: u32,
    /// From where the moments are drawn; another one each time if it is not given.
    #[arg(long, value_name = "N", default_value_t = fresh_seed(), hide_default_value = true)]
    pub seed: u64,
    /// How many producers there are.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub producers: u32,
    /// How many partitions they write to.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub partitions: i32,
    /// The topic's `flush`: with `async`, acknowledged records are lost, and the rig must see it.
    #[arg(long, value_name = "MODE", default_value = "ack", value_parser = ["ack", "async"])]
    pub flush: String,
}

/// What one cut showed.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Records acknowledged so far, of unknown outcome, refused.
    pub records: (usize, usize, usize),
    /// Records that are there.
    pub found: usize,
    /// From the start of the process on the copy to its readiness.
    pub ready_after: Duration,
}

/// What a campaign found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Each cut that counts.
    pub cuts: Vec<Cut>,
    /// Copies that were taken while something was still written.
    pub mixed: u32,
    /// Cuts that may have lost nothing: the unsynced file was there, or the load had run for long.
    pub without_loss: u32,
    /// Topics whose creation was acknowledged.
    pub topics: usize,
    /// Everything that must never happen, and did.
    pub violations: Vec<String>,
}

/// Where a campaign works.
struct Rig {
    setup: BrokerSetup,
    directory: PathBuf,
    /// How manyeth copy of the disk it is.
    generation: u32,
    /// None only while one is replaced by the other.
    disk: Option<LoopDisk>,
    /// Since when the load runs; what was written before is acknowledged, and so synced.
    loaded_at: Instant,
    broker: Broker,
}

/// Runs a campaign in `directory`; `progress` hears of every cut. Stops at the first violation.
///
/// # Errors
/// If the rig itself does not work; what the broker does wrong is among the findings.
pub async fn run(
    directory: &Path,
    campaign: &Campaign,
    mut progress: impl FnMut(&Cut),
) -> anyhow::Result<Findings> {
    let mut random = Random::new(campaign.seed, 1);
    let mut rig = Rig::start(directory)?;
    let address = rig.setup.address();
    let configs = [("segment.bytes", "262144"), ("flush", &campaign.flush)];
    create_topic(&address, TOPIC, campaign.partitions, &configs).await?;
    let plan = Plan {
        pace: (25, Duration::from_millis(2)),
        ..Plan::all_to_all(TOPIC, campaign.producers, campaign.partitions)
    };
    let load = Load::start(&plan, &address).await?;
    let mut findings = Findings::default();
    let mut repeats = 0;
    while findings.cuts.len() < usize::try_from(campaign.rounds)? {
        tokio::time::sleep(Duration::from_millis(50 + random.below(700))).await;
        create_topics(&address, random.below(3), &mut findings.topics).await?;
        let lost = rig.cut(&mut findings).await?;
        load.hold().await?;
        let history = load.history();
        let Checked { found, violations } =
            check_all(&address, TOPIC, campaign.partitions, &history).await?;
        findings.violations.extend(violations);
        findings.violations.extend(
            missing_topics(&address, findings.topics)
                .await?
                .into_iter()
                .chain(rig.panics()),
        );
        let cut = Cut {
            records: history.counts(),
            found,
            ready_after: rig.broker.ready_after(),
        };
        if lost {
            progress(&cut);
            findings.cuts.push(cut);
            repeats = 0;
        } else {
            findings.without_loss += 1;
            repeats += 1;
        }
        anyhow::ensure!(
            repeats < REPEATS_MAX,
            "{REPEATS_MAX} cuts in a row lost nothing: something else syncs the disk"
        );
        if !findings.violations.is_empty() {
            break;
        }
        rig.loaded_at = Instant::now();
        load.go_on();
    }
    load.go_on();
    load.stop().await?;
    rig.end(&mut findings)?;
    Ok(findings)
}

impl Rig {
    fn start(directory: &Path) -> anyhow::Result<Self> {
        let at = directory.join("mounted");
        let disk = LoopDisk::create(&image(directory, 0), DISK_MEBIBYTES, &at)?;
        let setup = BrokerSetup::on(&at.join("data"));
        let broker = setup.start();
        Ok(Self {
            setup,
            directory: directory.to_path_buf(),
            generation: 0,
            disk: Some(disk),
            loaded_at: Instant::now(),
            broker,
        })
    }

    /// Cuts the power and starts again on what was on the disk. Returns whether the cut
    /// counts.
    async fn cut(&mut self, findings: &mut Findings) -> anyhow::Result<bool> {
        let unsynced = self.directory.join("mounted/unsynced");
        // Removed and made anew: an older one may have been synced.
        let _ = std::fs::remove_file(&unsynced);
        std::fs::write(&unsynced, UNSYNCED)?;
        let copy = image(&self.directory, self.generation + 1);
        self.broker.pause();
        while !self.disk()?.copy(&copy)? {
            findings.mixed += 1;
            // It goes on for a moment, so that what was being written is done.
            self.broker.resume();
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.broker.pause();
        }
        let in_time = self.loaded_at.elapsed() < LOADED_MAX;
        findings.violations.extend(self.panics());
        self.broker.kill_now();
        let at = self.directory.join("mounted");
        self.disk.take().map(LoopDisk::destroy).transpose()?;
        self.disk = Some(LoopDisk::mount(&copy, &at)?);
        self.generation += 1;
        let lost = std::fs::read(&unsynced).map_or(true, |content| content != UNSYNCED);
        let setup = self.setup.clone();
        self.broker = tokio::task::spawn_blocking(move || setup.start()).await?;
        Ok(lost && in_time)
    }

    fn disk(&self) -> anyhow::Result<&LoopDisk> {
        self.disk.as_ref().context("the disk is gone")
    }

    fn panics(&self) -> Option<String> {
        let log = self.broker.log();
        let line = log.lines().find(|line| line.contains("panicked"))?;
        Some(format!("the broker panicked: {line}"))
    }

    fn end(self, findings: &mut Findings) -> anyhow::Result<()> {
        findings.violations.extend(self.panics());
        let (status, log) = self.broker.stop();
        if !status.success() {
            let violation = format!("the broker did not stop in order: {status}\n{log}");
            findings.violations.push(violation);
        }
        self.disk.map(LoopDisk::destroy).transpose()?;
        Ok(())
    }
}

fn image(directory: &Path, generation: u32) -> PathBuf {
    directory.join(format!("disk-{generation}"))
}

/// Creates topics, and counts those that were acknowledged.
async fn create_topics(address: &str, count: u64, acknowledged: &mut usize) -> anyhow::Result<()> {
    for _ in 0..count {
        create_topic(address, &format!("made-{acknowledged}"), 1, &[]).await?;
        *acknowledged += 1;
    }
    Ok(())
}

/// Topics that were created and are not there.
async fn missing_topics(address: &str, created: usize) -> anyhow::Result<Vec<String>> {
    let client = Client::connect(&[address], ClientOptions::default()).await?;
    let topics = client.admin().list_topics().await?;
    let missing = (0..created).map(|number| format!("made-{number}"));
    Ok(missing
        .filter(|name| !topics.iter().any(|topic| topic.name == *name))
        .map(|name| format!("topic {name}, whose creation was acknowledged, is lost"))
        .collect())
}
