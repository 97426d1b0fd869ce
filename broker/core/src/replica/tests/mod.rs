//! The rules of replication, one test each, named after what it says.

mod acks;
mod alone;
mod high_watermark;
mod isr;
mod parting;
mod progress;
mod roles;

use std::time::Duration;

use strandline_protocol::{
    BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionEpoch, messages::Failure,
};

use super::{
    FollowerFetch, FollowerFlush, IsrProposal, Opened, PartitionFacts, Peer, Replica, RoleChange,
    Standing, divergence::FetchAnswer,
};
use crate::FlushMode;

const ONE: BrokerId = BrokerId(1);
const TWO: BrokerId = BrokerId(2);
const THREE: BrokerId = BrokerId(3);
const EPOCH: LeaderEpoch = LeaderEpoch(5);
const LAG_MAX: Duration = Duration::from_secs(10);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Broker n has the epoch 100 n.
fn peer(broker: BrokerId) -> Peer {
    Peer {
        broker,
        epoch: BrokerEpoch(i64::from(broker.0) * 100),
        standing: Standing::Eligible,
    }
}

/// Three replicas, led by broker 1, of which two must be in sync.
fn facts(isr: &[BrokerId]) -> PartitionFacts {
    PartitionFacts {
        leader: Some(ONE),
        leader_epoch: EPOCH,
        partition_epoch: PartitionEpoch(20),
        replicas: [ONE, TWO, THREE].map(peer).to_vec(),
        isr: isr.to_vec(),
        min_isr: 2,
        lag_max: LAG_MAX,
    }
}

/// The same partition at its next epoch.
fn changed(isr: &[BrokerId]) -> PartitionFacts {
    PartitionFacts {
        partition_epoch: PartitionEpoch(21),
        ..facts(isr)
    }
}

fn opened(log_end: i64) -> Opened {
    Opened {
        log_start: Offset(0),
        log_end: Offset(log_end),
        durable_end: Offset(log_end),
        high_watermark: Offset(5),
    }
}

/// Broker 1 since 0 ms, with 10 records from before, of which 5 are known to be committed.
fn leader(flush: FlushMode, isr: &[BrokerId]) -> Replica {
    let mut replica = Replica::open(flush, opened(10));
    assert_eq!(replica.learn(ONE, &facts(isr), ms(0)), RoleChange::Leads);
    replica
}

/// Broker 2, in the same place.
fn follower(flush: FlushMode) -> Replica {
    let mut replica = Replica::open(flush, opened(10));
    let change = replica.learn(TWO, &facts(&[ONE, TWO, THREE]), ms(0));
    assert_eq!(change, RoleChange::Follows { leader: ONE });
    replica
}

fn fetch_of(broker: BrokerId, log_end: i64, durable_end: i64) -> FollowerFetch {
    FollowerFetch {
        broker,
        broker_epoch: peer(broker).epoch,
        leader_epoch: EPOCH,
        fetch_offset: Offset(log_end),
        last_epoch: Some(EPOCH),
        durable_offset: Offset(durable_end),
    }
}

fn flush_of(broker: BrokerId, durable_end: i64) -> FollowerFlush {
    FollowerFlush {
        broker,
        broker_epoch: peer(broker).epoch,
        leader_epoch: EPOCH,
        durable_offset: Offset(durable_end),
    }
}

/// The leader judges a fetch of a log that is the beginning of its own.
fn judge(
    replica: &mut Replica,
    fetch: &FollowerFetch,
    now: Duration,
) -> Result<FetchAnswer, Failure> {
    let end = replica.marks().log_end;
    replica.follower_fetched(fetch, |epoch| Some((epoch, end)), now)
}

/// A follower fetches; all that it has is durable.
fn fetched(replica: &mut Replica, broker: BrokerId, log_end: i64, now: Duration) {
    let answer = judge(replica, &fetch_of(broker, log_end, log_end), now);
    assert_eq!(answer, Ok(FetchAnswer::Records));
}

/// The leader appends up to `end`, and flushes.
fn appended(replica: &mut Replica, end: i64) {
    let _ = replica.appended(Offset(end));
    let _ = replica.flushed(Offset(end));
}

fn high_watermark(replica: &Replica) -> i64 {
    replica.marks().high_watermark.0
}

fn proposed(proposal: Option<IsrProposal>) -> Option<Vec<i32>> {
    let isr = proposal?.isr;
    Some(isr.iter().map(|replica| replica.broker_id.0).collect())
}

fn code<T>(result: Result<T, Failure>) -> Option<ErrorCode> {
    result.err().map(|failure| failure.error)
}
