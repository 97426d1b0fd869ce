//! How far each partition had come: Kafka's three checkpoint files, and one of ours that wins.
//!
//! Kafka keeps `recovery-point-offset-checkpoint`, `log-start-offset-checkpoint` and
//! `replication-offset-checkpoint` as text without a checksum and by the names of topics. A flipped
//! digit there would have garbage trusted as durable, and a topic that was deleted and created
//! again would inherit the offsets of the old one. Ours, `checkpoint.sealed`, holds all three
//! offsets with the topic's id under a checksum; the text files are what Kafka's tools read, and
//! what is left if ours is gone.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, str::FromStr};

use strandline_protocol::{Offset, TopicId};

use super::{
    atomic::{read_text, write_atomically},
    names::PartitionName,
    sealed::{self, Kind},
};
use crate::{
    error::StorageError,
    fs::{FileSystem, FsError},
    log::sealed_topic_id,
};

const SEALED: &str = "checkpoint.sealed";
const SEALED_KIND: Kind = Kind {
    name: "checkpoint",
    version: 1,
};

/// The offsets of one partition that outlive the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointedOffsets {
    /// Everything below it is durable.
    pub recovery_point: Offset,
    /// The first offset that can be read.
    pub log_start: Offset,
    /// The end of what every in-sync replica has.
    pub high_watermark: Offset,
}

/// The offsets of the partitions of one data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    entries: BTreeMap<PartitionName, (Option<TopicId>, CheckpointedOffsets)>,
}

impl Checkpoint {
    /// Puts in, or replaces, the offsets of a partition.
    pub fn insert(&mut self, name: PartitionName, topic_id: TopicId, offsets: CheckpointedOffsets) {
        self.entries.insert(name, (Some(topic_id), offsets));
    }

    /// The offsets of a partition; none if they are not known, or are those of another topic that
    /// had the same name.
    #[must_use]
    pub fn find(&self, name: &PartitionName, topic_id: TopicId) -> Option<CheckpointedOffsets> {
        let (known, offsets) = self.entries.get(name)?;
        known
            .is_none_or(|known| known == topic_id)
            .then_some(*offsets)
    }

    /// Takes out a partition that is gone.
    pub fn remove(&mut self, name: &PartitionName) {
        self.entries.remove(name);
    }

    /// How many partitions it speaks of.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it speaks of none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes our file.
    pub(super) fn write(&self, fs: &dyn FileSystem, directory: &Path) -> Result<(), FsError> {
        let mut lines = String::with_capacity(self.entries.len().saturating_mul(96));
        for (name, (topic_id, offsets)) in &self.entries {
            let topic_id = topic_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
            let PartitionName { topic, partition } = name;
            let CheckpointedOffsets {
                recovery_point,
                log_start,
                high_watermark,
            } = offsets;
            let _ = writeln!(
                lines,
                "{topic} {partition} {topic_id} {recovery_point} {log_start} {high_watermark}"
            );
        }
        sealed::write(fs, &directory.join(SEALED), SEALED_KIND, &lines)
    }

    /// Writes Kafka's three files.
    pub(super) fn write_for_kafka(
        &self,
        fs: &dyn FileSystem,
        directory: &Path,
    ) -> Result<(), FsError> {
        for (file, offset) in KAFKA_FILES {
            let line = |(name, (_, offsets)): (&PartitionName, &(_, CheckpointedOffsets))| {
                let mut offsets = *offsets;
                let offset = *offset(&mut offsets);
                format!("{} {} {offset}", name.topic, name.partition)
            };
            let lines: Vec<String> = self.entries.iter().map(line).collect();
            write_checkpoint_file(fs, &directory.join(file), &lines)?;
        }
        Ok(())
    }

    /// Reads our file, or Kafka's if ours is missing or damaged; what is odd goes to `warnings`.
    pub(super) fn read(
        fs: &dyn FileSystem,
        directory: &Path,
        warnings: &mut Vec<String>,
    ) -> Result<Self, StorageError> {
        let path = directory.join(SEALED);
        match sealed::read(fs, &path, SEALED_KIND) {
            Ok(Some(lines)) => match Self::parse(&lines) {
                Some(checkpoint) => return Ok(checkpoint),
                None => warnings.push(format!("{} cannot be parsed", path.display())),
            },
            Ok(None) => {}
            Err(error @ StorageError::Damaged { .. }) => warnings.push(error.to_string()),
            Err(error) => return Err(error),
        }
        let mut checkpoint = Self::default();
        for (file, offset) in KAFKA_FILES {
            match read_checkpoint_file(fs, &directory.join(file)) {
                Ok(lines) => {
                    for line in lines.unwrap_or_default() {
                        let Some((name, value)) = parse_kafka(&line) else {
                            warnings.push(format!("{file} has the line {line:?}: ignored"));
                            continue;
                        };
                        let (_, offsets) = checkpoint.entries.entry(name).or_default();
                        *offset(offsets) = value;
                    }
                }
                Err(error @ StorageError::Damaged { .. }) => warnings.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        Ok(checkpoint)
    }

    fn parse(lines: &str) -> Option<Self> {
        let mut checkpoint = Self::default();
        for line in lines.lines() {
            let mut words = line.split(' ');
            let name = partition_name(&mut words)?;
            let topic_id = match words.next()? {
                "-" => None,
                id => Some(id.parse().ok()?),
            };
            let offsets = CheckpointedOffsets {
                recovery_point: offset_in(&mut words)?,
                log_start: offset_in(&mut words)?,
                high_watermark: offset_in(&mut words)?,
            };
            if words.next().is_some() {
                return None;
            }
            checkpoint.entries.insert(name, (topic_id, offsets));
        }
        Some(checkpoint)
    }
}

type OffsetOf = fn(&mut CheckpointedOffsets) -> &mut Offset;

/// Kafka's files, and which offset each holds.
const KAFKA_FILES: [(&str, OffsetOf); 3] = [
    ("recovery-point-offset-checkpoint", |offsets| {
        &mut offsets.recovery_point
    }),
    ("log-start-offset-checkpoint", |offsets| {
        &mut offsets.log_start
    }),
    ("replication-offset-checkpoint", |offsets| {
        &mut offsets.high_watermark
    }),
];

/// The recovery point of the partition whose files lie in `partition`, as the data directory around
/// it remembers it. None if it does not, or speaks of another topic of that name.
///
/// # Errors
/// If the disk fails.
pub fn recovery_point_of(
    fs: &dyn FileSystem,
    partition: &Path,
) -> Result<Option<Offset>, StorageError> {
    let name = partition.file_name().and_then(|name| name.to_str());
    let Some((data, Ok(name))) = partition.parent().zip(name.map(PartitionName::from_str)) else {
        return Ok(None);
    };
    let checkpoint = Checkpoint::read(fs, data, &mut Vec::new())?;
    let Some((of, offsets)) = checkpoint.entries.get(&name) else {
        return Ok(None);
    };
    // A topic that was created again may have no state yet: then nothing tells whose point it is.
    let found = sealed_topic_id(fs, partition)?;
    let is_its_own = of.is_none() || *of == found;
    Ok(is_its_own.then_some(offsets.recovery_point))
}

/// Writes a checkpoint file in Kafka's format, atomically and durably: the version 0, the number of
/// lines, the lines.
///
/// # Errors
/// If the disk fails or is full; the file is as it was then.
pub fn write_checkpoint_file(
    fs: &dyn FileSystem,
    path: &Path,
    lines: &[String],
) -> Result<(), FsError> {
    let mut text = format!("0\n{}\n", lines.len());
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    write_atomically(fs, path, text.as_bytes())
}

/// The lines of a checkpoint file in Kafka's format; none if it does not exist.
///
/// # Errors
/// If the disk fails; [`StorageError::Damaged`] if the file is not what was written, as far as a
/// format without a checksum can tell.
pub fn read_checkpoint_file(
    fs: &dyn FileSystem,
    path: &Path,
) -> Result<Option<Vec<String>>, StorageError> {
    let Some(text) = read_text(fs, path)? else {
        return Ok(None);
    };
    let mut lines = text.lines();
    if lines.next() != Some("0") {
        return Err(StorageError::damaged(path, "its version is not 0"));
    }
    let count = lines.next().and_then(|count| usize::from_str(count).ok());
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    if count != Some(lines.len()) {
        let found = lines.len();
        return Err(StorageError::damaged(
            path,
            format!("its second line does not say {found}, which is how many follow"),
        ));
    }
    Ok(Some(lines))
}

fn parse_kafka(line: &str) -> Option<(PartitionName, Offset)> {
    let mut words = line.split(' ');
    let parsed = (partition_name(&mut words)?, offset_in(&mut words)?);
    words.next().is_none().then_some(parsed)
}

fn partition_name<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<PartitionName> {
    let (topic, partition) = (words.next()?, words.next()?);
    format!("{topic}-{partition}").parse().ok()
}

fn offset_in<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Offset> {
    let offset: i64 = words.next()?.parse().ok()?;
    (offset >= 0).then_some(Offset(offset))
}
