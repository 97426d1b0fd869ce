//! The disk of this machine.
//!
//! **Owns** names and directories, and the table of open files, so that a file that is opened twice
//! is one, and handles follow when it is renamed or loses its name. Descriptors are opened again by
//! path after they were closed to make room, which is why no rename happens meanwhile.

mod cache;
mod mapping;
mod node;

use std::{
    collections::BTreeMap,
    fs, io,
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use parking_lot::RwLock;
use rustix::fs::{AtFlags, CWD, FlockOperation, StatxFlags};

pub use cache::CacheLimits;
pub use node::Writing;

use self::{cache::Cache, node::Node};
use super::{Entry, File, FileSystem, FsError, Incarnation, Lock, Operation, Space};

/// How a kind of [`HostFileSystem`] writes.
pub trait Writer: Send + Sync + 'static {
    /// The way.
    const WRITING: Writing;
}

/// Small writes are copies into a mapping.
#[derive(Debug)]
pub enum Mapped {}

impl Writer for Mapped {
    const WRITING: Writing = Writing::Mapped;
}

/// Bytes are written by `pwritev`.
#[derive(Debug)]
pub enum Positional {}

impl Writer for Positional {
    const WRITING: Writing = Writing::Positional;
}

/// The files of this machine. Two of them on the same directory do not know of each other's open
/// files, so a process keeps one.
pub struct HostFileSystem<W> {
    shared: Arc<Shared>,
    writer: PhantomData<fn() -> W>,
}

impl<W: Writer> HostFileSystem<W> {
    /// A file system that holds open no more than `limits`, as far as that is possible.
    #[must_use]
    pub fn new(limits: CacheLimits) -> Self {
        Self::with(limits, Access::Everything)
    }

    /// One on which files can be looked at only: it needs no right to write to them, and whoever
    /// changes one through it gets an error.
    #[must_use]
    pub fn for_reading(limits: CacheLimits) -> Self {
        Self::with(limits, Access::Reading)
    }

    fn with(limits: CacheLimits, access: Access) -> Self {
        let shared = Shared {
            limits,
            writing: W::WRITING,
            access,
            descriptors: Cache::new(limits.descriptors),
            mappings: Cache::new(limits.mappings),
            names: RwLock::default(),
        };
        Self {
            shared: Arc::new(shared),
            writer: PhantomData,
        }
    }

    /// How many descriptors are open.
    #[must_use]
    pub fn descriptors_open(&self) -> usize {
        self.shared.descriptors.open()
    }

    /// How many mappings there are, those included that only views still use.
    #[must_use]
    pub fn mappings_open(&self) -> usize {
        self.shared.mappings.open()
    }
}

impl<W> std::fmt::Debug for HostFileSystem<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostFileSystem")
            .field("writing", &self.shared.writing)
            .field("limits", &self.shared.limits)
            .finish_non_exhaustive()
    }
}

/// What may be done to files that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Everything,
    Reading,
}

/// What a file system and its files share.
#[derive(Debug)]
struct Shared {
    limits: CacheLimits,
    writing: Writing,
    access: Access,
    descriptors: Cache<Node>,
    mappings: Cache<Node>,
    names: RwLock<Names>,
}

/// The files that are open, by name.
#[derive(Debug, Default)]
struct Names {
    nodes: BTreeMap<PathBuf, Weak<Node>>,
    /// How many names there may be before those of closed files are swept out.
    sweep_at: usize,
}

impl Names {
    fn find(&self, path: &Path) -> Option<Arc<Node>> {
        self.nodes.get(path).and_then(Weak::upgrade)
    }

    fn insert(&mut self, path: &Path, node: &Arc<Node>) {
        if self.nodes.len() >= self.sweep_at {
            self.nodes.retain(|_, node| node.strong_count() > 0);
            self.sweep_at = self.nodes.len().saturating_mul(2).max(1024);
        }
        self.nodes.insert(path.to_path_buf(), Arc::downgrade(node));
    }

    /// Moves what is at or below `from`.
    fn rename(&mut self, from: &Path, to: &Path) {
        self.nodes.remove(to);
        let below = |(path, _): &(&PathBuf, &Weak<Node>)| path.starts_with(from);
        let moved: Vec<PathBuf> = self
            .nodes
            .range(from.to_path_buf()..)
            .take_while(below)
            .map(|(path, _)| path.clone())
            .collect();
        for old in moved {
            let node = self.nodes.remove(&old);
            let Some(node) = node.as_ref().and_then(Weak::upgrade) else {
                continue;
            };
            let Ok(rest) = old.strip_prefix(from) else {
                continue;
            };
            let new = if rest.as_os_str().is_empty() {
                to.to_path_buf()
            } else {
                to.join(rest)
            };
            node.moved(new.clone());
            self.insert(&new, &node);
        }
    }
}

impl Shared {
    /// Opens `path`, closing others first if the process may not have more descriptors.
    fn open_descriptor(&self, path: &Path) -> io::Result<fs::File> {
        let may_write = self.access == Access::Everything;
        let mut options = fs::OpenOptions::new();
        options.read(true).write(may_write);
        self.with_room(|| options.open(path))
    }

    fn with_room<T>(&self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match open() {
            Err(error) if is_out_of_descriptors(&error) => {
                self.descriptors.shrink(64, Node::evict_descriptor);
                open()
            }
            result => result,
        }
    }

    /// Runs `change`, which takes away the name `path`, when the file there can live without it.
    fn without_name<T>(
        &self,
        path: &Path,
        change: impl FnOnce(&mut Names) -> io::Result<T>,
    ) -> Result<io::Result<T>, FsError> {
        loop {
            let node = self.names.read().find(path);
            if let Some(node) = &node {
                node.pin()?;
            }
            let mut names = self.names.write();
            let is_same = match (&node, names.find(path)) {
                (_, None) => true,
                (Some(node), Some(now)) => Arc::ptr_eq(node, &now),
                (None, Some(_)) => false,
            };
            if is_same {
                return Ok(change(&mut names));
            }
        }
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let directory = self.with_room(|| fs::File::open(directory))?;
        Ok(rustix::io::retry_on_intr(|| rustix::fs::fsync(&directory))?)
    }
}

impl<W: Writer> FileSystem for HostFileSystem<W> {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FsError> {
        let mut names = self.shared.names.write();
        let create = || {
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)
        };
        let node = self
            .shared
            .with_room(create)
            .and_then(|file| Node::new(&self.shared, path, file))
            .map_err(|error| FsError::new(Operation::Create, path, error))?;
        names.insert(path, &node);
        Ok(node)
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>, FsError> {
        let mut names = self.shared.names.write();
        if let Some(node) = names.find(path) {
            return Ok(node);
        }
        let node = self
            .shared
            .open_descriptor(path)
            .and_then(|file| Node::new(&self.shared, path, file))
            .map_err(|error| FsError::new(Operation::Open, path, error))?;
        names.insert(path, &node);
        Ok(node)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), FsError> {
        self.shared
            .without_name(to, |names| {
                fs::rename(from, to)?;
                if from != to {
                    names.rename(from, to);
                }
                Ok(())
            })?
            .map_err(|error| FsError::new(Operation::Rename, from, error))
    }

    fn remove(&self, path: &Path) -> Result<(), FsError> {
        self.shared
            .without_name(path, |names| {
                fs::remove_file(path)?;
                names.nodes.remove(path);
                Ok(())
            })?
            .map_err(|error| FsError::new(Operation::Remove, path, error))
    }

    fn create_directory(&self, path: &Path) -> Result<(), FsError> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            result => result.map_err(|error| FsError::new(Operation::Create, path, error)),
        }
    }

    fn remove_directory(&self, path: &Path) -> Result<(), FsError> {
        fs::remove_dir(path).map_err(|error| FsError::new(Operation::Remove, path, error))
    }

    fn list(&self, directory: &Path) -> Result<Vec<Entry>, FsError> {
        let list = || -> io::Result<Vec<Entry>> {
            let mut entries = Vec::new();
            for entry in self.shared.with_room(|| fs::read_dir(directory))? {
                let entry = entry?;
                entries.push(Entry {
                    name: entry.file_name().to_string_lossy().into_owned(),
                    is_directory: entry.file_type()?.is_dir(),
                });
            }
            entries.sort();
            Ok(entries)
        };
        list().map_err(|error| FsError::new(Operation::List, directory, error))
    }

    fn sync_directory(&self, directory: &Path) -> Result<(), FsError> {
        self.shared
            .sync_directory(directory)
            .map_err(|error| FsError::new(Operation::Sync, directory, error))
    }

    fn space(&self, directory: &Path) -> Result<Space, FsError> {
        let answer = rustix::fs::statvfs(directory)
            .map_err(|error| FsError::new(Operation::Inspect, directory, error.into()))?;
        Ok(Space {
            total: answer.f_blocks.saturating_mul(answer.f_frsize),
            available: answer.f_bavail.saturating_mul(answer.f_frsize),
        })
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, FsError> {
        let lock = || -> io::Result<HostLock> {
            let may_write = self.shared.access == Access::Everything;
            let mut options = fs::OpenOptions::new();
            options
                .read(true)
                .write(may_write)
                .create(may_write)
                .truncate(false);
            let file = self.shared.with_room(|| options.open(path))?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(HostLock { _file: file })
        };
        match lock() {
            Ok(lock) => Ok(Box::new(lock)),
            Err(error) => Err(FsError::new(Operation::Lock, path, error)),
        }
    }

    fn incarnation(&self, directory: &Path) -> Result<Incarnation, FsError> {
        let boot = Path::new("/proc/sys/kernel/random/boot_id");
        let boot_id = fs::read_to_string(boot)
            .map_err(|error| FsError::new(Operation::Inspect, boot, error))?;
        // The number that is never used again (Linux 6.8); older kernels answer with the other.
        const MOUNT_ID_UNIQUE: u32 = 0x4000;
        let mask = StatxFlags::MNT_ID | StatxFlags::from_bits_retain(MOUNT_ID_UNIQUE);
        let answer = rustix::fs::statx(CWD, directory, AtFlags::empty(), mask)
            .map_err(|error| FsError::new(Operation::Inspect, directory, error.into()))?;
        Ok(Incarnation {
            boot_id: boot_id.trim().to_owned(),
            mount_id: answer.stx_mnt_id,
        })
    }
}

/// A lock on an open file; closing the file gives it up, so a killed process leaves none behind.
#[derive(Debug)]
struct HostLock {
    _file: fs::File,
}

impl Lock for HostLock {}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
