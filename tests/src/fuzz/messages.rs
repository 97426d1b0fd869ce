//! Requests, responses and pushes of every API.
//!
//! What decodes must encode to bytes that decode to the same. A request is then decided upon as the
//! broker does, as far as that is pure code; an answer is taken over as a client does.

use std::{collections::BTreeSet, fmt::Debug};

use serde::{Serialize, de::DeserializeOwned};
use strandline_core::{
    TopicConfig,
    metadata::{
        Command, Controller, Defaults, Entry, Image, METADATA_VERSION, Membership, Registration,
        Voter, describe_configs, metadata_page,
    },
};
use strandline_protocol::{
    ApiKey, BrokerId, ClusterId, DirectoryId, LeaderEpoch,
    api::APIS,
    messages::{
        AlterConfigsRequest, AlterPartitionsRequest, BrokerHeartbeatRequest, ChangeVotersRequest,
        CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
        DescribeBrokerRequest, DescribeClusterRequest, DescribeConfigsRequest,
        DescribeReplicasRequest, DrainBrokerRequest, ElectLeadersRequest, ErrorMessage,
        FetchRequest, HelloRequest, InitProducerIdRequest, ListOffsetsRequest, MetadataPush,
        MetadataRequest, MetadataResponse, NewTopic, ProduceRequest, QuorumAppendRequest,
        QuorumSnapshotRequest, QuorumTransferRequest, QuorumVoteRequest, ReassignPartitionsRequest,
        RegisterBrokerRequest, ReplicaFetchRequest, ReplicaProgressRequest, Request,
        ReserveProducerIdsRequest, UnregisterBrokerRequest, WatchMetadataRequest, decode, encode,
    },
};

/// Topics of more partitions than this are not really created: what that takes is bounded by the
/// cluster's limit and not by the input.
const PARTITIONS_MAX: i32 = 100;

/// The target. The first byte says what the rest is: an API, and request, response or push.
pub fn run(input: &[u8]) {
    let Some((which, message)) = input.split_first() else {
        return;
    };
    let apis = u8::try_from(APIS.len()).unwrap();
    let api = APIS[usize::from(which % apis)].key;
    match (api, which / apis % 4) {
        (_, 3) => drop(same::<ErrorMessage>(api, message)),
        (ApiKey::WatchMetadata, 2) => push(message),
        (ApiKey::Metadata, 1 | 2) => metadata(message),
        (api, kind) => exchange(api, kind, message),
    }
}

fn exchange(api: ApiKey, kind: u8, message: &[u8]) {
    match api {
        ApiKey::Hello => drop(either::<HelloRequest>(kind, message)),
        ApiKey::Metadata => {
            if let Some(request) = either::<MetadataRequest>(kind, message) {
                let _ = metadata_page(&cluster(), &TopicConfig::default(), &request);
            }
        }
        ApiKey::WatchMetadata => drop(either::<WatchMetadataRequest>(kind, message)),
        ApiKey::CreateTopics => {
            if let Some(mut request) = either::<CreateTopicsRequest>(kind, message) {
                let large = |topic: &NewTopic| topic.partitions > Some(PARTITIONS_MAX);
                request.topics.retain(|topic| !large(topic));
                decide(Command::CreateTopics(request));
            }
        }
        ApiKey::DeleteTopics => {
            if let Some(request) = either::<DeleteTopicsRequest>(kind, message) {
                decide(Command::DeleteTopics(request));
            }
        }
        ApiKey::CreatePartitions => {
            if let Some(mut request) = either::<CreatePartitionsRequest>(kind, message) {
                request.topics.retain(|topic| topic.total <= PARTITIONS_MAX);
                decide(Command::CreatePartitions(request));
            }
        }
        ApiKey::DescribeConfigs => {
            if let Some(request) = either::<DescribeConfigsRequest>(kind, message) {
                let _ = describe_configs(&cluster(), &TopicConfig::default(), &request);
            }
        }
        ApiKey::AlterConfigs => {
            if let Some(request) = either::<AlterConfigsRequest>(kind, message) {
                decide(Command::AlterConfigs(request));
            }
        }
        ApiKey::InitProducerId => drop(either::<InitProducerIdRequest>(kind, message)),
        ApiKey::Produce => drop(either::<ProduceRequest>(kind, message)),
        ApiKey::Fetch => drop(either::<FetchRequest>(kind, message)),
        ApiKey::ListOffsets => drop(either::<ListOffsetsRequest>(kind, message)),
        ApiKey::DeleteRecords => drop(either::<DeleteRecordsRequest>(kind, message)),
        ApiKey::DescribeBroker => drop(either::<DescribeBrokerRequest>(kind, message)),
        ApiKey::QuorumVote => drop(either::<QuorumVoteRequest>(kind, message)),
        ApiKey::QuorumAppend => drop(either::<QuorumAppendRequest>(kind, message)),
        ApiKey::QuorumSnapshot => drop(either::<QuorumSnapshotRequest>(kind, message)),
        ApiKey::QuorumTransfer => drop(either::<QuorumTransferRequest>(kind, message)),
        ApiKey::RegisterBroker => drop(either::<RegisterBrokerRequest>(kind, message)),
        ApiKey::BrokerHeartbeat => drop(either::<BrokerHeartbeatRequest>(kind, message)),
        ApiKey::ReserveProducerIds => drop(either::<ReserveProducerIdsRequest>(kind, message)),
        ApiKey::DescribeCluster => drop(either::<DescribeClusterRequest>(kind, message)),
        ApiKey::ChangeVoters => drop(either::<ChangeVotersRequest>(kind, message)),
        ApiKey::UnregisterBroker => drop(either::<UnregisterBrokerRequest>(kind, message)),
        ApiKey::ReplicaFetch => drop(either::<ReplicaFetchRequest>(kind, message)),
        ApiKey::ReplicaProgress => drop(either::<ReplicaProgressRequest>(kind, message)),
        ApiKey::AlterPartitions => drop(either::<AlterPartitionsRequest>(kind, message)),
        ApiKey::ElectLeaders => drop(either::<ElectLeadersRequest>(kind, message)),
        ApiKey::ReassignPartitions => drop(either::<ReassignPartitionsRequest>(kind, message)),
        ApiKey::DescribeReplicas => drop(either::<DescribeReplicasRequest>(kind, message)),
        ApiKey::DrainBroker => drop(either::<DrainBrokerRequest>(kind, message)),
    }
}

/// Reads a request, or else the response to one.
fn either<R>(kind: u8, message: &[u8]) -> Option<R>
where
    R: Request + PartialEq + Debug,
    R::Response: PartialEq + Debug,
{
    if kind == 0 {
        return same::<R>(R::API, message);
    }
    same::<R::Response>(R::API, message);
    None
}

/// The message, if it is one: it reads back what it is written as.
fn same<M>(api: ApiKey, message: &[u8]) -> Option<M>
where
    M: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let decoded: M = match decode(api, message) {
        Ok(decoded) => decoded,
        Err(error) => {
            assert!(error.to_string().contains(api.api().name));
            return None;
        }
    };
    let encoded = encode(&decoded);
    let again: M = decode(api, &encoded).expect("what was encoded decodes");
    assert_eq!(decoded, again);
    assert_eq!(encoded, encode(&again));
    Some(decoded)
}

fn metadata(message: &[u8]) {
    let answer = same::<MetadataResponse>(ApiKey::Metadata, message);
    #[cfg(fuzzing)]
    if let Some(answer) = &answer {
        strandline_client::fuzzing::take_over(answer.version, &answer.brokers, &answer.topics);
    }
    drop(answer);
}

fn push(message: &[u8]) {
    let push = same::<MetadataPush>(ApiKey::WatchMetadata, message);
    #[cfg(fuzzing)]
    if let Some(push) = &push {
        strandline_client::fuzzing::take_over(push.version, &push.brokers, &push.topics);
    }
    drop(push);
}

/// What the controller writes for a command applies, and reads back as it was.
fn decide(command: Command) {
    let mut image = cluster();
    let mut drawn = 100_u128;
    let mut random = || {
        drawn += 1;
        drawn.to_be_bytes()
    };
    let controller = Controller::new(Defaults::default());
    let Ok(decision) = controller.decide(&image, &command, &BTreeSet::new(), &mut random) else {
        return;
    };
    for entry in Entry::pack(decision.records) {
        let bytes = entry.encode();
        assert_eq!(
            Entry::decode(&bytes).expect("what was packed decodes"),
            entry
        );
        image.apply(image.version().plus(1), LeaderEpoch(1), &entry);
    }
    assert!(image.is_consistent());
}

/// A cluster of one broker, with one topic.
fn cluster() -> Image {
    let (mut image, broker) = (Image::default(), BrokerId(1));
    let cluster = ClusterId([7; 16]);
    let voters = vec![Voter {
        raft_id: 42,
        broker,
    }];
    let founding = Entry::Membership(Membership::of(cluster, voters));
    image.apply(image.version().plus(1), LeaderEpoch(1), &founding);
    let registration = Registration {
        broker,
        incarnation: [9; 16],
        host: "localhost".to_owned(),
        port: 9290,
        rack: None,
        directories: vec![DirectoryId([3; 16])],
        raft_id: Some(42),
        software: "strandline/0.0.0".into(),
        metadata_version_max: METADATA_VERSION,
        lossy: Vec::new(),
    };
    let topic = NewTopic {
        name: "t".to_owned(),
        partitions: Some(3),
        replication_factor: None,
        configs: [("retention.ms".to_owned(), "5000".to_owned())].into(),
    };
    let topics = CreateTopicsRequest {
        topics: vec![topic],
        validate_only: false,
    };
    let commands = [
        Command::RegisterBroker(registration),
        Command::CreateTopics(topics),
    ];
    let controller = Controller::new(Defaults::default());
    for (number, command) in (1_u8..).zip(&commands) {
        let decision = controller.decide(&image, command, &BTreeSet::new(), &mut || [number; 16]);
        for entry in Entry::pack(decision.expect("the rig's commands are good").records) {
            image.apply(image.version().plus(1), LeaderEpoch(1), &entry);
        }
    }
    image
}
