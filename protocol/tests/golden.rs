//! The frames and batches of this version, as bytes in `fixtures/`: a change of format is noticed
//! here.
//!
//! `UPDATE=1 cargo test -p strandline-protocol` writes them anew. Do so when an API or a field was
//! added; bytes that older peers or disks hold must go on to decode.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

mod samples;

use std::{fmt::Write as _, fs, path::PathBuf};

use bytes::BytesMut;
use strandline_protocol::{
    ApiKey, BrokerId, ClusterId, Offset, Timestamp,
    batch::{BatchView, Codec, Record, split_batches},
    channel::{Frame, FrameDecoder},
    limits::FRAME_BYTES_MAX_DEFAULT,
    messages::{
        BrokerHeartbeatRequest, FetchRequest, FetchResponse, HelloRequest, HelloResponse,
        MetadataResponse, RegisterBrokerRequest, decode,
    },
};

fn path(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/fixtures").join(format!("{name}.hex"))
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        for byte in line {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

/// The fixture of that name, written first if `UPDATE` is set.
fn fixture(name: &str, current: &[u8]) -> Vec<u8> {
    let path = path(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, to_hex(current)).unwrap();
    }
    let text = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run with UPDATE=1", path.display()));
    from_hex(&text)
}

fn decode_frame(bytes: &[u8]) -> Frame {
    let mut buffer = BytesMut::from(bytes);
    let frame = FrameDecoder::new(FRAME_BYTES_MAX_DEFAULT).decode(&mut buffer);
    assert!(buffer.is_empty());
    frame.unwrap().unwrap()
}

#[test]
fn every_golden_frame_decodes_and_encodes_to_the_same_bytes() {
    for sample in samples::all() {
        let name = format!("frames/{}", sample.name);
        let golden = fixture(&name, &sample.frame);
        let frame = decode_frame(&golden);
        assert_eq!(frame.header.api_key, sample.api.code(), "{name}");
        let rewritten = (sample.rewrite)(sample.api, &frame.message).unwrap();
        assert_eq!(rewritten, frame.message, "{name}");
        assert_eq!(frame.payload, sample.payload, "{name}");
        assert_eq!(to_hex(&golden), to_hex(&sample.frame), "{name}");
        for batch in split_batches(&frame.payload) {
            batch.unwrap().check_crc().unwrap();
        }
    }
}

/// Frames of versions before the cluster, whose `Hello` named neither a peer nor a Raft id and knew
/// fewer APIs: those who send them must go on to be understood.
#[test]
fn frames_from_before_the_cluster_decode() {
    let frame = |name: &str| {
        let path = path(&format!("frames-before-cluster/{name}"));
        decode_frame(&from_hex(&fs::read_to_string(path).unwrap())).message
    };
    let asked: HelloRequest = decode(ApiKey::Hello, &frame("00-Hello.request")).unwrap();
    assert_eq!((asked.client_id.as_str(), asked.peer), ("orders", None));
    let asked: HelloRequest = decode(ApiKey::Hello, &frame("00-Hello.request-expecting")).unwrap();
    assert_eq!(asked.cluster_id, Some(ClusterId(*b"cluster id bytes")));
    assert_eq!(asked.peer, None);
    let answer: HelloResponse = decode(ApiKey::Hello, &frame("00-Hello.response")).unwrap();
    assert_eq!((answer.broker_id, answer.raft_id), (BrokerId(1), None));
    assert_eq!(answer.apis.len(), 14);
}

/// Frames of versions before replication: brokers and clients of those must go on to be understood.
#[test]
fn frames_from_before_replication_decode() {
    let frame = |name: &str| {
        let path = path(&format!("frames-before-replication/{name}"));
        decode_frame(&from_hex(&fs::read_to_string(path).unwrap())).message
    };
    let registered = frame("18-RegisterBroker.request");
    let registered: RegisterBrokerRequest = decode(ApiKey::RegisterBroker, &registered).unwrap();
    assert_eq!(
        (registered.broker_id, registered.lossy),
        (BrokerId(2), Vec::new())
    );
    let heartbeat = frame("19-BrokerHeartbeat.request");
    let heartbeat: BrokerHeartbeatRequest = decode(ApiKey::BrokerHeartbeat, &heartbeat).unwrap();
    assert!(heartbeat.stopping && !heartbeat.recovering && heartbeat.damaged.is_empty());
    let asked: FetchRequest = decode(ApiKey::Fetch, &frame("10-Fetch.request")).unwrap();
    assert_eq!((asked.rack, asked.partitions.len()), (None, 2));
    let fetched: FetchResponse = decode(ApiKey::Fetch, &frame("10-Fetch.response")).unwrap();
    assert_eq!(fetched.partitions[0].preferred_replica, None);
    let metadata = frame("01-Metadata.response");
    let metadata: MetadataResponse = decode(ApiKey::Metadata, &metadata).unwrap();
    let partition = &metadata.topics[0].partitions[0];
    assert!(partition.eligible.is_empty() && partition.adding.is_empty());
    assert_eq!(partition.isr, [BrokerId(1)]);
}

#[test]
fn no_golden_frame_is_left_behind() {
    let names: Vec<_> = samples::all()
        .into_iter()
        .map(|sample| sample.name)
        .collect();
    for entry in fs::read_dir(path("frames/x").parent().unwrap()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = names.iter().any(|known| name == format!("{known}.hex"));
        assert!(known, "{name} belongs to no sample");
    }
}

fn describe(record: &Record<'_>) -> String {
    let text = |bytes: Option<&[u8]>| bytes.map(|bytes| str::from_utf8(bytes).unwrap().to_owned());
    let headers: Vec<_> = record
        .headers
        .map(|header| (header.key, text(header.value)))
        .collect();
    let (key, value) = (text(record.key), text(record.value));
    format!(
        "{} {} {key:?} {value:?} {headers:?}",
        record.offset, record.timestamp
    )
}

fn describe_all(batch: &BatchView<'_>) -> Vec<String> {
    let mut scratch = Vec::new();
    let records = batch.records(&mut scratch).unwrap();
    records.map(|record| describe(&record.unwrap())).collect()
}

#[test]
fn every_golden_batch_holds_the_same_records() {
    let current = samples::batch(Codec::None);
    let expected = describe_all(&BatchView::exactly(&current).unwrap());
    let value = "the same value, again and again; ";
    let second =
        format!("1 1764000000007 Some(\"key-1\") Some(\"{value}\") [(\"trace\", Some(\"0123\"))]");
    assert_eq!(expected[1], second);
    for codec in Codec::ALL {
        let golden = fixture(&format!("batches/{}", codec.name()), &samples::batch(codec));
        let batch = BatchView::exactly(&golden).unwrap();
        batch.check_crc().unwrap();
        batch.check_produced().unwrap();
        assert_eq!(batch.header().attributes().codec(), Some(codec));
        assert_eq!(batch.header().base_offset(), Offset::ZERO);
        assert_eq!(batch.header().max_timestamp(), Timestamp(1_764_000_000_133));
        assert_eq!(describe_all(&batch), expected, "{}", codec.name());
    }
    // Codecs may come to compress better; what is not compressed must not change.
    assert_eq!(to_hex(&fixture("batches/none", &current)), to_hex(&current));
}
