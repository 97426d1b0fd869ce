//! Metadata answers and pushes: paged, below the bound of a message, and complete.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Cluster;
use strandline_core::{
    TopicConfig,
    metadata::{Command, METADATA_VERSION, Registration, changes, describe_configs, metadata_page},
};
use strandline_protocol::{
    BrokerId, DirectoryId, ErrorCode,
    limits::MESSAGE_BYTES_MAX,
    messages::{
        AlterConfigsRequest, ConfigChange, ConfigSource, CreateTopicsRequest, DeleteTopicsRequest,
        DescribeConfigsRequest, MetadataPush, MetadataRequest, MetadataResponse, NewTopic, encode,
    },
};

fn register(cluster: &mut Cluster, port: u16) {
    let registration = Registration {
        broker: BrokerId(1),
        incarnation: [0; 16],
        host: "localhost".into(),
        port,
        rack: None,
        directories: vec![DirectoryId([1; 16])],
        raft_id: Some(42),
        software: "strandline/0.0.0".into(),
        metadata_version_max: METADATA_VERSION,
        lossy: Vec::new(),
    };
    cluster
        .propose(&Command::RegisterBroker(registration))
        .unwrap();
}

fn create(cluster: &mut Cluster, topics: &[(String, i32)]) {
    let topics = topics.iter().map(|(name, partitions)| NewTopic {
        name: name.clone(),
        partitions: Some(*partitions),
        replication_factor: None,
        configs: BTreeMap::new(),
    });
    let command = Command::CreateTopics(CreateTopicsRequest {
        topics: topics.collect(),
        validate_only: false,
    });
    cluster.propose(&command).unwrap();
}

fn delete(cluster: &mut Cluster, name: &str) {
    let names = vec![name.into()];
    let command = Command::DeleteTopics(DeleteTopicsRequest { names });
    cluster.propose(&command).unwrap();
}

fn cluster(topics: &[(&str, i32)]) -> Cluster {
    let mut cluster = Cluster::founded();
    register(&mut cluster, 9290);
    let topics: Vec<_> = topics
        .iter()
        .map(|&(name, partitions)| (name.to_owned(), partitions))
        .collect();
    create(&mut cluster, &topics);
    cluster
}

fn ask(
    cluster: &Cluster,
    topics: Option<&[&str]>,
    cursor: Option<String>,
) -> Result<MetadataResponse, ErrorCode> {
    let request = MetadataRequest {
        topics: topics.map(|names| names.iter().map(|&name| name.into()).collect()),
        cursor,
    };
    let page = metadata_page(&cluster.image, &TopicConfig::default(), &request)
        .map_err(|failure| failure.error)?;
    assert!(encode(&page).len() <= MESSAGE_BYTES_MAX);
    Ok(page)
}

/// How many partitions each topic has by the pages, and how many pages it took.
fn walk(cluster: &Cluster, topics: Option<&[&str]>) -> (BTreeMap<String, Vec<i32>>, usize) {
    let (mut told, mut cursor, mut pages) = (BTreeMap::<String, Vec<i32>>::new(), None, 0);
    loop {
        let page = ask(cluster, topics, cursor).unwrap();
        pages += 1;
        for topic in page.topics {
            let partitions = topic.partitions.iter().map(|partition| partition.id.0);
            told.entry(topic.name).or_default().extend(partitions);
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            return (told, pages);
        }
    }
}

#[test]
fn every_partition_is_told_once() {
    let cluster = cluster(&[("a", 1), ("b", 4_321), ("c", 3), ("d", 2_000), ("e", 1)]);
    let (told, pages) = walk(&cluster, None);
    assert!(pages >= 4, "{pages}");
    let counts: Vec<_> = told.values().map(Vec::len).collect();
    assert_eq!(counts, [1, 4_321, 3, 2_000, 1]);
    assert!(told["b"].iter().copied().eq(0..4_321));
    let (named, _) = walk(&cluster, Some(&["d", "nothing", "b"]));
    assert_eq!(named["nothing"], []);
    assert_eq!((named["d"].len(), named["b"].len()), (2_000, 4_321));
}

#[test]
fn many_topics_with_the_longest_names_fit_their_pages() {
    let mut cluster = Cluster::founded();
    register(&mut cluster, 9290);
    let topics: Vec<_> = (0..5_000)
        .map(|number| (format!("{number:0>249}"), 1))
        .collect();
    create(&mut cluster, &topics);
    let (told, pages) = walk(&cluster, None);
    assert_eq!((told.len(), pages), (5_000, 5));
    // Names that do not exist take room too.
    let names: Vec<String> = (0..5_000).map(|number| format!("{number:x>249}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(walk(&cluster, Some(&names)).0.len(), 5_000);
}

#[test]
fn pages_go_on_over_a_change() {
    let mut cluster = cluster(&[("a", 1), ("b", 4_000), ("c", 1)]);
    let first = ask(&cluster, None, None).unwrap();
    delete(&mut cluster, "b");
    create(&mut cluster, &[("b".into(), 2)]);
    let second = ask(&cluster, None, first.next_cursor.clone()).unwrap();
    let told: Vec<_> = second
        .topics
        .iter()
        .map(|topic| (topic.name.as_str(), topic.partitions.len()))
        .collect();
    // It is another topic now, so it is told from its first partition on.
    assert_eq!(told, [("b", 2), ("c", 1)]);
    delete(&mut cluster, "b");
    let third = ask(&cluster, None, first.next_cursor).unwrap();
    assert_eq!(third.topics[0].name, "c");
}

#[test]
fn foreign_cursors_are_refused() {
    let cluster = cluster(&[("a", 1)]);
    for cursor in ["", "1", "x:y:z", "-1:AAAAAAAAAAAAAAAAAAAAAA:a", "0:short:a"] {
        let refused = ask(&cluster, None, Some(cursor.into()));
        assert_eq!(refused.unwrap_err(), ErrorCode::INVALID_CURSOR, "{cursor}");
    }
    let beyond = Some("0:AAAAAAAAAAAAAAAAAAAAAA:7".to_owned());
    let refused = ask(&cluster, Some(&["a"]), beyond);
    assert_eq!(refused.unwrap_err(), ErrorCode::INVALID_CURSOR);
}

fn watch(before: &Cluster, after: &Cluster, names: &[&str]) -> Vec<MetadataPush> {
    let names: BTreeSet<String> = names.iter().map(|&name| name.into()).collect();
    let defaults = TopicConfig::default();
    let pushes = changes(&before.image, &after.image, &defaults, &names);
    assert!(
        pushes
            .iter()
            .all(|push| encode(push).len() <= MESSAGE_BYTES_MAX)
    );
    pushes
}

fn copy(cluster: &Cluster) -> Cluster {
    let mut copy = Cluster::founded();
    copy.image = cluster.image.clone();
    copy
}

#[test]
fn a_watch_is_told_what_changed_and_nothing_else() {
    let mut cluster = cluster(&[("a", 1), ("b", 1)]);
    let names = ["a", "b", "later"];
    let before = copy(&cluster);
    assert!(watch(&before, &cluster, &names).is_empty());
    create(&mut cluster, &[("other".into(), 1)]);
    assert!(watch(&before, &cluster, &names).is_empty());
    create(&mut cluster, &[("later".into(), 5_000)]);
    delete(&mut cluster, "a");
    let pushes = watch(&before, &cluster, &names);
    assert_eq!(pushes.len(), 3);
    let gone = &pushes[0].topics[0];
    assert_eq!(gone.name, "a");
    assert_eq!(gone.failure.error, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let partitions = pushes.iter().flat_map(|push| &push.topics);
    let count: usize = partitions.map(|topic| topic.partitions.len()).sum();
    assert_eq!(count, 5_000);
    // A restart changes the epochs of everything, and where the broker is.
    let before = copy(&cluster);
    register(&mut cluster, 9999);
    let pushes = watch(&before, &cluster, &["b"]);
    assert_eq!(pushes[0].topics[0].partitions[0].leader_epoch.0, 1);
    assert_eq!(pushes[0].brokers[0].port, 9999);
    assert_eq!(watch(&before, &cluster, &["nothing"])[0].topics, []);
}

#[test]
fn configurations_say_where_they_come_from() {
    let mut cluster = cluster(&[("a", 1)]);
    let change = ConfigChange {
        key: "retention.ms".into(),
        value: Some("5".into()),
    };
    let alter = AlterConfigsRequest {
        topic: "a".into(),
        changes: vec![change],
        validate_only: false,
    };
    cluster.propose(&Command::AlterConfigs(alter)).unwrap();
    let defaults = TopicConfig {
        segment_bytes: 1 << 20,
        ..TopicConfig::default()
    };
    let request = DescribeConfigsRequest {
        topics: vec!["a".into(), "nothing".into()],
    };
    let told = describe_configs(&cluster.image, &defaults, &request).unwrap();
    let of = |key: &str| {
        let entries = &told.topics[0].entries;
        let entry = entries.iter().find(|entry| entry.key == key).unwrap();
        (entry.value.clone(), entry.source)
    };
    assert_eq!(of("retention.ms"), ("5".into(), ConfigSource::Topic));
    assert_eq!(
        of("segment.bytes"),
        ("1048576".into(), ConfigSource::Broker)
    );
    // What an acknowledgement means does not change with the defaults of a broker.
    assert_eq!(of("flush"), ("ack".into(), ConfigSource::Topic));
    assert_eq!(of("retention.bytes"), ("-1".into(), ConfigSource::Default));
    let unknown = &told.topics[1].failure;
    assert_eq!(unknown.error, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
}
