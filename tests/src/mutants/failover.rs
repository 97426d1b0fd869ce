//! A leader's log and a follower's that copies it, and that leads next: a producer that does not
//! know what became of its last batches sends them again, and none of them lies there twice.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use bytes::Bytes;
use strandline_protocol::{
    LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicId,
    batch::{BatchBuilder, BatchView, Codec, NewRecord, ProducerStamp},
};
use strandline_storage::{
    fs::{FileSystem, simulated::SimulatedDisk},
    log::{Log, LogConfig, RecoveryHint, Shutdown},
};

use crate::{disk::check::read_all, random::Random};

/// How often the leader changes in one run.
const FAILOVERS: i32 = 30;

/// Producers that write at the same time.
const PRODUCERS: u64 = 2;

/// How many of a producer's batches are recognised.
const WINDOW: usize = 5;

const DIRECTORY: &str = "/data/topic-0";
const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// A batch that some leader has placed.
#[derive(Clone)]
struct Sent {
    producer: i64,
    base: i64,
    end: i64,
    bytes: Bytes,
}

/// One of the two, and its disk.
struct Replica {
    disk: SimulatedDisk,
    /// None only between two starts.
    log: Option<Log>,
    recovery_point: Offset,
}

struct Pair {
    leader: Replica,
    follower: Replica,
    epoch: LeaderEpoch,
    sent: Vec<Sent>,
    /// By producer: the sequence of its next record.
    next: [i32; PRODUCERS as usize],
    recognised: u64,
    lost: u64,
    restarts: u64,
}

/// Runs it; tells what was done.
///
/// # Errors
/// What must not be.
pub fn run(seed: u64) -> Result<String, String> {
    let mut random = Random::new(seed, 11);
    let mut pair = Pair {
        leader: Replica::new(random.draw())?,
        follower: Replica::new(random.draw())?,
        epoch: LeaderEpoch(0),
        sent: Vec::new(),
        next: [0; PRODUCERS as usize],
        recognised: 0,
        lost: 0,
        restarts: 0,
    };
    for number in 0..FAILOVERS {
        let round = pair.write(&mut random);
        let round = round.and_then(|()| pair.fail_over(&mut random));
        round.map_err(|what| format!("failover {number}: {what}"))?;
    }
    Ok(format!(
        "{FAILOVERS} failovers, {} of them with a restart: {} retries recognised, {} batches \
         written again",
        pair.restarts, pair.recognised, pair.lost
    ))
}

impl Pair {
    /// The leader appends, and the follower is behind it, as it comes.
    fn write(&mut self, random: &mut Random) -> Result<(), String> {
        for _ in 0..random.within(2..16) {
            match random.within(0..8) {
                0..5 => self.append(random)?,
                5 | 6 => self.copy(random.within(1..600) as usize)?,
                _ if random.one_in(2) => self.leader.checkpoint()?,
                _ => self.follower.checkpoint()?,
            }
        }
        if random.one_in(3) {
            return Ok(());
        }
        while self.follower.end() < self.leader.end() {
            self.copy(1_000)?;
        }
        Ok(())
    }

    fn append(&mut self, random: &mut Random) -> Result<(), String> {
        let producer = random.within(0..PRODUCERS);
        let next = &mut self.next[producer as usize];
        let records = random.within(1..4) as i32;
        let stamp = ProducerStamp {
            id: ProducerId(producer as i64),
            epoch: ProducerEpoch(0),
            base_sequence: Sequence(*next),
        };
        let mut sent = Sent {
            producer: stamp.id.0,
            base: self.leader.end().0,
            end: 0,
            bytes: batch(stamp, records, random),
        };
        *next += records;
        sent.end = sent.base + i64::from(records);
        let placed = self.leader.append(&sent.bytes, self.epoch)?;
        if placed != (sent.base, sent.end, false) {
            return Err(format!(
                "a new batch at {} is placed at {placed:?}",
                sent.base
            ));
        }
        self.sent.push(sent);
        Ok(())
    }

    /// The follower copies about so many bytes.
    fn copy(&mut self, bytes: usize) -> Result<(), String> {
        let (leader, from) = (self.leader.log(), self.follower.end());
        let fetched = leader.read(from, bytes, leader.end()).map_err(told)?;
        fetched.check().map_err(told)?;
        let copied = self
            .follower
            .log()
            .append_replicated(&fetched.bytes, self.epoch, NOW);
        copied.map(drop).map_err(told)
    }

    /// The follower leads, after a restart or without. What it has not copied is lost, and every
    /// producer sends its last batches again.
    fn fail_over(&mut self, random: &mut Random) -> Result<(), String> {
        if random.one_in(2) {
            self.follower.restart(random)?;
            self.restarts += 1;
        }
        std::mem::swap(&mut self.leader, &mut self.follower);
        self.epoch = LeaderEpoch(self.epoch.0 + 1);
        let from = self.leader.end();
        self.leader.log().lead_in(self.epoch).map_err(told)?;
        self.follower.cut(from)?;
        let split = self.sent.partition_point(|sent| sent.end <= from.0);
        let lost = self.sent.split_off(split);
        for producer in 0..PRODUCERS as i64 {
            self.retry(producer)?;
        }
        for again in lost {
            let base = self.leader.end().0;
            let end = base + again.end - again.base;
            let placed = self.leader.append(&again.bytes, self.epoch)?;
            if placed != (base, end, false) {
                let what = "which the new leader does not have";
                return Err(format!("a batch, {what}, is placed at {placed:?}"));
            }
            self.lost += 1;
            self.sent.push(Sent { base, end, ..again });
        }
        self.check_log()
    }

    /// A producer sends those of its last batches again that the new leader has.
    fn retry(&mut self, producer: i64) -> Result<(), String> {
        let its = self.sent.iter().filter(|sent| sent.producer == producer);
        let mut last: Vec<Sent> = its.rev().take(WINDOW).cloned().collect();
        last.reverse();
        for sent in last {
            let placed = self.leader.append(&sent.bytes, self.epoch);
            let placed = placed.map_err(|error| {
                format!("a retry of the batch at {} is refused: {error}", sent.base)
            })?;
            if placed != (sent.base, sent.end, true) {
                return Err(format!(
                    "a retry of the batch at {} is placed at {}: the new leader has it twice",
                    sent.base, placed.0
                ));
            }
            self.recognised += 1;
        }
        Ok(())
    }

    /// The leader has what was sent, and nothing twice.
    fn check_log(&mut self) -> Result<(), String> {
        let batches = read_all(self.leader.log()).map_err(told)?;
        let mut seen = BTreeSet::new();
        for bytes in &batches {
            let header = *BatchView::exactly(bytes).map_err(told)?.header();
            let key = (header.producer_id(), header.base_sequence());
            if !seen.insert(key) {
                return Err(format!("a batch is in the log twice: {key:?}"));
            }
        }
        if batches.len() != self.sent.len() {
            let (found, sent) = (batches.len(), self.sent.len());
            return Err(format!(
                "{found} batches are in the log, and {sent} were sent"
            ));
        }
        Ok(())
    }
}

impl Replica {
    fn new(seed: u64) -> Result<Self, String> {
        let disk = SimulatedDisk::new(seed);
        let files = disk.file_system();
        files.create_directory(Path::new("/data")).map_err(told)?;
        files.sync_directory(Path::new("/")).map_err(told)?;
        let mut replica = Self {
            disk,
            log: None,
            recovery_point: Offset::ZERO,
        };
        replica.open(Shutdown::Unclean)?;
        Ok(replica)
    }

    fn open(&mut self, shutdown: Shutdown) -> Result<(), String> {
        let files: Arc<dyn FileSystem> = self.disk.file_system();
        let hint = RecoveryHint {
            recovery_point: self.recovery_point,
            log_start: Offset::ZERO,
            shutdown,
        };
        let (path, topic) = (Path::new(DIRECTORY), TopicId([7; 16]));
        let opened = Log::open(files, path, topic, LogConfig::test_min(), hint, NOW);
        let (log, report) = opened.map_err(|error| format!("it does not open: {error}"))?;
        if let Some(damage) = report.damage.first() {
            return Err(format!("it is said to be damaged: {damage}"));
        }
        self.log = Some(log);
        Ok(())
    }

    fn log(&mut self) -> &mut Log {
        self.log.as_mut().expect("it is open")
    }

    fn end(&mut self) -> Offset {
        self.log().end()
    }

    /// Base offset, end and whether it was there already.
    fn append(&mut self, batch: &[u8], epoch: LeaderEpoch) -> Result<(i64, i64, bool), String> {
        let placed = self.log().append(batch, epoch, NOW).map_err(told)?;
        Ok((placed.base_offset.0, placed.end_offset.0, placed.duplicate))
    }

    fn checkpoint(&mut self) -> Result<(), String> {
        if let Some(job) = self.log().checkpoint_job(NOW) {
            self.recovery_point = job.run().map_err(told)?;
        }
        Ok(())
    }

    /// Cuts off what the next leader does not have.
    fn cut(&mut self, to: Offset) -> Result<(), String> {
        self.recovery_point = self.recovery_point.min(to);
        if to < self.end() {
            self.log().truncate_to(to, NOW).map_err(told)?;
        }
        Ok(())
    }

    /// It stops in order, or is killed, or loses its power when everything is durable.
    fn restart(&mut self, random: &mut Random) -> Result<(), String> {
        let end = self.end();
        let shutdown = match random.within(0..3) {
            0 => {
                let log = self.log.take().expect("it is open");
                self.recovery_point = log.close(NOW).map_err(told)?;
                Shutdown::Clean
            }
            1 => {
                self.disk = self.disk.kill();
                Shutdown::Unclean
            }
            _ => {
                self.log().flush().map_err(told)?;
                self.disk = self.disk.power_cut(random.draw());
                Shutdown::Unclean
            }
        };
        self.open(shutdown)?;
        let found = self.end();
        if found != end {
            return Err(format!("a log that ended at {end} ends at {found}"));
        }
        Ok(())
    }
}

fn batch(stamp: ProducerStamp, records: i32, random: &mut Random) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None, 1_024);
    for _ in 0..records {
        let value = random.draw().to_string();
        let value = value.repeat(random.within(1..6) as usize);
        let record = NewRecord {
            timestamp: NOW,
            value: Some(value.as_bytes()),
            ..NewRecord::default()
        };
        builder.try_append(1 << 20, record).expect("it fits");
    }
    builder.finish(stamp).expect("a batch")
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
