//! What partitions tell the task that fetches from one leader, between two looks of it.
//!
//! Whoever tells something holds on to nothing and waits for nothing; what is told twice is one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use strandline_protocol::TopicPartition;
use tokio::sync::Notify;

use crate::partition::Partition;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    mail: Mutex<Mail>,
    arrived: Notify,
}

/// What has been told since the last look.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// Partitions that are fetched no more.
    pub(super) left: BTreeSet<TopicPartition>,
    /// Partitions that are fetched from now on, or whose role has changed.
    pub(super) followed: BTreeMap<TopicPartition, Weak<Partition>>,
    /// Partitions of which more is durable.
    pub(super) flushed: BTreeSet<TopicPartition>,
}

impl Inbox {
    /// The partition is fetched from now on.
    pub(super) fn follow(&self, partition: &Arc<Partition>) {
        let mut mail = self.mail.lock();
        // It may be another one of that name than the one that leaves: first out, then in.
        let partition_id = partition.id();
        mail.followed
            .insert(partition_id, Arc::downgrade(partition));
        drop(mail);
        self.arrived.notify_one();
    }

    /// The partition is fetched no more.
    pub(super) fn leave(&self, id: TopicPartition) {
        let mut mail = self.mail.lock();
        mail.followed.remove(&id);
        mail.flushed.remove(&id);
        mail.left.insert(id);
        drop(mail);
        self.arrived.notify_one();
    }

    /// More of the partition is durable.
    pub(super) fn flushed(&self, id: TopicPartition) {
        let is_news = self.mail.lock().flushed.insert(id);
        if is_news {
            self.arrived.notify_one();
        }
    }

    /// Takes what was told.
    pub(super) fn take(&self) -> Mail {
        std::mem::take(&mut *self.mail.lock())
    }

    /// Waits until something is told. Cancel safe.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}
