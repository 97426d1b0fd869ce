//! A broker without network or threads: what a broker does with its disk, in its order.
//!
//! It starts as the broker does (data directory, metadata log, registration, strays, partitions),
//! drives the broker's own metadata log and the same jobs of the same logs, and treats errors as
//! the broker does: a full disk refuses, anything else takes the data directory offline.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc, time::Duration};

use strandline_broker::{
    metadata::{
        Flushing, Founding, METADATA_DIRECTORY, METADATA_TOPIC_ID, MetadataError, MetadataLog,
        MetadataOptions, SnapshotLimits,
    },
    partition::metadata_name,
};
use strandline_core::{
    TopicConfig,
    metadata::{Defaults, Image, METADATA_VERSION, Membership, Registration, Voter},
};
use strandline_protocol::{
    BrokerEpoch, BrokerId, ClusterId, DirectoryId, ErrorCode, LeaderEpoch, Offset, Timestamp,
    TopicId, messages::Failure,
};
use strandline_storage::{
    StorageError,
    directory::{
        Checkpoint, CheckpointedOffsets, Claim, DataDirectory, Found, Identity, PartitionName,
        RaftId,
    },
    fs::FileSystem,
    log::{Log, LogConfig, RecoveryHint, RecoveryReport, Shutdown},
};
use tokio::{runtime::Runtime, time::timeout};

/// Where the data directory lies.
pub const DATA: &str = "/data";

/// The only broker.
pub const BROKER: BrokerId = BrokerId(1);

/// When the first step of every workload happens.
pub const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// How much is kept aside for a full disk.
const RESERVE_BYTES: u64 = 32 << 10;

/// How many entries of the metadata log lie between two snapshots.
const SNAPSHOT_ENTRIES: u64 = 8;

/// Topics with few index entries.
const SPARSE_TOPICS: [&str; 2] = ["b", "d"];

/// Truncations between two starts, at most: each has an epoch of its own.
const EPOCHS_PER_START: i32 = 1_000;

/// Why an operation did not work.
#[derive(Debug)]
pub enum Trouble {
    /// The disk is full: nothing was done, and it may work later.
    Full(String),
    /// The data directory is offline.
    Dead(String),
    /// The start was refused, or a partition is not served.
    Refused(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Full(text) | Self::Dead(text) | Self::Refused(text)) = self;
        f.write_str(text)
    }
}

impl From<StorageError> for Trouble {
    fn from(error: StorageError) -> Self {
        match error {
            error if error.is_full() => Self::Full(error.to_string()),
            StorageError::Fs(_)
            | StorageError::Offline { .. }
            | StorageError::DirectoryOffline { .. } => Self::Dead(error.to_string()),
            error => Self::Refused(error.to_string()),
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        match failure.error {
            ErrorCode::DISK_FULL => Self::Full(failure.message),
            ErrorCode::STORAGE_ERROR | ErrorCode::UNKNOWN_SERVER_ERROR => {
                Self::Dead(failure.message)
            }
            code => Self::Refused(format!("{code}: {}", failure.message)),
        }
    }
}

/// A partition that is served.
#[derive(Debug)]
pub struct Served {
    /// Its log.
    pub log: Log,
    /// Its topic.
    pub topic: TopicId,
    /// Under which epoch it is written.
    pub epoch: LeaderEpoch,
}

/// What became of logs that were opened.
#[derive(Debug, Default)]
pub struct Opened {
    /// What was found in each.
    pub reports: Vec<(PartitionName, RecoveryReport)>,
    /// Which are not served, and why.
    pub refused: Vec<(PartitionName, Trouble)>,
}

/// What was found at a start.
#[derive(Debug)]
pub struct Start {
    /// In the data directory.
    pub found: Found,
    /// In the logs.
    pub opened: Opened,
    /// Which partitions were set aside because the metadata does not know them.
    pub strays: Vec<PartitionName>,
}

/// A running broker. Dropped, it is one that was killed.
#[derive(Debug)]
pub struct Machine {
    /// Its data directory.
    pub data: DataDirectory,
    /// Its metadata.
    pub metadata: MetadataLog,
    /// Its partitions.
    pub served: BTreeMap<PartitionName, Served>,
    /// How far they have come.
    pub checkpoint: Checkpoint,
    /// Where the tasks of the metadata quorum run, whenever something waits for them.
    runtime: Runtime,
    epoch: BrokerEpoch,
    followed: Offset,
    shutdown: Shutdown,
    set_aside: u64,
}

/// Waits for the metadata log, which syncs inline: nothing else has to happen for it to be done.
///
/// # Panics
/// If it waits for something after all.
fn settle<T>(runtime: &Runtime, future: impl Future<Output = T>) -> T {
    const SECONDS_MAX: u64 = 60;
    let limited = async { timeout(Duration::from_secs(SECONDS_MAX), future).await };
    match runtime.block_on(limited) {
        Ok(value) => value,
        Err(_) => panic!("the metadata log waits for something"),
    }
}

/// The configuration of a partition's log: small bounds, and the topic's retention. Every other
/// topic has several batches between two entries of an index, so that one batch has to be found by
/// way of another.
fn log_config(topic: &str, configs: &BTreeMap<String, String>) -> LogConfig {
    let config = TopicConfig::resolve(&TopicConfig::default(), configs);
    let dense = LogConfig {
        retention_bytes: config.retention_bytes,
        ..LogConfig::test_min()
    };
    if SPARSE_TOPICS.contains(&topic) {
        return LogConfig {
            segment_bytes: 4_000,
            index_interval_bytes: 1_500,
            ..dense
        };
    }
    dense
}

fn claim(draw: u64) -> Claim {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&draw.to_be_bytes());
    Claim {
        identity: Identity {
            cluster_id: ClusterId(bytes),
            node_id: BROKER,
            directory_id: DirectoryId(bytes),
            raft_id: RaftId(draw),
        },
        cluster_id: None,
        reserve_bytes: RESERVE_BYTES,
    }
}

impl Machine {
    /// Starts; `draw` is what a new directory gets its identity from.
    ///
    /// # Errors
    /// [`Trouble`]; nothing runs then.
    pub fn start(
        files: &Arc<dyn FileSystem>,
        draw: u64,
        now: Timestamp,
    ) -> Result<(Self, Start), Trouble> {
        let (data, found) = DataDirectory::open(Arc::clone(files), Path::new(DATA), &claim(draw))?;
        let checkpoint = found.checkpoint.clone();
        let is_topic = |name: &PartitionName| *name != metadata_name();
        let founding = if found.partitions.iter().any(is_topic) {
            Founding::Forbidden
        } else {
            Founding::Allowed
        };
        let hint = hint(
            &checkpoint,
            &metadata_name(),
            METADATA_TOPIC_ID,
            found.shutdown,
        );
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| Trouble::Refused(error.to_string()))?;
        let metadata = {
            let _within = runtime.enter();
            open_metadata(&data, hint, founding)?
        };
        let registration = Registration {
            broker: BROKER,
            incarnation: [7; 16],
            host: "localhost".into(),
            port: 9290,
            rack: None,
            directories: vec![data.identity().directory_id],
            raft_id: Some(data.identity().raft_id.0),
            software: "strandline/0.0.0".into(),
            metadata_version_max: METADATA_VERSION,
            lossy: Vec::new(),
        };
        let epoch = settle(&runtime, metadata.register(registration))?;
        data.set_broker_epoch(epoch)?;
        let mut machine = Self {
            data,
            metadata,
            served: BTreeMap::new(),
            checkpoint,
            runtime,
            epoch,
            followed: Offset(-1),
            shutdown: found.shutdown,
            set_aside: 0,
        };
        let mut start = Start {
            found,
            opened: Opened::default(),
            strays: Vec::new(),
        };
        machine.set_strays_aside(&mut start)?;
        for doomed in &start.found.doomed {
            machine.purge(doomed)?;
        }
        start.opened = machine.follow(now)?;
        Ok((machine, start))
    }

    /// Waits for the metadata log.
    ///
    /// # Panics
    /// If it waits for more than the disk.
    pub fn settle<T>(&self, future: impl Future<Output = T>) -> T {
        settle(&self.runtime, future)
    }

    fn set_strays_aside(&mut self, start: &mut Start) -> Result<(), Trouble> {
        let image = self.metadata.image();
        for name in &start.found.partitions {
            if *name == metadata_name() || self.belongs(&image, name) {
                continue;
            }
            let unique = self.unique();
            full_is_fine(self.data.quarantine(name, unique))?;
            start.strays.push(name.clone());
        }
        Ok(())
    }

    fn belongs(&self, image: &Image, name: &PartitionName) -> bool {
        let Some(topic) = image.topic(&name.topic) else {
            return false;
        };
        let id = self.data.topic_id(name).ok().flatten();
        topic.partition(name.partition).is_some() && id.is_none_or(|id| id == topic.id)
    }

    /// Makes the partitions follow the metadata.
    ///
    /// # Errors
    /// If the disk has failed.
    pub fn follow(&mut self, now: Timestamp) -> Result<Opened, Trouble> {
        let mut outcome = Opened::default();
        let image = self.metadata.image();
        let gone: Vec<PartitionName> = self
            .served
            .iter()
            .filter(|(_, served)| image.topic_by_id(served.topic).is_none())
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.delete(&name)?;
        }
        for topic in image.topics().filter(|topic| topic.version > self.followed) {
            for (partition, state) in topic.partitions() {
                let name = PartitionName {
                    topic: topic.name.to_string(),
                    partition,
                };
                if let Some(served) = self.served.get_mut(&name) {
                    served
                        .log
                        .set_config(log_config(&topic.name, &topic.configs));
                    continue;
                }
                let opened = Log::open(
                    Arc::clone(self.data.file_system()),
                    &self.data.partition_path(&name),
                    topic.id,
                    log_config(&topic.name, &topic.configs),
                    hint(&self.checkpoint, &name, topic.id, self.shutdown),
                    now,
                );
                match opened.map_err(Trouble::from) {
                    Ok((log, report)) => {
                        outcome.reports.push((name.clone(), report));
                        let epoch = LeaderEpoch(state.leader_epoch.0 * EPOCHS_PER_START);
                        let topic = topic.id;
                        self.served.insert(name, Served { log, topic, epoch });
                    }
                    Err(Trouble::Dead(reason)) => return Err(self.fail(reason)),
                    Err(trouble) => outcome.refused.push((name, trouble)),
                }
            }
        }
        self.followed = image.version();
        Ok(outcome)
    }

    fn delete(&mut self, name: &PartitionName) -> Result<(), Trouble> {
        self.served.remove(name);
        self.checkpoint.remove(name);
        let unique = self.unique();
        match self.data.retire(name, unique) {
            Ok(path) => self.purge(&path),
            // Nothing was ever appended to it.
            Err(StorageError::Fs(error)) if error.is_not_found() => Ok(()),
            Err(error) => full_is_fine(Err::<(), _>(error)),
        }
    }

    fn purge(&self, path: &Path) -> Result<(), Trouble> {
        full_is_fine(self.data.purge(path))
    }

    fn unique(&mut self) -> [u8; 16] {
        self.set_aside += 1;
        let unique = (u128::from(self.set_aside) << 64) | self.epoch.0.unsigned_abs() as u128;
        unique.to_be_bytes()
    }

    /// Takes the data directory offline, as after any failure but a full disk.
    pub fn fail(&self, reason: String) -> Trouble {
        self.data.fail(&reason);
        Trouble::Dead(reason)
    }

    /// Remembers how far a partition has come, for the next checkpoint.
    pub fn remember(&mut self, name: &PartitionName, recovery_point: Offset) {
        let Some(served) = self.served.get(name) else {
            return;
        };
        let offsets = CheckpointedOffsets {
            recovery_point,
            log_start: served.log.start(),
            high_watermark: served.log.durable(),
        };
        self.checkpoint.insert(name.clone(), served.topic, offsets);
    }

    /// Writes down what makes the next start quick, of every log and of the metadata.
    ///
    /// # Errors
    /// [`Trouble`]. If the disk is full, the checkpoint before stands.
    pub fn write_checkpoints(&mut self, now: Timestamp) -> Result<(), Trouble> {
        let names: Vec<PartitionName> = self.served.keys().cloned().collect();
        for name in names {
            let job = self
                .served
                .get_mut(&name)
                .and_then(|served| served.log.checkpoint_job(now));
            if let Some(job) = job {
                let recovery_point = job.recovery_point();
                full_is_fine(job.run())?;
                self.remember(&name, recovery_point);
            }
        }
        if let Some(job) = self.metadata.checkpoint_job() {
            let recovery_point = job.recovery_point();
            full_is_fine(job.run())?;
            self.remember_metadata(recovery_point);
        }
        Ok(self.data.write_checkpoint(&self.checkpoint)?)
    }

    fn remember_metadata(&mut self, recovery_point: Offset) {
        let offsets = CheckpointedOffsets {
            recovery_point,
            log_start: Offset::ZERO,
            high_watermark: recovery_point,
        };
        self.checkpoint
            .insert(metadata_name(), METADATA_TOPIC_ID, offsets);
    }

    /// Stops in order; `closed` hears of every log that was closed, with its end.
    ///
    /// # Errors
    /// [`Trouble`]; there is no clean mark then.
    pub fn stop(
        mut self,
        now: Timestamp,
        mut closed: impl FnMut(&PartitionName, Offset),
    ) -> Result<(), Trouble> {
        for (name, served) in std::mem::take(&mut self.served) {
            let (log_start, topic) = (served.log.start(), served.topic);
            let recovery_point = served.log.close(now)?;
            closed(&name, recovery_point);
            let offsets = CheckpointedOffsets {
                recovery_point,
                log_start,
                high_watermark: recovery_point,
            };
            self.checkpoint.insert(name, topic, offsets);
        }
        let recovery_point = self.settle(self.metadata.close())?;
        self.remember_metadata(recovery_point);
        Ok(self.data.close_clean(self.epoch, &self.checkpoint)?)
    }
}

fn open_metadata(
    data: &DataDirectory,
    hint: RecoveryHint,
    founding: Founding,
) -> Result<MetadataLog, Trouble> {
    let identity = *data.identity();
    let options = MetadataOptions {
        file_system: Arc::clone(data.file_system()),
        directory: data.path().join(METADATA_DIRECTORY),
        hint,
        raft_id: identity.raft_id,
        membership: Membership::of(
            identity.cluster_id,
            vec![Voter {
                raft_id: identity.raft_id.0,
                broker: BROKER,
            }],
        ),
        founding,
        defaults: Defaults::default(),
        flushing: Flushing::Inline,
        snapshots: SnapshotLimits {
            entries: SNAPSHOT_ENTRIES,
            bytes: u64::MAX,
        },
    };
    let opened = MetadataLog::open(options);
    opened
        .map(|(metadata, _)| metadata)
        .map_err(|error| match error {
            MetadataError::Storage(error) => error.into(),
            error => Trouble::Refused(error.to_string()),
        })
}

fn hint(
    checkpoint: &Checkpoint,
    name: &PartitionName,
    topic: TopicId,
    shutdown: Shutdown,
) -> RecoveryHint {
    let offsets = checkpoint.find(name, topic).unwrap_or_default();
    RecoveryHint {
        recovery_point: offsets.recovery_point,
        log_start: offsets.log_start,
        shutdown,
    }
}

/// What only wanted room is done another time.
///
/// # Errors
/// Any other trouble.
pub fn full_is_fine<T>(result: Result<T, StorageError>) -> Result<(), Trouble> {
    match result.map_err(Trouble::from) {
        Ok(_) | Err(Trouble::Full(_)) => Ok(()),
        Err(trouble) => Err(trouble),
    }
}
