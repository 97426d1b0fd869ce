//! Topics: created, deleted, widened and configured.

use std::collections::{BTreeMap, BTreeSet};

use strandline_protocol::{
    ErrorCode, PartitionId, TopicId,
    limits::PARTITIONS_PER_TOPIC_MAX,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, ConfigChange, CreatePartitionsRequest,
        CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
        DeleteTopicsResponse, Failure, NewPartitions, NewTopic, TopicResult,
    },
};

use super::{Controller, Decision, Random, Reply};
use crate::{
    metadata::{
        answer::unknown_topic,
        image::{BrokerState, Image},
        limits::{PARTITIONS_PER_CLUSTER_MAX, PARTITIONS_PER_RECORD_MAX, TOPICS_PER_CLUSTER_MAX},
        record::{Record, Replicas},
        topic::Topic,
    },
    placement::{self, Candidate},
    topic_config, topic_name,
};

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
                        records.extend(creation(topic, id, placed));
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
            .filter(|broker| broker.state == BrokerState::Active);
        let candidates = active.map(|broker| {
            let registration = &broker.registration;
            let usable = registration
                .directories
                .iter()
                .filter(|directory| !self.offline.contains(directory));
            Candidate {
                broker: registration.broker,
                rack: registration.rack.clone(),
                directories: usable
                    .map(|directory| (*directory, image.load(registration.broker, *directory)))
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
        check_replication(topic.replication_factor)?;
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
        let placed = place(progress, partitions)?;
        progress.topics += 1;
        Ok(placed)
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
        Ok((topic, place(progress, wanted.total - count)?))
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

pub(super) fn alter_configs(image: &Image, request: &AlterConfigsRequest) -> Decision {
    let decided = existing(image, &request.topic)
        .and_then(|topic| Ok((topic, effective_changes(topic, &request.changes)?)));
    let (records, failure) = match decided {
        Ok((_, changes)) if request.validate_only || changes.is_empty() => {
            (Vec::new(), Failure::none())
        }
        Ok((topic, changes)) => {
            let id = topic.id;
            (vec![Record::ConfigChanged { id, changes }], Failure::none())
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
fn place(progress: &mut Progress, partitions: i32) -> Result<Vec<Replicas>, Failure> {
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
    let placed = placement::place(&progress.candidates, wanted, 1, turn).map_err(|_| {
        Failure::new(
            ErrorCode::STORAGE_ERROR,
            "no active broker has a usable data directory: see the brokers' logs for what failed",
        )
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

/// The records of a new topic, each valid alone.
fn creation(topic: &NewTopic, id: TopicId, mut placed: Vec<Replicas>) -> Vec<Record> {
    let rest = placed.split_off(placed.len().min(PARTITIONS_PER_RECORD_MAX));
    let first = i32::try_from(placed.len()).unwrap_or(i32::MAX);
    let mut records = vec![Record::TopicCreated {
        name: topic.name.clone(),
        id,
        configs: topic.configs.clone(),
        partitions: placed,
    }];
    records.extend(additions(id, first, rest));
    records
}

/// The records that add partitions from `first` on.
fn additions(id: TopicId, mut first: i32, placed: Vec<Replicas>) -> Vec<Record> {
    placed
        .chunks(PARTITIONS_PER_RECORD_MAX)
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

fn check_replication(factor: Option<i16>) -> Result<(), Failure> {
    match factor {
        None | Some(1) => Ok(()),
        Some(factor) if factor < 1 => Err(Failure::new(
            ErrorCode::INVALID_REPLICATION_FACTOR,
            format!("a replication factor of {factor} is not possible: it is at least 1"),
        )),
        Some(factor) => Err(Failure::new(
            ErrorCode::INVALID_REPLICATION_FACTOR,
            format!(
                "a replication factor of {factor} is not possible yet: replication between brokers \
                 comes in a later version; leave it out, or set it to 1"
            ),
        )),
    }
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
