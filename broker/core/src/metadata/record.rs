//! What is written to the metadata log: facts, in the past tense, with all that replay needs.
//!
//! A record kind or a meaning that older brokers do not know comes with a higher metadata version,
//! which is written first: a broker that does not know the version refuses to start.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use strandline_protocol::{BrokerId, ClusterId, DirectoryId, PartitionId, ProducerId, TopicId};

/// The newest metadata version that this broker knows, and the one in which it founds a cluster.
pub const METADATA_VERSION: u16 = 1;

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
    /// Drawn at each start.
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
    /// A broker started: its epoch is the offset of this entry, and every partition that it leads
    /// has a new leader epoch (a new incarnation never leads under its old one).
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
