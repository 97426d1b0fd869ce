//! The power of all brokers fails at once, again and again, under a load.
//!
//! Each broker has a file system of its own in a file, whose journal is committed by an fsync or
//! not at all (see [`crate::mounts`]). A cut stops every broker where it is, takes a copy of each
//! file, which lacks what was not synced, and goes on with the copies. A small file that nobody
//! syncs is written before each cut: where it is still there, the cut proves nothing.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use strandline_client::ProducerOptions;

use super::{
    load::{self, Load},
    node::Disk,
    recorder::Recorder,
    run::{self, Findings, TOPIC},
    stage::{self, Disks, Stage},
};
use crate::{
    mounts::{LoopDisk, check_mounts},
    random::{Random, fresh_seed},
};

/// How large a disk is, in MiB.
const DISK_MEBIBYTES: u64 = 512;

/// What is in the file that nobody syncs.
const UNSYNCED: &[u8] = b"not synced";

/// How often a copy is tried while the kernel still writes.
const COPIES_MAX: u32 = 100;

/// How long a cluster may take to take records again before the rig gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is done.
#[derive(Clone, Debug, clap::Args)]
pub struct Campaign {
    /// How often the power is cut.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub rounds: u32,
    /// How many brokers there are.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub brokers: usize,
    /// How many partitions there are, each kept by three brokers.
    #[arg(long, default_value_t = 6, value_name = "N")]
    pub partitions: i32,
    /// Records a second, of all producers together.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub rate: u64,
    /// From where the moments of the cuts are drawn; another one each time if it is not given.
    #[arg(long, value_name = "N", default_value_t = fresh_seed(), hide_default_value = true)]
    pub seed: u64,
}

/// What was seen of the cuts.
#[derive(Clone, Debug, Default)]
pub struct Cuts {
    /// From the start of the processes until every partition took a record; sorted.
    pub up_again: Vec<Duration>,
    /// Disks that lost what was not synced, and that did not.
    pub disks: (u32, u32),
}

/// Runs it in `directory`, as root; `progress` hears of every cut.
///
/// # Errors
/// If the rig itself does not work.
pub async fn run(
    directory: &Path,
    campaign: &Campaign,
    mut progress: impl FnMut(&str),
) -> anyhow::Result<(Cuts, Findings)> {
    check_mounts()?;
    let plan = stage::Plan {
        brokers: campaign.brokers,
        disks: Disks::Images(DISK_MEBIBYTES),
        arguments: Vec::new(),
    };
    let mut stage = Stage::set(directory, &plan).await?;
    let factor = i16::try_from(campaign.brokers.min(3))?;
    let configs = [("flush", "ack")];
    stage
        .create_topic(TOPIC, campaign.partitions, factor, &configs)
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
    let mut random = Random::new(campaign.seed, 10);
    let (mut cuts, mut findings) = (Cuts::default(), Findings::default());
    until_written(&load, Instant::now()).await?;
    for round in 1..=campaign.rounds {
        // Short: later the kernel writes back what nobody synced.
        tokio::time::sleep(random.ms(300..3_000)).await;
        let lost = cut(&mut stage, directory, round).await?;
        let since = Instant::now();
        stage.start_all().await?;
        let up_again = until_written(&load, since).await?;
        cuts.up_again.push(up_again);
        let kept = u32::try_from(stage.nodes.len())? - lost;
        cuts.disks = (cuts.disks.0 + lost, cuts.disks.1 + kept);
        let text = format!(
            "cut {round} of {}: {lost} disks lost what was not synced; records again after {} ms",
            campaign.rounds,
            up_again.as_millis()
        );
        recorder.comment(&text);
        progress(&text);
    }
    let patience = plan.options.delivery_timeout;
    run::finish(&mut stage, &mut load, &recorder, patience, &mut findings).await?;
    cuts.up_again.sort_unstable();
    Ok((cuts, findings))
}

/// Cuts the power of all; returns how many disks lost what was not synced. Nobody runs afterwards.
async fn cut(stage: &mut Stage, directory: &Path, round: u32) -> anyhow::Result<u32> {
    for node in &stage.nodes {
        let unsynced = node.place.join("unsynced");
        // Removed and made anew: an older one may have been synced.
        let _ = std::fs::remove_file(&unsynced);
        std::fs::write(&unsynced, UNSYNCED)?;
    }
    for node in &mut stage.nodes {
        node.pause().await;
    }
    let image = |id: i32| directory.join(format!("disk-{id}-{round}"));
    for node in &stage.nodes {
        let Disk::Image(disk) = &node.disk else {
            anyhow::bail!("broker {} has no disk of its own", node.id);
        };
        let mut tries = 0;
        while !disk.copy(&image(node.id))? {
            tries += 1;
            anyhow::ensure!(
                tries < COPIES_MAX,
                "the disk of broker {} never rests",
                node.id
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let mut lost = 0;
    for node in &mut stage.nodes {
        node.kill().await?;
        if let Disk::Image(disk) = std::mem::replace(&mut node.disk, Disk::Plain) {
            disk.destroy()?;
        }
        node.disk = Disk::Image(LoopDisk::mount(&image(node.id), &node.place)?);
        let unsynced = std::fs::read(node.place.join("unsynced"));
        lost += u32::from(unsynced.map_or(true, |content| content != UNSYNCED));
    }
    Ok(lost)
}

/// Waits until every partition has acknowledged a record that was sent behind `since`.
async fn until_written(load: &Load, since: Instant) -> anyhow::Result<Duration> {
    let all: Vec<i32> = (0..load.partitions()).collect();
    loop {
        let resumed: Option<Vec<Duration>> = load.resumed(&all, since).into_iter().collect();
        if let Some(longest) = resumed.and_then(|times| times.into_iter().max()) {
            for partition in all {
                let _ = load.window(partition);
            }
            return Ok(longest);
        }
        anyhow::ensure!(
            since.elapsed() < PATIENCE,
            "no records are taken after {PATIENCE:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
