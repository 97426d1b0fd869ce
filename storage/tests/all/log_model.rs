//! The log against a plain model, on the simulated disk: whatever happens in whatever order, what
//! was durable is there, what is there was appended, and batches are recognised when they come
//! again.

use std::path::Path;

use crate::common::{EPOCH, NOW, Rig, batch, read_all, stamp};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use strandline_protocol::{LeaderEpoch, Offset};
use strandline_storage::{
    fs::{
        Operation,
        simulated::{Failure, Fault, SimulatedDisk},
    },
    log::{AppendError, Appended, Log, ReadError, RecoveryHint, Shutdown},
};

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Retry(usize),
    Flush,
    FlushBehind,
    Checkpoint,
    Roll,
    Delete(u8),
    Retain,
    Truncate(u8),
    Close,
    Kill,
    PowerCut(u64),
    CrashAfter(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (1_usize..12).prop_map(Step::Append),
        2 => (1_usize..6).prop_map(Step::Retry),
        3 => Just(Step::Flush),
        2 => Just(Step::FlushBehind),
        3 => Just(Step::Checkpoint),
        1 => Just(Step::Roll),
        1 => any::<u8>().prop_map(Step::Delete),
        1 => Just(Step::Retain),
        1 => any::<u8>().prop_map(Step::Truncate),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        2 => any::<u64>().prop_map(Step::PowerCut),
        2 => (1_u64..40).prop_map(Step::CrashAfter),
    ]
}

/// A batch as the model knows it.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    base: i64,
    values: Vec<String>,
    sequence: i32,
}

impl Known {
    fn end(&self) -> i64 {
        self.base + self.values.len() as i64
    }
}

struct Model {
    rig: Rig,
    disk: SimulatedDisk,
    log: Option<Log>,
    batches: Vec<Known>,
    /// What a start must at least give.
    durable: i64,
    /// Where the log may start, at least and at most.
    start: (i64, i64),
    next_value: usize,
    epoch: i32,
}

impl Model {
    fn new() -> Self {
        let disk = SimulatedDisk::new(1);
        let mut rig = Rig::on(disk.file_system(), "/data/topic-0".into());
        rig.files.create_directory(Path::new("/data")).unwrap();
        rig.files.sync_directory(Path::new("/")).unwrap();
        rig.config.retention_bytes = Some(4_000);
        let log = Some(rig.open());
        Self {
            rig,
            disk,
            log,
            batches: Vec::new(),
            durable: 0,
            start: (0, 0),
            next_value: 0,
            epoch: 0,
        }
    }

    fn end(&self) -> i64 {
        self.batches.last().map_or(0, Known::end).max(self.start.1)
    }

    fn sequence(&self) -> i32 {
        let next = |batch: &Known| batch.sequence + batch.values.len() as i32;
        self.batches.last().map_or(0, next)
    }

    fn log(&mut self) -> &mut Log {
        self.log.as_mut().unwrap()
    }

    fn send(&mut self, known: &Known) -> Result<Appended, AppendError> {
        let values: Vec<_> = known.values.iter().map(String::as_str).collect();
        let bytes = batch(&values, NOW.0, stamp(0, known.sequence));
        let epoch = LeaderEpoch(self.epoch);
        self.log().append(&bytes, epoch, NOW)
    }

    /// One batch; tells whether the machine is still on.
    fn append(&mut self, records: usize) -> bool {
        let values = (0..records).map(|at| format!("value-{}", self.next_value + at));
        let known = Known {
            base: self.end(),
            values: values.collect(),
            sequence: self.sequence(),
        };
        self.next_value += records;
        let outcome = self.send(&known);
        // One that failed may be there after the crash: its outcome is unknown.
        self.batches.push(known.clone());
        match outcome {
            Ok(placed) => {
                assert_eq!(
                    (placed.base_offset.0, placed.duplicate),
                    (known.base, false)
                );
                true
            }
            Err(_) => false,
        }
    }

    fn retry(&mut self, back: usize) {
        let Some(at) = self.batches.len().checked_sub(back) else {
            return;
        };
        let known = self.batches[at].clone();
        if known.base < self.start.1 {
            // It is gone, and may be forgotten.
            return;
        }
        let placed = self.send(&known).unwrap();
        assert!(placed.duplicate, "{known:?}");
        assert_eq!(
            (placed.base_offset.0, placed.end_offset.0),
            (known.base, known.end())
        );
    }

    /// Does a step; tells whether the machine is still on.
    fn step(&mut self, step: &Step) -> bool {
        match step {
            Step::Append(records) => return self.append(*records),
            Step::Retry(back) => self.retry(*back),
            Step::Flush => match self.log().flush() {
                Ok(durable) => self.durable = durable.0,
                Err(_) => return false,
            },
            Step::FlushBehind => {
                let Some(job) = self.log().flush_job() else {
                    return true;
                };
                if !self.append(2) {
                    return false;
                }
                match self.log().flushed(job.run()) {
                    Ok(durable) => self.durable = durable.0,
                    Err(_) => return false,
                }
            }
            Step::Checkpoint => {
                if let Some(job) = self.log().checkpoint_job(NOW) {
                    match job.run() {
                        Ok(point) => self.rig.hint.recovery_point = point,
                        Err(_) => return false,
                    }
                }
            }
            Step::Roll => {
                let later = strandline_protocol::Timestamp(NOW.0 + 20_000);
                return self.log().roll_if_due(later).is_ok();
            }
            Step::Delete(share) => return self.delete(*share),
            Step::Retain => {
                let end = self.log().end();
                let outcome = self.log().apply_retention(NOW, end);
                let start = self.log().start().0;
                self.start = (self.start.0, start);
                match outcome.and_then(|removed| removed.finish()) {
                    Ok(()) => self.start = (start, start),
                    Err(_) => {
                        self.start.1 = self.end();
                        return false;
                    }
                }
            }
            Step::Truncate(share) => return self.truncate(*share),
            Step::Close => {
                let log = self.log.take().unwrap();
                match log.close(NOW) {
                    Ok(point) => {
                        self.durable = point.0;
                        let hint = RecoveryHint {
                            recovery_point: point,
                            log_start: Offset(self.start.0),
                            shutdown: Shutdown::Clean,
                        };
                        self.rig.hint = hint;
                        let is_on = self.reopen();
                        self.rig.hint.shutdown = Shutdown::Unclean;
                        return is_on;
                    }
                    Err(_) => return false,
                }
            }
            Step::Kill => self.restart(SimulatedDisk::kill, self.end()),
            Step::PowerCut(seed) => self.restart(|disk| disk.power_cut(*seed), self.durable),
            Step::CrashAfter(changes) => self.disk.crash_after(*changes),
        }
        true
    }

    fn delete(&mut self, share: u8) -> bool {
        let (start, end) = (self.log().start().0, self.log().durable().0);
        let to = start + (end - start).max(0) * i64::from(share) / 255;
        let outcome = self.log().delete_before(Offset(to), NOW);
        match outcome.and_then(|removed| removed.finish()) {
            Ok(()) => {
                let now = self.log().start().0;
                assert_eq!(now, to.max(start));
                self.start = (now, now);
                true
            }
            Err(_) => {
                self.start.1 = to.max(self.start.1);
                false
            }
        }
    }

    fn truncate(&mut self, share: u8) -> bool {
        let (start, end) = (self.log().start().0, self.log().end().0);
        let to = start + (end - start) * i64::from(share) / 255;
        self.rig.hint.recovery_point = Offset(0);
        match self.log().truncate_to(Offset(to), NOW) {
            Ok(end) => {
                self.batches.retain(|batch| batch.end() <= end.0);
                self.durable = self.durable.min(end.0);
                assert!(end.0 <= to);
                // What was cut may not lie below the start of the batch that held it.
                self.start = (self.start.0.min(end.0), self.start.1.min(end.0));
                if self.batches.is_empty() {
                    self.start = (end.0, end.0);
                }
                // A leader writes on under another epoch.
                self.epoch += 1;
                true
            }
            Err(_) => {
                // A batch that holds the start goes whole.
                let bases = self.batches.iter().map(|batch| batch.base);
                let least = bases.filter(|base| *base <= start).max().unwrap_or(0);
                self.durable = self.durable.min(least);
                self.start.0 = self.start.0.min(least);
                false
            }
        }
    }

    /// Goes down and comes up again; at least what lies below `least` must be there.
    fn restart(&mut self, go: impl FnOnce(&SimulatedDisk) -> SimulatedDisk, least: i64) {
        self.log = None;
        self.disk = go(&self.disk);
        self.rig.files = self.disk.file_system();
        self.durable = least;
        assert!(self.reopen(), "nothing fails on a disk without faults");
    }

    /// Opens the log and holds it against the model; tells whether the machine is still on.
    fn reopen(&mut self) -> bool {
        let Ok((log, report)) = self.rig.try_open() else {
            return false;
        };
        assert!(report.damage.is_empty(), "{report:?}");
        let (start, end) = (log.start().0, log.end().0);
        assert!(
            end >= self.durable,
            "the log ends at {end}, {} was durable",
            self.durable
        );
        assert!(
            end <= self.end().max(self.start.1),
            "{end} was never written"
        );
        assert!(
            self.start.0 <= start && start <= self.start.1,
            "it starts at {start}, not in {:?}",
            self.start
        );
        self.batches.retain(|batch| batch.end() <= end);
        self.start = (start, start);
        assert_eq!(self.end(), end, "it ends inside of a batch");
        self.durable = log.durable().0;
        assert_eq!(self.durable, end);
        self.log = Some(log);
        self.epoch += 1;
        if !self.check() {
            return false;
        }
        for back in 1..=5 {
            self.retry(back);
        }
        true
    }

    /// Reads everything; tells whether the machine is still on.
    fn check(&self) -> bool {
        let log = self.log.as_ref().unwrap();
        let start = log.start();
        let expected: Vec<_> = self
            .batches
            .iter()
            .flat_map(|batch| (batch.base..).zip(batch.values.iter().cloned()))
            .filter(|(offset, _)| *offset >= start.0)
            .collect();
        assert_eq!(log.end().0, self.end());
        match read_all(log, start, 300) {
            Ok(read) => assert_eq!(read, expected),
            Err(ReadError::Storage(_)) => return false,
            Err(error) => panic!("{error}"),
        }
        true
    }
}

fn run(steps: &[Step], seed: u64) {
    let mut model = Model::new();
    for (at, step) in steps.iter().enumerate() {
        if !(model.step(step) && model.check()) {
            let least = model.durable;
            model.restart(|disk| disk.power_cut(seed.wrapping_add(at as u64)), least);
        }
    }
}

/// `PROPTEST_CASES=20000` makes a long run of it.
fn config() -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 200;
    }
    config
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_was_durable_is_there_and_what_is_there_was_appended(
        steps in proptest::collection::vec(step(), 1..80),
        seed in any::<u64>(),
    ) {
        run(&steps, seed);
    }
}

fn simulated() -> (SimulatedDisk, Rig) {
    let model = Model::new();
    (model.disk, model.rig)
}

#[test]
fn a_full_disk_refuses_appends_only_and_they_resume() {
    let (disk, mut rig) = simulated();
    rig.config.retention_bytes = Some(1_000);
    let mut log = rig.open();
    disk.set_capacity(Some(120_000));
    let mut appended = 0;
    let error = loop {
        match crate::common::produce(&mut log, &["x"], appended) {
            Ok(_) => appended += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code().name(), "DISK_FULL", "{error}");
    assert!(appended > 10 && !log.is_offline());
    for _ in 0..3 {
        let error = crate::common::produce(&mut log, &["x"], appended).unwrap_err();
        assert_eq!(error.code().name(), "DISK_FULL");
    }
    let end = log.flush().unwrap();
    assert_eq!(
        read_all(&log, Offset(0), 300).unwrap().len(),
        appended as usize
    );
    log.apply_retention(NOW, end).unwrap().finish().unwrap();
    assert!(log.start() > Offset(0));
    crate::common::produce(&mut log, &["x"], appended).unwrap();
    log.close(NOW).unwrap();
}

#[test]
fn a_failed_sync_takes_the_log_offline() {
    let (disk, rig) = simulated();
    let mut log = rig.open();
    crate::common::append(&mut log, &["x"]);
    disk.inject(Fault::next(Operation::Sync, Failure::Broken).on(".log"));
    assert!(log.flush().is_err());
    assert!(log.is_offline() && log.durable() == Offset(0));
    let bytes = batch(&["y"], NOW.0, stamp(0, 0));
    assert!(matches!(
        log.append(&bytes, EPOCH, NOW),
        Err(AppendError::Storage(_))
    ));
    assert!(log.read(Offset(0), 100, Offset(1)).is_err());
}

#[test]
fn cold_ranges_are_told_and_checked_again() {
    let (disk, rig) = simulated();
    let mut log = rig.open();
    for _ in 0..60 {
        crate::common::append(&mut log, &["x"]);
    }
    assert!(log.cold_range(Offset(0), 100).is_none());
    let warm = log.read(Offset(0), 300, log.end()).unwrap();
    warm.check().unwrap();
    assert!(!log.read(Offset(0), 300, log.end()).unwrap().needs_check());
    disk.chill();
    let cold = log.cold_range(Offset(0), 300).unwrap();
    assert!(cold.bytes() > 0);
    cold.populate().unwrap();
    assert!(log.cold_range(Offset(0), 300).is_none());
    assert!(log.read(Offset(0), 300, log.end()).unwrap().needs_check());
}

/// The recovery file spoke of bytes that the cut had zeroed: the log was damaged from 0 to 14.
#[test]
fn a_power_cut_during_a_truncation_leaves_no_hole() {
    use Step::{Append, Checkpoint, CrashAfter, Retry, Truncate};
    let before = [2, 3, 1, 1, 7, 1].map(Append);
    let mut steps = vec![
        before[0].clone(),
        CrashAfter(32),
        before[1].clone(),
        Retry(1),
    ];
    steps.extend_from_slice(&before[2..]);
    steps.extend([Checkpoint, Truncate(17)]);
    run(&steps, 15_989_444_975_122_112_653);
}

/// The start stood in the name of the oldest segment alone, and the cut removed that.
#[test]
fn a_power_cut_during_a_truncation_keeps_the_log_start() {
    use Step::{Append, Checkpoint, Close, CrashAfter, Delete, Flush, Roll, Truncate};
    let mut steps = [1, 2, 1, 1].map(Append).to_vec();
    steps.extend([Checkpoint, Append(1), Roll, Append(1), Append(2), Flush]);
    steps.extend([Truncate(199), CrashAfter(1)]);
    steps.extend([1, 11, 10].map(Append));
    steps.extend([Close, Append(1), Close, CrashAfter(1), Delete(53)]);
    steps.extend([CrashAfter(17), Truncate(0)]);
    for changes in 1..40 {
        let last = steps.len() - 2;
        steps[last] = CrashAfter(changes);
        run(&steps, 15_858_497_723_781_163_763);
    }
}
