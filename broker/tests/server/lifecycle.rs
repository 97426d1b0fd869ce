//! Starting, stopping, and what is there afterwards.

use strandline_broker::server::Server;
use strandline_protocol::messages::{Acks, FetchRequest};

use crate::{
    peer::{Peer, batch, fetch_request, produce_request},
    settings, start,
};

const CLEAN_MARK: &str = ".kafka_cleanshutdown";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let cluster = server.cluster_id();
    let mut peer = Peer::connect(&server).await;
    let topic = peer.create("t", 3, &[]).await;
    peer.produce_values(topic, &["a", "b"]).await;
    assert!(!data.path().join(CLEAN_MARK).exists());
    server.shutdown().await.unwrap();
    assert!(data.path().join(CLEAN_MARK).exists());

    let server = start(data.path(), &[]).await;
    assert!(!data.path().join(CLEAN_MARK).exists());
    assert_eq!(server.cluster_id(), cluster);
    let mut peer = Peer::connect(&server).await;
    assert_eq!(peer.values(topic, 0).await, ["a", "b"]);
    assert_eq!(peer.produce_values(topic, &["c"]).await.0, 2);
    assert_eq!(peer.values(topic, 0).await, ["a", "b", "c"]);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_answers_what_is_in_flight() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let mut reader = Peer::connect(&server).await;
    let mut writer = Peer::connect(&server).await;
    let topic = writer.create("t", 1, &[]).await;
    let waiting = reader.send(&fetch_request(topic, 0, 1, 60_000), b"").await;
    // The probe comes back, so the one before it is parked.
    let probe = reader.send(&fetch_request(topic, 0, 0, 0), b"").await;
    reader.answer::<FetchRequest>(probe).await.unwrap();
    let one = batch(&["last"]);
    let request = produce_request(topic, Acks::All, &[one.len()]);
    writer.send(&request, &one).await;
    let first = reader.receive();
    let (stopped, answer) = tokio::join!(server.shutdown(), first);
    stopped.unwrap();
    assert_eq!(answer.unwrap().header.correlation, waiting);
    assert!(data.path().join(CLEAN_MARK).exists());
    assert!(reader.receive().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_was_dropped_recovers_what_it_acknowledged() {
    let data = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let mut peer = Peer::connect(&server).await;
    let topic = peer.create("t", 1, &[]).await;
    for number in 0..50 {
        peer.produce_values(topic, &[&number.to_string()]).await;
    }
    // What a killed process leaves: the files as they are now.
    copy_tree(data.path(), copy.path());
    server.shutdown().await.unwrap();
    let server = start(copy.path(), &[]).await;
    let mut peer = Peer::connect(&server).await;
    let expected: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    assert_eq!(peer.values(topic, 0).await, expected);
    assert_eq!(peer.produce_values(topic, &["next"]).await.0, 50);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_told_in_one_line() {
    let data = tempfile::tempdir().unwrap();
    let server = start(&data.path().join("a"), &[]).await;
    let taken = server.native_addr().to_string();
    let same_port = settings(&data.path().join("b"), &[("listen", &taken)]);
    let error = Server::start(same_port).await.unwrap_err().to_string();
    assert!(
        error.contains("in use") && error.contains("--listen"),
        "{error}"
    );
    let same_data = settings(&data.path().join("a"), &[]);
    let error = Server::start(same_data).await.unwrap_err().to_string();
    assert!(
        error.contains("another process") && error.contains("--data"),
        "{error}"
    );
    server.shutdown().await.unwrap();
    std::fs::write(data.path().join("file"), b"").unwrap();
    let on_a_file = settings(&data.path().join("file"), &[]);
    assert!(Server::start(on_a_file).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_metadata_does_not_know_is_set_aside() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let mut peer = Peer::connect(&server).await;
    let topic = peer.create("t", 1, &[]).await;
    peer.produce_values(topic, &["a"]).await;
    server.shutdown().await.unwrap();
    copy_tree(&data.path().join("t-0"), &data.path().join("u-0"));
    let server = start(data.path(), &[]).await;
    let mut peer = Peer::connect(&server).await;
    assert_eq!(peer.values(topic, 0).await, ["a"]);
    assert!(!data.path().join("u-0").exists());
    let aside = std::fs::read_dir(data.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("u-0.") && name.ends_with("-stray"))
        .count();
    assert_eq!(aside, 1);
    server.shutdown().await.unwrap();
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
