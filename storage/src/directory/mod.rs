//! One data directory (`--data`): who owns it, how it was left, and what lies in it.
//!
//! ```text
//! <data>/
//!   .lock                              held by the process that works here
//!   .reserve                           room kept aside for when the disk is full
//!   .kafka_cleanshutdown               the run before closed everything (Kafka's)
//!   meta.properties, meta.sealed       whose it is (Kafka's; ours, under a checksum)
//!   incarnation                        which run has it, under which boot and mount
//!   joining                            the cluster that it is about to join
//!   quorum.sealed                      for whom its member of the metadata quorum has voted
//!   checkpoint.sealed                  how far each partition had come (ours: wins)
//!   recovery-point-offset-checkpoint   the same in Kafka's files
//!   log-start-offset-checkpoint
//!   replication-offset-checkpoint
//!   <topic>-<partition>/               a partition's log
//!   <topic>-<partition>.<id>-delete/   a partition whose files are being removed
//!   <topic>-<partition>.<id>-stray/    a partition that nobody knows, set aside
//! ```
//!
//! What damages trust in the disk takes the whole directory offline until the process starts again;
//! a broker has several, and the others go on. A full disk does not: it refuses what needs room.

mod atomic;
mod checkpoints;
mod identity;
mod joining;
mod names;
mod quorum_vote;
mod reserve;
mod runs;
mod sealed;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use strandline_core::mutants::{self, Mutant};
use strandline_protocol::{BrokerEpoch, TopicId};

pub use atomic::{read_small, write_atomically};
pub use checkpoints::{
    Checkpoint, CheckpointedOffsets, read_checkpoint_file, recovery_point_of, write_checkpoint_file,
};
pub use identity::{Claim, Identity, Origin, RaftId};
pub use joining::{begin_joining, end_joining, identity_of, joining};
pub use names::{NotAPartition, PartitionName, SetAside, topic_id_in};
pub use quorum_vote::{Election, QUORUM_FILE, QuorumVote, read_quorum_vote, write_quorum_vote};
pub use reserve::ReserveState;
pub use runs::Run;

use self::{names::DirectoryKind, reserve::Reserve};
use crate::{
    error::StorageError,
    fs::{Entry, FileSystem, FsError, Incarnation, Lock, Operation, Space},
    log::{Shutdown, sealed_topic_id},
};

const LOCK: &str = ".lock";
const PARTITION_METADATA: &str = "partition.metadata";

/// The room to keep aside that fits a directory of ten thousand partitions.
pub const RESERVE_BYTES: u64 = 4 << 20;

/// A data directory that this process holds the lock of.
#[derive(Debug)]
pub struct DataDirectory {
    fs: Arc<dyn FileSystem>,
    path: PathBuf,
    identity: Identity,
    incarnation: Incarnation,
    reserve: Reserve,
    failure: OnceLock<String>,
    /// Small files are replaced through one temporary name each: by one caller at a time.
    writing: Mutex<()>,
    _lock: Box<dyn Lock>,
}

/// What was found when a data directory was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whether it had been used before.
    pub origin: Origin,
    /// How the run before ended.
    pub shutdown: Shutdown,
    /// Which run that was; none if there was none, or nothing is known of it.
    pub last_run: Option<Run>,
    /// Whether the kernel still has what that run wrote.
    pub page_cache: PageCache,
    /// How far the partitions had come.
    pub checkpoint: Checkpoint,
    /// The partitions, in the order of their names.
    pub partitions: Vec<PartitionName>,
    /// Directories whose deletion was interrupted: to be given to [`DataDirectory::purge`].
    pub doomed: Vec<PathBuf>,
    /// Partitions that were set aside earlier.
    pub stray: Vec<PathBuf>,
    /// Directories that are nothing of ours. They are left alone.
    pub foreign: Vec<PathBuf>,
    /// What was odd and has been got over, in sentences for the log.
    pub warnings: Vec<String>,
}

impl Found {
    /// Whether the last run may have lost what was not fsynced, and has not told: it did not stop
    /// in order, and neither the same boot nor the same mount tells that its page cache is still
    /// there.
    #[must_use]
    pub fn is_lossy(&self) -> bool {
        self.origin == Origin::Old
            && self.shutdown == Shutdown::Unclean
            && self.page_cache == PageCache::Lost
    }
}

/// What became of the bytes that the run before wrote and did not sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCache {
    /// Same boot, same mount: they are still there.
    Kept,
    /// They may be lost.
    Lost,
}

impl DataDirectory {
    /// Opens `path`, which is created if it is not there: takes the lock, reads or gives the
    /// identity, learns how the run before ended, and, durably, takes away the clean-shutdown mark
    /// and enters this run, so that appends may begin. A run after one that may have lost something
    /// is entered by [`DataDirectory::set_broker_epoch`] only.
    ///
    /// # Errors
    /// [`StorageError::InUse`] if another process has it, [`StorageError::ForeignDirectory`] if it
    /// belongs to another node or cluster, [`StorageError::Damaged`] if its identity is unclear; if
    /// the disk fails. Nothing has been appended then, and nothing else was touched.
    pub fn open(
        fs: Arc<dyn FileSystem>,
        path: &Path,
        claim: &Claim,
    ) -> Result<(Self, Found), StorageError> {
        create_with_parents(&*fs, path)?;
        let lock = fs.lock(&path.join(LOCK)).map_err(|error| {
            if error.is_locked() {
                StorageError::InUse {
                    directory: path.to_path_buf(),
                }
            } else {
                error.into()
            }
        })?;
        let reserve = Reserve::open(&*fs, path, claim.reserve_bytes)?;
        let (identity, origin) = identity::establish(&*fs, path, claim, || {
            let entries = fs.list(path)?;
            Ok(entries.iter().any(is_partition))
        })?;
        let incarnation = fs.incarnation(path)?;
        let found = look_around(&*fs, path, origin, &incarnation)?;
        let directory = Self {
            fs,
            path: path.to_path_buf(),
            identity,
            incarnation,
            reserve,
            failure: OnceLock::new(),
            writing: Mutex::new(()),
            _lock: lock,
        };
        directory.begin(&found)?;
        directory.replenish_reserve()?;
        Ok((directory, found))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The disk that it is on.
    #[must_use]
    pub const fn file_system(&self) -> &Arc<dyn FileSystem> {
        &self.fs
    }

    /// Where a partition has its files.
    #[must_use]
    pub fn partition_path(&self, name: &PartitionName) -> PathBuf {
        self.path.join(name.to_string())
    }

    /// The topic that a partition's files belong to, as its `partition.state` says, or its
    /// `partition.metadata` where that cannot be read: Kafka's file has no checksum, and a flipped
    /// digit there must not make a stranger of a partition. None if neither tells.
    ///
    /// # Errors
    /// If the disk fails or the directory is offline.
    pub fn topic_id(&self, name: &PartitionName) -> Result<Option<TopicId>, StorageError> {
        let directory = self.partition_path(name);
        if let Some(id) = self.run(|| Ok(sealed_topic_id(&*self.fs, &directory)?))? {
            return Ok(Some(id));
        }
        let path = directory.join(PARTITION_METADATA);
        match self.run(|| atomic::read_text(&*self.fs, &path)) {
            Ok(text) => Ok(text.as_deref().and_then(topic_id_in)),
            Err(StorageError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Enters the epoch under which this run has registered. Durable when it returns. On a disk
    /// that is full to the last block nothing is entered, as after a directory's first start: the
    /// next start then takes the run for one whose page cache is lost.
    ///
    /// # Errors
    /// If the disk fails or the directory is offline.
    pub fn set_broker_epoch(&self, broker_epoch: BrokerEpoch) -> Result<(), StorageError> {
        let run = Run {
            broker_epoch,
            incarnation: self.incarnation.clone(),
        };
        let written = self.write(|| runs::write(&*self.fs, &self.path, &run));
        match written {
            // To the last block, as a run on a full disk leaves it. The file of the run before may
            // give its own; and if not, a broker that knows nothing of its last run recovers more,
            // but serves its readers.
            Err(StorageError::Fs(error)) if error.is_full() => {
                self.write(|| runs::forget(&*self.fs, &self.path))?;
                match self.write(|| runs::write(&*self.fs, &self.path, &run)) {
                    Err(StorageError::Fs(error)) if error.is_full() => Ok(()),
                    result => result,
                }
            }
            result => result,
        }
    }

    /// Writes how far the partitions have come. Durable when it returns. Costs one small file, and
    /// is due at most a second after new data was synced; off the hot path.
    ///
    /// # Errors
    /// If the disk fails, or is full even without the reserve; the checkpoint before stands then.
    /// If the directory is offline.
    pub fn write_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), StorageError> {
        self.write(|| checkpoint.write(&*self.fs, &self.path))
    }

    /// Writes the same to the three files that Kafka's tools read. They are only a fallback here,
    /// so once a minute and at shutdown is often enough.
    ///
    /// # Errors
    /// As [`DataDirectory::write_checkpoint`].
    pub fn write_checkpoint_for_kafka(&self, checkpoint: &Checkpoint) -> Result<(), StorageError> {
        self.write(|| checkpoint.write_for_kafka(&*self.fs, &self.path))
    }

    /// Ends this run: writes `checkpoint` everywhere, then the clean-shutdown mark. The caller has
    /// closed and synced every log, and appends nothing any more.
    ///
    /// # Errors
    /// If the disk fails or the directory is offline; then there is no mark, and the next run
    /// recovers.
    pub fn close_clean(
        &self,
        broker_epoch: BrokerEpoch,
        checkpoint: &Checkpoint,
    ) -> Result<(), StorageError> {
        self.write_checkpoint(checkpoint)?;
        self.write_checkpoint_for_kafka(checkpoint)?;
        self.write(|| runs::write_clean_mark(&*self.fs, &self.path, broker_epoch))
    }

    /// Takes a partition's name away, durably: its files are as good as deleted, and another
    /// partition may have the name. `unique` is random. Gives the directory to
    /// [`DataDirectory::purge`].
    ///
    /// Open handles and views of its files stay good.
    ///
    /// # Errors
    /// If the disk fails or the directory is offline; if there is no such partition.
    pub fn retire(&self, name: &PartitionName, unique: [u8; 16]) -> Result<PathBuf, StorageError> {
        self.set_aside(name, SetAside::Delete, unique)
    }

    /// Sets a partition aside that nobody knows, for an operator to look at. Data is never deleted
    /// because metadata looks wrong.
    ///
    /// # Errors
    /// As [`DataDirectory::retire`].
    pub fn quarantine(
        &self,
        name: &PartitionName,
        unique: [u8; 16],
    ) -> Result<PathBuf, StorageError> {
        self.set_aside(name, SetAside::Stray, unique)
    }

    /// Removes the files of a retired partition. May take long: the caller does it on a thread. If
    /// it is interrupted, the directory is found among [`Found::doomed`] at the next start.
    ///
    /// # Errors
    /// If the disk fails or the directory is offline.
    pub fn purge(&self, retired: &Path) -> Result<(), StorageError> {
        self.run(|| {
            match remove_tree(&*self.fs, retired) {
                Err(error) if error.is_not_found() => {}
                result => result?,
            }
            Ok(self.fs.sync_directory(&self.path)?)
        })
    }

    /// How much room the disk has.
    ///
    /// # Errors
    /// If the disk fails or the directory is offline.
    pub fn space(&self) -> Result<Space, StorageError> {
        self.run(|| Ok(self.fs.space(&self.path)?))
    }

    /// Whether room is kept aside for when the disk is full.
    #[must_use]
    pub fn reserve_state(&self) -> ReserveState {
        self.reserve.state()
    }

    /// Gives up the room that is kept aside: the disk is full, and something must be written that
    /// makes room. Tells whether there was any, so that trying again makes sense. What this type
    /// writes itself does so by itself.
    ///
    /// # Errors
    /// If the disk fails or the directory is offline.
    pub fn release_reserve(&self) -> Result<bool, StorageError> {
        self.run(|| Ok(self.reserve.release(&*self.fs)?))
    }

    /// Takes the room again if the disk has plenty. To be called now and then.
    ///
    /// # Errors
    /// If the disk fails or the directory is offline.
    pub fn replenish_reserve(&self) -> Result<ReserveState, StorageError> {
        self.run(|| Ok(self.reserve.replenish(&*self.fs, &self.path)?))
    }

    /// Takes the directory offline, for good in this process. The first reason stays.
    pub fn fail(&self, reason: &dyn fmt::Display) {
        let _ = self.failure.set(reason.to_string());
    }

    /// Whether it may be used.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.failure.get().is_none()
    }

    /// Why it is offline; none if it is not.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// [`StorageError::DirectoryOffline`] if it is offline.
    ///
    /// # Errors
    /// That one.
    pub fn check_online(&self) -> Result<(), StorageError> {
        match self.failure() {
            None => Ok(()),
            Some(reason) => Err(StorageError::DirectoryOffline {
                directory: self.path.clone(),
                reason: reason.to_owned(),
            }),
        }
    }

    /// Until this run has registered, nobody was told of what the run before may have lost: if it
    /// ends before, the next one must not take its own page cache for that of the run before.
    fn begin(&self, found: &Found) -> Result<(), StorageError> {
        if !mutants::is_active(Mutant::CleanMarkStaysWhileAppending) {
            self.run(|| Ok(runs::remove_clean_mark(&*self.fs, &self.path)?))?;
        }
        if found.is_lossy() {
            return Ok(());
        }
        let epoch = found.last_run.as_ref().map(|run| run.broker_epoch);
        self.set_broker_epoch(epoch.unwrap_or(BrokerEpoch(-1)))
    }

    fn set_aside(
        &self,
        name: &PartitionName,
        aside: SetAside,
        unique: [u8; 16],
    ) -> Result<PathBuf, StorageError> {
        let to = self.path.join(aside.name(name, unique));
        self.run(|| {
            match self.fs.rename(&self.partition_path(name), &to) {
                // Done before, when the disk was too full to make it durable.
                Err(error) if error.is_not_found() && self.fs.list(&to).is_ok() => {}
                result => result?,
            }
            Ok(self.fs.sync_directory(&self.path)?)
        })?;
        Ok(to)
    }

    /// Replaces small files, one caller at a time.
    fn write(&self, write: impl Fn() -> Result<(), FsError>) -> Result<(), StorageError> {
        let _one = self.writing.lock();
        self.run(|| Ok(write()?))
    }

    /// Runs `operation`: not when offline, a second time without the reserve if the disk is full,
    /// and going offline if the disk fails.
    fn run<T>(&self, operation: impl Fn() -> Result<T, StorageError>) -> Result<T, StorageError> {
        self.check_online()?;
        let mut result = operation();
        // Also where a sync said so: what is written a second time is written afresh.
        if let Err(StorageError::Fs(error)) = &result
            && error.is_full()
            && self.reserve.release(&*self.fs).unwrap_or(false)
        {
            result = operation();
        }
        result.inspect_err(|error| {
            if let StorageError::Fs(error) = error
                && is_failure_of_disk(error)
            {
                self.fail(error);
            }
        })
    }
}

/// Whether nothing may be believed of the disk after `error`.
fn is_failure_of_disk(error: &FsError) -> bool {
    // A full disk at a sync is one that took bytes and lost them.
    let is_full = error.is_full() && error.operation != Operation::Sync;
    !is_full && !error.is_not_found()
}

fn create_with_parents(fs: &dyn FileSystem, path: &Path) -> Result<(), FsError> {
    match fs.list(path) {
        Err(error) if error.is_not_found() => {}
        result => return result.map(drop),
    }
    let parent = atomic::parent(path);
    if parent != Path::new(".") {
        create_with_parents(fs, parent)?;
    }
    fs.create_directory(path)?;
    fs.sync_directory(parent)
}

fn is_partition(entry: &Entry) -> bool {
    entry.is_directory && matches!(DirectoryKind::of(&entry.name), DirectoryKind::Partition(_))
}

/// Reads everything that [`Found`] tells, and changes nothing but that temporary files go.
fn look_around(
    fs: &dyn FileSystem,
    path: &Path,
    origin: Origin,
    incarnation: &Incarnation,
) -> Result<Found, StorageError> {
    let mut warnings = Vec::new();
    let checkpoint = Checkpoint::read(fs, path, &mut warnings)?;
    let shutdown = match runs::clean_mark(fs, path)? {
        Some(_) => Shutdown::Clean,
        None => Shutdown::Unclean,
    };
    let last_run = runs::last(fs, path)?;
    let is_same = last_run
        .as_ref()
        .is_some_and(|run| run.incarnation == *incarnation);
    let mut found = Found {
        origin,
        shutdown,
        last_run,
        page_cache: if is_same {
            PageCache::Kept
        } else {
            PageCache::Lost
        },
        checkpoint,
        partitions: Vec::new(),
        doomed: Vec::new(),
        stray: Vec::new(),
        foreign: Vec::new(),
        warnings,
    };
    for entry in fs.list(path)? {
        let at = path.join(&entry.name);
        if !entry.is_directory {
            if entry.name.ends_with(atomic::TEMPORARY_SUFFIX) {
                fs.remove(&at)?;
            }
            continue;
        }
        match DirectoryKind::of(&entry.name) {
            DirectoryKind::Partition(name) => found.partitions.push(name),
            DirectoryKind::SetAside(SetAside::Delete) => found.doomed.push(at),
            DirectoryKind::SetAside(SetAside::Stray) => found.stray.push(at),
            DirectoryKind::Foreign => found.foreign.push(at),
        }
    }
    found.partitions.sort();
    Ok(found)
}

fn remove_tree(fs: &dyn FileSystem, directory: &Path) -> Result<(), FsError> {
    for entry in fs.list(directory)? {
        let at = directory.join(&entry.name);
        if entry.is_directory {
            remove_tree(fs, &at)?;
        } else {
            fs.remove(&at)?;
        }
    }
    fs.remove_directory(directory)
}
