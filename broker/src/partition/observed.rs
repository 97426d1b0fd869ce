//! Partitions as they are at a moment, for simulations that look on.
//!
//! Exists under `cfg(strandline_sim)` only. The partitions of every broker that starts on this
//! thread are put into a list; a simulation takes them from there and looks after each of its
//! steps. **Never** changes anything, and never counts as a check of what it reads.

use std::{cell::RefCell, mem, sync::Arc};

use bytes::Bytes;
use strandline_core::replica::{Marks, Role};
use strandline_protocol::{BrokerId, LeaderEpoch, Offset, TopicPartition};

use super::{Partition, Partitions};

/// How much is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

thread_local! {
    static STARTED: RefCell<Vec<PartitionsObserver>> = const { RefCell::new(Vec::new()) };
}

/// Looks at the partitions of one broker for as long as its process lives. Clones look at the same
/// ones.
#[derive(Clone, Debug)]
pub struct PartitionsObserver {
    broker: BrokerId,
    partitions: Arc<Partitions>,
}

/// One replica at one moment.
#[derive(Clone, Debug)]
pub struct ObservedReplica {
    /// Which partition.
    pub id: TopicPartition,
    /// The name of its topic.
    pub topic: Arc<str>,
    /// Its role.
    pub role: Role,
    /// The epoch of that role.
    pub leader_epoch: LeaderEpoch,
    /// Where it stands.
    pub marks: Marks,
    /// Writes that wait to be acknowledged.
    pub waiting: usize,
    partition: Arc<Partition>,
}

impl PartitionsObserver {
    /// Their broker.
    #[must_use]
    pub const fn broker(&self) -> BrokerId {
        self.broker
    }

    /// Every replica that is open, in the order of their ids.
    #[must_use]
    pub fn replicas(&self) -> Vec<ObservedReplica> {
        let all = self.partitions.all().into_iter();
        all.filter_map(observe).collect()
    }
}

fn observe(partition: Arc<Partition>) -> Option<ObservedReplica> {
    let inner = partition.inner.lock();
    inner.log.as_ref()?;
    let (marks, leader_epoch) = (inner.replica.marks(), inner.replica.leader_epoch());
    let role = inner.replica.role();
    let waiting = inner.acks.len();
    drop(inner);
    Some(ObservedReplica {
        id: partition.id,
        topic: Arc::clone(&partition.topic),
        role: role,
        leader_epoch,
        marks,
        waiting,
        partition,
    })
}

impl ObservedReplica {
    /// The epoch that wrote what lies at `offset`; none if nothing lies there.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let inner = self.partition.inner.lock();
        let log = inner.log.as_ref()?;
        let is_there = log.start() <= offset && offset < log.end();
        is_there.then(|| log.epoch_at(offset)).flatten()
    }

    /// The whole batches from the one that holds `from` on, up to `end`, as they lie there: they
    /// may be anything. Chunks of them; fewer than asked for if the disk is off or something is
    /// damaged.
    #[must_use]
    pub fn batches(&self, from: Offset, end: Offset) -> Vec<Bytes> {
        let (mut next, mut found) = (from, Vec::new());
        while next < end {
            let inner = self.partition.inner.lock();
            let Some(log) = inner.log.as_ref() else {
                break;
            };
            match log.read(next, READ_BYTES, end) {
                Ok(fetched) if fetched.end_offset > next => {
                    next = fetched.end_offset;
                    found.push(fetched.bytes);
                }
                _ => break,
            }
        }
        found
    }
}

/// Puts the partitions of a broker that starts into the list.
pub(crate) fn started(broker: BrokerId, partitions: &Arc<Partitions>) {
    let partitions = Arc::clone(partitions);
    STARTED.with_borrow_mut(|started| started.push(PartitionsObserver { broker, partitions }));
}

/// The partitions of brokers that have started on this thread since this was asked last.
#[must_use]
pub fn partitions_started() -> Vec<PartitionsObserver> {
    STARTED.with_borrow_mut(mem::take)
}
