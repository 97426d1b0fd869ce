//! From whom a partition is read: pure.
//!
//! *Pattern: follower reads.* A consumer that says where it runs is sent to an in-sync replica in
//! its rack (KIP-392). Only the leader sends it there, and any trouble brings it back to the
//! leader.

use std::time::Duration;

use strandline_protocol::{BrokerId, PartitionId};
use tokio::time::Instant;

use crate::routing::{Leader, Topic};

/// How long a partition is read from its leader after a replica has failed.
const LEADER_FOR: Duration = Duration::from_secs(10);

/// The same after it was only behind.
const LEADER_WHILE_BEHIND: Duration = Duration::from_secs(1);

/// How long a replica is read before the leader is asked whether it is still the one to prefer.
const REPLICA_FOR: Duration = Duration::from_secs(60);

/// Whether a fetch tells the rack: with it the leader may send elsewhere, without it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rack {
    /// It is told.
    Told,
    /// It is kept back.
    KeptBack,
}

/// From whom a partition is read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Source {
    leader: Option<Leader>,
    /// A replica that the leader has named, and until when it is read.
    replica: Option<(BrokerId, Instant)>,
    /// Until when only the leader is asked.
    leader_until: Option<Instant>,
}

impl Source {
    /// Whom to ask now, if anybody is known, and whether to tell the rack.
    pub(super) fn broker(&mut self, now: Instant) -> Option<(BrokerId, Rack)> {
        if self.replica.is_some_and(|(_, until)| until <= now) {
            self.replica = None;
        }
        if let Some((replica, _)) = self.replica {
            return Some((replica, Rack::Told));
        }
        let rack = if self.leader_until.is_some_and(|until| until > now) {
            Rack::KeptBack
        } else {
            Rack::Told
        };
        Some((self.leader?.broker?, rack))
    }

    /// Takes in what is known of the partition. Returns whether it is to be read from somebody else
    /// now.
    pub(super) fn learn(&mut self, topic: &Topic, partition: PartitionId, now: Instant) -> bool {
        let known = topic.leader(partition);
        let moved = known.is_some() && known != self.leader;
        if moved {
            self.leader = known;
            self.leader_until = None;
        }
        match self.replica {
            // What a replica in sync serves does not depend on who leads.
            Some((replica, _)) if topic.is_in_sync(partition, replica) => false,
            Some(_) => self.leave_replica(now),
            None => moved,
        }
    }

    /// Whether it is read from that replica, which does not lead.
    pub(super) fn is_replica(&self, broker: BrokerId) -> bool {
        self.replica.is_some_and(|(replica, _)| replica == broker)
    }

    /// The leader has named a replica.
    pub(super) fn prefer(&mut self, replica: BrokerId, now: Instant) {
        self.replica = Some((replica, now + REPLICA_FOR));
    }

    /// Something is wrong with the replica that is read, if one is: reads from the leader for a
    /// while. Returns whether there was one.
    pub(super) fn leave_replica(&mut self, now: Instant) -> bool {
        self.read_from_leader(now + LEADER_FOR)
    }

    /// The replica that is read does not have yet what is wanted; as [`Source::leave_replica`], for
    /// a moment.
    pub(super) fn replica_is_behind(&mut self, now: Instant) -> bool {
        self.read_from_leader(now + LEADER_WHILE_BEHIND)
    }

    fn read_from_leader(&mut self, until: Instant) -> bool {
        let left = self.replica.take().is_some();
        if left {
            self.leader_until = Some(until);
        }
        left
    }
}
