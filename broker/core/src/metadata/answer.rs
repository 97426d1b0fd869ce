//! An image, told page by page.
//!
//! What grows with the number of partitions is paged by a cursor. A cursor names where the next
//! page starts, not a state of the broker: pages of different images fit together, as each topic
//! and partition is told by the page that it falls into.

use std::sync::Arc;

use strandline_protocol::{
    ErrorCode, PartitionId, TopicId,
    limits::{ENTRIES_PER_REQUEST_MAX, PAGE_ENTRIES_MAX},
    messages::{
        BrokerMetadata, Failure, MetadataRequest, MetadataResponse, PartitionMetadata,
        TopicMetadata,
    },
};

use super::{
    image::{BrokerState, Image},
    topic::{Partition, Topic},
};
use crate::topic_config::TopicConfig;

/// Where a page starts: `<partition>:<topic id>:<name, or index in the request>`.
struct Cursor {
    partition: PartitionId,
    /// A topic created again under its name is told from its first partition on.
    topic: TopicId,
    /// The name of the topic in a listing of all, its index in a request that names them.
    at: String,
}

impl Cursor {
    fn read(text: &str) -> Option<Self> {
        let (partition, rest) = text.split_once(':')?;
        let (topic, at) = rest.split_once(':')?;
        Some(Self {
            partition: PartitionId(partition.parse().ok().filter(|number| *number >= 0)?),
            topic: topic.parse().ok()?,
            at: at.into(),
        })
    }

    fn write(&self) -> String {
        format!("{}:{}:{}", self.partition, self.topic, self.at)
    }
}

/// A page under construction. Every topic and every partition is an entry.
pub(super) struct Page {
    pub(super) topics: Vec<TopicMetadata>,
    room: usize,
}

impl Page {
    pub(super) const fn new() -> Self {
        Self {
            topics: Vec::new(),
            room: PAGE_ENTRIES_MAX,
        }
    }

    /// Tells `topic` from `first` on. Returns the partition with which the next page goes on, if
    /// this one is full; a topic's head is always followed by at least one of its partitions.
    pub(super) fn add(
        &mut self,
        topic: &Topic,
        first: PartitionId,
        defaults: &TopicConfig,
    ) -> Option<PartitionId> {
        if self.room < 2 {
            return Some(first);
        }
        let mut partitions = topic.partitions_from(first);
        let told: Vec<_> = partitions
            .by_ref()
            .take(self.room - 1)
            .map(|(id, partition)| tell_partition(id, partition))
            .collect();
        let next = partitions.next().map(|(id, _)| id);
        self.room -= 1 + told.len();
        self.topics.push(tell_topic(topic, told, defaults));
        next
    }

    /// Tells that there is no topic of that name. Returns whether there was room for it.
    pub(super) fn add_missing(&mut self, name: &str) -> Added {
        if self.room == 0 {
            return Added::NoRoom;
        }
        self.room -= 1;
        self.topics.push(TopicMetadata {
            name: name.into(),
            id: TopicId::default(),
            failure: unknown_topic(name),
            compression: String::new(),
            batch_bytes_max: 0,
            partition_count: 0,
            partitions: Vec::new(),
        });
        Added::Whole
    }
}

/// Whether an entry found room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    Whole,
    NoRoom,
}

/// The page that `request` asks for.
///
/// # Errors
/// `INVALID_CURSOR` if the cursor does not belong to such a request, `INVALID_REQUEST` if too many
/// topics are named.
pub fn metadata_page(
    image: &Image,
    defaults: &TopicConfig,
    request: &MetadataRequest,
) -> Result<MetadataResponse, Failure> {
    let cursor = request.cursor.as_deref().map(|text| {
        Cursor::read(text).ok_or_else(|| {
            Failure::new(
                ErrorCode::INVALID_CURSOR,
                "the cursor is not one of this API: start from the first page",
            )
        })
    });
    let cursor = cursor.transpose()?;
    let mut page = Page::new();
    let next = match &request.topics {
        None => page_of_all(image, defaults, cursor, &mut page),
        Some(names) => page_of_names(image, defaults, names, cursor, &mut page)?,
    };
    Ok(MetadataResponse {
        cluster_id: image.cluster(),
        version: image.version(),
        // No fact of the log: whoever answers knows.
        controller: None,
        brokers: tell_brokers(image),
        topics: page.topics,
        next_cursor: next.map(|cursor| cursor.write()),
    })
}

fn page_of_all(
    image: &Image,
    defaults: &TopicConfig,
    cursor: Option<Cursor>,
    page: &mut Page,
) -> Option<Cursor> {
    let start = cursor.as_ref().map_or("", |cursor| cursor.at.as_str());
    for topic in image.topics_from(start) {
        let first = first_partition(topic, cursor.as_ref());
        if let Some(partition) = page.add(topic, first, defaults) {
            return Some(Cursor {
                partition,
                topic: topic.id,
                at: topic.name.as_ref().into(),
            });
        }
    }
    None
}

fn page_of_names(
    image: &Image,
    defaults: &TopicConfig,
    names: &[String],
    cursor: Option<Cursor>,
    page: &mut Page,
) -> Result<Option<Cursor>, Failure> {
    if names.len() > ENTRIES_PER_REQUEST_MAX {
        return Err(Failure::new(
            ErrorCode::INVALID_REQUEST,
            format!(
                "{} topics are too many for one request: send at most {ENTRIES_PER_REQUEST_MAX}",
                names.len()
            ),
        ));
    }
    let start = cursor.as_ref().map_or(Ok(0), |cursor| {
        let index = cursor.at.parse::<usize>().ok();
        index.filter(|index| *index < names.len()).ok_or_else(|| {
            Failure::new(
                ErrorCode::INVALID_CURSOR,
                "the cursor belongs to another list of topics: start from the first page",
            )
        })
    })?;
    for (index, name) in names.iter().enumerate().skip(start) {
        let (id, next) = match image.topic(name) {
            Some(topic) => {
                let first = first_partition(topic, cursor.as_ref());
                (topic.id, page.add(topic, first, defaults))
            }
            None => {
                let added = page.add_missing(name);
                let again = (added == Added::NoRoom).then_some(PartitionId(0));
                (TopicId::default(), again)
            }
        };
        if let Some(partition) = next {
            return Ok(Some(Cursor {
                partition,
                topic: id,
                at: index.to_string(),
            }));
        }
    }
    Ok(None)
}

/// Where `topic` is told from: behind what the page before told of the same topic.
fn first_partition(topic: &Topic, cursor: Option<&Cursor>) -> PartitionId {
    cursor
        .filter(|cursor| cursor.topic == topic.id)
        .map_or(PartitionId(0), |cursor| cursor.partition)
}

/// The brokers of an image, as clients see them: nothing can be asked of one that is fenced.
pub(super) fn tell_brokers(image: &Image) -> Vec<BrokerMetadata> {
    image
        .brokers()
        .filter(|broker| broker.state != BrokerState::Fenced)
        .map(|broker| BrokerMetadata {
            id: broker.registration.broker,
            host: broker.registration.host.clone(),
            port: broker.registration.port,
            rack: broker.registration.rack.clone(),
        })
        .collect()
}

fn tell_topic(
    topic: &Topic,
    partitions: Vec<PartitionMetadata>,
    defaults: &TopicConfig,
) -> TopicMetadata {
    let config = TopicConfig::resolve(defaults, &topic.configs);
    TopicMetadata {
        name: topic.name.as_ref().into(),
        id: topic.id,
        failure: Failure::none(),
        compression: config.compression.name().into(),
        batch_bytes_max: config.batch_bytes_max,
        partition_count: topic.partition_count(),
        partitions,
    }
}

fn tell_partition(id: PartitionId, partition: &Arc<Partition>) -> PartitionMetadata {
    PartitionMetadata {
        id,
        leader: partition.leader,
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        replicas: partition
            .replicas
            .iter()
            .map(|replica| replica.broker)
            .collect(),
        isr: partition.isr.clone(),
        eligible: partition.elr.clone(),
        adding: partition.adding.clone(),
        removing: partition.removing.clone(),
    }
}

/// How an unknown topic is told.
pub(super) fn unknown_topic(name: &str) -> Failure {
    /// A hundred bytes of a name are enough to find it again.
    const QUOTE_CHARS_MAX: usize = 100;
    let name: String = name.chars().take(QUOTE_CHARS_MAX).collect();
    Failure::new(
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        format!("there is no topic `{name}`: check the name, or create it"),
    )
}
