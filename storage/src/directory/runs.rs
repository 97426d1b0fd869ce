//! How the run before this one ended.
//!
//! *Pattern: generation clock.* The file `incarnation` names the run that last had the directory:
//! its broker epoch, the boot of the machine and the mount. Same boot and same mount mean that only
//! a process died: the page cache still holds what it wrote. Where it may not, the file stays as it
//! is until the new run has registered and so told of it. `.kafka_cleanshutdown` (Kafka's name
//! and content) says that everything was closed; it goes, durably, before anything is appended.

use std::path::Path;

use strandline_protocol::BrokerEpoch;

use super::{
    atomic::{read_text, write_atomically},
    sealed::{self, Kind},
};
use crate::{
    error::StorageError,
    fs::{FileSystem, FsError, Incarnation},
};

const CLEAN_MARK: &str = ".kafka_cleanshutdown";
const INCARNATION: &str = "incarnation";
const INCARNATION_KIND: Kind = Kind {
    name: "incarnation",
    version: 1,
};

/// A run of the broker on a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The epoch that it registered under; `-1` if it never did.
    pub broker_epoch: BrokerEpoch,
    /// The boot and the mount that it saw.
    pub incarnation: Incarnation,
}

/// The epoch in the clean-shutdown mark; none if there is no mark that can be read, as a mark that
/// cannot be read promises nothing.
pub(super) fn clean_mark(
    fs: &dyn FileSystem,
    directory: &Path,
) -> Result<Option<BrokerEpoch>, StorageError> {
    match read_text(fs, &directory.join(CLEAN_MARK)) {
        Ok(text) => Ok(text.as_deref().and_then(epoch_in_mark)),
        Err(StorageError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes the mark away, durably.
pub(super) fn remove_clean_mark(fs: &dyn FileSystem, directory: &Path) -> Result<(), FsError> {
    match fs.remove(&directory.join(CLEAN_MARK)) {
        Err(error) if error.is_not_found() => {}
        result => result?,
    }
    // Also when it was not there: a run before this one may have died between the two steps.
    fs.sync_directory(directory)
}

pub(super) fn write_clean_mark(
    fs: &dyn FileSystem,
    directory: &Path,
    epoch: BrokerEpoch,
) -> Result<(), FsError> {
    let text = format!("{{\"version\":0,\"brokerEpoch\":{epoch}}}");
    write_atomically(fs, &directory.join(CLEAN_MARK), text.as_bytes())
}

/// The last run that had the directory; none if there was none, or if its file is damaged, which
/// then means the same: nothing is known.
pub(super) fn last(fs: &dyn FileSystem, directory: &Path) -> Result<Option<Run>, StorageError> {
    match sealed::read(fs, &directory.join(INCARNATION), INCARNATION_KIND) {
        Ok(lines) => Ok(lines.as_deref().and_then(parse)),
        Err(StorageError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn write(fs: &dyn FileSystem, directory: &Path, run: &Run) -> Result<(), FsError> {
    let Run {
        broker_epoch,
        incarnation: Incarnation { boot_id, mount_id },
    } = run;
    let lines = format!("{broker_epoch} {mount_id} {boot_id}\n");
    sealed::write(fs, &directory.join(INCARNATION), INCARNATION_KIND, &lines)
}

/// Takes the file away, durably: nothing is known of any run.
pub(super) fn forget(fs: &dyn FileSystem, directory: &Path) -> Result<(), FsError> {
    match fs.remove(&directory.join(INCARNATION)) {
        Err(error) if error.is_not_found() => {}
        result => result?,
    }
    fs.sync_directory(directory)
}

fn parse(lines: &str) -> Option<Run> {
    let mut words = lines.trim_end().splitn(3, ' ');
    Some(Run {
        broker_epoch: BrokerEpoch(words.next()?.parse().ok()?),
        incarnation: Incarnation {
            mount_id: words.next()?.parse().ok()?,
            boot_id: words.next()?.to_owned(),
        },
    })
}

/// Reads the two fields of the mark, in any order and spacing.
fn epoch_in_mark(text: &str) -> Option<BrokerEpoch> {
    let fields = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut version = None;
    let mut epoch = None;
    for field in fields.split(',') {
        let (key, value) = field.split_once(':')?;
        let value: i64 = value.trim().parse().ok()?;
        match key.trim() {
            "\"version\"" => version = Some(value),
            "\"brokerEpoch\"" => epoch = Some(BrokerEpoch(value)),
            _ => {}
        }
    }
    version.filter(|version| *version == 0).and(epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_read_as_kafka_writes_it() {
        let good = r#"{"version":0,"brokerEpoch":17}"#;
        assert_eq!(epoch_in_mark(good), Some(BrokerEpoch(17)));
        let spaced = "{ \"brokerEpoch\" : -1 , \"version\" : 0 }\n";
        assert_eq!(epoch_in_mark(spaced), Some(BrokerEpoch(-1)));
        for bad in [
            "",
            "{}",
            "{\"version\":1,\"brokerEpoch\":2}",
            "{\"version\":0",
            "[]",
            "{:}",
        ] {
            assert_eq!(epoch_in_mark(bad), None, "{bad}");
        }
    }
}
