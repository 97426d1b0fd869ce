//! Opens the logs of partitions, several at once: recovers what a crash left.
//!
//! *Pattern: write-ahead log.* At a start the broker serves while this works. A partition that is
//! still to be opened is in the registry as one that recovers; a log that cannot be opened takes
//! nobody else with it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use parking_lot::{Condvar, Mutex};
use strandline_client::net::{Clock, random};
use strandline_core::{TopicConfig, metadata::Topic, replica::PartitionFacts};
use strandline_protocol::{DirectoryId, ErrorCode, TopicPartition, messages::Failure};
use strandline_storage::{
    StorageError,
    directory::PartitionName,
    log::{Log, NewLog, Shutdown},
};

use super::{Directory, Opening, Partition, Partitions, Surroundings, configuration::log_config};
use crate::{metrics::Metrics, server::spawn::Threads};

/// How many threads open partitions at most.
const OPENING_THREADS_MAX: usize = 8;

/// How many threads create partitions: they mostly wait for the disk.
const CREATING_THREADS: usize = 8;

/// How many partitions share the disk's work when they are created.
const CREATED_TOGETHER: usize = 64;

/// A partition to open.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which one.
    pub id: TopicPartition,
    /// Its topic, with the configuration that is to be in force.
    pub topic: Arc<Topic>,
    /// What metadata says of it.
    pub facts: PartitionFacts,
    /// Where it lies.
    pub directory: DirectoryId,
}

impl Wanted {
    /// What its directory calls it.
    #[must_use]
    pub fn name(&self) -> PartitionName {
        PartitionName {
            topic: self.topic.name.to_string(),
            partition: self.id.partition,
        }
    }
}

/// What opens partitions. Shared by those who want them open and those who do the work.
#[derive(Debug)]
pub struct Opener {
    /// The directories, and how the run before left each.
    pub directories: Vec<(Arc<Directory>, Shutdown)>,
    /// Where open partitions go.
    pub partitions: Arc<Partitions>,
    /// What open partitions work with.
    pub surroundings: Arc<Surroundings>,
    /// Where the counters of topics come from.
    pub metrics: Arc<Metrics>,
    /// What topics are configured with that do not say otherwise.
    pub defaults: TopicConfig,
    /// Whether opening may use threads.
    pub threads: Threads,
    /// What is to be done.
    pub queue: OpenQueue,
}

/// Partitions that wait to be opened.
#[derive(Debug, Default)]
pub struct OpenQueue {
    state: Mutex<Queued>,
    /// Told whenever an opening has ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Queued {
    waiting: VecDeque<Arc<Wanted>>,
    /// What is being opened now.
    running: BTreeSet<PartitionName>,
    work: Work,
}

/// Whether more is to be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Work {
    #[default]
    GoesOn,
    Ends,
}

impl OpenQueue {
    fn next(&self) -> Option<Arc<Wanted>> {
        let mut state = self.state.lock();
        if state.work == Work::Ends {
            return None;
        }
        let next = state.waiting.pop_front()?;
        state.running.insert(next.name());
        Some(next)
    }

    fn ended(&self, name: &PartitionName) {
        self.state.lock().running.remove(name);
        self.ended.notify_all();
    }
}

impl Opener {
    /// Puts partitions at the end of the queue.
    pub fn enqueue(&self, wanted: Vec<Arc<Wanted>>) {
        self.queue.state.lock().waiting.extend(wanted);
    }

    /// Opens partitions that were just created, ahead of the queue, and makes their first files:
    /// several at once where threads are allowed. Blocks until that is done.
    pub fn create(&self, wanted: Vec<Arc<Wanted>>) {
        let threads = match self.threads {
            Threads::None => 1,
            Threads::Allowed => CREATING_THREADS.min(wanted.len() / 8),
        };
        let together = wanted.len().div_ceil(threads.max(1)).min(CREATED_TOGETHER);
        let left = Mutex::new(wanted.into_iter());
        let work = || {
            loop {
                let some: Vec<_> = left.lock().by_ref().take(together).collect();
                if some.is_empty() {
                    return;
                }
                self.create_some(some);
            }
        };
        in_threads(threads, work);
    }

    fn create_some(&self, wanted: Vec<Arc<Wanted>>) {
        let mut opened: BTreeMap<DirectoryId, Vec<(Arc<Wanted>, Opening)>> = BTreeMap::new();
        for each in wanted {
            match self.try_open(&each) {
                Ok(opening) => {
                    let here = opened.entry(each.directory).or_default();
                    here.push((each, opening));
                }
                Err(failure) => self.failed(&each, failure),
            }
        }
        for (_, mut here) in opened {
            // A follower's log begins with what its leader sends.
            let own = self.surroundings.broker;
            let mut logs: Vec<_> = here
                .iter_mut()
                .filter(|(wanted, _)| wanted.facts.leader == Some(own))
                .map(|(wanted, opening)| NewLog {
                    leader_epoch: wanted.facts.leader_epoch,
                    log: &mut opening.log,
                })
                .collect();
            let created = Log::create_together(&mut logs, Clock.now());
            for (wanted, opening) in here {
                match &created {
                    // Without space, an append says so; it makes the files once there is.
                    Err(error) if !error.is_full() => {
                        let failure = opening.directory.refuse(error);
                        self.failed(&wanted, failure);
                    }
                    _ => self.serve(wanted, opening),
                }
            }
        }
    }

    /// Opens the next partition in the queue. Waits for the disk. Returns whether there was one.
    pub fn open_one(&self) -> bool {
        let Some(wanted) = self.queue.next() else {
            return false;
        };
        let name = wanted.name();
        self.set_another_topics_aside(&wanted, &name);
        match self.try_open(&wanted) {
            Ok(opening) => self.serve(wanted, opening),
            Err(failure) => self.failed(&wanted, failure),
        }
        self.queue.ended(&name);
        true
    }

    /// How many partitions wait to be opened.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.state.lock().waiting.len()
    }

    /// How many threads are worth their start for so many partitions.
    #[must_use]
    pub fn threads_for(&self, partitions: usize) -> usize {
        match self.threads {
            Threads::None => 1,
            Threads::Allowed => std::thread::available_parallelism()
                .map_or(1, std::num::NonZero::get)
                .saturating_mul(2)
                .min(OPENING_THREADS_MAX)
                .min(partitions / 4)
                .max(1),
        }
    }

    /// Begins no opening any more: the broker stops. What is not open then stays as the run before
    /// has left it.
    pub fn end(&self) {
        let mut state = self.queue.state.lock();
        state.work = Work::Ends;
        for each in std::mem::take(&mut state.waiting) {
            self.left_alone(&each);
        }
    }

    /// Makes sure that nobody opens `name`, or will: takes it out of the queue, or waits until the
    /// opening that runs has ended.
    pub fn withdraw(&self, name: &PartitionName) {
        let mut state = self.queue.state.lock();
        state.waiting.retain(|waiting| waiting.name() != *name);
        while state.running.contains(name) {
            self.queue.ended.wait(&mut state);
        }
    }

    /// The directory of that identity, if the broker was started with it.
    #[must_use]
    pub fn directory(&self, id: DirectoryId) -> Option<&Arc<Directory>> {
        let mut all = self.directories.iter();
        all.find(|(directory, _)| directory.id() == id)
            .map(|(directory, _)| directory)
    }

    /// A topic was deleted and created again, and the broker ended before it followed: what lies
    /// there is the old one's.
    fn set_another_topics_aside(&self, wanted: &Wanted, name: &PartitionName) {
        let Some(directory) = self.directory(wanted.directory) else {
            return;
        };
        // A file that cannot be read says nothing against it; opening the log looks closer.
        let id = directory.data().topic_id(name).ok().flatten();
        if id.is_some_and(|id| id != wanted.id.topic) {
            directory.set_aside(name, random_bytes());
        }
    }

    /// Serves what was opened, with the configuration that is wanted by now.
    fn serve(&self, mut wanted: Arc<Wanted>, opening: Opening) {
        let partition = Arc::new(Partition::new(opening));
        partition.apply(&wanted.facts);
        while let Some(newer) = self.partitions.serve(&wanted, &partition) {
            partition.configure(&self.config(&newer));
            partition.apply(&newer.facts);
            wanted = newer;
        }
    }

    /// Tells partitions what metadata says of them. Who loses its leadership hears it first; those
    /// that begin to lead wait for the disk, several at once where there are threads.
    pub fn apply(&self, changes: Vec<(Arc<Partition>, PartitionFacts)>) {
        let (leads, others): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|(partition, facts)| partition.would_lead(facts));
        for (partition, facts) in others {
            partition.apply(&facts);
        }
        let threads = match self.threads {
            Threads::None => 1,
            Threads::Allowed => CREATING_THREADS.min(leads.len() / 8),
        };
        let left = Mutex::new(leads.into_iter());
        in_threads(threads, || {
            loop {
                let next = left.lock().next();
                let Some((partition, facts)) = next else {
                    return;
                };
                partition.apply(&facts);
            }
        });
    }

    fn failed(&self, wanted: &Arc<Wanted>, failure: Failure) {
        tracing::error!(partition = %wanted.name(), "not served: {}", failure.message);
        self.left_alone(wanted);
        self.partitions.insert_offline(wanted, failure);
    }

    fn config(&self, wanted: &Wanted) -> TopicConfig {
        TopicConfig::resolve(&self.defaults, &wanted.topic.configs)
    }

    /// The log was not opened by this run. Unless the run before has closed it, nobody has.
    fn left_alone(&self, wanted: &Wanted) {
        let mut all = self.directories.iter();
        let found = all.find(|(directory, _)| directory.id() == wanted.directory);
        if let Some((directory, Shutdown::Unclean)) = found {
            directory.leave_unclosed();
        }
    }

    fn try_open(&self, wanted: &Wanted) -> Result<Opening, Failure> {
        let name = wanted.name();
        let mut all = self.directories.iter();
        let found = all.find(|(directory, _)| directory.id() == wanted.directory);
        let Some((directory, shutdown)) = found else {
            return Err(Failure::new(
                ErrorCode::STORAGE_ERROR,
                format!(
                    "data directory {} of this partition is not among those that the broker was \
                     started with: add it to --data and restart",
                    wanted.directory
                ),
            ));
        };
        directory.check_online()?;
        let config = self.config(wanted);
        let opened = Log::open(
            Arc::clone(directory.data().file_system()),
            &directory.data().partition_path(&name),
            wanted.id.topic,
            log_config(&config),
            directory.hint(&name, wanted.id.topic, *shutdown),
            Clock.now(),
        );
        let (log, report) = opened.map_err(|error| match error {
            // What is wrong with one log does not speak against its disk.
            StorageError::Fs(_) => directory.refuse(&error),
            error => Failure::new(ErrorCode::STORAGE_ERROR, error.to_string()),
        })?;
        for damage in &report.damage {
            tracing::error!(partition = %name, "damage below the recovery point: {damage}");
        }
        for offsets in &report.damaged {
            // Whether there is hope is told to who reads there.
            let _ = self.surroundings.replication.damaged(wanted.id, offsets);
        }
        for offsets in &report.removed {
            let _ = self.surroundings.replication.removed(wanted.id, offsets);
        }
        if report.bytes_cut > 0 {
            tracing::info!(
                partition = %name,
                bytes_scanned = report.bytes_scanned,
                bytes_cut = report.bytes_cut,
                log_end = %log.end(), "recovered: what was half written has been cut"
            );
        }
        Ok(Opening {
            id: wanted.id,
            topic: Arc::clone(&wanted.topic.name),
            directory: Arc::clone(directory),
            surroundings: Arc::clone(&self.surroundings),
            metrics: self.metrics.topic(&wanted.topic.name),
            log,
            flush: config.flush,
            high_watermark: directory.high_watermark(&name, wanted.id.topic),
        })
    }
}

/// Does the work in so many threads, or at once.
fn in_threads(threads: usize, work: impl Fn() + Copy + Send) {
    if threads <= 1 {
        return work();
    }
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
}

pub(super) fn random_bytes() -> [u8; 16] {
    let drawn = (u128::from(random()) << 64) | u128::from(random());
    drawn.to_be_bytes()
}
