//! What the controller knows of the brokers' disks, as they told last.

use std::collections::{BTreeMap, BTreeSet};

use strandline_protocol::{BrokerId, DirectoryId};

/// The data directories that are not as they should be. Nothing of it is in the metadata log: a new
/// controller hears of it with the next heartbeats.
#[derive(Clone, Debug, Default)]
pub(super) struct Disks {
    failed: BTreeSet<DirectoryId>,
    full: BTreeMap<BrokerId, BTreeSet<DirectoryId>>,
}

impl Disks {
    /// A directory has failed, until its broker starts anew.
    pub(super) fn fail(&mut self, directory: DirectoryId) {
        self.failed.insert(directory);
    }

    /// These directories of a broker lie on a full disk, and no others.
    pub(super) fn ran_full(&mut self, broker: BrokerId, directories: BTreeSet<DirectoryId>) {
        if directories.is_empty() {
            self.full.remove(&broker);
        } else {
            self.full.insert(broker, directories);
        }
    }

    /// A broker has started anew with these directories.
    pub(super) fn started(&mut self, broker: BrokerId, directories: &[DirectoryId]) {
        self.full.remove(&broker);
        for directory in directories {
            self.failed.remove(directory);
        }
    }

    /// Where new copies may lie on a broker with these directories: full ones only if there are no
    /// others.
    pub(super) fn places(&self, broker: BrokerId, directories: &[DirectoryId]) -> Vec<DirectoryId> {
        let usable = directories.iter().copied().filter(|it| self.is_usable(*it));
        let (full, roomy): (Vec<_>, Vec<_>) = usable.partition(|it| self.is_full(broker, *it));
        if roomy.is_empty() { full } else { roomy }
    }

    /// Whether the directory has not failed.
    pub(super) fn is_usable(&self, directory: DirectoryId) -> bool {
        !self.failed.contains(&directory)
    }

    /// Whether appends in this directory of the broker are refused until there is space.
    pub(super) fn is_full(&self, broker: BrokerId, directory: DirectoryId) -> bool {
        let full = self.full.get(&broker);
        full.is_some_and(|full| full.contains(&directory))
    }

    /// Whether any directory of the broker is full.
    pub(super) fn is_any_full(&self, broker: BrokerId) -> bool {
        self.full.contains_key(&broker)
    }
}
