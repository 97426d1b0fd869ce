//! The controller of [`strandline_core::metadata`] with one topic of one partition, and the images
//! that its log makes one after the other.
//!
//! It never fails and never forgets: what a quorum makes of it is no part of this model.

use std::collections::BTreeMap;

use strandline_core::{
    FlushMode, TopicConfig,
    metadata::{
        self, BrokerState, Command, Defaults, Entry, Membership, Partition, Registration, Reply,
        Topic, Voter,
    },
    replica::{IsrProposal, PartitionFacts, Peer, Standing},
};
use strandline_protocol::{
    BrokerEpoch, BrokerId, ClusterId, DirectoryId, ErrorCode, LeaderEpoch, Offset, PartitionEpoch,
    PartitionId, TopicId,
    messages::{
        AlterConfigsRequest, AlterPartition, AlterPartitionsRequest, BrokerHeartbeatRequest,
        ConfigChange, CreateTopicsRequest, DrainBrokerRequest, Duty, ElectLeadersRequest, Election,
        Failure, NewTopic, PartitionName,
    },
};

use super::LAG_MAX;

/// How long a broker may be silent, in milliseconds.
const SESSION_MS: u64 = 300;

const TOPIC: &str = "t";
const PARTITION: PartitionId = PartitionId(0);

/// What everybody learns, sooner or later.
#[derive(Clone, Debug)]
pub struct Image {
    /// The entry that made it.
    version: Offset,
    pub facts: PartitionFacts,
    pub flush: FlushMode,
}

/// Whether what was not flushed may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Lossless,
    Lossy,
}

#[derive(Debug)]
pub struct Controller {
    decides: metadata::Controller,
    image: metadata::Image,
    brokers: Vec<BrokerId>,
    entries: i64,
    drawn: u128,
    /// When each was heard last.
    heard_at: BTreeMap<BrokerId, u64>,
    images: Vec<Image>,
}

impl Controller {
    /// Brokers that are registered and take part, and the topic.
    pub fn new(brokers: Vec<BrokerId>, min_isr: usize, flush: FlushMode) -> Self {
        let mut controller = Self {
            decides: metadata::Controller::new(Defaults::default()),
            image: metadata::Image::default(),
            brokers: brokers.clone(),
            entries: -1,
            drawn: 0,
            heard_at: BTreeMap::new(),
            images: Vec::new(),
        };
        let voters = brokers.iter().map(|broker| Voter {
            raft_id: raft_id(*broker),
            broker: *broker,
        });
        let membership = Membership::of(ClusterId([7; 16]), voters.collect());
        controller.append(&Entry::Membership(membership));
        for broker in &brokers {
            let registered = controller.register(*broker, Start::Lossless, 0);
            let epoch = registered.expect("nobody else has this number").0;
            controller.heard(*broker, epoch, Offset(controller.entries), 0);
        }
        let configs = [
            ("flush", flush.name().to_owned()),
            ("min.insync.replicas", min_isr.to_string()),
        ];
        let topic = NewTopic {
            name: TOPIC.into(),
            partitions: Some(1),
            replication_factor: Some(brokers.len() as i16),
            configs: configs.map(|(key, value)| (key.to_owned(), value)).into(),
        };
        let created = controller.propose(&Command::CreateTopics(CreateTopicsRequest {
            topics: vec![topic],
            validate_only: false,
        }));
        created.expect("it can be created");
        controller
    }

    pub fn images(&self) -> &[Image] {
        &self.images
    }

    pub fn leader(&self) -> Option<(BrokerId, LeaderEpoch)> {
        let (_, partition) = self.partition()?;
        Some((partition.leader?, partition.leader_epoch))
    }

    pub fn isr(&self) -> &[BrokerId] {
        self.partition()
            .map_or(&[], |(_, partition)| &partition.isr)
    }

    /// Whether nobody is left that may lead.
    pub fn is_lost(&self) -> bool {
        self.partition()
            .is_some_and(|(_, partition)| partition.isr.is_empty() && partition.elr.is_empty())
    }

    /// A broker has started. Returns its epoch, and the image that has it.
    ///
    /// # Errors
    /// The controller does not know that the process before has ended.
    pub fn register(
        &mut self,
        broker: BrokerId,
        start: Start,
        now: u64,
    ) -> Result<(BrokerEpoch, usize), Failure> {
        let before = self.image.broker(broker).map(|known| known.epoch);
        let directory = DirectoryId([broker.0 as u8; 16]);
        self.drawn += 1;
        let registration = Registration {
            broker,
            incarnation: metadata::incarnation(before, self.drawn as u64),
            host: "localhost".into(),
            port: 9_290,
            rack: None,
            directories: vec![directory],
            raft_id: Some(raft_id(broker)),
            software: "strandline/0.0.0".into(),
            metadata_version_max: metadata::METADATA_VERSION,
            lossy: match start {
                Start::Lossless => Vec::new(),
                Start::Lossy => vec![directory],
            },
        };
        self.propose(&Command::RegisterBroker(registration))?;
        self.heard_at.insert(broker, now);
        let epoch = self.image.broker(broker).map(|known| known.epoch);
        Ok((
            epoch.expect("it is registered"),
            self.images.len().saturating_sub(1),
        ))
    }

    /// A broker is alive, and has applied the images up to `seen`.
    pub fn heartbeat(&mut self, broker: BrokerId, epoch: BrokerEpoch, seen: usize, now: u64) {
        self.heard(broker, epoch, self.images[seen].version, now);
    }

    fn heard(&mut self, broker: BrokerId, epoch: BrokerEpoch, applied: Offset, now: u64) {
        let is_known = self
            .image
            .broker(broker)
            .is_some_and(|known| known.epoch == epoch);
        if !is_known {
            return;
        }
        self.heard_at.insert(broker, now);
        let heartbeat = BrokerHeartbeatRequest {
            broker_id: broker,
            broker_epoch: epoch,
            applied,
            stopping: false,
            offline: Vec::new(),
            recovering: false,
            damaged: Vec::new(),
            full: Vec::new(),
        };
        if let Some(command) = metadata::due_at_heartbeat(&self.image, &heartbeat) {
            let _ = self.propose(&command);
        }
    }

    /// Rule 30: fences the one that has been silent for too long, one at a time.
    pub fn expire(&mut self, now: u64) {
        let silent = self.image.brokers().find(|known| {
            let heard_at = self.heard_at.get(&known.registration.broker);
            known.state == BrokerState::Active
                && heard_at.is_none_or(|heard_at| heard_at + SESSION_MS <= now)
        });
        if let Some(known) = silent {
            let (broker, epoch) = (known.registration.broker, known.epoch);
            let _ = self.propose(&Command::FenceBroker { broker, epoch });
        }
    }

    /// An operator takes leaderships from `broker`, or gives them back.
    pub fn drain(&mut self, broker: BrokerId, duty: Duty) {
        let request = DrainBrokerRequest {
            broker_id: broker,
            duty,
        };
        let _ = self.propose(&Command::DrainBroker(request));
    }

    /// An operator wants the preferred leader.
    pub fn prefer(&mut self) {
        let Some((topic, _)) = self.partition() else {
            return;
        };
        let name = PartitionName {
            topic_id: topic.id,
            partition: PARTITION,
        };
        let _ = self.propose(&Command::ElectLeaders(ElectLeadersRequest {
            election: Election::Preferred,
            partitions: vec![name],
        }));
    }

    pub fn configure(&mut self, key: &str, value: &str) {
        let change = ConfigChange {
            key: key.to_owned(),
            value: Some(value.to_owned()),
        };
        let _ = self.propose(&Command::AlterConfigs(AlterConfigsRequest {
            topic: TOPIC.into(),
            changes: vec![change],
            validate_only: false,
        }));
    }

    /// What becomes of a leader's proposal.
    pub fn alter(
        &mut self,
        sender: BrokerId,
        sender_epoch: BrokerEpoch,
        proposal: &IsrProposal,
    ) -> (ErrorCode, PartitionEpoch) {
        let partition = AlterPartition {
            topic_id: self
                .partition()
                .map_or(TopicId([0; 16]), |(topic, _)| topic.id),
            partition: PARTITION,
            leader_epoch: proposal.leader_epoch,
            partition_epoch: proposal.partition_epoch,
            isr: proposal.isr.clone(),
        };
        let request = AlterPartitionsRequest {
            broker_id: sender,
            broker_epoch: sender_epoch,
            partitions: vec![partition],
        };
        match self.propose(&Command::AlterPartitions(request)) {
            Ok(Reply::AlterPartitions(response)) => response.partitions.first().map_or(
                (ErrorCode::UNKNOWN_SERVER_ERROR, PartitionEpoch(-1)),
                |altered| (altered.failure.error, altered.partition_epoch),
            ),
            Ok(_) => (ErrorCode::UNKNOWN_SERVER_ERROR, PartitionEpoch(-1)),
            Err(failure) => (failure.error, PartitionEpoch(-1)),
        }
    }

    fn partition(&self) -> Option<(&Topic, &Partition)> {
        let topic = self.image.topic(TOPIC)?;
        Some((topic, topic.partition(PARTITION)?))
    }

    fn propose(&mut self, command: &Command) -> Result<Reply, Failure> {
        let drawn = &mut self.drawn;
        let mut random = || {
            *drawn += 1;
            drawn.to_be_bytes()
        };
        let leased = self.brokers.iter().copied().collect();
        let decision = self
            .decides
            .decide(&self.image, command, &leased, &mut random)?;
        if let Command::RegisterBroker(registration) = command {
            self.decides.broker_started(registration);
        }
        for entry in Entry::pack(decision.records) {
            self.append(&entry);
        }
        Ok(decision.reply)
    }

    fn append(&mut self, entry: &Entry) {
        self.entries += 1;
        self.image
            .apply(Offset(self.entries), LeaderEpoch(1), entry);
        if let Some((topic, partition)) = self.partition() {
            let image = Image {
                version: Offset(self.entries),
                facts: self.facts(topic, partition),
                flush: TopicConfig::resolve(&TopicConfig::default(), &topic.configs).flush,
            };
            self.images.push(image);
        }
    }

    fn facts(&self, topic: &Topic, partition: &Partition) -> PartitionFacts {
        let peer = |broker: BrokerId| {
            let known = self.image.broker(broker);
            let is_active = known.is_some_and(|known| known.state == BrokerState::Active);
            Peer {
                broker,
                epoch: known.map_or(BrokerEpoch(0), |known| known.epoch),
                standing: if is_active {
                    Standing::Eligible
                } else {
                    Standing::Ineligible
                },
            }
        };
        PartitionFacts {
            leader: partition.leader,
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            replicas: partition
                .replicas
                .iter()
                .map(|it| peer(it.broker))
                .collect(),
            isr: partition.isr.clone(),
            min_isr: topic.min_isr(partition.factor()),
            lag_max: LAG_MAX,
        }
    }
}

fn raft_id(broker: BrokerId) -> u64 {
    40 + broker.0 as u64
}
