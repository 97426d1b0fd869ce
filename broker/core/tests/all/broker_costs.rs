//! What a broker costs that starts, falls silent or comes back: what it keeps, not what there is.
//! `cargo test --release -p strandline-core --test all broker_costs -- --nocapture` prints the
//! times.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::cluster::Cluster;
use strandline_core::metadata::{
    Command, Entry, Image, METADATA_VERSION, Record, Registration, Replica,
    limits::PARTITIONS_PER_RECORD_MAX,
};
use strandline_protocol::{BrokerId, DirectoryId, LeaderEpoch, TopicId};

/// How many partitions broker 3 keeps, whatever there is.
const KEPT: usize = 10;
const PER_TOPIC: usize = 10;
const RUNS: usize = 51;

fn registration(broker: i32, start: u8) -> Registration {
    Registration {
        broker: BrokerId(broker),
        incarnation: [start; 16],
        host: "localhost".into(),
        port: 9290,
        rack: None,
        directories: vec![DirectoryId([broker as u8; 16])],
        raft_id: Some(41 + broker as u64),
        software: "strandline/0.0.0".into(),
        metadata_version_max: METADATA_VERSION,
        lossy: Vec::new(),
    }
}

/// Topics of ten partitions on brokers 1 and 2, but for ten partitions of ten topics on broker 3.
fn cluster(partitions: usize) -> Cluster {
    let mut cluster = Cluster::founded();
    for broker in 1..=3 {
        let command = Command::RegisterBroker(registration(broker, 0));
        cluster.propose(&command).unwrap();
        let (broker, epoch) = (
            BrokerId(broker),
            cluster.image.broker(BrokerId(broker)).unwrap().epoch,
        );
        cluster
            .propose(&Command::UnfenceBroker { broker, epoch })
            .unwrap();
    }
    let topics = partitions / PER_TOPIC;
    let every = topics / KEPT;
    let placed = |topic: usize, number: usize| {
        let lucky = number == 0 && topic.is_multiple_of(every);
        let broker = if lucky { 3 } else { 1 + (topic + number) % 2 };
        vec![Replica {
            broker: BrokerId(broker as i32),
            directory: DirectoryId([broker as u8; 16]),
        }]
    };
    let records = (0..topics).map(|topic| Record::TopicCreated {
        name: format!("topic-{topic}"),
        // Ids are random: neighbours in name are none in id.
        id: TopicId(
            (topic as u128)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
                .to_be_bytes(),
        ),
        configs: BTreeMap::new(),
        partitions: (0..PER_TOPIC).map(|number| placed(topic, number)).collect(),
    });
    for entry in Entry::pack(records.collect()) {
        cluster.append(&entry);
    }
    assert_eq!(cluster.image.kept_count(BrokerId(3)), KEPT);
    cluster
}

fn step(cluster: &Cluster, image: &Image, command: &Command) -> Image {
    let decision = cluster
        .controller
        .decide(image, command, &BTreeSet::new(), &mut || [0; 16]);
    let mut next = image.clone();
    for entry in Entry::pack(decision.unwrap().records) {
        next.apply(next.version().plus(1), LeaderEpoch(1), &entry);
    }
    next
}

fn median(mut run: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[RUNS / 2]
}

#[test]
fn a_broker_costs_what_it_keeps() {
    for partitions in [1_000, 100_000] {
        let cluster = cluster(partitions);
        let (broker, active) = (BrokerId(3), cluster.image.clone());
        let epoch = active.broker(broker).unwrap().epoch;
        let fence = Command::FenceBroker { broker, epoch };
        let unfence = Command::UnfenceBroker { broker, epoch };
        let register = Command::RegisterBroker(registration(3, 1));
        let fenced = step(&cluster, &active, &fence);
        assert_eq!(
            (fenced.leaderless_count(), fenced.led_count(broker)),
            (KEPT, 0)
        );
        let back = step(&cluster, &fenced, &unfence);
        assert_eq!((back.leaderless_count(), back.led_count(broker)), (0, KEPT));
        let started = step(&cluster, &active, &register);
        assert_eq!(started.leaderless_count(), KEPT);
        println!(
            "{partitions} partitions, of which the broker keeps {KEPT}: fence {:?}, unfence {:?}, \
             register {:?}, copy of the image {:?} (medians of {RUNS})",
            median(|| drop(step(&cluster, &active, &fence))),
            median(|| drop(step(&cluster, &fenced, &unfence))),
            median(|| drop(step(&cluster, &active, &register))),
            median(|| drop(active.clone())),
        );
        let lone = lone(partitions);
        let again = Command::RegisterBroker(registration(1, 1));
        let decision = lone
            .controller
            .decide(&lone.image, &again, &BTreeSet::new(), &mut || [0; 16]);
        let entries = Entry::pack(decision.unwrap().records);
        let bytes: usize = entries.iter().map(|entry| entry.encode().len()).sum();
        let count = entries.len();
        assert_eq!(count, 1, "a broker that is alone starts with one entry");
        println!("{partitions} partitions of a broker that is alone: it starts with {bytes} bytes");
    }
}

/// A broker that is alone and keeps everything.
fn lone(partitions: usize) -> Cluster {
    let mut cluster = Cluster::founded();
    cluster
        .propose(&Command::RegisterBroker(registration(1, 0)))
        .unwrap();
    let replica = Replica {
        broker: BrokerId(1),
        directory: DirectoryId([1; 16]),
    };
    let id = TopicId([1; 16]);
    let first = Record::TopicCreated {
        name: "wide".into(),
        id,
        configs: BTreeMap::new(),
        partitions: Vec::new(),
    };
    let chunks = (0..partitions).step_by(PARTITIONS_PER_RECORD_MAX);
    let rest = chunks.map(|at| Record::PartitionsAdded {
        id,
        first: strandline_protocol::PartitionId(at as i32),
        partitions: vec![vec![replica]; PARTITIONS_PER_RECORD_MAX.min(partitions - at)],
    });
    for entry in Entry::pack(std::iter::once(first).chain(rest).collect()) {
        cluster.append(&entry);
    }
    assert_eq!(cluster.image.led_count(BrokerId(1)), partitions);
    cluster
}
