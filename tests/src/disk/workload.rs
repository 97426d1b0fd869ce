//! A workload on one disk: steps by a seed, and a journal of what was tried and acknowledged.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use strandline_protocol::{
    LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, Timestamp,
    batch::{BatchBuilder, Codec, NewRecord, ProducerStamp, stamp_position},
};
use strandline_storage::{
    directory::PartitionName,
    fs::simulated::SimulatedDisk,
    log::{AppendError, CheckpointJob, FlushJob},
};

use super::{
    check,
    kinds::{Kind, Step},
    machine::{Machine, NOW, Trouble, full_is_fine},
    model::{Expected, Journal, Known},
};
use crate::random::Random;

/// How many changes of its disk a workload makes, about.
const CHANGES: u64 = 700;

const DAY_MS: i64 = 24 * 3_600 * 1_000;

/// Why a workload ended before its time.
#[derive(Debug)]
pub enum Stop {
    /// The disk failed: what a broker does then is to go offline.
    Dead(String),
    /// Something happened that must not.
    Violation(String),
}

/// A workload that has run.
#[derive(Debug)]
pub struct Run {
    /// What was known when.
    pub journal: Journal,
    /// What is known in the end.
    pub expected: Arc<Expected>,
    /// Why it ended before its time.
    pub stop: Option<Stop>,
    /// The broker, if it still runs.
    pub machine: Option<Machine>,
    /// The checkpoint job that still lies about.
    pub checkpoint: Option<(PartitionName, CheckpointJob)>,
    /// Steps that were done.
    pub steps: u64,
    /// What time it is at its end.
    pub now: Timestamp,
}

/// Runs the workload of `kind` that `seed` gives on an empty disk.
#[must_use]
pub fn run(kind: Kind, seed: u64, disk: &SimulatedDisk) -> Run {
    let mut driver = Driver {
        kind,
        disk,
        random: Random::new(seed, kind as u64),
        now: NOW.0,
        machine: None,
        expected: Arc::default(),
        journal: Journal::default(),
        starts: 0,
        values: 0,
        flushes: VecDeque::new(),
        checkpoint: None,
    };
    let mut steps = 0;
    let stop = driver.all(&mut steps).err();
    Run {
        journal: driver.journal,
        expected: driver.expected,
        stop,
        machine: driver.machine,
        checkpoint: driver.checkpoint,
        steps,
        now: Timestamp(driver.now),
    }
}

pub(super) struct Driver<'a> {
    pub(super) kind: Kind,
    pub(super) disk: &'a SimulatedDisk,
    pub(super) random: Random,
    pub(super) now: i64,
    pub(super) machine: Option<Machine>,
    pub(super) expected: Arc<Expected>,
    journal: Journal,
    starts: u64,
    values: u64,
    flushes: VecDeque<(PartitionName, FlushJob)>,
    pub(super) checkpoint: Option<(PartitionName, CheckpointJob)>,
}

pub(super) type Done = Result<(), Stop>;

impl Driver<'_> {
    fn all(&mut self, steps: &mut u64) -> Done {
        self.start()?;
        for topic in ["a", "b"] {
            self.create(topic, 2)?;
        }
        for _ in 0..2 {
            self.new_producer()?;
        }
        let end = self.disk.changes() + CHANGES;
        while self.disk.changes() < end {
            self.now += i64::try_from(self.random.within(0..500)).unwrap_or(0);
            let step = self.kind.step(&mut self.random);
            self.step(step)?;
            *steps += 1;
        }
        Ok(())
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp(self.now)
    }

    /// Writes down what is known from now on.
    pub(super) fn know(&mut self, change: impl FnOnce(&mut Expected)) {
        change(Arc::make_mut(&mut self.expected));
        self.journal
            .push(self.disk.changes(), Arc::clone(&self.expected));
    }

    pub(super) fn say(&mut self, what: String) {
        self.journal.step(self.disk.changes(), what);
    }

    /// Whether something was done; a full disk only refuses.
    pub(super) fn done<T>(&self, result: Result<T, impl Into<Trouble>>) -> Result<Option<T>, Stop> {
        match result.map_err(Into::into) {
            Ok(done) => Ok(Some(done)),
            Err(Trouble::Full(_)) => Ok(None),
            Err(Trouble::Dead(reason)) => Err(self.dead(reason)),
            Err(Trouble::Refused(reason)) => Err(Stop::Violation(reason)),
        }
    }

    pub(super) fn dead(&self, reason: String) -> Stop {
        if let Some(machine) = &self.machine {
            machine.fail(reason.clone());
        }
        Stop::Dead(reason)
    }

    pub(super) fn machine(&mut self) -> &mut Machine {
        self.machine.as_mut().expect("the broker runs")
    }

    fn step(&mut self, step: Step) -> Done {
        match step {
            Step::Create => return self.create_any(),
            Step::DeleteTopic => return self.delete_topic(),
            Step::Configure => return self.configure(),
            Step::NewProducer => return self.new_producer(),
            Step::Restart => return self.restart(),
            Step::Kill => return self.kill(),
            Step::Checkpoint => return self.write_checkpoints(),
            Step::ReleaseFlush => return self.release_flush(),
            Step::ReleaseCheckpoint => return self.release_checkpoint(),
            Step::KafkaCheckpoint => {
                let machine = self.machine();
                let written = machine.data.write_checkpoint_for_kafka(&machine.checkpoint);
                return self.done(written).map(drop);
            }
            Step::Fill => {
                let files = self.disk.file_system();
                let space = files.space(std::path::Path::new("/"));
                let used = space.map_or(0, |space| space.total - space.available);
                let room = self.random.within(0..24 << 10);
                self.say(format!("room for {room} bytes more"));
                self.disk.set_capacity(Some(used + room));
                return Ok(());
            }
            Step::Free => {
                self.say("room for everything".into());
                self.disk.set_capacity(None);
                return self
                    .done(
                        self.machine
                            .as_ref()
                            .map_or(Ok(()), |machine| machine.data.replenish_reserve().map(drop)),
                    )
                    .map(drop);
            }
            Step::Age => {
                self.now += 8 * DAY_MS;
                return Ok(());
            }
            _ => {}
        }
        let names: Vec<PartitionName> = self.machine().served.keys().cloned().collect();
        if names.is_empty() {
            return Ok(());
        }
        let at = self.random.within(0..names.len() as u64) as usize;
        self.step_on(step, &names[at])
    }

    fn step_on(&mut self, step: Step, name: &PartitionName) -> Done {
        self.say(format!("{step:?} on {name}"));
        match step {
            Step::Append => self.append(name),
            Step::Burst => {
                for _ in 0..self.random.within(2..7) {
                    self.append(name)?;
                }
                Ok(())
            }
            Step::Flush => self.flush(name, 0),
            Step::FlushBehind => self.flush(name, 2),
            Step::HoldFlush => {
                let served = self.machine().served.get_mut(name);
                if let Some(job) = served.and_then(|served| served.log.flush_job()) {
                    self.flushes.push_back((name.clone(), job));
                }
                Ok(())
            }
            Step::HoldCheckpoint => {
                let now = self.now();
                let served = self.machine().served.get_mut(name);
                let job = served.and_then(|served| served.log.checkpoint_job(now));
                if self.checkpoint.is_none() {
                    self.checkpoint = job.map(|job| (name.clone(), job));
                    return Ok(());
                }
                // One at a time per log.
                self.release_checkpoint()
            }
            Step::Roll => {
                self.now += 10_001;
                let now = self.now();
                let served = self.machine().served.get_mut(name);
                let rolled = served.map_or(Ok(false), |served| served.log.roll_if_due(now));
                self.appended(rolled).map(drop)
            }
            Step::Delete => self.delete_records(name),
            Step::Retain => self.retain(name),
            Step::Truncate => self.truncate(name),
            _ => Ok(()),
        }
    }

    /// As [`Driver::done`], for what answers like an append.
    fn appended<T>(&self, result: Result<T, AppendError>) -> Result<Option<T>, Stop> {
        match result {
            Ok(done) => Ok(Some(done)),
            Err(AppendError::DiskFull(_)) => Ok(None),
            Err(AppendError::Storage(error)) => Err(self.dead(error.to_string())),
            Err(error) => Err(Stop::Violation(format!("refused: {error}"))),
        }
    }

    fn append(&mut self, name: &PartitionName) -> Done {
        let Some(epoch) = self.machine().served.get(name).map(|served| served.epoch) else {
            return Ok(());
        };
        let known = self.batch(name, epoch);
        let (sent, now, at) = (known.sent.clone(), self.now(), index(name));
        let (base, end) = (known.base, known.end);
        self.know(|expected| expected.line(&name.topic, at).batches.push(known));
        let served = self.machine().served.get_mut(name).expect("it is served");
        let appended = served.log.append(&sent, epoch, now);
        match self.appended(appended)? {
            Some(placed) => {
                let found = (placed.base_offset.0, placed.end_offset.0, placed.duplicate);
                if found != (base, end, false) {
                    let what = format!("a new batch for {name} at {base} was placed at {found:?}");
                    return Err(Stop::Violation(what));
                }
            }
            None => self.know(|expected| {
                expected.line(&name.topic, at).batches.pop();
            }),
        }
        Ok(())
    }

    /// The next batch of a producer that is drawn.
    fn batch(&mut self, name: &PartitionName, epoch: LeaderEpoch) -> Known {
        let line = Arc::clone(
            self.expected
                .find(&name.topic, index(name))
                .expect("it is known"),
        );
        let records = self.random.within(1..5) as i64;
        let mut builder = BatchBuilder::new(Codec::None, 1_024);
        for _ in 0..records {
            self.values += 1;
            let padding = self.random.within(0..140) as usize;
            let value = format!("{name} {} {}", self.values, "x".repeat(padding));
            let record = NewRecord {
                timestamp: self.now(),
                value: Some(value.as_bytes()),
                ..NewRecord::default()
            };
            builder.try_append(1 << 20, record).expect("it fits");
        }
        let producer = self.producer(&line.batches);
        let sent = builder.finish(producer).expect("a batch");
        let base = line.end();
        let mut stored = sent.to_vec();
        stamp_position(&mut stored, Offset(base), epoch);
        Known {
            base,
            end: base + records,
            epoch,
            producer,
            sent,
            stored: Bytes::from(stored),
            timestamp: self.now,
        }
    }

    fn producer(&mut self, batches: &[Known]) -> ProducerStamp {
        let ids: Vec<ProducerId> = self.expected.producers.iter().copied().collect();
        let drawn = self.random.within(0..4.min(ids.len() as u64 + 1)) as usize;
        let Some(id) = ids.get(drawn).copied().filter(|_| !self.kind.ages()) else {
            return ProducerStamp::NONE;
        };
        let last = batches.iter().rfind(|batch| batch.producer.id == id);
        let (epoch, next) = last.map_or((0, 0), |last| {
            let sequence = last.producer.base_sequence.0 + (last.end - last.base) as i32;
            (last.producer.epoch.0, sequence)
        });
        let bumps = last.is_some() && self.random.one_in(20);
        ProducerStamp {
            id,
            epoch: ProducerEpoch(if bumps { epoch + 1 } else { epoch }),
            base_sequence: Sequence(if bumps { 0 } else { next }),
        }
    }

    /// A flush, with so many appends while its sync runs.
    fn flush(&mut self, name: &PartitionName, behind: u64) -> Done {
        let served = self.machine().served.get_mut(name);
        let Some(job) = served.and_then(|served| served.log.flush_job()) else {
            return Ok(());
        };
        for _ in 0..behind {
            self.append(name)?;
        }
        self.run_flush(name, job)
    }

    fn run_flush(&mut self, name: &PartitionName, job: FlushJob) -> Done {
        let outcome = job.run();
        let Some(served) = self.machine().served.get_mut(name) else {
            return Ok(());
        };
        match served.log.flushed(outcome) {
            Ok(durable) => {
                self.know(|expected| {
                    let line = expected.line(&name.topic, index(name));
                    line.durable = line.durable.max(durable.0);
                });
                Ok(())
            }
            Err(error) => Err(self.dead(error.to_string())),
        }
    }

    fn release_flush(&mut self) -> Done {
        match self.flushes.pop_front() {
            Some((name, job)) => {
                self.say(format!("ReleaseFlush on {name}"));
                self.run_flush(&name, job)
            }
            None => Ok(()),
        }
    }

    fn write_checkpoints(&mut self) -> Done {
        self.release_checkpoint()?;
        self.say("Checkpoint".into());
        let now = self.now();
        let written = self.machine().write_checkpoints(now);
        self.done(written).map(drop)
    }

    pub(super) fn release_checkpoint(&mut self) -> Done {
        let Some((name, job)) = self.checkpoint.take() else {
            return Ok(());
        };
        self.say(format!("ReleaseCheckpoint on {name}"));
        let recovery_point = job.recovery_point();
        let written = job.run();
        if !self.machine().served.contains_key(&name) {
            // Deleted meanwhile: its files may have moved away under the job.
            return Ok(());
        }
        self.done(full_is_fine(written))?;
        let machine = self.machine();
        machine.remember(&name, recovery_point);
        let written = machine.data.write_checkpoint(&machine.checkpoint);
        self.done(written).map(drop)
    }

    pub(super) fn start(&mut self) -> Done {
        self.flushes.clear();
        self.checkpoint = None;
        self.starts += 1;
        self.say(format!("start {}", self.starts));
        let faults = self.disk.faults();
        let started = Machine::start(&self.disk.file_system(), self.starts, self.now());
        let failed = |text: String| match self.disk.faults() < faults {
            // A disk that fails at the start is a reason to refuse.
            true => Stop::Dead(text),
            false => Stop::Violation(text),
        };
        let (machine, start) = match started {
            Ok(started) => started,
            Err(Trouble::Refused(reason)) => return Err(failed(reason)),
            Err(trouble) => return Err(Stop::Dead(trouble.to_string())),
        };
        let seen = check::hold(&machine, &start, &self.expected);
        let identity = *machine.data.identity();
        let found: Vec<(PartitionName, i64, i64)> = machine
            .served
            .iter()
            .map(|(name, served)| (name.clone(), served.log.start().0, served.log.end().0))
            .collect();
        seen.map_err(failed)?;
        self.machine = Some(machine);
        self.know(|expected| {
            expected.identity = Some(identity);
            for (name, start, end) in found {
                let line = expected.line(&name.topic, index(&name));
                line.batches.retain(|batch| batch.end <= end);
                line.durable = end;
                line.start = (start, start);
            }
        });
        Ok(())
    }

    /// Takes over what a change of metadata has opened.
    pub(super) fn follow(&mut self) -> Done {
        let now = self.now();
        let followed = self.machine().follow(now);
        let opened = self.done(followed)?.unwrap_or_default();
        for (name, trouble) in opened.refused {
            if !matches!(trouble, Trouble::Full(_)) {
                return Err(Stop::Violation(format!(
                    "{name} cannot be opened: {trouble}"
                )));
            }
        }
        Ok(())
    }

    fn kill(&mut self) -> Done {
        self.disk.set_capacity(None);
        self.machine = None;
        self.start()
    }

    fn restart(&mut self) -> Done {
        self.disk.set_capacity(None);
        // Whatever runs ends before the logs are closed.
        while !self.flushes.is_empty() {
            self.release_flush()?;
        }
        self.release_checkpoint()?;
        self.say("stop".into());
        let (now, disk) = (self.now(), self.disk);
        let (expected, journal) = (&mut self.expected, &mut self.journal);
        let Some(machine) = self.machine.take() else {
            return Ok(());
        };
        let stopped = machine.stop(now, |name, end| {
            let line = Arc::make_mut(expected).line(&name.topic, index(name));
            line.durable = line.durable.max(end.0);
            journal.push(disk.changes(), Arc::clone(expected));
        });
        self.done(stopped)?;
        self.start()
    }
}

/// Which partition of its topic.
pub(super) fn index(name: &PartitionName) -> usize {
    let PartitionId(number) = name.partition;
    usize::try_from(number).unwrap_or(0)
}
