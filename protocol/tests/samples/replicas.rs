//! What followers, leaders and the controller say to each other about replicas, and what an
//! operator asks of them.

use strandline_protocol::{
    BrokerEpoch, BrokerId, DirectoryId, ErrorCode, LeaderEpoch, Offset, PartitionEpoch,
    PartitionId,
    messages::{
        AlterPartition, AlterPartitionsRequest, AlterPartitionsResponse, AlteredPartition,
        BrokerHeartbeatRequest, DescribeReplicasRequest, DescribeReplicasResponse,
        DescribedReplicas, DrainBrokerRequest, DrainBrokerResponse, Duty, ElectLeadersRequest,
        ElectLeadersResponse, Election, EpochEnd, Failure, FetchPartition, FetchRequest,
        FetchResponse, FetchSession, FetchedPartition, InSyncReplica, MetadataRequest,
        MetadataResponse, OffsetGap, PartitionName, PartitionOutcome, ReassignPartitionsRequest,
        ReassignPartitionsResponse, Reassignment, RegisterBrokerRequest, ReplicaDescription,
        ReplicaFetchPartition, ReplicaFetchRequest, ReplicaFetchResponse, ReplicaFetchedPartition,
        ReplicaProgressPartition, ReplicaProgressRequest, ReplicaProgressResponse,
    },
};

use super::{Codec, PARTITION, Samples, TOPIC, batch, topic_metadata};

const FOLLOWER: (BrokerId, BrokerEpoch) = (BrokerId(2), BrokerEpoch(1_017));

const NAME: PartitionName = PartitionName {
    topic_id: TOPIC,
    partition: PARTITION,
};

pub fn all(samples: &mut Samples) {
    moving(samples);
    reading(samples);
    broker(samples);
    fetches(samples);
    progress(samples);
    in_sync(samples);
    elections(samples);
    reassignments(samples);
    descriptions(samples);
    duties(samples);
}

/// A partition whose replicas are moved while one of them is not in sync.
fn moving(samples: &mut Samples) {
    let mut topic = topic_metadata(Failure::none());
    for partition in &mut topic.partitions {
        partition.replicas = vec![BrokerId(1), BrokerId(2), BrokerId(3), BrokerId(4)];
        partition.isr = vec![BrokerId(1)];
        partition.eligible = vec![BrokerId(2)];
        partition.adding = vec![BrokerId(4)];
        partition.removing = vec![BrokerId(3)];
    }
    let answer = MetadataResponse {
        cluster_id: strandline_protocol::ClusterId(*b"cluster id bytes"),
        version: Offset(19),
        controller: None,
        brokers: Vec::new(),
        topics: vec![topic],
        next_cursor: None,
    };
    samples.response::<MetadataRequest>("-moving", &answer, &[]);
}

/// A consumer that reads from a replica in its rack.
fn reading(samples: &mut Samples) {
    let request = FetchRequest {
        wait_ms_max: 500,
        bytes_min: 1,
        bytes_max: 8 << 20,
        rack: Some("b".to_owned()),
        partitions: vec![FetchPartition {
            topic_id: TOPIC,
            partition: PARTITION,
            fetch_offset: Offset(1_003),
            bytes_max: 1 << 20,
            current_leader_epoch: Some(LeaderEpoch(4)),
        }],
    };
    samples.request("-rack", &request, &[]);
    let fetched = FetchedPartition {
        topic_id: TOPIC,
        partition: PARTITION,
        failure: Failure::none(),
        next_good_offset: None,
        log_start_offset: Offset(5),
        high_watermark: Offset(1_020),
        preferred_replica: Some(BrokerId(2)),
        bytes: 0,
    };
    let partitions = vec![fetched];
    samples.response::<FetchRequest>("-preferred", &FetchResponse { partitions }, &[]);
}

/// A broker that came back after a power cut, and has found damage.
fn broker(samples: &mut Samples) {
    let register = RegisterBrokerRequest {
        cluster_id: None,
        broker_id: FOLLOWER.0,
        incarnation: *b"drawn at a start",
        raft_id: super::cluster::RAFT_IDS[1],
        host: "broker-2.example".to_owned(),
        port: 9_290,
        rack: None,
        directories: vec![DirectoryId([7; 16])],
        software: "strandline/0.1.0".to_owned(),
        metadata_version_max: 3,
        lossy: vec![DirectoryId([7; 16])],
    };
    samples.request("-lossy", &register, &[]);
    let heartbeat = BrokerHeartbeatRequest {
        broker_id: FOLLOWER.0,
        broker_epoch: FOLLOWER.1,
        applied: Offset(1_020),
        stopping: false,
        offline: Vec::new(),
        recovering: true,
        damaged: vec![NAME],
        full: vec![DirectoryId([5; 16])],
    };
    samples.request("-recovering", &heartbeat, &[]);
}

fn fetches(samples: &mut Samples) {
    let position = |partition, last_epoch| ReplicaFetchPartition {
        topic_id: TOPIC,
        partition,
        leader_epoch: LeaderEpoch(4),
        fetch_offset: Offset(1_020),
        last_epoch,
        durable_offset: Offset(1_000),
        log_start_offset: Offset(5),
        bytes_max: 1 << 20,
    };
    let mut request = ReplicaFetchRequest {
        broker_id: FOLLOWER.0,
        broker_epoch: FOLLOWER.1,
        session: FetchSession::default(),
        wait_ms_max: 500,
        bytes_max: 8 << 20,
        partitions: vec![
            position(PartitionId(0), None),
            position(PARTITION, Some(LeaderEpoch(3))),
        ],
        forgotten: Vec::new(),
    };
    samples.request("", &request, &[]);
    request.session = FetchSession { id: 17, number: 8 };
    request.partitions.clear();
    request.forgotten = vec![NAME];
    samples.request("-session", &request, &[]);
    let payload = batch(Codec::None);
    let fetched = |failure, diverging, bytes| ReplicaFetchedPartition {
        topic_id: TOPIC,
        partition: PARTITION,
        failure,
        diverging,
        log_start_offset: Offset(5),
        log_end_offset: Offset(1_040),
        high_watermark: Offset(1_020),
        bytes,
        gap: None,
    };
    let behind_a_gap = ReplicaFetchedPartition {
        gap: Some(OffsetGap {
            start: Offset(1_000),
            end: Offset(1_005),
        }),
        ..fetched(Failure::none(), None, payload.len() as u32)
    };
    let end = EpochEnd {
        epoch: LeaderEpoch(2),
        end_offset: Offset(990),
    };
    let fenced = Failure::new(ErrorCode::FENCED_LEADER_EPOCH, "the epoch is 5 by now");
    let answer = ReplicaFetchResponse {
        session_id: 17,
        partitions: vec![
            fetched(Failure::none(), None, payload.len() as u32),
            fetched(Failure::none(), Some(end), 0),
            fetched(fenced, None, 0),
        ],
    };
    samples.response::<ReplicaFetchRequest>("", &answer, &payload);
    let answer = ReplicaFetchResponse {
        session_id: 17,
        partitions: vec![behind_a_gap],
    };
    samples.response::<ReplicaFetchRequest>("-gap", &answer, &payload);
}

fn progress(samples: &mut Samples) {
    let request = ReplicaProgressRequest {
        broker_id: FOLLOWER.0,
        broker_epoch: FOLLOWER.1,
        partitions: vec![ReplicaProgressPartition {
            topic_id: TOPIC,
            partition: PARTITION,
            leader_epoch: LeaderEpoch(4),
            durable_offset: Offset(1_020),
        }],
    };
    samples.request("", &request, &[]);
    samples.response::<ReplicaProgressRequest>("", &ReplicaProgressResponse {}, &[]);
}

fn in_sync(samples: &mut Samples) {
    let replica = |(broker_id, broker_epoch)| InSyncReplica {
        broker_id,
        broker_epoch,
    };
    let request = AlterPartitionsRequest {
        broker_id: BrokerId(1),
        broker_epoch: BrokerEpoch(1_016),
        partitions: vec![AlterPartition {
            topic_id: TOPIC,
            partition: PARTITION,
            leader_epoch: LeaderEpoch(4),
            partition_epoch: PartitionEpoch(9),
            isr: vec![
                replica((BrokerId(1), BrokerEpoch(1_016))),
                replica(FOLLOWER),
            ],
        }],
    };
    samples.request("", &request, &[]);
    let altered = |failure, partition_epoch| AlteredPartition {
        topic_id: TOPIC,
        partition: PARTITION,
        failure,
        partition_epoch,
    };
    let ineligible = Failure::new(ErrorCode::INELIGIBLE_REPLICA, "broker 2 is fenced");
    let partitions = vec![
        altered(Failure::none(), PartitionEpoch(10)),
        altered(ineligible, PartitionEpoch(9)),
    ];
    samples.response::<AlterPartitionsRequest>("", &AlterPartitionsResponse { partitions }, &[]);
}

fn outcomes(error: ErrorCode, message: &str) -> Vec<PartitionOutcome> {
    let outcome = |failure| PartitionOutcome {
        topic_id: TOPIC,
        partition: PARTITION,
        failure,
    };
    let failure = Failure::new(error, message);
    vec![outcome(Failure::none()), outcome(failure)]
}

fn elections(samples: &mut Samples) {
    for (what, election) in [("", Election::Preferred), ("-unclean", Election::Unclean)] {
        let partitions = vec![NAME];
        let request = ElectLeadersRequest {
            election,
            partitions,
        };
        samples.request(what, &request, &[]);
    }
    let partitions = outcomes(ErrorCode::ELECTION_NOT_NEEDED, "broker 1 leads it");
    samples.response::<ElectLeadersRequest>("", &ElectLeadersResponse { partitions }, &[]);
}

fn reassignments(samples: &mut Samples) {
    let to = |replicas| Reassignment {
        topic_id: TOPIC,
        partition: PARTITION,
        replicas,
    };
    let replicas = vec![BrokerId(2), BrokerId(3), BrokerId(4)];
    let mut request = ReassignPartitionsRequest {
        partitions: vec![to(Some(replicas)), to(None)],
        throttle_bytes_per_second: Some(10 << 20),
    };
    samples.request("", &request, &[]);
    request.throttle_bytes_per_second = None;
    samples.request("-unthrottled", &request, &[]);
    let code = ErrorCode::NO_REASSIGNMENT_IN_PROGRESS;
    let partitions = outcomes(code, "there is nothing to take back");
    let answer = ReassignPartitionsResponse { partitions };
    samples.response::<ReassignPartitionsRequest>("", &answer, &[]);
}

fn descriptions(samples: &mut Samples) {
    let partitions = vec![NAME];
    samples.request("", &DescribeReplicasRequest { partitions }, &[]);
    let replica = |id, end: Option<i64>, behind_ms| ReplicaDescription {
        broker_id: BrokerId(id),
        log_end_offset: end.map(Offset),
        durable_offset: end.map(|end| Offset(end - 1)),
        behind_ms,
    };
    let partition = DescribedReplicas {
        topic_id: TOPIC,
        partition: PARTITION,
        failure: Failure::none(),
        leader_epoch: LeaderEpoch(4),
        log_start_offset: Offset(5),
        high_watermark: Offset(1_020),
        log_end_offset: Offset(1_040),
        replicas: vec![
            replica(1, Some(1_040), Some(0)),
            replica(2, Some(1_020), Some(130)),
            replica(3, None, None),
        ],
    };
    let partitions = vec![partition];
    samples.response::<DescribeReplicasRequest>("", &DescribeReplicasResponse { partitions }, &[]);
}

fn duties(samples: &mut Samples) {
    for (what, duty) in [("", Duty::Drained), ("-full", Duty::Full)] {
        let broker_id = BrokerId(2);
        samples.request(what, &DrainBrokerRequest { broker_id, duty }, &[]);
    }
    let answer = DrainBrokerResponse { leads: 1, keeps: 4 };
    samples.response::<DrainBrokerRequest>("", &answer, &[]);
}
