//! The simulated disk as [`FileSystem`] and [`File`] show it.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{state::State, tree::Inode};
use crate::fs::{Entry, File, FileSystem, FsError, Incarnation, Lock, Operation, Space};

/// The machine, and who waits for its stalled operations to go on.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) state: Mutex<State>,
    pub(super) released: Condvar,
}

impl Machine {
    /// The machine for `operation`, once that need not wait (any more).
    fn enter(&self, operation: Operation, path: &Path) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        if let Some(stalled) = state.stalls().begin(operation, path) {
            while state.stalls().holds(stalled) && !state.is_off() {
                self.released.wait(&mut state);
            }
            state.stalls().end();
        }
        state
    }
}

#[derive(Debug)]
pub(super) struct SimulatedFileSystem {
    machine: Arc<Machine>,
}

#[derive(Debug)]
struct SimulatedFile {
    machine: Arc<Machine>,
    inode: Inode,
    /// What it was called when it was opened, for errors and faults.
    path: PathBuf,
}

#[derive(Debug)]
struct SimulatedLock {
    machine: Arc<Machine>,
    path: PathBuf,
}

impl SimulatedFileSystem {
    pub(super) const fn new(machine: Arc<Machine>) -> Self {
        Self { machine }
    }

    fn handle(
        &self,
        operation: Operation,
        path: &Path,
        open: impl FnOnce(&mut State) -> Result<Inode, FsError>,
    ) -> Result<Arc<dyn File>, FsError> {
        let mut state = self.machine.enter(operation, path);
        let inode = open(&mut state)?;
        state.opened(inode);
        Ok(Arc::new(SimulatedFile {
            machine: Arc::clone(&self.machine),
            inode,
            path: path.to_path_buf(),
        }))
    }
}

impl FileSystem for SimulatedFileSystem {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FsError> {
        self.handle(Operation::Create, path, |state| state.create(path))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>, FsError> {
        self.handle(Operation::Open, path, |state| state.open(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), FsError> {
        self.machine.enter(Operation::Rename, from).rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), FsError> {
        self.machine.enter(Operation::Remove, path).remove(path)
    }

    fn create_directory(&self, path: &Path) -> Result<(), FsError> {
        self.machine
            .enter(Operation::Create, path)
            .create_directory(path)
    }

    fn remove_directory(&self, path: &Path) -> Result<(), FsError> {
        self.machine
            .enter(Operation::Remove, path)
            .remove_directory(path)
    }

    fn list(&self, directory: &Path) -> Result<Vec<Entry>, FsError> {
        self.machine
            .enter(Operation::List, directory)
            .list(directory)
    }

    fn sync_directory(&self, directory: &Path) -> Result<(), FsError> {
        self.machine
            .enter(Operation::Sync, directory)
            .sync_directory(directory)
    }

    fn space(&self, directory: &Path) -> Result<Space, FsError> {
        self.machine
            .enter(Operation::Inspect, directory)
            .space(directory)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, FsError> {
        self.machine.enter(Operation::Lock, path).lock(path)?;
        Ok(Box::new(SimulatedLock {
            machine: Arc::clone(&self.machine),
            path: path.to_path_buf(),
        }))
    }

    fn incarnation(&self, directory: &Path) -> Result<Incarnation, FsError> {
        let boot = self
            .machine
            .enter(Operation::Inspect, directory)
            .incarnation(directory)?;
        Ok(Incarnation {
            boot_id: format!("simulated-{boot}"),
            mount_id: boot,
        })
    }
}

impl SimulatedFile {
    fn enter(&self, operation: Operation) -> MutexGuard<'_, State> {
        self.machine.enter(operation, &self.path)
    }
}

impl File for SimulatedFile {
    fn size(&self) -> u64 {
        self.machine.state.lock().size(self.inode)
    }

    fn allocate(&self, end: u64) -> Result<(), FsError> {
        self.enter(Operation::Allocate)
            .allocate(self.inode, &self.path, end)
    }

    fn write(&self, at: u64, parts: &[&[u8]]) -> Result<(), FsError> {
        self.enter(Operation::Write)
            .write(self.inode, &self.path, at, parts)
    }

    fn zero(&self, range: Range<u64>) -> Result<(), FsError> {
        self.enter(Operation::Write)
            .zero(self.inode, &self.path, range)
    }

    fn truncate(&self, size: u64) -> Result<(), FsError> {
        self.enter(Operation::Truncate)
            .truncate(self.inode, &self.path, size)
    }

    fn sync(&self) -> Result<(), FsError> {
        self.enter(Operation::Sync).sync(self.inode, &self.path)
    }

    fn start_writeback(&self, _range: Range<u64>) {
        // What is unsynced may be found after a power cut anyway, whether this was called or not.
    }

    fn view(&self, range: Range<u64>) -> Result<Bytes, FsError> {
        let bytes = self
            .enter(Operation::Read)
            .read(self.inode, &self.path, range)?;
        Ok(bytes.into())
    }

    fn is_resident(&self, range: Range<u64>) -> bool {
        self.machine.state.lock().is_resident(self.inode, &range)
    }

    fn populate(&self, range: Range<u64>) -> Result<(), FsError> {
        self.enter(Operation::Read)
            .populate(self.inode, &self.path, &range)
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        self.machine.state.lock().closed(self.inode);
    }
}

impl Lock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.machine.state.lock().unlock(&self.path);
    }
}
