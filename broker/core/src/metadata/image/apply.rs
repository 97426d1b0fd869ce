//! How a fact changes the image: it is written down, and every index follows.

use std::sync::Arc;

use strandline_protocol::{
    BrokerEpoch, BrokerId, Offset, PartitionEpoch, PartitionId, TopicId, TopicPartition,
    messages::Duty,
};

use super::{Broker, BrokerState, Contradiction, Image};
use crate::{
    metadata::{
        record::{PartitionChange, Record, Registration, Replicas},
        topic::{Partition, Topic},
    },
    mutants::{self, Mutant},
};

impl Image {
    pub(super) fn apply_record(
        &mut self,
        offset: Offset,
        record: &Record,
    ) -> Result<(), Contradiction> {
        if record.since() > self.metadata_version.max(1) {
            let (since, version) = (record.since(), self.metadata_version);
            return impossible(
                offset,
                format!("holds what metadata version {since} has and version {version} has not"),
            );
        }
        match record {
            Record::MetadataVersionSet { version } => self.metadata_version = *version,
            Record::TopicCreated {
                name,
                id,
                configs,
                partitions,
            } => {
                let name: Arc<str> = name.as_str().into();
                if self.topics.get(&name).is_some() || self.names.get(id).is_some() {
                    let (name, id) = (name.to_string(), *id);
                    return Err(Contradiction::CreatedTwice { offset, name, id });
                }
                let topic = Topic::new(Arc::clone(&name), *id, configs.clone(), offset);
                self.names.insert(*id, Arc::clone(&name));
                self.topics.insert(name, Arc::new(topic));
                self.add_partitions(offset, *id, partitions)?;
            }
            Record::TopicDeleted { id } => self.delete_topic(*id),
            Record::PartitionsAdded {
                id,
                first,
                partitions,
            } => {
                let count = self.topic_by_id(*id).map(|topic| topic.partition_count());
                if count.map(PartitionId) == Some(*first) {
                    self.add_partitions(offset, *id, partitions)?;
                }
            }
            Record::ConfigChanged { id, changes } => {
                if let Some(topic) = self.topic_mut(*id) {
                    topic.change_configs(changes);
                    topic.version = offset;
                }
            }
            Record::ProducerIdsReserved { first, count, .. } => {
                let end = first.0.saturating_add(i64::from(*count));
                self.next_producer_id = self.next_producer_id.max(end);
            }
            Record::VotersWanted { brokers } => self.wanted_voters.clone_from(brokers),
            Record::ReplicationThrottled { bytes_per_second } => {
                self.replication_throttle = *bytes_per_second;
            }
            Record::PartitionsChanged { topics } => {
                for topic in topics {
                    self.change_partitions(offset, topic.id, &topic.partitions)?;
                }
            }
            of_broker => self.apply_to_broker(offset, of_broker)?,
        }
        Ok(())
    }

    fn apply_to_broker(&mut self, offset: Offset, record: &Record) -> Result<(), Contradiction> {
        match record {
            Record::BrokerRegistered(registration) => {
                self.register(offset, registration, BrokerState::Active);
                self.lead_again(offset, registration.broker);
            }
            Record::BrokerJoined(registration) => {
                self.must_lead_nothing(offset, registration.broker)?;
                self.register(offset, registration, BrokerState::Fenced);
            }
            Record::BrokerFenced { broker, epoch } if self.is_current(*broker, *epoch) => {
                self.must_lead_nothing(offset, *broker)?;
                self.set_state(offset, *broker, BrokerState::Fenced);
            }
            Record::BrokerUnfenced { broker, epoch } if self.is_current(*broker, *epoch) => {
                self.set_state(offset, *broker, BrokerState::Active);
            }
            Record::BrokerStopping { broker, epoch } if self.is_current(*broker, *epoch) => {
                self.set_state(offset, *broker, BrokerState::Stopping);
            }
            Record::BrokerUnregistered { broker, epoch } if self.is_current(*broker, *epoch) => {
                let kept = self.kept_count(*broker);
                if kept > 0 {
                    let what = format!("removes broker {broker}, which keeps {kept} partitions");
                    return impossible(offset, what);
                }
                self.brokers.remove(broker);
            }
            Record::BrokerDutySet { broker, duty } => {
                if let Some(broker) = self.brokers.get_mut(broker) {
                    Arc::make_mut(broker).duty = *duty;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn is_current(&self, broker: BrokerId, epoch: BrokerEpoch) -> bool {
        self.brokers
            .get(&broker)
            .is_some_and(|broker| broker.epoch == epoch)
    }

    fn must_lead_nothing(&self, offset: Offset, broker: BrokerId) -> Result<(), Contradiction> {
        match self.led_count(broker) {
            0 => Ok(()),
            led => impossible(
                offset,
                format!("fences broker {broker}, which leads {led} partitions"),
            ),
        }
    }

    fn set_state(&mut self, offset: Offset, broker: BrokerId, state: BrokerState) {
        if let Some(broker) = self.brokers.get_mut(&broker) {
            let broker = Arc::make_mut(broker);
            (broker.state, broker.since) = (state, offset);
        }
    }

    fn register(&mut self, offset: Offset, registration: &Registration, state: BrokerState) {
        let before = self.brokers.get(&registration.broker);
        let broker = Broker {
            registration: registration.clone(),
            epoch: BrokerEpoch(offset.0),
            state,
            since: offset,
            duty: before.map_or(Duty::Full, |before| before.duty),
        };
        self.brokers.insert(registration.broker, Arc::new(broker));
    }

    /// `broker` has started anew: what it leads, it leads under a new epoch.
    fn lead_again(&mut self, offset: Offset, broker: BrokerId) {
        let kept = self.kept_by(broker);
        let led: Vec<(TopicPartition, Partition)> = kept
            .filter(|(_, partition)| partition.leader == Some(broker))
            .map(|(of, partition)| (of, partition.clone()))
            .collect();
        for (of, mut partition) in led {
            if !mutants::is_active(Mutant::NewIncarnationKeepsEpoch) {
                partition.leader_epoch = partition.leader_epoch.next();
            }
            partition.partition_epoch = next(partition.partition_epoch);
            partition.leader_incarnation = Some(BrokerEpoch(offset.0));
            if let Some(topic) = self.topic_mut(of.topic) {
                topic.set_partition(of.partition, partition);
                topic.version = offset;
            }
        }
    }

    fn add_partitions(
        &mut self,
        offset: Offset,
        id: TopicId,
        partitions: &[Replicas],
    ) -> Result<(), Contradiction> {
        let Some(topic) = self.topic_by_id(id) else {
            return Ok(());
        };
        let numbers = (topic.partition_count()..).map(PartitionId);
        let mut added = Vec::with_capacity(partitions.len());
        for (number, replicas) in numbers.zip(partitions) {
            let leader = replicas.first().map(|replica| replica.broker);
            let partition = Partition::new(replicas.clone(), self.incarnation(leader));
            self.must_be_possible(offset, id, number, &partition)?;
            added.push((number, partition));
        }
        for (number, partition) in &added {
            self.count_in(named(id, *number), partition);
        }
        if let Some(topic) = self.topic_mut(id) {
            topic.version = offset;
            for (number, partition) in added {
                topic.set_partition(number, partition);
            }
        }
        Ok(())
    }

    fn change_partitions(
        &mut self,
        offset: Offset,
        id: TopicId,
        changes: &[PartitionChange],
    ) -> Result<(), Contradiction> {
        for change in changes {
            let number = change.partition;
            let known = self
                .topic_by_id(id)
                .and_then(|topic| topic.partition(number));
            let Some(known) = known else {
                continue;
            };
            let same_leader = change.leader == known.leader;
            if change.partition_epoch <= known.partition_epoch
                || change.leader_epoch < known.leader_epoch
                || (change.leader_epoch == known.leader_epoch && !same_leader)
            {
                return impossible(offset, format!("takes {id}-{number} back to {change:?}"));
            }
            let changed = Partition {
                replicas: change.replicas.as_ref().unwrap_or(&known.replicas).clone(),
                isr: change.isr.clone(),
                elr: change.elr.clone(),
                adding: change.adding.clone(),
                removing: change.removing.clone(),
                recovering: change.recovering,
                leader: change.leader,
                leader_epoch: change.leader_epoch,
                partition_epoch: change.partition_epoch,
                leader_incarnation: self.incarnation(change.leader),
            };
            self.put_partition(offset, id, number, changed)?;
            if let Some(topic) = self.topic_mut(id) {
                topic.version = offset;
            }
        }
        Ok(())
    }

    /// The present incarnation of a leader.
    pub(super) fn incarnation(&self, leader: Option<BrokerId>) -> Option<BrokerEpoch> {
        self.brokers.get(&leader?).map(|broker| broker.epoch)
    }

    fn must_be_possible(
        &self,
        offset: Offset,
        id: TopicId,
        number: PartitionId,
        partition: &Partition,
    ) -> Result<(), Contradiction> {
        if partition.is_consistent() && self.leader_may_lead(partition) {
            return Ok(());
        }
        impossible(offset, format!("makes {id}-{number} {partition:?}"))
    }

    /// Puts a partition in its place, be it new or changed: every index follows.
    pub(super) fn put_partition(
        &mut self,
        offset: Offset,
        id: TopicId,
        number: PartitionId,
        partition: Partition,
    ) -> Result<(), Contradiction> {
        self.must_be_possible(offset, id, number, &partition)?;
        let of = named(id, number);
        match self.partition(of).cloned() {
            Some(before) if before.replicas == partition.replicas => {
                self.count_leaders(&before, &partition);
            }
            Some(before) => {
                self.count_out(of, &before);
                self.count_in(of, &partition);
            }
            None => self.count_in(of, &partition),
        }
        if let Some(topic) = self.topic_mut(id) {
            topic.set_partition(number, partition);
        }
        Ok(())
    }

    /// A change of the leader leaves alone who keeps what.
    fn count_leaders(&mut self, before: &Partition, after: &Partition) {
        self.leaderless_count -= usize::from(before.leader.is_none());
        self.leaderless_count += usize::from(after.leader.is_none());
        if before.leader != after.leader {
            if let Some(kept) = before.leader.and_then(|leader| self.kept.get_mut(&leader)) {
                kept.leads -= 1;
            }
            if let Some(kept) = after.leader.and_then(|leader| self.kept.get_mut(&leader)) {
                kept.leads += 1;
            }
        }
    }

    fn count_in(&mut self, of: TopicPartition, partition: &Partition) {
        self.partition_count += 1;
        self.leaderless_count += usize::from(partition.leader.is_none());
        for replica in &partition.replicas {
            *self.loads.entry(*replica).or_default() += 1;
            let kept = self.kept.entry(replica.broker).or_default();
            kept.add(of, replica.broker, partition);
        }
    }

    fn count_out(&mut self, of: TopicPartition, partition: &Partition) {
        self.partition_count -= 1;
        self.leaderless_count -= usize::from(partition.leader.is_none());
        for replica in &partition.replicas {
            if let Some(load) = self.loads.get_mut(replica) {
                *load -= 1;
                if *load == 0 {
                    self.loads.remove(replica);
                }
            }
            if let Some(kept) = self.kept.get_mut(&replica.broker) {
                kept.remove(of, replica.broker, partition);
                if kept.len() == 0 {
                    self.kept.remove(&replica.broker);
                }
            }
        }
    }

    fn delete_topic(&mut self, id: TopicId) {
        let Some(name) = self.names.remove(&id) else {
            return;
        };
        let Some(topic) = self.topics.remove(name.as_ref()) else {
            return;
        };
        for (number, partition) in topic.partitions() {
            self.count_out(named(id, number), partition);
        }
    }

    pub(super) fn topic_mut(&mut self, id: TopicId) -> Option<&mut Topic> {
        let name = self.names.get(&id)?;
        self.topics.get_mut(name.as_ref()).map(Arc::make_mut)
    }
}

const fn named(topic: TopicId, partition: PartitionId) -> TopicPartition {
    TopicPartition { topic, partition }
}

fn next(epoch: PartitionEpoch) -> PartitionEpoch {
    PartitionEpoch(epoch.0.saturating_add(1))
}

fn impossible<T>(offset: Offset, what: String) -> Result<T, Contradiction> {
    Err(Contradiction::Impossible { offset, what })
}
