//! A client that speaks in frames, and can speak wrongly.

use std::net::SocketAddr;

use bytes::Bytes;
use strandline_broker::server::Server;
use strandline_protocol::{
    CorrelationId, ErrorCode, Offset, PartitionId, Timestamp, TopicId,
    batch::{
        builder::{BatchBuilder, NewRecord, ProducerStamp},
        header::Codec,
        split_batches,
    },
    frame::{Flags, FrameHeader, HEADER_BYTES},
    messages::{
        Acks, CreateTopicsRequest, DeleteTopicsRequest, ErrorMessage, FetchPartition, FetchRequest,
        FetchedPartition, HELLO_MAGIC, HelloRequest, NewTopic, ProducePartition, ProduceRequest,
        ProducedPartition, Request, decode, encode,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A frame that came from the broker.
pub struct Answer {
    pub header: FrameHeader,
    pub message: Vec<u8>,
    pub payload: Bytes,
}

/// One connection.
pub struct Peer {
    pub stream: TcpStream,
    next: u32,
}

pub fn hello() -> HelloRequest {
    HelloRequest {
        magic: HELLO_MAGIC.to_owned(),
        client_id: "test".to_owned(),
        software: "test/0".to_owned(),
        cluster_id: None,
        directory_id: None,
        authentication: None,
        peer: None,
    }
}

impl Peer {
    /// Connects without saying anything.
    pub async fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, next: 0 }
    }

    pub async fn connect(server: &Server) -> Self {
        let mut peer = Self::silent(server.native_addr()).await;
        peer.call(&hello(), b"").await.unwrap();
        peer
    }

    pub async fn send<R: Request>(&mut self, request: &R, payload: &[u8]) -> CorrelationId {
        self.send_raw(R::API.code(), 0, Flags::REQUEST, &encode(request), payload)
            .await
    }

    pub async fn send_raw(
        &mut self,
        api: u16,
        version: u16,
        flags: Flags,
        message: &[u8],
        payload: &[u8],
    ) -> CorrelationId {
        let correlation = CorrelationId(self.next);
        self.next += 1;
        let header = FrameHeader::encode(
            api,
            version,
            flags,
            ErrorCode::NONE,
            correlation,
            message,
            payload.len(),
        );
        let frame = [&header[..], message, payload].concat();
        self.stream.write_all(&frame).await.unwrap();
        correlation
    }

    /// The next frame; none if the broker closed the connection.
    pub async fn receive(&mut self) -> Option<Answer> {
        let work = async {
            let mut fixed = [0; HEADER_BYTES];
            self.stream.read_exact(&mut fixed).await.ok()?;
            let header = FrameHeader::decode(&fixed, 1 << 30).unwrap();
            let mut body = vec![0; header.body_bytes];
            self.stream.read_exact(&mut body).await.ok()?;
            let payload = Bytes::from(body.split_off(header.message_bytes));
            header.check(&fixed, &body).unwrap();
            Some(Answer {
                header,
                message: body,
                payload,
            })
        };
        let answer = tokio::time::timeout(super::PATIENCE, work).await;
        answer.expect("the broker neither answers nor closes")
    }

    /// The answer to `correlation`, which must be the next frame.
    pub async fn answer<R: Request>(
        &mut self,
        correlation: CorrelationId,
    ) -> Result<(R::Response, Bytes), (ErrorCode, String)> {
        let answer = self.receive().await.expect("the connection is open");
        assert_eq!(answer.header.correlation, correlation);
        assert_eq!(answer.header.flags, Flags::RESPONSE);
        if answer.header.error.is_none() {
            Ok((decode(R::API, &answer.message).unwrap(), answer.payload))
        } else {
            let error: ErrorMessage = decode(R::API, &answer.message).unwrap();
            Err((answer.header.error, error.message))
        }
    }

    pub async fn call<R: Request>(
        &mut self,
        request: &R,
        payload: &[u8],
    ) -> Result<(R::Response, Bytes), (ErrorCode, String)> {
        let correlation = self.send(request, payload).await;
        self.answer::<R>(correlation).await
    }

    pub async fn create(
        &mut self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> TopicId {
        let request = CreateTopicsRequest {
            topics: vec![NewTopic {
                name: name.to_owned(),
                partitions: Some(partitions),
                replication_factor: None,
                configs: configs
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
            }],
            validate_only: false,
        };
        let (response, _) = self.call(&request, b"").await.unwrap();
        let topic = &response.topics[0];
        assert!(topic.failure.error.is_none(), "{:?}", topic.failure);
        topic.id
    }

    pub async fn delete(&mut self, name: &str) {
        let request = DeleteTopicsRequest {
            names: vec![name.to_owned()],
        };
        let (response, _) = self.call(&request, b"").await.unwrap();
        assert!(response.topics[0].failure.error.is_none());
    }

    pub async fn produce(&mut self, topic: TopicId, acks: Acks, batch: &[u8]) -> ProducedPartition {
        let request = produce_request(topic, acks, &[batch.len()]);
        let (response, _) = self.call(&request, batch).await.unwrap();
        response.partitions[0].clone()
    }

    /// Produces values and returns the offset of the first.
    pub async fn produce_values(&mut self, topic: TopicId, values: &[&str]) -> Offset {
        let produced = self.produce(topic, Acks::All, &batch(values)).await;
        assert!(produced.failure.error.is_none(), "{:?}", produced.failure);
        produced.base_offset
    }

    pub async fn fetch(
        &mut self,
        topic: TopicId,
        from: i64,
        bytes_min: u32,
        wait_ms_max: u32,
    ) -> (FetchedPartition, Bytes) {
        let request = fetch_request(topic, from, bytes_min, wait_ms_max);
        let (response, payload) = self.call(&request, b"").await.unwrap();
        (response.partitions[0].clone(), payload)
    }

    /// All values from `from` on, as far as they are visible.
    pub async fn values(&mut self, topic: TopicId, from: i64) -> Vec<String> {
        let (mut found, mut at) = (Vec::new(), from);
        loop {
            let (fetched, payload) = self.fetch(topic, at, 0, 0).await;
            assert!(fetched.failure.error.is_none(), "{:?}", fetched.failure);
            if payload.is_empty() {
                return found;
            }
            for (offset, value) in records(&payload) {
                if offset >= at {
                    found.push(value);
                    at = offset + 1;
                }
            }
        }
    }
}

pub fn produce_request(topic: TopicId, acks: Acks, sizes: &[usize]) -> ProduceRequest {
    let partitions = (0..).zip(sizes).map(|(number, bytes)| ProducePartition {
        topic_id: topic,
        partition: PartitionId(number),
        bytes: u32::try_from(*bytes).unwrap(),
    });
    ProduceRequest {
        acks,
        timeout_ms: 10_000,
        partitions: partitions.collect(),
    }
}

pub fn fetch_request(topic: TopicId, from: i64, bytes_min: u32, wait_ms_max: u32) -> FetchRequest {
    FetchRequest {
        wait_ms_max,
        bytes_min,
        bytes_max: 1 << 20,
        partitions: vec![FetchPartition {
            topic_id: topic,
            partition: PartitionId(0),
            fetch_offset: Offset(from),
            bytes_max: 1 << 20,
            current_leader_epoch: None,
        }],
        rack: None,
    }
}

pub fn batch(values: &[&str]) -> Bytes {
    batch_of(values, ProducerStamp::NONE)
}

pub fn batch_of(values: &[&str], producer: ProducerStamp) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None, 1 << 10);
    for value in values {
        let record = NewRecord {
            timestamp: Timestamp(1_700_000_000_000),
            key: None,
            value: Some(value.as_bytes()),
            headers: &[],
        };
        builder.try_append(1 << 24, record).unwrap();
    }
    builder.finish(producer).unwrap()
}

/// Offsets and values of whole batches.
pub fn records(payload: &[u8]) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    for batch in split_batches(payload) {
        let batch = batch.unwrap();
        batch.check_crc().unwrap();
        let mut scratch = Vec::new();
        for record in batch.records(&mut scratch).unwrap() {
            let record = record.unwrap();
            let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            found.push((record.offset.0, value));
        }
    }
    found
}
