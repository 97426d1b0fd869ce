//! Elections, moves and descriptions of replicas.

use bytes::Bytes;
use strandline_client::protocol::{
    ApiKey, ErrorCode, Offset,
    channel::{Frame, FrameKind},
    messages::{
        DescribeReplicasRequest, DescribeReplicasResponse, DescribedReplicas, DrainBrokerRequest,
        DrainBrokerResponse, ElectLeadersRequest, ElectLeadersResponse, Failure, PartitionName,
        PartitionOutcome, ReassignPartitionsRequest, ReassignPartitionsResponse,
        ReplicaDescription,
    },
};

use super::super::{FakeCluster, State, broker_id, encoded, epoch};
use super::{request, topic_of};

/// The preferred leader leads partition 0 already; every other one is elected. Replicas move at
/// once.
pub fn changed(cluster: &FakeCluster, api: ApiKey, frame: &Frame, kind: FrameKind) -> Bytes {
    let outcome = |name: PartitionName, failure| PartitionOutcome {
        topic_id: name.topic_id,
        partition: name.partition,
        failure,
    };
    if api == ApiKey::ElectLeaders {
        let asked: ElectLeadersRequest = request(frame);
        let outcomes = asked.partitions.iter().map(|&name| {
            let failure = match name.partition.0 {
                0 => Failure::new(ErrorCode::ELECTION_NOT_NEEDED, "it leads already"),
                _ => Failure::none(),
            };
            outcome(name, failure)
        });
        let partitions = outcomes.collect();
        return encoded(kind, &ElectLeadersResponse { partitions }, &[]);
    }
    let asked: ReassignPartitionsRequest = request(frame);
    let mut state = cluster.state.lock();
    let mut partitions = Vec::new();
    for part in &asked.partitions {
        let failure = match (&part.replicas, topic_of(&mut state, part.topic_id)) {
            (Some(replicas), Some(topic)) => {
                let index = usize::try_from(part.partition.0).unwrap();
                topic.keepers[index] = replicas[0].0;
                topic.followers = replicas[1..].iter().map(|id| id.0).collect();
                Failure::none()
            }
            (None, _) => Failure::new(ErrorCode::NO_REASSIGNMENT_IN_PROGRESS, "none"),
            (_, None) => Failure::new(ErrorCode::UNKNOWN_TOPIC_ID, "no such topic"),
        };
        let name = PartitionName {
            topic_id: part.topic_id,
            partition: part.partition,
        };
        partitions.push(outcome(name, failure));
    }
    encoded(kind, &ReassignPartitionsResponse { partitions }, &[])
}

pub fn described(state: &mut State, broker: i32, frame: &Frame, kind: FrameKind) -> Bytes {
    let asked: DescribeReplicasRequest = request(frame);
    let mut partitions = Vec::new();
    for name in &asked.partitions {
        let topic = topic_of(state, name.topic_id).unwrap();
        let index = usize::try_from(name.partition.0).unwrap();
        let (leader, led) = topic.leaders[index];
        let end = Offset(topic.logs[index].end);
        let all = [leader].into_iter().chain(topic.followers.iter().copied());
        let failure = if leader == broker {
            Failure::none()
        } else {
            Failure::new(ErrorCode::NOT_LEADER_OR_FOLLOWER, "another broker leads")
        };
        partitions.push(DescribedReplicas {
            topic_id: name.topic_id,
            partition: name.partition,
            failure,
            leader_epoch: epoch(led),
            log_start_offset: Offset(0),
            high_watermark: end,
            log_end_offset: end,
            replicas: all
                .map(|id| ReplicaDescription {
                    broker_id: broker_id(id),
                    log_end_offset: Some(end),
                    durable_offset: Some(end),
                    behind_ms: Some(0),
                })
                .collect(),
        });
    }
    encoded(kind, &DescribeReplicasResponse { partitions }, &[])
}

pub fn drained(state: &State, frame: &Frame, kind: FrameKind) -> Bytes {
    let asked: DrainBrokerRequest = request(frame);
    let leaders = state.topics.values().flat_map(|topic| &topic.leaders);
    let leads = leaders.filter(|leader| leader.0 == asked.broker_id.0);
    let leads = u32::try_from(leads.count()).unwrap();
    encoded(kind, &DrainBrokerResponse { leads, keeps: 7 }, &[])
}
