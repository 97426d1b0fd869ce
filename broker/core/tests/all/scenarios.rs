//! Interactions with the controller told as text: each file is a scenario with its answers.
//! `UPDATE=1 cargo test -p strandline-core --test all scenarios` rewrites them.

use crate::cluster::Cluster;
use strandline_core::metadata::{Command, METADATA_VERSION, Registration, Reply, incarnation};
use strandline_protocol::{
    BrokerEpoch, BrokerId, DirectoryId, LeaderEpoch, PartitionEpoch, PartitionId, TopicId,
    TopicPartition,
    messages::{
        AlterConfigsRequest, AlterPartition, AlterPartitionsRequest, AlteredPartition,
        ChangeVotersRequest, ConfigChange, CreatePartitionsRequest, CreateTopicsRequest,
        DeleteTopicsRequest, DrainBrokerRequest, Duty, ElectLeadersRequest, Election, Failure,
        InSyncReplica, NewPartitions, NewTopic, PartitionName, PartitionOutcome,
        ReassignPartitionsRequest, Reassignment, TopicResult,
    },
};

fn directory(name: &str) -> DirectoryId {
    DirectoryId([name.as_bytes()[0]; 16])
}

/// `register 1 host:9290 dirs=a,b rack=r start=2 found=5 raft=7 max=1`: its second start, which
/// found epoch 5 in its directory, with another Raft id and an old version.
fn registration(words: &[&str]) -> Registration {
    let (host, port) = words[1].split_once(':').unwrap();
    let option = |name| {
        words
            .iter()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    Registration {
        broker: BrokerId(words[0].parse().unwrap()),
        incarnation: incarnation(
            option("found").map(|epoch| BrokerEpoch(epoch.parse().unwrap())),
            option("start").map_or(0, |start| start.parse().unwrap()),
        ),
        host: host.into(),
        port: port.parse().unwrap(),
        rack: option("rack").map(Into::into),
        directories: option("dirs")
            .into_iter()
            .flat_map(|dirs| dirs.split(','))
            .map(directory)
            .collect(),
        raft_id: match option("raft") {
            Some(raft_id) => raft_id.parse().ok(),
            None => words[0]
                .parse()
                .ok()
                .map(|id: i32| (41 + id).unsigned_abs().into()),
        },
        software: "strandline/0.0.0".into(),
        metadata_version_max: option("max")
            .map_or(METADATA_VERSION, |version| version.parse().unwrap()),
        lossy: option("lossy")
            .into_iter()
            .flat_map(|dirs| dirs.split(','))
            .map(directory)
            .collect(),
    }
}

/// `orders:3 rf=1 retention.ms=1000`
fn topic(text: &str) -> NewTopic {
    let mut words = text.split_whitespace();
    let name = words.next().unwrap();
    let (name, partitions) = match name.split_once(':') {
        Some((name, count)) => (name, Some(count.parse().unwrap())),
        None => (name, None),
    };
    let mut topic = NewTopic {
        name: name.into(),
        partitions,
        replication_factor: None,
        configs: std::collections::BTreeMap::new(),
    };
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        if key == "rf" {
            topic.replication_factor = Some(value.parse().unwrap());
        } else {
            topic.configs.insert(key.into(), value.into());
        }
    }
    topic
}

/// `retention.ms=1000` sets, `retention.ms=` goes back to the default.
fn change(word: &str) -> ConfigChange {
    let (key, value) = word.split_once('=').unwrap();
    ConfigChange {
        key: key.into(),
        value: (!value.is_empty()).then(|| value.into()),
    }
}

/// `fence 1` acts under the present epoch of broker 1, `fence 1 epoch=3` under another one.
fn acting(cluster: &Cluster, words: &[&str]) -> (BrokerId, BrokerEpoch) {
    let broker = BrokerId(words[0].parse().unwrap());
    let told = words.iter().find_map(|word| word.strip_prefix("epoch="));
    let known = cluster.image.broker(broker).map(|known| known.epoch);
    let epoch = told.map(|epoch| BrokerEpoch(epoch.parse().unwrap()));
    (broker, epoch.or(known).unwrap_or_default())
}

fn brokers(words: &[&str], option: &str) -> Vec<BrokerId> {
    let list = words.iter().find_map(|word| word.strip_prefix(option));
    let list = list.into_iter().flat_map(|list| list.split(','));
    list.filter(|id| !id.is_empty())
        .map(|id| BrokerId(id.parse().unwrap()))
        .collect()
}

fn command_of_broker(cluster: &Cluster, verb: &str, words: &[&str]) -> Option<Command> {
    let (broker, epoch) = acting(cluster, words);
    Some(match verb {
        "fence" => Command::FenceBroker { broker, epoch },
        "unfence" => Command::UnfenceBroker { broker, epoch },
        "stop" => Command::StopBroker { broker, epoch },
        "producer-ids" => Command::ReserveProducerIds { broker, epoch },
        "unregister" => Command::UnregisterBroker { broker },
        "drain" => Command::DrainBroker(DrainBrokerRequest {
            broker_id: broker,
            duty: Duty::Drained,
        }),
        "undrain" => Command::DrainBroker(DrainBrokerRequest {
            broker_id: broker,
            duty: Duty::Full,
        }),
        "take-out" => Command::TakeOut {
            broker,
            epoch,
            directories: words
                .iter()
                .filter_map(|word| word.strip_prefix("dir="))
                .map(directory)
                .collect(),
            partitions: words
                .iter()
                .filter_map(|word| word.strip_prefix("partition="))
                .map(|word| {
                    let name = partition(cluster, word);
                    TopicPartition {
                        topic: name.topic_id,
                        partition: name.partition,
                    }
                })
                .collect(),
        },
        _ => return None,
    })
}

fn command(cluster: &Cluster, line: &str) -> Command {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let validate_only = rest.ends_with(" validate");
    let rest = rest.trim_end_matches(" validate");
    let words: Vec<&str> = rest.split_whitespace().collect();
    match verb {
        "register" => Command::RegisterBroker(registration(&words)),
        "create" => Command::CreateTopics(CreateTopicsRequest {
            topics: rest.split(" + ").map(topic).collect(),
            validate_only,
        }),
        "delete" => Command::DeleteTopics(DeleteTopicsRequest {
            names: words.iter().map(|&word| word.into()).collect(),
        }),
        "widen" => Command::CreatePartitions(CreatePartitionsRequest {
            topics: words
                .chunks(2)
                .map(|pair| NewPartitions {
                    name: pair[0].into(),
                    total: pair[1].parse().unwrap(),
                })
                .collect(),
        }),
        "alter" => Command::AlterConfigs(AlterConfigsRequest {
            topic: words[0].into(),
            changes: words[1..].iter().map(|word| change(word)).collect(),
            validate_only,
        }),
        "elect" => Command::FinishElections,
        "balance" => Command::BalanceLeaders,
        "prefer" => elect(cluster, Election::Preferred, &words),
        "rescue" => elect(cluster, Election::Unclean, &words),
        "isr" => change_isr(cluster, &words),
        "move" => reassign(cluster, &words),
        "voters" => Command::ChangeVoters(ChangeVotersRequest {
            add: brokers(&words, "add="),
            remove: brokers(&words, "remove="),
        }),
        _ => {
            command_of_broker(cluster, verb, &words).unwrap_or_else(|| panic!("no command: {line}"))
        }
    }
}

/// `orders-1`
fn partition(cluster: &Cluster, word: &str) -> PartitionName {
    let (topic, number) = word.rsplit_once('-').unwrap();
    PartitionName {
        topic_id: cluster
            .image
            .topic(topic)
            .map_or(TopicId::default(), |topic| topic.id),
        partition: PartitionId(number.parse().unwrap()),
    }
}

fn elect(cluster: &Cluster, election: Election, words: &[&str]) -> Command {
    let partitions = words.iter().map(|word| partition(cluster, word));
    Command::ElectLeaders(ElectLeadersRequest {
        election,
        partitions: partitions.collect(),
    })
}

/// `isr orders-0 to=1,2`: its leader asks for it; `by=3 epoch=1 leader-epoch=0 partition-epoch=0
/// seen=2:17` asks in the name of another one, of other epochs, and with broker 2 seen in epoch 17.
fn change_isr(cluster: &Cluster, words: &[&str]) -> Command {
    let name = partition(cluster, words[0]);
    let topic = cluster.image.topic_by_id(name.topic_id);
    let known = topic.and_then(|topic| topic.partition(name.partition));
    let option = |option: &str| {
        let told = words.iter().find_map(|word| word.strip_prefix(option));
        told.map(|told| told.parse::<i64>().unwrap())
    };
    let small = |name| option(name).map(|number| i32::try_from(number).unwrap());
    let leader = small("by=").map(BrokerId);
    let leader = leader.or(known.and_then(|known| known.leader));
    let leader = leader.unwrap_or_default();
    let epoch_of = |broker| {
        let known = cluster.image.broker(broker);
        known.map_or(BrokerEpoch(-1), |known| known.epoch)
    };
    let seen = words.iter().find_map(|word| word.strip_prefix("seen="));
    let seen = seen.and_then(|seen| seen.split_once(':'));
    let member = |broker: BrokerId| {
        let other = seen.filter(|(id, _)| *id == broker.to_string());
        InSyncReplica {
            broker_id: broker,
            broker_epoch: other.map_or_else(
                || epoch_of(broker),
                |(_, epoch)| BrokerEpoch(epoch.parse().unwrap()),
            ),
        }
    };
    Command::AlterPartitions(AlterPartitionsRequest {
        broker_id: leader,
        broker_epoch: option("epoch=").map_or_else(|| epoch_of(leader), BrokerEpoch),
        partitions: vec![AlterPartition {
            topic_id: name.topic_id,
            partition: name.partition,
            leader_epoch: small("leader-epoch=")
                .map(LeaderEpoch)
                .or(known.map(|known| known.leader_epoch))
                .unwrap_or_default(),
            partition_epoch: small("partition-epoch=")
                .map(PartitionEpoch)
                .or(known.map(|known| known.partition_epoch))
                .unwrap_or_default(),
            isr: brokers(words, "to=").into_iter().map(member).collect(),
        }],
    })
}

/// `move orders-0 to=1,2`, `move orders-0` takes it back; `throttle=5` limits.
fn reassign(cluster: &Cluster, words: &[&str]) -> Command {
    let name = partition(cluster, words[0]);
    let target = words.iter().any(|word| word.starts_with("to="));
    let throttle = words.iter().find_map(|word| word.strip_prefix("throttle="));
    Command::ReassignPartitions(ReassignPartitionsRequest {
        partitions: vec![Reassignment {
            topic_id: name.topic_id,
            partition: name.partition,
            replicas: target.then(|| brokers(words, "to=")),
        }],
        throttle_bytes_per_second: throttle.map(|bytes| bytes.parse().unwrap()),
    })
}

fn outcomes(partitions: &[PartitionOutcome]) -> String {
    let tell = |partition: &PartitionOutcome| match partition.failure.error.is_none() {
        true => "=\n".to_owned(),
        false => failure(&partition.failure),
    };
    partitions.iter().map(tell).collect()
}

fn failure(failure: &Failure) -> String {
    format!("! {}: {}\n", failure.error, failure.message)
}

fn results(topics: &[TopicResult]) -> String {
    let tell = |topic: &TopicResult| match topic.failure.error.is_none() {
        true => format!("= {} partitions={}\n", topic.name, topic.partitions),
        false => failure(&topic.failure),
    };
    topics.iter().map(tell).collect()
}

fn answer(cluster: &mut Cluster, line: &str) -> String {
    if line == "show" {
        return cluster.tell();
    }
    if let Some(name) = line.strip_prefix("fail-directory ") {
        cluster.controller.directory_failed(directory(name));
        return "=\n".into();
    }
    if let Some(words) = line.strip_prefix("full ") {
        let (broker, directories) = words.split_once(' ').unwrap_or((words, ""));
        let full = directories.split_whitespace().map(directory).collect();
        let broker = BrokerId(broker.parse().unwrap());
        cluster.controller.directories_full(broker, full);
        return "=\n".into();
    }
    if let Some(words) = line.strip_prefix("damaged ") {
        let words: Vec<&str> = words.split_whitespace().collect();
        let copies = words[1..].iter().map(|word| {
            let name = partition(cluster, word);
            TopicPartition {
                topic: name.topic_id,
                partition: name.partition,
            }
        });
        let (broker, copies) = (BrokerId(words[0].parse().unwrap()), copies.collect());
        cluster.controller.copies_damaged(broker, copies);
        return "=\n".into();
    }
    if let Some(words) = line.strip_prefix("leases") {
        let words: Vec<&str> = words.split_whitespace().collect();
        let held = words.iter().map(|id| BrokerId(id.parse().unwrap()));
        cluster.leased = held.collect();
        return "=\n".into();
    }
    let command = command(cluster, line);
    match cluster.propose(&command) {
        Err(refused) => failure(&refused),
        Ok(Reply::CreateTopics(response)) => results(&response.topics),
        Ok(Reply::DeleteTopics(response)) => results(&response.topics),
        Ok(Reply::CreatePartitions(response)) => results(&response.topics),
        Ok(Reply::AlterConfigs(response)) if response.failure.error.is_none() => "=\n".into(),
        Ok(Reply::AlterConfigs(response)) => failure(&response.failure),
        Ok(Reply::ProducerIds(block)) => format!("= {} count={}\n", block.first, block.count),
        Ok(Reply::Stopping(stopping)) => format!("= goes on leading {}\n", stopping.leads),
        Ok(Reply::VotersWanted(voters)) => format!("= voters {voters:?}\n"),
        Ok(Reply::Elected(response)) => outcomes(&response.partitions),
        Ok(Reply::Reassigned(response)) => outcomes(&response.partitions),
        Ok(Reply::AlterPartitions(response)) => {
            let tell = |one: &AlteredPartition| match one.failure.error.is_none() {
                true => format!("= partition epoch {}\n", one.partition_epoch),
                false => failure(&one.failure),
            };
            response.partitions.iter().map(tell).collect()
        }
        Ok(Reply::Drained(response)) => {
            format!("= leads {}, keeps {}\n", response.leads, response.keeps)
        }
        Ok(Reply::Registered | Reply::Done) => "=\n".into(),
    }
}

#[test]
fn scenarios_tell_the_truth() {
    let mut told_any = false;
    for entry in std::fs::read_dir("tests/scenarios").unwrap() {
        let path = entry.unwrap().path();
        let told = std::fs::read_to_string(&path).unwrap();
        let mut cluster = Cluster::founded();
        let mut seen = String::new();
        for line in told.lines().filter(|line| !line.starts_with(['=', '!'])) {
            seen += &format!("{line}\n");
            if !line.starts_with('#') && !line.is_empty() {
                seen += &answer(&mut cluster, line);
            }
        }
        assert!(cluster.image.is_consistent());
        assert_eq!(cluster.replayed(), cluster.image, "{}", path.display());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &seen).unwrap();
        } else {
            assert_eq!(told, seen, "{}", path.display());
        }
        told_any = true;
    }
    assert!(told_any, "no scenario was found");
}
