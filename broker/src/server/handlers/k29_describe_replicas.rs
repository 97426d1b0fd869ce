//! `DescribeReplicas` (29), versions 0 to 0: how far the replicas of partitions are.

use std::time::Duration;

use strandline_core::replica::FollowerState;
use strandline_protocol::{
    ApiKey, LeaderEpoch, Offset, TopicPartition,
    messages::{
        DescribeReplicasRequest, DescribeReplicasResponse, DescribedReplicas, Failure,
        PartitionName, ReplicaDescription,
    },
};

use super::{Handled, Request, check_entries};
use crate::{
    partition::Led,
    server::{broker::Broker, connection::Reply},
};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let describe: DescribeReplicasRequest = request.decode()?;
    check_entries(describe.partitions.len())?;
    let partitions = describe
        .partitions
        .iter()
        .map(|name| one(request.broker, name))
        .collect();
    Ok(Reply::of(&DescribeReplicasResponse { partitions }).into())
}

fn one(broker: &Broker, name: &PartitionName) -> DescribedReplicas {
    let mut described = DescribedReplicas {
        topic_id: name.topic_id,
        partition: name.partition,
        failure: Failure::none(),
        leader_epoch: LeaderEpoch::NONE,
        log_start_offset: Offset(-1),
        high_watermark: Offset(-1),
        log_end_offset: Offset(-1),
        replicas: Vec::new(),
    };
    let id = TopicPartition {
        topic: name.topic_id,
        partition: name.partition,
    };
    let led = broker
        .partitions
        .get(id)
        .and_then(|partition| partition.describe());
    match led {
        Ok(led) => {
            described.leader_epoch = led.leader_epoch;
            described.log_start_offset = led.marks.log_start;
            described.high_watermark = led.marks.high_watermark;
            described.log_end_offset = led.marks.log_end;
            described.replicas = replicas(broker, id, &led);
        }
        Err(failure) => {
            broker
                .metrics
                .error(ApiKey::DescribeReplicas, failure.error);
            described.failure = failure;
        }
    }
    described
}

/// In order of preference, the leader among them.
fn replicas(broker: &Broker, id: TopicPartition, led: &Led) -> Vec<ReplicaDescription> {
    let image = broker.metadata.image();
    let placed = image.partition(id);
    let order = placed
        .into_iter()
        .flat_map(|placed| placed.replicas.iter().map(|replica| replica.broker));
    let own = broker.identity.broker;
    order
        .filter_map(|replica| {
            if replica == own {
                return Some(ReplicaDescription {
                    broker_id: own,
                    log_end_offset: Some(led.marks.log_end),
                    durable_offset: Some(led.marks.durable_end),
                    behind_ms: Some(0),
                });
            }
            let mut followers = led.followers.iter();
            followers.find(|it| it.broker == replica).map(follower)
        })
        .collect()
}

fn follower(state: &FollowerState) -> ReplicaDescription {
    let milliseconds = |behind: Duration| u64::try_from(behind.as_millis()).unwrap_or(u64::MAX);
    ReplicaDescription {
        broker_id: state.broker,
        log_end_offset: state.log_end,
        durable_offset: state.durable_end,
        behind_ms: state.behind.map(milliseconds),
    }
}
