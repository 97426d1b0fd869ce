//! Indexes that a crash has left as an earlier checkpoint wrote them: they look whole, and would
//! hide the newest records of a closed segment from lookups by time and from retention.

use std::path::Path;

use crate::common::{EPOCH, NOW, Rig, batch};
use strandline_protocol::{Offset, Timestamp, TopicId, batch::ProducerStamp};
use strandline_storage::{
    directory::DataDirectory,
    fs::simulated::SimulatedDisk,
    log::{Log, Shutdown},
};

fn rig(disk: &SimulatedDisk) -> Rig {
    let rig = Rig::on(disk.file_system(), "/data/topic-0".into());
    rig.files.create_directory(Path::new("/data")).unwrap();
    rig.files.sync_directory(Path::new("/")).unwrap();
    rig
}

/// One record at each millisecond: its time tells its offset.
fn fill(log: &mut Log, until: i64) {
    for offset in log.end().0..until {
        let bytes = batch(&["0123456789"], NOW.0 + offset, ProducerStamp::NONE);
        log.append(&bytes, EPOCH, Timestamp(NOW.0 + offset))
            .unwrap();
    }
}

fn check(log: &Log, label: &str) {
    for offset in 0..log.end().0 {
        let found = log
            .offset_for_time(Timestamp(NOW.0 + offset), log.end())
            .unwrap();
        let found = found.map(|found| found.offset);
        assert_eq!(found, Some(Offset(offset)), "{label}, time {offset}");
    }
    let newest = log.max_timestamp().unwrap().map(|(time, _)| time.0 - NOW.0);
    assert_eq!(newest, Some(log.end().0 - 1), "{label}");
}

/// Closes a segment behind a checkpoint that wrote half of its indexes.
fn half_indexed(disk: &SimulatedDisk) -> Rig {
    let mut rig = rig(disk);
    rig.config.index_interval_bytes = 100;
    rig.config.index_bytes_max = 1 << 20;
    let mut log = rig.open();
    fill(&mut log, 12);
    log.flush().unwrap();
    log.checkpoint_job(NOW).unwrap().run().unwrap();
    fill(&mut log, 20);
    assert_eq!(log.segments(), 1);
    let end = log.flush().unwrap();
    // The recovery point is where the segment ends, and was told before it was closed.
    let job = log.checkpoint_job(NOW).unwrap();
    rig.hint.recovery_point = job.recovery_point();
    assert_eq!(end, rig.hint.recovery_point);
    job.run().unwrap();
    assert!(log.roll_if_due(Timestamp(NOW.0 + 20_000)).unwrap());
    rig
}

#[test]
fn the_newest_records_of_a_closed_segment_are_found_after_a_power_cut() {
    for seed in 0..64 {
        let disk = SimulatedDisk::new(seed);
        let mut rig = half_indexed(&disk);
        let mut disk = disk.power_cut(seed);
        for again in 0..2 {
            rig.files = disk.file_system();
            let mut log = rig.open();
            assert_eq!(log.end(), Offset(20));
            check(&log, &format!("seed {seed}, start {again}"));
            fill(&mut log, 20);
            disk = disk.power_cut(seed + 1);
        }
    }
}

#[test]
fn a_recovery_point_is_told_only_once_its_checkpoint_has_run() {
    let disk = SimulatedDisk::new(1);
    let rig = rig(&disk);
    let mut log = rig.open();
    fill(&mut log, 5);
    log.flush().unwrap();
    assert_eq!(
        (log.durable(), log.recovery_point()),
        (Offset(5), Offset(0))
    );
    let job = log.checkpoint_job(NOW).unwrap();
    assert_eq!(log.recovery_point(), Offset(0));
    job.run().unwrap();
    assert_eq!(log.recovery_point(), Offset(5));
}

#[test]
fn a_full_disk_leaves_no_half_of_an_index() {
    for room in 0..40 {
        let disk = SimulatedDisk::new(room);
        let mut rig = rig(&disk);
        rig.config.index_interval_bytes = 100;
        rig.config.index_bytes_max = 1 << 20;
        let mut log = rig.open();
        fill(&mut log, 12);
        log.flush().unwrap();
        log.checkpoint_job(NOW).unwrap().run().unwrap();
        fill(&mut log, 20);
        let space = rig.files.space(Path::new("/")).unwrap();
        disk.set_capacity(Some(space.total - space.available + room * 1_024));
        let _ = log.roll_if_due(Timestamp(NOW.0 + 20_000));
        check(&log, &format!("room {room}"));
    }
}

#[test]
fn an_entry_of_the_time_index_that_has_rotted_leads_nobody_astray() {
    let disk = SimulatedDisk::new(1);
    let mut rig = rig(&disk);
    rig.config.index_interval_bytes = 100;
    rig.config.index_bytes_max = 1 << 20;
    let mut log = rig.open();
    fill(&mut log, 40);
    rig.close(log);
    let path = rig.directory.join("00000000000000000000.timeindex");
    let size = rig.files.open(&path).unwrap().size();
    for bit in 0..size * 8 {
        let rotten = disk.kill();
        rotten.rot(&path, bit / 8, 1 << (bit % 8)).unwrap();
        rig.files = rotten.file_system();
        rig.hint.shutdown = Shutdown::Clean;
        check(&rig.open(), &format!("bit {bit}"));
    }
}

/// Kafka's file has no checksum: with another digit in it, the partition would be set aside as one
/// that nobody knows.
#[test]
fn a_rotten_partition_metadata_makes_no_stranger_of_a_partition() {
    let disk = SimulatedDisk::new(1);
    let rig = rig(&disk);
    let mut log = rig.open();
    fill(&mut log, 5);
    drop(log);
    let path = rig.directory.join("partition.metadata");
    // A letter of the id.
    let size = rig.files.open(&path).unwrap().size();
    disk.rot(&path, size - 5, 1).unwrap();
    let claim = strandline_storage::directory::Claim {
        identity: strandline_storage::directory::Identity {
            cluster_id: strandline_protocol::ClusterId([1; 16]),
            node_id: strandline_protocol::BrokerId(1),
            directory_id: strandline_protocol::DirectoryId([2; 16]),
            raft_id: strandline_storage::directory::RaftId(1),
        },
        cluster_id: None,
        reserve_bytes: 1 << 16,
    };
    rig.files.create_directory(Path::new("/other")).unwrap();
    let at = Path::new("/other/data");
    let (directory, _) = DataDirectory::open(disk.file_system(), at, &claim).unwrap();
    rig.files
        .rename(&rig.directory, &at.join("topic-0"))
        .unwrap();
    let id: Option<TopicId> = directory.topic_id(&"topic-0".parse().unwrap()).unwrap();
    assert_eq!(id, Some(crate::common::TOPIC));
}
