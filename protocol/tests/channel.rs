//! The two halves of a connection: frames survive any way in which a socket cuts them, answers find
//! their requests, and nothing that a peer can send makes either half panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

use bytes::BytesMut;
use proptest::{collection::vec, prelude::*};
use strandline_protocol::{
    ApiKey, CorrelationId, ErrorCode,
    channel::{
        ChannelError, ClientChannel, Completion, Frame, FrameDecoder, FrameKind, Unanswered,
        WindowFull, put_frame,
    },
    frame::{Flags, FrameError, FrameHeader, HEADER_BYTES},
    limits::MESSAGE_BYTES_MAX,
    messages::{ErrorMessage, decode},
};

const LIMIT: usize = 10_000;

fn message(text: &str) -> ErrorMessage {
    let message = text.to_owned();
    ErrorMessage { message }
}

fn frame_bytes(correlation: u32, text: &str, payload: &[u8]) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    let kind = FrameKind::request(ApiKey::Fetch, CorrelationId(correlation));
    put_frame(&mut buffer, kind, &message(text), payload.len()).unwrap();
    buffer.extend_from_slice(payload);
    buffer.to_vec()
}

/// Feeds `bytes` in pieces of those sizes, again and again.
fn decode_pieces(bytes: &[u8], sizes: &[usize]) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = FrameDecoder::new(LIMIT);
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at((*size).min(rest.len()));
        rest = behind;
        buffer.extend_from_slice(piece);
        while let Some(frame) = decoder.decode(&mut buffer)? {
            frames.push(frame);
        }
        assert!(buffer.len() < decoder.bytes_needed());
        assert!(decoder.bytes_needed() <= LIMIT);
    }
    Ok(frames)
}

#[test]
fn a_frame_reads_back_without_a_copy() {
    let bytes = frame_bytes(9, "hello", b"batches");
    let mut buffer = BytesMut::from(bytes.as_slice());
    let address = buffer.as_ptr();
    let frame = FrameDecoder::new(LIMIT)
        .decode(&mut buffer)
        .unwrap()
        .unwrap();
    assert_eq!(frame.header.correlation, CorrelationId(9));
    assert_eq!(frame.header.api_key, ApiKey::Fetch.code());
    let read: ErrorMessage = decode(ApiKey::Fetch, &frame.message).unwrap();
    assert_eq!(read, message("hello"));
    assert_eq!(&frame.payload[..], b"batches");
    assert_eq!(frame.message.as_ptr(), address.wrapping_add(HEADER_BYTES));
    assert!(buffer.is_empty());
}

#[test]
fn the_header_is_told_before_the_body_is_there() {
    let bytes = frame_bytes(1, "hello", &[0; 5_000]);
    let mut decoder = FrameDecoder::new(LIMIT);
    assert_eq!(
        (decoder.bytes_needed(), decoder.header()),
        (HEADER_BYTES, None)
    );
    let mut buffer = BytesMut::from(&bytes[..HEADER_BYTES]);
    assert!(decoder.decode(&mut buffer).unwrap().is_none());
    assert_eq!(decoder.header().unwrap().frame_bytes(), bytes.len());
    assert_eq!(decoder.bytes_needed(), bytes.len());
}

#[test]
fn damage_of_the_message_is_noticed_before_the_payload_is_there() {
    let mut bytes = frame_bytes(1, "hello", &[0; 5_000]);
    bytes[HEADER_BYTES + 3] ^= 1;
    let mut buffer = BytesMut::from(&bytes[..HEADER_BYTES + 50]);
    let error = FrameDecoder::new(LIMIT).decode(&mut buffer).unwrap_err();
    assert_eq!(error, FrameError::Checksum);
}

#[test]
fn frames_beyond_the_limit_are_refused_at_their_length() {
    let bytes = frame_bytes(1, "hello", &[0; LIMIT]);
    let mut buffer = BytesMut::from(&bytes[..4]);
    let error = FrameDecoder::new(LIMIT).decode(&mut buffer).unwrap_err();
    assert!(matches!(error, FrameError::TooLarge { limit: LIMIT, .. }));
}

#[test]
fn other_protocols_are_named_even_by_a_short_start() {
    let check = |bytes: &[u8], expect: &str| {
        let mut buffer = BytesMut::from(bytes);
        let error = FrameDecoder::new(LIMIT).decode(&mut buffer).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    };
    check(b"GET / HTTP/1.0\r\n\r\n", "HTTP");
    check(b"POST", "HTTP");
    check(b"HTTP/1.1 400 Bad Request\r\n", "speaks HTTP");
    check(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], "TLS");
    // ApiVersions 3 of librdkafka: length, key, version, correlation, client id.
    let mut kafka = vec![0, 0, 0, 0x24, 0, 18, 0, 3, 0, 0, 0, 1, 0, 7];
    kafka.extend_from_slice(b"rdkafka\0\x0blibrdkafka");
    check(&kafka, "Kafka");
    // The shortest: version 0 and an empty client id.
    check(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0, 0], "Kafka");
}

#[test]
fn a_frame_of_ours_that_looks_like_another_protocol_is_read() {
    let lengths = [*b"GET ", *b"POST", [0x16, 3, 1, 2], [0, 0, 0, 30]];
    for length in lengths.map(u32::from_be_bytes) {
        let payload = length as usize - (HEADER_BYTES - 4) - 2;
        let correlation = CorrelationId(1);
        let key = 18;
        let bytes = FrameHeader::encode(
            key,
            0,
            Flags::REQUEST,
            ErrorCode::NONE,
            correlation,
            b"ab",
            payload,
        );
        assert_eq!(bytes[..4], length.to_be_bytes());
        let header = FrameHeader::decode(&bytes, u32::MAX as usize).unwrap();
        assert_eq!(header.check(&bytes, b"ab"), Ok(()));
    }
}

#[test]
fn a_message_that_is_too_large_is_not_written() {
    let mut buffer = BytesMut::from(&b"before"[..]);
    let kind = FrameKind::one_way(ApiKey::Produce, CorrelationId(0));
    let text = "x".repeat(MESSAGE_BYTES_MAX);
    let error = put_frame(&mut buffer, kind, &message(&text), 0).unwrap_err();
    assert!(matches!(error, FrameError::MessageTooLarge { .. }));
    let error = put_frame(&mut buffer, kind, &message(""), u32::MAX as usize).unwrap_err();
    assert!(matches!(error, FrameError::TooLarge { .. }));
    assert_eq!(&buffer[..], b"before");
}

fn header(kind: FrameKind) -> FrameHeader {
    let mut buffer = BytesMut::new();
    put_frame(&mut buffer, kind, &message(""), 0).unwrap();
    FrameHeader::decode(buffer.first_chunk().unwrap(), LIMIT).unwrap()
}

fn response(api: ApiKey, correlation: CorrelationId, error: ErrorCode) -> FrameHeader {
    header(FrameKind::response(
        &header(FrameKind::request(api, correlation)),
        error,
    ))
}

fn push(api: ApiKey, correlation: CorrelationId) -> FrameHeader {
    header(FrameKind::push(&header(FrameKind::request(
        api,
        correlation,
    ))))
}

#[test]
fn answers_in_any_order_find_their_requests() {
    let mut channel = ClientChannel::new(3);
    let ids: Vec<_> = [ApiKey::Fetch, ApiKey::Produce, ApiKey::Metadata]
        .into_iter()
        .map(|api| channel.begin(api, api.api().name).unwrap())
        .collect();
    assert_eq!(
        channel.begin(ApiKey::Fetch, "late"),
        Err(WindowFull("late"))
    );
    let mut complete = |api, id, error| channel.complete(&response(api, id, error));
    let produced = complete(ApiKey::Produce, ids[1], ErrorCode::OVERLOADED);
    let request = |api, context| Ok(Completion::Response(Unanswered { api, context }));
    assert_eq!(produced, request(ApiKey::Produce, "Produce"));
    let again = complete(ApiKey::Produce, ids[1], ErrorCode::NONE);
    assert_eq!(again, Err(ChannelError::UnknownCorrelation(ids[1])));
    let fetched = complete(ApiKey::Fetch, ids[0], ErrorCode::NONE);
    assert_eq!(fetched, request(ApiKey::Fetch, "Fetch"));
    let wrong = complete(ApiKey::Fetch, ids[2], ErrorCode::NONE);
    assert!(matches!(wrong, Err(ChannelError::WrongApi { .. })));
}

#[test]
fn requests_that_are_not_answered_take_ids_but_no_room() {
    let mut channel = ClientChannel::new(1);
    let one_way: Vec<_> = (0..3).map(|_| channel.begin_one_way().0).collect();
    assert_eq!(one_way, [0, 1, 2]);
    assert_eq!(channel.begin(ApiKey::Fetch, ()), Ok(CorrelationId(3)));
    let answered = channel.complete(&response(ApiKey::Fetch, CorrelationId(1), ErrorCode::NONE));
    assert_eq!(
        answered,
        Err(ChannelError::UnknownCorrelation(CorrelationId(1)))
    );
    assert_eq!((channel.in_flight(), channel.has_room()), (1, false));
}

#[test]
fn what_was_never_answered_comes_back_in_its_order() {
    let mut channel = ClientChannel::new(10);
    for context in 0..5 {
        channel.begin(ApiKey::Produce, context).unwrap();
    }
    channel
        .complete(&response(
            ApiKey::Produce,
            CorrelationId(2),
            ErrorCode::NONE,
        ))
        .unwrap();
    let left: Vec<_> = channel.abandon().map(|request| request.context).collect();
    assert_eq!(left, [0, 1, 3, 4]);
    assert_eq!(channel.in_flight(), 0);
}

#[test]
fn pushes_belong_to_the_latest_subscription() {
    let watch = ApiKey::WatchMetadata;
    let mut channel = ClientChannel::new(10);
    let first = channel.begin(watch, ()).unwrap();
    let fetch = channel.begin(ApiKey::Fetch, ()).unwrap();
    let pushed = |api, subscription| Ok(Completion::Push { api, subscription });
    assert_eq!(channel.complete(&push(watch, first)), pushed(watch, first));
    channel
        .complete(&response(watch, first, ErrorCode::NONE))
        .unwrap();
    assert_eq!(channel.complete(&push(watch, first)), pushed(watch, first));
    assert!(channel.complete(&push(ApiKey::Fetch, fetch)).is_err());
    assert!(channel.complete(&push(ApiKey::Fetch, first)).is_err());
    let refused = channel.begin(watch, ()).unwrap();
    channel
        .complete(&response(watch, refused, ErrorCode::OVERLOADED))
        .unwrap();
    assert!(channel.complete(&push(watch, refused)).is_err());
    let second = channel.begin(watch, ()).unwrap();
    assert_eq!(channel.complete(&push(watch, first)), pushed(watch, first));
    channel
        .complete(&response(watch, second, ErrorCode::NONE))
        .unwrap();
    assert_eq!(
        channel.complete(&push(watch, second)),
        pushed(watch, second)
    );
    assert!(channel.complete(&push(watch, first)).is_err());
}

#[test]
fn a_request_is_no_answer() {
    let mut channel = ClientChannel::new(1);
    let id = channel.begin(ApiKey::Fetch, ()).unwrap();
    let outcome = channel.complete(&header(FrameKind::request(ApiKey::Fetch, id)));
    assert_eq!(outcome, Err(ChannelError::UnexpectedFlags(0)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn frames_survive_any_cut(
        frames in vec((any::<u32>(), "[a-z]{0,300}", vec(any::<u8>(), 0..400)), 1..8),
        sizes in vec(1..700_usize, 1..10),
    ) {
        let bytes: Vec<u8> = frames
            .iter()
            .flat_map(|(id, text, payload)| frame_bytes(*id, text, payload))
            .collect();
        let read = decode_pieces(&bytes, &sizes).unwrap();
        prop_assert_eq!(read.len(), frames.len());
        for (frame, (id, text, payload)) in read.iter().zip(&frames) {
            prop_assert_eq!(frame.header.correlation.0, *id);
            let read: ErrorMessage = decode(ApiKey::Fetch, &frame.message).unwrap();
            prop_assert_eq!(&read.message, text);
            prop_assert_eq!(&frame.payload[..], &payload[..]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in vec(any::<u8>(), 0..200),
        sizes in vec(1..40_usize, 1..4),
        small in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if let (true, Some(length)) = (small, bytes.first_chunk_mut::<3>()) {
            *length = [0; 3];
        }
        let _ = decode_pieces(&bytes, &sizes);
    }

    #[test]
    fn arbitrary_answers_never_panic(
        headers in vec((any::<u32>(), 0..8_u16, 0..20_u16), 0..50),
        begun in 0..20,
    ) {
        let mut channel = ClientChannel::new(100);
        for _ in 0..begun {
            channel.begin(ApiKey::WatchMetadata, ()).unwrap();
        }
        for (id, flags, api_key) in headers {
            let header = header(FrameKind {
                api_key,
                version: 0,
                flags: Flags(flags),
                error: ErrorCode::NONE,
                correlation: CorrelationId(id % 40),
            });
            let _ = channel.complete(&header);
        }
    }
}
