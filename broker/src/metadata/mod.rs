//! The metadata log of this broker: the driver around `strandline_core::metadata`.
//!
//! *Patterns: consistent core, state watch.* The broker opens `__cluster_metadata-0`, replays it
//! into an [`Image`], and joins the Raft group that keeps it (`quorum`), which elects the
//! controller. A reply is given only once what it tells is committed and published.
//!
//! **Never** decides: that is [`Controller::decide`]'s.
//!
//! [`Controller::decide`]: strandline_core::metadata::Controller::decide

mod batches;
mod error;
mod queue;
mod quorum;
mod replay;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use openraft::{RaftNetworkFactory, network::NetSnapshot};
use parking_lot::Mutex;
use strandline_core::metadata::{Command, Controller, Image, ProducerIds, Registration, Reply};
use strandline_protocol::{
    BrokerEpoch, BrokerId, DirectoryId, ErrorCode, Offset,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, CreatePartitionsRequest,
        CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
        DeleteTopicsResponse, Failure, InitProducerIdRequest, InitProducerIdResponse,
    },
};
use strandline_storage::{StorageError, log::RecoveryReport};
use tokio::sync::{mpsc, oneshot, watch};

pub use error::MetadataError;
pub use quorum::MetadataCheckpoint;
pub use replay::{Founding, METADATA_DIRECTORY, METADATA_TOPIC_ID, MetadataOptions};

use queue::{Queue, Request, shutting_down};
use quorum::{
    Failing, Machine, NoPeers, NoSnapshot, Parts, Public, Raft, Store, Types, stored_membership,
};
use replay::Opened;

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
    queue: mpsc::Sender<Request>,
    controller: Arc<Mutex<Controller>>,
    public: Public,
    store: Store,
    failing: Failing,
    /// Held while a block is being reserved, so that many producers that come at once share it.
    producer_ids: Arc<tokio::sync::Mutex<ProducerIds>>,
}

/// A log that was opened, and the member that keeps it.
struct Joined {
    metadata: MetadataLog,
    report: RecoveryReport,
    /// Empty until the member has started.
    #[cfg(test)]
    member: Arc<OnceLock<Raft>>,
}

impl fmt::Debug for MetadataLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataLog")
            .field("version", &self.image().version())
            .finish_non_exhaustive()
    }
}

impl MetadataLog {
    /// Opens the log, founds the cluster if it is empty, replays it, and starts this member of the
    /// quorum in the background. Waits for the disk. To be called within a tokio runtime; what is
    /// proposed waits until the member leads.
    ///
    /// # Errors
    /// [`MetadataError`] names the file, the offset and the remedy; the broker must not start then.
    pub fn open(options: MetadataOptions) -> Result<(Self, RecoveryReport), MetadataError> {
        let joined = Self::open_among(options, NoPeers)?;
        Ok((joined.metadata, joined.report))
    }

    /// The same, with a way to the other members.
    fn open_among<N>(options: MetadataOptions, network: N) -> Result<Joined, MetadataError>
    where
        N: RaftNetworkFactory<Types>,
        N::Network: NetSnapshot<Types, SnapshotData = NoSnapshot>,
    {
        let opened = replay::open(&options)?;
        let report = opened.report.clone();
        let failing = Failing::new();
        let Opened {
            log,
            vote,
            company,
            image,
            membership,
            ..
        } = opened;
        let parts = Parts {
            files: Arc::clone(&options.file_system),
            directory: options.data_directory().to_path_buf(),
            log,
            vote,
            cluster: options.membership.cluster,
            flushing: options.flushing,
        };
        let store = Store::new(parts, failing.clone());
        let public = Public::new(image.clone(), failing.clone());
        let membership = stored_membership(membership.as_ref());
        let machine = Machine::new(public.clone(), store.clone(), image, membership);
        let controller = Arc::new(Mutex::new(Controller::new(options.defaults)));
        let (queue, requests) = queue::channel();
        let member: Arc<OnceLock<Raft>> = Arc::default();
        let serving = Queue {
            raft_id: options.raft_id,
            company,
            controller: Arc::clone(&controller),
            public: public.clone(),
            store: store.clone(),
            failing: failing.clone(),
            requests,
            member: Arc::clone(&member),
        };
        tokio::spawn(serving.run(machine, network));
        let metadata = Self {
            queue,
            controller,
            public,
            store,
            failing,
            producer_ids: Arc::default(),
        };
        Ok(Joined {
            metadata,
            report,
            #[cfg(test)]
            member,
        })
    }

    /// What is known and committed, as of now.
    #[must_use]
    pub fn image(&self) -> Arc<Image> {
        self.public.image()
    }

    /// Tells of every new image, or of the newest of several.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Image>> {
        self.public.watch()
    }

    /// Tells why the log has failed, once it has. It stays so until a restart; the data directory
    /// that it lies in must go offline.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failing.watch()
    }

    /// Nothing more is placed in a data directory that has failed.
    pub fn directory_failed(&self, directory: DirectoryId) {
        self.controller.lock().directory_failed(directory);
    }

    /// Proposes a change. The reply comes once the change is committed and in
    /// [`MetadataLog::image`].
    ///
    /// Cancel safe in that nothing breaks; but the change may happen all the same.
    ///
    /// # Errors
    /// The [`Failure`] of the whole. Failures of its parts are in the reply.
    pub async fn propose(&self, command: Command) -> Result<Reply, Failure> {
        let (to, from) = oneshot::channel();
        let request = Request::Propose(command, to);
        if self.queue.send(request).await.is_err() {
            return Err(shutting_down());
        }
        from.await.unwrap_or_else(|_| {
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
    /// outcome is the recovery point for the data directory's checkpoint, which never lies above
    /// what is committed.
    #[must_use = "nothing is written until it runs"]
    pub fn checkpoint_job(&self) -> Option<MetadataCheckpoint> {
        let settled = self.image().version().plus(1);
        self.store.checkpoint_job(settled)
    }

    /// Below it everything was synced; none once the log is closed.
    #[must_use]
    pub fn recovery_point(&self) -> Option<Offset> {
        self.store.recovery_point()
    }

    /// Makes everything durable and gives the log up; later proposals are refused. Returns the
    /// recovery point.
    ///
    /// Not cancel safe: without its end, the shutdown was not a clean one.
    ///
    /// # Errors
    /// If the disk fails: the data directory was not closed cleanly then.
    pub async fn close(&self) -> Result<Offset, StorageError> {
        let settled = || Ok(self.image().version().plus(1));
        let (to, from) = oneshot::channel();
        if self.queue.send(Request::Close(to)).await.is_err() {
            return settled();
        }
        from.await.unwrap_or_else(|_| settled())
    }
}

/// The controller answers every command with its own reply; another one is a bug of ours.
fn unexpected() -> Failure {
    Failure::new(
        ErrorCode::UNKNOWN_SERVER_ERROR,
        "the controller gave an answer to another question: please report this",
    )
}
