//! What a partition must never forget, beside its batches: whose it is, its epochs, its start.
//!
//! Kafka keeps this in files without a checksum (`leader-epoch-checkpoint`, `partition.metadata`)
//! or in one for the whole data directory (the log start). Those are written too; `partition.state`
//! repeats it under a CRC and wins.

use std::{fmt::Write, path::Path, sync::Arc};

use strandline_protocol::{LeaderEpoch, Offset, TopicId};

use super::{
    epochs::{EPOCH_FILE, Epochs},
    state_file::{read_file, replace_file, replace_hint, seal, unseal, write_file},
    units::{FileKind, to_u64},
    walk::{HeaderWalk, WalkError},
};
use crate::{
    error::StorageError,
    fs::{File, FileSystem, FsError},
};

/// The name of our file.
pub const STATE_FILE: &str = "partition.state";
pub const METADATA_FILE: &str = "partition.metadata";
const KIND: [u8; 4] = *b"SLPS";

/// What is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// The topic.
    pub topic_id: TopicId,
    /// The log start offset, as far as `DeleteRecords` moved it.
    pub log_start: Offset,
    /// The epochs.
    pub epochs: Epochs,
}

impl PartitionState {
    /// What the directory says, and whether ours said it; none if there is nothing to go by.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn load(
        files: &dyn FileSystem,
        directory: &Path,
    ) -> Result<Option<(Self, Source)>, FsError> {
        let text = |name: &str| -> Result<Option<String>, FsError> {
            let bytes = read_file(files, &directory.join(name))?;
            Ok(bytes.and_then(|bytes| String::from_utf8(bytes.into()).ok()))
        };
        let epochs = text(EPOCH_FILE)?.and_then(|text| Epochs::from_text(&text));
        let ours = read_file(files, &directory.join(STATE_FILE))?;
        if let Some(state) = ours.and_then(|bytes| unseal(KIND, bytes))
            && let Some(state) = std::str::from_utf8(&state).ok().and_then(Self::from_text)
        {
            return match epochs {
                Some(epochs) if state.is_behind(&epochs, files, directory)? => {
                    Ok(Some((Self { epochs, ..state }, Source::Outdated)))
                }
                _ => Ok(Some((state, Source::Protected))),
            };
        }
        let topic_id = text(METADATA_FILE)?.and_then(|text| topic_id_from_text(&text));
        let (Some(topic_id), Some(epochs)) = (topic_id, epochs) else {
            return Ok(None);
        };
        let log_start = Offset::ZERO;
        let state = Self {
            topic_id,
            log_start,
            epochs,
        };
        Ok(Some((state, Source::Kafka)))
    }

    /// Whether this is a state of an earlier time, which a disk may come up with: its checksum is
    /// right, but batches of later epochs would be refused. Kafka's file has no checksum, so it is
    /// believed only if the last batch of the log bears it out.
    fn is_behind(
        &self,
        kafkas: &Epochs,
        files: &dyn FileSystem,
        directory: &Path,
    ) -> Result<bool, FsError> {
        let latest = kafkas.latest();
        Ok(latest > self.epochs.latest() && last_epoch(files, directory)? == latest)
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// If the disk fails or is full; what was there before holds then.
    pub fn store(&self, files: &dyn FileSystem, directory: &Path) -> Result<(), StorageError> {
        self.write_hints(files, directory)?;
        replace_file(files, &directory.join(STATE_FILE), &self.sealed())?;
        files.sync_directory(directory)?;
        Ok(())
    }

    /// Writes it into a directory that nobody has used yet, without waiting for the disk: it counts
    /// once the file that is returned, which holds ours, and the directory have been synced.
    ///
    /// # Errors
    /// As [`PartitionState::store`].
    pub fn write_new(
        &self,
        files: &dyn FileSystem,
        directory: &Path,
    ) -> Result<Arc<dyn File>, FsError> {
        write_file(
            files,
            &directory.join(METADATA_FILE),
            self.metadata().as_bytes(),
        )?;
        let epochs = self.epochs.to_text();
        write_file(files, &directory.join(EPOCH_FILE), epochs.as_bytes())?;
        let ours = self.sealed();
        let file = write_file(files, &directory.join(STATE_FILE), &ours)?;
        // So that many of them are on their way before the first one is waited for.
        file.start_writeback(0..to_u64(ours.len()));
        Ok(file)
    }

    fn metadata(&self) -> String {
        format!("version: 0\ntopic_id: {}", self.topic_id)
    }

    fn sealed(&self) -> Vec<u8> {
        seal(KIND, self.to_text().as_bytes())
    }

    /// Kafka's files, which count only where ours is missing.
    fn write_hints(&self, files: &dyn FileSystem, directory: &Path) -> Result<(), StorageError> {
        let metadata = directory.join(METADATA_FILE);
        if read_file(files, &metadata)?.is_none_or(|bytes| bytes.is_empty()) {
            replace_hint(files, &metadata, self.metadata().as_bytes())?;
        }
        let epochs = self.epochs.to_text();
        replace_hint(files, &directory.join(EPOCH_FILE), epochs.as_bytes())
    }

    fn to_text(&self) -> String {
        let mut text = format!("topic_id {}\nlog_start {}\n", self.topic_id, self.log_start);
        for entry in self.epochs.entries() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "epoch {} {}", entry.epoch, entry.start);
        }
        text
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let topic_id = lines.next()?.strip_prefix("topic_id ")?.parse().ok()?;
        let log_start = lines.next()?.strip_prefix("log_start ")?.parse().ok()?;
        let mut epochs = Epochs::default();
        for line in lines {
            let (epoch, start) = line.strip_prefix("epoch ")?.split_once(' ')?;
            epochs.assign(
                LeaderEpoch(epoch.parse().ok()?),
                Offset(start.parse().ok()?),
            );
        }
        Some(Self {
            topic_id,
            log_start: Offset(log_start),
            epochs,
        })
    }
}

/// The leader epoch of the last batch of the log in `directory`, as far as its headers lead.
fn last_epoch(files: &dyn FileSystem, directory: &Path) -> Result<Option<LeaderEpoch>, FsError> {
    let entries = files.list(directory)?;
    let mut bases: Vec<Offset> = entries
        .iter()
        .filter_map(|entry| FileKind::parse(&entry.name))
        .filter_map(|(kind, base)| (kind == FileKind::Log).then_some(base))
        .collect();
    bases.sort_unstable();
    for base in bases.into_iter().rev() {
        let file = files.open(&FileKind::Log.path(directory, base))?;
        let mut walk = HeaderWalk::new(&file, 0, file.size(), Some(base)).cold();
        let mut last = None;
        loop {
            match walk.next() {
                Ok(Some(batch)) => last = Some(batch.header.leader_epoch()),
                Ok(None) | Err(WalkError::Broken { .. }) => break,
                Err(WalkError::Fs(error)) => return Err(error),
            }
        }
        if last.is_some() {
            return Ok(last);
        }
    }
    Ok(None)
}

/// The topic that the files in `directory` belong to, by the file that is under a CRC; none if that
/// is damaged or not there.
///
/// # Errors
/// If the disk fails.
pub fn sealed_topic_id(
    files: &dyn FileSystem,
    directory: &Path,
) -> Result<Option<TopicId>, FsError> {
    let ours = read_file(files, &directory.join(STATE_FILE))?;
    let text = ours.and_then(|bytes| unseal(KIND, bytes));
    let state = text.and_then(|text| PartitionState::from_text(std::str::from_utf8(&text).ok()?));
    Ok(state.map(|state| state.topic_id))
}

/// Which files said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Ours, with a CRC.
    Protected,
    /// Ours, but it is of an earlier time: the epochs are from Kafka's.
    Outdated,
    /// Kafka's, without: ours was damaged or is not there.
    Kafka,
}

fn topic_id_from_text(text: &str) -> Option<TopicId> {
    let mut lines = text.lines();
    if lines.next()? != "version: 0" {
        return None;
    }
    lines.next()?.strip_prefix("topic_id: ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_it_writes() {
        let mut epochs = Epochs::default();
        epochs.assign(LeaderEpoch(3), Offset(0));
        epochs.assign(LeaderEpoch(7), Offset(99));
        let state = PartitionState {
            topic_id: TopicId([3; 16]),
            log_start: Offset(12),
            epochs,
        };
        assert_eq!(PartitionState::from_text(&state.to_text()), Some(state));
        let id = TopicId([3; 16]);
        let text = format!("version: 0\ntopic_id: {id}");
        assert_eq!(topic_id_from_text(&text), Some(id));
    }
}
