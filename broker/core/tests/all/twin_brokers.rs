//! Brokers that come, go and fall silent, against a twin that knows the rules and no records.
//!
//! Partitions have up to three replicas here, as the rules of elections must hold before there is
//! replication. The image that replays the log, the one that is made of a snapshot and the one that
//! saw every record as an entry of its own tell the same story.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Cluster;
use strandline_core::metadata::{
    BrokerState, Command, Entry, Image, ImageBuilder, METADATA_VERSION, Record, Registration,
    Replica, due_at_heartbeat, may_stop,
};
use strandline_protocol::{
    BrokerEpoch, BrokerId, DirectoryId, ErrorCode, LeaderEpoch, Offset, TopicId,
    messages::BrokerHeartbeatRequest,
};

const BROKERS: i32 = 4;
const PARTITIONS: usize = 40;

#[derive(Clone, Debug, PartialEq)]
struct Partition {
    replicas: Vec<i32>,
    isr: Vec<i32>,
    elr: Vec<i32>,
    leader: Option<i32>,
    leader_epoch: i32,
    changes: i32,
}

/// The rules, said once more: who may lead, who is in sync.
#[derive(Clone, Debug, Default)]
struct Twin {
    states: BTreeMap<i32, BrokerState>,
    starts: BTreeMap<i32, u8>,
    partitions: Vec<Partition>,
    /// What every broker knows.
    version: u16,
}

impl Twin {
    fn is_active(&self, broker: i32) -> bool {
        self.states.get(&broker) == Some(&BrokerState::Active)
    }

    fn change(&mut self, at: usize, leader: Option<i32>, isr: Vec<i32>, lost: Option<i32>) {
        let elr = self.eligible(at, &isr, lost);
        let partition = &mut self.partitions[at];
        if (partition.leader, &partition.isr, &partition.elr) != (leader, &isr, &elr) {
            partition.changes += 1;
            partition.leader_epoch += i32::from(partition.leader != leader);
            (partition.leader, partition.isr, partition.elr) = (leader, isr, elr);
        }
    }

    fn eligible(&self, at: usize, isr: &[i32], lost: Option<i32>) -> Vec<i32> {
        let partition = &self.partitions[at];
        let majority = partition.replicas.len() / 2 + 1;
        let mut elr = partition.replicas.clone();
        elr.retain(|one| partition.isr.contains(one) || partition.elr.contains(one));
        elr.retain(|one| !isr.contains(one) && lost != Some(*one));
        if isr.len() >= majority || self.version < 3 {
            elr.clear();
        }
        elr
    }

    /// Who leads when these are in sync, and who is in sync then.
    fn elect(&self, at: usize, isr: &[i32], elr: &[i32]) -> Option<(i32, Vec<i32>)> {
        let mut assigned = self.partitions[at].replicas.iter().copied();
        if !isr.is_empty() {
            let leader = assigned.find(|one| isr.contains(one) && self.is_active(*one))?;
            return Some((leader, isr.to_vec()));
        }
        let leader = assigned.find(|one| elr.contains(one) && self.is_active(*one))?;
        Some((leader, vec![leader]))
    }

    /// `broker` may have lost something, and has not led since it fell silent.
    fn lose(&mut self, broker: i32) {
        for at in 0..self.partitions.len() {
            let partition = self.partitions[at].clone();
            if partition.replicas.contains(&broker) && partition.replicas.len() > 1 {
                self.change(at, partition.leader, partition.isr, Some(broker));
            }
        }
    }

    /// `broker` goes: its leaderships first.
    fn leave(&mut self, broker: i32, goes: BrokerState) {
        self.states.insert(broker, goes);
        for at in 0..self.partitions.len() {
            let partition = self.partitions[at].clone();
            if !partition.replicas.contains(&broker) {
                continue;
            }
            let mut isr = partition.isr.clone();
            isr.retain(|other| *other != broker);
            if isr.is_empty() && self.version < 3 {
                isr = vec![broker];
            }
            if partition.leader != Some(broker) {
                self.change(at, partition.leader, isr, None);
            } else {
                let elr = self.eligible(at, &isr, None);
                match self.elect(at, &isr, &elr) {
                    Some((other, isr)) => self.change(at, Some(other), isr, None),
                    None if goes == BrokerState::Fenced => self.change(at, None, isr, None),
                    None => {}
                }
            }
        }
    }

    fn fence(&mut self, broker: i32) {
        if self.states[&broker] != BrokerState::Fenced {
            self.leave(broker, BrokerState::Fenced);
        }
    }

    /// It falls silent, and may have lost something by it: in one step, so that nobody is elected
    /// between.
    fn start_anew(&mut self, broker: i32, lossy: &[DirectoryId]) {
        let before: Vec<i32> = self.partitions.iter().map(|one| one.changes).collect();
        self.leave(broker, BrokerState::Fenced);
        if !lossy.is_empty() {
            self.lose(broker);
        }
        for (partition, before) in self.partitions.iter_mut().zip(before) {
            partition.changes = partition.changes.min(before + 1);
        }
    }

    fn stop(&mut self, broker: i32) {
        if self.states[&broker] != BrokerState::Fenced {
            self.leave(broker, BrokerState::Stopping);
        }
    }

    fn unfence(&mut self, broker: i32) {
        if self.states[&broker] == BrokerState::Stopping {
            return;
        }
        self.states.insert(broker, BrokerState::Active);
        for at in 0..self.partitions.len() {
            let partition = self.partitions[at].clone();
            if partition.replicas.contains(&broker)
                && partition.leader.is_none()
                && let Some((leader, isr)) = self.elect(at, &partition.isr, &partition.elr)
            {
                self.change(at, Some(leader), isr, None);
            }
        }
    }
}

fn registration(broker: i32, start: u8, version: u16) -> Registration {
    Registration {
        broker: BrokerId(broker),
        incarnation: [start; 16],
        host: "localhost".into(),
        port: 9290,
        rack: None,
        directories: vec![DirectoryId([broker as u8; 16])],
        raft_id: Some(41 + broker as u64),
        software: "strandline/0.0.0".into(),
        metadata_version_max: version,
        lossy: Vec::new(),
    }
}

fn told(image: &Image) -> Vec<Partition> {
    let topic = image.topic("t").unwrap();
    let brokers = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    let partitions = topic.partitions().map(|(_, partition)| Partition {
        replicas: partition
            .replicas
            .iter()
            .map(|replica| replica.broker.0)
            .collect(),
        isr: brokers(&partition.isr),
        elr: brokers(&partition.elr),
        leader: partition.leader.map(|leader| leader.0),
        leader_epoch: partition.leader_epoch.0,
        changes: partition.partition_epoch.0,
    });
    partitions.collect()
}

fn from_snapshot(image: &Image) -> Image {
    let mut builder = ImageBuilder::new();
    image
        .snapshot()
        .for_each(|record| builder.add(record).unwrap());
    builder.finish().unwrap()
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn from_env() -> Self {
        let seed = std::env::var("SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(0x5eed_u64);
        println!("SEED={seed}");
        Self(seed)
    }
}

/// Four brokers, all active, and partitions of one to three replicas, all in sync.
fn start(random: &mut Random, version: u16) -> (Cluster, Twin) {
    let (mut cluster, mut twin) = (Cluster::founded(), Twin::default());
    twin.version = version;
    for broker in 1..=BROKERS {
        cluster
            .propose(&Command::RegisterBroker(registration(broker, 0, version)))
            .unwrap();
        cluster.propose(&unfence(&cluster, broker)).unwrap();
        twin.states.insert(broker, BrokerState::Active);
        twin.starts.insert(broker, 0);
    }
    let partitions = (0..PARTITIONS).map(|_| {
        let first = random.below(4);
        let replicas = (0..=random.below(3)).map(|next| ((first + next) % 4) as i32 + 1);
        replicas.collect::<Vec<i32>>()
    });
    let partitions: Vec<Vec<i32>> = partitions.collect();
    twin.partitions = partitions
        .iter()
        .map(|replicas| Partition {
            replicas: replicas.clone(),
            isr: replicas.clone(),
            elr: Vec::new(),
            leader: Some(replicas[0]),
            leader_epoch: 0,
            changes: 0,
        })
        .collect();
    let placed = |broker: &i32| Replica {
        broker: BrokerId(*broker),
        directory: DirectoryId([*broker as u8; 16]),
    };
    cluster.append(&Entry::Command(vec![Record::TopicCreated {
        name: "t".into(),
        id: TopicId([1; 16]),
        configs: BTreeMap::new(),
        partitions: partitions
            .iter()
            .map(|replicas| replicas.iter().map(placed).collect())
            .collect(),
    }]));
    (cluster, twin)
}

fn epoch_of(cluster: &Cluster, broker: i32) -> BrokerEpoch {
    cluster.image.broker(BrokerId(broker)).unwrap().epoch
}

fn unfence(cluster: &Cluster, broker: i32) -> Command {
    Command::UnfenceBroker {
        broker: BrokerId(broker),
        epoch: epoch_of(cluster, broker),
    }
}

/// A random command, and what the twin makes of it.
fn step(random: &mut Random, cluster: &Cluster, twin: &mut Twin) -> (Command, ErrorCode) {
    let broker = random.below(4) as i32 + 1;
    let (id, mut epoch) = (BrokerId(broker), epoch_of(cluster, broker));
    let stale = random.below(8) == 0;
    if stale {
        epoch.0 -= 1;
    }
    let outcome = if stale {
        ErrorCode::STALE_BROKER_EPOCH
    } else {
        ErrorCode::NONE
    };
    match random.below(10) {
        0..=2 => {
            if !stale {
                twin.fence(broker);
            }
            (Command::FenceBroker { broker: id, epoch }, outcome)
        }
        3..=6 => {
            if !stale {
                twin.unfence(broker);
            }
            (Command::UnfenceBroker { broker: id, epoch }, outcome)
        }
        7..=8 => {
            if !stale {
                twin.stop(broker);
            }
            (Command::StopBroker { broker: id, epoch }, outcome)
        }
        _ => {
            let start = twin.starts[&broker];
            let again = random.below(3) == 0;
            let start = if again { start } else { start.wrapping_add(1) };
            let leased = cluster.leased.contains(&id);
            let mut registration = registration(broker, start, twin.version);
            if random.below(3) == 0 && twin.version >= 3 {
                registration.lossy.clone_from(&registration.directories);
            }
            let lossy = registration.lossy.clone();
            let command = Command::RegisterBroker(registration);
            if !again && leased {
                return (command, ErrorCode::DUPLICATE_BROKER_REGISTRATION);
            }
            if !again {
                twin.start_anew(broker, &lossy);
                twin.starts.insert(broker, start);
            }
            (command, ErrorCode::NONE)
        }
    }
}

#[test]
fn controller_and_twin_agree_about_brokers() {
    agree(METADATA_VERSION);
}

/// As long as one broker knows no better, the last one in sync stays so.
#[test]
fn they_agree_in_the_second_version_too() {
    agree(2);
}

fn agree(version: u16) {
    let mut random = Random::from_env();
    let (mut cluster, mut twin) = start(&mut random, version);
    let (mut seen, mut leaderless) = (BTreeMap::new(), 0);
    for number in 0..3_000 {
        let leased = (1..=BROKERS).filter(|_| random.below(4) == 0);
        cluster.leased = leased.map(BrokerId).collect();
        let (command, expected) = step(&mut random, &cluster, &mut twin);
        let outcome = cluster
            .propose(&command)
            .err()
            .map_or(ErrorCode::NONE, |f| f.error);
        assert_eq!(outcome, expected, "step {number}: {command:?}");
        *seen.entry(outcome.name()).or_insert(0) += 1;
        assert_eq!(
            told(&cluster.image),
            twin.partitions,
            "step {number}: {command:?}"
        );
        for broker in cluster.image.brokers() {
            let id = broker.registration.broker.0;
            assert_eq!(broker.state, twin.states[&id], "step {number}: {command:?}");
            let led = twin.partitions.iter().filter(|one| one.leader == Some(id));
            assert_eq!(cluster.image.led_count(BrokerId(id)), led.count());
        }
        let without = twin
            .partitions
            .iter()
            .filter(|one| one.leader.is_none())
            .count();
        assert_eq!(cluster.image.leaderless_count(), without);
        leaderless += without;
        if number % 100 == 0 {
            assert!(cluster.image.is_consistent());
            assert_eq!(cluster.replayed(), cluster.image, "step {number}");
            assert_eq!(
                from_snapshot(&cluster.image),
                cluster.image,
                "step {number}"
            );
        }
    }
    println!("{seen:?}, {leaderless} times a partition had no leader");
    assert!(
        seen.len() == 3 && leaderless > 1_000,
        "{seen:?} {leaderless}"
    );
}

/// A crash between any two records of a decision leaves an image that is whole, and whoever takes
/// over comes to where the decision would have led.
#[test]
fn a_decision_that_is_cut_off_is_made_good() {
    let mut random = Random::from_env();
    let (mut cluster, mut twin) = start(&mut random, METADATA_VERSION);
    let mut cuts = 0;
    for _ in 0..600 {
        let (command, _) = step(&mut random, &cluster, &mut twin);
        let mut draw = || [0; 16];
        let nobody = BTreeSet::new();
        let decision = cluster
            .controller
            .decide(&cluster.image, &command, &nobody, &mut draw);
        let Ok(decision) = decision else {
            continue;
        };
        for kept in 1..decision.records.len() {
            let mut image = cluster.image.clone();
            apply_each(&mut image, &decision.records[..kept]);
            let again = cluster
                .controller
                .decide(&image, &command, &nobody, &mut draw);
            apply_each(&mut image, &again.unwrap().records);
            let everywhere = Command::FinishElections;
            let elected = cluster
                .controller
                .decide(&image, &everywhere, &nobody, &mut draw);
            apply_each(&mut image, &elected.unwrap().records);
            assert!(image.is_consistent());
            let mut whole = cluster.image.clone();
            apply_each(&mut whole, &decision.records);
            let who = |image: &Image| -> Vec<_> {
                told(image)
                    .into_iter()
                    .map(|one| (one.leader, one.isr))
                    .collect()
            };
            assert_eq!(who(&image), who(&whole), "{command:?} after {kept} records");
            cuts += 1;
        }
        for entry in Entry::pack(decision.records) {
            cluster.append(&entry);
        }
    }
    println!("{cuts} cuts");
    assert!(cuts > 100, "{cuts}");
}

fn apply_each(image: &mut Image, records: &[Record]) {
    for record in records {
        let entry = Entry::Command(vec![record.clone()]);
        image.apply(Offset(image.version().0 + 1), LeaderEpoch(1), &entry);
    }
}

/// What a driver does at a heartbeat, from a join to a stop.
#[test]
fn heartbeats_let_a_broker_in_and_out() {
    let mut cluster = Cluster::founded();
    for broker in 1..=2 {
        cluster
            .propose(&Command::RegisterBroker(registration(
                broker,
                0,
                METADATA_VERSION,
            )))
            .unwrap();
    }
    let (broker, epoch) = (BrokerId(2), epoch_of(&cluster, 2));
    let heartbeat = |applied: i64, stopping| BrokerHeartbeatRequest {
        broker_id: broker,
        broker_epoch: epoch,
        applied: Offset(applied),
        stopping,
        offline: Vec::new(),
        recovering: false,
        damaged: Vec::new(),
        full: Vec::new(),
    };
    let due = |cluster: &Cluster, applied, stopping| {
        due_at_heartbeat(&cluster.image, &heartbeat(applied, stopping))
    };
    assert_eq!(
        due(&cluster, epoch.0 - 1, false),
        None,
        "it has not caught up"
    );
    assert_eq!(
        due(&cluster, epoch.0, true),
        None,
        "it stops before it began"
    );
    assert!(may_stop(&cluster.image, broker, None));
    let unfence = due(&cluster, epoch.0, false).unwrap();
    assert_eq!(unfence, Command::UnfenceBroker { broker, epoch });
    cluster.propose(&unfence).unwrap();
    assert_eq!(due(&cluster, 100, false), None);
    assert!(!may_stop(&cluster.image, broker, Some(Offset(100))));
    let stop = due(&cluster, 100, true).unwrap();
    cluster.propose(&stop).unwrap();
    let since = cluster.image.version();
    assert!(!may_stop(&cluster.image, broker, None));
    assert!(!may_stop(&cluster.image, broker, Some(Offset(since.0 - 1))));
    assert!(may_stop(&cluster.image, broker, Some(since)));
    assert_eq!(due(&cluster, 100, true), Some(stop.clone()));
    cluster.propose(&stop).unwrap();
    assert_eq!(cluster.image.version(), since, "nothing is left to move");
    // The old process is not heard any more once another one has registered.
    cluster
        .propose(&Command::RegisterBroker(registration(
            2,
            1,
            METADATA_VERSION,
        )))
        .unwrap();
    assert_eq!(due(&cluster, 100, false), None);
}
