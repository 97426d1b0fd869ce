//! What this broker fetches from the leaders of the partitions that it follows.
//!
//! *Patterns: leader and followers, request batch, single-socket channel.* One task for each broker
//! that leads any of them, with one connection on which one request waits; an idle partition costs
//! nothing. What a session names is decided by `session`, what an answer does to a log by the
//! partition; the task carries bytes from the one to the other.
//!
//! **Owns** the tasks that fetch, what they know of their sessions, and the limit for replicas that
//! are being added. **Never** decides what is appended or cut, and never keeps a partition alive
//! but from within its tasks.

mod fetcher;
mod inbox;
mod repair;
mod session;
mod throttle;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use parking_lot::Mutex;
use strandline_client::connection::Connection;
use strandline_protocol::{BrokerId, Offset, TopicPartition, messages::Purpose};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

pub use repair::Hope;

use crate::{
    metadata::{MetadataLog, PeerError},
    metrics::ReplicationMetrics,
    partition::{Partition, Partitions},
    server::spawn::{Background, Threads},
};

use self::{
    fetcher::Fetcher,
    inbox::Inbox,
    repair::{Kind, Repairs},
    throttle::Throttle,
};

/// Who is to be fetched from for which partition. Clones are handles of the same.
#[derive(Clone, Debug)]
pub struct Replication {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    me: BrokerId,
    metadata: MetadataLog,
    metrics: ReplicationMetrics,
    threads: Threads,
    repairs: Repairs,
    /// By leader.
    inboxes: Mutex<BTreeMap<BrokerId, Arc<Inbox>>>,
    /// Whom each partition is fetched from.
    leaders: Mutex<BTreeMap<TopicPartition, BrokerId>>,
    /// Told when there is another leader.
    another: Notify,
    throttle: Mutex<Throttle>,
}

impl Replication {
    /// Nothing is fetched yet. `me` is this broker.
    #[must_use]
    pub fn new(
        metadata: MetadataLog,
        me: BrokerId,
        metrics: ReplicationMetrics,
        threads: Threads,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                me,
                metadata,
                metrics,
                threads,
                repairs: Repairs::default(),
                inboxes: Mutex::default(),
                leaders: Mutex::default(),
                another: Notify::new(),
                throttle: Mutex::new(Throttle::new(Instant::now())),
            }),
        }
    }

    /// The partition is fetched from `leader` from now on; from nobody if there is none, or if this
    /// broker leads it. To be called after each change of its role or epoch: it is asked anew where
    /// it stands then, and its failures are forgotten.
    pub fn assign(&self, partition: &Arc<Partition>, leader: Option<BrokerId>) {
        let id = partition.id();
        let leader = leader.filter(|leader| *leader != self.shared.me);
        let mut leaders = self.shared.leaders.lock();
        let before = match leader {
            Some(leader) => leaders.insert(id, leader),
            None => leaders.remove(&id),
        };
        if let Some(before) = before.filter(|before| Some(*before) != leader) {
            self.shared.inbox(before).leave(id);
        }
        if let Some(leader) = leader {
            self.shared.inbox(leader).follow(partition);
        }
    }

    /// The partition is not here any more.
    pub fn withdraw(&self, id: TopicPartition) {
        self.shared.repairs.forget(id);
        self.shared.metadata.partition_repaired(id);
        let mut leaders = self.shared.leaders.lock();
        if let Some(leader) = leaders.remove(&id) {
            self.shared.inbox(leader).leave(id);
        }
    }

    /// More of a partition that this broker follows is durable. Cheap; called by flushers, without
    /// a lock of the partition.
    pub fn flushed(&self, partition: &Partition) {
        let id = partition.id();
        let leader = self.shared.leaders.lock().get(&id).copied();
        if let Some(leader) = leader {
            self.shared.inbox(leader).flushed(id);
        }
    }

    /// Offsets of a partition cannot be read: what stands there is not what was written. It is
    /// fetched from another replica, if there is one. Cheap; may be called under the lock of a
    /// partition.
    pub fn damaged(&self, id: TopicPartition, offsets: &Range<Offset>) -> Hope {
        self.lost(id, offsets, Kind::Bad)
    }

    /// The same for offsets that a repair took out of the log here: if no other replica has them
    /// either, they are given up.
    pub fn removed(&self, id: TopicPartition, offsets: &Range<Offset>) -> Hope {
        self.lost(id, offsets, Kind::Removed)
    }

    fn lost(&self, id: TopicPartition, offsets: &Range<Offset>, kind: Kind) -> Hope {
        let image = self.shared.metadata.image();
        let keeps = image.partition(id).map_or(0, |it| it.replicas.len());
        if keeps < 2 || offsets.is_empty() {
            return Hope::None;
        }
        self.shared.repairs.add(id, offsets, kind)
    }

    /// Fetches and repairs until `halt`. Returns when nothing is being done to a log any more.
    pub async fn run(self, partitions: Arc<Partitions>, halt: CancellationToken) {
        let mut running = Background::default();
        let repairing = repair::repair(Arc::clone(&self.shared), partitions, halt.clone());
        running.spawn(repairing);
        let mut started = BTreeSet::new();
        loop {
            let inboxes = self.shared.inboxes.lock().clone();
            for (leader, inbox) in inboxes {
                if started.insert(leader) {
                    let fetcher = Fetcher::new(leader, Arc::clone(&self.shared), inbox);
                    running.spawn(fetcher.run(halt.clone()));
                }
            }
            tokio::select! {
                biased;
                () = halt.cancelled() => break,
                () = self.shared.another.notified() => {}
            }
        }
        running.ended().await;
    }
}

impl Shared {
    /// A connection to a broker of this number, with the directory that it has registered.
    async fn connect(&self, broker: BrokerId, purpose: Purpose) -> Result<Connection, PeerError> {
        let Some(peers) = self.metadata.peers() else {
            return Err(PeerError::NoAddress(broker));
        };
        let image = self.metadata.image();
        let registered = image.broker(broker);
        let raft_id = registered.and_then(|broker| broker.registration.raft_id);
        peers.connection(broker, raft_id, purpose).await
    }

    fn inbox(&self, leader: BrokerId) -> Arc<Inbox> {
        let mut inboxes = self.inboxes.lock();
        let known = inboxes.get(&leader).cloned();
        known.unwrap_or_else(|| {
            let inbox = Arc::<Inbox>::default();
            inboxes.insert(leader, Arc::clone(&inbox));
            self.another.notify_one();
            inbox
        })
    }
}
