//! Frames to attack with: valid ones, golden ones, and what mutation makes of them.

use std::path::Path;

use anyhow::Context as _;
use strandline_client::protocol::{
    ApiKey, CorrelationId, ErrorCode, Offset, PartitionId, Timestamp, TopicId,
    batch::{BatchBuilder, Codec, NewRecord, ProducerStamp},
    frame::{Flags, FrameHeader, HEADER_BYTES},
    messages::{
        Acks, FetchPartition, FetchRequest, HELLO_MAGIC, HelloRequest, MetadataRequest,
        ProducePartition, ProduceRequest, Request, encode,
    },
};

use crate::random::Random;

/// Where a frame says how long its message is, and where its checksum stands.
const MESSAGE_LENGTH_AT: usize = 16;
const CRC_AT: usize = 20;

/// Of this many frames from the pool, one may change topics: an attacker may, as everybody, but the
/// rig is about requests and not about a hundred thousand partitions.
const CHANGES_ONE_IN: u64 = 1_000;

/// A pool of frames.
#[derive(Clone, Debug)]
pub struct Frames {
    /// Requests that change nothing but, at most, the log of a topic.
    plain: Vec<Vec<u8>>,
    /// Requests that change topics.
    changes: Vec<Vec<u8>>,
}

impl Frames {
    /// The golden frames, and produce and fetch of `topic`, which exists.
    ///
    /// # Errors
    /// If the golden frames cannot be read.
    pub fn load(topic: TopicId) -> anyhow::Result<Self> {
        let golden = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../protocol/tests/fixtures/frames"
        );
        let mut frames = Self {
            plain: vec![
                produce(topic, 1),
                produce(topic, 100),
                fetch(topic, 1, 1 << 20),
            ],
            changes: Vec::new(),
        };
        let mut paths: Vec<_> = Path::new(golden)
            .read_dir()
            .with_context(|| format!("{golden} cannot be read"))?
            .collect::<Result<_, _>>()?;
        paths.sort_by_key(std::fs::DirEntry::path);
        for entry in paths {
            let frame = from_hex(&std::fs::read_to_string(entry.path())?);
            let api = frame
                .get(4..6)
                .map_or(0, |api| u16::from(api[0]) << 8 | u16::from(api[1]));
            let changes = [
                ApiKey::CreateTopics,
                ApiKey::DeleteTopics,
                ApiKey::CreatePartitions,
                ApiKey::AlterConfigs,
                ApiKey::InitProducerId,
                ApiKey::DeleteRecords,
            ];
            if changes.iter().any(|change| change.code() == api) {
                frames.changes.push(frame);
            } else {
                frames.plain.push(frame);
            }
        }
        Ok(frames)
    }

    /// A frame of the pool.
    pub fn any(&self, random: &mut Random) -> Vec<u8> {
        let from = if random.below(CHANGES_ONE_IN) == 0 {
            &self.changes
        } else {
            &self.plain
        };
        from[random.index(from.len())].clone()
    }
}

/// Changes a few bytes of a frame: single bits, numbers at their bounds, pieces that are missing or
/// doubled.
pub fn mutate(frame: &mut Vec<u8>, random: &mut Random) {
    const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, 0xc1, 0xdd, 0xdf];
    for _ in 0..=random.below(3) {
        if frame.is_empty() {
            return;
        }
        let at = random.index(frame.len());
        match random.below(6) {
            0 => frame[at] ^= 1 << random.below(8),
            1 => frame[at] = EDGES[random.index(EDGES.len())],
            2 => {
                let end = (at + 4).min(frame.len());
                frame[at..end].fill(0xff);
            }
            3 => frame.truncate(at.max(1)),
            4 => {
                let piece = frame[at..(at + 16).min(frame.len())].to_vec();
                frame.splice(at..at, piece);
            }
            _ => {
                let end = (at + 1 + random.index(16)).min(frame.len());
                frame.drain(at..end);
            }
        }
    }
}

/// Makes lengths and checksum of a frame right again, so that its content is looked at.
pub fn repair(frame: &mut Vec<u8>) {
    if frame.len() < HEADER_BYTES {
        frame.resize(HEADER_BYTES, 0);
    }
    let body = frame.len() - HEADER_BYTES;
    let field = |frame: &[u8], at: usize| {
        u32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes"))
    };
    let message = (field(frame, MESSAGE_LENGTH_AT) as usize).min(body);
    let length = u32::try_from(frame.len() - 4).expect("a small frame");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    let message_length = u32::try_from(message).expect("a small frame");
    frame[MESSAGE_LENGTH_AT..CRC_AT].copy_from_slice(&message_length.to_be_bytes());
    let crc = crc32c::crc32c(&frame[..CRC_AT]);
    let crc = crc32c::crc32c_append(crc, &frame[HEADER_BYTES..HEADER_BYTES + message]);
    frame[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
}

/// A request as a frame.
#[must_use]
pub fn request<R: Request>(request: &R, payload: &[u8]) -> Vec<u8> {
    let message = encode(request);
    let header = header(R::API, &message, payload.len());
    [&header, &message[..], payload].concat()
}

/// The fixed part of a request whose payload may never come.
#[must_use]
pub fn header(api: ApiKey, message: &[u8], payload_bytes: usize) -> [u8; HEADER_BYTES] {
    FrameHeader::encode(
        api.code(),
        0,
        Flags::REQUEST,
        ErrorCode::NONE,
        CorrelationId(7),
        message,
        payload_bytes,
    )
}

/// The first request of a connection.
#[must_use]
pub fn hello() -> Vec<u8> {
    let hello = HelloRequest {
        magic: HELLO_MAGIC.to_owned(),
        client_id: "attacker".to_owned(),
        software: "attacker/0".to_owned(),
        cluster_id: None,
        directory_id: None,
        authentication: None,
        peer: None,
    };
    request(&hello, b"")
}

/// A valid produce of `records` records to the first partition of `topic`.
#[must_use]
pub fn produce(topic: TopicId, records: usize) -> Vec<u8> {
    let batch = batch(&vec![&b"an attacker's record"[..]; records]);
    request(&produce_request(topic, batch.len()), &batch)
}

/// A produce of one batch of so many bytes.
#[must_use]
pub fn produce_request(topic: TopicId, batch_bytes: usize) -> ProduceRequest {
    ProduceRequest {
        acks: Acks::All,
        timeout_ms: 10_000,
        partitions: vec![ProducePartition {
            topic_id: topic,
            partition: PartitionId(0),
            bytes: u32::try_from(batch_bytes).unwrap_or(u32::MAX),
        }],
    }
}

/// A batch of these values.
///
/// # Panics
/// If they are too large for one.
#[must_use]
pub fn batch(values: &[&[u8]]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None, 1 << 10);
    for value in values {
        let record = NewRecord {
            timestamp: now(),
            key: None,
            value: Some(value),
            headers: &[],
        };
        builder.try_append(1 << 24, record).expect("it fits");
    }
    let batch = builder.finish(ProducerStamp::NONE);
    batch.expect("it holds a record").to_vec()
}

/// Records that are older than a topic's retention would be gone at once.
fn now() -> Timestamp {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    Timestamp(since.map_or(0, |since| since.as_millis() as i64))
}

/// A fetch that names the first partition of `topic` so many times, and waits for `bytes_min`.
#[must_use]
pub fn fetch(topic: TopicId, entries: usize, bytes_min: u32) -> Vec<u8> {
    let wanted = FetchPartition {
        topic_id: topic,
        partition: PartitionId(0),
        fetch_offset: Offset(0),
        bytes_max: 1 << 20,
        current_leader_epoch: None,
    };
    let fetch = FetchRequest {
        wait_ms_max: 600_000,
        bytes_min,
        bytes_max: 1 << 20,
        partitions: vec![wanted; entries],
        rack: None,
    };
    request(&fetch, b"")
}

/// A metadata request of so many names, none of which exists.
#[must_use]
pub fn metadata(names: usize) -> Vec<u8> {
    let names = (0..names).map(|number| format!("no-such-topic-{number}"));
    let metadata = MetadataRequest {
        topics: Some(names.collect()),
        cursor: None,
    };
    request(&metadata, b"")
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).expect("digits");
        u8::from_str_radix(text, 16).expect("two digits")
    };
    digits.chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repaired_frame_is_one() {
        let mut random = Random::new(5, 1);
        let frames = Frames::load(TopicId([7; 16])).unwrap();
        for _ in 0..2_000 {
            let mut frame = frames.any(&mut random);
            mutate(&mut frame, &mut random);
            repair(&mut frame);
            let fixed = frame[..HEADER_BYTES].try_into().unwrap();
            let header = FrameHeader::decode(&fixed, 1 << 20).unwrap();
            assert_eq!(header.frame_bytes(), frame.len());
            let message = &frame[HEADER_BYTES..HEADER_BYTES + header.message_bytes];
            header.check(&fixed, message).unwrap();
        }
    }
}
