//! A cluster of real brokers behind proxies, and what can be done to each of them.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use strandline_client::{
    Client, ClientOptions, TopicDescription,
    protocol::{
        PartitionId,
        messages::{DescribeClusterResponse, Election, NewTopic},
    },
};

use super::{
    node::{Disk, Node},
    proxy::{Network, Proxy},
};
use crate::{
    BrokerSetup,
    broker::{kept_port, strandline_binary},
    cluster::voters,
    mounts::{LoopDisk, MemoryDisk},
};

/// How long a cluster may take to come to what is asked of it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How large a memory disk is, in MiB.
const MEMORY_MEBIBYTES: u64 = 4_096;

/// How a cluster is set up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many brokers.
    pub brokers: usize,
    /// What their data lies on.
    pub disks: Disks,
    /// Further arguments of `strandline server`, for all.
    pub arguments: Vec<String>,
}

/// What the data of brokers lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disks {
    /// The directory of the rig.
    Plain,
    /// As many, from the last broker back, on a disk in memory each, which can be full; the others
    /// as [`Disks::Plain`]. Needs root.
    InMemory(usize),
    /// Each on a file system of its own in a file, of so many MiB, which can lose its power. Needs
    /// root.
    Images(u64),
}

/// A cluster and the network between its brokers.
#[derive(Debug)]
pub struct Stage {
    /// The network.
    pub network: Network,
    /// The brokers, by their numbers from 1 on.
    pub nodes: Vec<Node>,
}

impl Stage {
    /// Starts the brokers one after the other in `directory`, and waits until three of them vote.
    ///
    /// # Errors
    /// If that does not come about.
    pub async fn set(directory: &Path, plan: &Plan) -> anyhow::Result<Self> {
        let _built_once = strandline_binary();
        let mut stage = Self {
            network: Network::default(),
            nodes: Vec::new(),
        };
        for id in 1..=i32::try_from(plan.brokers)? {
            let place = directory.join(format!("broker-{id}"));
            let disk = match plan.disks {
                Disks::Images(mebibytes) => {
                    let image = directory.join(format!("disk-{id}"));
                    Disk::Image(LoopDisk::create(&image, mebibytes, &place)?)
                }
                Disks::InMemory(last) if usize::try_from(id)? + last > plan.brokers => {
                    Disk::Memory(MemoryDisk::mount(MEMORY_MEBIBYTES, &place)?)
                }
                _ => Disk::Plain,
            };
            stage
                .add(id, &place, disk, directory, &plan.arguments)
                .await?;
        }
        let count = if plan.brokers < 3 { 1 } else { 3 };
        stage
            .until(&format!("a quorum of {count} voters"), |cluster| {
                voters(cluster).len() == count && !cluster.voters_changing
            })
            .await?;
        Ok(stage)
    }

    async fn add(
        &mut self,
        id: i32,
        place: &Path,
        disk: Disk,
        directory: &Path,
        arguments: &[String],
    ) -> anyhow::Result<()> {
        let port = kept_port();
        let proxy = Proxy::new(&self.network, id, port);
        let mut setup = BrokerSetup {
            data: place.join("data"),
            port,
            http_port: kept_port(),
            arguments: arguments.to_vec(),
        };
        let rack = rack(id);
        setup = setup.with(&["--node-id", &id.to_string()]);
        setup = setup.with(&["--advertise", &proxy.address(), "--rack", &rack]);
        if !self.nodes.is_empty() {
            setup = setup.with(&["--join", &self.addresses().join(",")]);
        }
        let mut node = Node {
            id,
            setup,
            process: None,
            proxy,
            disk,
            place: place.to_path_buf(),
            injection: None,
            log: directory.join(format!("broker-{id}.log")),
        };
        node.spawn()?;
        node.until_ready().await?;
        self.nodes.push(node);
        Ok(())
    }

    /// Where clients find the brokers: at their proxies.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.proxy.address()).collect()
    }

    /// The broker of that number.
    ///
    /// # Errors
    /// If there is none.
    pub fn node(&mut self, id: i32) -> anyhow::Result<&mut Node> {
        let mut nodes = self.nodes.iter_mut();
        let node = nodes.find(|node| node.id == id);
        node.with_context(|| format!("there is no broker {id}"))
    }

    /// A client with little patience, for looking.
    ///
    /// # Errors
    /// If no broker answers.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let options = ClientOptions {
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
            backoff_max: Duration::from_millis(50),
            ..ClientOptions::default()
        };
        Ok(Client::connect(&self.addresses(), options).await?)
    }

    /// The cluster as its controller describes it, as soon as `condition` holds of that.
    ///
    /// # Errors
    /// If it does not within [`PATIENCE`]; `what` says what was waited for.
    pub async fn until(
        &self,
        what: &str,
        condition: impl Fn(&DescribeClusterResponse) -> bool,
    ) -> anyhow::Result<DescribeClusterResponse> {
        let look = || async {
            let cluster = self.client().await?.admin().describe_cluster().await?;
            let holds = cluster.controller.is_some() && condition(&cluster);
            anyhow::ensure!(holds, "{cluster:?}");
            Ok(cluster)
        };
        patiently(what, look).await
    }

    /// Waits until every partition of `topic` has all of its replicas in sync, and a leader.
    ///
    /// # Errors
    /// If it does not come about within [`PATIENCE`].
    pub async fn until_in_sync(&self, topic: &str) -> anyhow::Result<TopicDescription> {
        let look = || async {
            let described = self.describe(topic).await?;
            let behind = described.partitions.iter().find(|partition| {
                partition.leader.is_none() || partition.isr.len() < partition.replicas.len()
            });
            anyhow::ensure!(behind.is_none(), "{behind:?}");
            Ok(described)
        };
        patiently("every replica in sync", look).await
    }

    /// What there is to know of a topic.
    ///
    /// # Errors
    /// If no broker answers.
    pub async fn describe(&self, topic: &str) -> anyhow::Result<TopicDescription> {
        let described = self
            .client()
            .await?
            .admin()
            .describe_topics(&[topic])
            .await?;
        described
            .into_iter()
            .next()
            .context("the topic is not there")
    }

    /// Has the first of each partition's replicas lead it again, as far as these are in sync.
    ///
    /// # Errors
    /// If no broker answers.
    pub async fn elect_preferred(&self, topic: &str) -> anyhow::Result<()> {
        let admin = self.client().await?.admin();
        let count = i32::try_from(self.describe(topic).await?.partitions.len())?;
        let all: Vec<PartitionId> = (0..count).map(PartitionId).collect();
        admin
            .elect_leaders(topic, &all, Election::Preferred)
            .await?;
        Ok(())
    }

    /// The number of the controller.
    ///
    /// # Errors
    /// As [`Stage::until`].
    pub async fn controller(&self) -> anyhow::Result<i32> {
        let cluster = self.until("a controller", |_| true).await?;
        Ok(cluster.controller.context("no controller")?.0)
    }

    /// Creates a topic, and waits until its replicas are in sync.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn create_topic(
        &self,
        topic: &str,
        partitions: i32,
        factor: i16,
        configs: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let new = NewTopic {
            name: topic.to_owned(),
            partitions: Some(partitions),
            replication_factor: Some(factor),
            configs: configs.iter().map(pair).collect(),
        };
        let created = self.client().await?.admin().create_topics(&[new]).await;
        created.with_context(|| format!("topic {topic} cannot be created"))?;
        self.until_in_sync(topic).await?;
        Ok(())
    }

    /// Starts every broker that is down, and waits until all are ready.
    ///
    /// # Errors
    /// As [`Node::until_ready`].
    pub async fn start_all(&mut self) -> anyhow::Result<Duration> {
        for node in &mut self.nodes {
            node.spawn()?;
        }
        let mut longest = Duration::ZERO;
        for node in &mut self.nodes {
            longest = longest.max(node.until_ready().await?);
        }
        Ok(longest)
    }

    /// Stops every broker in order, all at once.
    ///
    /// # Errors
    /// As [`Node::stop`].
    pub async fn stop_all(&mut self) -> anyhow::Result<()> {
        // One after the other: each hands over what it leads, the last one has nobody left.
        for node in &mut self.nodes {
            node.stop().await?;
        }
        Ok(())
    }

    /// What any broker has panicked with.
    #[must_use]
    pub fn panics(&self) -> Vec<String> {
        self.nodes.iter().filter_map(Node::panic).collect()
    }
}

/// Where a broker stands.
#[must_use]
pub fn rack(broker: i32) -> String {
    format!("rack-{}", broker % 3)
}

/// Looks until there is something to be seen.
///
/// # Errors
/// What the last look said, if there is nothing within [`PATIENCE`].
pub async fn patiently<T, F: Future<Output = anyhow::Result<T>>>(
    what: &str,
    look: impl Fn() -> F,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(seen) => return Ok(seen),
            Err(last) if Instant::now() > deadline => {
                return Err(last.context(format!("{what}: not within {PATIENCE:?}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
