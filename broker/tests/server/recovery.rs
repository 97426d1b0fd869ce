//! Partitions that recover while others serve.

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use strandline_broker::{http::Ready, server::Server};
use strandline_client::{Client, ClientOptions, NewRecord, ProducerOptions};
use strandline_protocol::{
    ErrorCode, PartitionId, TopicId,
    messages::{
        Acks, AlterConfigsRequest, ConfigChange, ListOffsetsPartition, ListOffsetsRequest,
        OffsetQuery,
    },
};
use strandline_storage::fs::{
    Entry, File, FileSystem, FsError, Incarnation, Lock, Space, simulated::SimulatedDisk,
};

use crate::{
    PATIENCE,
    peer::{Peer, batch},
    settings, start, until,
};

/// A disk on which files that have `slow` in their path are not opened before the gate is.
#[derive(Debug)]
struct Gated {
    inner: Arc<dyn FileSystem>,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn pass(&self, path: &Path) {
        if path.to_str().unwrap().contains("slow") {
            let open = self.open.lock().unwrap();
            let is_closed = |open: &mut bool| !*open;
            let passed = self.changed.wait_timeout_while(open, PATIENCE, is_closed);
            assert!(!passed.unwrap().1.timed_out(), "nobody opens the gate");
        }
    }
}

impl FileSystem for Gated {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FsError> {
        self.inner.create(path)
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>, FsError> {
        if path.extension().is_some_and(|extension| extension == "log") {
            self.gate.pass(path);
        }
        self.inner.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), FsError> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), FsError> {
        self.inner.remove(path)
    }

    fn create_directory(&self, path: &Path) -> Result<(), FsError> {
        self.inner.create_directory(path)
    }

    fn remove_directory(&self, path: &Path) -> Result<(), FsError> {
        self.inner.remove_directory(path)
    }

    fn list(&self, directory: &Path) -> Result<Vec<Entry>, FsError> {
        self.inner.list(directory)
    }

    fn sync_directory(&self, directory: &Path) -> Result<(), FsError> {
        self.inner.sync_directory(directory)
    }

    fn space(&self, directory: &Path) -> Result<Space, FsError> {
        self.inner.space(directory)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, FsError> {
        self.inner.lock(path)
    }

    fn incarnation(&self, directory: &Path) -> Result<Incarnation, FsError> {
        self.inner.incarnation(directory)
    }
}

/// A broker that was killed and starts again: the topic `fast` is open, `slow` waits at the gate.
struct HalfRecovered {
    disk: SimulatedDisk,
    server: Server,
    peer: Peer,
    gate: Arc<Gate>,
    fast: TopicId,
    slow: TopicId,
}

async fn half_recovered() -> HalfRecovered {
    let disk = SimulatedDisk::new(11);
    let data = Path::new("/data");
    let server = Server::start_on(settings(data, &[]), disk.file_system());
    let server = server.await.unwrap();
    let mut peer = Peer::connect(&server).await;
    let fast = peer.create("fast", 1, &[]).await;
    let slow = peer.create("slow", 1, &[]).await;
    peer.produce_values(fast, &["a"]).await;
    peer.produce_values(slow, &["a", "b"]).await;
    let disk = disk.kill();
    drop(server);
    let gate = Arc::new(Gate::default());
    let gated = Gated {
        inner: disk.file_system(),
        gate: Arc::clone(&gate),
    };
    let server = Server::start_on(settings(data, &[]), Arc::new(gated));
    let server = server.await.unwrap();
    let mut peer = Peer::connect(&server).await;
    until("the fast partition is open", async || {
        peer.fetch(fast, 0, 0, 0).await.0.failure.error.is_none()
    })
    .await;
    HalfRecovered {
        disk,
        server,
        peer,
        gate,
        fast,
        slow,
    }
}

fn partitions(server: &Server, state: &str) -> usize {
    let head = format!("strandline_partitions{{state=\"{state}\"}} ");
    let text = server.metrics().render();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&head));
    lines.next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ready_partition_serves_while_another_recovers() {
    let it = half_recovered().await;
    let (server, mut peer) = (it.server, it.peer);
    let Ready::No(reason) = server.readiness().get() else {
        panic!("ready with a partition that is not open");
    };
    assert!(reason.contains("1 of 2 partitions"), "{reason}");
    assert_eq!(partitions(&server, "recovering"), 1);

    assert_eq!(peer.produce_values(it.fast, &["b"]).await.0, 1);
    assert_eq!(peer.values(it.fast, 0).await, ["a", "b"]);
    let new = peer.create("new", 1, &[]).await;
    peer.produce_values(new, &["x"]).await;

    let not_yet = ErrorCode::NOT_LEADER_OR_FOLLOWER;
    let produced = peer.produce(it.slow, Acks::All, &batch(&["early"])).await;
    assert_eq!(produced.failure.error, not_yet);
    assert!(produced.failure.message.contains("recovers"));
    let (fetched, _) = peer.fetch(it.slow, 0, 1, 10_000).await;
    assert_eq!(fetched.failure.error, not_yet);
    let list = ListOffsetsRequest {
        partitions: vec![ListOffsetsPartition {
            topic_id: it.slow,
            partition: PartitionId(0),
            query: OffsetQuery::Latest,
        }],
    };
    let (listed, _) = peer.call(&list, b"").await.unwrap();
    assert_eq!(listed.partitions[0].failure.error, not_yet);

    // What is configured meanwhile is in force once it is open.
    let alter = AlterConfigsRequest {
        topic: "slow".to_owned(),
        changes: vec![ConfigChange {
            key: "max.message.bytes".to_owned(),
            value: Some("1000".to_owned()),
        }],
        validate_only: false,
    };
    let (altered, _) = peer.call(&alter, b"").await.unwrap();
    assert!(altered.failure.error.is_none());

    // The library waits by itself, and its user notices nothing but time.
    let bootstrap = [server.native_addr().to_string()];
    let client = Client::connect(&bootstrap, ClientOptions::default());
    let producer = client.await.unwrap();
    let producer = producer.producer(ProducerOptions::default()).unwrap();
    let record = NewRecord::to("slow").partition(PartitionId(0)).value(b"c");
    let mut delivery = Box::pin(producer.send(record).await.unwrap().into_future());
    let early = tokio::time::timeout(Duration::from_millis(300), &mut delivery).await;
    assert!(early.is_err(), "{early:?}");

    it.gate.open();
    let delivered = tokio::time::timeout(PATIENCE, delivery).await.unwrap();
    assert_eq!(delivered.unwrap().offset.unwrap().0, 2);
    server.recovered().await;
    assert_eq!(server.readiness().get(), Ready::Yes);
    assert_eq!(partitions(&server, "open"), 3);
    assert_eq!(peer.values(it.slow, 0).await, ["a", "b", "c"]);
    let large = batch(&[&"x".repeat(2_000)]);
    let refused = peer.produce(it.slow, Acks::All, &large).await;
    assert_eq!(refused.failure.error, ErrorCode::MESSAGE_TOO_LARGE);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_deleted_while_it_recovers_is_gone() {
    let it = half_recovered().await;
    let (server, mut peer) = (it.server, it.peer);
    let deleting = tokio::spawn(async move {
        peer.delete("slow").await;
        peer
    });
    // The deletion is decided, and waits for the one who has the files open.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!deleting.is_finished());
    it.gate.open();
    let mut peer = deleting.await.unwrap();
    let gone = peer.produce(it.slow, Acks::All, &batch(&["late"])).await;
    assert_eq!(gone.failure.error, ErrorCode::UNKNOWN_TOPIC_ID);
    let again = peer.create("slow", 1, &[]).await;
    assert!(peer.values(again, 0).await.is_empty());
    server.recovered().await;
    server.shutdown().await.unwrap();
    let entries = it.disk.file_system().list(Path::new("/data")).unwrap();
    let stray = entries.iter().any(|entry| entry.name.ends_with("-stray"));
    assert!(!stray, "{entries:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_during_recovery_leaves_no_clean_mark() {
    let it = half_recovered().await;
    let stopping = tokio::spawn(it.server.shutdown());
    it.gate.open();
    stopping.await.unwrap().unwrap();
    // The gate was open in time or not: what is there is complete either way.
    let server = Server::start_on(settings(Path::new("/data"), &[]), it.disk.file_system());
    let server = server.await.unwrap();
    server.recovered().await;
    let mut peer = Peer::connect(&server).await;
    assert_eq!(peer.values(it.slow, 0).await, ["a", "b"]);
    assert_eq!(peer.values(it.fast, 0).await, ["a"]);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_another_topic_are_set_aside_and_hinder_no_other() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let mut peer = Peer::connect(&server).await;
    let good = peer.create("good", 1, &[]).await;
    let bad = peer.create("bad", 1, &[]).await;
    peer.produce_values(good, &["a"]).await;
    peer.produce_values(bad, &["a"]).await;
    server.shutdown().await.unwrap();
    // The protected file says that the directory is another topic's.
    let state = |topic: &str| data.path().join(topic).join("partition.state");
    std::fs::copy(state("good-0"), state("bad-0")).unwrap();
    let segment = |name: &str| data.path().join(name).join("00000000000000000000.log");
    let bytes = std::fs::read(segment("bad-0")).unwrap();

    let server = start(data.path(), &[]).await;
    let mut peer = Peer::connect(&server).await;
    assert_eq!(server.readiness().get(), Ready::Yes);
    assert_eq!(
        (partitions(&server, "open"), partitions(&server, "offline")),
        (2, 0)
    );
    assert_eq!(peer.produce_values(good, &["b"]).await.0, 1);
    peer.delete("bad").await;
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(data.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("bad-0")).collect()
    };
    // What was set aside outlives the topic: nobody knows whose it is.
    until("the topic's own files are removed", async || {
        names().len() == 1
    })
    .await;
    let kept = names().remove(0);
    assert_ne!(kept, "bad-0");
    assert_eq!(std::fs::read(segment(&kept)).unwrap(), bytes);
    server.shutdown().await.unwrap();
}
