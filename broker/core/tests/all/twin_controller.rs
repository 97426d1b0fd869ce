//! The controller against a naive twin that keeps one map and nothing else; a restart in between
//! changes nothing but the epochs.

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use strandline_core::metadata::{Command, METADATA_VERSION, Registration, Reply};
use strandline_protocol::{
    BrokerId, DirectoryId, ErrorCode,
    messages::{
        AlterConfigsRequest, ConfigChange, CreatePartitionsRequest, CreateTopicsRequest,
        DeleteTopicsRequest, NewPartitions, NewTopic,
    },
};

/// The dumbest thing that could be right: partitions, `retention.ms` and starts of the broker since
/// each partition was made.
#[derive(Clone, Debug, Default, PartialEq)]
struct Topic {
    epochs: Vec<i32>,
    retention: Option<String>,
}

#[derive(Default)]
struct Twin(BTreeMap<String, Topic>);

impl Twin {
    fn create(&mut self, name: &str, partitions: i32) -> ErrorCode {
        if self.0.contains_key(name) {
            return ErrorCode::TOPIC_ALREADY_EXISTS;
        }
        if partitions < 1 {
            return ErrorCode::INVALID_PARTITIONS;
        }
        let topic = Topic {
            epochs: vec![0; partitions as usize],
            retention: None,
        };
        self.0.insert(name.into(), topic);
        ErrorCode::NONE
    }

    fn widen(&mut self, name: &str, total: i32) -> ErrorCode {
        let Some(topic) = self.0.get_mut(name) else {
            return ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
        };
        if total <= topic.epochs.len() as i32 {
            return ErrorCode::INVALID_PARTITIONS;
        }
        topic.epochs.resize(total as usize, 0);
        ErrorCode::NONE
    }

    fn delete(&mut self, name: &str) -> ErrorCode {
        match self.0.remove(name) {
            Some(_) => ErrorCode::NONE,
            None => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        }
    }

    fn alter(&mut self, name: &str, value: Option<String>) -> ErrorCode {
        match self.0.get_mut(name) {
            Some(topic) => {
                topic.retention = value;
                ErrorCode::NONE
            }
            None => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        }
    }

    fn restart(&mut self) {
        let topics = self.0.values_mut();
        topics
            .flat_map(|topic| &mut topic.epochs)
            .for_each(|epoch| *epoch += 1);
    }
}

fn registration() -> Command {
    Command::RegisterBroker(Registration {
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
    })
}

fn create(name: &str, partitions: i32) -> Command {
    Command::CreateTopics(CreateTopicsRequest {
        topics: vec![NewTopic {
            name: name.into(),
            partitions: Some(partitions),
            replication_factor: Some(1),
            configs: BTreeMap::new(),
        }],
        validate_only: false,
    })
}

fn widen(name: &str, total: i32) -> Command {
    let name = name.into();
    Command::CreatePartitions(CreatePartitionsRequest {
        topics: vec![NewPartitions { name, total }],
    })
}

fn alter(topic: &str, value: Option<String>) -> Command {
    Command::AlterConfigs(AlterConfigsRequest {
        topic: topic.into(),
        changes: vec![ConfigChange {
            key: "retention.ms".into(),
            value,
        }],
        validate_only: false,
    })
}

fn outcome(reply: Reply) -> ErrorCode {
    match reply {
        Reply::CreateTopics(response) => response.topics[0].failure.error,
        Reply::DeleteTopics(response) => response.topics[0].failure.error,
        Reply::CreatePartitions(response) => response.topics[0].failure.error,
        Reply::AlterConfigs(response) => response.failure.error,
        _ => ErrorCode::NONE,
    }
}

/// The image in the words of the twin.
fn as_twin(cluster: &Cluster) -> BTreeMap<String, Topic> {
    let tell = |topic: &std::sync::Arc<strandline_core::metadata::Topic>| Topic {
        epochs: topic
            .partitions()
            .map(|(_, partition)| partition.leader_epoch.0)
            .collect(),
        retention: topic.configs.get("retention.ms").cloned(),
    };
    let topics = cluster.image.topics();
    topics
        .map(|topic| (topic.name.to_string(), tell(topic)))
        .collect()
}

#[test]
fn controller_and_twin_agree() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(0x5eed_u64);
    println!("SEED={seed}");
    let mut state = seed;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut cluster, mut twin) = (Cluster::founded(), Twin::default());
    cluster.propose(&registration()).unwrap();
    for step in 0..3_000 {
        let name = format!("t{}", random(8));
        let count = random(12) as i32;
        let (command, expected) = match random(40) {
            0..=11 => (create(&name, count), twin.create(&name, count)),
            12..=21 => (widen(&name, count), twin.widen(&name, count)),
            22..=29 => {
                let names = vec![name.clone()];
                let delete = Command::DeleteTopics(DeleteTopicsRequest { names });
                (delete, twin.delete(&name))
            }
            30..=38 => {
                let value = (count > 3).then(|| count.to_string());
                (alter(&name, value.clone()), twin.alter(&name, value))
            }
            _ => {
                twin.restart();
                (registration(), ErrorCode::NONE)
            }
        };
        let reply = cluster.propose(&command).unwrap();
        assert_eq!(outcome(reply), expected, "step {step}: {command:?}");
        assert_eq!(as_twin(&cluster), twin.0, "step {step}: {command:?}");
        // Directories are filled evenly as long as nothing is deleted; they are never forgotten.
        let loads = [1, 2].map(|id| cluster.image.load(BrokerId(1), DirectoryId([id; 16])));
        assert_eq!(loads[0] + loads[1], cluster.image.partition_count());
        if step % 500 == 0 {
            assert_eq!(cluster.replayed(), cluster.image, "step {step}");
        }
    }
}
