//! An attacker beside a normal producer: what the attacker costs the others, and whether the broker
//! stays up and within its bounds.
//!
//! The attacker is a process of its own that is held to a share of one processor. The normal
//! producer does the same work again and again, alone and beside the attacker in turn, so that
//! whatever else happens on the machine meets both. A good client asks all the time, on a
//! connection that it keeps and on a new one.

pub mod attacker;
pub mod frames;
pub mod watch;

use std::{
    fmt,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use strandline_client::{
    Client, ClientOptions, NewRecord, Producer, ProducerOptions,
    protocol::{PartitionId, TopicId},
};

use self::{
    attacker::Kind,
    watch::{Seen, Watch, figures},
};
use crate::{Broker, BrokerSetup, load::create_topic, random::fresh_seed};

/// The broker's limits: small enough that an attacker can reach them.
const CONNECTIONS_MAX: usize = 256;
const MEMORY_BYTES: u64 = 64 << 20;
const FRAME_BYTES_MAX: usize = 8 << 20;

/// What the broker may need beyond its budget and what it had before the attack: the budget of
/// control requests (16 MiB), buffers that are kept for the next frames (16 MiB), one frame over a
/// budget (8 MiB), answers and parked requests (a quarter of the budget, 16 MiB), and of those what
/// each of 256 connections has for free (64 KiB, 16 MiB in all).
const MEMORY_SLACK_BYTES: u64 = 72 << 20;

/// Descriptors that are not connections: segments that come and go, the runtime, connections that
/// are just being refused.
const DESCRIPTORS_SLACK: usize = 128;

/// The attacker leaves this many connections to the others, except when it floods.
const CONNECTIONS_LEFT: usize = 40;

/// The work alone is this part of the work beside the attacker.
const ALONE_PART: u64 = 2;

/// How much longer than alone the same work may take before it is cut short.
const TIMES_MAX: u32 = 8;

const NORMAL: &str = "normal";
const PROBED: &str = "probed";
const TARGET: &str = "target";
const PARTITIONS: i32 = 4;
const RECORD_BYTES: usize = 200;

/// What a campaign does.
#[derive(Clone, Debug, clap::Args)]
pub struct Campaign {
    /// How long the attacker runs in all, in seconds.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub seconds: u64,
    /// From where everything is drawn; another one each time if it is not given.
    #[arg(long, value_name = "N", default_value_t = fresh_seed(), hide_default_value = true)]
    pub seed: u64,
    /// How much of one processor the attacker may use, in percent.
    #[arg(long = "share", value_name = "PERCENT", default_value_t = 20)]
    pub share_percent: u32,
    /// How much of its rate the normal producer has to keep, in percent.
    #[arg(long = "keep", value_name = "PERCENT", default_value_t = 50)]
    pub keep_percent: u32,
    /// Which kinds are played, then all of them mixed; may be repeated, else every one.
    #[arg(long = "kind", value_name = "KIND", default_values_t = Kind::SINGLE)]
    #[arg(hide_default_value = true)]
    pub kinds: Vec<Kind>,
}

impl Campaign {
    /// What is played for how long: half of the time each kind on its own, then the mixture.
    #[must_use]
    pub fn windows(&self) -> Vec<(Kind, Duration)> {
        const MIXED: u32 = 4;
        let half = Duration::from_secs(self.seconds) / 2;
        let count = u32::try_from(self.kinds.len()).unwrap_or(u32::MAX);
        let single = self.kinds.iter().map(|kind| (*kind, half / count.max(1)));
        single
            .chain((0..MIXED).map(|_| (Kind::Mixed, half / MIXED)))
            .collect()
    }
}

/// The same work, done alone and beside an attacker.
#[derive(Clone, Debug)]
pub struct Round {
    /// What the attacker did.
    pub kind: Kind,
    /// Records a second, alone.
    pub alone: f64,
    /// Records a second, attacked.
    pub attacked: f64,
    /// For how long it was attacked.
    pub time: Duration,
    /// How much of one processor the attacker used, from 0 to 1.
    pub share: f64,
    /// What was seen meanwhile.
    pub seen: Seen,
    /// The attacker's own account.
    pub account: String,
}

/// What a campaign found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Each round.
    pub rounds: Vec<Round>,
    /// The broker's memory before the first attack and what it may have, in bytes.
    pub memory: (u64, u64),
    /// The descriptors that it may have.
    pub descriptors_max: usize,
    /// Connections that the broker refused, by reason, as its metrics tell.
    pub refused: Vec<String>,
    /// Everything that must never happen, and did.
    pub violations: Vec<String>,
}

impl Findings {
    /// The rate beside the attacker by the rate alone, over all rounds of `kind`, or all rounds:
    /// the same work, so this is the time alone by the time attacked.
    #[must_use]
    pub fn ratio(&self, kind: Option<Kind>) -> f64 {
        let rounds = || self.rounds.iter();
        let of_kind = |round: &&Round| kind.is_none_or(|kind| round.kind == kind);
        let alone: f64 = rounds()
            .filter(of_kind)
            .map(|round| 1.0 / round.alone)
            .sum();
        let attacked: f64 = rounds()
            .filter(of_kind)
            .map(|round| 1.0 / round.attacked)
            .sum();
        alone / attacked
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<17} {:>7.1} s  alone {:>8.0}/s  attacked {:>8.0}/s  {:>3.0} %  attacker {:>4.1} %  \
             probe {:>4} ms, slowest {:>4} ms  {:>3} MiB  {:>3} fds  crowded out {:>3}  {}",
            self.kind.to_string(),
            self.time.as_secs_f64(),
            self.alone,
            self.attacked,
            100.0 * self.attacked / self.alone,
            100.0 * self.share,
            self.seen.median().as_millis(),
            self.seen.slowest().as_millis(),
            self.seen.anonymous_bytes >> 20,
            self.seen.descriptors,
            self.seen.crowded_out,
            self.account,
        )
    }
}

/// Runs a campaign on a broker in `directory`; `progress` hears of every round. `attacker` makes
/// the command that attacks, see [`attacker::Orders`].
///
/// # Errors
/// If the rig itself does not work; what the broker does wrong is among the findings.
pub async fn run(
    directory: &Path,
    campaign: &Campaign,
    attacker: impl Fn(&attacker::Orders) -> Command,
    mut progress: impl FnMut(&Round),
) -> anyhow::Result<Findings> {
    let broker = start(directory).await?;
    let address: SocketAddr = broker.address().parse()?;
    let small = [
        ("retention.bytes", "67108864"),
        ("segment.bytes", "16777216"),
    ];
    create_topic(&broker.address(), NORMAL, PARTITIONS, &small).await?;
    create_topic(&broker.address(), PROBED, 1, &small).await?;
    create_topic(&broker.address(), TARGET, 1, &small).await?;
    let client = Client::connect(&[broker.address()], ClientOptions::default()).await?;
    let topics = client.admin().list_topics().await?;
    let id = |name: &str| {
        let topic = topics.iter().find(|topic| topic.name == name);
        topic.map(|topic| topic.id).context("a topic is not listed")
    };
    let producer = client.producer(ProducerOptions::default())?;
    let watch = Watch::start(broker.process_id(), address, id(PROBED)?)?;
    let orders = |kind, seed| orders(address, kind, id(TARGET)?, campaign, seed);

    let rate_at_first = calibrate(&producer).await?;
    let (before, _) = figures(broker.process_id());
    let mut findings = Findings {
        memory: (before, before + MEMORY_BYTES + MEMORY_SLACK_BYTES),
        descriptors_max: CONNECTIONS_MAX + DESCRIPTORS_SLACK,
        ..Findings::default()
    };
    for (number, (kind, window)) in (0..).zip(campaign.windows()) {
        let orders = orders(kind, campaign.seed.wrapping_add(number))?;
        let records = (rate_at_first * window.as_secs_f64()) as u64;
        let alone = rate(&producer, records / ALONE_PART, window).await?;
        findings
            .violations
            .extend(strange("alone", &watch.take(), &findings));
        let attack = Attack::begin(attacker(&orders))?;
        let attacked = rate(&producer, records, window).await;
        let round = attack.end(kind, alone, attacked?, &watch)?;
        // What was cut short is none of the next round's work.
        producer.flush().await?;
        let strange = strange(&kind.to_string(), &round.seen, &findings);
        findings.violations.extend(strange);
        progress(&round);
        findings.rounds.push(round);
    }
    drop(watch);
    producer.close().await?;
    findings.refused = refusals(&broker);
    conclude(broker, &mut findings);
    Ok(findings)
}

async fn start(directory: &Path) -> anyhow::Result<Broker> {
    let data = directory.join("data");
    let config = directory.join("strandline.toml");
    let limits = format!(
        "[limits]\nconnections_max = {CONNECTIONS_MAX}\nmemory_in_flight_bytes_max = \
         \"{MEMORY_BYTES}\"\nframe_bytes_max = \"{FRAME_BYTES_MAX}\"\n[storage]\n\
         retention_interval = \"1s\"\n"
    );
    std::fs::write(&config, limits)?;
    let config = config.to_str().context("a path in UTF-8")?;
    let setup = BrokerSetup::on(&data).argument("--config").argument(config);
    Ok(tokio::task::spawn_blocking(move || setup.start()).await?)
}

fn orders(
    address: SocketAddr,
    kind: Kind,
    topic: TopicId,
    campaign: &Campaign,
    seed: u64,
) -> anyhow::Result<attacker::Orders> {
    let connections_max = match kind {
        // More than there are.
        Kind::ConnectionFlood => CONNECTIONS_MAX + CONNECTIONS_LEFT,
        // Each kind has its own in the mixture.
        Kind::Mixed => (CONNECTIONS_MAX - CONNECTIONS_LEFT) / 8,
        _ => CONNECTIONS_MAX - CONNECTIONS_LEFT,
    };
    Ok(attacker::Orders {
        address,
        kind,
        topic,
        connections_max,
        frame_bytes_max: FRAME_BYTES_MAX,
        share_percent: campaign.share_percent,
        seed,
    })
}

/// How many records a second are sent alone.
async fn calibrate(producer: &Producer) -> anyhow::Result<f64> {
    const PIECE: u64 = 20_000;
    const TIME: Duration = Duration::from_secs(2);
    send(producer, PIECE).await?;
    let (started, mut sent) = (Instant::now(), 0);
    while started.elapsed() < TIME {
        send(producer, PIECE).await?;
        sent += PIECE;
    }
    Ok(sent as f64 / started.elapsed().as_secs_f64())
}

/// How many records a second `records` take; if they take [`TIMES_MAX`] windows, that is what they
/// would be at the most.
async fn rate(producer: &Producer, records: u64, window: Duration) -> anyhow::Result<f64> {
    let started = Instant::now();
    let work = tokio::time::timeout(window * TIMES_MAX, send(producer, records));
    if let Ok(sent) = work.await {
        sent?;
    }
    Ok(records as f64 / started.elapsed().as_secs_f64())
}

async fn send(producer: &Producer, records: u64) -> anyhow::Result<()> {
    let value = [7; RECORD_BYTES];
    for number in 0..records {
        let partition = PartitionId((number % PARTITIONS as u64) as i32);
        let record = NewRecord::to(NORMAL).partition(partition).value(&value);
        let _decided_at_flush = producer.send(record).await?;
    }
    Ok(producer.flush().await?)
}

/// What was seen that must not be.
fn strange(when: &str, seen: &Seen, findings: &Findings) -> Vec<String> {
    let mut strange: Vec<String> = seen
        .failures
        .iter()
        .map(|failure| format!("{when}: a good client failed: {failure}"))
        .collect();
    if seen.anonymous_bytes > findings.memory.1 {
        strange.push(format!(
            "{when}: {} MiB of memory, {} are allowed",
            seen.anonymous_bytes >> 20,
            findings.memory.1 >> 20
        ));
    }
    if seen.descriptors > findings.descriptors_max {
        strange.push(format!(
            "{when}: {} descriptors, {} are allowed",
            seen.descriptors, findings.descriptors_max
        ));
    }
    strange
}

/// An attacker at work; it is killed when this is dropped.
struct Attack {
    process: Child,
    started: Instant,
    said: Arc<Mutex<String>>,
}

impl Attack {
    fn begin(mut command: Command) -> anyhow::Result<Self> {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("the attacker cannot be run")?;
        let said = Arc::new(Mutex::new(String::new()));
        let (lines, last) = (process.stdout.take(), Arc::clone(&said));
        std::thread::spawn(move || {
            use std::io::{BufRead as _, BufReader};
            let lines = lines
                .into_iter()
                .flat_map(|lines| BufReader::new(lines).lines());
            for line in lines.map_while(Result::ok) {
                *last.lock().expect("nobody panics with it") = line;
            }
        });
        Ok(Self {
            process,
            started: Instant::now(),
            said,
        })
    }

    fn end(
        mut self,
        kind: Kind,
        alone: f64,
        attacked: f64,
        watch: &Watch,
    ) -> anyhow::Result<Round> {
        let time = self.started.elapsed();
        let used = processor_seconds(self.process.id());
        let ended = self.process.try_wait()?;
        anyhow::ensure!(ended.is_none(), "the attacker has ended by itself");
        let seen = watch.take();
        self.process.kill()?;
        self.process.wait()?;
        let account = self.said.lock().expect("nobody panics with it").clone();
        Ok(Round {
            kind,
            alone,
            attacked,
            time,
            share: used / time.as_secs_f64(),
            seen,
            account,
        })
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Processor time of a process, as the system counts it.
fn processor_seconds(process: u32) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = rest.split_whitespace().skip(11).take(2);
    let ticks: u32 = ticks.filter_map(|ticks| ticks.parse::<u32>().ok()).sum();
    f64::from(ticks) / TICKS_PER_SECOND
}

fn refusals(broker: &Broker) -> Vec<String> {
    let page = broker.http("/metrics").map(|(_, text)| text);
    let refused = |line: &&str| line.starts_with("strandline_connections_refused_total{");
    let page = page.unwrap_or_default();
    page.lines().filter(refused).map(str::to_owned).collect()
}

/// Stops the broker and looks at what it has said.
fn conclude(mut broker: Broker, findings: &mut Findings) {
    if !broker.is_running() {
        let violation = format!("the broker has ended:\n{}", broker.log());
        findings.violations.push(violation);
        return;
    }
    let (status, log) = broker.stop();
    let panicked = log.lines().find(|line| line.contains("panicked"));
    if let Some(line) = panicked {
        findings
            .violations
            .push(format!("the broker panicked: {line}"));
    }
    if !status.success() {
        let violation = format!("the broker did not stop in order: {status}");
        findings.violations.push(violation);
    }
}
