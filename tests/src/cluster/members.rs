//! A cluster grows from one broker to three, loses a disk, meets a stranger and shrinks back to
//! one, while records are produced.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use strandline_client::protocol::{BrokerId, messages::DescribeClusterResponse};

use super::{Cluster, voters};
use crate::{
    BrokerSetup,
    broker::strandline_binary,
    load::{Load, Plan, check_all, create_topic},
};

const TOPIC: &str = "produced";
const PARTITIONS: i32 = 3;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What was done, and how long it took until the cluster had settled.
    pub steps: Vec<(String, Duration)>,
    /// Records that were acknowledged, of unknown outcome, refused.
    pub records: (usize, usize, usize),
    /// Records that were there in the end.
    pub found: usize,
    /// What the stranger was told.
    pub refusal: String,
    /// Everything that must never happen, and did.
    pub violations: Vec<String>,
}

struct Run<'a> {
    directory: &'a Path,
    cluster: Cluster,
    findings: Findings,
    since: Instant,
}

impl Run<'_> {
    fn done(&mut self, step: &str) {
        let took = self.since.elapsed();
        self.findings.steps.push((step.to_owned(), took));
        self.since = Instant::now();
    }

    fn never(&mut self, violation: Option<String>) {
        self.findings.violations.extend(violation);
    }
}

/// Runs it in `directory`.
///
/// # Errors
/// If the cluster does not come to a step within its time.
pub async fn run(directory: &Path) -> anyhow::Result<Findings> {
    let cluster = Cluster::found(directory).await?;
    let address = cluster.addresses().join(",");
    create_topic(&address, TOPIC, PARTITIONS, &[]).await?;
    let plan = Plan {
        pace: (1, Duration::from_millis(2)),
        ..Plan::one_to_one(TOPIC, PARTITIONS)
    };
    let load = Load::start(&plan, &address).await?;
    let mut run = Run {
        directory,
        cluster,
        findings: Findings::default(),
        since: Instant::now(),
    };
    run.grows().await?;
    run.loses_a_disk().await?;
    run.meets_a_stranger().await?;
    run.shrinks().await?;

    let history = load.stop().await?;
    let checked = check_all(&address, TOPIC, PARTITIONS, &history).await?;
    let mut findings = run.findings;
    findings.violations.extend(checked.violations);
    findings.found = checked.found;
    findings.records = history.counts();
    let (acknowledged, unknown, refused) = findings.records;
    if acknowledged == 0 || unknown + refused > 0 {
        findings.violations.push(format!(
            "{acknowledged} records were acknowledged, {unknown} of unknown outcome, {refused} \
             refused, although their broker was never down"
        ));
    }
    Ok(findings)
}

impl Run<'_> {
    async fn grows(&mut self) -> anyhow::Result<()> {
        self.cluster.join(self.directory).await?;
        let two = self.cluster.until("two brokers", |c| c.brokers.len() == 2);
        let count = voters(&two.await?).len();
        self.never((count != 1).then(|| format!("{count} of two brokers vote")));
        self.done("a second broker joins, and does not vote");
        self.cluster.join(self.directory).await?;
        self.cluster.until_voters(3).await?;
        self.done("a third one joins, and all three vote");
        Ok(())
    }

    async fn loses_a_disk(&mut self) -> anyhow::Result<()> {
        let before = self.cluster.until_voters(3).await?;
        let node = self.cluster.node(2)?;
        node.kill();
        std::fs::remove_dir_all(&node.setup.data).context("its disk cannot be wiped")?;
        node.start().await?;
        let old = raft_id(&before, 2);
        let what = "the wiped broker votes under another Raft id";
        let after = self.cluster.until(what, |cluster| {
            let is_new = raft_id(cluster, 2).is_some_and(|id| Some(id) != old);
            is_new && voters(cluster).len() == 3 && !cluster.voters_changing
        });
        let members = after.await?.members.len();
        self.never((members != 3).then(|| format!("{members} members, three brokers")));
        self.done("a voter is killed, its disk wiped, and it votes again as another member");
        Ok(())
    }

    /// Starts a disk of another cluster as if it belonged to this one.
    async fn meets_a_stranger(&mut self) -> anyhow::Result<()> {
        let other = self.directory.join("other");
        let setup = BrokerSetup::on(&other).with(&["--node-id", "2"]);
        let started = tokio::task::spawn_blocking(move || drop(setup.start().stop()));
        started.await?;
        let node = self.cluster.node(2)?;
        node.stop().await?;
        let mut stranger = Command::new(strandline_binary());
        stranger
            .arg("server")
            .arg("--data")
            .arg(&other)
            .args(["--listen", &node.setup.address(), "--http", "off"])
            .args(&node.setup.arguments)
            .stderr(Stdio::piped());
        let mut child = stranger.spawn()?;
        let deadline = Instant::now() + super::PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                anyhow::bail!("a disk of another cluster is let in, or waits for ever");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let output = child.wait_with_output()?;
        self.findings.refusal = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let refusal = self.findings.refusal.clone();
        let is_refused = !output.status.success() && refusal.contains("cluster");
        self.never((!is_refused).then(|| {
            format!(
                "a disk of another cluster ended with {}: {refusal}",
                output.status
            )
        }));
        self.cluster.node(2)?.start().await?;
        self.cluster.until_voters(3).await?;
        self.done("a disk of another cluster is refused, and the right one comes back");
        Ok(())
    }

    async fn shrinks(&mut self) -> anyhow::Result<()> {
        let admin = self.cluster.client().await?.admin();
        admin
            .change_voters(&[], &[BrokerId(2), BrokerId(3)])
            .await?;
        let one = self.cluster.until_voters(1).await?;
        let alone = voters(&one) == [1];
        self.never((!alone).then(|| "broker 1 does not vote alone".to_owned()));
        for id in [2, 3] {
            self.cluster.node(id)?.stop().await?;
        }
        create_topic(&self.cluster.nodes[0].setup.address(), "after", 1, &[]).await?;
        self.done("two voters leave at once, stop, and the one that is left goes on");
        Ok(())
    }
}

fn raft_id(cluster: &DescribeClusterResponse, broker: i32) -> Option<u64> {
    let mut members = cluster.members.iter();
    let member = members.find(|member| member.broker_id.0 == broker);
    member.map(|member| member.raft_id)
}
