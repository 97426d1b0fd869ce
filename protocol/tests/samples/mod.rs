//! One or more frames of every request and every response, for the golden files and the documents.
#![allow(
    dead_code,
    reason = "each test that includes this file uses a part of it"
)]

mod cluster;
mod replicas;

use bytes::BytesMut;
use serde::{Serialize, de::DeserializeOwned};
use strandline_protocol::{
    ApiKey, BrokerId, ClusterId, CorrelationId, DirectoryId, ErrorCode, LeaderEpoch, Offset,
    PartitionEpoch, PartitionId, ProducerEpoch, ProducerId, Timestamp, TopicId,
    api::APIS,
    batch::{BatchBuilder, Codec, NewRecord, ProducerStamp},
    channel::{FrameKind, put_frame},
    frame::Flags,
    messages::{
        Acks, AlterConfigsRequest, AlterConfigsResponse, ApiVersions, BrokerMetadata, ConfigChange,
        ConfigEntry, ConfigSource, CreatePartitionsRequest, CreatePartitionsResponse,
        CreateTopicsRequest, CreateTopicsResponse, DeleteRecordsPartition, DeleteRecordsRequest,
        DeleteRecordsResponse, DeleteTopicsRequest, DeleteTopicsResponse, DeletedRecords,
        DescribeBrokerRequest, DescribeBrokerResponse, DescribeConfigsRequest,
        DescribeConfigsResponse, ErrorMessage, Failure, FetchPartition, FetchRequest,
        FetchResponse, FetchedPartition, HELLO_MAGIC, HelloRequest, HelloResponse,
        InitProducerIdRequest, InitProducerIdResponse, ListOffsetsPartition, ListOffsetsRequest,
        ListOffsetsResponse, ListedOffset, MetadataPush, MetadataRequest, MetadataResponse,
        NewPartitions, NewTopic, OffsetQuery, PartitionMetadata, ProducePartition, ProduceRequest,
        ProduceResponse, ProducedPartition, Request, TopicConfigs, TopicMetadata, TopicResult,
        WatchMetadataRequest, WatchMetadataResponse, decode, encode,
    },
};

/// A frame, and how its message is read and written again.
pub struct Sample {
    pub name: String,
    pub api: ApiKey,
    pub frame: Vec<u8>,
    pub message: Vec<u8>,
    pub payload: Vec<u8>,
    pub rewrite: fn(ApiKey, &[u8]) -> Result<Vec<u8>, String>,
}

struct Samples(Vec<Sample>);

impl Samples {
    fn put<M: Serialize + DeserializeOwned>(
        &mut self,
        api: ApiKey,
        what: &str,
        flags: Flags,
        error: ErrorCode,
        message: &M,
        payload: &[u8],
    ) {
        let kind = FrameKind {
            flags,
            error,
            ..FrameKind::request(api, CorrelationId(1 + self.0.len() as u32))
        };
        let mut frame = BytesMut::new();
        put_frame(&mut frame, kind, message, payload.len()).unwrap();
        frame.extend_from_slice(payload);
        self.0.push(Sample {
            name: format!("{:02}-{}.{what}", api.code(), api.api().name),
            api,
            frame: frame.to_vec(),
            message: encode(message),
            payload: payload.to_vec(),
            rewrite: |api, bytes| {
                let message: M = decode(api, bytes).map_err(|error| error.to_string())?;
                Ok(encode(&message))
            },
        });
    }

    fn request<R: Request>(&mut self, what: &str, message: &R, payload: &[u8]) {
        let (flags, error) = (Flags::REQUEST, ErrorCode::NONE);
        self.put(
            R::API,
            &format!("request{what}"),
            flags,
            error,
            message,
            payload,
        );
    }

    fn response<R: Request>(&mut self, what: &str, message: &R::Response, payload: &[u8]) {
        let (flags, error) = (Flags::RESPONSE, ErrorCode::NONE);
        self.put(
            R::API,
            &format!("response{what}"),
            flags,
            error,
            message,
            payload,
        );
    }
}

const TOPIC: TopicId = TopicId(*b"a topic's own id");
const PARTITION: PartitionId = PartitionId(2);

fn failure() -> Failure {
    Failure::new(ErrorCode::UNKNOWN_TOPIC_ID, "ask for metadata again")
}

/// A small batch of known records.
pub fn batch(codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec, 1_000);
    for index in 0..20_i64 {
        let key = format!("key-{}", index % 4);
        let value = "the same value, again and again; ".repeat(index as usize % 5);
        let headers: &[(&str, Option<&[u8]>)] = match index % 3 {
            0 => &[],
            1 => &[("trace", Some(b"0123"))],
            _ => &[("empty", Some(b"")), ("null", None)],
        };
        let record = NewRecord {
            timestamp: Timestamp(1_764_000_000_000 + index * 7),
            key: (index % 6 != 5).then_some(key.as_bytes()),
            value: (index % 7 != 6).then_some(value.as_bytes()),
            headers,
        };
        builder.try_append(10_000, record).unwrap();
    }
    builder.finish(ProducerStamp::NONE).unwrap().to_vec()
}

/// Every sample, in the order of the APIs.
pub fn all() -> Vec<Sample> {
    let mut samples = Samples(Vec::new());
    opening(&mut samples);
    metadata(&mut samples);
    topics(&mut samples);
    configs(&mut samples);
    produce(&mut samples);
    fetch(&mut samples);
    offsets(&mut samples);
    broker(&mut samples);
    cluster::all(&mut samples);
    replicas::all(&mut samples);
    for api in APIS {
        for what in ["request", "response"] {
            let name = format!("{:02}-{}.{what}", api.key.code(), api.name);
            assert!(samples.0.iter().any(|sample| sample.name == name), "{name}");
        }
    }
    samples.0
}

fn opening(samples: &mut Samples) {
    let mut hello = HelloRequest {
        magic: HELLO_MAGIC.to_owned(),
        client_id: "orders".to_owned(),
        software: "strandline/0.1.0".to_owned(),
        cluster_id: None,
        directory_id: None,
        authentication: None,
        peer: None,
    };
    samples.request("", &hello, &[]);
    hello.cluster_id = Some(ClusterId(*b"cluster id bytes"));
    hello.directory_id = Some(DirectoryId(*b"directory id, 16"));
    hello.authentication = Some("none".to_owned());
    samples.request("-expecting", &hello, &[]);
    let apis = APIS.iter().map(|api| ApiVersions {
        key: api.key.code(),
        min: *api.versions.start(),
        max: *api.versions.end(),
    });
    let answer = HelloResponse {
        cluster_id: ClusterId(*b"cluster id bytes"),
        broker_id: BrokerId(1),
        directory_id: DirectoryId(*b"directory id, 16"),
        raft_id: Some(cluster::RAFT_IDS[0]),
        software: "strandline/0.1.0".to_owned(),
        apis: apis.collect(),
        frame_bytes_max: 64 << 20,
    };
    samples.response::<HelloRequest>("", &answer, &[]);
    let message = "this broker belongs to another cluster".to_owned();
    samples.put(
        ApiKey::Hello,
        "error",
        Flags::RESPONSE,
        ErrorCode::INCONSISTENT_CLUSTER_ID,
        &ErrorMessage { message },
        &[],
    );
}

fn topic_metadata(failure: Failure) -> TopicMetadata {
    TopicMetadata {
        name: "orders".to_owned(),
        id: TOPIC,
        failure,
        compression: "producer".to_owned(),
        batch_bytes_max: 1_048_588,
        partition_count: 3,
        partitions: vec![PartitionMetadata {
            id: PARTITION,
            leader: Some(BrokerId(1)),
            leader_epoch: LeaderEpoch(4),
            partition_epoch: PartitionEpoch(9),
            replicas: vec![BrokerId(1), BrokerId(2)],
            isr: vec![BrokerId(1)],
            eligible: Vec::new(),
            adding: Vec::new(),
            removing: Vec::new(),
        }],
    }
}

fn metadata(samples: &mut Samples) {
    samples.request("", &MetadataRequest::default(), &[]);
    let named = MetadataRequest {
        topics: Some(vec!["orders".to_owned(), "absent".to_owned()]),
        cursor: Some("orders/2".to_owned()),
    };
    samples.request("-named", &named, &[]);
    let broker = BrokerMetadata {
        id: BrokerId(1),
        host: "broker-1.example".to_owned(),
        port: 9_290,
        rack: Some("a".to_owned()),
    };
    let answer = MetadataResponse {
        cluster_id: ClusterId(*b"cluster id bytes"),
        version: Offset(17),
        controller: Some(BrokerId(1)),
        brokers: vec![broker.clone()],
        topics: vec![topic_metadata(Failure::none()), topic_metadata(failure())],
        next_cursor: Some("orders/3".to_owned()),
    };
    samples.response::<MetadataRequest>("", &answer, &[]);
    let watch = WatchMetadataRequest {
        topics: vec!["orders".to_owned()],
    };
    samples.request("", &watch, &[]);
    let version = Offset(17);
    samples.response::<WatchMetadataRequest>("", &WatchMetadataResponse { version }, &[]);
    let push = MetadataPush {
        version: Offset(18),
        brokers: vec![broker],
        topics: vec![topic_metadata(Failure::none())],
    };
    let (flags, error) = (Flags::PUSH, ErrorCode::NONE);
    samples.put(ApiKey::WatchMetadata, "push", flags, error, &push, &[]);
}

fn topics(samples: &mut Samples) {
    let result = |failure| TopicResult {
        name: "orders".to_owned(),
        id: TOPIC,
        partitions: 3,
        failure,
    };
    let results = vec![result(Failure::none()), result(failure())];
    let topic = NewTopic {
        name: "orders".to_owned(),
        partitions: Some(3),
        replication_factor: Some(1),
        configs: [("retention.ms".to_owned(), "60000".to_owned())].into(),
    };
    let defaults = NewTopic {
        partitions: None,
        replication_factor: None,
        configs: [].into(),
        ..topic.clone()
    };
    let create = CreateTopicsRequest {
        topics: vec![topic, defaults],
        validate_only: false,
    };
    samples.request("", &create, &[]);
    let topics = results.clone();
    samples.response::<CreateTopicsRequest>("", &CreateTopicsResponse { topics }, &[]);
    let names = vec!["orders".to_owned()];
    samples.request("", &DeleteTopicsRequest { names }, &[]);
    let topics = results.clone();
    samples.response::<DeleteTopicsRequest>("", &DeleteTopicsResponse { topics }, &[]);
    let name = "orders".to_owned();
    let topics = vec![NewPartitions { name, total: 6 }];
    samples.request("", &CreatePartitionsRequest { topics }, &[]);
    let topics = results;
    samples.response::<CreatePartitionsRequest>("", &CreatePartitionsResponse { topics }, &[]);
}

fn configs(samples: &mut Samples) {
    let topics = vec!["orders".to_owned()];
    samples.request("", &DescribeConfigsRequest { topics }, &[]);
    let entry = |key: &str, source| ConfigEntry {
        key: key.to_owned(),
        value: "1".to_owned(),
        source,
    };
    let topics = vec![TopicConfigs {
        name: "orders".to_owned(),
        failure: Failure::none(),
        entries: vec![
            entry("flush", ConfigSource::Broker),
            entry("retention.ms", ConfigSource::Topic),
            entry("segment.ms", ConfigSource::Default),
        ],
    }];
    samples.response::<DescribeConfigsRequest>("", &DescribeConfigsResponse { topics }, &[]);
    let change = |key: &str, value: Option<&str>| ConfigChange {
        key: key.to_owned(),
        value: value.map(str::to_owned),
    };
    let alter = AlterConfigsRequest {
        topic: "orders".to_owned(),
        changes: vec![change("flush", Some("async")), change("segment.ms", None)],
        validate_only: true,
    };
    samples.request("", &alter, &[]);
    let failure = failure();
    samples.response::<AlterConfigsRequest>("", &AlterConfigsResponse { failure }, &[]);
}

fn produce(samples: &mut Samples) {
    let init = InitProducerIdRequest {
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch::NONE,
    };
    samples.request("", &init, &[]);
    let identity = InitProducerIdResponse {
        producer_id: ProducerId(4_000),
        producer_epoch: ProducerEpoch(1),
    };
    samples.response::<InitProducerIdRequest>("", &identity, &[]);
    let payload = [batch(Codec::None), batch(Codec::None)].concat();
    for (what, acks) in [
        ("", Acks::All),
        ("-leader", Acks::Leader),
        ("-none", Acks::None),
    ] {
        let partition = |partition| ProducePartition {
            topic_id: TOPIC,
            partition,
            bytes: payload.len() as u32 / 2,
        };
        let request = ProduceRequest {
            acks,
            timeout_ms: 30_000,
            partitions: vec![partition(PartitionId(0)), partition(PARTITION)],
        };
        samples.request(what, &request, &payload);
    }
    let produced = |failure, log_append_time| ProducedPartition {
        topic_id: TOPIC,
        partition: PARTITION,
        failure,
        base_offset: Offset(1_000),
        log_append_time,
        log_start_offset: Offset(5),
    };
    let partitions = vec![
        produced(Failure::none(), Some(Timestamp(1_764_000_000_123))),
        produced(failure(), None),
    ];
    samples.response::<ProduceRequest>("", &ProduceResponse { partitions }, &[]);
}

fn fetch(samples: &mut Samples) {
    let partition = |current_leader_epoch| FetchPartition {
        topic_id: TOPIC,
        partition: PARTITION,
        fetch_offset: Offset(1_003),
        bytes_max: 1 << 20,
        current_leader_epoch,
    };
    let request = FetchRequest {
        wait_ms_max: 500,
        bytes_min: 1,
        bytes_max: 8 << 20,
        partitions: vec![partition(Some(LeaderEpoch(4))), partition(None)],
        rack: None,
    };
    samples.request("", &request, &[]);
    let payload = batch(Codec::None);
    let fetched = |failure, next_good_offset, bytes| FetchedPartition {
        topic_id: TOPIC,
        partition: PARTITION,
        failure,
        next_good_offset,
        log_start_offset: Offset(5),
        high_watermark: Offset(1_020),
        bytes,
        preferred_replica: None,
    };
    let corrupt = Failure::new(ErrorCode::CORRUPT, "damaged; go on at offset 1010");
    let partitions = vec![
        fetched(Failure::none(), None, payload.len() as u32),
        fetched(corrupt, Some(Offset(1_010)), 0),
    ];
    samples.response::<FetchRequest>("", &FetchResponse { partitions }, &payload);
}

fn offsets(samples: &mut Samples) {
    let at = OffsetQuery::At(Timestamp(1_764_000_000_000));
    let queries = [OffsetQuery::Earliest, OffsetQuery::Latest, at];
    let partitions = queries.map(|query| ListOffsetsPartition {
        topic_id: TOPIC,
        partition: PARTITION,
        query,
    });
    let partitions = partitions.to_vec();
    samples.request("", &ListOffsetsRequest { partitions }, &[]);
    let listed = |offset, timestamp| ListedOffset {
        topic_id: TOPIC,
        partition: PARTITION,
        failure: Failure::none(),
        offset,
        timestamp,
        leader_epoch: LeaderEpoch(4),
    };
    let partitions = vec![
        listed(Some(Offset(1_000)), Some(Timestamp(1_764_000_000_007))),
        listed(None, None),
    ];
    samples.response::<ListOffsetsRequest>("", &ListOffsetsResponse { partitions }, &[]);
    let delete = |before| DeleteRecordsPartition {
        topic_id: TOPIC,
        partition: PARTITION,
        before,
    };
    let partitions = vec![delete(Some(Offset(500))), delete(None)];
    samples.request("", &DeleteRecordsRequest { partitions }, &[]);
    let partitions = vec![DeletedRecords {
        topic_id: TOPIC,
        partition: PARTITION,
        failure: Failure::none(),
        log_start_offset: Offset(500),
    }];
    samples.response::<DeleteRecordsRequest>("", &DeleteRecordsResponse { partitions }, &[]);
}

fn broker(samples: &mut Samples) {
    samples.request("", &DescribeBrokerRequest {}, &[]);
    let answer = DescribeBrokerResponse {
        broker_id: BrokerId(1),
        version: "0.1.0".to_owned(),
        flush: "ack".to_owned(),
        directories: vec!["/var/lib/strandline".to_owned()],
        cpu_us: 1_234_567,
        resident_bytes: 20 << 20,
        uptime_ms: 60_000,
    };
    samples.response::<DescribeBrokerRequest>("", &answer, &[]);
}
