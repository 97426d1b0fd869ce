//! Everything that a simulated disk knows, and what each operation does to it.

mod files;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use super::{
    content::{Content, Survival},
    fault::{Failure, Fault, MachineOff},
    random::Random,
    stalls::Stalls,
    tree::{Inode, ROOT, Slot, Tree},
};
use crate::fs::{Entry, FsError, Operation, Space};

/// Room is given out in blocks.
const BLOCK: u64 = 4096;

const SWEEP_AT: usize = 1024;

#[derive(Clone, Debug)]
enum Node {
    Directory,
    File(Content),
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct State {
    tree: Tree,
    nodes: BTreeMap<Inode, Node>,
    next_inode: u64,
    capacity: Option<u64>,
    /// How many handles are open on a file.
    handles: BTreeMap<Inode, usize>,
    /// How many files there may be before removed ones are forgotten.
    sweep_at: usize,
    /// Bytes of blocks of files that have a name.
    used: u64,
    locks: BTreeSet<PathBuf>,
    faults: Vec<Fault>,
    stalls: Stalls,
    changes: u64,
    crash_at: Option<u64>,
    is_off: bool,
    boot: u64,
    random: Random,
    /// The machine as it was before each change, if that is wanted.
    kept: Option<Vec<Self>>,
    operations: u64,
}

/// Whether an operation can leave anything behind, so that a crash right after it is worth a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Changes,
    Looks,
}

/// What an operation that was let in does.
enum Entered {
    /// Its work.
    Whole,
    /// Its work, and then the machine is off: nobody learns that it was done.
    Last,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            tree: Tree::default(),
            nodes: BTreeMap::from([(ROOT, Node::Directory)]),
            next_inode: 1,
            capacity: None,
            handles: BTreeMap::new(),
            sweep_at: SWEEP_AT,
            used: 0,
            locks: BTreeSet::new(),
            faults: Vec::new(),
            stalls: Stalls::default(),
            changes: 0,
            crash_at: None,
            is_off: false,
            boot: 1,
            random: Random::new(seed),
            kept: None,
            operations: 0,
        }
    }

    // What a test turns.

    pub(super) const fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) const fn operations(&self) -> u64 {
        self.operations
    }

    pub(super) fn keep_boundaries(&mut self) {
        self.kept = Some(Vec::new());
    }

    /// What was kept, and the machine as it is now; keeps no more.
    pub(super) fn take_boundaries(&mut self) -> Vec<Self> {
        let mut kept = self.kept.take().unwrap_or_default();
        kept.push(self.clone());
        kept
    }

    /// Keeps the machine as it is, if that is wanted.
    fn keep(&mut self) {
        if let Some(mut kept) = self.kept.take() {
            kept.push(self.clone());
            self.kept = Some(kept);
        }
    }

    pub(super) const fn crash_after(&mut self, changes: u64) {
        self.crash_at = Some(self.changes.saturating_add(changes));
    }

    pub(super) const fn switch_off(&mut self) {
        self.is_off = true;
    }

    pub(super) const fn is_off(&self) -> bool {
        self.is_off
    }

    pub(super) fn inject(&mut self, fault: Fault) {
        match fault.failure {
            Failure::Stalled => self.stalls.add(fault),
            Failure::Broken | Failure::Full => self.faults.push(fault),
        }
    }

    pub(super) const fn stalls(&mut self) -> &mut Stalls {
        &mut self.stalls
    }

    pub(super) const fn faults(&self) -> usize {
        self.faults.len()
    }

    pub(super) fn heal(&mut self) {
        self.faults.clear();
        self.stalls.release();
    }

    pub(super) const fn set_capacity(&mut self, capacity: Option<u64>) {
        self.capacity = capacity;
    }

    pub(super) fn chill(&mut self) {
        for node in self.nodes.values_mut() {
            if let Node::File(content) = node {
                content.is_cold = true;
            }
        }
    }

    pub(super) fn rot(&mut self, path: &Path, at: u64, mask: u8) -> Result<(), FsError> {
        let rot = |state: &mut Self| -> io::Result<()> {
            let (_, inode) = state.tree.find(path)?;
            let content = state.content(inode.ok_or(io::ErrorKind::NotFound)?)?;
            if at >= content.size() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            content.rot(at, mask);
            Ok(())
        };
        rot(self).map_err(|error| FsError::new(Operation::Read, path, error))
    }

    pub(super) fn unsynced(&self) -> usize {
        let is_unsynced = |node: &&Node| matches!(node, Node::File(file) if file.is_unsynced());
        self.nodes.values().filter(is_unsynced).count()
    }

    /// A machine that starts again after its power was cut.
    pub(super) fn after_power_cut(&self, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let survival = Survival(match random.below(8) {
            0 => 0,
            1 => 256,
            _ => random.next() % 256,
        });
        let tree = self.tree.after_power_cut(survival, &mut random);
        let mut nodes: BTreeMap<Inode, Node> = BTreeMap::from([(ROOT, Node::Directory)]);
        for inode in tree.inodes() {
            let node = match self.nodes.get(&inode) {
                Some(Node::File(content)) => {
                    Node::File(content.after_power_cut(survival, &mut random))
                }
                Some(Node::Directory) => Node::Directory,
                None => continue,
            };
            nodes.insert(inode, node);
        }
        let mut state = Self {
            tree,
            nodes,
            next_inode: self.next_inode,
            capacity: self.capacity,
            boot: self.boot.saturating_add(1),
            random,
            ..Self::new(seed)
        };
        state.used = state.tree.named().map(|inode| state.blocks(inode)).sum();
        state
    }

    /// The same machine after its processes were killed: the page cache is still there.
    pub(super) fn after_kill(&self) -> Self {
        Self {
            handles: BTreeMap::new(),
            locks: BTreeSet::new(),
            faults: Vec::new(),
            stalls: Stalls::default(),
            crash_at: None,
            is_off: false,
            changes: 0,
            operations: 0,
            kept: None,
            ..self.clone()
        }
    }

    // What a file system does.

    pub(super) fn create(&mut self, path: &Path) -> Result<Inode, FsError> {
        self.run(Operation::Create, path, Effect::Changes, |state| {
            let slot = state.vacant(path)?;
            Ok(state.add(slot, Node::File(Content::default())))
        })
    }

    pub(super) fn open(&mut self, path: &Path) -> Result<Inode, FsError> {
        self.run(Operation::Open, path, Effect::Looks, |state| {
            let (_, inode) = state.tree.find(path)?;
            let inode = inode.ok_or(io::ErrorKind::NotFound)?;
            state.content(inode)?;
            Ok(inode)
        })
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), FsError> {
        self.run(Operation::Rename, from, Effect::Changes, |state| {
            let (from, inode) = state.occupied(from)?;
            let (to, target) = state.tree.find(to)?;
            let to = to.ok_or(io::ErrorKind::InvalidInput)?;
            state.directory(Some(to.0))?;
            if let Some(target) = target.filter(|target| *target != inode) {
                if !state.is_file(target) || !state.is_file(inode) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                state.used = state.used.saturating_sub(state.blocks(target));
            }
            state.tree.rename(from, to, inode);
            Ok(())
        })
    }

    pub(super) fn remove(&mut self, path: &Path) -> Result<(), FsError> {
        self.run(Operation::Remove, path, Effect::Changes, |state| {
            let (slot, inode) = state.occupied(path)?;
            state.content(inode)?;
            state.used = state.used.saturating_sub(state.blocks(inode));
            state.tree.unlink(slot, inode);
            Ok(())
        })
    }

    pub(super) fn create_directory(&mut self, path: &Path) -> Result<(), FsError> {
        self.run(Operation::Create, path, Effect::Changes, |state| {
            let (_, inode) = state.tree.find(path)?;
            if matches!(
                inode.and_then(|inode| state.nodes.get(&inode)),
                Some(Node::Directory)
            ) {
                return Ok(());
            }
            let slot = state.vacant(path)?;
            state.add(slot, Node::Directory);
            Ok(())
        })
    }

    pub(super) fn remove_directory(&mut self, path: &Path) -> Result<(), FsError> {
        self.run(Operation::Remove, path, Effect::Changes, |state| {
            let (slot, inode) = state.occupied(path)?;
            state.directory(Some(inode))?;
            if !state.tree.list(inode, |_| false).is_empty() {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            state.tree.unlink(slot, inode);
            Ok(())
        })
    }

    pub(super) fn list(&mut self, path: &Path) -> Result<Vec<Entry>, FsError> {
        self.run(Operation::List, path, Effect::Looks, |state| {
            let directory = state.directory_at(path)?;
            let is_directory = |inode| matches!(state.nodes.get(&inode), Some(Node::Directory));
            Ok(state.tree.list(directory, is_directory))
        })
    }

    pub(super) fn sync_directory(&mut self, path: &Path) -> Result<(), FsError> {
        let directory = self
            .directory_at(path)
            .map_err(|error| FsError::new(Operation::Sync, path, error))?;
        match self.enter(Operation::Sync, path, Effect::Changes) {
            // The power goes before it is done: what is found then is left to chance.
            Ok(Entered::Last) => Err(FsError::new(Operation::Sync, path, MachineOff::error())),
            Ok(Entered::Whole) => {
                self.tree.sync(directory);
                self.forget_removed();
                Ok(())
            }
            Err(error) => {
                if !self.is_off {
                    self.tree.fail_sync(directory, &mut self.random);
                }
                Err(FsError::new(Operation::Sync, path, error))
            }
        }
    }

    pub(super) fn space(&mut self, path: &Path) -> Result<Space, FsError> {
        self.run(Operation::Inspect, path, Effect::Looks, |state| {
            state.directory_at(path)?;
            let total = state.capacity.unwrap_or(u64::MAX >> 1);
            Ok(Space {
                total,
                available: total.saturating_sub(state.used),
            })
        })
    }

    pub(super) fn lock(&mut self, path: &Path) -> Result<(), FsError> {
        self.run(Operation::Lock, path, Effect::Changes, |state| {
            if state.tree.find(path)?.1.is_none() {
                let slot = state.vacant(path)?;
                state.add(slot, Node::File(Content::default()));
            }
            if !state.locks.insert(path.to_path_buf()) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        })
    }

    pub(super) fn unlock(&mut self, path: &Path) {
        self.locks.remove(path);
    }

    pub(super) fn incarnation(&mut self, path: &Path) -> Result<u64, FsError> {
        self.run(Operation::Inspect, path, Effect::Looks, |state| {
            state.directory_at(path)?;
            Ok(state.boot)
        })
    }

    pub(super) fn opened(&mut self, file: Inode) {
        let handles = self.handles.entry(file).or_default();
        *handles = handles.saturating_add(1);
    }

    pub(super) fn closed(&mut self, file: Inode) {
        if let Some(handles) = self.handles.get_mut(&file) {
            *handles = handles.saturating_sub(1);
            if *handles == 0 {
                self.handles.remove(&file);
            }
        }
    }

    // How they do it.

    /// Runs an operation whose effect, if it has one, is not durable by itself.
    fn run<T>(
        &mut self,
        operation: Operation,
        path: &Path,
        effect: Effect,
        work: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> Result<T, FsError> {
        let result = match self.enter(operation, path, effect) {
            Ok(Entered::Whole) => work(self),
            Ok(Entered::Last) => work(self).and(Err(MachineOff::error())),
            Err(error) => Err(error),
        };
        result.map_err(|error| FsError::new(operation, path, error))
    }

    fn enter(&mut self, operation: Operation, path: &Path, effect: Effect) -> io::Result<Entered> {
        if self.is_off {
            return Err(MachineOff::error());
        }
        self.operations = self.operations.saturating_add(1);
        if effect == Effect::Changes {
            self.keep();
        }
        let mut struck = None;
        for fault in &mut self.faults {
            struck = struck.or(fault.strikes(operation, path));
        }
        self.faults.retain(|fault| !fault.is_spent());
        if effect == Effect::Changes {
            self.changes = self.changes.saturating_add(1);
            if self.crash_at.is_some_and(|at| self.changes >= at) {
                self.is_off = true;
                return Ok(Entered::Last);
            }
        }
        struck.map_or(Ok(Entered::Whole), Err)
    }

    fn content(&mut self, file: Inode) -> io::Result<&mut Content> {
        match self.nodes.get_mut(&file) {
            Some(Node::File(content)) => Ok(content),
            Some(Node::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn is_file(&self, inode: Inode) -> bool {
        matches!(self.nodes.get(&inode), Some(Node::File(_)))
    }

    fn directory(&self, inode: Option<Inode>) -> io::Result<Inode> {
        let inode = inode.ok_or(io::ErrorKind::NotFound)?;
        match self.nodes.get(&inode) {
            Some(Node::Directory) => Ok(inode),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn directory_at(&self, path: &Path) -> io::Result<Inode> {
        self.directory(self.tree.find(path)?.1)
    }

    /// The place of a name that is there.
    fn occupied(&self, path: &Path) -> io::Result<(Slot, Inode)> {
        let (slot, inode) = self.tree.find(path)?;
        let inode = inode.ok_or(io::ErrorKind::NotFound)?;
        Ok((slot.ok_or(io::ErrorKind::InvalidInput)?, inode))
    }

    /// The place of a name that is not there, in a directory that is.
    fn vacant(&self, path: &Path) -> io::Result<Slot> {
        let (slot, inode) = self.tree.find(path)?;
        if inode.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let slot = slot.ok_or(io::ErrorKind::AlreadyExists)?;
        self.directory(Some(slot.0))?;
        Ok(slot)
    }

    fn add(&mut self, slot: Slot, node: Node) -> Inode {
        let inode = Inode(self.next_inode);
        self.next_inode = self.next_inode.saturating_add(1);
        self.nodes.insert(inode, node);
        self.tree.link(slot, inode);
        inode
    }

    fn blocks(&self, inode: Inode) -> u64 {
        blocks(self.size(inode))
    }

    /// Frees the memory of what is removed for good and not open.
    fn forget_removed(&mut self) {
        if self.nodes.len() < self.sweep_at {
            return;
        }
        let mut alive: BTreeSet<Inode> = self.tree.inodes().collect();
        alive.extend(self.handles.keys().copied());
        alive.insert(ROOT);
        self.nodes.retain(|inode, _| alive.contains(inode));
        self.sweep_at = self.nodes.len().saturating_mul(2).max(SWEEP_AT);
    }
}

fn blocks(size: u64) -> u64 {
    size.div_ceil(BLOCK).saturating_mul(BLOCK)
}
