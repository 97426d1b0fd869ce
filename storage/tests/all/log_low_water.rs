//! What goes: retention, `DeleteRecords`, truncation; and what is found by time.

use crate::common::{EPOCH, NOW, Rig, append, batch, expect, produce, read_all, stamp};
use strandline_protocol::{
    LeaderEpoch, Offset, Timestamp,
    batch::{BatchHeader, BatchView, ProducerStamp, header_bytes},
};
use strandline_storage::log::{AppendError, Log, ReadError};
use zerocopy::FromBytes;

fn value(number: usize) -> String {
    format!("value-{number:06}")
}

fn fill(log: &mut Log, count: usize) {
    let from = usize::try_from(log.end().0).unwrap();
    for number in from..count {
        append(log, &[&value(number)]);
    }
}

/// One record a batch, at these times.
fn fill_at(log: &mut Log, times: impl IntoIterator<Item = i64>) {
    for time in times {
        let bytes = batch(&["x"], time, ProducerStamp::NONE);
        log.append(&bytes, EPOCH, NOW).unwrap();
    }
}

#[test]
fn retention_by_size_keeps_the_youngest() {
    let mut rig = Rig::mapped();
    rig.config.retention_bytes = Some(5_000);
    let mut log = rig.open();
    fill(&mut log, 200);
    let (end, segments) = (log.end(), log.segments());
    let removed = log.apply_retention(NOW, Offset(0)).unwrap();
    assert_eq!(removed.segments, 0, "nothing above the high watermark goes");
    let removed = log.apply_retention(NOW, end).unwrap();
    assert!(removed.segments > 0);
    assert_eq!(log.segments(), segments - removed.segments);
    assert!(
        log.bytes() >= 5_000 && log.bytes() < 7_000,
        "{} bytes",
        log.bytes()
    );
    removed.finish().unwrap();
    let start = log.start();
    assert!(matches!(
        log.read(Offset(start.0 - 1), 100, end),
        Err(ReadError::OutOfRange { .. })
    ));
    let kept = expect((0..200).map(value))[start.0 as usize..].to_vec();
    assert_eq!(read_all(&log, start, 500).unwrap(), kept);
    // A crash before the directory's checkpoint knows of it.
    rig.kill(log, end);
    let log = rig.open();
    assert_eq!(log.start(), start);
    assert_eq!(read_all(&log, start, 500).unwrap(), kept);
}

#[test]
fn retention_by_time_takes_the_active_segment_too() {
    let mut rig = Rig::mapped();
    rig.config.retention_ms = Some(1_000);
    let mut log = rig.open();
    fill_at(&mut log, (0..100).map(|number| NOW.0 + number));
    let end = log.end();
    let removed = log.apply_retention(Timestamp(NOW.0 + 1_050), end).unwrap();
    assert!(
        removed.segments > 0 && log.start() < Offset(60),
        "{}",
        log.start()
    );
    removed.finish().unwrap();
    log.apply_retention(Timestamp(NOW.0 + 2_000), end)
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!((log.start(), log.end()), (end, end));
    append(&mut log, &["next"]);
    rig.close(log);
    let log = rig.open();
    assert_eq!((log.start(), log.end()), (end, Offset(end.0 + 1)));
}

#[test]
fn delete_before_is_durable_when_it_returns() {
    for cut in [1, 10, 50, 99, 100] {
        let mut rig = Rig::mapped();
        let mut log = rig.open();
        fill(&mut log, 100);
        let end = log.flush().unwrap();
        let removed = log.delete_before(Offset(cut), NOW).unwrap();
        removed.finish().unwrap();
        assert_eq!(log.start(), Offset(cut));
        assert!(log.delete_before(Offset(101), NOW).is_err());
        assert!(!log.is_offline());
        rig.kill(log, end);
        let mut log = rig.open();
        assert_eq!(
            (log.start(), log.end()),
            (Offset(cut), Offset(100)),
            "cut at {cut}"
        );
        fill(&mut log, 130);
        let kept = expect((0..130).map(value))[cut as usize..].to_vec();
        assert_eq!(read_all(&log, Offset(cut), 500).unwrap(), kept);
    }
}

#[test]
fn truncation_leaves_nothing_of_what_was_cut() {
    for cut in [0, 1, 7, 44, 60, 88, 99] {
        let mut rig = Rig::mapped();
        let mut log = rig.open();
        for sequence in 0..100 {
            let epoch = LeaderEpoch(sequence / 30);
            let bytes = batch(&[&value(sequence as usize)], NOW.0, stamp(0, sequence));
            log.append(&bytes, epoch, NOW).unwrap();
        }
        let job = log.flush_job().unwrap();
        assert_eq!(
            log.truncate_to(Offset(i64::from(cut)), NOW).unwrap(),
            Offset(i64::from(cut))
        );
        let durable = log.flushed(job.run()).unwrap();
        assert!(
            durable <= log.end(),
            "a job from before the cut says nothing about what is now"
        );
        let check = |log: &mut Log, label: &str| {
            let read = read_all(log, Offset(0), 300).unwrap();
            assert_eq!(read, expect((0..cut as usize).map(value)), "{label} {cut}");
            if cut > 0 {
                assert_eq!(log.latest_epoch(), Some(LeaderEpoch((cut - 1) / 30)));
                assert!(produce(log, &["x"], cut + 1).is_err());
            }
        };
        check(&mut log, "cut at");
        rig.kill(log, Offset(0));
        let mut log = rig.open();
        check(&mut log, "reopened after a cut at");
        for number in cut..120 {
            let bytes = batch(&[&value(number as usize)], NOW.0, stamp(0, number));
            log.append(&bytes, LeaderEpoch(9), NOW).unwrap();
        }
        let whole = expect((0..120).map(value));
        assert_eq!(read_all(&log, Offset(0), 300).unwrap(), whole);
        rig.close(log);
        assert_eq!(read_all(&rig.open(), Offset(0), 300).unwrap(), whole);
    }
}

#[test]
fn times_are_found_in_every_segment() {
    let mut rig = Rig::mapped();
    let times: Vec<i64> = (0..150)
        .map(|number| NOW.0 + number * 10 - (number % 7) * 25)
        .collect();
    let mut log = rig.open();
    fill_at(&mut log, times.iter().copied());
    assert!(log.segments() > 3);
    let check = |log: &Log| {
        for wanted in (NOW.0 - 200..NOW.0 + 1_600).step_by(13) {
            let expected = times.iter().position(|time| *time >= wanted);
            let found = log.offset_for_time(Timestamp(wanted), log.end()).unwrap();
            assert_eq!(
                found.map(|found| (found.offset.0, found.timestamp.0)),
                expected.map(|at| (at as i64, times[at])),
                "time {wanted}"
            );
        }
        assert_eq!(
            log.max_timestamp().unwrap().unwrap().0,
            Timestamp(*times.iter().max().unwrap())
        );
    };
    check(&log);
    rig.close(log);
    let log = rig.open();
    check(&log);
    rig.kill(log, Offset(150));
    check(&rig.open());
}

#[test]
fn a_refused_batch_leaves_no_trace() {
    let mut rig = Rig::mapped();
    rig.config.timestamp_before_max_ms = 1_000;
    let mut log = rig.open();
    produce(&mut log, &["x"], 0).unwrap();
    let mut refuse = |bytes: &[u8], code: &str| {
        let error = log.append(bytes, EPOCH, NOW).unwrap_err();
        assert_eq!(error.code().name(), code, "{error}");
        assert_eq!(log.end(), Offset(1));
    };
    let good = batch(&["y"], NOW.0, stamp(0, 1));
    let mut bad = good.to_vec();
    *bad.last_mut().unwrap() ^= 1;
    refuse(&bad, "CORRUPT_MESSAGE");
    refuse(&good[..good.len() - 1], "CORRUPT_MESSAGE");
    refuse(&[&good[..], &good[..]].concat(), "INVALID_RECORD");
    refuse(
        &batch(&["y"], NOW.0, stamp(0, 2)),
        "OUT_OF_ORDER_SEQUENCE_NUMBER",
    );
    refuse(
        &batch(&["y"], NOW.0 + 3_600_001, stamp(0, 1)),
        "INVALID_TIMESTAMP",
    );
    refuse(
        &batch(&["y"], NOW.0 - 1_001, stamp(0, 1)),
        "INVALID_TIMESTAMP",
    );
    refuse(
        &batch(&["y".repeat(1_500).as_str()], NOW.0, stamp(0, 1)),
        "MESSAGE_TOO_LARGE",
    );
    let error = log.append(&good, LeaderEpoch(-1), NOW).unwrap_err();
    assert!(matches!(error, AppendError::LeaderEpoch { .. }));
    assert_eq!(
        log.append(&good, EPOCH, NOW).unwrap().base_offset,
        Offset(1)
    );
}

#[test]
fn the_brokers_time_is_stamped_under_a_good_crc() {
    let mut rig = Rig::mapped();
    rig.config.timestamp_type = strandline_protocol::batch::TimestampType::LogAppendTime;
    let mut log = rig.open();
    let placed = produce(&mut log, &["x", "y"], 0).unwrap();
    assert_eq!(placed.log_append_time, Some(NOW));
    assert_eq!(
        produce(&mut log, &["x", "y"], 0).unwrap().log_append_time,
        Some(NOW)
    );
    assert_eq!(read_all(&log, Offset(0), 1).unwrap().len(), 2);
    rig.kill(log, Offset(0));
    assert_eq!(rig.open().end(), Offset(2));
}

#[test]
fn a_follower_takes_batches_as_they_are_and_only_at_its_end() {
    let leader = Rig::mapped();
    let mut leader_log = leader.open();
    fill(&mut leader_log, 60);
    let follower = Rig::mapped();
    let mut log = follower.open();
    let mut at = Offset(0);
    while at < leader_log.end() {
        let fetched = leader_log.read(at, 700, leader_log.end()).unwrap();
        let older = LeaderEpoch(-1);
        assert!(log.append_replicated(&fetched.bytes, older, NOW).is_err());
        log.append_replicated(&fetched.bytes, EPOCH, NOW).unwrap();
        assert!(matches!(
            log.append_replicated(&fetched.bytes, EPOCH, NOW),
            Err(AppendError::NotAtLogEnd { .. })
        ));
        at = fetched.end_offset;
        assert_eq!(log.end(), at);
    }
    assert_eq!(
        read_all(&log, Offset(0), 500).unwrap(),
        expect((0..60).map(value))
    );
}

#[test]
fn a_follower_refuses_what_it_could_not_read_again() {
    let good = batch(&["x", "y"], NOW.0, ProducerStamp::NONE);
    let view = BatchView::exactly(&good).unwrap();
    for count in [-1, 0, 1, 3, i32::MAX] {
        let mut head = header_bytes(view.header()).to_vec();
        head[57..61].copy_from_slice(&count.to_be_bytes());
        let header = BatchHeader::read_from_bytes(&head).unwrap();
        let header = header.with_crc(view.stored_records());
        let bytes = [header_bytes(&header), view.stored_records()].concat();
        let mut log = Rig::mapped().open();
        let refused = log.append_replicated(&bytes, EPOCH, NOW);
        assert!(
            matches!(refused, Err(AppendError::Invalid(_))),
            "{count}: {refused:?}"
        );
        assert_eq!(log.end(), Offset(0));
    }
}
