//! A broker on two directories with a load on it, and what scenarios ask of it.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use strandline_client::{Client, ClientOptions, ProducerOptions};
use tempfile::TempDir;

use super::{Row, Scenario, scenarios::Disk};
use crate::{
    Broker, BrokerSetup,
    load::{Checked, Load, Plan, Window, check_all, create_topic, read_all},
    mounts::MemoryDisk,
    strace::Injection,
};

const TOPIC: &str = "faults";
const PARTITIONS: i32 = 4;

/// A topic that is there to be deleted.
const SPARE: &str = "spare";

/// How large the memory disk is, and how much of it is taken from the start, in MiB.
const MEMORY_MEBIBYTES: u64 = 64;
const FILLER_MEBIBYTES: usize = 44;

/// How long something that must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long others are watched while one directory has its trouble.
const WATCHED: Duration = Duration::from_millis(700);

/// How long a record may take: short, so that errors reach the application.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(2);

/// The stage of a scenario.
pub(super) struct Stage {
    broker: Broker,
    setup: BrokerSetup,
    load: Load,
    /// Partitions in the directory that gets the trouble, and in the other one.
    pub(super) here: Vec<i32>,
    pub(super) there: Vec<i32>,
    directory: PathBuf,
    row: Row,
    _memory: Option<MemoryDisk>,
    filler: PathBuf,
    root: TempDir,
}

impl Stage {
    pub(super) async fn set(scenario: &Scenario) -> anyhow::Result<Self> {
        let root = tempfile::tempdir()?;
        let mounted = root.path().join("memory");
        let sound = root.path().join("sound");
        let (memory, directory) = match scenario.disk {
            Disk::Plain => (None, root.path().join("troubled")),
            Disk::MemorySecond | Disk::MemoryFirst => {
                let memory = MemoryDisk::mount(MEMORY_MEBIBYTES, &mounted)?;
                (Some(memory), mounted.join("data"))
            }
        };
        let filler = mounted.join("filler");
        if memory.is_some() {
            std::fs::write(&filler, vec![1; FILLER_MEBIBYTES << 20])?;
        }
        let data = match scenario.disk {
            Disk::MemoryFirst => [&directory, &sound],
            _ => [&sound, &directory],
        };
        let config = root.path().join("strandline.toml");
        let backend = scenario.backend;
        std::fs::write(&config, format!("[storage]\nbackend = \"{backend}\"\n"))?;
        let data = data.map(|path| path.display().to_string()).join(",");
        let setup = BrokerSetup::on(Path::new(&data))
            .argument("--config")
            .argument(config.to_str().context("a path in UTF-8")?);
        let broker = start(&setup).await?;
        let address = setup.address();
        create_topic(&address, TOPIC, PARTITIONS, &[]).await?;
        create_topic(&address, SPARE, PARTITIONS, &[]).await?;
        let plan = Plan {
            record_bytes: scenario.record_bytes,
            pace: (10, Duration::from_millis(2)),
            options: ProducerOptions {
                delivery_timeout: DELIVERY_TIMEOUT,
                ..ProducerOptions::default()
            },
            ..Plan::one_to_one(TOPIC, PARTITIONS)
        };
        let load = Load::start(&plan, &address).await?;
        let mut stage = Self {
            broker,
            setup,
            load,
            here: Vec::new(),
            there: Vec::new(),
            directory,
            row: Row::default(),
            _memory: memory,
            filler,
            root,
        };
        stage.everybody_writes("at first").await;
        let lies_here = |number: &i32| stage.partition(*number).is_dir();
        (stage.here, stage.there) = (0..PARTITIONS).partition(lies_here);
        anyhow::ensure!(
            !stage.here.is_empty() && !stage.there.is_empty(),
            "partitions are not spread over the directories"
        );
        Ok(stage)
    }

    fn partition(&self, number: i32) -> PathBuf {
        self.directory.join(format!("{TOPIC}-{number}"))
    }

    /// Has system calls on the first segments of the troubled directory end as `effect` says.
    pub(super) fn inject(&self, system_call: &str, effect: &str) -> anyhow::Result<Injection> {
        let segment = |number: &i32| self.partition(*number).join("00000000000000000000.log");
        let files: Vec<PathBuf> = self.here.iter().map(segment).collect();
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        Injection::begin(self.broker.process_id(), system_call, effect, &files)
    }

    /// Has system calls on any file end as `effect` says.
    pub(super) fn inject_everywhere(
        &self,
        system_call: &str,
        effect: &str,
    ) -> anyhow::Result<Injection> {
        Injection::begin(self.broker.process_id(), system_call, effect, &[])
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        // Where the rig works is of no interest.
        let root = format!("{}/", self.root.path().display());
        self.row.notes.push(note.into().replace(&root, ""));
    }

    pub(super) fn require(&mut self, holds: bool, otherwise: impl Into<String>) {
        if !holds {
            self.row.violations.push(otherwise.into());
        }
    }

    /// Waits until records of each of `partitions` have ended in an error that says one of `texts`.
    pub(super) async fn fail_with(&mut self, partitions: &[i32], texts: &[&str]) {
        let mut waiting = partitions.to_vec();
        let (mut last, deadline) = (String::new(), Instant::now() + PATIENCE);
        while !waiting.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
            waiting.retain(|partition| {
                let Some(error) = self.load.window(*partition).error else {
                    return true;
                };
                let matches = texts.iter().any(|text| error.contains(text));
                last = error;
                !matches
            });
        }
        self.require(
            waiting.is_empty(),
            format!("producers of {waiting:?} heard nothing of {texts:?} but: {last}"),
        );
        self.note(format!("producers hear `{last}`"));
    }

    /// Watches partitions for a while: each must go on, and nothing may fail. Returns the slowest
    /// median time to an acknowledgement.
    pub(super) async fn go_on(&mut self, partitions: &[i32]) -> Duration {
        self.look_away(partitions);
        tokio::time::sleep(WATCHED).await;
        let mut slowest = Duration::ZERO;
        let mut acknowledged = 0;
        for partition in partitions {
            let Window {
                latencies, error, ..
            } = &self.load.window(*partition);
            acknowledged += latencies.len();
            let failed = error.clone().unwrap_or_else(|| "nothing".to_owned());
            self.require(
                !latencies.is_empty() && error.is_none(),
                format!("partition {partition} did not go on, and its producer heard {failed}"),
            );
            let window = Window {
                latencies: latencies.clone(),
                ..Window::default()
            };
            slowest = slowest.max(window.median());
        }
        self.note(format!(
            "the others get {acknowledged} acknowledgements in {} ms",
            WATCHED.as_millis()
        ));
        slowest
    }

    /// The median time to an acknowledgement in each of `partitions` from now on; the quickest.
    pub(super) async fn quickest_median(&mut self, partitions: &[i32], time: Duration) -> Duration {
        self.look_away(partitions);
        tokio::time::sleep(time).await;
        let medians = partitions
            .iter()
            .map(|partition| self.load.window(*partition).median());
        medians.min().unwrap_or_default()
    }

    /// Waits until each partition takes records.
    pub(super) async fn everybody_writes(&mut self, when: &str) {
        let all: Vec<i32> = (0..PARTITIONS).collect();
        self.look_away(&all);
        let (mut waiting, started) = (all, Instant::now());
        while !waiting.is_empty() && started.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(10)).await;
            waiting.retain(|partition| self.load.window(*partition).latencies.is_empty());
        }
        self.require(
            waiting.is_empty(),
            format!("partitions {waiting:?} do not take records {when}"),
        );
    }

    /// Reads the troubled partitions.
    pub(super) async fn reads_go_on(&mut self) -> anyhow::Result<()> {
        let mut found = 0;
        for partition in self.here.clone() {
            let records = read_all(&self.setup.address(), TOPIC, partition).await;
            match records {
                Ok(records) => found += records.len(),
                Err(error) => {
                    self.require(
                        false,
                        format!("partition {partition} is not read: {error:#}"),
                    );
                }
            }
        }
        self.require(found > 0, "nothing can be read");
        self.note(format!("{found} records are read meanwhile"));
        Ok(())
    }

    /// Deletes a topic, which a full disk must allow: it makes room.
    pub(super) async fn deletes_go_on(&mut self) -> anyhow::Result<()> {
        let address = self.setup.address();
        let client = Client::connect(&[&address], ClientOptions::default()).await?;
        if let Err(error) = client.admin().delete_topics(&[SPARE]).await {
            self.require(false, format!("no topic can be deleted: {error}"));
        }
        Ok(())
    }

    /// What a scrape says of whether the troubled directory is online.
    pub(super) fn is_online(&self) -> bool {
        let series = format!(
            "strandline_directory_online{{directory=\"{}\"}} 1",
            self.directory.display()
        );
        let page = self.broker.http("/metrics");
        page.is_some_and(|(_, text)| text.contains(&series))
    }

    pub(super) fn is_ready(&self) -> bool {
        let answer = self.broker.http("/readyz");
        answer.is_some_and(|(status, _)| status == 200)
    }

    /// Makes room on the memory disk.
    pub(super) fn make_room(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(&self.filler)?)
    }

    /// `kill -9`, and a new start on the disks as they are.
    pub(super) async fn kill_and_start(&mut self) -> anyhow::Result<()> {
        self.check_process();
        self.broker.kill_now();
        self.broker = start(&self.setup).await?;
        let ready = self.broker.ready_after().as_millis();
        self.note(format!("killed and ready again in {ready} ms"));
        Ok(())
    }

    /// Forgets what happened before.
    fn look_away(&self, partitions: &[i32]) {
        for partition in partitions {
            let _ = self.load.window(*partition);
        }
    }

    fn check_process(&mut self) {
        let running = self.broker.is_running();
        self.require(running, "the broker has ended");
        let log = self.broker.log();
        let panicked = log.lines().find(|line| line.contains("panicked"));
        if let Some(line) = panicked {
            self.require(false, format!("the broker panicked: {line}"));
        }
    }

    /// Stops the broker, starts it again on sound disks, and looks at everything.
    pub(super) async fn curtain(mut self, name: &str) -> anyhow::Result<Row> {
        self.load.hold().await?;
        self.check_process();
        let next = self.setup.clone();
        let (status, log) = self.broker.stop();
        let panicked = log.contains("panicked");
        self.row.name = name.to_owned();
        if status.code().is_none() || panicked {
            let violation = format!("the broker did not stop in order: {status}\n{log}");
            self.row.violations.push(violation);
        }
        self.broker = start(&next).await?;
        let address = self.setup.address();
        let before = check_all(&address, TOPIC, PARTITIONS, &self.load.history()).await?;
        self.row.violations.extend(before.violations);
        self.load.go_on();
        self.everybody_writes("after the restart").await;
        self.check_process();
        let history = self.load.stop().await?;
        let Checked { found, violations } =
            check_all(&address, TOPIC, PARTITIONS, &history).await?;
        self.row.violations.extend(violations);
        self.row.records = history.counts();
        self.row.found = found;
        let (status, log) = self.broker.stop();
        if !status.success() {
            let violation = format!("the second run did not stop in order: {status}\n{log}");
            self.row.violations.push(violation);
        }
        Ok(self.row)
    }
}

async fn start(setup: &BrokerSetup) -> anyhow::Result<Broker> {
    let setup = setup.clone();
    Ok(tokio::task::spawn_blocking(move || setup.start()).await?)
}
