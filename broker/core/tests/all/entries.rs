//! The bytes of the metadata log: what was once written stays readable, what is damaged is refused.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::cluster::Cluster;
use proptest::prelude::{any, proptest};
use strandline_core::metadata::{
    ChangedTopic, Command, Entry, EntryError, METADATA_VERSION, Membership, PartitionChange,
    Record, Registration, Replica, Voter,
    limits::{COPIES_PER_RECORD_MAX, ENTRY_BYTES_MAX, PARTITIONS_PER_RECORD_MAX},
};
use strandline_protocol::{
    BrokerEpoch, BrokerId, ClusterId, DirectoryId, ErrorCode, LeaderEpoch, Offset, PartitionEpoch,
    PartitionId, ProducerId, TopicId,
    messages::{CreateTopicsRequest, Duty, NewTopic},
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
        raft_id: None,
        software: String::new(),
        metadata_version_max: 1,
        lossy: Vec::new(),
    }
}

/// The same with what the second metadata version has added.
fn registration_v2() -> Registration {
    Registration {
        raft_id: Some(u64::MAX),
        software: "strandline/0.2.0".into(),
        metadata_version_max: 2,
        ..registration()
    }
}

fn voter(raft_id: u64) -> Voter {
    Voter {
        raft_id,
        broker: BrokerId(1),
    }
}

/// One of every kind of the first metadata version, with every field set.
fn samples() -> Vec<Entry> {
    vec![
        Entry::Blank,
        Entry::Membership(Membership::of(ClusterId([1; 16]), vec![voter(u64::MAX)])),
        Entry::Command(vec![
            Record::MetadataVersionSet { version: 1 },
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

/// One of every kind that the second metadata version adds.
fn samples_v2() -> Vec<Entry> {
    let (broker, epoch, id) = (BrokerId(1), BrokerEpoch(1), TopicId([2; 16]));
    let change = |leader, epochs| PartitionChange {
        partition: PartitionId(1),
        leader,
        leader_epoch: LeaderEpoch(epochs),
        partition_epoch: PartitionEpoch(epochs),
        isr: vec![broker],
        ..PartitionChange::default()
    };
    let changed = |leader, epochs| Record::PartitionsChanged {
        topics: vec![ChangedTopic {
            id,
            partitions: vec![change(leader, epochs)],
        }],
    };
    vec![
        Entry::Command(vec![
            Record::MetadataVersionSet { version: 2 },
            Record::BrokerJoined(registration_v2()),
        ]),
        Entry::Command(vec![
            Record::BrokerUnfenced { broker, epoch },
            Record::TopicCreated {
                name: "orders".into(),
                id,
                configs: BTreeMap::new(),
                partitions: vec![vec![replica(1)], vec![replica(1)]],
            },
        ]),
        Entry::Command(vec![Record::BrokerStopping { broker, epoch }]),
        Entry::Command(vec![changed(None, 1)]),
        Entry::Command(vec![
            Record::VotersWanted {
                brokers: vec![broker],
            },
            changed(Some(broker), 2),
        ]),
        Entry::Command(vec![
            Record::TopicDeleted { id },
            Record::BrokerFenced { broker, epoch },
            Record::BrokerUnregistered { broker, epoch },
        ]),
        Entry::Command(vec![Record::BrokerRegistered(registration_v2())]),
    ]
}

/// One of every kind, and every field, that the third metadata version adds.
fn samples_v3() -> Vec<Entry> {
    let (broker, epoch, id) = (BrokerId(1), BrokerEpoch(1), TopicId([2; 16]));
    let changed = |change| {
        let partitions = vec![change];
        Entry::Command(vec![Record::PartitionsChanged {
            topics: vec![ChangedTopic { id, partitions }],
        }])
    };
    let change = |epochs| PartitionChange {
        partition: PartitionId(0),
        leader_epoch: LeaderEpoch(epochs),
        partition_epoch: PartitionEpoch(epochs),
        ..PartitionChange::default()
    };
    let lossy = Registration {
        metadata_version_max: 3,
        lossy: vec![DirectoryId([3; 16])],
        ..registration_v2()
    };
    vec![
        Entry::Command(vec![
            Record::MetadataVersionSet { version: 3 },
            Record::BrokerJoined(lossy),
            Record::BrokerUnfenced { broker, epoch },
            Record::BrokerDutySet {
                broker,
                duty: Duty::Drained,
            },
            Record::ReplicationThrottled {
                bytes_per_second: 1 << 20,
            },
            Record::TopicCreated {
                name: "orders".into(),
                id,
                configs: BTreeMap::from([("flush".into(), "ack".into())]),
                partitions: vec![vec![replica(1), replica(2)]],
            },
        ]),
        changed(PartitionChange {
            elr: vec![broker],
            ..change(1)
        }),
        changed(PartitionChange {
            leader: Some(broker),
            isr: vec![broker],
            recovering: true,
            replicas: Some(vec![replica(1), replica(3), replica(2)]),
            adding: vec![BrokerId(3)],
            removing: vec![BrokerId(2)],
            ..change(2)
        }),
        Entry::Command(vec![Record::BrokerDutySet {
            broker,
            duty: Duty::Full,
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
fn check_fixture(path: &str, samples: &[Entry]) {
    let lines = samples
        .iter()
        .map(|entry| format!("{}\n", hex(&entry.encode())));
    let written: String = lines.collect();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &written).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert_eq!(golden, written);
    let mut cluster = Cluster::founded();
    for (line, entry) in golden.lines().zip(samples) {
        let read = Entry::decode(&bytes_of(line)).unwrap();
        assert_eq!(&read, entry);
        cluster.append(&read);
    }
    assert!(cluster.image.is_consistent());
    assert_eq!(cluster.replayed(), cluster.image);
}

#[test]
fn entries_of_the_first_version_read_and_write_the_same() {
    check_fixture("tests/fixtures/metadata_entries_v1.hex", &samples());
}

#[test]
fn entries_of_the_second_version_read_and_write_the_same() {
    check_fixture("tests/fixtures/metadata_entries_v2.hex", &samples_v2());
}

#[test]
fn entries_of_the_third_version_read_and_write_the_same() {
    check_fixture("tests/fixtures/metadata_entries_v3.hex", &samples_v3());
}

#[test]
fn a_kind_of_the_second_version_is_no_part_of_a_log_of_the_first() {
    let mut cluster = Cluster::founded();
    let joined = Entry::Command(vec![
        Record::MetadataVersionSet { version: 1 },
        Record::BrokerJoined(registration_v2()),
    ]);
    let refused = cluster.image.try_apply(Offset(1), LeaderEpoch(1), &joined);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "entry 1 holds what metadata version 2 has and version 1 has not"
    );
    cluster = Cluster::founded();
    cluster.append(&samples_v2()[0]);
    assert_eq!(cluster.image.metadata_version(), 2);
}

/// A broker of the first version made the log; the next start raises the version, and what needs it
/// waits for that.
#[test]
fn a_log_of_the_first_version_goes_on_with_the_second() {
    let mut cluster = Cluster::founded();
    samples()
        .iter()
        .skip(2)
        .take(2)
        .for_each(|entry| cluster.append(entry));
    let (broker, epoch) = (BrokerId(1), BrokerEpoch(1));
    let refused = cluster
        .propose(&Command::FenceBroker { broker, epoch })
        .unwrap_err();
    assert_eq!(refused.error, ErrorCode::UNSUPPORTED_VERSION);
    assert!(
        refused.message.contains("needs metadata version 2"),
        "{}",
        refused.message
    );
    let start = Registration {
        raft_id: Some(42),
        ..registration_v2()
    };
    cluster.propose(&Command::RegisterBroker(start)).unwrap();
    assert_eq!(cluster.image.metadata_version(), 2);
    let topic = cluster.image.topic("orders").unwrap();
    assert!(
        topic
            .partitions()
            .all(|(_, partition)| partition.leader_epoch == LeaderEpoch(1))
    );
    assert_eq!(cluster.image.led_count(broker), 2);
    // One of the first version starts on its own log as ever.
    let mut cluster = Cluster::founded();
    cluster
        .propose(&Command::RegisterBroker(registration()))
        .unwrap();
    assert_eq!(cluster.image.metadata_version(), 1);
    assert_eq!(cluster.log.len(), 2);
}

#[test]
fn what_cannot_be_is_refused_and_not_written_down() {
    let refusal = |records: Vec<Record>| {
        let mut cluster = Cluster::founded();
        samples_v2()
            .iter()
            .take(2)
            .for_each(|entry| cluster.append(entry));
        let entry = Entry::Command(records);
        let refused = cluster.image.try_apply(Offset(3), LeaderEpoch(1), &entry);
        refused.expect_err("it cannot be").to_string()
    };
    let (broker, epoch, id) = (BrokerId(1), BrokerEpoch(1), TopicId([2; 16]));
    let changed = |leader, leader_epoch, partition_epoch, isr: &[i32]| Record::PartitionsChanged {
        topics: vec![ChangedTopic {
            id,
            partitions: vec![PartitionChange {
                partition: PartitionId(0),
                leader,
                leader_epoch: LeaderEpoch(leader_epoch),
                partition_epoch: PartitionEpoch(partition_epoch),
                isr: isr.iter().copied().map(BrokerId).collect(),
                ..PartitionChange::default()
            }],
        }],
    };
    let fenced = refusal(vec![Record::BrokerFenced { broker, epoch }]);
    assert_eq!(fenced, "entry 3 fences broker 1, which leads 2 partitions");
    let gone = refusal(vec![Record::BrokerUnregistered { broker, epoch }]);
    assert!(
        gone.contains("removes broker 1, which keeps 2 partitions"),
        "{gone}"
    );
    // No new partition epoch; another leader under the old epoch; nobody in sync; a stranger.
    for change in [changed(Some(broker), 0, 0, &[1]), changed(None, 0, 1, &[1])] {
        assert!(refusal(vec![change]).contains("back to"));
    }
    let nobody = refusal(vec![changed(None, 1, 1, &[])]);
    assert!(
        nobody.contains("version 3 has and version 2 has not"),
        "{nobody}"
    );
    for change in [
        changed(None, 1, 1, &[1, 2]),
        changed(Some(BrokerId(2)), 1, 1, &[1]),
        changed(None, 1, 1, &[1, 1]),
    ] {
        assert!(refusal(vec![change]).contains("makes"));
    }
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

/// The costliest records of changes: every partition is of another topic, and all that can be told
/// is told.
#[test]
fn a_full_record_of_changes_stays_below_an_entry() {
    let broker = BrokerId(i32::MAX);
    let replica = Replica {
        broker,
        directory: DirectoryId([u8::MAX; 16]),
    };
    let change = |number: usize, isr: usize, replicas: usize| ChangedTopic {
        id: TopicId([u8::MAX; 16]),
        partitions: vec![PartitionChange {
            partition: PartitionId(i32::MAX - number as i32),
            leader: Some(broker),
            leader_epoch: LeaderEpoch(i32::MAX),
            partition_epoch: PartitionEpoch(i32::MAX),
            isr: vec![broker; isr],
            elr: vec![broker; 1],
            recovering: true,
            replicas: (replicas > 0).then(|| vec![replica; replicas]),
            adding: vec![broker; replicas.min(1)],
            removing: vec![broker; replicas.min(1)],
        }],
    };
    for (isr, replicas) in [(2, 0), (100, 0), (1, 3), (9, 10), (1, 1_000)] {
        let copies = isr + 1 + replicas * 4 + 2 * replicas.min(1);
        let count = (COPIES_PER_RECORD_MAX / copies).clamp(1, PARTITIONS_PER_RECORD_MAX);
        let topics = (0..count).map(|number| change(number, isr, replicas));
        let topics = topics.collect();
        let bytes = Entry::Command(vec![Record::PartitionsChanged { topics }]).encode();
        println!("{count} changes: {} bytes", bytes.len());
        assert!(bytes.len() < ENTRY_BYTES_MAX, "{count}: {}", bytes.len());
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, kind in 0_u8..4) {
        let _ = Entry::decode(&bytes);
        let _ = Entry::decode(&[&[1, kind], bytes.as_slice()].concat());
    }

    #[test]
    fn no_damaged_entry_panics(which in any::<usize>(), at in any::<usize>(), flip in 1_u8..) {
        let samples = [samples(), samples_v2(), samples_v3()].concat();
        let mut bytes = samples[which % samples.len()].encode();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        let _ = Entry::decode(&bytes);
    }
}
