//! Partitions on their way from one state to the next, and the records that say so.
//!
//! *Pattern: generation clock.* Every change raises the partition's epoch; another leader, or a
//! replica that is taken away, raises the leader's as well.

use std::collections::BTreeMap;

use strandline_protocol::{BrokerId, PartitionEpoch, TopicPartition};

use super::electorate::{Elected, Footing};
use crate::metadata::{
    limits::{COPIES_PER_RECORD_MAX, PARTITIONS_PER_RECORD_MAX},
    record::{ChangedTopic, PartitionChange, REPLICATION_VERSION, Record},
    topic::{Partition, Topic},
};

/// One partition as a decision wants it; it begins as it is.
pub(super) struct Draft<'a> {
    pub(super) of: TopicPartition,
    pub(super) topic: &'a Topic,
    pub(super) before: &'a Partition,
    /// What becomes of it. Epochs are reckoned at the end.
    pub(super) next: Partition,
    /// Whose copy may lack what was acknowledged, or is damaged.
    untrusted: Option<BrokerId>,
    is_confirmed: bool,
    version: u16,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        of: TopicPartition,
        topic: &'a Topic,
        before: &'a Partition,
        version: u16,
    ) -> Self {
        Self {
            of,
            topic,
            before,
            next: before.clone(),
            untrusted: None,
            is_confirmed: false,
            version,
        }
    }

    /// What people call it.
    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.topic.name, self.of.partition)
    }

    /// `broker` is in sync no more; it stays eligible as long as too few others are in sync. Before
    /// there was replication, the last one stayed in sync, even while nobody led.
    pub(super) fn leaves_isr(&mut self, broker: BrokerId) {
        let others = |one: &BrokerId| *one != broker;
        if self.version >= REPLICATION_VERSION || self.next.isr.iter().any(others) {
            self.next.isr.retain(others);
        }
        self.reckon_eligible();
    }

    /// The copy of `broker` may lack what was acknowledged: it is neither in sync nor eligible. The
    /// only copy that there is stays what it was, as there is nothing better.
    pub(super) fn distrusts(&mut self, broker: BrokerId) {
        let before = self.before;
        let is_only = before
            .replicas
            .iter()
            .all(|replica| replica.broker == broker || before.adding.contains(&replica.broker));
        if self.version >= REPLICATION_VERSION && (!is_only || self.has_another(broker)) {
            self.untrusted = Some(broker);
        }
        self.leaves_isr(broker);
    }

    /// Whether somebody else than `broker` counts as having everything.
    pub(super) fn has_another(&self, broker: BrokerId) -> bool {
        let mut claims = self.before.isr.iter().chain(&self.before.elr);
        claims.any(|one| *one != broker)
    }

    /// Who leads from now on.
    pub(super) fn led_by(&mut self, elected: Elected) {
        self.next.leader = Some(elected.broker);
        if elected.footing != Footing::InSync {
            self.next.isr = vec![elected.broker];
        }
        if elected.footing == Footing::Unclean {
            self.next.recovering = true;
        }
        self.reckon_eligible();
    }

    /// These are in sync from now on.
    pub(super) fn in_sync(&mut self, isr: Vec<BrokerId>) {
        self.next.isr = isr;
        self.reckon_eligible();
    }

    /// The partition has a new epoch, even if nothing else changes: whoever asked for what is
    /// there already learns of it in the same way.
    pub(super) const fn confirm(&mut self) {
        self.is_confirmed = true;
    }

    /// Who is eligible follows from who is in sync. To be called after every change of that.
    fn reckon_eligible(&mut self) {
        self.next.elr = self.eligible();
    }

    /// The eligible replicas (KIP-966): as long as fewer than the minimum are in sync nothing more
    /// is acknowledged, so that whoever was in sync until then has everything.
    fn eligible(&self) -> Vec<BrokerId> {
        let (before, next) = (self.before, &self.next);
        let enough = self.topic.min_isr(next.factor());
        if self.version < REPLICATION_VERSION || next.isr.len() >= enough {
            return Vec::new();
        }
        next.replicas
            .iter()
            .map(|replica| replica.broker)
            .filter(|one| before.isr.contains(one) || before.elr.contains(one))
            .filter(|one| !next.isr.contains(one) && self.untrusted != Some(*one))
            .collect()
    }

    /// What is to be written; none if nothing changes.
    pub(super) fn finish(self) -> Option<PartitionChange> {
        let (before, next) = (self.before, self.next);
        if next == *before && !self.is_confirmed {
            return None;
        }
        let taken_away = |broker: BrokerId| next.replica_on(broker).is_none();
        let is_smaller = before
            .replicas
            .iter()
            .any(|replica| taken_away(replica.broker));
        let leader_epoch = if next.leader == before.leader && !is_smaller {
            before.leader_epoch
        } else {
            before.leader_epoch.next()
        };
        Some(PartitionChange {
            partition: self.of.partition,
            leader: next.leader,
            leader_epoch,
            partition_epoch: PartitionEpoch(before.partition_epoch.0.saturating_add(1)),
            isr: next.isr,
            elr: next.elr,
            recovering: next.recovering,
            replicas: (next.replicas != before.replicas).then_some(next.replicas),
            adding: next.adding,
            removing: next.removing,
        })
    }
}

/// Changes of partitions on their way into records.
#[derive(Default)]
pub(super) struct Changes(BTreeMap<TopicPartition, PartitionChange>);

impl Changes {
    /// Adds what differs from before, if anything does, and tells it.
    pub(super) fn add(&mut self, draft: Draft<'_>) -> Option<&PartitionChange> {
        let of = draft.of;
        let change = draft.finish()?;
        self.0.insert(of, change);
        self.0.get(&of)
    }

    /// Adds those of `others`, which are about other partitions.
    pub(super) fn merge(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// What becomes of the partitions.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &PartitionChange)> {
        self.0.iter()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// As few records as hold them, each valid alone.
    pub(super) fn into_records(self) -> Vec<Record> {
        let mut records = Vec::new();
        let (mut topics, mut count, mut copies) = (Vec::<ChangedTopic>::new(), 0, 0);
        for (of, change) in self.0 {
            let size = copies_in(&change);
            if count == PARTITIONS_PER_RECORD_MAX || copies + size > COPIES_PER_RECORD_MAX {
                let topics = std::mem::take(&mut topics);
                records.push(Record::PartitionsChanged { topics });
                (count, copies) = (0, 0);
            }
            (count, copies) = (count + 1, copies + size);
            match topics.last_mut() {
                Some(topic) if topic.id == of.topic => topic.partitions.push(change),
                _ => topics.push(ChangedTopic {
                    id: of.topic,
                    partitions: vec![change],
                }),
            }
        }
        if count > 0 {
            records.push(Record::PartitionsChanged { topics });
        }
        records
    }
}

/// How much a change adds to the size of a record: a replica is told with its directory, which is
/// worth four numbers of brokers.
fn copies_in(change: &PartitionChange) -> usize {
    let replicas = change.replicas.as_ref().map_or(0, Vec::len);
    let brokers = [&change.isr, &change.elr, &change.adding, &change.removing];
    replicas * 4 + brokers.iter().map(|list| list.len()).sum::<usize>()
}
