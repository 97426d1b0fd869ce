//! Makes this broker's partitions follow the metadata: opens, configures, deletes.
//!
//! *Pattern: state watch.* Data is deleted only because a topic is known to be deleted. A directory
//! that no metadata speaks of is set aside for an operator to look at.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
};

use parking_lot::Mutex;
use strandline_client::net::{Clock, random};
use strandline_core::{
    TopicConfig,
    metadata::{Image, Topic},
};
use strandline_protocol::{
    BrokerId, DirectoryId, ErrorCode, LeaderEpoch, Offset, TopicPartition, messages::Failure,
};
use strandline_storage::{
    StorageError,
    directory::PartitionName,
    log::{Log, Shutdown},
};

use super::{
    Directory, FetchWaits, Opening, Partition, Partitions, configuration::log_config,
    directory::metadata_name,
};
use crate::{metrics::Metrics, server::spawn::Threads};

/// How many threads open partitions at most.
const OPENING_THREADS_MAX: usize = 8;

/// What follows the metadata.
#[derive(Debug)]
pub struct Reconciler {
    /// Which broker this is.
    pub broker: BrokerId,
    /// Its directories, and how the run before left each.
    pub directories: Vec<(Arc<Directory>, Shutdown)>,
    /// Its partitions.
    pub partitions: Arc<Partitions>,
    /// Who waits for data.
    pub waits: Arc<FetchWaits>,
    /// Where the counters of topics come from.
    pub metrics: Arc<Metrics>,
    /// What topics are configured with that do not say otherwise.
    pub defaults: TopicConfig,
    /// Whether opening may use threads.
    pub threads: Threads,
    /// Up to where the metadata is followed.
    pub followed: Offset,
    /// Which partition has which name in a directory.
    pub names: BTreeMap<PartitionName, TopicPartition>,
}

/// A partition to open.
#[derive(Clone, Debug)]
struct Wanted {
    id: TopicPartition,
    topic: Arc<Topic>,
    epoch: LeaderEpoch,
    directory: DirectoryId,
}

impl Wanted {
    fn name(&self) -> PartitionName {
        PartitionName {
            topic: self.topic.name.to_string(),
            partition: self.id.partition,
        }
    }
}

impl Reconciler {
    /// Makes the partitions follow `image`. Waits for the disk. Returns the retired directories,
    /// whose files may be removed in the background.
    pub fn follow(&mut self, image: &Image) -> Vec<(Arc<Directory>, std::path::PathBuf)> {
        let (mut retired, mut wanted) = (Vec::new(), Vec::new());
        let changed = image.topics().filter(|topic| topic.version > self.followed);
        for topic in changed {
            let config = TopicConfig::resolve(&self.defaults, &topic.configs);
            for (number, partition) in topic.partitions() {
                let Some(replica) = partition.replica_on(self.broker) else {
                    continue;
                };
                let id = TopicPartition {
                    topic: topic.id,
                    partition: number,
                };
                match self.partitions.get(id) {
                    Ok(open) => open.configure(&config),
                    Err(_) if self.partitions.knows(id) => {}
                    Err(_) => wanted.push(Wanted {
                        id,
                        topic: Arc::clone(topic),
                        epoch: partition.leader_epoch,
                        directory: replica.directory,
                    }),
                }
            }
        }
        // Looking for what is gone walks over everything: only if the numbers say that something
        // is, or a name has come to mean something else.
        let expected = self.names.len().saturating_add(wanted.len());
        let renamed = wanted
            .iter()
            .any(|each| self.names.contains_key(&each.name()));
        if renamed || expected != image.partition_count() {
            retired = self.delete_unknown(image);
        }
        for each in &wanted {
            self.names.insert(each.name(), each.id);
        }
        self.open_all(wanted);
        self.followed = image.version();
        retired
    }

    /// Sets aside what lies in the directories and is not in the metadata. To be called once,
    /// before the first [`Reconciler::follow`], with what was found.
    pub fn set_strays_aside(&self, image: &Image, directory: &Directory, found: &[PartitionName]) {
        for name in found {
            if *name == metadata_name() || self.belongs(image, directory, name) {
                continue;
            }
            match directory.data().quarantine(name, random_bytes()) {
                Ok(path) => tracing::warn!(
                    partition = %name, path = %path.display(),
                    "set aside: the metadata does not know this partition; remove the directory if \
                     nobody misses it"
                ),
                Err(error) => {
                    directory.refuse(&error);
                }
            }
        }
    }

    fn belongs(&self, image: &Image, directory: &Directory, name: &PartitionName) -> bool {
        let Some(topic) = image.topic(&name.topic) else {
            return false;
        };
        let placed = topic
            .partition(name.partition)
            .and_then(|partition| partition.replica_on(self.broker))
            .is_some_and(|replica| replica.directory == directory.id());
        // A file that cannot be read says nothing against it; opening the log looks closer.
        let id = directory.data().topic_id(name).ok().flatten();
        placed && id.is_none_or(|id| id == topic.id)
    }

    /// Deletes what the metadata does not know any more.
    fn delete_unknown(&mut self, image: &Image) -> Vec<(Arc<Directory>, std::path::PathBuf)> {
        let here = |id: &TopicPartition| {
            image
                .partition(*id)
                .is_some_and(|partition| partition.replica_on(self.broker).is_some())
        };
        let gone: Vec<(PartitionName, TopicPartition)> = self
            .names
            .iter()
            .filter(|(_, id)| !here(id))
            .map(|(name, id)| (name.clone(), *id))
            .collect();
        let mut retired = Vec::new();
        for (name, id) in gone {
            self.names.remove(&name);
            let Some(partition) = self.partitions.remove(id) else {
                continue;
            };
            drop(partition.delete());
            let directory = Arc::clone(partition.directory());
            directory.forget(&name);
            match directory.data().retire(&name, random_bytes()) {
                Ok(path) => retired.push((directory, path)),
                // Nothing was ever appended to it.
                Err(StorageError::Fs(error)) if error.is_not_found() => {}
                Err(error) => {
                    directory.refuse(&error);
                }
            }
        }
        retired
    }

    /// Opens partitions, several at once where threads are allowed.
    fn open_all(&self, wanted: Vec<Wanted>) {
        let threads = match self.threads {
            Threads::None => 1,
            Threads::Allowed => std::thread::available_parallelism()
                .map_or(1, std::num::NonZero::get)
                .saturating_mul(2)
                .min(OPENING_THREADS_MAX)
                .min(wanted.len() / 4),
        };
        if threads <= 1 {
            for each in &wanted {
                self.open(each);
            }
            return;
        }
        let (next, wanted) = (AtomicUsize::new(0), Mutex::new(wanted));
        let take = || {
            let wanted = wanted.lock();
            let index = next.fetch_add(1, Ordering::Relaxed);
            wanted.get(index).cloned()
        };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(each) = take() {
                        self.open(&each);
                    }
                });
            }
        });
    }

    fn open(&self, wanted: &Wanted) {
        let found = self
            .directories
            .iter()
            .find(|(directory, _)| directory.id() == wanted.directory);
        let outcome = match found {
            Some((directory, shutdown)) => self.open_in(wanted, directory, *shutdown),
            None => Err(Failure::new(
                ErrorCode::STORAGE_ERROR,
                format!(
                    "data directory {} of this partition is not among those that the broker was \
                     started with: add it to --data and restart",
                    wanted.directory
                ),
            )),
        };
        match outcome {
            Ok(partition) => self.partitions.insert(Arc::new(partition)),
            Err(failure) => {
                tracing::error!(partition = %wanted.name(), "not served: {}", failure.message);
                self.partitions.insert_offline(wanted.id, failure);
            }
        }
    }

    fn open_in(
        &self,
        wanted: &Wanted,
        directory: &Arc<Directory>,
        shutdown: Shutdown,
    ) -> Result<Partition, Failure> {
        directory.check_online()?;
        let name = wanted.name();
        let config = TopicConfig::resolve(&self.defaults, &wanted.topic.configs);
        let opened = Log::open(
            Arc::clone(directory.data().file_system()),
            &directory.data().partition_path(&name),
            wanted.id.topic,
            log_config(&config),
            directory.hint(&name, wanted.id.topic, shutdown),
            Clock.now(),
        );
        let (log, report) = opened.map_err(|error| match error {
            // What is wrong with one log does not speak against its disk.
            StorageError::Fs(_) => directory.refuse(&error),
            error => Failure::new(ErrorCode::STORAGE_ERROR, error.to_string()),
        })?;
        for damage in &report.damage {
            tracing::error!(partition = %name, "damage below the recovery point: {damage}");
        }
        if report.bytes_cut > 0 {
            tracing::info!(
                partition = %name,
                bytes_scanned = report.bytes_scanned,
                bytes_cut = report.bytes_cut,
                log_end = %log.end(), "recovered: what was half written has been cut"
            );
        }
        Ok(Partition::new(Opening {
            id: wanted.id,
            topic: Arc::clone(&wanted.topic.name),
            directory: Arc::clone(directory),
            waits: Arc::clone(&self.waits),
            metrics: self.metrics.topic(&wanted.topic.name),
            log,
            leader_epoch: wanted.epoch,
            flush: config.flush,
        }))
    }
}

fn random_bytes() -> [u8; 16] {
    let drawn = (u128::from(random()) << 64) | u128::from(random());
    drawn.to_be_bytes()
}
