//! The simulated disk as [`FileSystem`] and [`File`] show it.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{state::State, tree::Inode};
use crate::fs::{Entry, File, FileSystem, FsError, Incarnation, Lock, Space};

#[derive(Debug)]
pub(super) struct SimulatedFileSystem {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct SimulatedFile {
    state: Arc<Mutex<State>>,
    inode: Inode,
    /// What it was called when it was opened, for errors and faults.
    path: PathBuf,
}

#[derive(Debug)]
struct SimulatedLock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
}

impl SimulatedFileSystem {
    pub(super) const fn new(state: Arc<Mutex<State>>) -> Self {
        Self { state }
    }

    fn handle(
        &self,
        path: &Path,
        open: impl FnOnce(&mut State) -> Result<Inode, FsError>,
    ) -> Result<Arc<dyn File>, FsError> {
        let mut state = self.state.lock();
        let inode = open(&mut state)?;
        state.opened(inode);
        Ok(Arc::new(SimulatedFile {
            state: Arc::clone(&self.state),
            inode,
            path: path.to_path_buf(),
        }))
    }
}

impl FileSystem for SimulatedFileSystem {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FsError> {
        self.handle(path, |state| state.create(path))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>, FsError> {
        self.handle(path, |state| state.open(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), FsError> {
        self.state.lock().rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), FsError> {
        self.state.lock().remove(path)
    }

    fn create_directory(&self, path: &Path) -> Result<(), FsError> {
        self.state.lock().create_directory(path)
    }

    fn remove_directory(&self, path: &Path) -> Result<(), FsError> {
        self.state.lock().remove_directory(path)
    }

    fn list(&self, directory: &Path) -> Result<Vec<Entry>, FsError> {
        self.state.lock().list(directory)
    }

    fn sync_directory(&self, directory: &Path) -> Result<(), FsError> {
        self.state.lock().sync_directory(directory)
    }

    fn space(&self, directory: &Path) -> Result<Space, FsError> {
        self.state.lock().space(directory)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, FsError> {
        self.state.lock().lock(path)?;
        Ok(Box::new(SimulatedLock {
            state: Arc::clone(&self.state),
            path: path.to_path_buf(),
        }))
    }

    fn incarnation(&self, directory: &Path) -> Result<Incarnation, FsError> {
        let boot = self.state.lock().incarnation(directory)?;
        Ok(Incarnation {
            boot_id: format!("simulated-{boot}"),
            mount_id: boot,
        })
    }
}

impl File for SimulatedFile {
    fn size(&self) -> u64 {
        self.state.lock().size(self.inode)
    }

    fn allocate(&self, end: u64) -> Result<(), FsError> {
        self.state.lock().allocate(self.inode, &self.path, end)
    }

    fn write(&self, at: u64, parts: &[&[u8]]) -> Result<(), FsError> {
        self.state.lock().write(self.inode, &self.path, at, parts)
    }

    fn zero(&self, range: Range<u64>) -> Result<(), FsError> {
        self.state.lock().zero(self.inode, &self.path, range)
    }

    fn truncate(&self, size: u64) -> Result<(), FsError> {
        self.state.lock().truncate(self.inode, &self.path, size)
    }

    fn sync(&self) -> Result<(), FsError> {
        self.state.lock().sync(self.inode, &self.path)
    }

    fn start_writeback(&self, _range: Range<u64>) {
        // What is unsynced may be found after a power cut anyway, whether this was called or not.
    }

    fn view(&self, range: Range<u64>) -> Result<Bytes, FsError> {
        let bytes = self.state.lock().read(self.inode, &self.path, range)?;
        Ok(bytes.into())
    }

    fn is_resident(&self, range: Range<u64>) -> bool {
        self.state.lock().is_resident(self.inode, &range)
    }

    fn populate(&self, range: Range<u64>) -> Result<(), FsError> {
        self.state.lock().populate(self.inode, &self.path, &range)
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        self.state.lock().closed(self.inode);
    }
}

impl Lock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.state.lock().unlock(&self.path);
    }
}
