//! The bytes of a snapshot, and what becomes of them when they are not what was written.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::{collections::BTreeMap, path::Path, sync::Arc};

use strandline_core::metadata::{
    Entry, Image, METADATA_VERSION, Membership, Record, Registration, Replica, Voter,
};
use strandline_protocol::{
    BrokerId, ClusterId, DirectoryId, LeaderEpoch, Offset, Timestamp, TopicId,
};
use strandline_storage::fs::{FileSystem, simulated::SimulatedDisk};

use super::{
    super::types::{LogId, log_id},
    format::{self, Unusable},
    kept::{load_at, name_of, names_in},
};

const CLUSTER: ClusterId = ClusterId([5; 16]);

fn image(topics: u8) -> Image {
    let voter = Voter {
        raft_id: 7,
        broker: BrokerId(1),
    };
    let replica = Replica {
        broker: BrokerId(1),
        directory: DirectoryId([1; 16]),
    };
    let registration = Registration {
        broker: BrokerId(1),
        incarnation: [3; 16],
        host: "localhost".into(),
        port: 9290,
        rack: None,
        directories: vec![replica.directory],
        raft_id: Some(7),
        software: "strandline/0.0.0".into(),
        metadata_version_max: METADATA_VERSION,
        lossy: Vec::new(),
    };
    let created = (0..topics).map(|number| {
        Entry::Command(vec![Record::TopicCreated {
            name: format!("topic-{number}"),
            id: TopicId([number + 1; 16]),
            configs: BTreeMap::from([("retention.ms".into(), "1000".into())]),
            partitions: vec![vec![replica]; usize::from(number) + 1],
        }])
    });
    let entries = [
        Entry::Membership(Membership::of(CLUSTER, vec![voter])),
        Entry::Command(vec![Record::MetadataVersionSet {
            version: METADATA_VERSION,
        }]),
        Entry::Command(vec![Record::BrokerRegistered(registration.clone())]),
    ];
    let again = Entry::Command(vec![Record::BrokerRegistered(registration)]);
    let mut image = Image::default();
    for (offset, entry) in (0..).zip(entries.into_iter().chain(created).chain([again])) {
        image.apply(Offset(offset), LeaderEpoch(3), &entry);
    }
    image
}

const PATH: &str = "/snapshot";

fn membership_at() -> LogId {
    log_id(LeaderEpoch(3), Offset(0))
}

fn last_of(image: &Image) -> LogId {
    log_id(image.term(), image.version())
}

fn written(image: &Image) -> (SimulatedDisk, Arc<dyn FileSystem>) {
    let disk = SimulatedDisk::new(1);
    let files = disk.file_system();
    let file = files.create(Path::new(PATH)).unwrap();
    let path = Path::new(PATH);
    format::write(file.as_ref(), path, image, membership_at(), Timestamp(1)).unwrap();
    (disk, files)
}

#[test]
fn an_image_is_read_as_it_was_written() {
    for topics in [0, 1, 60] {
        let image = image(topics);
        let (_, files) = written(&image);
        let last = last_of(&image);
        let loaded = load_at(files.as_ref(), Path::new(PATH), CLUSTER, last).unwrap();
        assert_eq!(loaded.image, image);
        assert!(loaded.image.is_consistent());
        assert_eq!(loaded.membership_at, membership_at());
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let image = image(2);
    let (disk, files) = written(&image);
    let size = files.open(Path::new(PATH)).unwrap().size();
    for position in 0..size {
        for bit in 0..8 {
            disk.rot(Path::new(PATH), position, 1 << bit).unwrap();
            let read = load_at(files.as_ref(), Path::new(PATH), CLUSTER, last_of(&image));
            let told = matches!(read, Err(Unusable::Damaged { .. }));
            assert!(told, "byte {position}, bit {bit}: {read:?}");
            disk.rot(Path::new(PATH), position, 1 << bit).unwrap();
        }
    }
    load_at(files.as_ref(), Path::new(PATH), CLUSTER, last_of(&image)).unwrap();
}

#[test]
fn a_file_of_any_other_length_is_noticed() {
    let image = image(2);
    let (_, files) = written(&image);
    let file = files.open(Path::new(PATH)).unwrap();
    let (size, last) = (file.size(), last_of(&image));
    file.allocate(size + 1).unwrap();
    assert!(format::read(file.as_ref(), CLUSTER, last).is_err());
    for shorter in (0..size).rev() {
        file.truncate(shorter).unwrap();
        let read = format::read(file.as_ref(), CLUSTER, last);
        assert!(
            matches!(read, Err(Unusable::Damaged { .. })),
            "{shorter}: {read:?}"
        );
    }
}

#[test]
fn a_snapshot_of_another_cluster_or_another_entry_is_not_taken() {
    let image = image(1);
    let (_, files) = written(&image);
    let read = |cluster, last| load_at(files.as_ref(), Path::new(PATH), cluster, last);
    let foreign = read(ClusterId([6; 16]), last_of(&image)).unwrap_err();
    assert!(matches!(foreign, Unusable::Foreign(_)), "{foreign}");
    for (term, offset) in [(3, 3), (2, 4), (4, 4)] {
        let other = log_id(LeaderEpoch(term), Offset(offset));
        let refused = read(CLUSTER, other).unwrap_err();
        assert!(matches!(refused, Unusable::Damaged { .. }), "{refused}");
    }
}

#[test]
fn snapshots_are_known_by_their_names() {
    let disk = SimulatedDisk::new(1);
    let files = disk.file_system();
    let last = log_id(LeaderEpoch(12), Offset(345));
    assert_eq!(name_of(&last), "00000000000000000346-0000000012.checkpoint");
    let older = log_id(LeaderEpoch(13), Offset(5));
    for name in [
        name_of(&last),
        name_of(&older),
        "00000000000000000000-0000000012.checkpoint".into(),
        "346-12.checkpoint".into(),
        "00000000000000000346-0000000012.checkpoint.tmp".into(),
        "leader-epoch-checkpoint".into(),
    ] {
        files.create(&Path::new("/").join(name)).unwrap();
    }
    assert_eq!(
        names_in(files.as_ref(), Path::new("/")).unwrap(),
        [older, last]
    );
    assert!(
        names_in(files.as_ref(), Path::new("/none"))
            .unwrap()
            .is_empty()
    );
}
