//! What metadata says of a partition, as far as a replica of it acts on it.

use std::time::Duration;

use strandline_protocol::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch};

/// Whether a broker may be in sync, as metadata has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is registered, not fenced and not about to stop.
    Eligible,
    /// It is not.
    Ineligible,
}

/// The broker of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which broker.
    pub broker: BrokerId,
    /// Its incarnation; a fetch of an older one is refused (KIP-903).
    pub epoch: BrokerEpoch,
    /// Whether it may join those that are in sync.
    pub standing: Standing,
}

/// One partition as metadata has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionFacts {
    /// Who leads it; none while nobody can.
    pub leader: Option<BrokerId>,
    /// How many leaders it has had.
    pub leader_epoch: LeaderEpoch,
    /// How often it has changed.
    pub partition_epoch: PartitionEpoch,
    /// Its replicas, in order of preference; this broker is one of them.
    pub replicas: Vec<Peer>,
    /// Who is in sync: what the controller has committed.
    pub isr: Vec<BrokerId>,
    /// How many must be in sync for anything to be committed: the smaller one of
    /// `min.insync.replicas` and the replication factor; at least 1.
    pub min_isr: usize,
    /// How long a follower may be behind before it counts as out of sync.
    pub lag_max: Duration,
}

/// What a replica is to its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It appends what producers send.
    Leader,
    /// It copies the log of its leader.
    Follower {
        /// The leader.
        leader: BrokerId,
    },
    /// Nobody leads, or metadata has not been heard of yet.
    Idle,
}

/// What became of the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what waits for the leader of before has to be answered"]
pub enum RoleChange {
    /// The role and its epoch are as they were; what is in sync may have changed.
    Unchanged,
    /// It leads now, in a new epoch. Writes that wait go on waiting: their records stay in the
    /// log. Long polls and fetches of followers that wait have to look again.
    Leads,
    /// It follows another leader now, or in a new epoch. Writes that wait have an unknown outcome:
    /// `LEADERSHIP_LOST`.
    Follows {
        /// Whom to fetch from.
        leader: BrokerId,
    },
    /// Nobody leads now. Writes that wait have an unknown outcome: `LEADERSHIP_LOST`.
    Idles,
}
