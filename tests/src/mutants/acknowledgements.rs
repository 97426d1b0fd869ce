//! A leader over its log, on a machine that loses power or its process again and again: what it
//! acknowledged is there, what it showed to consumers is there, and nothing else is in between.
//!
//! The leader is the broker's: [`Replica`] says when a write is answered, [`Log`] what is durable,
//! and a flush has the three moments that it has in a broker: the job is made, its sync runs, and
//! its outcome is taken in. Appends happen between any two of them.

use std::{path::Path, sync::Arc};

use strandline_core::{
    FlushMode,
    replica::{AckWait, Replica},
};
use strandline_protocol::{
    LeaderEpoch, Offset, Timestamp, TopicId,
    batch::{BatchBuilder, Codec, NewRecord, ProducerStamp, split_batches},
    messages::Acks,
};
use strandline_storage::{
    fs::{FileSystem, simulated::SimulatedDisk},
    log::{FlushJob, FlushOutcome, Log, LogConfig, RecoveryHint},
};

use crate::random::Random;

/// How often the power goes, or the process is killed, in one run.
const LIVES: u64 = 40;

/// Steps between two power cuts, at most.
const STEPS: u64 = 40;

const DIRECTORY: &str = "/data/topic-0";
const NOW: Timestamp = Timestamp(1_700_000_000_000);
const READ_BYTES: usize = 500;

/// Runs it; tells what was done.
///
/// # Errors
/// What must not be.
pub fn run(seed: u64) -> Result<String, String> {
    let mut random = Random::new(seed, 1);
    let mut disk = SimulatedDisk::new(seed);
    let files = disk.file_system();
    files
        .create_directory(Path::new("/data"))
        .expect("no fault");
    files.sync_directory(Path::new("/")).expect("no fault");
    let mut sent = Vec::new();
    let (mut number, mut acknowledged) = (0, 0);
    for life in 0..LIVES {
        let mut leader = Leader::start(&disk, life, sent)?;
        for _ in 0..random.within(1..STEPS) {
            leader.step(&mut random, &mut number)?;
        }
        let (least, shown) = (leader.acknowledged, leader.replica.marks().high_watermark.0);
        acknowledged += leader.answers;
        sent = leader.sent;
        disk = if random.one_in(3) {
            disk.kill()
        } else {
            disk.power_cut(random.draw())
        };
        let log = open(&disk)?;
        let end = log.end().0;
        if end < least || end < shown {
            return Err(format!(
                "after crash {life} the log ends at {end}; {least} was acknowledged and \
                 {shown} shown to consumers"
            ));
        }
        sent.truncate(end as usize);
        let found = read(&log)?;
        if found != sent {
            let at = found.iter().zip(&sent).take_while(|(a, b)| a == b).count();
            return Err(format!(
                "after crash {life} offset {at} holds {:?}, not {:?}",
                found.get(at),
                sent.get(at)
            ));
        }
    }
    Ok(format!(
        "{LIVES} crashes, {acknowledged} writes acknowledged"
    ))
}

struct Leader {
    log: Log,
    replica: Replica,
    /// Every record by its offset.
    sent: Vec<String>,
    waiting: Vec<(AckWait, Offset)>,
    /// The end of what was answered.
    acknowledged: i64,
    answers: u64,
    job: Option<FlushJob>,
    outcome: Option<FlushOutcome>,
}

impl Leader {
    fn start(disk: &SimulatedDisk, life: u64, sent: Vec<String>) -> Result<Self, String> {
        let log = open(disk)?;
        let epoch = LeaderEpoch(life as i32);
        let replica = Replica::lead(epoch, FlushMode::Ack, log.start(), log.end(), log.durable());
        Ok(Self {
            log,
            replica,
            sent,
            waiting: Vec::new(),
            acknowledged: 0,
            answers: 0,
            job: None,
            outcome: None,
        })
    }

    fn step(&mut self, random: &mut Random, number: &mut u64) -> Result<(), String> {
        match random.within(0..10) {
            0..6 => self.produce(random, number),
            // One flush at a time, as the broker does.
            6 | 7 if self.job.is_none() && self.outcome.is_none() => {
                self.job = self.log.flush_job();
                Ok(())
            }
            8 => {
                self.outcome = self.job.take().map(FlushJob::run).or(self.outcome.take());
                Ok(())
            }
            9 => {
                let Some(outcome) = self.outcome.take() else {
                    return Ok(());
                };
                let durable = self
                    .log
                    .flushed(outcome)
                    .map_err(|error| error.to_string())?;
                let _ = self.replica.flushed(durable);
                self.answer();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn produce(&mut self, random: &mut Random, number: &mut u64) -> Result<(), String> {
        let mut builder = BatchBuilder::new(Codec::None, 1_024);
        for _ in 0..random.within(1..4) {
            *number += 1;
            let value = format!("{number}{}", "-".repeat(random.within(0..200) as usize));
            let record = NewRecord {
                timestamp: NOW,
                value: Some(value.as_bytes()),
                ..NewRecord::default()
            };
            builder.try_append(1 << 20, record).expect("it fits");
            self.sent.push(value);
        }
        let batch = builder.finish(ProducerStamp::NONE).expect("a batch");
        let epoch = self.replica.leader_epoch();
        let placed = self.log.append(&batch, epoch, NOW);
        let end = placed.map_err(|error| error.to_string())?.end_offset;
        let _ = self.replica.appended(end);
        let acks = if random.one_in(3) {
            Acks::Leader
        } else {
            Acks::All
        };
        self.waiting.push((self.replica.ack_wait(acks, end), end));
        self.answer();
        Ok(())
    }

    /// Answers every write that waits for nothing any more.
    fn answer(&mut self) {
        let marks = self.replica.marks();
        let before = self.waiting.len();
        self.waiting.retain(|(wait, end)| {
            let is_due = match wait {
                AckWait::Nothing | AckWait::Unanswered => true,
                AckWait::Durable(offset) => marks.durable_end >= *offset,
                AckWait::HighWatermark(offset) => marks.high_watermark >= *offset,
            };
            if is_due {
                self.acknowledged = self.acknowledged.max(end.0);
            }
            !is_due
        });
        self.answers += (before - self.waiting.len()) as u64;
    }
}

fn open(disk: &SimulatedDisk) -> Result<Log, String> {
    let files: Arc<dyn FileSystem> = disk.file_system();
    let (topic, hint) = (TopicId([7; 16]), RecoveryHint::default());
    let directory = Path::new(DIRECTORY);
    let opened = Log::open(files, directory, topic, LogConfig::test_min(), hint, NOW);
    opened
        .map(|(log, _)| log)
        .map_err(|error| format!("it does not open: {error}"))
}

/// The values of all records, from offset 0 on.
fn read(log: &Log) -> Result<Vec<String>, String> {
    let mut values = Vec::new();
    let mut next = Offset(0);
    while next < log.end() {
        let fetched = log.read(next, READ_BYTES, log.end());
        let fetched = fetched.and_then(|fetched| fetched.check().map(|()| fetched));
        let fetched = fetched.map_err(|error| format!("it cannot be read: {error}"))?;
        for batch in split_batches(&fetched.bytes).flatten() {
            let mut scratch = Vec::new();
            let records = batch
                .records(&mut scratch)
                .map_err(|error| error.to_string())?;
            for record in records.flatten() {
                values.push(String::from_utf8_lossy(record.value.unwrap_or_default()).into());
            }
        }
        next = fetched.end_offset;
    }
    Ok(values)
}
