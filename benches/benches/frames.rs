//! Instructions of a frame around a produce request of one batch, and around its answer.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that fails must say so at once; gungraun's macros make public items"
)]

mod common;

use std::hint::black_box;

use bytes::BytesMut;
use common::config;
use gungraun::{library_benchmark, library_benchmark_group, main};
use strandline_protocol::{
    CorrelationId, ErrorCode, Offset, PartitionId, TopicId,
    api::ApiKey,
    channel::{Frame, FrameDecoder, FrameKind, put_frame},
    messages::{
        self, Acks, Failure, ProducePartition, ProduceRequest, ProduceResponse, ProducedPartition,
    },
};

const PAYLOAD_BYTES: u32 = 100_000;
const FRAME_BYTES_MAX: usize = 1 << 20;
const TOPIC: TopicId = TopicId([7; 16]);

fn request() -> ProduceRequest {
    ProduceRequest {
        acks: Acks::All,
        timeout_ms: 30_000,
        partitions: vec![ProducePartition {
            topic_id: TOPIC,
            partition: PartitionId(3),
            bytes: PAYLOAD_BYTES,
        }],
    }
}

fn response() -> ProduceResponse {
    ProduceResponse {
        partitions: vec![ProducedPartition {
            topic_id: TOPIC,
            partition: PartitionId(3),
            failure: Failure::none(),
            base_offset: Offset(123_456_789),
            log_append_time: None,
            log_start_offset: Offset(0),
        }],
    }
}

fn put_request(request: &ProduceRequest, buffer: &mut BytesMut) {
    let kind = FrameKind::request(ApiKey::Produce, CorrelationId(9));
    put_frame(buffer, kind, request, 100_000).unwrap();
}

fn request_and_room() -> (ProduceRequest, BytesMut) {
    (request(), BytesMut::with_capacity(256))
}

// What a client writes in front of a batch.
#[library_benchmark(setup = request_and_room)]
#[bench::one_batch()]
fn encode_request((request, mut buffer): (ProduceRequest, BytesMut)) -> (ProduceRequest, BytesMut) {
    put_request(black_box(&request), &mut buffer);
    (request, buffer)
}

fn received_request() -> (FrameDecoder, BytesMut) {
    let mut buffer = BytesMut::with_capacity(FRAME_BYTES_MAX);
    put_request(&request(), &mut buffer);
    buffer.resize(buffer.len() + 100_000, 0);
    (FrameDecoder::new(FRAME_BYTES_MAX), buffer)
}

// What a broker makes of it.
#[library_benchmark(setup = received_request)]
#[bench::one_batch()]
fn decode_request(
    (mut decoder, mut buffer): (FrameDecoder, BytesMut),
) -> (Frame, ProduceRequest, BytesMut) {
    let frame = decoder.decode(black_box(&mut buffer)).unwrap().unwrap();
    let request = messages::decode(ApiKey::Produce, &frame.message).unwrap();
    (frame, request, buffer)
}

fn put_response(response: &ProduceResponse, of: &Frame, buffer: &mut BytesMut) {
    let kind = FrameKind::response(&of.header, ErrorCode::NONE);
    put_frame(buffer, kind, response, 0).unwrap();
}

fn response_and_room() -> (Frame, ProduceResponse, BytesMut) {
    let (mut decoder, mut buffer) = received_request();
    let frame = decoder.decode(&mut buffer).unwrap().unwrap();
    (frame, response(), BytesMut::with_capacity(256))
}

// What a broker answers.
#[library_benchmark(setup = response_and_room)]
#[bench::one_batch()]
fn encode_response(
    (frame, response, mut buffer): (Frame, ProduceResponse, BytesMut),
) -> (Frame, ProduceResponse, BytesMut) {
    put_response(black_box(&response), &frame, &mut buffer);
    (frame, response, buffer)
}

fn received_response() -> (FrameDecoder, BytesMut) {
    let (frame, response, mut buffer) = response_and_room();
    put_response(&response, &frame, &mut buffer);
    (FrameDecoder::new(FRAME_BYTES_MAX), buffer)
}

// What the client makes of that.
#[library_benchmark(setup = received_response)]
#[bench::one_batch()]
fn decode_response(
    (mut decoder, mut buffer): (FrameDecoder, BytesMut),
) -> (Frame, ProduceResponse, BytesMut) {
    let frame = decoder.decode(black_box(&mut buffer)).unwrap().unwrap();
    let response = messages::decode(ApiKey::Produce, &frame.message).unwrap();
    (frame, response, buffer)
}

library_benchmark_group!(
    name = produce,
    benchmarks = [
        encode_request,
        decode_request,
        encode_response,
        decode_response
    ]
);

main!(config = config(), library_benchmark_groups = produce);
