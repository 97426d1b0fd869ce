//! One follower on a simulated disk, and a leader that is only a log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::{path::Path, time::Duration};

use bytes::Bytes;
use strandline_core::{
    FlushMode,
    metadata::{Defaults, Membership, Voter},
    replica::{PartitionFacts, Peer, Standing},
};
use strandline_protocol::{
    BrokerEpoch, ClusterId, DirectoryId, PartitionEpoch, PartitionId, ProducerId, TopicId,
    TopicPartition,
    batch::{BatchBuilder, Codec, NewRecord, ProducerStamp},
    messages::Failure,
};
use strandline_storage::{
    directory::{Claim, DataDirectory, Identity, RaftId},
    fs::simulated::SimulatedDisk,
    log::{LogConfig, RecoveryReport, Shutdown},
};
use tokio::{sync::mpsc::unbounded_channel, time::Instant};

use super::*;
use crate::{
    metadata::{
        Flushing, Founding, METADATA_DIRECTORY, MetadataLog, MetadataOptions, SnapshotLimits,
    },
    metrics::Metrics,
    partition::{Directory, Opening, Surroundings},
    replication::Replication,
    server::spawn::Threads,
};

const ME: BrokerId = BrokerId(2);
const LEADER: BrokerId = BrokerId(1);
const NOW: Timestamp = Timestamp(1_700_000_000_000);
const ID: TopicPartition = TopicPartition {
    topic: TopicId([7; 16]),
    partition: PartitionId(0),
};

fn surroundings() -> Arc<Surroundings> {
    let disk = SimulatedDisk::new(9);
    let data = Path::new("/data");
    disk.file_system().create_directory(data).unwrap();
    let voter = Voter {
        raft_id: 1,
        broker: ME,
    };
    let options = MetadataOptions {
        file_system: disk.file_system(),
        directory: Path::new("/data").join(METADATA_DIRECTORY),
        hint: strandline_storage::log::RecoveryHint::default(),
        raft_id: RaftId(1),
        membership: Membership::of(ClusterId([5; 16]), vec![voter]),
        founding: Founding::Allowed,
        defaults: Defaults::default(),
        flushing: Flushing::Inline,
        snapshots: SnapshotLimits::default(),
    };
    let (metadata, _) = MetadataLog::open(options).unwrap();
    let metrics = Metrics::new().replication.clone();
    Arc::new(Surroundings {
        broker: ME,
        metrics: metrics.clone(),
        metadata: metadata.clone(),
        waits: Arc::default(),
        replication: Replication::new(metadata, ME, metrics.clone(), Threads::None),
        proposals: Arc::default(),
        started: Instant::now(),
    })
}

/// A follower over what is on `disk`, as a start finds it.
struct Follower {
    disk: SimulatedDisk,
    partition: Arc<Partition>,
    report: RecoveryReport,
}

impl Follower {
    fn open(disk: SimulatedDisk) -> Self {
        let claim = Claim {
            identity: Identity {
                cluster_id: ClusterId([5; 16]),
                node_id: ME,
                directory_id: DirectoryId([3; 16]),
                raft_id: RaftId(1),
            },
            cluster_id: None,
            reserve_bytes: 0,
        };
        let (data, found) =
            DataDirectory::open(disk.file_system(), Path::new("/data"), &claim).unwrap();
        let metrics = Metrics::new();
        let (failures, _) = unbounded_channel();
        let of_directory = metrics.directory(Path::new("/data"));
        let directory = Directory::new(data, found.checkpoint, of_directory, failures);
        let name = strandline_storage::directory::PartitionName {
            topic: "t".to_owned(),
            partition: ID.partition,
        };
        let (log, report) = Log::open(
            disk.file_system(),
            &directory.data().partition_path(&name),
            ID.topic,
            LogConfig::test_min(),
            directory.hint(&name, ID.topic, Shutdown::Unclean),
            NOW,
        )
        .unwrap();
        let partition = Partition::new(Opening {
            id: ID,
            topic: "t".into(),
            high_watermark: directory.high_watermark(&name, ID.topic),
            directory: Arc::new(directory),
            surroundings: surroundings(),
            metrics: metrics.topic("t"),
            log,
            flush: FlushMode::Ack,
        });
        Self {
            disk,
            partition: Arc::new(partition),
            report,
        }
    }

    fn new() -> Self {
        Self::open(SimulatedDisk::new(1))
    }

    fn follow(&self, epoch: i32) {
        self.become_of(LEADER, epoch);
    }

    fn become_of(&self, leader: BrokerId, epoch: i32) {
        let peer = |broker| Peer {
            broker,
            epoch: BrokerEpoch(1),
            standing: Standing::Eligible,
        };
        self.partition.apply(&PartitionFacts {
            leader: Some(leader),
            leader_epoch: LeaderEpoch(epoch),
            partition_epoch: PartitionEpoch(epoch),
            replicas: vec![peer(LEADER), peer(ME)],
            isr: vec![LEADER, ME],
            min_isr: 1,
            lag_max: Duration::from_secs(10),
        });
    }

    fn marks(&self) -> Marks {
        self.partition.figures().unwrap().marks
    }

    /// The values in it.
    fn values(&self) -> Vec<String> {
        let inner = self.partition.inner.lock();
        values(inner.log.as_ref().unwrap())
    }

    /// Asks as a fetcher does, and takes in what the leader has to say, until there is no more.
    fn catch_up(&self, leader: &Leader) -> Vec<FetchOutcome> {
        let mut outcomes = Vec::new();
        loop {
            let at = self.partition.fetch_position(LEADER).unwrap();
            let (told, batches) = leader.answer(&at);
            let taken = self
                .partition
                .take_fetched(at.leader_epoch, &told, &batches, NOW);
            outcomes.push(taken);
            if taken != FetchOutcome::Moved {
                return outcomes;
            }
        }
    }

    fn flush(&self) {
        self.partition.flush();
    }
}

fn values(log: &Log) -> Vec<String> {
    let mut values = Vec::new();
    let mut at = log.start();
    while at < log.end() {
        let fetched = log.read(at, 1 << 20, log.end()).unwrap();
        fetched.check().unwrap();
        for batch in strandline_protocol::batch::split_batches(&fetched.bytes) {
            let mut scratch = Vec::new();
            for record in batch.unwrap().records(&mut scratch).unwrap() {
                let value = record.unwrap().value.unwrap().to_vec();
                values.push(String::from_utf8(value).unwrap());
            }
        }
        at = fetched.end_offset;
    }
    values
}

/// The log of a leader, and its epoch.
struct Leader {
    log: Log,
    epoch: LeaderEpoch,
    high_watermark: Offset,
}

impl Leader {
    fn new(epoch: i32) -> Self {
        let (log, _) = Log::open(
            SimulatedDisk::new(5).file_system(),
            Path::new("/t-0"),
            ID.topic,
            LogConfig::test_min(),
            strandline_storage::log::RecoveryHint::default(),
            NOW,
        )
        .unwrap();
        let mut leader = Self {
            log,
            epoch: LeaderEpoch(epoch),
            high_watermark: Offset(0),
        };
        leader.lead(epoch);
        leader
    }

    fn lead(&mut self, epoch: i32) {
        self.epoch = LeaderEpoch(epoch);
        self.log.lead_in(self.epoch).unwrap();
    }

    fn append(&mut self, values: &[&str]) {
        for value in values {
            let batch = batch(value, ProducerStamp::NONE);
            self.log.append(&batch, self.epoch, NOW).unwrap();
        }
    }

    fn copy(&self, to: Offset) -> Self {
        let mut copy = Self::new(0);
        while copy.log.end() < to {
            let fetched = self.log.read(copy.log.end(), 1 << 20, to).unwrap();
            copy.log
                .append_replicated(&fetched.bytes, self.epoch, NOW)
                .unwrap();
        }
        copy.epoch = self.epoch;
        copy
    }

    /// As core judges it.
    fn answer(&self, at: &FetchPosition) -> (ReplicaFetchedPartition, Bytes) {
        let marks = Marks {
            log_start: self.log.start(),
            high_watermark: self.high_watermark.max(self.log.start()),
            durable_end: self.log.end(),
            log_end: self.log.end(),
        };
        let mut told = ReplicaFetchedPartition {
            topic_id: ID.topic,
            partition: ID.partition,
            failure: Failure::default(),
            diverging: None,
            log_start_offset: marks.log_start,
            log_end_offset: marks.log_end,
            high_watermark: marks.high_watermark,
            bytes: 0,
            gap: None,
        };
        let end_offset_for = |epoch| self.log.end_offset_for(epoch);
        match divergence::answer(at.fetch_offset, at.last_epoch, &marks, end_offset_for) {
            Err(failure) => told.failure = failure,
            Ok(divergence::FetchAnswer::Diverging(end)) => told.diverging = Some(end),
            Ok(divergence::FetchAnswer::Records) => {
                let fetched = self.log.read(at.fetch_offset, 500, self.log.end());
                return (told, fetched.unwrap().bytes);
            }
        }
        (told, Bytes::new())
    }
}

fn batch(value: &str, stamp: ProducerStamp) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None, 1_024);
    let record = NewRecord {
        timestamp: NOW,
        value: Some(value.as_bytes()),
        ..NewRecord::default()
    };
    builder.try_append(1 << 20, record).unwrap();
    builder.finish(stamp).unwrap()
}

#[tokio::test]
async fn a_follower_has_what_its_leader_has_and_knows_what_is_committed() {
    let follower = Follower::new();
    assert_eq!(follower.partition.fetch_position(LEADER), None);
    follower.follow(1);
    let mut leader = Leader::new(1);
    leader.append(&["a", "b", "c"]);
    leader.high_watermark = Offset(2);
    assert_eq!(follower.partition.flush_progress(LEADER), None);
    follower.catch_up(&leader);
    assert_eq!(follower.values(), ["a", "b", "c"]);
    assert_eq!(follower.marks().high_watermark, Offset(2));
    assert_eq!(follower.marks().durable_end, Offset(0));
    follower.flush();
    let progress = follower.partition.flush_progress(LEADER);
    assert_eq!(progress, Some((LeaderEpoch(1), Offset(3))));
    // The leader's high watermark may be ahead of what the follower has, and never takes it there.
    leader.append(&["d"]);
    let at = follower.partition.fetch_position(LEADER).unwrap();
    let (mut told, _) = leader.answer(&at);
    told.high_watermark = Offset(4);
    let taken = follower
        .partition
        .take_fetched(LeaderEpoch(1), &told, &[], NOW);
    assert_eq!(taken, FetchOutcome::Told);
    assert_eq!(follower.marks().high_watermark, Offset(3));
    assert_eq!(follower.partition.fetch_position(BrokerId(7)), None);
}

#[tokio::test]
async fn what_comes_late_changes_nothing() {
    let follower = Follower::new();
    follower.follow(1);
    let mut leader = Leader::new(1);
    leader.append(&["a"]);
    let at = follower.partition.fetch_position(LEADER).unwrap();
    let (told, batches) = leader.answer(&at);
    follower.follow(2);
    let taken = follower
        .partition
        .take_fetched(LeaderEpoch(1), &told, &batches, NOW);
    assert_eq!(taken, FetchOutcome::Moved);
    follower.become_of(ME, 3);
    for epoch in [1, 2, 3] {
        let epoch = LeaderEpoch(epoch);
        let taken = follower.partition.take_fetched(epoch, &told, &batches, NOW);
        assert_eq!(taken, FetchOutcome::Moved);
    }
    assert!(follower.values().is_empty());
}

#[tokio::test]
async fn a_batch_that_arrives_damaged_is_fetched_again() {
    let follower = Follower::new();
    follower.follow(1);
    let mut leader = Leader::new(1);
    leader.append(&["a", "b"]);
    let at = follower.partition.fetch_position(LEADER).unwrap();
    let (told, batches) = leader.answer(&at);
    for flip in 0..batches.len() {
        let mut damaged = batches.to_vec();
        damaged[flip] ^= 0x20;
        let taken = follower
            .partition
            .take_fetched(LeaderEpoch(1), &told, &damaged, NOW);
        assert_eq!(taken, FetchOutcome::Failed, "byte {flip}");
    }
    assert!(follower.values().is_empty());
    follower.catch_up(&leader);
    assert_eq!(follower.values(), ["a", "b"]);
}

/// A leader of epoch 1 wrote what nobody else has; another one went on in epoch 2 from offset 20.
fn parted() -> (Leader, Leader) {
    let mut old = Leader::new(1);
    for number in 0..20 {
        old.append(&[&format!("common-{number}")]);
    }
    let mut new = old.copy(Offset(20));
    for number in 0..20 {
        old.append(&[&format!("lost-{number}")]);
    }
    old.high_watermark = Offset(20);
    new.lead(2);
    for number in 0..30 {
        new.append(&[&format!("kept-{number}")]);
    }
    new.high_watermark = Offset(50);
    (old, new)
}

#[tokio::test]
async fn a_follower_that_diverged_is_cut_where_the_logs_part() {
    let (old, new) = parted();
    let follower = Follower::new();
    follower.follow(1);
    follower.catch_up(&old);
    follower.flush();
    follower.partition.checkpoint(NOW);
    assert_eq!(follower.marks().log_end, Offset(40));
    follower.follow(2);
    follower.catch_up(&new);
    assert_eq!(follower.values(), values(&new.log));
    assert_eq!(follower.marks().high_watermark, Offset(50));
}

#[tokio::test]
async fn a_power_cut_while_it_is_cut_leaves_no_damage() {
    let (mut old, new) = parted();
    // Written down as durable and committed, as after an unclean election.
    old.high_watermark = Offset(40);
    let mut cuts = 0;
    for operation in 0.. {
        let follower = Follower::open(SimulatedDisk::new(operation));
        follower.follow(1);
        follower.catch_up(&old);
        follower.flush();
        follower.partition.checkpoint(NOW);
        follower.partition.directory().write_checkpoint();
        follower.follow(2);
        follower.disk.crash_after(operation);
        follower.catch_up(&new);
        if !follower.disk.is_off() {
            break;
        }
        for seed in 0..3 {
            let again = Follower::open(follower.disk.power_cut(seed));
            let label = format!("after operation {operation}, seed {seed}");
            assert_eq!(again.report.damaged, [], "{label}");
            assert!(again.marks().log_end >= Offset(20), "{label}");
            again.follow(3);
            let mut newer = new.copy(Offset(50));
            newer.lead(3);
            again.catch_up(&newer);
            assert_eq!(again.values(), values(&newer.log), "{label}");
            cuts += 1;
        }
    }
    assert!(cuts > 60, "{cuts} power cuts");
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_cut_half_way() {
    let (old, new) = parted();
    let follower = Follower::new();
    follower.follow(1);
    follower.catch_up(&old);
    follower.flush();
    follower.follow(2);
    follower.disk.set_capacity(Some(4_096));
    assert_eq!(follower.catch_up(&new), [FetchOutcome::Failed]);
    assert_eq!(follower.marks().log_end, Offset(40));
    follower.disk.set_capacity(None);
    follower.catch_up(&new);
    assert_eq!(follower.values(), values(&new.log));
}

#[tokio::test]
async fn a_follower_behind_all_that_is_left_starts_again() {
    let (old, mut new) = parted();
    let follower = Follower::new();
    follower.follow(1);
    let few = old.copy(Offset(5));
    follower.catch_up(&few);
    new.log
        .delete_before(Offset(33), NOW)
        .unwrap()
        .finish()
        .unwrap();
    follower.follow(2);
    follower.catch_up(&new);
    assert_eq!(follower.marks().log_start, Offset(33));
    assert_eq!(follower.values(), values(&new.log));
}

#[tokio::test]
async fn the_log_start_follows_the_leaders() {
    let (_, mut new) = parted();
    let follower = Follower::new();
    follower.follow(2);
    follower.catch_up(&new);
    new.log
        .delete_before(Offset(31), NOW)
        .unwrap()
        .finish()
        .unwrap();
    let told = follower.catch_up(&new);
    assert_eq!(told, [FetchOutcome::Told]);
    assert_eq!(follower.marks().log_start, Offset(31));
    assert_eq!(follower.values(), values(&new.log));
}

#[tokio::test]
async fn a_full_disk_stops_it_until_there_is_room() {
    let (_, mut new) = parted();
    for _ in 0..300 {
        new.append(&["more"]);
    }
    let follower = Follower::new();
    follower.follow(2);
    follower.disk.set_capacity(Some(30 * 4_096));
    let outcomes = follower.catch_up(&new);
    assert_eq!(outcomes.last(), Some(&FetchOutcome::Failed));
    assert!(follower.partition.directory().check_online().is_ok());
    follower.disk.set_capacity(None);
    follower.catch_up(&new);
    assert_eq!(follower.values(), values(&new.log));
}

/// S10: the window of an idempotent producer is the same on whoever leads next.
#[tokio::test]
async fn who_leads_next_knows_what_producers_sent() {
    let stamp = |sequence| ProducerStamp {
        id: ProducerId(7),
        epoch: strandline_protocol::ProducerEpoch(0),
        base_sequence: strandline_protocol::Sequence(sequence),
    };
    let mut leader = Leader::new(1);
    for sequence in 0..8 {
        let bytes = batch("x", stamp(sequence));
        leader.log.append(&bytes, LeaderEpoch(1), NOW).unwrap();
    }
    let follower = Follower::new();
    follower.follow(1);
    follower.catch_up(&leader);
    follower.become_of(ME, 2);
    let mut inner = follower.partition.inner.lock();
    let log = inner.log.as_mut().unwrap();
    for sequence in 3..8 {
        let again = batch("x", stamp(sequence));
        let appended = log.append(&again, LeaderEpoch(2), NOW).unwrap();
        assert!(appended.duplicate);
        assert_eq!(appended.base_offset, Offset(i64::from(sequence)));
    }
    assert!(
        log.append(&batch("x", stamp(9)), LeaderEpoch(2), NOW)
            .is_err()
    );
    assert!(
        !log.append(&batch("x", stamp(8)), LeaderEpoch(2), NOW)
            .unwrap()
            .duplicate
    );
}
