//! What the log of a follower does that a leader's does not.

use std::path::{Path, PathBuf};

use crate::common::{NOW, Rig, batch, read_all, stamp};
use bytes::Bytes;
use strandline_protocol::{LeaderEpoch, Offset, batch::ProducerStamp};
use strandline_storage::{
    fs::simulated::SimulatedDisk,
    log::{AppendError, Log, Shutdown},
};

fn directory() -> PathBuf {
    Path::new("/t-0").to_path_buf()
}

fn open(disk: &SimulatedDisk) -> Log {
    Rig::on(disk.file_system(), directory()).open()
}

fn lead(log: &mut Log, epoch: i32, value: &str) {
    let bytes = batch(&[value], NOW.0, ProducerStamp::NONE);
    log.append(&bytes, LeaderEpoch(epoch), NOW).unwrap();
}

fn copy(from: &Log, at: Offset) -> Bytes {
    from.read(at, 1 << 20, from.end()).unwrap().bytes
}

/// One after the other until the follower has what the leader has.
fn catch_up(follower: &mut Log, leader: &Log, epoch: i32) {
    while follower.end() < leader.end() {
        let bytes = copy(leader, follower.end());
        follower
            .append_replicated(&bytes, LeaderEpoch(epoch), NOW)
            .unwrap();
    }
}

#[test]
fn an_epoch_that_wrote_nothing_gives_way_to_what_its_leader_has_there() {
    let leader_disk = SimulatedDisk::new(1);
    let mut leader = open(&leader_disk);
    for value in ["a", "b", "c"] {
        lead(&mut leader, 4, value);
    }
    // The follower led in epoch 5 without an append, while the leader of 6 has more of epoch 4.
    let disk = SimulatedDisk::new(2);
    let mut follower = open(&disk);
    let first = copy(&leader, Offset(0));
    let two = leader.read(Offset(0), 1 << 20, Offset(2)).unwrap().bytes;
    assert!(two.len() < first.len());
    follower
        .append_replicated(&two, LeaderEpoch(4), NOW)
        .unwrap();
    follower.lead_in(LeaderEpoch(5)).unwrap();
    assert_eq!(follower.latest_epoch(), Some(LeaderEpoch(5)));
    assert_eq!(follower.last_batch_epoch(), Some(LeaderEpoch(4)));
    leader.lead_in(LeaderEpoch(6)).unwrap();
    catch_up(&mut follower, &leader, 6);
    lead(&mut leader, 6, "d");
    catch_up(&mut follower, &leader, 6);
    follower.flush().unwrap();
    let expect = |log: &Log| {
        let epochs: Vec<_> = (0..4)
            .map(|at| log.epoch_at(Offset(at)).unwrap().0)
            .collect();
        assert_eq!(epochs, [4, 4, 4, 6]);
        assert_eq!(read_all(log, Offset(0), 1 << 20).unwrap().len(), 4);
    };
    expect(&follower);
    drop(follower);
    for seed in 0..8 {
        expect(&open(&disk.power_cut(seed)));
    }
}

#[test]
fn a_leaders_epoch_is_durable_before_its_first_append() {
    let disk = SimulatedDisk::new(1);
    let mut log = open(&disk);
    lead(&mut log, 1, "a");
    log.flush().unwrap();
    log.lead_in(LeaderEpoch(3)).unwrap();
    let operations = disk.operations();
    lead(&mut log, 3, "b");
    log.flush().unwrap();
    // The append itself makes nothing durable but the batch.
    assert!(disk.operations() - operations <= 4, "{operations}");
    assert!(log.lead_in(LeaderEpoch(2)).is_err());
    drop(log);
    let log = open(&disk.power_cut(3));
    assert_eq!(log.epoch_at(Offset(1)), Some(LeaderEpoch(3)));
}

#[test]
fn an_empty_log_has_no_last_epoch() {
    let disk = SimulatedDisk::new(1);
    let mut log = open(&disk);
    assert_eq!(log.last_batch_epoch(), None);
    log.lead_in(LeaderEpoch(1)).unwrap();
    assert_eq!(log.last_batch_epoch(), None);
    lead(&mut log, 1, "a");
    assert_eq!(log.last_batch_epoch(), Some(LeaderEpoch(1)));
    log.restart_at(Offset(9), NOW).unwrap();
    assert_eq!(log.last_batch_epoch(), None);
}

/// Five batches of one producer, of which the follower lacks the last or is cut back to fewer.
#[test]
fn a_follower_knows_the_window_of_a_producer_as_its_leader_does() {
    for (has, kept) in [(8, 8), (8, 5), (6, 6), (8, 1)] {
        let leader_disk = SimulatedDisk::new(1);
        let mut leader = open(&leader_disk);
        for sequence in 0..has {
            let bytes = batch(&["v"], NOW.0, stamp(0, sequence));
            leader.append(&bytes, LeaderEpoch(1), NOW).unwrap();
        }
        let disk = SimulatedDisk::new(2);
        let mut follower = open(&disk);
        catch_up(&mut follower, &leader, 1);
        let job = follower.checkpoint_job_to(Offset(i64::from(kept)), NOW);
        drop(job.map(strandline_storage::log::CheckpointJob::run));
        follower.truncate_to(Offset(i64::from(kept)), NOW).unwrap();
        follower.flush().unwrap();
        drop(follower);
        let mut rig = Rig::on(disk.file_system(), directory());
        rig.hint.shutdown = Shutdown::Unclean;
        let mut follower = rig.open();
        assert_eq!(follower.end(), Offset(i64::from(kept)));
        follower.lead_in(LeaderEpoch(2)).unwrap();
        let oldest = (kept - 5).max(0);
        for sequence in oldest..kept {
            let again = batch(&["v"], NOW.0, stamp(0, sequence));
            let appended = follower.append(&again, LeaderEpoch(2), NOW).unwrap();
            assert!(appended.duplicate, "{sequence} of {kept}");
            assert_eq!(appended.base_offset, Offset(i64::from(sequence)));
        }
        let gap = batch(&["v"], NOW.0, stamp(0, kept + 1));
        assert!(follower.append(&gap, LeaderEpoch(2), NOW).is_err());
        let next = batch(&["v"], NOW.0, stamp(0, kept));
        assert!(
            !follower
                .append(&next, LeaderEpoch(2), NOW)
                .unwrap()
                .duplicate
        );
    }
}

#[test]
fn a_cut_goes_on_from_producers_that_were_written_down_before_it() {
    for (checkpoint_at, kept) in [(20, 30), (20, 20), (20, 17), (0, 30), (39, 21)] {
        let disk = SimulatedDisk::new(1);
        let mut log = open(&disk);
        for sequence in 0..40 {
            if sequence == checkpoint_at {
                log.flush().unwrap();
                let job = log.checkpoint_job(NOW);
                drop(job.map(strandline_storage::log::CheckpointJob::run));
            }
            let bytes = batch(&["a longer value"], NOW.0, stamp(0, sequence));
            log.append(&bytes, LeaderEpoch(1), NOW).unwrap();
        }
        log.truncate_to(Offset(i64::from(kept)), NOW).unwrap();
        for sequence in kept - 5..kept {
            let again = batch(&["a longer value"], NOW.0, stamp(0, sequence));
            let appended = log.append(&again, LeaderEpoch(1), NOW).unwrap();
            let label = format!("{sequence}, cut at {kept}, checkpoint at {checkpoint_at}");
            assert!(appended.duplicate, "{label}");
        }
        for wrong in [kept - 6, kept + 1] {
            let bytes = batch(&["a longer value"], NOW.0, stamp(0, wrong));
            assert!(log.append(&bytes, LeaderEpoch(1), NOW).is_err());
        }
    }
}

#[test]
fn a_cut_does_not_end_below_what_was_announced() {
    let disk = SimulatedDisk::new(1);
    let mut log = open(&disk);
    for _ in 0..60 {
        let bytes = batch(&["one", "two", "three"], NOW.0, ProducerStamp::NONE);
        log.append(&bytes, LeaderEpoch(1), NOW).unwrap();
    }
    log.flush().unwrap();
    assert!(log.segments() > 2);
    for offset in [179, 178, 177, 89, 61, 45, 44, 3, 1, 0] {
        let announced = log.cut_target(Offset(offset)).unwrap();
        let end = log.truncate_to(Offset(offset), NOW).unwrap();
        assert_eq!(announced, end, "cut at {offset}");
        assert_eq!(end.0, offset / 3 * 3);
    }
    assert_eq!(log.cut_target(Offset(7)).unwrap(), Offset(0));
}

/// Batches of five records each; the log of the leader starts within one of them.
fn starts_within_a_batch(disk: &SimulatedDisk, start: i64) -> Log {
    let mut leader = open(disk);
    for number in 0..20 {
        let value = format!("value-{number}");
        let bytes = batch(&[value.as_str(); 5], NOW.0, ProducerStamp::NONE);
        leader.append(&bytes, LeaderEpoch(1), NOW).unwrap();
    }
    let removed = leader.delete_before(Offset(start), NOW).unwrap();
    removed.finish().unwrap();
    leader
}

#[test]
fn a_log_may_begin_with_a_batch_that_holds_its_start() {
    for (start, had) in [(36, 0), (35, 0), (39, 0), (36, 36), (37, 30)] {
        let leader = starts_within_a_batch(&SimulatedDisk::new(1), start);
        let disk = SimulatedDisk::new(2);
        let mut follower = open(&disk);
        for _ in 0..had {
            lead(&mut follower, 1, "of another history");
        }
        follower.flush().unwrap();
        follower.restart_at(Offset(start), NOW).unwrap();
        let bounds = (follower.start(), follower.end());
        assert_eq!(bounds, (Offset(start), Offset(start)));
        catch_up(&mut follower, &leader, 1);
        let bounds = (follower.start(), follower.end());
        assert_eq!(bounds, (Offset(start), Offset(100)));
        let whole = read_all(&leader, Offset(start), 500).unwrap();
        assert_eq!(read_all(&follower, Offset(start), 500).unwrap(), whole);
        follower.flush().unwrap();
        drop(follower);
        let follower = open(&disk.power_cut(7));
        assert_eq!(follower.start(), Offset(start));
        assert_eq!(read_all(&follower, Offset(start), 500).unwrap(), whole);
    }
}

#[test]
fn only_an_empty_log_begins_before_its_start() {
    let leader = starts_within_a_batch(&SimulatedDisk::new(1), 0);
    let mut follower = open(&SimulatedDisk::new(2));
    follower.restart_at(Offset(36), NOW).unwrap();
    // Not the batch that holds the start; one that does, and then another one that does not follow.
    let refused = [copy(&leader, Offset(40)), {
        let two = [copy(&leader, Offset(35)), copy(&leader, Offset(35))];
        two.concat().into()
    }];
    for bytes in refused {
        let error = follower.append_replicated(&bytes, LeaderEpoch(1), NOW);
        assert!(
            matches!(error, Err(AppendError::NotAtLogEnd { .. })),
            "{error:?}"
        );
        assert_eq!((follower.start(), follower.end()), (Offset(36), Offset(36)));
    }
    let first = leader.read(Offset(35), 1, Offset(100)).unwrap().bytes;
    follower
        .append_replicated(&first, LeaderEpoch(1), NOW)
        .unwrap();
    let again = follower.append_replicated(&first, LeaderEpoch(1), NOW);
    assert!(again.is_err());
    assert_eq!((follower.start(), follower.end()), (Offset(36), Offset(40)));
}

#[test]
fn a_power_cut_at_such_a_beginning_leaves_no_damage() {
    let leader = starts_within_a_batch(&SimulatedDisk::new(1), 36);
    let mut cuts = 0;
    for operation in 0.. {
        let disk = SimulatedDisk::new(operation);
        let mut follower = open(&disk);
        follower.restart_at(Offset(36), NOW).unwrap();
        disk.crash_after(operation);
        let first = leader.read(Offset(36), 1, Offset(100)).unwrap().bytes;
        let appended = follower.append_replicated(&first, LeaderEpoch(1), NOW);
        let flushed = follower.flush();
        if !disk.is_off() {
            appended.unwrap();
            flushed.unwrap();
            break;
        }
        drop(follower);
        for seed in 0..6 {
            let disk = disk.power_cut(seed);
            let mut rig = Rig::on(disk.file_system(), directory());
            rig.hint.recovery_point = Offset(36);
            let (mut follower, report) = rig.open_reported();
            assert_eq!(report.damage, Vec::<String>::new(), "{operation} {seed}");
            assert_eq!(follower.start(), Offset(36));
            catch_up(&mut follower, &leader, 1);
            let whole = read_all(&leader, Offset(36), 500).unwrap();
            assert_eq!(read_all(&follower, Offset(36), 500).unwrap(), whole);
            cuts += 1;
        }
    }
    assert!(cuts > 10, "{cuts}");
}

#[test]
fn a_full_disk_at_such_a_beginning_leaves_the_log_empty() {
    let leader = starts_within_a_batch(&SimulatedDisk::new(1), 36);
    let disk = SimulatedDisk::new(2);
    let mut follower = open(&disk);
    follower.restart_at(Offset(36), NOW).unwrap();
    disk.set_capacity(Some(0));
    let first = copy(&leader, Offset(36));
    let full = follower.append_replicated(&first, LeaderEpoch(1), NOW);
    assert!(matches!(full, Err(AppendError::DiskFull(_))), "{full:?}");
    assert_eq!((follower.start(), follower.end()), (Offset(36), Offset(36)));
    disk.set_capacity(None);
    catch_up(&mut follower, &leader, 1);
    assert_eq!(follower.end(), Offset(100));
}

/// A start drops an epoch in which nothing was written; if its file went on naming it, the next
/// start would take what a leader of before has there for torn.
#[test]
fn an_epoch_that_wrote_nothing_gives_way_after_a_restart_too() {
    let (disk, leader_disk) = (SimulatedDisk::new(1), SimulatedDisk::new(2));
    let mut leader = open(&leader_disk);
    lead(&mut leader, 1, "a");
    let mut follower = open(&disk);
    catch_up(&mut follower, &leader, 1);
    lead(&mut leader, 1, "b");
    follower.lead_in(LeaderEpoch(2)).unwrap();
    drop(follower);
    let mut follower = open(&disk);
    assert_eq!(follower.latest_epoch(), Some(LeaderEpoch(1)));
    catch_up(&mut follower, &leader, 3);
    let end = follower.end();
    assert_eq!(end, leader.end());
    drop(follower);
    assert_eq!(open(&disk).end(), end);
}
