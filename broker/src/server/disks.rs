//! Opening the data directories.

use std::{io::ErrorKind, path::Path, sync::Arc};

use anyhow::{Context as _, anyhow};
use strandline_client::net::random;
use strandline_core::mutants::{self, Mutant};
use strandline_protocol::{BrokerId, ClusterId, DirectoryId};
use strandline_storage::{
    StorageError,
    directory::{
        Claim, DataDirectory, Found, Identity, PageCache, PartitionName, RESERVE_BYTES, RaftId,
    },
    fs::FileSystem,
    log::Shutdown,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    join::Belonging,
    spawn::{Threads, blocking},
};
use crate::{
    metadata::METADATA_DIRECTORY, metrics::Metrics, partition::Directory, settings::Settings,
};

/// The data directories, just opened.
pub(super) struct Disks {
    pub(super) found: Vec<(Arc<Directory>, Found)>,
    pub(super) failures: UnboundedReceiver<DirectoryId>,
}

impl Disks {
    pub(super) fn first(&self) -> anyhow::Result<&Arc<Directory>> {
        self.found
            .first()
            .map(|(directory, _)| directory)
            .context("no data directory is configured; set --data")
    }

    pub(super) fn all(&self) -> Vec<Arc<Directory>> {
        self.found
            .iter()
            .map(|(directory, _)| Arc::clone(directory))
            .collect()
    }

    pub(super) fn with_shutdown(&self) -> Vec<(Arc<Directory>, Shutdown)> {
        self.found
            .iter()
            .map(|(directory, found)| (Arc::clone(directory), found.shutdown))
            .collect()
    }

    /// Those of them whose last run may have lost what was not fsynced.
    pub(super) fn lossy(&self) -> Vec<DirectoryId> {
        let lossy = self.found.iter().filter(|(_, found)| found.is_lossy());
        lossy.map(|(directory, _)| directory.id()).collect()
    }

    /// Whether any of them holds partitions of topics.
    pub(super) fn hold_partitions(&self) -> bool {
        let of_topics = |found: &Found| found.partitions.iter().any(|name| !is_metadata(name));
        self.found.iter().any(|(_, found)| of_topics(found))
    }
}

fn is_metadata(name: &PartitionName) -> bool {
    name.to_string() == METADATA_DIRECTORY
}

/// Random, so that a disk that was wiped is another member than before.
fn new_raft_id(broker: BrokerId) -> RaftId {
    if mutants::is_active(Mutant::WipedDiskKeepsRaftId) {
        return RaftId(u64::from(broker.0.unsigned_abs()));
    }
    RaftId(random())
}

pub(super) async fn open_directories(
    settings: &Settings,
    file_system: Arc<dyn FileSystem>,
    metrics: &Metrics,
    threads: Threads,
    belonging: Belonging,
) -> anyhow::Result<Disks> {
    let (told, failures) = unbounded_channel();
    let mut cluster: Option<ClusterId> = belonging.cluster;
    let mut found = Vec::new();
    for path in &settings.data {
        let claim = Claim {
            identity: Identity {
                cluster_id: cluster.unwrap_or(ClusterId(random_bytes())),
                node_id: settings.node_id,
                directory_id: DirectoryId(random_bytes()),
                raft_id: new_raft_id(settings.node_id),
            },
            cluster_id: cluster,
            reserve_bytes: RESERVE_BYTES,
        };
        let (fs, at) = (Arc::clone(&file_system), path.clone());
        let (data, what) = blocking(threads, move || DataDirectory::open(fs, &at, &claim))
            .await
            .context("the runtime stops")?
            .map_err(|error| unusable(path, error))?;
        cluster = Some(data.identity().cluster_id);
        for warning in &what.warnings {
            tracing::warn!(directory = %path.display(), "{warning}");
        }
        if what.shutdown == Shutdown::Unclean && what.last_run.is_some() {
            let cache = match what.page_cache {
                PageCache::Kept => "what it wrote is still in memory",
                PageCache::Lost => "the machine has restarted since",
            };
            tracing::info!(
                directory = %path.display(),
                "the last run did not stop in order ({cache}): logs are recovered"
            );
        }
        let directory = Directory::new(
            data,
            what.checkpoint.clone(),
            metrics.directory(path),
            told.clone(),
        );
        found.push((Arc::new(directory), what));
    }
    Ok(Disks { found, failures })
}

/// The error of a data directory, with what to do if the system refuses it.
pub(super) fn unusable(path: &Path, error: StorageError) -> anyhow::Error {
    let StorageError::Fs(refused) = error else {
        return error.into();
    };
    let (what, at) = (refused.operation, refused.path.display());
    let remedy = match refused.source.kind() {
        ErrorKind::PermissionDenied => "give another directory with --data, or change its owner",
        ErrorKind::StorageFull => "free space on its disk, or give another directory with --data",
        _ => "give another directory with --data",
    };
    anyhow!(
        "data directory {} cannot be used: cannot {what} {at}: {}; {remedy}",
        path.display(),
        reason(&refused.source),
    )
}

/// What the system says, without the number of its error.
pub(super) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}

/// Sixteen random bytes: an identity.
pub(super) fn random_bytes() -> [u8; 16] {
    let drawn = (u128::from(random()) << 64) | u128::from(random());
    drawn.to_be_bytes()
}
