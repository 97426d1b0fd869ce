//! A data directory with one log that is cut back again and again, stopped, killed and cut off:
//! what was cut stays away, what was durable stays, and the producer's last batches are known by
//! what stands in the log now.

use std::path::Path;

use bytes::Bytes;
use strandline_protocol::{
    BrokerEpoch, BrokerId, ClusterId, DirectoryId, LeaderEpoch, Offset, ProducerEpoch, ProducerId,
    Sequence, Timestamp, TopicId,
    batch::{BatchBuilder, Codec, NewRecord, ProducerStamp},
};
use strandline_storage::{
    StorageError,
    directory::{
        Checkpoint, CheckpointedOffsets, Claim, DataDirectory, Identity, PartitionName, RaftId,
    },
    fs::simulated::SimulatedDisk,
    log::{AppendError, Log, LogConfig, RecoveryHint},
};

use crate::random::Random;

/// How often the process ends in one run.
const LIVES: u64 = 40;

/// Steps between two ends, at most.
const STEPS: u64 = 12;

/// How many of a producer's batches are recognised.
const WINDOW: usize = 5;

/// Appends to a full disk in a row, at most.
const APPENDS_TO_FULL: u64 = 10;

const DATA: &str = "/data";
const TOPIC: TopicId = TopicId([7; 16]);
const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// A batch that was sent.
#[derive(Clone)]
struct Sent {
    base: i64,
    end: i64,
    sequence: i32,
    bytes: Bytes,
}

struct Follower {
    disk: SimulatedDisk,
    /// None only between two starts.
    running: Option<Running>,
    sent: Vec<Sent>,
    epoch: i32,
    number: u64,
    truncations: u64,
}

struct Running {
    directory: DataDirectory,
    checkpoint: Checkpoint,
    log: Log,
}

/// Runs it; tells what was done.
///
/// # Errors
/// What must not be.
pub fn run(seed: u64) -> Result<String, String> {
    let mut random = Random::new(seed, 4);
    let mut follower = Follower {
        disk: SimulatedDisk::new(seed),
        running: None,
        sent: Vec::new(),
        epoch: 0,
        number: 0,
        truncations: 0,
    };
    follower.start()?;
    for life in 0..LIVES {
        for _ in 0..random.within(1..STEPS) {
            follower.step(&mut random)?;
        }
        let ended = follower.end(&mut random).and_then(|()| follower.retry());
        ended.map_err(|what| format!("after end {life}: {what}"))?;
    }
    let truncations = follower.truncations;
    Ok(format!("{truncations} truncations, {LIVES} restarts"))
}

impl Follower {
    fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("it runs")
    }

    fn step(&mut self, random: &mut Random) -> Result<(), String> {
        match random.within(0..12) {
            0..7 => self.append(random).map(drop),
            7 | 8 => self.truncate(random),
            9 => self.running().log.flush().map(drop).map_err(told),
            10 => self.fill(random),
            _ => {
                let Some(job) = self.running().log.checkpoint_job(NOW) else {
                    return Ok(());
                };
                let recovery_point = job.run().map_err(told)?;
                self.running().write_checkpoint(recovery_point)
            }
        }
    }

    /// The disk is full for a while: what it refuses has not happened.
    fn fill(&mut self, random: &mut Random) -> Result<(), String> {
        self.disk.set_capacity(Some(0));
        for _ in 0..APPENDS_TO_FULL {
            if self.append(random)? == Placed::Refused {
                break;
            }
        }
        self.disk.set_capacity(None);
        Ok(())
    }

    fn append(&mut self, random: &mut Random) -> Result<Placed, String> {
        let next = |sent: &Sent| sent.sequence + (sent.end - sent.base) as i32;
        let sequence = self.sent.last().map_or(0, next);
        let mut builder = BatchBuilder::new(Codec::None, 1_024);
        let records = random.within(1..6);
        for _ in 0..records {
            self.number += 1;
            let value = self
                .number
                .to_string()
                .repeat(random.within(1..20) as usize);
            let record = NewRecord {
                timestamp: NOW,
                value: Some(value.as_bytes()),
                ..NewRecord::default()
            };
            builder.try_append(1 << 20, record).expect("it fits");
        }
        let producer = ProducerStamp {
            id: ProducerId(7),
            epoch: ProducerEpoch(0),
            base_sequence: Sequence(sequence),
        };
        let bytes = builder.finish(producer).expect("a batch");
        let epoch = LeaderEpoch(self.epoch);
        let log = &mut self.running().log;
        let base = log.end().0;
        let placed = match log.append(&bytes, epoch, NOW) {
            Ok(placed) => placed,
            Err(AppendError::DiskFull(_)) => return Ok(Placed::Refused),
            Err(error) => return Err(format!("a new batch is refused: {error}")),
        };
        if placed.duplicate {
            let found = placed.base_offset;
            return Err(format!(
                "a new batch at {base} is taken for the one at {found}"
            ));
        }
        let end = placed.end_offset.0;
        self.sent.push(Sent {
            base,
            end,
            sequence,
            bytes,
        });
        Ok(Placed::There)
    }

    /// Cuts the log in front of one of its last batches.
    fn truncate(&mut self, random: &mut Random) -> Result<(), String> {
        if self.sent.is_empty() {
            return Ok(());
        }
        let back = random.within(1..7).min(self.sent.len() as u64) as usize;
        self.sent.truncate(self.sent.len() - back);
        let to = self.sent.last().map_or(0, |sent| sent.end);
        let epoch = self.epoch + 1;
        let running = self.running();
        let lowered = running.log.durable().0.min(to);
        running.write_checkpoint(Offset(lowered))?;
        let end = running.log.truncate_to(Offset(to), NOW).map_err(told)?.0;
        if end != to {
            return Err(format!("a truncation to {to} ends at {end}"));
        }
        self.epoch = epoch;
        self.truncations += 1;
        Ok(())
    }

    /// The process stops in order or is killed, or the power is cut, also in the middle of a
    /// truncation.
    fn end(&mut self, random: &mut Random) -> Result<(), String> {
        let (mut least, end) = (self.running().log.durable().0, self.running().log.end().0);
        match random.within(0..4) {
            0 => {
                least = end;
                let running = self.running.take().expect("it runs");
                running.close(BrokerEpoch(i64::from(self.epoch)))?;
            }
            1 => {
                least = end;
                self.disk = self.disk.kill();
            }
            2 => self.disk = self.disk.power_cut(random.draw()),
            _ => {
                let before = self.sent.clone();
                self.disk.crash_after(random.within(1..24));
                let cut = self.truncate(random);
                if cut.is_err() && self.disk.is_off() {
                    least = least.min(self.sent.last().map_or(0, |sent| sent.end));
                    self.sent = before;
                } else {
                    cut?;
                    least = self.running().log.durable().0;
                }
                self.disk = self.disk.power_cut(random.draw());
            }
        }
        self.running = None;
        self.start()?;
        let end = self.running().log.end().0;
        self.sent.retain(|sent| sent.end <= end);
        let known = self.sent.last().map_or(0, |sent| sent.end);
        if end < least || end != known {
            return Err(format!(
                "the log ends at {end}; {least} was durable, and {known} ends the last batch that \
                 was there before"
            ));
        }
        self.epoch += 1;
        self.read()
    }

    fn start(&mut self) -> Result<(), String> {
        let (data, claim) = (Path::new(DATA), claim());
        let opened = DataDirectory::open(self.disk.file_system(), data, &claim);
        let (directory, found) = opened.map_err(told)?;
        let checkpoint = found.checkpoint;
        let offsets = checkpoint.find(&name(), TOPIC).unwrap_or_default();
        let hint = RecoveryHint {
            recovery_point: offsets.recovery_point,
            log_start: offsets.log_start,
            shutdown: found.shutdown,
        };
        let (files, path) = (self.disk.file_system(), directory.partition_path(&name()));
        let opened = Log::open(files, &path, TOPIC, LogConfig::test_min(), hint, NOW);
        let (log, report) = opened.map_err(|error| format!("it does not open: {error}"))?;
        if let Some(damage) = report.damage.first() {
            return Err(format!("it is said to be damaged: {damage}"));
        }
        self.running = Some(Running {
            directory,
            checkpoint,
            log,
        });
        Ok(())
    }

    /// Every batch of the log is one that was sent there.
    fn read(&mut self) -> Result<(), String> {
        let batches = crate::disk::check::read_all(&self.running().log);
        let batches = batches.map_err(|error| format!("it cannot be read: {error}"))?;
        if batches.len() != self.sent.len() {
            return Err(format!(
                "{} batches, not {}",
                batches.len(),
                self.sent.len()
            ));
        }
        // Offset and epoch are stamped; the rest is as it was sent.
        let wrong = batches
            .iter()
            .zip(&self.sent)
            .find(|(found, sent)| found[16..] != sent.bytes[16..]);
        match wrong {
            Some((_, sent)) => Err(format!("the batch at {} is another", sent.base)),
            None => Ok(()),
        }
    }

    /// The producer sends its last batches again.
    fn retry(&mut self) -> Result<(), String> {
        let first = self.sent.len().saturating_sub(WINDOW);
        let epoch = LeaderEpoch(self.epoch);
        let running = self.running.as_mut().expect("it runs");
        for sent in &self.sent[first..] {
            let placed = running.log.append(&sent.bytes, epoch, NOW);
            let placed = placed
                .map_err(|error| format!("a retry of the batch at {} fails: {error}", sent.base))?;
            let found = (placed.base_offset.0, placed.end_offset.0, placed.duplicate);
            if found != (sent.base, sent.end, true) {
                return Err(format!("a retry of {} is placed at {found:?}", sent.base));
            }
        }
        Ok(())
    }
}

impl Running {
    fn write_checkpoint(&mut self, recovery_point: Offset) -> Result<(), String> {
        let offsets = CheckpointedOffsets {
            recovery_point,
            log_start: self.log.start(),
            high_watermark: recovery_point,
        };
        self.checkpoint.insert(name(), TOPIC, offsets);
        self.directory
            .write_checkpoint(&self.checkpoint)
            .map_err(told)
    }

    fn close(mut self, epoch: BrokerEpoch) -> Result<(), String> {
        let log_start = self.log.start();
        let recovery_point = self.log.close(NOW).map_err(told)?;
        let offsets = CheckpointedOffsets {
            recovery_point,
            log_start,
            high_watermark: recovery_point,
        };
        self.checkpoint.insert(name(), TOPIC, offsets);
        self.directory
            .close_clean(epoch, &self.checkpoint)
            .map_err(told)
    }
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placed {
    There,
    Refused,
}

fn name() -> PartitionName {
    "topic-0".parse().expect("a name")
}

fn claim() -> Claim {
    Claim {
        identity: Identity {
            cluster_id: ClusterId([1; 16]),
            node_id: BrokerId(1),
            directory_id: DirectoryId([1; 16]),
            raft_id: RaftId(1),
        },
        cluster_id: None,
        reserve_bytes: 0,
    }
}

fn told(error: StorageError) -> String {
    error.to_string()
}
