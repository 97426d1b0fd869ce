//! Bytes of one replica that go bad where they lie, while its machine is off (S14): what was
//! durable is not served, does not get shorter, and is repaired from a replica that has it.
//!
//! Only one copy of a partition is bad at a time, and only where every other one that is in sync
//! has what it held, as nothing could be repaired otherwise.

use std::path::{Path, PathBuf};

use strandline_client::protocol::{Offset, TopicPartition};
use strandline_storage::{
    directory::recovery_point_of,
    fs::simulated::SimulatedDisk,
    log::inspect::{Dump, Piece, dump, is_segment},
};

use super::{
    Replication,
    batches::{Batch, Crc, parse},
    placement::Placed,
    replicas::{Look, Replica, Replicas},
};
use crate::{random::Random, simulation::cluster::machines::Machine};

/// A batch that has gone bad on one machine.
#[derive(Clone, Debug)]
pub(super) struct Rot {
    pub(super) batch: Batch,
    /// Whether its machine has started since.
    pub(super) is_open: bool,
}

impl Replication {
    /// Flips a bit of a batch on a machine that is off, if there is one that another machine can
    /// give back.
    pub(in crate::simulation::cluster) fn rot(&self, machine: &Machine, random: &mut Random) {
        let mut candidates = Vec::new();
        for (topic, id, placed) in self.placement.partitions().iter() {
            if placed.replicas.contains(&machine.broker)
                && let Some(batches) = self.replaceable(*topic, *id, placed, machine)
            {
                candidates.push((*topic, *id, batches));
            }
        }
        if candidates.is_empty() {
            return;
        }
        let (topic, id, batches) = &candidates[random.index(candidates.len())];
        let batch = &batches[random.index(batches.len())];
        let directory = self.directory(*topic, *id);
        let Some((path, from, bytes)) = find(&machine.disk(), &directory, batch.base) else {
            return;
        };
        let (at, mask) = (from + random.below(bytes), 1 << random.below(8));
        if machine.disk().rot(&path, at, mask).is_err() {
            return;
        }
        self.trace.note(
            &machine.host,
            format_args!(
                "{}-{}: offset {} goes bad at byte {}",
                self.topics[*topic].name,
                id.partition,
                batch.base,
                at - from
            ),
        );
        self.replicas.goes_bad(*id, machine.index, batch.clone());
    }

    fn directory(&self, topic: usize, id: TopicPartition) -> PathBuf {
        let name = self.topics[topic].name;
        Path::new("/data").join(format!("{name}-{}", id.partition))
    }

    /// Batches of a replica that another one in sync has, durable on both.
    fn replaceable(
        &self,
        topic: usize,
        id: TopicPartition,
        placed: &Placed,
        machine: &Machine,
    ) -> Option<Vec<Batch>> {
        let others = placed.isr.iter().filter(|it| **it != machine.broker);
        let others: Vec<usize> = others.map(|it| it.0 as usize - 1).collect();
        if others.is_empty() || placed.is_moving() || self.is_lossy_id(id) {
            return None;
        }
        // What was synced and not written down yet: a start takes damage behind that for a write
        // that was torn, and may.
        let files = machine.disk().file_system();
        let point = recovery_point_of(files.as_ref(), &self.directory(topic, id));
        let point = point.ok().flatten()?;
        let batches = self.replicas.replaceable(id, machine.index, &others, point);
        (!batches.is_empty()).then_some(batches)
    }
}

impl Replicas {
    /// S14: what has gone bad is repaired with what it was.
    pub(super) fn check_rot(&self, look: Look<'_>, replica: &Replica) {
        let Look { machine, now } = look;
        let mut rotten = self.rotten.borrow_mut();
        let key = (now.id, machine.index);
        let Some(rot) = rotten.get(&key).filter(|rot| rot.is_open) else {
            return;
        };
        let batch = &rot.batch;
        if now.marks.log_start >= batch.end || replica.log.get(&batch.base) != Some(batch) {
            // It was deleted, or the whole replica begun again.
            rotten.remove(&key);
            return;
        }
        // The batch may hold the start of the log: it lies there whole.
        let from = batch.base.max(now.marks.log_start);
        let (found, _) = parse(&now.batches(from, batch.end), Crc::Checked);
        if found.first() == Some(batch) {
            self.count(|seen| seen.repaired += 1);
            self.trace.note(
                &machine.host,
                format_args!("{}: offset {} is good again", now.id, batch.base),
            );
            rotten.remove(&key);
        }
    }

    /// A batch goes bad on a machine that is off.
    pub(super) fn goes_bad(&self, id: TopicPartition, machine: usize, batch: Batch) {
        self.count(|seen| seen.rotten += 1);
        let rot = Rot {
            batch,
            is_open: false,
        };
        self.rotten.borrow_mut().insert((id, machine), rot);
    }

    /// Whether anything has gone bad and is not repaired yet.
    pub(super) fn is_any_bad(&self) -> bool {
        !self.rotten.borrow().is_empty()
    }

    /// Whether a batch of a replica has gone bad and is not repaired yet.
    pub(super) fn is_bad(&self, id: TopicPartition, machine: usize) -> bool {
        self.rotten.borrow().contains_key(&(id, machine))
    }

    /// Batches of the replica on a machine that is off which lie below its recovery point, and
    /// which every one of `others` has, durable.
    pub(super) fn replaceable(
        &self,
        id: TopicPartition,
        machine: usize,
        others: &[usize],
        recovery_point: Offset,
    ) -> Vec<Batch> {
        let partitions = self.partitions.borrow();
        let Some(watched) = partitions.get(&id) else {
            return Vec::new();
        };
        if self.rotten.borrow().keys().any(|(bad, _)| *bad == id) {
            return Vec::new();
        }
        let Some(own) = watched.replicas.get(&machine) else {
            return Vec::new();
        };
        let has = |replica: &Replica, batch: &Batch| {
            batch.end <= replica.durable && replica.log.get(&batch.base) == Some(batch)
        };
        let others: Vec<_> = others.iter().map(|it| watched.replicas.get(it)).collect();
        if own.is_removed || recovery_point <= own.log_start {
            return Vec::new();
        }
        let below = own
            .log
            .range(own.log_start..recovery_point)
            .map(|(_, it)| it);
        let known = below.filter(|batch| {
            batch.end <= recovery_point
                && watched.committed.get(&batch.base) == Some(*batch)
                && others
                    .iter()
                    .all(|other| other.is_some_and(|it| has(it, batch)))
        });
        known.cloned().collect()
    }
}

/// Where a batch lies: in which file, from where on, and how much of it.
fn find(disk: &SimulatedDisk, directory: &Path, base: Offset) -> Option<(PathBuf, u64, u64)> {
    let files = disk.file_system();
    let entries = files.list(directory).ok()?;
    let mut segments: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
    segments.retain(|name| is_segment(name));
    segments.sort_unstable();
    for segment in segments {
        let path = directory.join(segment);
        let Ok(Dump::Log(batches)) = dump(&*files, &path) else {
            continue;
        };
        for piece in batches {
            match piece {
                Ok(Piece::Batch {
                    position,
                    bytes,
                    header,
                }) if header.base_offset() == base => return Some((path, position, bytes)),
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    None
}
