//! What is written to the metadata log: facts, in the past tense, with all that replay needs.
//!
//! A record kind or a meaning that older brokers do not know comes with a higher metadata version,
//! which is written first: a broker that does not know the version refuses to start.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use strandline_protocol::{
    BrokerEpoch, BrokerId, ClusterId, DirectoryId, LeaderEpoch, PartitionEpoch, PartitionId,
    ProducerId, TopicId, messages::Duty,
};

/// The newest metadata version that this broker knows, and the one in which it founds a cluster.
///
/// Version 1 knows one broker. Version 2 adds what several need: brokers that are fenced, stop and
/// leave, changes of partitions, and wishes about the voters. Version 3 adds what replication
/// needs: partitions without anybody in sync, replicas that are eligible, moved or recovering,
/// duties of brokers, and a throttle.
pub const METADATA_VERSION: u16 = 3;

/// The first version with replication: a topic has several replicas, and nobody may be in sync.
pub(super) const REPLICATION_VERSION: u16 = 3;

/// What a registration that does not tell stands for: such brokers know the first version only.
const FIRST_VERSION: u16 = 1;

/// Where one copy of a partition lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Replica {
    /// On which broker.
    pub broker: BrokerId,
    /// In which of its data directories.
    pub directory: DirectoryId,
}

/// The replicas of one partition in order of preference; the first one leads.
pub type Replicas = Vec<Replica>;

/// A broker that has started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its number.
    pub broker: BrokerId,
    /// Drawn at each start, see [`incarnation`].
    pub incarnation: [u8; 16],
    /// The host that it advertises.
    pub host: String,
    /// The port that it advertises.
    pub port: u16,
    /// Its rack, where one is configured.
    #[serde(default)]
    pub rack: Option<String>,
    /// Its data directories, in their configured order.
    pub directories: Vec<DirectoryId>,
    /// The random Raft id of its first directory; none if a broker of the first metadata version
    /// wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raft_id: Option<u64>,
    /// Its software, as `name/version`; empty if a broker of the first metadata version wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub software: String,
    /// The newest metadata version that it knows.
    #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
    pub metadata_version_max: u16,
    /// Since version 3. Those of its directories whose last run may have lost what was not fsynced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lossy: Vec<DirectoryId>,
}

/// The incarnation of a start of a broker: the epoch that the run before it has left in the first
/// data directory, `-1` if there was none, and what was drawn.
///
/// *Pattern: generation clock.* Who names an epoch has read it under the lock of that directory,
/// which the process that had it must have left: see [`Registration::succeeds`].
#[must_use]
pub fn incarnation(last_run: Option<BrokerEpoch>, drawn: u64) -> [u8; 16] {
    let last_run = u128::from(last_run.map_or(-1, |epoch| epoch.0).cast_unsigned());
    ((last_run << 64) | u128::from(drawn)).to_be_bytes()
}

impl Registration {
    /// Whether this start proves that the process which was registered as `before`, in `epoch`, has
    /// ended: it has the same first data directory, and found that epoch in it. A registration that
    /// was under way for long and comes after a newer one proves nothing.
    #[must_use]
    pub fn succeeds(&self, before: &Self, epoch: BrokerEpoch) -> bool {
        let found = self.incarnation.first_chunk().copied();
        self.raft_id.is_some()
            && self.raft_id == before.raft_id
            && found.map(i64::from_be_bytes) == Some(epoch.0)
    }
}

const fn first_version() -> u16 {
    FIRST_VERSION
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands fields out by reference"
)]
const fn is_first_version(version: &u16) -> bool {
    *version == FIRST_VERSION
}

/// What a partition is from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionChange {
    /// Its number.
    pub partition: PartitionId,
    /// Who leads it; none if nobody can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<BrokerId>,
    /// How many leaders it has had. A change of the leader raises it.
    pub leader_epoch: LeaderEpoch,
    /// How often it has changed. Every change raises it.
    pub partition_epoch: PartitionEpoch,
    /// The brokers whose copies are in sync. None of them since version 3: nobody leads then.
    pub isr: Vec<BrokerId>,
    /// Since version 3. The brokers that are not in sync, and have all that was acknowledged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elr: Vec<BrokerId>,
    /// Since version 3. Whether the leader was elected although it may lack what was acknowledged,
    /// and nobody has been in sync with it since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovering: bool,
    /// Since version 3. Its replicas from now on; none if they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Replicas>,
    /// Since version 3. Those of its replicas that a reassignment adds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adding: Vec<BrokerId>,
    /// Since version 3. Those of its replicas that a reassignment takes away once those that it
    /// adds are in sync.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removing: Vec<BrokerId>,
}

impl PartitionChange {
    /// The first metadata version in which it may be written.
    fn since(&self) -> u16 {
        let is_older = !self.isr.is_empty()
            && self.elr.is_empty()
            && !self.recovering
            && self.replicas.is_none()
            && self.adding.is_empty()
            && self.removing.is_empty();
        if is_older { 2 } else { REPLICATION_VERSION }
    }
}

/// What has changed in the partitions of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedTopic {
    /// The topic.
    pub id: TopicId,
    /// Its changed partitions, in order.
    pub partitions: Vec<PartitionChange>,
}

/// One fact. Applying it cannot fail: whatever could be refused was refused before it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// What the log may hold from here on.
    MetadataVersionSet {
        /// The version.
        version: u16,
    },
    /// A topic came into being, with its first partitions.
    TopicCreated {
        /// Its name.
        name: String,
        /// Its identity.
        id: TopicId,
        /// Its configuration where it differs from the defaults; checked.
        configs: BTreeMap<String, String>,
        /// Its partitions from 0 on. More of them may follow in [`Record::PartitionsAdded`].
        partitions: Vec<Replicas>,
    },
    /// A topic and all that was in it is gone.
    TopicDeleted {
        /// Its identity.
        id: TopicId,
    },
    /// A topic has more partitions.
    PartitionsAdded {
        /// Of which topic.
        id: TopicId,
        /// The number of the first new one.
        first: PartitionId,
        /// The new ones, in their order.
        partitions: Vec<Replicas>,
    },
    /// The configuration of a topic changed.
    ConfigChanged {
        /// Of which topic.
        id: TopicId,
        /// New values; none is back at the default. Other keys stay.
        changes: BTreeMap<String, Option<String>>,
    },
    /// A broker that is alone in its cluster started, and takes part at once: its epoch is the
    /// offset of this entry, and every partition that it leads has a new leader epoch (a new
    /// incarnation never leads under its old one). That is the one fact about partitions that no
    /// record lists, so that a broker of a hundred thousand starts with one small entry.
    BrokerRegistered(Registration),
    /// A broker may hand out these producer ids.
    ProducerIdsReserved {
        /// Which broker.
        broker: BrokerId,
        /// The first id.
        first: ProducerId,
        /// How many.
        count: u32,
    },
    /// Since version 2. A broker of a cluster started: its epoch is the offset of this entry. It is
    /// fenced until it has caught up. What it led before was given away before.
    BrokerJoined(Registration),
    /// Since version 2. A broker was not heard of: it leads nothing any more.
    BrokerFenced {
        /// Which broker.
        broker: BrokerId,
        /// Its epoch.
        epoch: BrokerEpoch,
    },
    /// Since version 2. A broker takes part: it may lead, and is given partitions to keep.
    BrokerUnfenced {
        /// Which broker.
        broker: BrokerId,
        /// Its epoch.
        epoch: BrokerEpoch,
    },
    /// Since version 2. A broker is about to stop: it is given nothing more, and goes on leading
    /// what nobody else can lead.
    BrokerStopping {
        /// Which broker.
        broker: BrokerId,
        /// Its epoch.
        epoch: BrokerEpoch,
    },
    /// Since version 2. A broker that keeps nothing is gone for good.
    BrokerUnregistered {
        /// Which broker.
        broker: BrokerId,
        /// Its last epoch.
        epoch: BrokerEpoch,
    },
    /// Since version 2. Leaders and in-sync replicas changed, in at most
    /// [`super::limits::PARTITIONS_PER_RECORD_MAX`] partitions.
    PartitionsChanged {
        /// By topic.
        topics: Vec<ChangedTopic>,
    },
    /// Since version 2. Somebody has said who shall vote in the metadata quorum.
    VotersWanted {
        /// The brokers; none if that is left to the controller again.
        brokers: Vec<BrokerId>,
    },
    /// Since version 3. Somebody has said what a broker is to do.
    BrokerDutySet {
        /// Which broker.
        broker: BrokerId,
        /// Its duty, which outlasts its starts.
        duty: Duty,
    },
    /// Since version 3. Somebody has said how fast replicas that are being added may be filled.
    ReplicationThrottled {
        /// How many bytes a second each broker may fetch for them; 0 for no limit.
        bytes_per_second: u64,
    },
}

impl Record {
    /// The first metadata version in which it may be written.
    #[must_use]
    pub fn since(&self) -> u16 {
        match self {
            Self::MetadataVersionSet { .. }
            | Self::TopicCreated { .. }
            | Self::TopicDeleted { .. }
            | Self::PartitionsAdded { .. }
            | Self::ConfigChanged { .. }
            | Self::BrokerRegistered(_)
            | Self::ProducerIdsReserved { .. } => 1,
            Self::BrokerJoined(_)
            | Self::BrokerFenced { .. }
            | Self::BrokerUnfenced { .. }
            | Self::BrokerStopping { .. }
            | Self::BrokerUnregistered { .. }
            | Self::VotersWanted { .. } => 2,
            Self::PartitionsChanged { topics } => {
                let changes = topics.iter().flat_map(|topic| &topic.partitions);
                changes.map(PartitionChange::since).max().unwrap_or(2)
            }
            Self::BrokerDutySet { .. } | Self::ReplicationThrottled { .. } => REPLICATION_VERSION,
        }
    }
}

/// Somebody who votes in the metadata quorum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voter {
    /// The random Raft id of its directory.
    pub raft_id: u64,
    /// Its broker's number.
    pub broker: BrokerId,
}

/// Who keeps the metadata log; the first entry founds the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The cluster.
    pub cluster: ClusterId,
    /// Who votes.
    pub voters: Vec<Voter>,
    /// Who voted before, while the change from them to `voters` is under way: a majority of both is
    /// needed then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub voters_before: Vec<Voter>,
    /// Who keeps a copy and has no vote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learners: Vec<Voter>,
}

impl Membership {
    /// Settled voters, and nobody else.
    #[must_use]
    pub const fn of(cluster: ClusterId, voters: Vec<Voter>) -> Self {
        Self {
            cluster,
            voters,
            voters_before: Vec::new(),
            learners: Vec::new(),
        }
    }

    /// Everybody who keeps the log. Who votes before and after a change is named twice.
    pub fn members(&self) -> impl Iterator<Item = &Voter> {
        self.voters
            .iter()
            .chain(&self.voters_before)
            .chain(&self.learners)
    }

    /// Whether `raft_id` is a majority by itself.
    #[must_use]
    pub fn is_alone(&self, raft_id: u64) -> bool {
        let [only] = self.voters.as_slice() else {
            return false;
        };
        only.raft_id == raft_id && self.voters_before.is_empty()
    }
}
