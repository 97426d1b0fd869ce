//! Three brokers, and what the tests do with them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use strandline_broker::{
    server::Server,
    settings::{Inputs, Settings},
};
use strandline_client::{Client, ClientOptions, connection::Connection};
use strandline_core::metadata::Partition;
use strandline_protocol::{
    BrokerId, Offset, PartitionId, TopicId,
    messages::{
        CreateTopicsRequest, DescribeReplicasRequest, DescribedReplicas, NewTopic, PartitionName,
    },
};
use strandline_storage::fs::{CacheLimits, FileSystem, mapped::MappedFileSystem};
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(60);

fn settings(data: &Path, id: usize, join: &[String], more: &[(&str, &str)]) -> Settings {
    let mut inputs = Inputs::default();
    inputs.flag("data", [data.to_str().unwrap()]);
    inputs.flag("node_id", [id.to_string()]);
    for (key, value) in [
        ("listen", "127.0.0.1:0"),
        ("http", "off"),
        ("shutdown_timeout", "5s"),
        ("replication.lag_max", "2s"),
    ] {
        inputs.flag(key, [value]);
    }
    for (key, value) in more {
        inputs.flag(key, [*value]);
    }
    if !join.is_empty() {
        inputs.flag("join", join.to_vec());
    }
    Settings::resolve(&inputs).unwrap()
}

/// Brokers by their numbers, each with a data directory of its own.
pub struct Cluster {
    root: tempfile::TempDir,
    pub brokers: BTreeMap<usize, Server>,
}

impl Cluster {
    pub async fn of_three() -> Self {
        Self::of_two_and(Arc::new(MappedFileSystem::new(CacheLimits::default()))).await
    }

    /// Three, the last of which has this disk.
    pub async fn of_two_and(files: Arc<dyn FileSystem>) -> Self {
        Self::of_three_on(3, files).await
    }

    /// Three, one of which has this disk; the first one founds the cluster.
    pub async fn of_three_on(id: usize, files: Arc<dyn FileSystem>) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter("warn,strandline_broker=info")
            .with_test_writer()
            .try_init();
        let mut cluster = Self {
            root: tempfile::tempdir().unwrap(),
            brokers: BTreeMap::new(),
        };
        for each in 1..=3 {
            if each == id {
                cluster.start_on(each, Arc::clone(&files)).await;
            } else {
                cluster.start(each).await;
            }
        }
        for server in cluster.brokers.values() {
            until("all take part", async || {
                let image = server.image();
                let active = image.brokers().filter(|broker| {
                    broker.state == strandline_core::metadata::BrokerState::Active
                });
                active.count() == 3
            })
            .await;
        }
        cluster
    }

    pub fn data(&self, id: usize) -> PathBuf {
        self.root.path().join(id.to_string())
    }

    /// Starts a broker that finds those that run.
    pub async fn start(&mut self, id: usize) {
        let files = Arc::new(MappedFileSystem::new(CacheLimits::default()));
        self.start_on(id, files).await;
    }

    /// The same, on another disk.
    pub async fn start_on(&mut self, id: usize, files: Arc<dyn FileSystem>) {
        let join: Vec<String> = self
            .brokers
            .values()
            .map(|server| server.native_addr().to_string())
            .collect();
        let rack = format!("rack-{id}");
        let more = [("rack", rack.as_str())];
        let started = Server::start_on(settings(&self.data(id), id, &join, &more), files);
        let server = timeout(PATIENCE, started).await.expect("in time").unwrap();
        server.recovered().await;
        self.brokers.insert(id, server);
    }

    /// Stops a broker in order.
    pub async fn stop(&mut self, id: usize) {
        let server = self.brokers.remove(&id).unwrap();
        server.shutdown().await.unwrap();
    }

    /// A broker is gone at once, as a killed process is.
    pub fn kill(&mut self, id: usize) {
        drop(self.brokers.remove(&id).unwrap());
    }

    pub async fn stop_all(&mut self) {
        let all: Vec<usize> = self.brokers.keys().copied().collect();
        let stopping = all.into_iter().map(|id| self.brokers.remove(&id).unwrap());
        let stopping: Vec<_> = stopping
            .map(|server| tokio::spawn(async { server.shutdown().await.unwrap() }))
            .collect();
        for each in stopping {
            timeout(PATIENCE, each).await.expect("in time").unwrap();
        }
    }

    pub async fn connect(&self, id: usize) -> Connection {
        let address = self.brokers[&id].native_addr().to_string();
        Connection::open(&address, &ClientOptions::default())
            .await
            .unwrap()
    }

    pub async fn client(&self) -> Client {
        let addresses: Vec<String> = self
            .brokers
            .values()
            .map(|server| server.native_addr().to_string())
            .collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        Client::connect(&addresses, ClientOptions::default())
            .await
            .unwrap()
    }

    /// Creates a topic of one partition on all three.
    pub async fn create(&self, name: &str, configs: &[(&str, &str)]) {
        self.create_on(name, 3, configs).await;
    }

    /// The same, on so many.
    pub async fn create_on(&self, name: &str, replicas: i16, configs: &[(&str, &str)]) {
        let id = *self.brokers.keys().next().unwrap();
        let connection = self.connect(id).await;
        let configs = configs.iter();
        let topic = NewTopic {
            name: name.into(),
            partitions: Some(1),
            replication_factor: Some(replicas),
            configs: configs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        };
        let request = CreateTopicsRequest {
            topics: vec![topic],
            validate_only: false,
        };
        let (response, _) = connection.request(&request, Vec::new()).await.unwrap();
        response.topics[0].failure.clone().into_result().unwrap();
    }

    /// What the metadata of one broker says of the partition.
    pub fn placed(&self, id: usize, topic: &str) -> Partition {
        let image = self.brokers[&id].image();
        let topic = image.topic(topic).expect("the topic is there");
        topic.partition(PartitionId(0)).unwrap().as_ref().clone()
    }

    pub fn topic_id(&self, topic: &str) -> TopicId {
        let image = self.brokers.values().next().unwrap().image();
        image.topic(topic).unwrap().id
    }

    /// Who leads, as every broker that runs has heard.
    pub async fn leader(&self, topic: &str) -> usize {
        let found = std::cell::Cell::new(0);
        until("everybody knows one leader, which runs", async || {
            let leaders: Vec<Option<BrokerId>> = self
                .brokers
                .keys()
                .filter(|id| self.brokers[id].image().topic(topic).is_some())
                .map(|id| self.placed(*id, topic).leader)
                .collect();
            let Some(Some(leader)) = leaders.first().copied() else {
                return false;
            };
            let id = usize::try_from(leader.0).unwrap();
            found.set(id);
            leaders.len() == self.brokers.len()
                && leaders.iter().all(|it| *it == Some(leader))
                && self.brokers.contains_key(&id)
        })
        .await;
        found.get()
    }

    /// Waits until so many are in sync, as every broker that runs knows.
    pub async fn in_sync(&self, topic: &str, count: usize) {
        until("as many are in sync", async || {
            self.brokers
                .keys()
                .all(|id| self.placed(*id, topic).isr.len() == count)
        })
        .await;
    }

    /// What the leader knows of its followers.
    pub async fn describe(&self, topic: &str) -> DescribedReplicas {
        let leader = self.leader(topic).await;
        let connection = self.connect(leader).await;
        let request = DescribeReplicasRequest {
            partitions: vec![PartitionName {
                topic_id: self.topic_id(topic),
                partition: PartitionId(0),
            }],
        };
        let (mut response, _) = connection.request(&request, Vec::new()).await.unwrap();
        response.partitions.remove(0)
    }

    /// The batches of a partition as they lie on the disk of a broker that has stopped: base
    /// offset, leader epoch, and all bytes.
    pub fn batches(&self, id: usize, topic: &str) -> Vec<(i64, i32, Vec<u8>)> {
        let directory = self.data(id).join(format!("{topic}-0"));
        let mut segments: Vec<PathBuf> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|it| it == "log"))
            .collect();
        segments.sort();
        let mut batches = Vec::new();
        for segment in segments {
            let bytes = std::fs::read(segment).unwrap();
            let mut rest = bytes.as_slice();
            while rest.len() > 16 {
                let base = i64::from_be_bytes(rest[..8].try_into().unwrap());
                let length = i32::from_be_bytes(rest[8..12].try_into().unwrap());
                let epoch = i32::from_be_bytes(rest[12..16].try_into().unwrap());
                if length <= 0 {
                    break;
                }
                let end = rest.len().min(12 + usize::try_from(length).unwrap());
                let (batch, behind) = rest.split_at(end);
                batches.push((base, epoch, batch.to_vec()));
                rest = behind;
            }
        }
        batches
    }
}

pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until every replica has all, and the high watermark is at its end.
pub async fn caught_up(cluster: &Cluster, topic: &str) -> Offset {
    let end = std::cell::Cell::new(Offset(-1));
    until("every replica has all", async || {
        let described = cluster.describe(topic).await;
        end.set(described.log_end_offset);
        let has_all = |offset: Option<Offset>| offset == Some(described.log_end_offset);
        described.failure.error.is_none()
            && described.high_watermark == described.log_end_offset
            && described.replicas.len() == 3
            && described
                .replicas
                .iter()
                .all(|it| has_all(it.log_end_offset) && has_all(it.durable_offset))
    })
    .await;
    end.get()
}
