//! What has to be done from time to time: checkpoints, background flushes, retention, rolling.
//!
//! *Pattern: low-water mark.* Only partitions in which something happened are touched often; all of
//! them are looked at for retention, a few microseconds each.

use std::{sync::Arc, time::Duration};

use strandline_client::net::Clock;
use strandline_protocol::DirectoryId;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{Directory, Partitions};
use crate::{
    http::Readiness,
    metadata::MetadataLog,
    server::spawn::{Threads, blocking},
};

/// How often Kafka's checkpoint files are written, and room for a full disk is looked after.
const SLOW_INTERVAL: Duration = Duration::from_secs(60);

/// How often a full disk is looked at.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);

/// The periodic work of a broker.
#[derive(Debug)]
pub struct Upkeep {
    /// The directories.
    pub directories: Vec<Arc<Directory>>,
    /// The partitions.
    pub partitions: Arc<Partitions>,
    /// The metadata log, which is checkpointed too.
    pub metadata: MetadataLog,
    /// Told when no directory is left.
    pub readiness: Readiness,
    /// News of failed directories.
    pub failures: UnboundedReceiver<DirectoryId>,
    /// How often recovery points are made durable.
    pub checkpoint_interval: Duration,
    /// How often retention is applied.
    pub retention_interval: Duration,
    /// Whether blocking work has threads.
    pub threads: Threads,
    /// Ends it.
    pub stopping: CancellationToken,
}

impl Upkeep {
    /// Runs until the broker stops.
    pub async fn run(mut self) {
        let start = Instant::now();
        let every = |interval| {
            let mut ticks = tokio::time::interval_at(start + interval, interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let mut checkpoints = every(self.checkpoint_interval);
        let mut retention = every(self.retention_interval);
        let mut space = every(SPACE_INTERVAL);
        let mut slow = every(SLOW_INTERVAL);
        let mut metadata_failure = self.metadata.failure();
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                Ok(()) = metadata_failure.changed() => {
                    let reason = metadata_failure.borrow_and_update().clone();
                    self.metadata_failed(&reason.unwrap_or_default());
                }
                Some(directory) = self.failures.recv() => self.failed(directory),
                _ = checkpoints.tick() => self.checkpoint().await,
                _ = retention.tick() => self.retain().await,
                _ = space.tick() => {
                    self.each(|directory| directory.look_after_full_disk()).await;
                    let full = self.directories.iter().filter(|it| it.is_full());
                    self.metadata.directories_full(full.map(|it| it.id()).collect());
                }
                _ = slow.tick() => self.each(|directory| {
                    directory.write_checkpoint_for_kafka();
                    directory.look_after_space();
                }).await,
            }
        }
    }

    /// The metadata log lies in the first directory, whose disk cannot be trusted any more.
    fn metadata_failed(&self, reason: &str) {
        if let Some(first) = self.directories.first() {
            first.data().fail(&reason);
            self.failed(first.id());
        }
    }

    /// Tells everybody who waits for a directory that it has failed.
    fn failed(&self, id: DirectoryId) {
        let Some(directory) = self.directories.iter().find(|each| each.id() == id) else {
            return;
        };
        self.metadata.directory_failed(id);
        let reason = directory.data().failure().unwrap_or_default().to_owned();
        for partition in self.partitions.all() {
            if Arc::ptr_eq(partition.directory(), directory) {
                partition.disk_failed(&reason);
            }
        }
        if !self.directories.iter().any(|each| each.data().is_online()) {
            self.readiness
                .not_ready("every data directory is offline: check the disks, then restart");
        }
    }

    async fn checkpoint(&self) {
        let metadata = self.metadata.clone();
        let first = self.directories.first().cloned();
        let work = move |directory: &Directory| {
            for partition in directory.take_unsynced() {
                partition.flush_soon();
            }
            let now = Clock.now();
            for partition in directory.take_synced() {
                partition.checkpoint(now);
            }
            if first
                .as_ref()
                .is_some_and(|first| first.id() == directory.id())
            {
                checkpoint_metadata(&metadata, directory);
            }
            directory.write_checkpoint();
        };
        self.each(work).await;
    }

    async fn retain(&self) {
        let partitions = Arc::clone(&self.partitions);
        let work = move || {
            let now = Clock.now();
            for partition in partitions.all() {
                partition.retain(now);
            }
        };
        blocking(self.threads, work).await;
    }

    async fn each(&self, work: impl Fn(&Directory) + Send + Clone + 'static) {
        for directory in &self.directories {
            if !directory.data().is_online() {
                continue;
            }
            let (directory, work) = (Arc::clone(directory), work.clone());
            blocking(self.threads, move || work(&directory)).await;
        }
    }
}

/// Writes down what makes the next replay of the metadata log quick.
pub(super) fn checkpoint_metadata(metadata: &MetadataLog, directory: &Directory) {
    let Some(job) = metadata.checkpoint_job() else {
        return;
    };
    let recovery_point = job.recovery_point();
    match job.run() {
        Err(error) if !error.is_full() => directory.fail(&error),
        _ => directory.remember_metadata(recovery_point),
    }
}
