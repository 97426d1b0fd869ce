//! What a fake broker answers.

mod replicas;

use std::time::Duration;

use bytes::Bytes;
use strandline_client::protocol::{
    ApiKey, BrokerId, ClusterId, DirectoryId, ErrorCode, LeaderEpoch, Offset, PartitionEpoch,
    ProducerEpoch, ProducerId,
    channel::{Frame, FrameKind},
    messages::{
        BrokerMetadata, ChangeVotersRequest, ChangeVotersResponse, DescribeClusterResponse,
        ErrorMessage, Failure, FetchRequest, FetchResponse, FetchedPartition, HelloRequest,
        HelloResponse, InitProducerIdRequest, InitProducerIdResponse, ListOffsetsRequest,
        ListOffsetsResponse, ListedOffset, MetadataRequest, MetadataResponse, OffsetQuery,
        PartitionMetadata, ProduceRequest, ProduceResponse, ProducedPartition, Request,
        TopicMetadata, UnregisterBrokerResponse, WatchMetadataResponse, decode,
    },
};

use super::{FakeCluster, FakeTopic, State, broker_id, cluster_id, encoded, epoch, partition};

fn request<R: Request>(frame: &Frame) -> R {
    decode(R::API, &frame.message).unwrap()
}

pub async fn answer(
    cluster: &FakeCluster,
    broker: i32,
    api: ApiKey,
    frame: &Frame,
    refused: Option<ErrorCode>,
) -> Bytes {
    let kind = FrameKind::response(&frame.header, ErrorCode::NONE);
    match api {
        ApiKey::Hello => {
            let asked: HelloRequest = request(frame);
            let answer = hello(broker, cluster.state.lock().foreign);
            if asked
                .cluster_id
                .is_none_or(|asked| asked == answer.cluster_id)
            {
                return encoded(kind, &answer, &[]);
            }
            let kind = FrameKind::response(&frame.header, ErrorCode::INCONSISTENT_CLUSTER_ID);
            let message = "this broker belongs to another cluster: check the address".to_owned();
            encoded(kind, &ErrorMessage { message }, &[])
        }
        ApiKey::Metadata => {
            let asked: MetadataRequest = request(frame);
            encoded(kind, &metadata(&cluster.state.lock(), &asked), &[])
        }
        ApiKey::WatchMetadata => {
            let version = Offset(cluster.state.lock().version);
            encoded(kind, &WatchMetadataResponse { version }, &[])
        }
        ApiKey::InitProducerId => {
            let asked: InitProducerIdRequest = request(frame);
            encoded(kind, &identity(&mut cluster.state.lock(), &asked), &[])
        }
        ApiKey::Produce => {
            let asked: ProduceRequest = request(frame);
            let mut state = cluster.state.lock();
            let answer = produce(&mut state, broker, &asked, &frame.payload, refused);
            encoded(kind, &answer, &[])
        }
        ApiKey::Fetch => {
            let asked: FetchRequest = request(frame);
            let (answer, payload) = fetch_waiting(cluster, broker, &asked, refused).await;
            encoded(kind, &answer, &payload)
        }
        ApiKey::ListOffsets => {
            let asked: ListOffsetsRequest = request(frame);
            encoded(kind, &list_offsets(&cluster.state.lock(), &asked), &[])
        }
        ApiKey::DescribeCluster => encoded(kind, &described(broker), &[]),
        ApiKey::ChangeVoters => {
            let asked: ChangeVotersRequest = request(frame);
            encoded(kind, &ChangeVotersResponse { voters: asked.add }, &[])
        }
        ApiKey::UnregisterBroker => encoded(kind, &UnregisterBrokerResponse {}, &[]),
        ApiKey::ElectLeaders | ApiKey::ReassignPartitions => {
            replicas::changed(cluster, api, frame, kind)
        }
        ApiKey::DescribeReplicas => {
            replicas::described(&mut cluster.state.lock(), broker, frame, kind)
        }
        ApiKey::DrainBroker => replicas::drained(&cluster.state.lock(), frame, kind),
        other => panic!("the fake broker does not know {other:?}"),
    }
}

fn described(broker: i32) -> DescribeClusterResponse {
    DescribeClusterResponse {
        cluster_id: cluster_id(),
        answered_by: broker_id(broker),
        controller: Some(broker_id(broker)),
        controller_epoch: epoch(1),
        metadata_version: 2,
        version: Offset(0),
        members: Vec::new(),
        voters_changing: false,
        brokers: Vec::new(),
        topics: 0,
        partitions: 0,
        partitions_without_leader: 0,
        partitions_under_replicated: 0,
        partitions_under_min_isr: 0,
        throttle_bytes_per_second: None,
    }
}

fn hello(broker: i32, foreign: Option<i32>) -> HelloResponse {
    let cluster_id = if foreign == Some(broker) {
        ClusterId([8; 16])
    } else {
        cluster_id()
    };
    HelloResponse {
        cluster_id,
        broker_id: broker_id(broker),
        directory_id: DirectoryId([1; 16]),
        raft_id: None,
        software: "fake/0".to_owned(),
        apis: Vec::new(),
        frame_bytes_max: 64 << 20,
    }
}

pub fn brokers(state: &State) -> Vec<BrokerMetadata> {
    let brokers = state.addresses.iter().enumerate();
    brokers
        .map(|(id, address)| {
            let (host, port) = address.rsplit_once(':').unwrap();
            BrokerMetadata {
                id: broker_id(i32::try_from(id).unwrap()),
                host: host.to_owned(),
                port: port.parse().unwrap(),
                rack: state.racks.get(&i32::try_from(id).unwrap()).cloned(),
            }
        })
        .collect()
}

pub fn topic_metadata(state: &State, name: &str) -> TopicMetadata {
    let found = state.topics.get(name);
    let failure = match found {
        Some(_) => Failure::none(),
        None => Failure::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "no such topic"),
    };
    let leaders = found.map_or(&[][..], |topic| &topic.leaders);
    let keepers = found.map_or(&[][..], |topic| &topic.keepers);
    let followers = found.map_or(&[][..], |topic| &topic.followers);
    let replicas = |keeper: i32| -> Vec<BrokerId> {
        let others = followers.iter().filter(|&&it| it != keeper);
        let all = [keeper].into_iter().chain(others.copied());
        all.map(broker_id).collect()
    };
    TopicMetadata {
        name: name.to_owned(),
        id: found.map(|topic| topic.id).unwrap_or_default(),
        failure,
        compression: found
            .map(|topic| topic.compression.clone())
            .unwrap_or_default(),
        batch_bytes_max: found.map_or(0, |topic| topic.batch_bytes_max),
        partition_count: i32::try_from(leaders.len()).unwrap(),
        partitions: leaders
            .iter()
            .enumerate()
            .map(|(id, leader)| PartitionMetadata {
                id: partition(id),
                leader: (leader.0 >= 0).then(|| broker_id(leader.0)),
                leader_epoch: epoch(leader.1),
                partition_epoch: PartitionEpoch(0),
                replicas: replicas(keepers[id]),
                isr: replicas(keepers[id]),
                eligible: Vec::new(),
                adding: Vec::new(),
                removing: Vec::new(),
            })
            .collect(),
    }
}

fn metadata(state: &State, asked: &MetadataRequest) -> MetadataResponse {
    let all = state.topics.keys().cloned().collect();
    let names: Vec<String> = asked.topics.clone().unwrap_or(all);
    MetadataResponse {
        cluster_id: cluster_id(),
        version: Offset(state.version),
        controller: Some(broker_id(0)),
        brokers: brokers(state),
        topics: names
            .iter()
            .map(|name| topic_metadata(state, name))
            .collect(),
        next_cursor: None,
    }
}

fn identity(state: &mut State, asked: &InitProducerIdRequest) -> InitProducerIdResponse {
    let id = if asked.producer_id == ProducerId::NONE {
        state.next_producer += 1;
        state.next_producer
    } else {
        asked.producer_id.0
    };
    let epoch = state
        .epochs
        .entry(id)
        .and_modify(|epoch| *epoch += 1)
        .or_insert(0);
    InitProducerIdResponse {
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(*epoch),
    }
}

fn topic_of(state: &mut State, id: strandline_client::protocol::TopicId) -> Option<&mut FakeTopic> {
    state.topics.values_mut().find(|topic| topic.id == id)
}

fn produce(
    state: &mut State,
    broker: i32,
    asked: &ProduceRequest,
    payload: &[u8],
    refused: Option<ErrorCode>,
) -> ProduceResponse {
    let mut at = 0;
    let partitions = asked.partitions.iter().map(|part| {
        let bytes = usize::try_from(part.bytes).unwrap();
        let batch = &payload[at..at + bytes];
        at += bytes;
        let index = usize::try_from(part.partition.0).unwrap();
        let outcome = match (refused, topic_of(state, part.topic_id)) {
            (Some(code), _) => Err(code),
            (None, None) => Err(ErrorCode::UNKNOWN_TOPIC_ID),
            (None, Some(topic)) if topic.leaders[index].0 != broker => {
                Err(ErrorCode::NOT_LEADER_OR_FOLLOWER)
            }
            (None, Some(topic)) => topic.logs[index].append(batch),
        };
        ProducedPartition {
            topic_id: part.topic_id,
            partition: part.partition,
            failure: outcome
                .err()
                .map_or_else(Failure::none, |code| Failure::new(code, "said the fake")),
            base_offset: Offset(outcome.unwrap_or(-1)),
            log_append_time: None,
            log_start_offset: Offset(0),
        }
    });
    ProduceResponse {
        partitions: partitions.collect(),
    }
}

async fn fetch_waiting(
    cluster: &FakeCluster,
    broker: i32,
    asked: &FetchRequest,
    refused: Option<ErrorCode>,
) -> (FetchResponse, Vec<u8>) {
    let wait = Duration::from_millis(u64::from(asked.wait_ms_max));
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        let (answer, payload) = fetch(&mut cluster.state.lock(), broker, asked, refused);
        let failed = answer
            .partitions
            .iter()
            .any(|it| !it.failure.error.is_none());
        let enough = payload.len() >= usize::try_from(asked.bytes_min).unwrap();
        let failed = failed
            || answer
                .partitions
                .iter()
                .any(|it| it.preferred_replica.is_some());
        if failed || enough || tokio::time::Instant::now() >= deadline {
            return (answer, payload);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn fetch(
    state: &mut State,
    broker: i32,
    asked: &FetchRequest,
    refused: Option<ErrorCode>,
) -> (FetchResponse, Vec<u8>) {
    let mut payload = Vec::new();
    let mut partitions = Vec::new();
    let near = |state: &State, broker: i32| {
        asked.rack.is_some() && state.racks.get(&broker) == asked.rack.as_ref()
    };
    for part in &asked.partitions {
        let index = usize::try_from(part.partition.0).unwrap();
        let mut bytes = Vec::new();
        let followers = topic_of(state, part.topic_id).map(|it| it.followers.clone());
        let followers = followers.unwrap_or_default();
        let leader = topic_of(state, part.topic_id).map(|it| it.leaders[index].0);
        let nearest = followers.iter().copied().find(|&id| near(state, id));
        let preferred = nearest.filter(|_| leader == Some(broker) && !near(state, broker));
        let serves = leader == Some(broker)
            || (asked.rack.is_some() && leader >= Some(0) && followers.contains(&broker));
        let (mut start, mut end) = (0, 0);
        let failure = match (refused, topic_of(state, part.topic_id)) {
            (Some(code), _) => Some(code),
            (None, None) => Some(ErrorCode::UNKNOWN_TOPIC_ID),
            (None, Some(_)) if !serves => Some(ErrorCode::NOT_LEADER_OR_FOLLOWER),
            (None, Some(topic)) => {
                let log = &topic.logs[index];
                (start, end) = (log.start, log.end);
                let from = part.fetch_offset.0;
                if from < start || from > end {
                    Some(ErrorCode::OFFSET_OUT_OF_RANGE)
                } else {
                    if preferred.is_none() {
                        bytes = log.read(from, usize::try_from(part.bytes_max).unwrap());
                    }
                    None
                }
            }
        };
        partitions.push(FetchedPartition {
            topic_id: part.topic_id,
            partition: part.partition,
            failure: failure.map_or_else(Failure::none, |code| Failure::new(code, "said the fake")),
            next_good_offset: (failure == Some(ErrorCode::CORRUPT)).then_some(Offset(77)),
            log_start_offset: Offset(start),
            high_watermark: Offset(end),
            bytes: u32::try_from(bytes.len()).unwrap(),
            preferred_replica: preferred.filter(|_| failure.is_none()).map(broker_id),
        });
        if !bytes.is_empty() {
            *state.served.entry(broker).or_default() += 1;
        }
        payload.extend_from_slice(&bytes);
    }
    (FetchResponse { partitions }, payload)
}

fn list_offsets(state: &State, asked: &ListOffsetsRequest) -> ListOffsetsResponse {
    let listed = asked.partitions.iter().map(|part| {
        let topic = state.topics.values().find(|it| it.id == part.topic_id);
        let log = &topic.unwrap().logs[usize::try_from(part.partition.0).unwrap()];
        let offset = match part.query {
            OffsetQuery::Earliest => Some(log.start),
            OffsetQuery::Latest => Some(log.end),
            OffsetQuery::At(_) => None,
        };
        ListedOffset {
            topic_id: part.topic_id,
            partition: part.partition,
            failure: Failure::none(),
            offset: offset.map(Offset),
            timestamp: None,
            leader_epoch: LeaderEpoch(0),
        }
    });
    ListOffsetsResponse {
        partitions: listed.collect(),
    }
}
