//! Which snapshots a member has, and how one comes to be among them.
//!
//! A snapshot is written under another name, synced, renamed, and its directory synced: under its
//! own name it is whole. Those that end below the log start are of no use to anybody and go.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use openraft::{
    RaftSnapshotBuilder,
    alias::{SnapshotMetaOf, SnapshotOf},
};
use parking_lot::Mutex;
use strandline_client::net::Clock;
use strandline_core::metadata::Image;
use strandline_protocol::{ClusterId, LeaderEpoch, Offset};
use strandline_storage::{
    StorageError,
    fs::{File, FileSystem, FsError},
};
use tokio::{
    sync::watch,
    time::{Duration, sleep},
};

use super::{
    super::{
        super::Flushing,
        failure::Failing,
        store::{Store, blocking},
        types::{LogId, StoredMembership, Types, log_id, offset_of, term_of},
    },
    format::{self, Loaded, Unusable},
};

const SUFFIX: &str = ".checkpoint";

/// A crash leaves it behind, and the next start of the log removes it.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// What a snapshot is called while it comes in. There is only ever one.
const RECEIVED: &str = "received.checkpoint.tmp";

/// How often a snapshot is tried again that found the disk full.
const FULL_DISK_WAIT: Duration = Duration::from_secs(5);

/// One snapshot of a member.
#[derive(Clone, Debug)]
pub(in crate::metadata) struct Kept {
    /// The last entry that it reflects.
    pub(in crate::metadata) last: LogId,
    /// The membership in it; none if nobody has looked.
    pub(in crate::metadata) membership: Option<StoredMembership>,
}

/// What the snapshots of a member are made of.
pub(in crate::metadata) struct SnapshotsParts {
    pub(in crate::metadata) files: Arc<dyn FileSystem>,
    /// That of the log.
    pub(in crate::metadata) directory: PathBuf,
    pub(in crate::metadata) cluster: ClusterId,
    pub(in crate::metadata) flushing: Flushing,
    /// Oldest first.
    pub(in crate::metadata) kept: Vec<Kept>,
}

/// The snapshots of one member. Clones are handles of the same ones.
#[derive(Clone)]
pub(in crate::metadata) struct Snapshots {
    shared: Arc<Shared>,
}

struct Shared {
    files: Arc<dyn FileSystem>,
    directory: PathBuf,
    cluster: ClusterId,
    flushing: Flushing,
    newest: watch::Sender<Option<LogId>>,
    kept: Mutex<Vec<Kept>>,
    /// One writes at a time.
    writing: Mutex<()>,
}

/// A snapshot as openraft hands it around: an open file, which stays readable when it is removed.
#[derive(Debug)]
pub(in crate::metadata) struct SnapshotFile {
    pub(super) last: LogId,
    pub(super) file: Arc<dyn File>,
    pub(super) flushing: Flushing,
    /// Only of one that came from a peer: what it holds, checked.
    pub(super) received: Option<Box<Loaded>>,
}

/// The last entries of the snapshots in `directory`, oldest first, by their names alone.
///
/// # Errors
/// If the disk fails.
pub(in crate::metadata) fn names_in(
    files: &dyn FileSystem,
    directory: &Path,
) -> Result<Vec<LogId>, FsError> {
    let entries = match files.list(directory) {
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        result => result?,
    };
    let mut found: Vec<LogId> = entries
        .iter()
        .filter(|entry| !entry.is_directory)
        .filter_map(|entry| in_name(&entry.name))
        .collect();
    found.sort_unstable_by_key(|last| (offset_of(last), term_of(last)));
    Ok(found)
}

/// Reads the snapshot that ends with `last` and checks all of it.
///
/// # Errors
/// [`Unusable`].
pub(in crate::metadata) fn load_at(
    files: &dyn FileSystem,
    path: &Path,
    cluster: ClusterId,
    last: LogId,
) -> Result<Loaded, Unusable> {
    let file = files.open(path)?;
    format::read(file.as_ref(), cluster, last)
}

/// What the snapshot that ends with `last` is called.
pub(in crate::metadata) fn name_of(last: &LogId) -> String {
    let (end, term) = (offset_of(last).plus(1), term_of(last));
    format!("{:020}-{:010}{SUFFIX}", end.0, term.0)
}

fn in_name(name: &str) -> Option<LogId> {
    let (end, term) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let (end, term) = (end.parse().ok()?, term.parse().ok()?);
    let last = log_id(LeaderEpoch(term), Offset(end).plus(-1));
    (end > 0 && term >= 0 && name_of(&last) == name).then_some(last)
}

impl Snapshots {
    pub(in crate::metadata) fn new(parts: SnapshotsParts) -> Self {
        let newest = parts.kept.last().map(|kept| kept.last);
        Self {
            shared: Arc::new(Shared {
                files: parts.files,
                directory: parts.directory,
                cluster: parts.cluster,
                flushing: parts.flushing,
                newest: watch::Sender::new(newest),
                kept: Mutex::new(parts.kept),
                writing: Mutex::default(),
            }),
        }
    }

    /// Tells the last entry of the newest one, whenever there is another.
    pub(super) fn watch(&self) -> watch::Receiver<Option<LogId>> {
        self.shared.newest.subscribe()
    }

    /// The end (exclusive) of what the newest one reflects.
    pub(super) fn end(&self) -> Offset {
        let newest = *self.shared.newest.borrow();
        newest.map_or(Offset::ZERO, |last| offset_of(&last).plus(1))
    }

    /// The last entry of the one before the newest: up to there the log may go.
    pub(super) fn older(&self) -> Option<LogId> {
        let kept = self.shared.kept.lock();
        let older = kept.len().checked_sub(2).and_then(|at| kept.get(at));
        older.map(|kept| kept.last)
    }

    /// The newest one, open.
    ///
    /// # Errors
    /// If the disk fails.
    pub(in crate::metadata) fn current(
        &self,
    ) -> io::Result<Option<SnapshotOf<Types, SnapshotFile>>> {
        let newest = self.shared.kept.lock().last().cloned();
        let Some(newest) = newest else {
            return Ok(None);
        };
        let path = self.shared.directory.join(name_of(&newest.last));
        let file = self.shared.files.open(&path).map_err(io::Error::other)?;
        Ok(Some(self.handle(&newest, file)))
    }

    /// Writes the snapshot of `image`, in which the last membership is `membership`.
    ///
    /// # Errors
    /// If the disk fails or is full; there is no new snapshot then.
    pub(in crate::metadata) async fn write(
        &self,
        image: &Image,
        membership: &StoredMembership,
    ) -> Result<SnapshotOf<Types, SnapshotFile>, StorageError> {
        let (this, image, membership) = (self.clone(), image.clone(), membership.clone());
        let work = move || Ok(this.write_now(&image, &membership));
        let written = blocking(self.shared.flushing, work).await;
        written.unwrap_or_else(|error| {
            let reason = error.to_string();
            Err(StorageError::Refused { reason })
        })
    }

    fn write_now(
        &self,
        image: &Image,
        membership: &StoredMembership,
    ) -> Result<SnapshotOf<Types, SnapshotFile>, StorageError> {
        let _one = self.shared.writing.lock();
        let last = log_id(image.term(), image.version());
        let at = membership.log_id().unwrap_or(last);
        let temporary = self
            .shared
            .directory
            .join(name_of(&last) + TEMPORARY_SUFFIX);
        let file = self.create(&temporary)?;
        let written = format::write(file.as_ref(), &temporary, image, at, Clock.now());
        if let Err(error) = written {
            // It takes room, which may be what is missing. The error that counts is the first.
            let _ = self.shared.files.remove(&temporary);
            return Err(error);
        }
        let kept = Kept {
            last,
            membership: Some(membership.clone()),
        };
        self.take_in(&temporary, &kept)?;
        let end = image.version().plus(1);
        tracing::debug!(%end, bytes = file.size(), "a snapshot is written");
        Ok(self.handle(&kept, file))
    }

    /// Takes a received snapshot among the kept ones. Returns what it holds.
    ///
    /// # Errors
    /// If the disk fails; if it was not received.
    pub(in crate::metadata) async fn install(
        &self,
        snapshot: SnapshotFile,
        membership: StoredMembership,
    ) -> io::Result<Loaded> {
        let this = self.clone();
        let work = move || {
            let (last, _one) = (snapshot.last, this.shared.writing.lock());
            let received = snapshot.received.ok_or_else(|| {
                io::Error::other("a snapshot of this broker itself cannot be installed")
            })?;
            let kept = Kept {
                last,
                membership: Some(membership),
            };
            let from = this.shared.directory.join(RECEIVED);
            this.take_in(&from, &kept).map_err(io::Error::other)?;
            Ok(*received)
        };
        blocking(self.shared.flushing, work).await
    }

    /// Gives a whole and synced file its name, durably.
    fn take_in(&self, from: &Path, kept: &Kept) -> Result<(), FsError> {
        let shared = &self.shared;
        let to = shared.directory.join(name_of(&kept.last));
        shared.files.rename(from, &to)?;
        shared.files.sync_directory(&shared.directory)?;
        {
            let mut all = shared.kept.lock();
            // Up to its end there is one history, and this is the newest that is known of it.
            all.retain(|other| offset_of(&other.last) < offset_of(&kept.last));
            all.push(kept.clone());
        }
        shared.newest.send_replace(Some(kept.last));
        Ok(())
    }

    /// The log starts at `start` now: what ends below is of no use any more.
    ///
    /// # Errors
    /// If the disk fails.
    pub(in crate::metadata) fn trim(&self, start: Offset) -> Result<(), FsError> {
        let shared = &self.shared;
        let is_useless = |last: &LogId| offset_of(last).plus(1) < start;
        shared.kept.lock().retain(|kept| !is_useless(&kept.last));
        let names = names_in(shared.files.as_ref(), &shared.directory)?;
        let useless: Vec<&LogId> = names.iter().filter(|last| is_useless(last)).collect();
        for last in &useless {
            shared.files.remove(&shared.directory.join(name_of(last)))?;
        }
        if !useless.is_empty() {
            shared.files.sync_directory(&shared.directory)?;
        }
        Ok(())
    }

    /// The file that a snapshot is received in, empty.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn begin_receiving(&self) -> Result<Arc<dyn File>, FsError> {
        self.create(&self.shared.directory.join(RECEIVED))
    }

    /// Removes the file that a snapshot was received in, if it is still there. What stays is
    /// removed at the next start.
    pub(super) fn forget_received(&self) {
        let _ = self
            .shared
            .files
            .remove(&self.shared.directory.join(RECEIVED));
    }

    /// Cuts a received file to its size, makes it durable, and reads it whole.
    ///
    /// # Errors
    /// [`Unusable`].
    pub(super) fn check_received(
        &self,
        file: &Arc<dyn File>,
        last: LogId,
        bytes: u64,
    ) -> Result<SnapshotFile, Unusable> {
        file.truncate(bytes)?;
        file.sync()?;
        let loaded = format::read(file.as_ref(), self.shared.cluster, last)?;
        Ok(SnapshotFile {
            last,
            file: Arc::clone(file),
            flushing: self.shared.flushing,
            received: Some(Box::new(loaded)),
        })
    }

    /// Where blocking work runs.
    pub(super) fn flushing(&self) -> Flushing {
        self.shared.flushing
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FsError> {
        let (files, directory) = (self.shared.files.as_ref(), &self.shared.directory);
        files.create_directory(directory)?;
        if let Some(parent) = directory.parent() {
            files.sync_directory(parent)?;
        }
        match files.create(path) {
            Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {
                files.remove(path)?;
                files.create(path)
            }
            result => result,
        }
    }

    fn handle(&self, kept: &Kept, file: Arc<dyn File>) -> SnapshotOf<Types, SnapshotFile> {
        SnapshotOf::<Types, SnapshotFile> {
            meta: SnapshotMetaOf::<Types> {
                last_log_id: Some(kept.last),
                last_membership: kept.membership.clone().unwrap_or_default(),
            },
            snapshot: SnapshotFile {
                last: kept.last,
                file,
                flushing: self.shared.flushing,
                received: None,
            },
        }
    }
}

/// Writes the snapshot of one moment, while the log goes on.
pub(in crate::metadata) struct SnapshotBuilder {
    pub(in crate::metadata) snapshots: Snapshots,
    pub(in crate::metadata) image: Image,
    pub(in crate::metadata) membership: StoredMembership,
    pub(in crate::metadata) store: Store,
    pub(in crate::metadata) failing: Failing,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    /// Waits for room on a full disk: that ends no quorum.
    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, SnapshotFile>, io::Error> {
        loop {
            let error = match self.snapshots.write(&self.image, &self.membership).await {
                Ok(written) => return Ok(written),
                Err(error) => error,
            };
            if !error.is_full() || self.store.is_closed() {
                self.failing.fail(&error);
                return Err(io::Error::other(error.to_string()));
            }
            tracing::warn!(
                "no snapshot of the metadata could be written: {error}; the log grows until there \
                 is room"
            );
            sleep(FULL_DISK_WAIT).await;
        }
    }
}
