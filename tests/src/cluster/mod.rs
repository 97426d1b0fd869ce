//! Real brokers that form one cluster on this machine, and what is done to them.
//!
//! **Owns** the processes of a cluster: who they are, who of them is the controller, who is down.
//! `controllers` kills one controller after the other, `members` lets the quorum grow, shrink and
//! lose a disk.

pub mod controllers;
pub mod members;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use strandline_client::{
    Client, ClientOptions,
    protocol::messages::{DescribeClusterResponse, MemberRole},
};

use crate::{Broker, BrokerSetup};

/// How long a cluster may take to come to what is asked of it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One broker of a cluster, up or down.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub id: i32,
    /// How it is started.
    pub setup: BrokerSetup,
    /// The process; none while it is down.
    pub process: Option<Broker>,
}

impl Node {
    /// Starts it, and waits until it is ready.
    ///
    /// # Errors
    /// If the runtime ends.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let setup = self.setup.clone();
        let started = tokio::task::spawn_blocking(move || setup.start());
        self.process = Some(started.await.context("the broker does not start")?);
        Ok(())
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// If it does not end well.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        let stopped = tokio::task::spawn_blocking(move || process.stop());
        let (status, log) = stopped.await.context("the broker does not stop")?;
        anyhow::ensure!(status.success(), "broker {} ended so:\n{log}", self.id);
        Ok(())
    }
}

/// Brokers of one cluster.
#[derive(Debug)]
pub struct Cluster {
    /// By their numbers, from 1 on.
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Founds a cluster of one in `directory`.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn found(directory: &Path) -> anyhow::Result<Self> {
        let mut cluster = Self { nodes: Vec::new() };
        let setup = BrokerSetup::on(&directory.join("1")).with(&["--node-id", "1"]);
        cluster.add(1, setup).await?;
        Ok(cluster)
    }

    /// Starts one more broker, which joins by the addresses of all that are there.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn join(&mut self, directory: &Path) -> anyhow::Result<()> {
        let id = self.nodes.iter().map(|node| node.id).max().unwrap_or(0) + 1;
        let setup = BrokerSetup::on(&directory.join(id.to_string())).with(&[
            "--node-id",
            &id.to_string(),
            "--join",
            &self.addresses().join(","),
        ]);
        self.add(id, setup).await
    }

    /// A cluster of `size` brokers, of which three vote if there are so many.
    ///
    /// # Errors
    /// If it does not come about within [`PATIENCE`].
    pub async fn of(directory: &Path, size: usize) -> anyhow::Result<Self> {
        let mut cluster = Self::found(directory).await?;
        while cluster.nodes.len() < size {
            cluster.join(directory).await?;
        }
        let voters = if size < 3 { 1 } else { 3 };
        cluster.until_voters(voters).await?;
        Ok(cluster)
    }

    async fn add(&mut self, id: i32, setup: BrokerSetup) -> anyhow::Result<()> {
        let mut node = Node {
            id,
            setup,
            process: None,
        };
        node.start().await?;
        self.nodes.push(node);
        Ok(())
    }

    /// Where the brokers are, up or down.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let setups = self.nodes.iter().map(|node| node.setup.address());
        setups.collect()
    }

    /// The broker of that number.
    ///
    /// # Errors
    /// If there is none.
    pub fn node(&mut self, id: i32) -> anyhow::Result<&mut Node> {
        let mut nodes = self.nodes.iter_mut();
        nodes
            .find(|node| node.id == id)
            .with_context(|| format!("there is no broker {id}"))
    }

    /// A client that knows all of them.
    ///
    /// # Errors
    /// If none answers.
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
        let deadline = Instant::now() + PATIENCE;
        loop {
            let described = match self.client().await {
                Ok(client) => client.admin().describe_cluster().await.map_err(Into::into),
                Err(error) => Err(error),
            };
            match described {
                Ok(cluster) if cluster.controller.is_some() && condition(&cluster) => {
                    return Ok(cluster);
                }
                last if Instant::now() > deadline => {
                    anyhow::bail!("{what} did not happen within {PATIENCE:?}: {last:?}")
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Waits until so many brokers vote, and no change is under way.
    ///
    /// # Errors
    /// As [`Cluster::until`].
    pub async fn until_voters(&self, count: usize) -> anyhow::Result<DescribeClusterResponse> {
        let what = format!("a quorum of {count} voters");
        self.until(&what, |cluster| {
            voters(cluster).len() == count && !cluster.voters_changing
        })
        .await
    }

    /// The number of the controller.
    ///
    /// # Errors
    /// As [`Cluster::until`].
    pub async fn controller(&self) -> anyhow::Result<i32> {
        let cluster = self.until("a controller", |_| true).await?;
        Ok(cluster.controller.context("no controller")?.0)
    }
}

/// Who votes.
#[must_use]
pub fn voters(cluster: &DescribeClusterResponse) -> Vec<i32> {
    let members = cluster.members.iter();
    let voters = members.filter(|member| member.role == MemberRole::Voter);
    voters.map(|member| member.broker_id.0).collect()
}
