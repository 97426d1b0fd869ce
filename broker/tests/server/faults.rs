//! Disks that fail, fill up, rot and lose power, under a whole broker.

use std::path::Path;

use strandline_broker::server::Server;
use strandline_protocol::{
    ErrorClass, ErrorCode, TopicId,
    messages::{Acks, CreateTopicsRequest, NewTopic},
};
use strandline_storage::fs::{
    Operation,
    simulated::{Failure, Fault, SimulatedDisk},
};

use crate::{
    peer::{Peer, batch},
    settings, until,
};

async fn start_on(disk: &SimulatedDisk, more: &[(&str, &str)]) -> Server {
    let started = Server::start_on(settings(Path::new("/data"), more), disk.file_system());
    let server = started.await.unwrap();
    server.recovered().await;
    server
}

async fn outcome(peer: &mut Peer, topic: TopicId) -> ErrorCode {
    let produced = peer.produce(topic, Acks::All, &batch(&["x"])).await;
    produced.failure.error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_takes_its_directory_offline_and_no_other() {
    let disk = SimulatedDisk::new(7);
    let server = start_on(&disk, &[("data", "/a,/b")]).await;
    let mut peer = Peer::connect(&server).await;
    // Placement spreads them over the directories.
    let topic = peer.create("t", 1, &[]).await;
    let other = peer.create("u", 1, &[]).await;
    let in_b = |name: &str| {
        let entries = disk.file_system().list(Path::new("/b")).unwrap();
        entries.iter().any(|entry| entry.name == name)
    };
    assert_eq!(outcome(&mut peer, topic).await, ErrorCode::NONE);
    assert_eq!(outcome(&mut peer, other).await, ErrorCode::NONE);
    let (here, there) = match (in_b("t-0"), in_b("u-0")) {
        (true, false) => (topic, other),
        (false, true) => (other, topic),
        both => panic!("placement does not spread partitions: {both:?}"),
    };
    disk.inject(Fault::next(Operation::Sync, Failure::Broken).on("/b/"));
    // The batch was appended, but nobody can say whether it will be there.
    let unknown = outcome(&mut peer, here).await;
    assert_eq!(unknown, ErrorCode::UNKNOWN_SERVER_ERROR);
    disk.heal();
    assert_eq!(outcome(&mut peer, here).await, ErrorCode::STORAGE_ERROR);
    let (fetched, _) = peer.fetch(here, 0, 0, 0).await;
    assert_eq!(fetched.failure.error, ErrorCode::STORAGE_ERROR);
    assert_eq!(outcome(&mut peer, there).await, ErrorCode::NONE);
    assert_eq!(peer.values(there, 0).await, ["x", "x"]);
    assert_eq!(
        server.readiness().get(),
        strandline_broker::http::Ready::Yes
    );
    // It cannot be closed cleanly, and is recovered by the next start.
    assert!(server.shutdown().await.is_err());
    let server = start_on(&disk.kill(), &[("data", "/a,/b")]).await;
    let mut peer = Peer::connect(&server).await;
    assert_eq!(peer.values(there, 0).await, ["x", "x"]);
    assert!(!peer.values(here, 0).await.is_empty());
    assert_eq!(outcome(&mut peer, here).await, ErrorCode::NONE);
    server.shutdown().await.unwrap();
}

/// A sync that takes for ever holds up those who wait for it, and nobody else: neither appends to
/// and reads of the same partition, nor other partitions.
/// A write that failed was answered as one that had not happened, although its bytes may lie in the
/// file, where a restart finds them: a producer that sent them again had them twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_has_an_unknown_outcome() {
    let disk = SimulatedDisk::new(8);
    let server = start_on(&disk, &[]).await;
    let mut peer = Peer::connect(&server).await;
    let topic = peer.create("t", 1, &[]).await;
    assert_eq!(outcome(&mut peer, topic).await, ErrorCode::NONE);
    disk.inject(Fault::next(Operation::Write, Failure::Broken).on("/t-0/"));
    let unknown = outcome(&mut peer, topic).await;
    assert_eq!(unknown, ErrorCode::UNKNOWN_SERVER_ERROR);
    assert_eq!(unknown.class(), ErrorClass::OutcomeUnknown);
    // Of what comes after it is known that nothing was done.
    assert_eq!(outcome(&mut peer, topic).await, ErrorCode::STORAGE_ERROR);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_sync_holds_up_its_own_acknowledgements_only() {
    let disk = SimulatedDisk::new(9);
    let server = start_on(&disk, &[]).await;
    let mut peer = Peer::connect(&server).await;
    let slow = peer.create("slow", 1, &[]).await;
    let other = peer.create("other", 1, &[]).await;
    for topic in [slow, other] {
        assert_eq!(outcome(&mut peer, topic).await, ErrorCode::NONE);
    }
    disk.inject(Fault::next(Operation::Sync, Failure::Stalled).on("/slow-0/"));
    let mut stalled = Peer::connect(&server).await;
    let first = tokio::spawn(async move { outcome(&mut stalled, slow).await });
    until("the sync stalls", async || disk.stalled() == 1).await;
    // It is appended behind what waits, and waits as well.
    let mut waiting = Peer::connect(&server).await;
    let second = tokio::spawn(async move { outcome(&mut waiting, slow).await });
    assert_eq!(peer.values(slow, 0).await, ["x"]);
    assert_eq!(outcome(&mut peer, other).await, ErrorCode::NONE);
    assert_eq!(peer.values(other, 0).await, ["x", "x"]);
    assert_eq!((disk.stalled(), first.is_finished()), (1, false));
    assert!(!second.is_finished());
    disk.release();
    assert_eq!(first.await.unwrap(), ErrorCode::NONE);
    assert_eq!(second.await.unwrap(), ErrorCode::NONE);
    assert_eq!(peer.values(slow, 0).await, ["x", "x", "x"]);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_appends_only_and_resumes_by_itself() {
    let disk = SimulatedDisk::new(8);
    let server = start_on(&disk, &[]).await;
    let mut peer = Peer::connect(&server).await;
    let topic = peer.create("t", 1, &[]).await;
    assert_eq!(outcome(&mut peer, topic).await, ErrorCode::NONE);
    disk.set_capacity(Some(0));
    let mut taken = 1;
    let large = batch(&[&"x".repeat(100_000)]);
    until("the disk is full", async || {
        let produced = peer.produce(topic, Acks::All, &large).await;
        taken += usize::from(produced.failure.error.is_none());
        produced.failure.error == ErrorCode::DISK_FULL
    })
    .await;
    assert_eq!(peer.values(topic, 0).await.len(), taken);
    let refused = CreateTopicsRequest {
        topics: vec![NewTopic {
            name: "t".to_owned(),
            partitions: None,
            replication_factor: None,
            configs: Default::default(),
        }],
        validate_only: true,
    };
    peer.call(&refused, b"").await.unwrap();
    disk.set_capacity(None);
    let produced = peer.produce(topic, Acks::All, &large).await;
    assert!(produced.failure.error.is_none(), "{produced:?}");
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_takes_nothing_that_was_acknowledged() {
    let mut disk = SimulatedDisk::new(9);
    let mut acknowledged = 0;
    for seed in 0..6 {
        let server = start_on(&disk, &[]).await;
        let mut peer = Peer::connect(&server).await;
        let topic = if seed == 0 {
            peer.create("t", 1, &[]).await
        } else {
            let (page, _) = peer
                .call(
                    &strandline_protocol::messages::MetadataRequest::default(),
                    b"",
                )
                .await
                .unwrap();
            page.topics[0].id
        };
        assert_eq!(peer.values(topic, 0).await.len(), acknowledged);
        for _ in 0..20 {
            assert_eq!(outcome(&mut peer, topic).await, ErrorCode::NONE);
            acknowledged += 1;
        }
        disk = disk.power_cut(seed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_rotted_is_not_served() {
    let disk = SimulatedDisk::new(10);
    let server = start_on(&disk, &[]).await;
    let mut peer = Peer::connect(&server).await;
    let topic = peer.create("t", 1, &[]).await;
    for value in ["first", "second", "third"] {
        peer.produce_values(topic, &[value]).await;
    }
    server.shutdown().await.unwrap();
    let size = u64::try_from(batch(&["first"]).len()).unwrap();
    let log = Path::new("/data/t-0/00000000000000000000.log");
    disk.rot(log, size + 70, 1).unwrap();
    let server = start_on(&disk, &[]).await;
    let mut peer = Peer::connect(&server).await;
    let (good, payload) = peer.fetch(topic, 0, 0, 0).await;
    assert!(good.failure.error.is_none(), "{:?}", good.failure);
    assert_eq!(crate::peer::records(&payload).len(), 1);
    let (bad, payload) = peer.fetch(topic, 1, 0, 0).await;
    assert_eq!(bad.failure.error, ErrorCode::CORRUPT);
    assert!(payload.is_empty());
    let next = bad.next_good_offset.unwrap();
    assert_eq!(peer.values(topic, next.0).await, ["third"]);
    server.shutdown().await.unwrap();
}
