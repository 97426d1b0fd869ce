//! Who may change the metadata: commands in, records out.
//!
//! *Pattern: singular update queue.* The driver asks one decision after the other, each on the
//! image that the one before has left; nothing is decided on half of what was decided.

mod register;
mod topics;

use std::collections::BTreeSet;

use strandline_protocol::{
    BrokerId, DirectoryId, ErrorCode, ProducerId,
    limits::ENTRIES_PER_REQUEST_MAX,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, CreatePartitionsRequest,
        CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
        DeleteTopicsResponse, Failure,
    },
};

use super::{
    image::Image,
    limits::PRODUCER_ID_BLOCK,
    producer_ids::ProducerIdBlock,
    record::{METADATA_VERSION, Record, Registration},
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
    },
    /// A broker has started.
    RegisterBroker(Registration),
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
    offline: BTreeSet<DirectoryId>,
}

impl Controller {
    /// A controller with what new topics get by default.
    #[must_use]
    pub const fn new(defaults: Defaults) -> Self {
        Self {
            defaults,
            offline: BTreeSet::new(),
        }
    }

    /// What new topics get by default.
    #[must_use]
    pub const fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// A data directory has failed: nothing more is placed in it until its broker starts anew.
    pub fn directory_failed(&mut self, directory: DirectoryId) {
        self.offline.insert(directory);
    }

    /// Decides `command` on `image`, and changes nothing. Where a request lists entries, each of
    /// them is decided on its own and answered with its own failure.
    ///
    /// # Errors
    /// A [`Failure`] of the whole: nothing is written.
    pub fn decide(
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
                Ok(topics::alter_configs(image, request))
            }
            Command::ReserveProducerIds { broker } => reserve_producer_ids(image, *broker),
            Command::RegisterBroker(registration) => register::register(image, registration),
        }
    }
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

/// The records that found a cluster, behind its membership.
pub(super) fn founding_records(image: &Image) -> Option<Record> {
    (image.metadata_version() == 0).then_some(Record::MetadataVersionSet {
        version: METADATA_VERSION,
    })
}
