//! Three whole brokers in this process, on free ports of the loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod proxy;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use strandline_broker::{
    server::Server,
    settings::{Inputs, Settings},
};
use strandline_client::{Client, ClientOptions, connection::Connection};
use strandline_protocol::{
    BrokerId, ClusterId, ErrorCode,
    messages::{
        BrokerState, ChangeVotersRequest, CreateTopicsRequest, DescribeClusterRequest,
        DescribeClusterResponse, MetadataRequest, NewTopic, Peer, Purpose,
    },
};
use tokio::{
    net::TcpSocket,
    time::{Instant, sleep, timeout},
};

/// How long anything may take, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

fn settings(data: &Path, id: usize, join: &[String], more: &[(&str, &str)]) -> Settings {
    let mut inputs = Inputs::default();
    inputs.flag("data", [data.to_str().unwrap()]);
    inputs.flag("node_id", [id.to_string()]);
    for (key, value) in [
        ("listen", "127.0.0.1:0"),
        ("http", "off"),
        ("shutdown_timeout", "5s"),
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
struct Cluster {
    root: tempfile::TempDir,
    brokers: BTreeMap<usize, Server>,
}

impl Cluster {
    async fn of_three() -> Self {
        let mut cluster = Self {
            root: tempfile::tempdir().unwrap(),
            brokers: BTreeMap::new(),
        };
        let since = Instant::now();
        cluster.start(1, &[]).await;
        let first = vec![cluster.address(1)];
        cluster.start(2, &first).await;
        cluster.start(3, &first).await;
        for id in [1, 2, 3] {
            let server = &cluster.brokers[&id];
            until("three vote", async || voters(server) == 3).await;
        }
        println!("three voters after {:?}", since.elapsed());
        cluster
    }

    fn data(&self, id: usize) -> PathBuf {
        self.root.path().join(id.to_string())
    }

    async fn start(&mut self, id: usize, join: &[String]) {
        self.start_with(id, join, &[]).await;
    }

    async fn start_with(&mut self, id: usize, join: &[String], more: &[(&str, &str)]) {
        let started = Server::start(settings(&self.data(id), id, join, more));
        let server = timeout(PATIENCE, started).await.expect("in time").unwrap();
        server.recovered().await;
        self.brokers.insert(id, server);
    }

    fn address(&self, id: usize) -> String {
        self.brokers[&id].native_addr().to_string()
    }

    async fn connect(&self, id: usize) -> Connection {
        let address = self.address(id);
        Connection::open(&address, &ClientOptions::default())
            .await
            .unwrap()
    }

    /// Creates a topic through one broker; it is there when that answers.
    async fn create(&self, id: usize, name: &str) -> Result<(), ErrorCode> {
        let connection = self.connect(id).await;
        let topic = NewTopic {
            name: name.into(),
            partitions: Some(2),
            replication_factor: None,
            configs: BTreeMap::new(),
        };
        let request = CreateTopicsRequest {
            topics: vec![topic],
            validate_only: false,
        };
        let (response, payload) = connection.request(&request, Vec::new()).await.unwrap();
        assert!(payload.is_empty(), "a client is told no version");
        let failure = response.topics[0].failure.clone();
        failure.into_result().map_err(|failure| failure.error)?;
        assert!(topics(&connection).await.contains(&name.to_owned()));
        Ok(())
    }

    async fn all_see(&self, name: &str) {
        for id in self.brokers.keys() {
            let connection = self.connect(*id).await;
            until("every broker sees the topic", async || {
                topics(&connection).await.contains(&name.to_owned())
            })
            .await;
        }
    }

    /// Which of them is the controller.
    async fn controller(&self) -> usize {
        let found = std::cell::Cell::new(None);
        until("there is a controller", async || {
            let leads = |(_, server): &(&usize, &Server)| server.is_controller();
            found.set(self.brokers.iter().find(leads).map(|(id, _)| *id));
            found.get().is_some()
        })
        .await;
        found.get().unwrap()
    }
}

fn voters(server: &Server) -> usize {
    let image = server.image();
    let settled = image
        .membership()
        .filter(|known| known.voters_before.is_empty());
    settled.map_or(0, |known| known.voters.len())
}

async fn topics(connection: &Connection) -> Vec<String> {
    let request = MetadataRequest {
        topics: None,
        cursor: None,
    };
    let (page, _) = connection.request(&request, Vec::new()).await.unwrap();
    page.topics.into_iter().map(|topic| topic.name).collect()
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_form_a_cluster_and_a_topic_created_through_any_is_seen_by_all() {
    let cluster = Cluster::of_three().await;
    for id in [1, 2, 3] {
        let name = format!("through-{id}");
        let since = Instant::now();
        cluster.create(id, &name).await.unwrap();
        println!("created through {id} in {:?}", since.elapsed());
        cluster.all_see(&name).await;
        let again = cluster.create(id, &name).await.unwrap_err();
        assert_eq!(again, ErrorCode::TOPIC_ALREADY_EXISTS);
    }
    // An identity for a producer needs the controller as well.
    let client = Client::connect(&[&cluster.address(3)], ClientOptions::default())
        .await
        .unwrap();
    let producer = client
        .producer(strandline_client::ProducerOptions::default())
        .unwrap();
    let record = strandline_client::NewRecord::to("through-2").value(b"hello");
    producer.send(record).await.unwrap().await.unwrap();
    producer.close().await.unwrap();
    for (_, server) in cluster.brokers {
        server.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_goes_on_without_its_controller_which_comes_back() {
    let mut cluster = Cluster::of_three().await;
    cluster.create(1, "before").await.unwrap();
    cluster.all_see("before").await;
    let gone = cluster.controller().await;
    let since = Instant::now();
    cluster
        .brokers
        .remove(&gone)
        .unwrap()
        .shutdown()
        .await
        .unwrap();
    let other = *cluster.brokers.keys().next().unwrap();
    cluster.create(other, "without").await.unwrap();
    println!(
        "created {:?} after the controller began to stop",
        since.elapsed()
    );
    cluster.all_see("without").await;

    // It is on another port now, and is found by what it says of itself.
    let since = Instant::now();
    cluster.start(gone, &[]).await;
    println!("back after {:?}", since.elapsed());
    cluster.all_see("without").await;
    cluster.create(gone, "after").await.unwrap();
    cluster.all_see("after").await;
    for (_, server) in std::mem::take(&mut cluster.brokers) {
        server.shutdown().await.unwrap();
    }

    // And all of them at once, none of which can serve alone. Two keep their ports, in that those
    // that come back name each other.
    let since = Instant::now();
    let kept = [keep_an_address(), keep_an_address()];
    let both = kept
        .each_ref()
        .map(|it| it.local_addr().unwrap().to_string());
    let at = |id: usize| settings(&cluster.data(id), id, &both, &[("listen", &both[id - 1])]);
    let (first, second) = (at(1), at(2));
    // If one does not start, the other one waits for it without end.
    let both = async { tokio::try_join!(Server::start(first), Server::start(second)) };
    let (first, second) = timeout(PATIENCE, both).await.expect("in time").unwrap();
    cluster.brokers.insert(1, first);
    cluster.brokers.insert(2, second);
    println!("two of three are back after {:?}", since.elapsed());
    cluster.create(2, "again").await.unwrap();
    cluster.all_see("again").await;
    for (_, server) in cluster.brokers {
        server.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_disk_is_a_new_voter_and_the_old_one_goes() {
    let mut cluster = Cluster::of_three().await;
    cluster.create(1, "kept").await.unwrap();
    let gone = *cluster.brokers.keys().last().unwrap();
    let before = members(&cluster.brokers[&1]);
    cluster
        .brokers
        .remove(&gone)
        .unwrap()
        .shutdown()
        .await
        .unwrap();
    std::fs::remove_dir_all(cluster.data(gone)).unwrap();
    let since = Instant::now();
    let join = [cluster.address(1)];
    cluster.start(gone, &join).await;
    for server in cluster.brokers.values() {
        until("the new disk votes, and the old one does not", async || {
            let now = members(server);
            voters(server) == 3 && now != before && now.len() == 3
        })
        .await;
    }
    println!("the wiped disk is replaced after {:?}", since.elapsed());
    cluster.all_see("kept").await;
    cluster.create(gone, "more").await.unwrap();
    for (_, server) in cluster.brokers {
        server.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_is_fenced_and_who_comes_back_takes_part() {
    let mut cluster = Cluster::of_three().await;
    for id in [1, 2, 3] {
        let state = async || {
            let response = describe(&cluster, 1).await;
            response
                .brokers
                .iter()
                .find(|each| each.id == BrokerId(id))
                .unwrap()
                .state
        };
        until("everybody takes part", async || {
            state().await == BrokerState::Active
        })
        .await;
    }
    let response = describe(&cluster, 2).await;
    let controller = cluster.controller().await;
    assert_eq!(
        response.controller.map(|id| id.0),
        i32::try_from(controller).ok()
    );
    assert_eq!(response.answered_by, response.controller.unwrap());
    assert_eq!((response.members.len(), response.brokers.len()), (3, 3));
    assert!(
        response
            .brokers
            .iter()
            .all(|broker| broker.lease_ms.is_some())
    );

    let stopped = [1, 2, 3].into_iter().find(|id| *id != controller).unwrap();
    let since = Instant::now();
    cluster
        .brokers
        .remove(&stopped)
        .unwrap()
        .shutdown()
        .await
        .unwrap();
    println!("stopped in {:?}", since.elapsed());
    let number = i32::try_from(stopped).unwrap();
    until("who has stopped is fenced", async || {
        let response = describe(&cluster, controller).await;
        let of = response.brokers.iter().find(|broker| broker.id.0 == number);
        of.unwrap().state == BrokerState::Fenced
    })
    .await;
    println!("fenced {:?} after it began to stop", since.elapsed());
    // Nothing is placed on it.
    cluster.create(controller, "elsewhere").await.unwrap();
    assert_eq!(
        describe(&cluster, controller)
            .await
            .partitions_without_leader,
        0
    );

    let since = Instant::now();
    cluster.start(stopped, &[]).await;
    until("who is back takes part", async || {
        let response = describe(&cluster, controller).await;
        let of = response.brokers.iter().find(|broker| broker.id.0 == number);
        of.unwrap().state == BrokerState::Active
    })
    .await;
    println!("back and active after {:?}", since.elapsed());
    for (_, server) in cluster.brokers {
        server.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_change_when_somebody_says_so() {
    let mut cluster = Cluster::of_three().await;
    let join = [cluster.address(2)];
    cluster.start(4, &join).await;
    let connection = cluster.connect(2).await;
    let add = |add: &[i32], remove: &[i32]| ChangeVotersRequest {
        add: add.iter().copied().map(BrokerId).collect(),
        remove: remove.iter().copied().map(BrokerId).collect(),
    };
    let refused = connection
        .request(&add(&[4], &[]), Vec::new())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("odd number"), "{refused}");
    let since = Instant::now();
    let (response, _) = connection
        .request(&add(&[4], &[3]), Vec::new())
        .await
        .unwrap();
    println!("voters changed after {:?}", since.elapsed());
    assert_eq!(response.voters, [BrokerId(1), BrokerId(2), BrokerId(4)]);
    cluster.create(4, "by-a-new-voter").await.unwrap();
    cluster.all_see("by-a-new-voter").await;
    for (_, server) in cluster.brokers {
        server.shutdown().await.unwrap();
    }
}

async fn describe(cluster: &Cluster, id: usize) -> DescribeClusterResponse {
    let connection = cluster.connect(id).await;
    let request = DescribeClusterRequest {};
    connection.request(&request, Vec::new()).await.unwrap().0
}

/// The Raft ids of all members.
fn members(server: &Server) -> std::collections::BTreeSet<u64> {
    let image = server.image();
    let membership = image.membership().into_iter();
    membership
        .flat_map(|known| known.members())
        .map(|member| member.raft_id)
        .collect()
}

/// A socket that keeps an address for whoever listens there with `SO_REUSEADDR`, as brokers do: it
/// is bound and never listens, and the system gives its port to nobody else.
fn keep_an_address() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_and_strangers_are_refused() {
    let cluster = Cluster::of_three().await;
    let id = cluster.brokers[&1].cluster_id();

    // A directory that has founded a cluster does not join another one.
    let other = tempfile::tempdir().unwrap();
    let lone = Server::start(settings(other.path(), 9, &[], &[]))
        .await
        .unwrap();
    let own = lone.cluster_id();
    lone.shutdown().await.unwrap();
    let join = [cluster.address(1)];
    let refused = Server::start(settings(other.path(), 9, &join, &[])).await;
    let refused = format!("{:#}", refused.unwrap_err());
    for part in [&id.to_string(), &own.to_string(), "--data", "--join"] {
        assert!(refused.contains(part), "{refused}");
    }

    // A peer of another cluster is refused, and so is one that asks as a client.
    let peer = Peer {
        broker_id: BrokerId(9),
        raft_id: 9,
        host: "127.0.0.1".into(),
        port: 1,
        purpose: Purpose::Quorum,
    };
    for named in [None, Some(own), Some(ClusterId([9; 16]))] {
        let options = ClientOptions {
            cluster_id: named,
            ..ClientOptions::default()
        };
        let opened = Connection::open_as_peer(&cluster.address(1), &options, peer.clone()).await;
        let refused = opened.unwrap_err().to_string();
        assert!(refused.contains(&id.to_string()), "{refused}");
        assert!(refused.contains("--join"), "{refused}");
    }
    let client = cluster.connect(1).await;
    let reserve = strandline_protocol::messages::ReserveProducerIdsRequest {
        broker_id: BrokerId(1),
        broker_epoch: strandline_protocol::BrokerEpoch(1),
    };
    let refused = client.request(&reserve, Vec::new()).await.unwrap_err();
    assert!(refused.to_string().contains("only brokers"), "{refused}");
    for (_, server) in cluster.brokers {
        server.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_connection_that_dies_without_a_word_is_given_up() {
    let mut cluster = Cluster {
        root: tempfile::tempdir().unwrap(),
        brokers: BTreeMap::new(),
    };
    // Others reach the controller through this.
    let proxy = proxy::Proxy::start().await;
    cluster
        .start_with(1, &[], &[("advertise", proxy.address())])
        .await;
    proxy.leads_to(cluster.address(1));
    let join = [cluster.address(1)];
    cluster.start(2, &join).await;
    // Two of two voters at most: nobody else is elected.
    until("both take part", async || active(&cluster).await == 2).await;
    assert!(cluster.brokers[&1].is_controller());
    cluster.create(2, "before").await.unwrap();

    let since = Instant::now();
    proxy.cut();
    until("the silent one is fenced", async || {
        active(&cluster).await == 1
    })
    .await;
    let fenced = since.elapsed();
    until("it is back", async || active(&cluster).await == 2).await;
    let back = since.elapsed();
    println!("fenced after {fenced:?}, back after {back:?}");
    // A request is given up after 5 s.
    assert!(back < Duration::from_millis(4_500), "{back:?}");
    cluster.create(2, "after").await.unwrap();
    for (_, server) in cluster.brokers {
        server.shutdown().await.unwrap();
    }
}

/// How many brokers take part, as the first one knows.
async fn active(cluster: &Cluster) -> usize {
    let response = describe(cluster, 1).await;
    let brokers = response.brokers.iter();
    brokers
        .filter(|each| each.state == BrokerState::Active)
        .count()
}
