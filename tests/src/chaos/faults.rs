//! What is done to a cluster, and how it is taken back.
//!
//! A fault holds from [`Faults::begin`] until [`Faults::heal`], which takes back all of them: the
//! network is whole, nobody is paused, disks have room and work, every broker runs and is ready.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use super::{node::Disk, proxy::Party, stage::Stage};
use crate::random::Random;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The leader of some partition is killed.
    KillLeader,
    /// The controller is killed.
    KillController,
    /// Two brokers are killed at once.
    KillTwo,
    /// All are killed at once.
    KillAll,
    /// Some broker is killed, and starts again at once.
    Bounce,
    /// A broker is stopped in order.
    Stop,
    /// The leader of some partition stands still, and goes on later.
    PauseLeader,
    /// The controller stands still.
    PauseController,
    /// A broker is cut off from the others, not from clients.
    Isolate,
    /// A broker is cut off from everybody.
    IsolateWholly,
    /// A broker hears nothing of the others.
    Deaf,
    /// A broker is heard by none of the others.
    Mute,
    /// Two halves of the cluster do not hear of each other.
    Halves,
    /// Two brokers do not hear of each other.
    Link,
    /// Clients do not reach a broker.
    NoClients,
    /// Whatever a broker sends and is sent takes long.
    Slow,
    /// The connections of a broker are reset, several times.
    Reset,
    /// The disk of a broker is full.
    FullDisk,
    /// Syncs of a broker's files fail.
    SyncFails,
    /// Syncs of a broker's files take long.
    SlowSync,
}

/// Every kind, its name, and how often it is drawn among the others.
pub const KINDS: &[(Kind, &str, u64)] = &[
    (Kind::KillLeader, "kill-leader", 4),
    (Kind::KillController, "kill-controller", 2),
    (Kind::KillTwo, "kill-two", 2),
    (Kind::KillAll, "kill-all", 1),
    (Kind::Bounce, "bounce", 2),
    (Kind::Stop, "stop", 2),
    (Kind::PauseLeader, "pause-leader", 3),
    (Kind::PauseController, "pause-controller", 2),
    (Kind::Isolate, "isolate", 3),
    (Kind::IsolateWholly, "isolate-wholly", 2),
    (Kind::Deaf, "deaf", 2),
    (Kind::Mute, "mute", 2),
    (Kind::Halves, "halves", 2),
    (Kind::Link, "link", 2),
    (Kind::NoClients, "no-clients", 1),
    (Kind::Slow, "slow", 1),
    (Kind::Reset, "reset", 2),
    (Kind::FullDisk, "full-disk", 2),
    (Kind::SyncFails, "sync-fails", 1),
    (Kind::SlowSync, "slow-sync", 1),
];

impl Kind {
    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let row = KINDS.iter().find(|(_, known, _)| *known == name);
        row.map(|(kind, ..)| *kind)
    }

    /// Whether it needs root.
    #[must_use]
    pub const fn needs_root(self) -> bool {
        matches!(self, Self::FullDisk | Self::SyncFails | Self::SlowSync)
    }

    /// One of `kinds`.
    pub fn draw(kinds: &[Self], random: &mut Random) -> Option<Self> {
        let rows: Vec<_> = KINDS.iter().filter(|row| kinds.contains(&row.0)).collect();
        let all: u64 = rows.iter().map(|(.., weight)| weight).sum();
        let mut drawn = random.below(all.max(1));
        for (kind, _, weight) in rows {
            match drawn.checked_sub(*weight) {
                Some(rest) => drawn = rest,
                None => return Some(*kind),
            }
        }
        None
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = KINDS.iter().find(|(kind, ..)| kind == self);
        f.pad(row.map_or("?", |(_, name, _)| name))
    }
}

/// Between what a slow broker sends and its arrival, in ms.
const SLOW_MS: std::ops::Range<u64> = 20..200;

/// How much room is left on a full disk, in bytes.
const ROOM_LEFT: u64 = 64 << 10;

/// How large a disk in memory is again, in MiB.
const ROOM_MEBIBYTES: u64 = 4_096;

/// What is wrong with a cluster now, and what has been.
#[derive(Debug, Default)]
pub struct Faults {
    paused: BTreeSet<i32>,
    failing: BTreeSet<i32>,
    /// How often each kind was inflicted.
    pub counts: BTreeMap<Kind, u64>,
    /// What must never happen, and did: brokers that ended by themselves or do not come back.
    pub violations: Vec<String>,
}

impl Faults {
    /// Inflicts `kind` on a broker that suits, or several; returns on whom. None if nobody suits.
    ///
    /// # Errors
    /// If the rig itself does not work.
    pub async fn begin(
        &mut self,
        kind: Kind,
        stage: &mut Stage,
        random: &mut Random,
        topic: &str,
    ) -> anyhow::Result<Option<Vec<i32>>> {
        let Some(target) = self.target(kind, stage, random, topic).await else {
            return Ok(None);
        };
        let others: Vec<i32> = ids(stage).into_iter().filter(|id| *id != target).collect();
        let mut hit = vec![target];
        match kind {
            Kind::KillLeader | Kind::KillController => stage.node(target)?.kill().await?,
            Kind::KillTwo => {
                hit.extend(pick(&others, random));
                for id in &hit {
                    stage.node(*id)?.kill().await?;
                }
            }
            Kind::KillAll => {
                hit = ids(stage);
                for node in &mut stage.nodes {
                    node.kill().await?;
                }
            }
            Kind::Bounce => {
                stage.node(target)?.kill().await?;
                stage.node(target)?.spawn()?;
            }
            Kind::Stop => {
                if let Err(error) = stage.node(target)?.stop().await {
                    self.violations.push(format!("{error:#}"));
                }
            }
            Kind::PauseLeader | Kind::PauseController => {
                stage.node(target)?.pause().await;
                self.paused.insert(target);
            }
            Kind::FullDisk => {
                if let Disk::Memory(disk) = &stage.node(target)?.disk {
                    disk.leave(ROOM_LEFT)?;
                }
            }
            Kind::SyncFails => {
                let node = stage.node(target)?;
                node.inject("fdatasync,fsync", "error=EIO").await?;
                self.failing.insert(target);
            }
            Kind::SlowSync => {
                let node = stage.node(target)?;
                node.inject("fdatasync,fsync", "delay_enter=50ms").await?;
            }
            _ => hit = hurt_network(kind, stage, random, target, &others).await,
        }
        *self.counts.entry(kind).or_default() += 1;
        Ok(Some(hit))
    }

    /// Whom a fault of that kind is for.
    async fn target(
        &self,
        kind: Kind,
        stage: &Stage,
        random: &mut Random,
        topic: &str,
    ) -> Option<i32> {
        let up = |id: &i32| {
            let node = stage.nodes.iter().find(|node| node.id == *id);
            node.is_some_and(|node| node.process.is_some()) && !self.paused.contains(id)
        };
        let fitting: Vec<i32> = ids(stage).into_iter().filter(up).collect();
        let any = pick(&fitting, random);
        let patience = Duration::from_secs(3);
        match kind {
            Kind::KillLeader | Kind::PauseLeader => {
                let described = tokio::time::timeout(patience, stage.describe(topic)).await;
                let topic = described.ok()?.ok();
                let partitions = topic.map(|topic| topic.partitions).unwrap_or_default();
                let leaders: Vec<i32> = partitions
                    .iter()
                    .filter_map(|partition| Some(partition.leader?.0))
                    .filter(up)
                    .collect();
                pick(&leaders, random).or(any)
            }
            Kind::KillController | Kind::PauseController => {
                let controller = tokio::time::timeout(patience, stage.controller()).await;
                controller.ok().and_then(Result::ok).filter(up).or(any)
            }
            Kind::FullDisk => {
                let nodes = stage.nodes.iter();
                let in_memory = nodes.filter(|node| matches!(node.disk, Disk::Memory(_)));
                let in_memory: Vec<i32> = in_memory.map(|node| node.id).collect();
                pick(&in_memory, random)
            }
            _ => any,
        }
    }

    /// Takes everything back, and waits until every broker is ready.
    ///
    /// # Errors
    /// If the rig itself does not work.
    pub async fn heal(&mut self, stage: &mut Stage) -> anyhow::Result<()> {
        stage.network.heal();
        for node in &mut stage.nodes {
            if let Disk::Memory(disk) = &node.disk {
                disk.grow(ROOM_MEBIBYTES)?;
            }
            if self.paused.remove(&node.id) {
                node.resume();
            }
            node.end_injection();
            let ended = node.process.as_mut().is_some_and(|it| !it.is_running());
            let failed = self.failing.remove(&node.id);
            if ended && !failed {
                self.violations
                    .push(format!("broker {} ended by itself", node.id));
            }
            if ended || failed {
                // A disk that failed is not used again by the same process.
                node.kill().await?;
            }
            node.spawn()?;
        }
        for node in &mut stage.nodes {
            if let Err(error) = node.until_ready().await {
                self.violations.push(format!("{error:#}"));
                node.kill().await?;
                node.spawn()?;
            }
        }
        Ok(())
    }
}

fn ids(stage: &Stage) -> Vec<i32> {
    stage.nodes.iter().map(|node| node.id).collect()
}

fn pick(among: &[i32], random: &mut Random) -> Option<i32> {
    if among.is_empty() {
        return None;
    }
    among.get(random.index(among.len())).copied()
}

/// Hurts the network around `target`; returns whose connections are concerned.
async fn hurt_network(
    kind: Kind,
    stage: &Stage,
    random: &mut Random,
    target: i32,
    others: &[i32],
) -> Vec<i32> {
    let network = &stage.network;
    let here = Party::Broker(target);
    match kind {
        Kind::Link => {
            let other = pick(others, random).unwrap_or(target);
            network.cut_both(here, Party::Broker(other));
            return vec![target, other];
        }
        Kind::Halves => {
            let mut half = vec![target];
            half.extend(others.iter().filter(|id| **id % 2 == target % 2));
            let rest: Vec<i32> = others
                .iter()
                .filter(|id| !half.contains(id))
                .copied()
                .collect();
            for one in &half {
                for other in &rest {
                    network.cut_both(Party::Broker(*one), Party::Broker(*other));
                }
            }
            return half;
        }
        Kind::NoClients => network.cut_both(here, Party::Client),
        Kind::IsolateWholly => network.cut_both(here, Party::Client),
        Kind::Reset => {
            for _ in 0..5 {
                for other in others {
                    network.reset(here, Party::Broker(*other));
                }
                network.reset(here, Party::Client);
                tokio::time::sleep(random.ms(50..500)).await;
            }
        }
        _ => {}
    }
    for other in others {
        let other = Party::Broker(*other);
        match kind {
            Kind::Isolate | Kind::IsolateWholly => network.cut_both(here, other),
            Kind::Deaf => network.cut(other, here),
            Kind::Mute => network.cut(here, other),
            Kind::Slow => {
                network.delay(here, other, random.ms(SLOW_MS));
                network.delay(other, here, random.ms(SLOW_MS));
            }
            _ => {}
        }
    }
    vec![target]
}
