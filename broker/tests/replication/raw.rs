//! Single requests, each to one broker, whatever a client would do.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use strandline_client::{ClientError, connection::Connection};
use strandline_protocol::{
    BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionId, Timestamp, TopicId,
    batch::{
        builder::{BatchBuilder, NewRecord, ProducerStamp},
        header::Codec,
    },
    messages::{
        Acks, DeleteRecordsPartition, DeleteRecordsRequest, DrainBrokerRequest, Duty,
        FetchPartition, FetchRequest, FetchedPartition, ListOffsetsPartition, ListOffsetsRequest,
        ListedOffset, OffsetQuery, ProducePartition, ProduceRequest, Request,
    },
};
use strandline_storage::{
    fs::{CacheLimits, pwrite::PwriteFileSystem},
    log::{Log, LogConfig, RecoveryHint},
};

use super::harness::{Cluster, until};

fn batch(value: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None, 1 << 10);
    let record = NewRecord {
        timestamp: Timestamp(1_700_000_000_000),
        key: None,
        value: Some(value),
        headers: &[],
    };
    builder.try_append(1 << 24, record).unwrap();
    builder.finish(ProducerStamp::NONE).unwrap()
}

/// Appends so many records to the log of a broker that does not run, as its leader in `epoch`.
pub fn append_to_log(directory: &Path, topic: TopicId, epoch: LeaderEpoch, count: usize) -> Offset {
    let files = Arc::new(PwriteFileSystem::new(CacheLimits::default()));
    let now = Timestamp(1_700_000_000_000);
    let hint = RecoveryHint::default();
    let (mut log, _) = Log::open(files, directory, topic, LogConfig::default(), hint, now).unwrap();
    for _ in 0..count {
        log.append(&batch(b"nobody else has it"), epoch, now)
            .unwrap();
    }
    log.flush().unwrap()
}

/// A request of one record.
pub fn one_record(cluster: &Cluster, topic: &str, acks: Acks) -> (ProduceRequest, Bytes) {
    let batch = batch(b"once");
    let request = ProduceRequest {
        acks,
        timeout_ms: 20_000,
        partitions: vec![ProducePartition {
            topic_id: cluster.topic_id(topic),
            partition: PartitionId(0),
            bytes: u32::try_from(batch.len()).unwrap(),
        }],
    };
    (request, batch)
}

/// What becomes of it.
pub async fn send(connection: &Connection, (request, batch): (ProduceRequest, Bytes)) -> ErrorCode {
    let (response, _) = connection.request(&request, vec![batch]).await.unwrap();
    response.partitions[0].failure.error
}

/// Produces one record to the leader, once.
pub async fn produce(cluster: &Cluster, topic: &str, acks: Acks) -> ErrorCode {
    let leader = cluster.leader(topic).await;
    let connection = cluster.connect(leader).await;
    send(&connection, one_record(cluster, topic, acks)).await
}

/// Takes a broker's leaderships away.
pub async fn drain(cluster: &Cluster, id: usize) {
    let request = DrainBrokerRequest {
        broker_id: BrokerId(i32::try_from(id).unwrap()),
        duty: Duty::Drained,
    };
    let connection = cluster.connect(id).await;
    connection.request(&request, Vec::new()).await.unwrap();
}

/// Asks until the broker takes part: on a busy machine it may have been fenced for a moment.
async fn ask<R: Request>(connection: &Connection, request: &R) -> R::Response {
    let response = std::cell::RefCell::new(None);
    until("the broker takes part", async || {
        match connection.request(request, Vec::new()).await {
            Ok((answer, _)) => *response.borrow_mut() = Some(answer),
            Err(ClientError::Refused {
                code: ErrorCode::NOT_LEADER_OR_FOLLOWER,
                ..
            }) => {}
            Err(error) => panic!("{error}"),
        }
        response.borrow().is_some()
    })
    .await;
    response.into_inner().unwrap()
}

/// Fetches from the start at one broker, without waiting.
pub async fn fetch(
    cluster: &Cluster,
    id: usize,
    topic: &str,
    rack: Option<&str>,
) -> FetchedPartition {
    let request = FetchRequest {
        wait_ms_max: 0,
        bytes_min: 1,
        bytes_max: 1 << 20,
        rack: rack.map(str::to_owned),
        partitions: vec![FetchPartition {
            topic_id: cluster.topic_id(topic),
            partition: PartitionId(0),
            fetch_offset: Offset(0),
            bytes_max: 1 << 20,
            current_leader_epoch: None,
        }],
    };
    let connection = cluster.connect(id).await;
    ask(&connection, &request).await.partitions.remove(0)
}

pub async fn delete_before(cluster: &Cluster, id: usize, topic: &str, before: i64) -> ErrorCode {
    let request = DeleteRecordsRequest {
        partitions: vec![DeleteRecordsPartition {
            topic_id: cluster.topic_id(topic),
            partition: PartitionId(0),
            before: Some(Offset(before)),
        }],
    };
    let connection = cluster.connect(id).await;
    ask(&connection, &request).await.partitions[0].failure.error
}

pub async fn list_offset(
    cluster: &Cluster,
    id: usize,
    topic: &str,
    query: OffsetQuery,
) -> ListedOffset {
    let request = ListOffsetsRequest {
        partitions: vec![ListOffsetsPartition {
            topic_id: cluster.topic_id(topic),
            partition: PartitionId(0),
            query,
        }],
    };
    let connection = cluster.connect(id).await;
    ask(&connection, &request).await.partitions.remove(0)
}
