//! The metadata log of this broker: the driver around `strandline_core::metadata`.
//!
//! *Patterns: consistent core, state watch.* The broker opens `__cluster_metadata-0`, replays it
//! into an [`Image`], and joins the Raft group that keeps it (`quorum`), which elects the
//! controller. A reply is given only once what it tells is committed and published.
//!
//! **Never** decides: that is [`Controller::decide`]'s.
//!
//! [`Controller::decide`]: strandline_core::metadata::Controller::decide

mod alive;
mod base;
mod batches;
mod describe;
mod error;
mod forward;
mod full_disks;
mod lessor;
mod losses;
mod member;
mod own_log;
mod peers;
mod queue;
mod quorum;
mod registration;
mod replay;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use openraft::{RaftNetworkFactory, network::NetSnapshot};
use parking_lot::Mutex;
use strandline_core::metadata::{Command, Controller, Image, ProducerIds, Reply};
use strandline_protocol::{
    BrokerId, DirectoryId, ErrorCode, Offset,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, CreatePartitionsRequest,
        CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
        DeleteTopicsResponse, Failure, InitProducerIdRequest, InitProducerIdResponse,
    },
};
use strandline_storage::{StorageError, directory::RaftId, log::RecoveryReport};
use tokio::sync::{mpsc, oneshot, watch};

pub use error::MetadataError;
pub use forward::{SOFTWARE, version_payload};
pub use member::ControllerAt;
pub use own_log::OwnLog;
pub use peers::{Identity as PeerIdentity, PeerError, Peers};
pub use quorum::{MetadataCheckpoint, SnapshotLimits};
#[cfg(strandline_sim)]
pub use quorum::{Observed, Observer, members_started};
pub use registration::PassOn;
pub use replay::{Founding, METADATA_DIRECTORY, METADATA_TOPIC_ID, MetadataOptions};

use alive::Own;
use lessor::Lessor;
use queue::{Queue, Request, shutting_down};
use quorum::{
    Company, Failing, Keeper, Machine, NoPeers, Parts, PeerNetwork, Public, Raft, Receiver,
    SnapshotFile, Snapshots, SnapshotsParts, Store, Types, keep_members, stored_membership,
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

/// Where the member of the quorum is found once it has started.
type Member = Arc<OnceLock<Raft>>;

/// The metadata log. Clones are handles of the same one.
#[derive(Clone)]
pub struct MetadataLog {
    queue: mpsc::Sender<Request>,
    controller: Arc<Mutex<Controller>>,
    public: Public,
    store: Store,
    failing: Failing,
    raft_id: RaftId,
    company: Company,
    /// Empty until the member has started.
    member: Member,
    /// None where there can be nobody else.
    peers: Option<Peers>,
    lessor: Arc<Lessor>,
    own: Arc<Own>,
    receiver: Arc<Receiver>,
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
    /// Opens the log, founds the cluster if it is empty, replays it, and starts this member of the
    /// quorum in the background. Waits for the disk. To be called within a tokio runtime; what is
    /// proposed waits until the member leads.
    ///
    /// # Errors
    /// [`MetadataError`] names the file, the offset and the remedy; the broker must not start then.
    pub fn open(options: MetadataOptions) -> Result<(Self, RecoveryReport), MetadataError> {
        Self::open_over(options, NoPeers, None)
    }

    /// The same for a broker that has peers, or may come to have some.
    ///
    /// # Errors
    /// As [`MetadataLog::open`].
    pub fn open_among(
        options: MetadataOptions,
        peers: Peers,
    ) -> Result<(Self, RecoveryReport), MetadataError> {
        let network = PeerNetwork {
            peers: peers.clone(),
        };
        Self::open_over(options, network, Some(peers))
    }

    /// The same over any network.
    fn open_over<N>(
        options: MetadataOptions,
        network: N,
        peers: Option<Peers>,
    ) -> Result<(Self, RecoveryReport), MetadataError>
    where
        N: RaftNetworkFactory<Types>,
        N::Network: NetSnapshot<Types, SnapshotData = SnapshotFile>,
    {
        let opened = replay::open(&options)?;
        let report = opened.report.clone();
        if let Some(peers) = &peers {
            peers.follow(&opened.written);
        }
        let failing = Failing::new();
        let Opened {
            log,
            vote,
            company,
            image,
            kept,
            purged,
            appended,
            membership,
            ..
        } = opened;
        let snapshots = Snapshots::new(SnapshotsParts {
            files: Arc::clone(&options.file_system),
            directory: options.directory.clone(),
            cluster: options.membership.cluster,
            flushing: options.flushing,
            kept,
        });
        snapshots.trim(log.start()).map_err(StorageError::from)?;
        let parts = Parts {
            files: Arc::clone(&options.file_system),
            directory: options.data_directory().to_path_buf(),
            log,
            vote,
            cluster: options.membership.cluster,
            flushing: options.flushing,
            company,
            snapshots: snapshots.clone(),
            purged,
            appended,
        };
        let store = Store::new(parts, failing.clone());
        let public = Public::new(image.clone(), failing.clone());
        let membership = stored_membership(membership.as_ref());
        let machine = Machine::new(
            public.clone(),
            store.clone(),
            snapshots.clone(),
            image,
            membership,
        );
        let (member, own) = (Member::default(), Own::new());
        #[cfg(strandline_sim)]
        quorum::started(
            (options.broker(), options.raft_id),
            &public,
            &store,
            &member,
            &own,
        );
        let controller = Arc::new(Mutex::new(Controller::new(options.defaults)));
        let (queue, requests) = queue::channel();
        let lessor = Lessor::new();
        let serving = Queue {
            raft_id: options.raft_id,
            company,
            controller: Arc::clone(&controller),
            public: public.clone(),
            store: store.clone(),
            failing: failing.clone(),
            requests,
            lessor: peers.is_some().then(|| Arc::clone(&lessor)),
            member: Arc::clone(&member),
            keeper: Keeper {
                limits: options.snapshots,
                public: public.clone(),
                store: store.clone(),
                snapshots: snapshots.clone(),
            },
        };
        let receiver = Receiver::new(
            options.raft_id,
            store.clone(),
            snapshots,
            public.clone(),
            failing.clone(),
        );
        tokio::spawn(serving.run(machine, network));
        let metadata = Self {
            queue,
            controller,
            public,
            store,
            failing,
            raft_id: options.raft_id,
            company,
            member,
            peers,
            lessor,
            own,
            receiver: Arc::new(receiver),
            producer_ids: Arc::default(),
        };
        Ok((metadata, report))
    }

    /// Whether this broker needs others to know what is committed.
    #[must_use]
    pub fn needs_others(&self) -> bool {
        self.company == Company::Others
    }

    /// The other brokers; none where there can be none.
    #[must_use]
    pub const fn peers(&self) -> Option<&Peers> {
        self.peers.as_ref()
    }

    /// Makes voters of the brokers that register, while this one is the controller. Runs for as
    /// long as the quorum does.
    pub async fn keep_members(self) {
        let raft = self.member().await;
        keep_members(raft, self.store, self.public, self.lessor).await;
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

    /// A data directory of this broker has failed: nothing more is placed in it.
    pub fn directory_failed(&self, directory: DirectoryId) {
        self.own.directory_failed(directory);
        self.controller.lock().directory_failed(directory);
    }

    /// Proposes a change to this broker's own controller. The reply comes once the change is
    /// committed and in [`MetadataLog::image`].
    ///
    /// Cancel safe in that nothing breaks; but the change may happen all the same.
    ///
    /// # Errors
    /// The [`Failure`] of the whole: `NOT_CONTROLLER` if another broker decides. Failures of its
    /// parts are in the reply.
    pub async fn propose_here(&self, command: Command) -> Result<Reply, Failure> {
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
            let epoch = self.epoch_of(broker);
            match self
                .propose(Command::ReserveProducerIds { broker, epoch })
                .await?
            {
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
