//! Messages from peers that are newer, older, written in other languages, or hostile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

mod samples;

use proptest::{collection::vec, prelude::*};
use serde::{Deserialize, Serialize};
use strandline_protocol::{
    ApiKey, BrokerId, ErrorCode, Offset, TopicId,
    limits::ENTRIES_PER_REQUEST_MAX,
    messages::{
        Acks, BrokerHeartbeatRequest, ChangeVotersRequest, CreateTopicsRequest,
        DeleteTopicsRequest, Failure, FetchRequest, MetadataRequest, OffsetQuery, ProduceRequest,
        RegisterBrokerRequest, TopicResult, decode, encode,
    },
};

#[derive(Serialize, Deserialize)]
struct NewerDeleteTopics {
    force: Vec<Vec<bool>>,
    names: Vec<String>,
    reason: Option<String>,
}

#[test]
fn fields_of_a_newer_peer_are_skipped() {
    let newer = NewerDeleteTopics {
        force: vec![vec![true], vec![]],
        names: vec!["orders".to_owned()],
        reason: None,
    };
    let read: DeleteTopicsRequest = decode(ApiKey::DeleteTopics, &encode(&newer)).unwrap();
    assert_eq!(read.names, newer.names);
}

#[test]
fn fields_that_an_older_peer_leaves_out_have_defaults() {
    let empty = [0x80];
    let read: MetadataRequest = decode(ApiKey::Metadata, &empty).unwrap();
    assert_eq!(read, MetadataRequest::default());
    let read: Failure = decode(ApiKey::Metadata, &empty).unwrap();
    assert_eq!(read, Failure::none());
    assert!(decode::<DeleteTopicsRequest>(ApiKey::DeleteTopics, &empty).is_err());
}

#[test]
fn success_is_short_and_reads_back() {
    let success = encode(&Failure::none());
    assert_eq!(success, b"\x81\xa5error\0");
    let failure = Failure::new(ErrorCode::UNKNOWN_SERVER_ERROR, "see the log");
    let read: Failure = decode(ApiKey::Produce, &encode(&failure)).unwrap();
    assert_eq!(read, failure);
}

#[test]
fn scalars_are_what_other_languages_expect() {
    assert_eq!(encode(&TopicId([7; 16]))[..2], [0xc4, 16]);
    assert_eq!(encode(&Acks::All), b"\xa3all");
    assert_eq!(encode(&Acks::None), b"\xa10");
    assert_eq!(encode(&OffsetQuery::Earliest), b"\xa8earliest");
    let at = OffsetQuery::At(strandline_protocol::Timestamp(5));
    assert_eq!(encode(&at), b"\x81\xa2at\x05");
    for wrong in [
        &b"\xc4\x0f"[..],
        b"\xc4\x0f123456789012345",
        b"\xa41234",
        b"\x94\x01\x02\x03\x04",
    ] {
        assert!(decode::<TopicId>(ApiKey::Fetch, wrong).is_err());
    }
}

#[test]
fn an_id_of_another_length_is_refused() {
    let result = TopicResult {
        name: "a".to_owned(),
        id: TopicId([1; 16]),
        partitions: 1,
        failure: Failure::none(),
    };
    let mut bytes = encode(&result);
    let at = bytes
        .windows(2)
        .position(|pair| pair == [0xc4, 16])
        .unwrap();
    bytes[at + 1] = 15;
    bytes.remove(at + 2);
    assert!(decode::<TopicResult>(ApiKey::CreateTopics, &bytes).is_err());
}

#[test]
fn a_list_of_more_entries_than_allowed_is_refused_before_it_grows() {
    let names = |count| DeleteTopicsRequest {
        names: vec![String::new(); count],
    };
    let most = encode(&names(ENTRIES_PER_REQUEST_MAX));
    assert!(decode::<DeleteTopicsRequest>(ApiKey::DeleteTopics, &most).is_ok());
    let more = encode(&names(ENTRIES_PER_REQUEST_MAX + 1));
    let error = decode::<DeleteTopicsRequest>(ApiKey::DeleteTopics, &more).unwrap_err();
    assert!(error.to_string().contains("10000 entries"), "{error}");
    let topics = Some(vec![String::new(); ENTRIES_PER_REQUEST_MAX + 1]);
    let metadata = MetadataRequest {
        topics,
        cursor: None,
    };
    assert!(decode::<MetadataRequest>(ApiKey::Metadata, &encode(&metadata)).is_err());
    // An array that declares four billion entries and holds none, in each place for one.
    for start in [&b"\x81\xa6topics"[..], b"\x81\xaapartitions"] {
        let bytes = [start, b"\xdd\xff\xff\xff\xff"].concat();
        assert!(decode::<CreateTopicsRequest>(ApiKey::CreateTopics, &bytes).is_err());
        assert!(decode::<MetadataRequest>(ApiKey::Metadata, &bytes).is_err());
        assert!(decode::<FetchRequest>(ApiKey::Fetch, &bytes).is_err());
        assert!(decode::<ProduceRequest>(ApiKey::Produce, &bytes).is_err());
    }
}

#[test]
fn lists_of_brokers_and_directories_are_bounded_too() {
    let change = |count| ChangeVotersRequest {
        add: vec![BrokerId(1); count],
        remove: Vec::new(),
    };
    let most = encode(&change(ENTRIES_PER_REQUEST_MAX));
    assert!(decode::<ChangeVotersRequest>(ApiKey::ChangeVoters, &most).is_ok());
    let more = encode(&change(ENTRIES_PER_REQUEST_MAX + 1));
    let error = decode::<ChangeVotersRequest>(ApiKey::ChangeVoters, &more).unwrap_err();
    assert!(error.to_string().contains("10000 entries"), "{error}");
    for sample in samples::all() {
        // Whatever array a request holds, one that declares four billion entries is refused.
        let lists = [
            &b"\xa3add"[..],
            b"\xa6remove",
            b"\xabdirectories",
            b"\xa7offline",
            b"\xa5lossy",
            b"\xa7damaged",
            b"\xa9forgotten",
            b"\xa3isr",
            b"\xa8replicas",
            b"\xaapartitions",
        ];
        for list in lists {
            let place = sample.message.windows(list.len()).position(|at| at == list);
            let is_array = |place: &usize| sample.message[place + list.len()] & 0xf0 == 0x90;
            let place = place.filter(is_array);
            let Some(place) = place.filter(|_| sample.name.contains("request")) else {
                continue;
            };
            let start = &sample.message[..place + list.len()];
            let bytes = [start, b"\xdd\xff\xff\xff\xff"].concat();
            let error = (sample.rewrite)(sample.api, &bytes).unwrap_err();
            assert!(error.contains("10000 entries"), "{}: {error}", sample.name);
        }
    }
}

#[test]
fn what_a_peer_may_leave_out_is_left_out() {
    // `{}` is no request to register, and the smallest heartbeat names broker, epoch and offset.
    assert!(decode::<RegisterBrokerRequest>(ApiKey::RegisterBroker, &[0x80]).is_err());
    let least = b"\x83\xa9broker_id\x02\xacbroker_epoch\x07\xa7applied\x09";
    let read: BrokerHeartbeatRequest = decode(ApiKey::BrokerHeartbeat, least).unwrap();
    assert_eq!((read.broker_id, read.applied), (BrokerId(2), Offset(9)));
    assert!(!read.stopping && read.offline.is_empty());
    assert!(!read.recovering && read.damaged.is_empty());
    let empty: ChangeVotersRequest = decode(ApiKey::ChangeVoters, &[0x80]).unwrap();
    assert!(empty.add.is_empty() && empty.remove.is_empty());
    // An id that is no number of a directory is refused, and so is one of another length.
    let short = b"\x81\xabincarnation\x93\x01\x02\x03";
    assert!(decode::<RegisterBrokerRequest>(ApiKey::RegisterBroker, short).is_err());
}

#[test]
fn deep_nesting_is_refused() {
    let mut bytes = b"\x81\xa5extra".to_vec();
    bytes.extend_from_slice(&[0x91; 100_000]);
    assert!(decode::<MetadataRequest>(ApiKey::Metadata, &bytes).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        for sample in samples::all() {
            let _ = (sample.rewrite)(sample.api, &bytes);
        }
    }

    #[test]
    fn damaged_messages_never_panic(
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        for sample in samples::all() {
            let mut bytes = sample.message;
            for (at, value) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            let _ = (sample.rewrite)(sample.api, &bytes);
            bytes.truncate(cut.index(bytes.len()));
            let _ = (sample.rewrite)(sample.api, &bytes);
        }
    }
}
