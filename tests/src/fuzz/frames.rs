//! Frames, cut out of a stream that arrives in pieces.
//!
//! The stream is the input itself, or frames that the input describes with a few bytes edited. It
//! is cut in pieces as the input says; that must make no difference. What is a frame is encoded
//! again to the same bytes, and given to the client's half of a channel.

use bytes::BytesMut;
use strandline_protocol::{
    ApiKey, CorrelationId, ErrorCode,
    api::APIS,
    channel::{ClientChannel, Frame, FrameDecoder},
    frame::{Flags, FrameError, FrameHeader, HEADER_BYTES},
    limits::FRAME_BYTES_MAX_DEFAULT,
};

use super::choices::Choices;

/// How a stream ended: what came out of it, and what was wrong with the rest.
type Received = (Vec<Frame>, Option<FrameError>);

/// In how many pieces a stream arrives at most.
const PIECES_MAX: usize = 4_096;

/// The target.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let limits = [FRAME_BYTES_MAX_DEFAULT, 64, 4_096, 1 << 20];
    let limit = limits[choices.below(limits.len())];
    let is_built = choices.below(2) == 1;
    let pieces = choices.short();
    let stream = if is_built {
        built(&mut choices)
    } else {
        choices.rest().to_vec()
    };
    // A long stream comes in longer pieces: so many are enough.
    let scale = 1 + stream.len() / PIECES_MAX;
    let pieces: Vec<usize> = pieces
        .iter()
        .map(|piece| usize::from(*piece).max(1) * scale)
        .collect();
    let whole = receive(&stream, &[], limit);
    let parts = receive(&stream, &pieces, limit);
    assert_same(&whole, &parts);
    encode_again(&stream, &whole.0);
    complete(&whole.0);
    #[cfg(fuzzing)]
    receive_as_broker(&stream, &pieces, limit, &whole);
}

/// Frames that are right but for a few edits.
fn built(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..=choices.below(4) {
        let api = choices.u16() % 16;
        let flags = [Flags::REQUEST, Flags::RESPONSE, Flags::PUSH, Flags::ONE_WAY];
        let flags = flags[choices.below(4)];
        let correlation = CorrelationId(u32::from(choices.u8() % 8));
        let (version, error) = (choices.u16() % 2, ErrorCode(choices.u16() % 4));
        let (message, payload) = (choices.short(), choices.short());
        let repeat = 1 << choices.below(12);
        let payload = payload.repeat(repeat);
        let header = FrameHeader::encode(
            api,
            version,
            flags,
            error,
            correlation,
            message,
            payload.len(),
        );
        stream.extend_from_slice(&header);
        stream.extend_from_slice(message);
        stream.extend_from_slice(&payload);
    }
    choices.edit(&mut stream);
    stream
}

/// Cuts frames out of `stream`, which arrives in pieces of these lengths, again and again.
fn receive(stream: &[u8], pieces: &[usize], limit: usize) -> Received {
    let mut decoder = FrameDecoder::new(limit);
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    let mut rest = stream;
    for piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (arrived, later) = rest.split_at((*piece).min(rest.len()));
        rest = later;
        buffer.extend_from_slice(arrived);
        if let Some(error) = decode(&mut decoder, &mut buffer, &mut frames) {
            return (frames, Some(error));
        }
    }
    buffer.extend_from_slice(rest);
    let error = decode(&mut decoder, &mut buffer, &mut frames);
    if error.is_none() {
        let needed = decoder.bytes_needed();
        assert!(
            buffer.len() < needed,
            "a whole frame was left in the buffer"
        );
        assert!(
            needed <= limit.max(HEADER_BYTES),
            "more is awaited than is accepted"
        );
    }
    (frames, error)
}

fn decode(
    decoder: &mut FrameDecoder,
    buffer: &mut BytesMut,
    frames: &mut Vec<Frame>,
) -> Option<FrameError> {
    loop {
        match decoder.decode(buffer) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
}

fn assert_same(whole: &Received, parts: &Received) {
    assert_eq!(whole.0.len(), parts.0.len(), "pieces make a difference");
    for (one, other) in whole.0.iter().zip(&parts.0) {
        assert_eq!(one.header, other.header);
        assert_eq!(one.message, other.message);
        assert_eq!(one.payload, other.payload);
    }
    // Another protocol can be told by a name once more of it has arrived.
    assert_eq!(
        whole.1.is_some(),
        parts.1.is_some(),
        "{:?} {:?}",
        whole.1,
        parts.1
    );
}

/// What came out is what went in.
fn encode_again(stream: &[u8], frames: &[Frame]) {
    let mut at = 0;
    for frame in frames {
        let header = &frame.header;
        let fixed = FrameHeader::encode(
            header.api_key,
            header.version,
            header.flags,
            header.error,
            header.correlation,
            &frame.message,
            frame.payload.len(),
        );
        let bytes = [&fixed, &frame.message[..], &frame.payload[..]].concat();
        assert_eq!(bytes.len(), header.frame_bytes());
        assert_eq!(stream[at..at + bytes.len()], bytes);
        at += bytes.len();
    }
}

/// A client that has asked everything once takes the frames for answers.
fn complete(frames: &[Frame]) {
    let mut channel = ClientChannel::new(8);
    for api in APIS.iter().take(8) {
        let _ = channel.begin(api.key, api.key);
    }
    assert!(!channel.has_room());
    for frame in frames {
        let before = channel.in_flight();
        let completed = channel.complete(&frame.header);
        let left = channel.in_flight();
        if left < before
            && let Ok(strandline_protocol::channel::Completion::Response(request)) = completed
        {
            assert_eq!(request.api.code(), frame.header.api_key);
        }
    }
    let again = channel.abandon().count();
    assert_eq!(channel.in_flight(), 0);
    assert!(again <= 8);
    let _ = channel.begin(ApiKey::Fetch, ApiKey::Fetch);
}

/// The broker's own receive buffer says the same.
#[cfg(fuzzing)]
fn receive_as_broker(stream: &[u8], pieces: &[usize], limit: usize, whole: &Received) {
    let (frames, error) = strandline_broker::server::fuzzing::receive(stream, pieces, limit);
    assert_eq!(frames.len(), whole.0.len(), "{error:?} {:?}", whole.1);
    for (frame, (message, payload)) in whole.0.iter().zip(&frames) {
        assert_eq!(frame.message, message[..]);
        assert_eq!(frame.payload, payload[..]);
    }
    // The broker looks at the length only once the fixed part is there.
    let is_short = stream.len() < HEADER_BYTES || whole.1.is_some();
    assert!(
        error.is_some() == whole.1.is_some() || is_short,
        "{error:?} {:?}",
        whole.1
    );
}
