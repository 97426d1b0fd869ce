//! The bytes of the metadata log: what was once written stays readable, what is damaged is refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

mod cluster;

use std::{collections::BTreeMap, fmt::Write as _};

use cluster::Cluster;
use proptest::prelude::{any, proptest};
use strandline_core::metadata::{
    Command, Entry, EntryError, METADATA_VERSION, Membership, Record, Registration, Replica, Voter,
    limits::ENTRY_BYTES_MAX,
};
use strandline_protocol::{
    BrokerId, ClusterId, DirectoryId, PartitionId, ProducerId, TopicId,
    messages::{CreateTopicsRequest, NewTopic},
};

fn replica(broker: i32) -> Replica {
    Replica {
        broker: BrokerId(broker),
        directory: DirectoryId([3; 16]),
    }
}

fn registration() -> Registration {
    Registration {
        broker: BrokerId(1),
        incarnation: [9; 16],
        host: "localhost".into(),
        port: 9290,
        rack: Some("r1".into()),
        directories: vec![DirectoryId([3; 16])],
    }
}

fn voter(raft_id: u64) -> Voter {
    Voter {
        raft_id,
        broker: BrokerId(1),
    }
}

/// One of every kind, with every field set.
fn samples() -> Vec<Entry> {
    vec![
        Entry::Blank,
        Entry::Membership(Membership::of(ClusterId([1; 16]), vec![voter(u64::MAX)])),
        Entry::Command(vec![
            Record::MetadataVersionSet {
                version: METADATA_VERSION,
            },
            Record::BrokerRegistered(registration()),
        ]),
        Entry::Command(vec![Record::TopicCreated {
            name: "orders".into(),
            id: TopicId([2; 16]),
            configs: BTreeMap::from([("flush".into(), "async".into())]),
            partitions: vec![vec![replica(1)], vec![replica(1)]],
        }]),
        Entry::Command(vec![Record::PartitionsAdded {
            id: TopicId([2; 16]),
            first: PartitionId(2),
            partitions: vec![vec![replica(1)]],
        }]),
        Entry::Command(vec![Record::ConfigChanged {
            id: TopicId([2; 16]),
            changes: BTreeMap::from([
                ("flush".into(), None),
                ("retention.ms".into(), Some("1000".into())),
            ]),
        }]),
        Entry::Command(vec![Record::ProducerIdsReserved {
            broker: BrokerId(1),
            first: ProducerId(0),
            count: 1000,
        }]),
        Entry::Command(vec![Record::TopicDeleted {
            id: TopicId([2; 16]),
        }]),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// `UPDATE=1` rewrites the fixture. Whoever has to do so has changed the format: raise its version.
#[test]
fn entries_of_the_first_version_read_and_write_the_same() {
    let path = "tests/fixtures/metadata_entries_v1.hex";
    let written: String = samples()
        .iter()
        .map(|entry| format!("{}\n", hex(&entry.encode())))
        .collect();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &written).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert_eq!(golden, written);
    let mut cluster = Cluster::founded();
    for (line, entry) in golden.lines().zip(samples()) {
        let read = Entry::decode(&bytes_of(line)).unwrap();
        assert_eq!(read, entry);
        cluster.append(&read);
    }
    assert_eq!(cluster.replayed(), cluster.image);
}

#[test]
fn a_membership_under_change_reads_as_it_was_written() {
    let settled = Membership::of(ClusterId([1; 16]), vec![voter(1)]);
    assert!(settled.is_alone(1) && !settled.is_alone(2));
    let changing = Membership {
        voters: vec![voter(1), voter(2), voter(3)],
        voters_before: vec![voter(1)],
        learners: vec![voter(4)],
        ..settled
    };
    assert!(!changing.is_alone(1));
    let entry = Entry::Membership(changing);
    assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
}

#[test]
fn what_a_newer_broker_wrote_is_refused_by_name() {
    let refusal = |bytes: &[u8]| Entry::decode(bytes).expect_err("it is refused").to_string();
    assert!(refusal(&[2, 0]).contains("format 2 is newer than 1"));
    assert!(refusal(&[1, 9]).contains("kind 9 is unknown"));
    assert!(refusal(&[1]).contains("1 bytes is too short"));
    let newer = Entry::Command(vec![Record::MetadataVersionSet {
        version: METADATA_VERSION + 1,
    }]);
    assert!(matches!(
        Entry::decode(&newer.encode()),
        Err(EntryError::NewerVersion { .. })
    ));
    // A field that a newer broker adds is skipped; a record that it adds is not.
    let unknown = [1, 2, 0x91, 0x81, 0xa3, b'n', b'e', b'w', 0x80];
    assert!(matches!(
        Entry::decode(&unknown),
        Err(EntryError::Unreadable { .. })
    ));
    assert!(refusal(&vec![1; ENTRY_BYTES_MAX + 1]).contains("larger than"));
}

#[test]
fn entries_stay_below_their_bound_and_a_large_topic_is_made_of_several() {
    let mut cluster = Cluster::founded();
    cluster
        .propose(&Command::RegisterBroker(registration()))
        .unwrap();
    let topic = |name: &str| NewTopic {
        name: name.into(),
        partitions: Some(100_000),
        replication_factor: None,
        configs: BTreeMap::new(),
    };
    let command = Command::CreateTopics(CreateTopicsRequest {
        topics: vec![topic("wide"), topic("wider"), topic("too.wide")],
        validate_only: false,
    });
    let reply = format!("{:?}", cluster.propose(&command).unwrap());
    assert!(reply.contains("a cluster keeps at most 200000"), "{reply}");
    assert!(cluster.log.len() > 5, "{}", cluster.log.len());
    assert!(
        cluster
            .log
            .iter()
            .all(|(_, bytes)| bytes.len() <= ENTRY_BYTES_MAX)
    );
    assert_eq!(
        cluster.image.topic("wide").unwrap().partition_count(),
        100_000
    );
    assert_eq!(cluster.image.partition_count(), 200_000);
    assert!(cluster.image.is_consistent());
    assert_eq!(cluster.replayed(), cluster.image);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, kind in 0_u8..4) {
        let _ = Entry::decode(&bytes);
        let _ = Entry::decode(&[&[1, kind], bytes.as_slice()].concat());
    }

    #[test]
    fn no_damaged_entry_panics(which in any::<usize>(), at in any::<usize>(), flip in 1_u8..) {
        let samples = samples();
        let mut bytes = samples[which % samples.len()].encode();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        let _ = Entry::decode(&bytes);
    }
}
