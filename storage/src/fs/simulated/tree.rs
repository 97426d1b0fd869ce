//! The names of a simulated disk: what processes see, what the medium holds, and the changes in
//! between, each of which is found after a power cut or not.

use std::{
    collections::BTreeMap,
    io,
    path::{Component, Path},
};

use super::{content::Survival, random::Random};
use crate::fs::Entry;

/// A file or a directory, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Inode(pub(super) u64);

/// The directory that everything is below.
pub(super) const ROOT: Inode = Inode(0);

/// A place for a name: in which directory, and which name.
pub(super) type Slot = (Inode, String);

#[derive(Clone, Debug)]
enum Change {
    Link(Slot, Inode),
    Unlink(Slot, Inode),
    /// One step: either both names change or neither does.
    Move(Slot, Slot, Inode),
}

impl Change {
    fn touches(&self, directory: Inode) -> bool {
        match self {
            Self::Link((at, _), _) | Self::Unlink((at, _), _) => *at == directory,
            Self::Move((from, _), (to, _), _) => *from == directory || *to == directory,
        }
    }

    fn apply(&self, names: &mut BTreeMap<Slot, Inode>) {
        match self {
            Self::Link(at, inode) => {
                names.insert(at.clone(), *inode);
            }
            Self::Unlink(at, inode) => remove_if(names, at, *inode),
            Self::Move(from, to, inode) => {
                remove_if(names, from, *inode);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

fn remove_if(names: &mut BTreeMap<Slot, Inode>, at: &Slot, inode: Inode) {
    if names.get(at) == Some(&inode) {
        names.remove(at);
    }
}

/// All names. Which inodes are directories is known to the caller alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    names: BTreeMap<Slot, Inode>,
    durable: BTreeMap<Slot, Inode>,
    unsynced: Vec<Change>,
}

impl Tree {
    /// What `path` names, and where that name is kept. The root has no place.
    pub(super) fn find(&self, path: &Path) -> io::Result<(Option<Slot>, Option<Inode>)> {
        let mut slot = None;
        let mut found = Some(ROOT);
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name.to_string_lossy().into_owned(),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
                Component::ParentDir => return Err(io::ErrorKind::InvalidInput.into()),
            };
            let at = found.ok_or(io::ErrorKind::NotFound)?;
            found = self.names.get(&(at, name.clone())).copied();
            slot = Some((at, name));
        }
        Ok((slot, found))
    }

    pub(super) fn link(&mut self, at: Slot, inode: Inode) {
        self.change(Change::Link(at, inode));
    }

    pub(super) fn unlink(&mut self, at: Slot, inode: Inode) {
        self.change(Change::Unlink(at, inode));
    }

    pub(super) fn rename(&mut self, from: Slot, to: Slot, inode: Inode) {
        if from != to {
            self.change(Change::Move(from, to, inode));
        }
    }

    pub(super) fn list(
        &self,
        directory: Inode,
        is_directory: impl Fn(Inode) -> bool,
    ) -> Vec<Entry> {
        self.names
            .range((directory, String::new())..)
            .take_while(|((at, _), _)| *at == directory)
            .map(|((_, name), inode)| Entry {
                name: name.clone(),
                is_directory: is_directory(*inode),
            })
            .collect()
    }

    /// Makes durable what has changed in `directory`, and of a rename that it took part in all that
    /// came before it on the other side.
    pub(super) fn sync(&mut self, directory: Inode) {
        let mut directories = vec![directory];
        let mut synced = Vec::new();
        let mut left = Vec::new();
        // From the newest back: a rename pulls in its other directory for what is older.
        for change in std::mem::take(&mut self.unsynced).into_iter().rev() {
            if !directories.iter().any(|at| change.touches(*at)) {
                left.push(change);
                continue;
            }
            if let Change::Move((from, _), (to, _), _) = &change {
                directories.extend([*from, *to]);
            }
            synced.push(change);
        }
        for change in synced.into_iter().rev() {
            change.apply(&mut self.durable);
        }
        left.reverse();
        self.unsynced = left;
    }

    /// A sync that fails: some of the changes are durable, and none is tried again.
    pub(super) fn fail_sync(&mut self, directory: Inode, random: &mut Random) {
        let (failed, left) = std::mem::take(&mut self.unsynced)
            .into_iter()
            .partition(|change: &Change| change.touches(directory));
        self.unsynced = left;
        for change in failed {
            if random.happens(128) {
                change.apply(&mut self.durable);
            }
        }
    }

    /// What is found once power is back.
    pub(super) fn after_power_cut(&self, survival: Survival, random: &mut Random) -> Self {
        let mut names = self.durable.clone();
        for change in &self.unsynced {
            if random.happens(survival.0) {
                change.apply(&mut names);
            }
        }
        Self {
            names: names.clone(),
            durable: names,
            unsynced: Vec::new(),
        }
    }

    /// Every inode that has, had or may get a name.
    pub(super) fn inodes(&self) -> impl Iterator<Item = Inode> {
        let changed = self.unsynced.iter().map(|change| match change {
            Change::Link(_, inode) | Change::Unlink(_, inode) | Change::Move(_, _, inode) => *inode,
        });
        let named = self.names.values().chain(self.durable.values()).copied();
        named.chain(changed)
    }

    /// The inodes that processes can find.
    pub(super) fn named(&self) -> impl Iterator<Item = Inode> {
        self.names.values().copied()
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.unsynced.push(change);
    }
}
