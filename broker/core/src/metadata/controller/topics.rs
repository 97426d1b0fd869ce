//! Topics: created, deleted, widened and configured.

use std::collections::{BTreeMap, BTreeSet};

use strandline_protocol::{
    ErrorCode, PartitionId, TopicId,
    limits::PARTITIONS_PER_TOPIC_MAX,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, ConfigChange, CreatePartitionsRequest,
        CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
        DeleteTopicsResponse, Duty, Failure, NewPartitions, NewTopic, TopicResult,
    },
};

use super::{Controller, Decision, Random, Reply, disks::Disks, electorate::Electorate};
use crate::{
    metadata::{
        answer::unknown_topic,
        image::{BrokerState, Image},
        limits::{
            COPIES_PER_RECORD_MAX, PARTITIONS_PER_CLUSTER_MAX, PARTITIONS_PER_RECORD_MAX,
            TOPICS_PER_CLUSTER_MAX,
        },
        record::{REPLICATION_VERSION, Record, Replicas},
        topic::Topic,
    },
    placement::{self, Candidate},
    topic_config::{self, FLUSH, MIN_ISR, UNCLEAN_ELECTION},
    topic_name,
};

/// How many replicas a partition gets at most that does not say: the loss of one of them costs
/// neither records nor writes.
const DEFAULT_FACTOR_MAX: usize = 3;

/// How a refusal quotes a name without bound, in characters.
const QUOTE_CHARS_MAX: usize = 300;

/// What a request has done so far to what its next entry may do.
struct Progress {
    names: BTreeSet<String>,
    ids: BTreeSet<TopicId>,
    topics: usize,
    partitions: usize,
    candidates: Vec<Candidate>,
}

impl Progress {
    /// How many brokers can take a copy.
    fn brokers(&self) -> usize {
        let usable = |candidate: &&Candidate| !candidate.directories.is_empty();
        self.candidates.iter().filter(usable).count()
    }
}

impl Controller {
    pub(super) fn create_topics(
        &self,
        image: &Image,
        request: &CreateTopicsRequest,
        random: Random<'_>,
    ) -> Decision {
        let mut progress = self.progress(image);
        let mut records = Vec::new();
        let topics = request
            .topics
            .iter()
            .map(|topic| {
                match self.create_topic(image, &mut progress, topic) {
                    // A check names no identity: the topic does not get to be.
                    Ok(placed) if request.validate_only => {
                        done(&topic.name, TopicId::default(), placed.len())
                    }
                    Ok(placed) => {
                        let id = fresh_id(image, &mut progress, random);
                        let count = placed.len();
                        records.extend(self.creation(image, topic, id, placed));
                        done(&topic.name, id, count)
                    }
                    Err(failure) => failed(&topic.name, failure),
                }
            })
            .collect();
        Decision {
            records,
            reply: Reply::CreateTopics(CreateTopicsResponse { topics }),
        }
    }

    pub(super) fn create_partitions(
        &self,
        image: &Image,
        request: &CreatePartitionsRequest,
    ) -> Decision {
        let mut progress = self.progress(image);
        let mut records = Vec::new();
        let topics = request
            .topics
            .iter()
            .map(|wanted| match self.widen(image, &mut progress, wanted) {
                Ok((topic, placed)) => {
                    let first = topic.partition_count();
                    records.extend(additions(topic.id, first, placed));
                    TopicResult {
                        partitions: wanted.total,
                        ..done(&wanted.name, topic.id, 0)
                    }
                }
                Err(failure) => failed(&wanted.name, failure),
            })
            .collect();
        Decision {
            records,
            reply: Reply::CreatePartitions(CreatePartitionsResponse { topics }),
        }
    }

    fn progress(&self, image: &Image) -> Progress {
        let active = image
            .brokers()
            .filter(|broker| broker.state == BrokerState::Active && broker.duty == Duty::Full);
        let candidates = active.map(|broker| {
            let registration = &broker.registration;
            let broker = registration.broker;
            let places = self.disks.places(broker, &registration.directories);
            Candidate {
                broker,
                rack: registration.rack.clone(),
                directories: places
                    .into_iter()
                    .map(|directory| (directory, image.load(broker, directory)))
                    .collect(),
            }
        });
        Progress {
            names: BTreeSet::new(),
            ids: BTreeSet::new(),
            topics: image.topic_count(),
            partitions: image.partition_count(),
            candidates: candidates.collect(),
        }
    }

    fn create_topic(
        &self,
        image: &Image,
        progress: &mut Progress,
        topic: &NewTopic,
    ) -> Result<Vec<Replicas>, Failure> {
        let name = &topic.name;
        topic_name::check(name)
            .map_err(|error| Failure::new(ErrorCode::INVALID_TOPIC, error.to_string()))?;
        if topic_name::is_internal(name) {
            return Err(Failure::new(
                ErrorCode::INVALID_TOPIC,
                format!(
                    "topic name `{name}` is the broker's own: choose one without `__` in front"
                ),
            ));
        }
        only_once(progress, name)?;
        if image.topic(name).is_some() {
            return Err(Failure::new(
                ErrorCode::TOPIC_ALREADY_EXISTS,
                format!("topic `{name}` exists already: choose another name, or delete it first"),
            ));
        }
        topic_config::check_all(&topic.configs)
            .map_err(|error| Failure::new(ErrorCode::INVALID_CONFIG, error.to_string()))?;
        let partitions = topic.partitions.unwrap_or(self.defaults.partitions);
        if !(1..=PARTITIONS_PER_TOPIC_MAX).contains(&partitions) {
            return Err(Failure::new(
                ErrorCode::INVALID_PARTITIONS,
                format!(
                    "topic `{name}` cannot have {partitions} partitions: 1 to \
                     {PARTITIONS_PER_TOPIC_MAX} are allowed"
                ),
            ));
        }
        if progress.topics >= TOPICS_PER_CLUSTER_MAX {
            return Err(Failure::new(
                ErrorCode::INVALID_REQUEST,
                format!(
                    "there are {} topics already, a cluster keeps at most \
                     {TOPICS_PER_CLUSTER_MAX}: delete some first",
                    progress.topics
                ),
            ));
        }
        let factor = self.factor(image, progress, topic)?;
        let placed = place(progress, partitions, factor)?;
        progress.topics += 1;
        Ok(placed)
    }

    /// The replication factor of a topic to be: what it says, or what is safe among the brokers
    /// that there are.
    fn factor(
        &self,
        image: &Image,
        progress: &Progress,
        topic: &NewTopic,
    ) -> Result<usize, Failure> {
        let replicates = image.metadata_version() >= REPLICATION_VERSION;
        let Some(factor) = topic.replication_factor else {
            let brokers = progress.brokers().max(1);
            return Ok(if replicates {
                brokers.min(DEFAULT_FACTOR_MAX)
            } else {
                1
            });
        };
        let refuse = |code, why: String| Err(Failure::new(code, why));
        match usize::try_from(factor) {
            Ok(1) => Ok(1),
            Err(_) | Ok(0) => refuse(
                ErrorCode::INVALID_REPLICATION_FACTOR,
                format!("a replication factor of {factor} is not possible: it is at least 1"),
            ),
            Ok(_) if !replicates => refuse(
                ErrorCode::UNSUPPORTED_VERSION,
                format!(
                    "a replication factor of {factor} needs metadata version \
                     {REPLICATION_VERSION}, the cluster has version {}: start every broker with \
                     this version of strandline first",
                    image.metadata_version()
                ),
            ),
            Ok(copies) => Ok(copies),
        }
    }

    /// The records of a new topic, each valid alone. Where there are replicas, the topic keeps what
    /// its acknowledgements mean, whatever the brokers' defaults come to be.
    fn creation(
        &self,
        image: &Image,
        topic: &NewTopic,
        id: TopicId,
        mut placed: Vec<Replicas>,
    ) -> Vec<Record> {
        let copies = placed.first().map_or(1, Vec::len);
        let rest = placed.split_off(placed.len().min(partitions_per_record(copies)));
        let first = i32::try_from(placed.len()).unwrap_or(i32::MAX);
        let mut configs = topic.configs.clone();
        if image.metadata_version() >= REPLICATION_VERSION {
            let flush = self.defaults.config.flush.name();
            configs.entry(FLUSH.into()).or_insert_with(|| flush.into());
        }
        let mut records = vec![Record::TopicCreated {
            name: topic.name.clone(),
            id,
            configs,
            partitions: placed,
        }];
        records.extend(additions(id, first, rest));
        records
    }

    fn widen<'a>(
        &self,
        image: &'a Image,
        progress: &mut Progress,
        wanted: &NewPartitions,
    ) -> Result<(&'a Topic, Vec<Replicas>), Failure> {
        only_once(progress, &wanted.name)?;
        let topic = existing(image, &wanted.name)?;
        let count = topic.partition_count();
        if !(1..=PARTITIONS_PER_TOPIC_MAX).contains(&wanted.total) || wanted.total <= count {
            return Err(Failure::new(
                ErrorCode::INVALID_PARTITIONS,
                format!(
                    "topic `{}` has {count} partitions and cannot go to {}: only more are \
                     possible, up to {PARTITIONS_PER_TOPIC_MAX}",
                    topic.name, wanted.total
                ),
            ));
        }
        // As many copies as its first partition has, or is to have.
        let first = topic.partition(PartitionId(0));
        let factor = first.map_or(1, |first| first.replicas.len() - first.removing.len());
        Ok((topic, place(progress, wanted.total - count, factor)?))
    }
}

pub(super) fn delete(image: &Image, request: &DeleteTopicsRequest) -> Decision {
    let mut seen = BTreeSet::new();
    let mut records = Vec::new();
    let topics = request
        .names
        .iter()
        .map(|name| {
            let found = existing(image, name).and_then(|topic| {
                if seen.insert(topic.id) {
                    Ok(topic)
                } else {
                    Err(named_twice(name))
                }
            });
            match found {
                Ok(topic) => {
                    records.push(Record::TopicDeleted { id: topic.id });
                    done(name, topic.id, 0)
                }
                Err(failure) => failed(name, failure),
            }
        })
        .collect();
    Decision {
        records,
        reply: Reply::DeleteTopics(DeleteTopicsResponse { topics }),
    }
}

pub(super) fn alter_configs(
    image: &Image,
    disks: &Disks,
    request: &AlterConfigsRequest,
) -> Decision {
    let decided = existing(image, &request.topic)
        .and_then(|topic| Ok((topic, effective_changes(topic, &request.changes)?)));
    let (records, failure) = match decided {
        Ok((_, changes)) if request.validate_only || changes.is_empty() => {
            (Vec::new(), Failure::none())
        }
        Ok((topic, changes)) => {
            let id = topic.id;
            let electorate = Electorate::of(image, disks);
            let mut records = Vec::new();
            if changes.contains_key(MIN_ISR) {
                // First, as fewer in sync may be enough from then on to acknowledge.
                records = electorate.forget_eligible(topic);
            }
            let goes_on = changes.get(UNCLEAN_ELECTION).and_then(Option::as_deref) == Some("true");
            records.push(Record::ConfigChanged { id, changes });
            if goes_on {
                records.extend(electorate.rescue(topic));
            }
            (records, Failure::none())
        }
        Err(failure) => (Vec::new(), failure),
    };
    Decision {
        records,
        reply: Reply::AlterConfigs(AlterConfigsResponse { failure }),
    }
}

/// What of `changes` changes anything.
fn effective_changes(
    topic: &Topic,
    changes: &[ConfigChange],
) -> Result<BTreeMap<String, Option<String>>, Failure> {
    let mut effective = BTreeMap::new();
    for ConfigChange { key, value } in changes {
        let set = topic.configs.get(key);
        let checked = match value {
            Some(value) => topic_config::check(key, value),
            // What another version has set can be taken back, whatever it means.
            None if set.is_some() => Ok(()),
            None => topic_config::Key::find(key).map(|_| ()),
        };
        checked.map_err(|error| Failure::new(ErrorCode::INVALID_CONFIG, error.to_string()))?;
        if effective.insert(key.clone(), value.clone()).is_some() {
            return Err(Failure::new(
                ErrorCode::INVALID_REQUEST,
                format!("configuration {key} is changed twice in one request: name it once"),
            ));
        }
    }
    effective.retain(|key, value| topic.configs.get(key) != value.as_ref());
    Ok(effective)
}

/// Places partitions, and counts them towards what the next entry of the request may place.
fn place(
    progress: &mut Progress,
    partitions: i32,
    factor: usize,
) -> Result<Vec<Replicas>, Failure> {
    let wanted = usize::try_from(partitions).unwrap_or(0);
    if progress.partitions + wanted > PARTITIONS_PER_CLUSTER_MAX {
        return Err(Failure::new(
            ErrorCode::INVALID_PARTITIONS,
            format!(
                "{wanted} more partitions are too many: there are {}, a cluster keeps at most \
                 {PARTITIONS_PER_CLUSTER_MAX}",
                progress.partitions
            ),
        ));
    }
    let turn = progress.partitions;
    let placed = placement::place(&progress.candidates, wanted, factor, turn);
    let placed = placed.map_err(|too_few| match too_few.brokers {
        0 => Failure::new(
            ErrorCode::STORAGE_ERROR,
            "no active broker has a usable data directory: see the brokers' logs for what failed",
        ),
        brokers => Failure::new(
            ErrorCode::INVALID_REPLICATION_FACTOR,
            format!(
                "a replication factor of {factor} needs as many active brokers with a usable data \
                 directory, and there are {brokers} that are not drained: start more of them, or \
                 ask for fewer replicas"
            ),
        ),
    })?;
    progress.partitions += wanted;
    for replica in placed.iter().flatten() {
        let directories = progress
            .candidates
            .iter_mut()
            .filter(|candidate| candidate.broker == replica.broker)
            .flat_map(|candidate| candidate.directories.iter_mut());
        for (directory, load) in directories {
            *load += usize::from(*directory == replica.directory);
        }
    }
    Ok(placed)
}

/// The records that add partitions from `first` on.
fn additions(id: TopicId, mut first: i32, placed: Vec<Replicas>) -> Vec<Record> {
    let copies = placed.first().map_or(1, Vec::len);
    placed
        .chunks(partitions_per_record(copies))
        .map(|chunk| {
            let record = Record::PartitionsAdded {
                id,
                first: PartitionId(first),
                partitions: chunk.to_vec(),
            };
            first = first.saturating_add(i32::try_from(chunk.len()).unwrap_or(i32::MAX));
            record
        })
        .collect()
}

/// How many partitions of so many copies one record lists.
fn partitions_per_record(copies: usize) -> usize {
    let by_copies = COPIES_PER_RECORD_MAX / copies.max(1);
    by_copies.clamp(1, PARTITIONS_PER_RECORD_MAX)
}

fn existing<'a>(image: &'a Image, name: &str) -> Result<&'a Topic, Failure> {
    image
        .topic(name)
        .map(AsRef::as_ref)
        .ok_or_else(|| unknown_topic(name))
}

fn only_once(progress: &mut Progress, name: &str) -> Result<(), Failure> {
    if progress.names.insert(name.into()) {
        Ok(())
    } else {
        Err(named_twice(name))
    }
}

fn named_twice(name: &str) -> Failure {
    let name: String = name.chars().take(QUOTE_CHARS_MAX).collect();
    Failure::new(
        ErrorCode::INVALID_REQUEST,
        format!("topic `{name}` is named twice in one request: name it once"),
    )
}

/// An identity that no topic has. Zeros stand for none.
fn fresh_id(image: &Image, progress: &mut Progress, random: Random<'_>) -> TopicId {
    loop {
        let id = TopicId(random());
        if id != TopicId::default() && image.topic_by_id(id).is_none() && progress.ids.insert(id) {
            return id;
        }
    }
}

fn done(name: &str, id: TopicId, partitions: usize) -> TopicResult {
    TopicResult {
        name: name.into(),
        id,
        partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
        failure: Failure::none(),
    }
}

fn failed(name: &str, failure: Failure) -> TopicResult {
    TopicResult {
        failure,
        ..done(name, TopicId::default(), 0)
    }
}
