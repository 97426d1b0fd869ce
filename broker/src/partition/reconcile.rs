//! Makes this broker's partitions follow the metadata: opens, configures, deletes.
//!
//! *Pattern: state watch.* Data is deleted only because a topic is known to be deleted. A directory
//! that no metadata speaks of is set aside for an operator to look at.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use strandline_core::{
    TopicConfig,
    metadata::{Image, Partition as Placed, Topic},
    replica::PartitionFacts,
};
use strandline_protocol::{BrokerId, ErrorCode, Offset, TopicPartition, messages::Failure};
use strandline_storage::{StorageError, directory::PartitionName};

use super::{
    Directory, Opener, Partition, Wanted, directory::metadata_name, opener::random_bytes,
    registry::Gone, role::facts,
};

/// A partition's directory that carries its name no more, and which data directory it lies in.
pub type Retired = (Arc<Directory>, PathBuf);

/// What is left to be done after a change of metadata.
#[derive(Debug)]
#[must_use = "partitions wait to be opened"]
pub struct Followed {
    /// What metadata says anew of open partitions.
    pub changes: Vec<(Arc<Partition>, PartitionFacts)>,
    /// Directories of deleted partitions, whose files may be removed in the background.
    pub retired: Vec<Retired>,
    /// Partitions to open; requests for them are answered with a failure that says so until then.
    pub wanted: Vec<Arc<Wanted>>,
}

/// What follows the metadata.
#[derive(Debug)]
pub struct Reconciler {
    /// Which broker this is.
    pub broker: BrokerId,
    /// What opens partitions.
    pub opener: Arc<Opener>,
    /// Up to where the metadata is followed.
    pub followed: Offset,
    /// How long a follower may be behind before it counts as out of sync.
    pub lag_max: Duration,
    /// Which partition has which name in a directory.
    pub names: BTreeMap<PartitionName, TopicPartition>,
}

/// Where the files of a partition that is gone wait to be removed; nowhere if there are none.
type SetAside = Result<Option<PathBuf>, StorageError>;

impl Reconciler {
    /// Makes the partitions follow `image`, as far as that needs no log to be opened: the caller
    /// opens what [`Followed::wanted`] tells, and applies what [`Followed::changes`] does. Waits
    /// for the disk to rename what was deleted, and for the opening of such a partition if that
    /// runs.
    pub fn follow(&mut self, image: &Image) -> Followed {
        let (mut retired, mut wanted, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        // Who is fenced or has started anew matters to every partition that it keeps.
        let brokers_changed = image.brokers().any(|broker| broker.since > self.followed);
        let changed = image
            .topics()
            .filter(|topic| brokers_changed || topic.version > self.followed);
        for topic in changed {
            let config = TopicConfig::resolve(&self.opener.defaults, &topic.configs);
            for (number, partition) in topic.partitions() {
                let Some(replica) = partition.replica_on(self.broker) else {
                    continue;
                };
                let id = TopicPartition {
                    topic: topic.id,
                    partition: number,
                };
                let unserved = Wanted {
                    id,
                    topic: Arc::clone(topic),
                    facts: self.facts(image, topic, partition),
                    directory: replica.directory,
                };
                if !self.opener.partitions.update_unserved(&unserved) {
                    wanted.push(unserved);
                } else if let Ok(open) = self.opener.partitions.get(id) {
                    if topic.version > self.followed {
                        open.configure(&config);
                    }
                    changes.push((open, unserved.facts));
                }
            }
        }
        // Looking for what is gone walks over everything: only if the numbers say that something
        // is, or a name has come to mean something else.
        let expected = self.names.len().saturating_add(wanted.len());
        let renamed = wanted
            .iter()
            .any(|each| self.names.contains_key(&each.name()));
        if renamed || expected != image.kept_count(self.broker) {
            retired = self.delete_unknown(image);
        }
        for each in &wanted {
            self.names.insert(each.name(), each.id);
        }
        self.followed = image.version();
        let wanted: Vec<_> = wanted.into_iter().map(Arc::new).collect();
        for each in &wanted {
            self.opener.partitions.insert_opening(each);
        }
        Followed {
            changes,
            retired,
            wanted,
        }
    }

    fn facts(&self, image: &Image, topic: &Topic, partition: &Placed) -> PartitionFacts {
        let min_isr = topic.min_isr(partition.factor());
        facts(image, partition, min_isr, self.lag_max)
    }

    /// Sets aside what lies in the directories and has no place in the metadata. To be called once,
    /// before the first [`Reconciler::follow`], with what was found. Whether a directory belongs to
    /// the topic that has its name is looked at when it is opened.
    pub fn set_strays_aside(&self, image: &Image, directory: &Directory, found: &[PartitionName]) {
        for name in found {
            if *name != metadata_name() && !self.belongs(image, directory, name) {
                directory.set_aside(name, random_bytes());
            }
        }
    }

    fn belongs(&self, image: &Image, directory: &Directory, name: &PartitionName) -> bool {
        image
            .topic(&name.topic)
            .and_then(|topic| topic.partition(name.partition))
            .and_then(|partition| partition.replica_on(self.broker))
            .is_some_and(|replica| replica.directory == directory.id())
    }

    /// Deletes what the metadata does not know any more.
    fn delete_unknown(&mut self, image: &Image) -> Vec<Retired> {
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
            let Some((directory, path)) = self.give_up(image, &name, id) else {
                continue;
            };
            directory.forget(&name);
            match path {
                Ok(path) => retired.extend(path.map(|path| (directory, path))),
                // Nothing was ever appended to it.
                Err(StorageError::Fs(error)) if error.is_not_found() => {}
                // The next start sets it aside.
                Err(StorageError::DirectoryOffline { .. }) => {}
                Err(error) => {
                    directory.refuse(&error);
                }
            }
        }
        retired
    }

    /// Serves a partition no more and takes its directory's name away. None if it lies nowhere
    /// here; no path if what lies there is another topic's, which is set aside.
    fn give_up(
        &self,
        image: &Image,
        name: &PartitionName,
        id: TopicPartition,
    ) -> Option<(Arc<Directory>, SetAside)> {
        match self.opener.partitions.remove(id)? {
            Gone::Served(partition) => {
                let failure = match image.topic_by_id(id.topic) {
                    Some(_) => moved_away(),
                    None => Failure::new(ErrorCode::UNKNOWN_TOPIC_ID, "the topic was deleted"),
                };
                drop(partition.give_up(failure));
                let directory = Arc::clone(partition.directory());
                let path = directory.data().retire(name, random_bytes());
                Some((directory, path.map(Some)))
            }
            Gone::Unopened(wanted) => {
                // Whoever opens it must have ended before its directory is renamed.
                self.opener.withdraw(name);
                let directory = Arc::clone(self.opener.directory(wanted.directory)?);
                let data = directory.data();
                let path = match data.topic_id(name) {
                    Ok(Some(found)) if found == id.topic => {
                        data.retire(name, random_bytes()).map(Some)
                    }
                    Ok(_) => data.quarantine(name, random_bytes()).map(|_| None),
                    Err(error) => Err(error),
                };
                Some((directory, path))
            }
        }
    }
}

/// What a write is answered with whose partition other brokers keep from now on.
fn moved_away() -> Failure {
    Failure::new(
        ErrorCode::LEADERSHIP_LOST,
        "the batch was appended, but the partition is kept by other brokers now: send it again to \
         the leader, which knows whether it has it",
    )
}
