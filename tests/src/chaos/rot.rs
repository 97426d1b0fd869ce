//! Rot on one replica of three: bytes of a batch go bad on one disk while its broker runs or is
//! down. Nothing bad may be served, nothing lost, and the disk must hold again what it held.
//!
//! What a running broker has written or checked and still has in memory is not read from its disk
//! again, so that rot there neither shows nor matters. A broker whose bytes are to go bad while it
//! runs is therefore started again first: it has neither written nor read them since.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use strandline_client::{
    ProducerOptions,
    protocol::{TopicId, batch::split_batches},
};

use super::{
    copies,
    load::{self, Load},
    recorder::Recorder,
    run::{self, Findings, TOPIC},
    served::{self, Source},
    stage::{self, Disks, Stage},
};
use crate::random::{Random, fresh_seed};

/// How long a damaged batch may take to be whole again once somebody reads it.
const REPAIR_MAX: Duration = Duration::from_secs(20);

/// Records that lie at the end of a copy are left alone: they may not be everywhere yet.
const YOUNG: i64 = 100;

/// Readers of certain brokers have numbers from here on.
const READERS: u32 = 100;

/// What is done.
#[derive(Clone, Debug, clap::Args)]
pub struct Campaign {
    /// How many batches go bad, one after the other.
    #[arg(long, default_value_t = 500, value_name = "N")]
    pub cases: u32,
    /// How many partitions there are, each kept by all three brokers.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub partitions: i32,
    /// How many records there are before anything goes bad.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub records: u64,
    /// From where the damage is drawn; another one each time if it is not given.
    #[arg(long, value_name = "N", default_value_t = fresh_seed(), hide_default_value = true)]
    pub seed: u64,
}

/// How bytes go bad, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    how: &'static str,
    when: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}, {}", self.how, self.when))
    }
}

const HOW: [&str; 4] = [
    "a bit flips",
    "64 bytes are zeros",
    "a page is zeros",
    "garbage",
];
const RUNNING: &str = "running";
const WHEN: [&str; 3] = [RUNNING, "down, killed", "down, stopped"];

/// Runs it in `directory`; `progress` hears of it now and then. Returns the times from the damage
/// (or the start of the broker, if it was down) until the disk was whole again.
///
/// # Errors
/// If the rig itself does not work.
pub async fn run(
    directory: &Path,
    campaign: &Campaign,
    mut progress: impl FnMut(&str),
) -> anyhow::Result<(BTreeMap<Damage, Vec<Duration>>, Findings)> {
    let plan = stage::Plan {
        brokers: 3,
        disks: Disks::Plain,
        arguments: Vec::new(),
    };
    let mut stage = Stage::set(directory, &plan).await?;
    let configs = [("flush", "ack"), ("segment.bytes", "1048576")];
    stage
        .create_topic(TOPIC, campaign.partitions, 3, &configs)
        .await?;
    let recorder = Arc::new(Recorder::create(&directory.join("history"))?);
    recorder.comment(&format!("{campaign:?}"));
    let plan = load::Plan {
        topic: TOPIC.to_owned(),
        partitions: campaign.partitions,
        producers: 2,
        first_producer: 0,
        rate: 2_000,
        record_bytes: 300,
        options: ProducerOptions::default(),
        readers: (1, 0),
        seed: campaign.seed,
    };
    // First many records, then a few all the time.
    let mut load = Load::start(&plan, &stage.addresses(), &recorder).await?;
    tokio::time::sleep(Duration::from_millis(campaign.records / 2)).await;
    load.stop_producing(plan.options.delivery_timeout).await?;
    load.until_read(REPAIR_MAX).await;
    load.stop_reading().await?;
    let few = load::Plan {
        rate: 20,
        readers: (0, 0),
        producers: 1,
        first_producer: 10,
        ..plan.clone()
    };
    let mut load = Load::start(&few, &stage.addresses(), &recorder).await?;
    let topic = stage.describe(TOPIC).await?.id;
    let mut findings = Findings::default();
    let mut times: BTreeMap<Damage, Vec<Duration>> = BTreeMap::new();
    let mut random = Random::new(campaign.seed, 11);
    for case in 1..=campaign.cases {
        let rotten = Rotten::draw(&stage, campaign.partitions, &mut random)?;
        recorder.comment(&format!("case {case}: {rotten:?}"));
        if rotten.damage.when == RUNNING {
            stage.node(rotten.broker)?.stop().await?;
            start(&mut stage, rotten.broker).await?;
        }
        match rotten.live_through(&mut stage, topic, &recorder).await {
            Ok(took) => times.entry(rotten.damage).or_default().push(took),
            Err(error) => findings.violations.push(format!("case {case}: {error:#}")),
        }
        if case % 20 == 0 || !findings.violations.is_empty() {
            progress(&format!(
                "{case} of {} cases: {}",
                campaign.cases, rotten.damage
            ));
        }
        if findings.violations.len() >= 10 {
            break;
        }
    }
    load.stop_producing(plan.options.delivery_timeout).await?;
    stage.until_in_sync(TOPIC).await?;
    for partition in 0..campaign.partitions {
        for broker in 1..=3 {
            read_at(&stage, broker, partition, topic, &recorder).await?;
        }
        // The reader of the beginning, who has stopped since.
        read_as(0, &stage, 1, partition, topic, &recorder).await?;
    }
    let patience = plan.options.delivery_timeout;
    run::finish(&mut stage, &mut load, &recorder, patience, &mut findings).await?;
    times.values_mut().for_each(|times| times.sort_unstable());
    Ok((times, findings))
}

/// Starts a broker, and waits until it is in sync.
async fn start(stage: &mut Stage, broker: i32) -> anyhow::Result<()> {
    let node = stage.node(broker)?;
    node.spawn()?;
    node.until_ready().await?;
    stage.until_in_sync(TOPIC).await?;
    Ok(())
}

/// Reads a partition from one broker, from its start to its end.
async fn read_at(
    stage: &Stage,
    broker: i32,
    partition: i32,
    topic: TopicId,
    recorder: &Recorder,
) -> anyhow::Result<()> {
    let reader = READERS + u32::try_from(broker)?;
    read_as(reader, stage, broker, partition, topic, recorder).await
}

async fn read_as(
    reader: u32,
    stage: &Stage,
    broker: i32,
    partition: i32,
    topic: TopicId,
    recorder: &Recorder,
) -> anyhow::Result<()> {
    let node = stage.nodes.iter().find(|node| node.id == broker);
    let address = node.context("there is no such broker")?.setup.address();
    let source = Source {
        address: &address,
        rack: &stage::rack(broker),
        topic,
        partition,
    };
    let read = served::read(source, reader, recorder, REPAIR_MAX).await;
    read.with_context(|| format!("broker {broker}, partition {partition}"))?;
    Ok(())
}

/// Bytes that go bad.
#[derive(Debug)]
struct Rotten {
    damage: Damage,
    broker: i32,
    partition: i32,
    file: PathBuf,
    /// Where in the file.
    at: u64,
    was: Vec<u8>,
    becomes: Vec<u8>,
}

impl Rotten {
    fn draw(stage: &Stage, partitions: i32, random: &mut Random) -> anyhow::Result<Self> {
        let node = &stage.nodes[random.index(stage.nodes.len())];
        let partition = i32::try_from(random.index(usize::try_from(partitions)?))?;
        let directory = node.setup.data.join(format!("{TOPIC}-{partition}"));
        let mut batches = Vec::new();
        for (_, file) in copies::segments(&directory)? {
            let bytes = std::fs::read(&file)?;
            let mut at = 0;
            // What is reserved behind the last batch is none.
            for batch in split_batches(&bytes).map_while(Result::ok) {
                let end = batch.header().end_offset().0;
                let length = batch.bytes().len();
                batches.push((end, file.clone(), at, bytes[at..at + length].to_vec()));
                at += length;
            }
        }
        let end = batches.last().map_or(0, |(end, ..)| *end);
        batches.retain(|(batch_end, ..)| *batch_end <= end - YOUNG);
        anyhow::ensure!(!batches.is_empty(), "partition {partition} is too short");
        let (_, file, at, bytes) = batches.swap_remove(random.index(batches.len()));
        let damage = Damage {
            how: HOW[random.index(HOW.len())],
            when: WHEN[random.index(WHEN.len())],
        };
        let (begin, becomes) = damage.spoil(&bytes, random);
        Ok(Self {
            damage,
            broker: node.id,
            partition,
            file,
            at: u64::try_from(at + begin)?,
            was: bytes[begin..begin + becomes.len()].to_vec(),
            becomes,
        })
    }

    /// Goes bad, is read, and is whole again; returns how long that took.
    async fn live_through(
        &self,
        stage: &mut Stage,
        topic: TopicId,
        recorder: &Recorder,
    ) -> anyhow::Result<Duration> {
        let node = stage.node(self.broker)?;
        match self.damage.when {
            "down, killed" => node.kill().await?,
            "down, stopped" => node.stop().await?,
            _ => {}
        }
        let file = File::options().read(true).write(true).open(&self.file)?;
        file.write_all_at(&self.becomes, self.at)?;
        if node.process.is_none() {
            start(stage, self.broker).await?;
        }
        let since = Instant::now();
        read_at(stage, self.broker, self.partition, topic, recorder).await?;
        let mut is = vec![0; self.was.len()];
        loop {
            file.read_exact_at(&mut is, self.at)?;
            if is == self.was {
                return Ok(since.elapsed());
            }
            anyhow::ensure!(
                since.elapsed() < REPAIR_MAX,
                "broker {} has not repaired {} at {} ({}) after {REPAIR_MAX:?}",
                self.broker,
                self.file.display(),
                self.at,
                self.damage
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Damage {
    /// Where in `batch` it begins, and what stands there then: something else than before.
    fn spoil(self, batch: &[u8], random: &mut Random) -> (usize, Vec<u8>) {
        let (length, fill): (usize, Option<u8>) = match self.how {
            "a bit flips" => (1, None),
            "64 bytes are zeros" => (64, Some(0)),
            "a page is zeros" => (4_096, Some(0)),
            _ => (32, None),
        };
        let length = length.min(batch.len());
        let begin = random.index(batch.len() - length + 1);
        let was = &batch[begin..begin + length];
        let mut becomes = match fill {
            Some(fill) => vec![fill; length],
            None if length == 1 => vec![was[0] ^ (1 << random.below(8))],
            None => random.bytes(length),
        };
        if becomes == was {
            becomes[0] ^= 1;
        }
        (begin, becomes)
    }
}
