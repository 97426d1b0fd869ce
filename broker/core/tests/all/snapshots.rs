//! An image goes through a snapshot and is the same afterwards; what is damaged is refused.

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use proptest::prelude::{any, proptest};
use strandline_core::metadata::{
    Command, Image, ImageBuilder, METADATA_VERSION, Registration, SnapshotCounts, SnapshotError,
    SnapshotRecord, limits::ENTRY_BYTES_MAX,
};
use strandline_protocol::{
    BrokerId, DirectoryId, LeaderEpoch, Offset, ProducerId,
    messages::{CreateTopicsRequest, NewTopic},
};

/// Three topics, two of them of many partitions.
fn cluster(wide: i32, exact: i32) -> Cluster {
    let mut cluster = Cluster::founded();
    let registration = Registration {
        broker: BrokerId(1),
        incarnation: [0; 16],
        host: "localhost".into(),
        port: 9290,
        rack: None,
        directories: vec![DirectoryId([1; 16]), DirectoryId([2; 16])],
        raft_id: Some(42),
        software: "strandline/0.0.0".into(),
        metadata_version_max: METADATA_VERSION,
        lossy: Vec::new(),
    };
    let topic = |name: &str, partitions, key: &str, value: &str| NewTopic {
        name: name.into(),
        partitions: Some(partitions),
        replication_factor: None,
        configs: BTreeMap::from([(key.into(), value.into())]),
    };
    let create = Command::CreateTopics(CreateTopicsRequest {
        topics: vec![
            topic("wide", wide, "flush", "async"),
            topic("exact", exact, "flush", "ack"),
            topic("narrow", 1, "retention.ms", "5000"),
        ],
        validate_only: false,
    });
    let register = Command::RegisterBroker(registration);
    for command in [&register, &create, &register] {
        cluster.propose(command).unwrap();
    }
    cluster
}

fn rebuilt(records: impl IntoIterator<Item = SnapshotRecord>) -> Result<Image, SnapshotError> {
    let mut builder = ImageBuilder::new();
    records
        .into_iter()
        .try_for_each(|record| builder.add(record))?;
    builder.finish()
}

#[test]
fn an_image_is_the_same_after_its_snapshot() {
    let mut cluster = cluster(2_500, 1_000);
    let records: Vec<_> = cluster.image.snapshot().collect();
    // A head, a broker, three topics, and their partitions in records of a thousand.
    assert_eq!(records.len(), 1 + 1 + 3 + (3 + 1 + 1));
    for record in &records {
        let bytes = rmp_serde::to_vec_named(record).unwrap();
        assert!(bytes.len() < ENTRY_BYTES_MAX / 2, "{}", bytes.len());
        assert_eq!(
            &rmp_serde::from_slice::<SnapshotRecord>(&bytes).unwrap(),
            record
        );
    }
    let image = rebuilt(records.clone()).unwrap();
    assert_eq!(image, cluster.image);
    assert!(image.snapshot().eq(records));
    // The log goes on behind it.
    let (before, at) = (cluster.image.clone(), cluster.log.len());
    cluster
        .propose(&Command::DeleteTopics(
            strandline_protocol::messages::DeleteTopicsRequest {
                names: vec!["wide".into()],
            },
        ))
        .unwrap();
    let mut image = rebuilt(before.snapshot()).unwrap();
    for (term, bytes) in &cluster.log[at..] {
        let entry = strandline_core::metadata::Entry::decode(bytes).unwrap();
        image.apply(image.version().plus(1), *term, &entry);
    }
    assert_eq!(image, cluster.image);
}

#[test]
fn an_empty_image_has_a_snapshot_too() {
    assert_eq!(
        rebuilt(Image::default().snapshot()).unwrap(),
        Image::default()
    );
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let records: Vec<_> = cluster(2_500, 1_000).image.snapshot().collect();
    let without = |at: usize| {
        let mut records = records.clone();
        records.remove(at);
        rebuilt(records)
    };
    assert_eq!(without(0).unwrap_err(), SnapshotError::Head);
    // A broker that leads, a topic that has partitions, partitions that others follow.
    for at in [1, 2, records.len() - 3] {
        assert!(without(at).is_err(), "{:?}", records[at]);
    }
    for (at, record) in records.iter().enumerate() {
        let mut twice = records.clone();
        twice.insert(at, record.clone());
        assert!(rebuilt(twice).is_err(), "{record:?}");
    }
    assert!(rebuilt([]).is_err());
    let newer = SnapshotRecord::Head {
        applied: Offset(7),
        term: LeaderEpoch(1),
        membership: None,
        metadata_version: METADATA_VERSION + 1,
        next_producer_id: ProducerId(0),
        wanted_voters: Vec::new(),
        replication_throttle: 0,
        counts: SnapshotCounts::default(),
    };
    assert!(
        rebuilt([newer])
            .unwrap_err()
            .to_string()
            .contains("newer than")
    );
}

proptest! {
    #[test]
    fn no_damaged_snapshot_panics(which in any::<usize>(), at in any::<usize>(), flip in 1_u8..) {
        let mut records: Vec<_> = cluster(3, 2).image.snapshot().collect();
        let which = which % records.len();
        let mut bytes = rmp_serde::to_vec_named(&records[which]).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if let Ok(damaged) = rmp_serde::from_slice(&bytes) {
            records[which] = damaged;
            let _ = rebuilt(records);
        }
    }
}
