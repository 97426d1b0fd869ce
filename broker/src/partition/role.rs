//! What a replica is to its partition, as metadata tells: leader, follower, or neither.
//!
//! *Patterns: leader and followers, generation clock, state watch.*

use std::{sync::Arc, time::Duration};

use strandline_core::{
    metadata::{BrokerState, Image, Partition as Placed},
    mutants::{self, Mutant},
    replica::{Flush, PartitionFacts, Peer, Role, RoleChange, Standing},
};
use strandline_protocol::{BrokerEpoch, BrokerId, ErrorCode, messages::Failure};
use tokio::time::Instant;

use super::Partition;

/// What an image says of a partition, as its replicas act on it.
#[must_use]
pub fn facts(
    image: &Image,
    partition: &Placed,
    min_isr: usize,
    lag_max: Duration,
) -> PartitionFacts {
    let replicas = partition.replicas.iter();
    PartitionFacts {
        leader: partition.leader,
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        replicas: replicas
            .map(|replica| peer(image, replica.broker))
            .collect(),
        isr: partition.isr.clone(),
        min_isr,
        lag_max,
    }
}

/// What an image says of the broker of a replica.
fn peer(image: &Image, broker: BrokerId) -> Peer {
    let known = image.broker(broker);
    let is_active = known.is_some_and(|known| known.state == BrokerState::Active);
    Peer {
        broker,
        epoch: known.map_or(BrokerEpoch(-1), |known| known.epoch),
        standing: if is_active {
            Standing::Eligible
        } else {
            Standing::Ineligible
        },
    }
}

impl Partition {
    /// Whether [`Partition::apply`] would make it the leader, which waits for the disk.
    #[must_use]
    pub fn would_lead(&self, facts: &PartitionFacts) -> bool {
        let inner = self.inner.lock();
        inner.replica.would_lead(self.surroundings.broker, facts)
    }

    /// Takes in what metadata says of it. A leader's epoch, and where it begins, is durable before
    /// it leads: waits for the disk then. Whoever waited for the leader of before is answered.
    pub fn apply(self: &Arc<Self>, facts: &PartitionFacts) {
        let own = self.surroundings.broker;
        let mut inner = self.inner.lock();
        let would_lead = inner.replica.would_lead(own, facts);
        let Some(log) = &mut inner.log else {
            return;
        };
        // A full disk is no reason not to lead: the first append writes the epoch if this did not,
        // or is refused.
        if would_lead
            && let Err(error) = log.lead_in(facts.leader_epoch)
            && let Some(fatal) = error.fatal()
        {
            self.directory.fail(fatal);
            return;
        }
        inner.replicas = facts.replicas.len();
        let now = self.surroundings.since_start(Instant::now());
        let (before, in_sync) = (inner.replica.role(), inner.replica.isr().len());
        let change = inner.replica.learn(own, facts, now);
        self.count(change, in_sync, inner.replica.isr().len());
        let is_over = before == Role::Leader
            && matches!(change, RoleChange::Follows { .. } | RoleChange::Idles);
        if is_over && !mutants::is_active(Mutant::WaitingEntryLostAtLeaderChange) {
            let role = inner.replica.role();
            inner.release(leadership_lost(role));
        }
        let mut effects = self.settle(&mut inner, Flush::NotNeeded);
        if change == RoleChange::Unchanged {
            // Who takes part again, and has everything, joins those in sync.
            effects.proposal = inner.proposal(now);
        } else {
            effects.tell(inner.feeds.drain());
        }
        drop(inner);
        self.perform(effects);
        let leader = match change {
            RoleChange::Unchanged => return,
            RoleChange::Leads | RoleChange::Idles => None,
            RoleChange::Follows { leader } => Some(leader),
        };
        tracing::debug!(
            topic = %self.topic, partition = %self.id.partition, epoch = %facts.leader_epoch,
            "role: {change:?}"
        );
        self.surroundings.waits.remove(self.id);
        self.surroundings.replication.assign(self, leader);
    }

    /// Answers the writes that wait for other replicas, as this broker stops and will not hear of
    /// them. They are in its log.
    pub fn await_replicas_no_more(&self) {
        let mut inner = self.inner.lock();
        if inner.replicas > 1 {
            let role = inner.replica.role();
            inner.release(leadership_lost(role));
        }
    }

    /// For metrics: so many were in sync as this leader knew, and so many are.
    fn count(&self, change: RoleChange, before: usize, after: usize) {
        let metrics = &self.surroundings.metrics;
        match change {
            RoleChange::Leads => {
                metrics.elections.increment(1);
                if after < before {
                    metrics.isr_shrinks.increment(1);
                }
            }
            RoleChange::Unchanged if after < before => metrics.isr_shrinks.increment(1),
            RoleChange::Unchanged if after > before => metrics.isr_expands.increment(1),
            _ => {}
        }
    }
}

/// What a write is answered with whose leader leads no more.
fn leadership_lost(role: Role) -> Failure {
    let next = match role {
        Role::Follower { leader } => format!("broker {leader} leads it now"),
        Role::Leader => "it stops".to_owned(),
        Role::Idle => "nobody is known to lead it now".to_owned(),
    };
    Failure::new(
        ErrorCode::LEADERSHIP_LOST,
        format!(
            "the batch was appended, but this broker leads the partition no more ({next}): send it \
             again to the next leader, which knows whether it has it"
        ),
    )
}
