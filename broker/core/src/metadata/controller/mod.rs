//! Who may change the metadata: commands in, records out.
//!
//! *Pattern: singular update queue.* The driver asks one decision after the other, each on the
//! image that the one before has left; nothing is decided on half of what was decided.

mod brokers;
mod disks;
mod draft;
mod elections;
mod electorate;
mod isr;
mod leaders;
mod reassign;
mod register;
mod topics;

use std::collections::{BTreeMap, BTreeSet};

use strandline_protocol::{
    BrokerEpoch, BrokerId, DirectoryId, ErrorCode, ProducerId, TopicPartition,
    limits::ENTRIES_PER_REQUEST_MAX,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, AlterPartitionsRequest, AlterPartitionsResponse,
        ChangeVotersRequest, CreatePartitionsRequest, CreatePartitionsResponse,
        CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
        DrainBrokerRequest, DrainBrokerResponse, ElectLeadersRequest, ElectLeadersResponse,
        Failure, ReassignPartitionsRequest, ReassignPartitionsResponse,
    },
};

pub use self::brokers::{Stopping, due_at_heartbeat, may_stop};
use self::{disks::Disks, electorate::Electorate};
use super::{
    image::Image,
    limits::PRODUCER_ID_BLOCK,
    producer_ids::ProducerIdBlock,
    quorum_plan,
    record::{Record, Registration},
};
use crate::topic_config::TopicConfig;

/// What a new topic gets that does not say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// How many partitions.
    pub partitions: i32,
    /// The configuration in force where a topic sets nothing.
    pub config: TopicConfig,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            partitions: 1,
            config: TopicConfig::default(),
        }
    }
}

/// Sixteen random bytes at each call.
pub type Random<'a> = &'a mut dyn FnMut() -> [u8; 16];

/// What somebody wants changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Topics shall be.
    CreateTopics(CreateTopicsRequest),
    /// Topics shall no longer be.
    DeleteTopics(DeleteTopicsRequest),
    /// Topics shall have more partitions.
    CreatePartitions(CreatePartitionsRequest),
    /// A topic shall be configured differently.
    AlterConfigs(AlterConfigsRequest),
    /// A broker needs producer ids to hand out.
    ReserveProducerIds {
        /// Which broker.
        broker: BrokerId,
        /// Its epoch.
        epoch: BrokerEpoch,
    },
    /// A broker has started. One that is alone in its cluster serves at once; any other one is
    /// fenced until [`Command::UnfenceBroker`], which is due once it has applied its registration.
    RegisterBroker(Registration),
    /// The lease of a broker is over.
    FenceBroker {
        /// Which broker.
        broker: BrokerId,
        /// Its epoch.
        epoch: BrokerEpoch,
    },
    /// A broker that is fenced is alive and has caught up, see [`due_at_heartbeat`].
    UnfenceBroker {
        /// Which broker.
        broker: BrokerId,
        /// Its epoch.
        epoch: BrokerEpoch,
    },
    /// A broker wants to stop; [`may_stop`] tells when it may.
    StopBroker {
        /// Which broker.
        broker: BrokerId,
        /// Its epoch.
        epoch: BrokerEpoch,
    },
    /// A broker is gone for good.
    UnregisterBroker {
        /// Which broker.
        broker: BrokerId,
    },
    /// Elections are finished: what nobody leads gets a leader where it can, as the controller
    /// before may have left that undone, and what is led on full disks or by drained brokers is led
    /// elsewhere.
    FinishElections,
    /// Partitions that others lead shall be led by their first replicas, where these can; some at
    /// a time.
    BalanceLeaders,
    /// Partitions shall have another leader.
    ElectLeaders(ElectLeadersRequest),
    /// A leader has seen who is in sync.
    AlterPartitions(AlterPartitionsRequest),
    /// Partitions shall lie elsewhere.
    ReassignPartitions(ReassignPartitionsRequest),
    /// A broker shall lead nothing, or take part as any other.
    DrainBroker(DrainBrokerRequest),
    /// A broker cannot use or trust some of its copies.
    TakeOut {
        /// Which broker.
        broker: BrokerId,
        /// Its epoch.
        epoch: BrokerEpoch,
        /// Those of its directories that have failed.
        directories: BTreeSet<DirectoryId>,
        /// Those of its partitions that are damaged.
        partitions: BTreeSet<TopicPartition>,
    },
    /// Other brokers shall vote in the metadata quorum.
    ChangeVoters(ChangeVotersRequest),
}

/// What may be told once the records of the decision are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Command::CreateTopics`].
    CreateTopics(CreateTopicsResponse),
    /// To [`Command::DeleteTopics`].
    DeleteTopics(DeleteTopicsResponse),
    /// To [`Command::CreatePartitions`].
    CreatePartitions(CreatePartitionsResponse),
    /// To [`Command::AlterConfigs`].
    AlterConfigs(AlterConfigsResponse),
    /// To [`Command::ReserveProducerIds`].
    ProducerIds(ProducerIdBlock),
    /// To [`Command::RegisterBroker`]; the epoch is in the image.
    Registered,
    /// To [`Command::StopBroker`].
    Stopping(Stopping),
    /// To [`Command::ElectLeaders`].
    Elected(ElectLeadersResponse),
    /// To [`Command::AlterPartitions`].
    AlterPartitions(AlterPartitionsResponse),
    /// To [`Command::ReassignPartitions`].
    Reassigned(ReassignPartitionsResponse),
    /// To [`Command::DrainBroker`].
    Drained(DrainBrokerResponse),
    /// To [`Command::ChangeVoters`]: who shall vote. [`quorum_plan::next_step`] leads there.
    VotersWanted(Vec<BrokerId>),
    /// To any other command.
    Done,
}

/// What is to become durable, and what may be told once it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Applied in this order; packed into entries by [`super::Entry::pack`].
    pub records: Vec<Record>,
    /// The answer.
    pub reply: Reply,
}

/// The pure half of the controller.
#[derive(Clone, Debug, Default)]
pub struct Controller {
    defaults: Defaults,
    disks: Disks,
    /// The damaged copies of each broker that has told of some.
    damaged: BTreeMap<BrokerId, BTreeSet<TopicPartition>>,
}

impl Controller {
    /// A controller with what new topics get by default.
    #[must_use]
    pub fn new(defaults: Defaults) -> Self {
        Self {
            defaults,
            disks: Disks::default(),
            damaged: BTreeMap::new(),
        }
    }

    /// What new topics get by default.
    #[must_use]
    pub const fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// A data directory has failed: nothing more is placed in it until its broker starts anew.
    pub fn directory_failed(&mut self, directory: DirectoryId) {
        self.disks.fail(directory);
    }

    /// These data directories of a broker lie on a full disk, and no others: what it leads there,
    /// others lead that can, until there is space.
    pub fn directories_full(&mut self, broker: BrokerId, directories: BTreeSet<DirectoryId>) {
        self.disks.ran_full(broker, directories);
    }

    /// These copies of a broker are damaged, and no others: they come into sync with nobody.
    pub fn copies_damaged(&mut self, broker: BrokerId, copies: BTreeSet<TopicPartition>) {
        if copies.is_empty() {
            self.damaged.remove(&broker);
        } else {
            self.damaged.insert(broker, copies);
        }
    }

    /// A broker has started anew: its data directories can be used again, and its copies are looked
    /// at again.
    pub fn broker_started(&mut self, registration: &Registration) {
        self.damaged.remove(&registration.broker);
        self.disks
            .started(registration.broker, &registration.directories);
    }

    /// Decides `command` on `image`, and changes nothing. Where a request lists entries, each of
    /// them is decided on its own and answered with its own failure. `leased` are the brokers whose
    /// leases hold now, see [`crate::leases::Leases::held`].
    ///
    /// # Errors
    /// A [`Failure`] of the whole: nothing is written.
    pub fn decide(
        &self,
        image: &Image,
        command: &Command,
        leased: &BTreeSet<BrokerId>,
        random: Random<'_>,
    ) -> Result<Decision, Failure> {
        let decision = match command {
            Command::ReserveProducerIds { broker, epoch } => {
                brokers::acting(image, *broker, *epoch)?;
                reserve_producer_ids(image, *broker)
            }
            Command::RegisterBroker(registration) => {
                register::register(image, &self.disks, leased, registration)
            }
            Command::FenceBroker { broker, epoch } => {
                brokers::fence(image, &self.disks, *broker, *epoch)
            }
            Command::UnfenceBroker { broker, epoch } => {
                brokers::unfence(image, &self.disks, *broker, *epoch)
            }
            Command::StopBroker { broker, epoch } => {
                brokers::stop(image, &self.disks, *broker, *epoch)
            }
            Command::UnregisterBroker { broker } => brokers::unregister(image, leased, *broker),
            Command::ChangeVoters(request) => change_voters(image, request),
            Command::CreateTopics(_)
            | Command::DeleteTopics(_)
            | Command::CreatePartitions(_)
            | Command::AlterConfigs(_) => self.decide_topics(image, command, random),
            of_partitions => self.decide_partitions(image, of_partitions),
        }?;
        check_version(image, &decision.records)?;
        Ok(decision)
    }

    fn decide_partitions(&self, image: &Image, command: &Command) -> Result<Decision, Failure> {
        let disks = &self.disks;
        let quietly = |records| {
            let reply = Reply::Done;
            Ok(Decision { records, reply })
        };
        match command {
            Command::FinishElections => quietly(Electorate::of(image, disks).lead_everywhere()),
            Command::BalanceLeaders => quietly(Electorate::of(image, disks).balance(None)),
            Command::ElectLeaders(request) => {
                check_entries("partitions", request.partitions.len())?;
                Ok(leaders::elect(image, disks, request))
            }
            Command::AlterPartitions(request) => {
                check_entries("partitions", request.partitions.len())?;
                isr::alter_partitions(image, disks, &self.damaged, request)
            }
            Command::ReassignPartitions(request) => {
                check_entries("partitions", request.partitions.len())?;
                Ok(reassign::reassign(image, disks, request))
            }
            Command::DrainBroker(request) => leaders::drain(image, disks, request),
            Command::TakeOut {
                broker,
                epoch,
                directories,
                partitions,
            } => {
                brokers::acting(image, *broker, *epoch)?;
                let electorate = Electorate::of(image, disks);
                quietly(electorate.take_out(*broker, directories, partitions))
            }
            _ => Err(unknown_command()),
        }
    }

    fn decide_topics(
        &self,
        image: &Image,
        command: &Command,
        random: Random<'_>,
    ) -> Result<Decision, Failure> {
        match command {
            Command::CreateTopics(request) => {
                check_entries("topics", request.topics.len())?;
                Ok(self.create_topics(image, request, random))
            }
            Command::DeleteTopics(request) => {
                check_entries("topics", request.names.len())?;
                Ok(topics::delete(image, request))
            }
            Command::CreatePartitions(request) => {
                check_entries("topics", request.topics.len())?;
                Ok(self.create_partitions(image, request))
            }
            Command::AlterConfigs(request) => {
                check_entries("changes", request.changes.len())?;
                Ok(topics::alter_configs(image, &self.disks, request))
            }
            _ => Err(unknown_command()),
        }
    }
}

fn unknown_command() -> Failure {
    Failure::new(
        ErrorCode::UNKNOWN_SERVER_ERROR,
        "the controller does not know this command",
    )
}

fn check_entries(what: &str, count: usize) -> Result<(), Failure> {
    if count <= ENTRIES_PER_REQUEST_MAX {
        return Ok(());
    }
    Err(Failure::new(
        ErrorCode::INVALID_REQUEST,
        format!(
            "{count} {what} are too many for one request: send at most {ENTRIES_PER_REQUEST_MAX}"
        ),
    ))
}

/// Nothing is written that the metadata version of the log does not have yet.
fn check_version(image: &Image, records: &[Record]) -> Result<(), Failure> {
    let mut version = image.metadata_version().max(1);
    for record in records {
        if let Record::MetadataVersionSet { version: set } = record {
            version = *set;
        }
        if record.since() > version {
            return Err(Failure::new(
                ErrorCode::UNSUPPORTED_VERSION,
                format!(
                    "this needs metadata version {}, the cluster has version {version}: start \
                     every broker with a newer version of strandline first",
                    record.since()
                ),
            ));
        }
    }
    Ok(())
}

fn change_voters(image: &Image, request: &ChangeVotersRequest) -> Result<Decision, Failure> {
    let wanted = quorum_plan::check_change(image, request)?;
    let brokers = wanted.clone();
    Ok(Decision {
        records: vec![Record::VotersWanted { brokers }],
        reply: Reply::VotersWanted(wanted),
    })
}

fn reserve_producer_ids(image: &Image, broker: BrokerId) -> Result<Decision, Failure> {
    let first = image.next_producer_id();
    if first.0 > i64::MAX - i64::from(PRODUCER_ID_BLOCK) {
        return Err(Failure::new(
            ErrorCode::UNKNOWN_SERVER_ERROR,
            "every producer id of this cluster has been handed out",
        ));
    }
    Ok(Decision {
        records: vec![Record::ProducerIdsReserved {
            broker,
            first: ProducerId(first.0),
            count: PRODUCER_ID_BLOCK,
        }],
        reply: Reply::ProducerIds(ProducerIdBlock {
            first,
            count: PRODUCER_ID_BLOCK,
        }),
    })
}
