//! Three broker processes: the controller is killed, or stands still, and changes go on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs
)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use strandline_client::{
    Client, ClientOptions, NewRecord, ProducerOptions, connection::Connection,
};
use strandline_protocol::{
    BrokerId, ErrorClass,
    messages::{
        BrokerState, DescribeClusterRequest, DescribeClusterResponse, MemberRole, NewTopic,
    },
};
use strandline_tests::{Broker, BrokerSetup, wait_until};
use tokio::runtime::Runtime;

/// How long a dead controller is waited for at most: an election, a lease, and a busy machine.
const TAKEOVER: Duration = Duration::from_secs(20);

struct Cluster {
    runtime: Runtime,
    _root: tempfile::TempDir,
    setups: BTreeMap<i32, BrokerSetup>,
    running: BTreeMap<i32, Broker>,
}

impl Cluster {
    fn of_three() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut setups = BTreeMap::new();
        let mut first = None;
        for id in 1..=3 {
            let mut setup = BrokerSetup::on(&root.path().join(id.to_string()))
                .argument("--node-id")
                .argument(&id.to_string());
            match &first {
                None => first = Some(setup.address()),
                Some(first) => setup = setup.argument("--join").argument(first),
            }
            setups.insert(id, setup);
        }
        let since = Instant::now();
        let running = setups
            .iter()
            .map(|(id, setup)| (*id, setup.start()))
            .collect();
        let cluster = Self {
            runtime: Runtime::new().unwrap(),
            _root: root,
            setups,
            running,
        };
        wait_until("three voters and three active brokers", || {
            cluster.describe(1).is_some_and(|response| {
                let mut brokers = response.brokers.iter();
                let voters = response.members.iter();
                let voters = voters.filter(|each| each.role == MemberRole::Voter);
                voters.count() == 3 && brokers.all(|each| each.state == BrokerState::Active)
            })
        });
        println!("three processes form a cluster in {:?}", since.elapsed());
        cluster
    }

    fn describe(&self, id: i32) -> Option<DescribeClusterResponse> {
        let address = self.setups[&id].address();
        self.runtime.block_on(async {
            let connection = Connection::open(&address, &ClientOptions::default())
                .await
                .ok()?;
            let request = DescribeClusterRequest {};
            let answer = connection.request(&request, Vec::new()).await.ok()?;
            Some(answer.0)
        })
    }

    fn controller(&self) -> i32 {
        let mut found = None;
        wait_until("a controller", || {
            let ask = |id: &i32| self.describe(*id)?.controller;
            found = self.running.keys().find_map(ask);
            found.is_some()
        });
        found.unwrap().0
    }

    /// Creates a topic. Where nobody can say whether it is there, it is looked for, and created
    /// again if it is not.
    fn create(&self, through: i32, name: &str) -> Duration {
        let address = self.setups[&through].address();
        let since = Instant::now();
        self.runtime.block_on(async {
            let client = Client::connect(&[&address], ClientOptions::default())
                .await
                .unwrap();
            let topic = NewTopic {
                name: name.to_owned(),
                partitions: Some(3),
                replication_factor: None,
                configs: BTreeMap::new(),
            };
            while let Err(error) = client
                .admin()
                .create_topics(std::slice::from_ref(&topic))
                .await
            {
                assert_eq!(error.class(), ErrorClass::OutcomeUnknown, "{error}");
                println!("after {:?}: {error}", since.elapsed());
                let topics = client.admin().list_topics().await.unwrap();
                if topics.iter().any(|topic| topic.name == name) {
                    break;
                }
            }
        });
        since.elapsed()
    }

    fn names(&self, id: i32) -> Vec<String> {
        let address = self.setups[&id].address();
        self.runtime.block_on(async {
            let client = Client::connect(&[&address], ClientOptions::default())
                .await
                .unwrap();
            let topics = client.admin().list_topics().await.unwrap();
            topics.into_iter().map(|topic| topic.name).collect()
        })
    }

    fn produce(&self, through: i32, topic: &str) {
        let address = self.setups[&through].address();
        self.runtime.block_on(async {
            let client = Client::connect(&[&address], ClientOptions::default())
                .await
                .unwrap();
            let producer = client.producer(ProducerOptions::default()).unwrap();
            for number in 0..9 {
                let key = format!("{number}");
                let record = NewRecord::to(topic).key(key.as_bytes()).value(b"value");
                producer.send(record).await.unwrap().await.unwrap();
            }
            producer.close().await.unwrap();
        });
    }
}

#[test]
fn a_killed_controller_is_replaced_and_comes_back() {
    let mut cluster = Cluster::of_three();
    cluster.create(1, "before");
    cluster.produce(2, "before");
    let killed = cluster.controller();
    cluster.running.remove(&killed).unwrap().kill();
    let others: Vec<i32> = cluster.running.keys().copied().collect();
    let took = cluster.create(others[0], "without");
    println!("changed {took:?} after kill -9 of the controller");
    assert!(took < TAKEOVER, "{took:?}");
    let gone = BrokerId(killed);
    wait_until("the dead broker is fenced", || {
        cluster.describe(others[1]).is_some_and(|response| {
            let broker = response.brokers.iter().find(|broker| broker.id == gone);
            broker.is_some_and(|broker| broker.state == BrokerState::Fenced)
        })
    });
    // Nothing new lies on it.
    cluster.produce(others[1], "without");

    let back = cluster.setups[&killed].start();
    println!("back after {:?}", back.ready_after());
    cluster.running.insert(killed, back);
    assert!(cluster.names(killed).contains(&"without".to_owned()));
    cluster.create(killed, "after");
    // All of them, the partitions of who was away included.
    cluster.produce(others[0], "before");
    for id in [1, 2, 3] {
        wait_until("everybody knows every topic", || {
            cluster.names(id) == ["after", "before", "without"]
        });
    }
}

#[test]
fn a_controller_that_stood_still_steps_back() {
    let cluster = Cluster::of_three();
    let paused = cluster.controller();
    cluster.running[&paused].pause();
    let others: Vec<i32> = cluster
        .running
        .keys()
        .copied()
        .filter(|id| *id != paused)
        .collect();
    let took = cluster.create(others[0], "without");
    println!("changed {took:?} after the controller stood still");
    assert!(took < TAKEOVER, "{took:?}");
    cluster.running[&paused].resume();
    let since = Instant::now();
    wait_until("it knows that another one leads", || {
        let leader = cluster
            .describe(paused)
            .and_then(|response| response.controller);
        leader.is_some_and(|leader| leader != BrokerId(paused))
    });
    println!("it steps back {:?} after it went on", since.elapsed());
    let took = cluster.create(paused, "through-it");
    println!("changed through it {took:?} after it went on");
    assert_ne!(cluster.controller(), paused);
    assert!(cluster.names(others[1]).contains(&"through-it".to_owned()));
    cluster.produce(paused, "through-it");
}
