//! The metadata log of this broker: the driver around `strandline_core::metadata`.
//!
//! *Patterns: consistent core, state watch.* A quorum of one for now: the broker opens
//! `__cluster_metadata-0`, replays it into an [`Image`], and from then on proposes changes to
//! itself. A reply is given only once what it tells is durable and published.
//!
//! **Never** decides: that is [`Controller::decide`]'s.
//!
//! [`Controller::decide`]: strandline_core::metadata::Controller::decide

mod batches;
mod error;
mod queue;
mod replay;

use std::{fmt, sync::Arc};

use strandline_core::metadata::{Command, Controller, Image, ProducerIds, Registration, Reply};
use strandline_protocol::{
    BrokerEpoch, BrokerId, DirectoryId, ErrorCode, Offset,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, CreatePartitionsRequest,
        CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
        DeleteTopicsResponse, Failure, InitProducerIdRequest, InitProducerIdResponse,
    },
};
use strandline_storage::{
    StorageError,
    log::{CheckpointJob, RecoveryReport},
};
use tokio::sync::watch;

pub use error::MetadataError;
pub use replay::{Founding, METADATA_DIRECTORY, METADATA_TOPIC_ID, MetadataOptions};

use queue::Queue;

/// Where the log is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushing {
    /// By whoever proposes, before the proposal returns: for simulations, which have one thread.
    Inline,
    /// On tokio's blocking threads, in groups.
    Blocking,
}

/// The metadata log. Clones are handles of the same one.
#[derive(Clone)]
pub struct MetadataLog {
    queue: Arc<Queue>,
    /// Held while a block is being reserved, so that many producers that come at once share it.
    producer_ids: Arc<tokio::sync::Mutex<ProducerIds>>,
}

impl fmt::Debug for MetadataLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataLog")
            .field("version", &self.image().version())
            .finish_non_exhaustive()
    }
}

impl MetadataLog {
    /// Opens the log, founds the cluster if it is empty, and replays it. Waits for the disk.
    ///
    /// # Errors
    /// [`MetadataError`] names the file, the offset and the remedy; the broker must not start then.
    pub fn open(options: MetadataOptions) -> Result<(Self, RecoveryReport), MetadataError> {
        let opened = replay::open(&options)?;
        let report = opened.report.clone();
        let controller = Controller::new(options.defaults);
        let metadata = Self {
            queue: Arc::new(Queue::new(opened, controller, options.flushing)),
            producer_ids: Arc::default(),
        };
        Ok((metadata, report))
    }

    /// What is known and durable, as of now.
    #[must_use]
    pub fn image(&self) -> Arc<Image> {
        self.queue.image()
    }

    /// Tells of every new image, or of the newest of several.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Image>> {
        self.queue.watch()
    }

    /// Tells why the log has failed, once it has. It stays so until a restart; the data directory
    /// that it lies in must go offline.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.queue.failure()
    }

    /// Nothing more is placed in a data directory that has failed.
    pub fn directory_failed(&self, directory: DirectoryId) {
        self.queue.directory_failed(directory);
    }

    /// Proposes a change. The reply comes once the change is durable and in [`MetadataLog::image`].
    ///
    /// Cancel safe in that nothing breaks; but the change may happen all the same.
    ///
    /// # Errors
    /// The [`Failure`] of the whole. Failures of its parts are in the reply.
    pub async fn propose(&self, command: Command) -> Result<Reply, Failure> {
        self.queue.submit(&command).await.unwrap_or_else(|_| {
            Err(Failure::new(
                ErrorCode::UNKNOWN_SERVER_ERROR,
                "the broker stopped while it made the change: look whether it is there",
            ))
        })
    }

    /// Makes this start of the broker known, and returns its epoch. Every partition that it leads
    /// has a new leader epoch afterwards.
    ///
    /// # Errors
    /// As [`MetadataLog::propose`].
    pub async fn register(&self, registration: Registration) -> Result<BrokerEpoch, Failure> {
        let broker = registration.broker;
        self.propose(Command::RegisterBroker(registration)).await?;
        let image = self.image();
        image
            .broker(broker)
            .map_or_else(|| Err(unexpected()), |registered| Ok(registered.epoch))
    }

    /// Creates topics.
    ///
    /// # Errors
    /// As [`MetadataLog::propose`].
    pub async fn create_topics(
        &self,
        request: CreateTopicsRequest,
    ) -> Result<CreateTopicsResponse, Failure> {
        match self.propose(Command::CreateTopics(request)).await? {
            Reply::CreateTopics(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }

    /// Deletes topics.
    ///
    /// # Errors
    /// As [`MetadataLog::propose`].
    pub async fn delete_topics(
        &self,
        request: DeleteTopicsRequest,
    ) -> Result<DeleteTopicsResponse, Failure> {
        match self.propose(Command::DeleteTopics(request)).await? {
            Reply::DeleteTopics(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }

    /// Adds partitions to topics.
    ///
    /// # Errors
    /// As [`MetadataLog::propose`].
    pub async fn create_partitions(
        &self,
        request: CreatePartitionsRequest,
    ) -> Result<CreatePartitionsResponse, Failure> {
        match self.propose(Command::CreatePartitions(request)).await? {
            Reply::CreatePartitions(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }

    /// Changes the configuration of a topic.
    ///
    /// # Errors
    /// As [`MetadataLog::propose`].
    pub async fn alter_configs(
        &self,
        request: AlterConfigsRequest,
    ) -> Result<AlterConfigsResponse, Failure> {
        match self.propose(Command::AlterConfigs(request)).await? {
            Reply::AlterConfigs(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }

    /// Gives a producer its identity, from the block that `broker` has reserved or from a new one.
    ///
    /// Cancel safe: an identity that nobody hears of is lost, never used twice.
    ///
    /// # Errors
    /// As [`MetadataLog::propose`].
    pub async fn init_producer_id(
        &self,
        broker: BrokerId,
        request: &InitProducerIdRequest,
    ) -> Result<InitProducerIdResponse, Failure> {
        let mut ids = self.producer_ids.lock().await;
        loop {
            let reserved_before = self.image().next_producer_id();
            if let Some(response) = ids.answer(request, reserved_before) {
                return Ok(response);
            }
            match self.propose(Command::ReserveProducerIds { broker }).await? {
                Reply::ProducerIds(block) => ids.refill(block),
                _ => return Err(unexpected()),
            }
        }
    }

    /// The job that makes the next start quick, to be run at most a second after new changes; its
    /// outcome is the recovery point for the data directory's checkpoint.
    #[must_use = "nothing is written until it runs"]
    pub fn checkpoint_job(&self) -> Option<CheckpointJob> {
        self.queue.checkpoint_job()
    }

    /// Below it everything was synced; none once the log is closed.
    #[must_use]
    pub fn recovery_point(&self) -> Option<Offset> {
        self.queue.recovery_point()
    }

    /// Makes everything durable and gives the log up; later proposals are refused. Returns the
    /// recovery point.
    ///
    /// Not cancel safe: without its end, the shutdown was not a clean one.
    ///
    /// # Errors
    /// If the disk fails: the data directory was not closed cleanly then.
    pub async fn close(&self) -> Result<Offset, StorageError> {
        self.queue.close().await
    }
}

/// The controller answers every command with its own reply; another one is a bug of ours.
fn unexpected() -> Failure {
    Failure::new(
        ErrorCode::UNKNOWN_SERVER_ERROR,
        "the controller gave an answer to another question: please report this",
    )
}
