//! Whoever counts as having everything has it (S4, S6): brokers fall silent, lose page caches and
//! disks, replicas move and minima change, and after every step those in sync and those eligible
//! are among the copies that have all that was acknowledged. Who has what is kept by a model that
//! knows no elections: an acknowledgement is what all in sync have, while there are enough of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Cluster;
use strandline_core::metadata::{
    BrokerState, Command, ImageBuilder, METADATA_VERSION, Partition, Registration, Replica, Reply,
    Topic,
};
use strandline_protocol::{
    BrokerEpoch, BrokerId, DirectoryId, TopicPartition,
    messages::{
        AlterConfigsRequest, AlterPartition, AlterPartitionsRequest, ConfigChange,
        CreateTopicsRequest, DrainBrokerRequest, Duty, ElectLeadersRequest, Election,
        InSyncReplica, NewTopic, PartitionName, ReassignPartitionsRequest, Reassignment,
    },
};

const BROKERS: i32 = 5;
const STEPS: usize = 6_000;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn broker(&mut self) -> BrokerId {
        BrokerId(self.below(BROKERS as u64) as i32 + 1)
    }
}

/// What became of what was not synced when a broker ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cache {
    Kept,
    Lost,
}

/// The cluster, and which copies have all that was acknowledged.
struct World {
    cluster: Cluster,
    random: Random,
    holders: BTreeMap<TopicPartition, BTreeSet<Replica>>,
    /// How often each broker has started, and how often its disk was replaced.
    starts: BTreeMap<BrokerId, (u8, u8)>,
    counts: BTreeMap<&'static str, usize>,
}

fn topic(name: &str, copies: i16, configs: &[(&str, &str)]) -> NewTopic {
    NewTopic {
        name: name.into(),
        partitions: Some(3),
        replication_factor: Some(copies),
        configs: configs
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            cluster: Cluster::founded(),
            random: Random(seed),
            holders: BTreeMap::new(),
            starts: BTreeMap::new(),
            counts: BTreeMap::new(),
        };
        for broker in (1..=BROKERS).map(BrokerId) {
            world.starts.insert(broker, (0, 0));
            world.register(broker, Cache::Kept);
            world.unfence(broker);
        }
        let topics = vec![
            topic("async", 3, &[("flush", "async")]),
            topic("fsynced", 3, &[]),
            topic("one", 3, &[("min.insync.replicas", "1")]),
            topic("wide", 5, &[("flush", "async")]),
            topic("narrow", 1, &[("flush", "async")]),
        ];
        let create = CreateTopicsRequest {
            topics,
            validate_only: false,
        };
        world
            .cluster
            .propose(&Command::CreateTopics(create))
            .unwrap();
        for (of, _, partition) in world.partitions() {
            let all = partition.replicas.iter().copied().collect();
            world.holders.insert(of, all);
        }
        world
    }

    fn partitions(&self) -> Vec<(TopicPartition, Topic, Partition)> {
        let topics = self.cluster.image.topics();
        let partitions = topics.flat_map(|topic| {
            topic.partitions().map(|(partition, known)| {
                let of = TopicPartition {
                    topic: topic.id,
                    partition,
                };
                (of, topic.as_ref().clone(), known.as_ref().clone())
            })
        });
        partitions.collect()
    }

    fn pick(&mut self) -> (TopicPartition, Topic, Partition) {
        let mut all = self.partitions();
        let at = self.random.below(all.len() as u64) as usize;
        all.swap_remove(at)
    }

    fn epoch(&self, broker: BrokerId) -> BrokerEpoch {
        let known = self.cluster.image.broker(broker);
        known.map_or(BrokerEpoch(-1), |known| known.epoch)
    }

    fn propose(&mut self, what: &'static str, command: &Command) -> Option<Reply> {
        let before = self.cluster.image.version();
        let reply = self.cluster.propose(command).ok();
        if self.cluster.image.version() > before {
            *self.counts.entry(what).or_default() += 1;
        }
        reply
    }

    fn unfence(&mut self, broker: BrokerId) {
        let epoch = self.epoch(broker);
        self.propose("unfence", &Command::UnfenceBroker { broker, epoch });
    }

    /// What a copy had is gone; unless it is the only one, and there is nothing better.
    fn loses(&mut self, of: TopicPartition, partition: &Partition, replica: Replica) {
        let others = partition.replicas.iter().filter(|one| **one != replica);
        let grown = others.filter(|one| !partition.adding.contains(&one.broker));
        let claims = partition.isr.iter().chain(&partition.elr);
        if grown.count() > 0 || claims.into_iter().any(|one| *one != replica.broker) {
            self.holders.get_mut(&of).unwrap().remove(&replica);
        }
    }

    fn register(&mut self, broker: BrokerId, cache: Cache) {
        let (starts, disks) = self.starts[&broker];
        let directory = DirectoryId([broker.0 as u8 * 16 + disks; 16]);
        if cache == Cache::Lost {
            for (of, topic, partition) in self.partitions() {
                let replica = partition.replica_on(broker).copied();
                let replica = replica.filter(|one| one.directory == directory);
                if let Some(replica) = replica.filter(|_| !topic.always_fsynced) {
                    self.loses(of, &partition, replica);
                }
            }
        }
        let registration = Registration {
            broker,
            incarnation: [starts; 16],
            host: "localhost".into(),
            port: 9290,
            rack: None,
            directories: vec![directory],
            raft_id: Some(41 + broker.0 as u64),
            software: String::new(),
            metadata_version_max: METADATA_VERSION,
            lossy: match cache {
                Cache::Lost => vec![directory],
                Cache::Kept => Vec::new(),
            },
        };
        self.propose("register", &Command::RegisterBroker(registration));
    }

    /// One of those who do not take part does so again.
    fn come_back(&mut self) {
        let brokers = self.cluster.image.brokers();
        let away = brokers.filter(|known| known.state != BrokerState::Active);
        let away: Vec<_> = away
            .map(|known| (known.registration.broker, known.state))
            .collect();
        if away.is_empty() {
            return;
        }
        let (broker, state) = away[self.random.below(away.len() as u64) as usize];
        if state == BrokerState::Stopping {
            self.restart(broker);
        }
        self.unfence(broker);
    }

    fn restart(&mut self, broker: BrokerId) {
        let (starts, disks) = self.starts[&broker];
        let disk = match self.random.below(40) {
            0 => disks + 1,
            // The old one is put back.
            1..=10 => disks.saturating_sub(1),
            _ => disks,
        };
        self.starts
            .insert(broker, (starts.wrapping_add(1), disk.min(9)));
        let cache = match self.random.one_in(3) {
            true => Cache::Lost,
            false => Cache::Kept,
        };
        self.register(broker, cache);
    }

    /// Some of those who take part, the leader among them: it proposes whoever has caught up.
    fn change_isr(&mut self) {
        let (of, _, partition) = self.pick();
        let Some(leader) = partition.leader else {
            return;
        };
        let mut isr = vec![leader];
        for replica in &partition.replicas {
            let joins = !self.random.one_in(4);
            if replica.broker != leader && joins {
                isr.push(replica.broker);
            }
        }
        let active = |broker: &BrokerId| {
            let known = self.cluster.image.broker(*broker).unwrap();
            known.state == BrokerState::Active || *broker == leader
        };
        isr.retain(active);
        let isr = isr.into_iter().map(|broker_id| InSyncReplica {
            broker_id,
            broker_epoch: self.epoch(broker_id),
        });
        let request = AlterPartitionsRequest {
            broker_id: leader,
            broker_epoch: self.epoch(leader),
            partitions: vec![AlterPartition {
                topic_id: of.topic,
                partition: of.partition,
                leader_epoch: partition.leader_epoch,
                partition_epoch: partition.partition_epoch,
                isr: isr.collect(),
            }],
        };
        self.propose("isr", &Command::AlterPartitions(request));
        // Whoever is in sync now has caught up before.
        let now = self.cluster.image.partition(of).unwrap();
        let joined = now.isr.iter().filter_map(|one| now.replica_on(*one));
        let joined: Vec<Replica> = joined.copied().collect();
        if now.partition_epoch > partition.partition_epoch {
            self.holders.get_mut(&of).unwrap().extend(joined);
        }
    }

    /// Something is written, and acknowledged once all in sync have it.
    fn acknowledge(&mut self) {
        for (of, topic, partition) in self.partitions() {
            let enough = topic.min_isr(partition.factor());
            if self.random.one_in(2) || partition.leader.is_none() || partition.isr.len() < enough {
                continue;
            }
            let isr = partition
                .isr
                .iter()
                .filter_map(|one| partition.replica_on(*one));
            self.holders.insert(of, isr.copied().collect());
            *self.counts.entry("acknowledged").or_default() += 1;
        }
    }

    fn reassign(&mut self) {
        let (of, ..) = self.pick();
        let count = self.random.below(4);
        let target: BTreeSet<BrokerId> = (0..=count).map(|_| self.random.broker()).collect();
        let back = self.random.one_in(3);
        let request = ReassignPartitionsRequest {
            partitions: vec![Reassignment {
                topic_id: of.topic,
                partition: of.partition,
                replicas: (!back).then(|| target.into_iter().rev().collect()),
            }],
            throttle_bytes_per_second: None,
        };
        let what = if back { "taken back" } else { "moved" };
        self.propose(what, &Command::ReassignPartitions(request));
    }

    fn take_out(&mut self) {
        let (of, _, partition) = self.pick();
        let replica = partition.replicas[0];
        let mut claims = partition.isr.iter().chain(&partition.elr);
        if claims.any(|one| *one != replica.broker) {
            self.holders.get_mut(&of).unwrap().remove(&replica);
        }
        let command = Command::TakeOut {
            broker: replica.broker,
            epoch: self.epoch(replica.broker),
            directories: BTreeSet::new(),
            partitions: BTreeSet::from([of]),
        };
        self.propose("taken out", &command);
    }

    fn configure(&mut self) {
        let names = ["async", "fsynced", "one", "wide"];
        let (topic, key, value) = match self.random.below(12) {
            0 => ("fsynced", "flush", "async".to_owned()),
            1 => ("fsynced", "flush", "ack".to_owned()),
            at => {
                let count = self.random.below(4) + 1;
                let name = names[at as usize % 4];
                (name, "min.insync.replicas", count.to_string())
            }
        };
        let request = AlterConfigsRequest {
            topic: topic.into(),
            changes: vec![ConfigChange {
                key: key.into(),
                value: Some(value),
            }],
            validate_only: false,
        };
        self.propose("configured", &Command::AlterConfigs(request));
    }

    fn elect(&mut self) {
        let (of, ..) = self.pick();
        let name = PartitionName {
            topic_id: of.topic,
            partition: of.partition,
        };
        let command = match self.random.below(3) {
            0 => Command::ElectLeaders(ElectLeadersRequest {
                election: Election::Preferred,
                partitions: vec![name],
            }),
            1 => Command::BalanceLeaders,
            _ => Command::FinishElections,
        };
        self.propose("elected", &command);
    }

    /// An operator accepts the loss where nobody has everything any more: what the new leader has
    /// is everything from then on.
    fn rescue(&mut self) {
        for (of, _, partition) in self.partitions() {
            if !partition.isr.is_empty() || !partition.elr.is_empty() {
                continue;
            }
            let command = Command::ElectLeaders(ElectLeadersRequest {
                election: Election::Unclean,
                partitions: vec![PartitionName {
                    topic_id: of.topic,
                    partition: of.partition,
                }],
            });
            self.propose("rescued", &command);
            let now = self.cluster.image.partition(of).unwrap();
            if let Some(leader) = now.leader {
                let replica = *now.replica_on(leader).unwrap();
                self.holders.insert(of, BTreeSet::from([replica]));
            }
        }
    }

    fn drain(&mut self) {
        let broker_id = self.random.broker();
        let duty = if self.random.one_in(2) {
            Duty::Drained
        } else {
            Duty::Full
        };
        let command = Command::DrainBroker(DrainBrokerRequest { broker_id, duty });
        self.propose("drained", &command);
    }

    /// A broker tells which of its disks are full.
    fn fill(&mut self) {
        let broker = self.random.broker();
        let known = self.cluster.image.broker(broker).unwrap();
        let directories = known.registration.directories.iter().copied();
        let full = directories.filter(|_| self.random.one_in(2)).collect();
        self.cluster.controller.directories_full(broker, full);
        *self.counts.entry("filled").or_default() += 1;
    }

    fn step(&mut self) {
        let broker = self.random.broker();
        let epoch = self.epoch(broker);
        match self.random.below(25) {
            0..=1 => drop(self.propose("fence", &Command::FenceBroker { broker, epoch })),
            2..=8 => self.come_back(),
            9 => drop(self.propose("stop", &Command::StopBroker { broker, epoch })),
            10..=11 => self.restart(broker),
            12..=17 => self.change_isr(),
            18 => self.reassign(),
            19 => self.take_out(),
            20 => self.configure(),
            21 => self.elect(),
            22 => self.drain(),
            23 => self.fill(),
            _ => self.rescue(),
        }
        self.acknowledge();
    }

    fn check(&self, step: usize) {
        for (of, topic, partition) in self.partitions() {
            let claims = partition.isr.iter().chain(&partition.elr);
            for broker in claims {
                let replica = partition.replica_on(*broker).unwrap();
                assert!(
                    self.holders[&of].contains(replica),
                    "step {step}: broker {broker} lacks what {}-{} has acknowledged: {partition:?}",
                    topic.name,
                    of.partition
                );
            }
        }
    }

    /// Everybody comes back.
    fn end(&mut self) {
        for broker in (1..=BROKERS).map(BrokerId) {
            let (starts, disk) = self.starts[&broker];
            self.starts.insert(broker, (starts.wrapping_add(1), disk));
            self.register(broker, Cache::Kept);
            self.unfence(broker);
        }
    }
}

#[test]
fn who_counts_as_having_everything_has_it() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(0x5eed_u64);
    println!("SEED={seed}");
    let (mut counts, mut leaderless, mut lost) = (BTreeMap::new(), 0, 0);
    for round in 0..4 {
        let mut world = World::new(seed.wrapping_add(round));
        for step in 0..STEPS {
            world.step();
            world.check(step);
            leaderless += world.cluster.image.leaderless_count();
        }
        world.end();
        world.check(STEPS);
        for (_, topic, partition) in world.partitions() {
            let is_lost = partition.isr.is_empty() && partition.elr.is_empty();
            let waits = partition.elr.iter().any(|one| {
                let replica = partition.replica_on(*one).unwrap();
                let known = world.cluster.image.broker(*one).unwrap();
                !known.registration.directories.contains(&replica.directory)
            });
            let is_led = partition.leader.is_some();
            assert!(is_led || is_lost || waits, "{}: {partition:?}", topic.name);
            lost += usize::from(is_lost);
        }
        assert_eq!(world.cluster.replayed(), world.cluster.image);
        let mut builder = ImageBuilder::new();
        let mut records = world.cluster.image.snapshot();
        records.try_for_each(|record| builder.add(record)).unwrap();
        assert_eq!(builder.finish().unwrap(), world.cluster.image);
        for (what, count) in world.counts {
            *counts.entry(what).or_insert(0) += count;
        }
    }
    println!("{counts:?}, {leaderless} times without a leader, {lost} partitions lost in the end");
    assert_eq!(counts.len(), 14, "{counts:?}");
    assert!(counts.values().all(|count| *count >= 5), "{counts:?}");
}
