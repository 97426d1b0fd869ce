//! What peers may do wrong, and what they are kept from.

use strandline_protocol::{
    ClusterId, ErrorCode, TopicId,
    frame::{Flags, HEADER_BYTES},
    messages::{Acks, HelloRequest, MetadataRequest, Request as _, encode},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    peer::{Peer, batch, fetch_request, hello, produce_request},
    start,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_comes_first_and_is_checked() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let mut peer = Peer::silent(server.native_addr()).await;
    let (code, _) = peer
        .call(&MetadataRequest::default(), b"")
        .await
        .unwrap_err();
    assert_eq!(code, ErrorCode::HELLO_EXPECTED);
    let wrong = HelloRequest {
        magic: "kafka".to_owned(),
        ..hello()
    };
    let (code, _) = peer.call(&wrong, b"").await.unwrap_err();
    assert_eq!(code, ErrorCode::INVALID_REQUEST);
    let elsewhere = HelloRequest {
        cluster_id: Some(ClusterId([9; 16])),
        ..hello()
    };
    let (code, message) = peer.call(&elsewhere, b"").await.unwrap_err();
    assert_eq!(code, ErrorCode::INCONSISTENT_CLUSTER_ID, "{message}");
    let (response, _) = peer.call(&hello(), b"").await.unwrap();
    assert_eq!(response.cluster_id, server.cluster_id());
    let expected = HelloRequest {
        cluster_id: Some(response.cluster_id),
        directory_id: Some(response.directory_id),
        ..hello()
    };
    peer.call(&expected, b"").await.unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_understood_is_answered_and_the_connection_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let mut peer = Peer::connect(&server).await;
    let message = encode(&MetadataRequest::default());
    peer.send_raw(4_711, 0, Flags::REQUEST, &message, b"").await;
    let answer = peer.receive().await.unwrap();
    assert_eq!(answer.header.error, ErrorCode::UNKNOWN_API);
    peer.send_raw(
        MetadataRequest::API.code(),
        77,
        Flags::REQUEST,
        &message,
        b"",
    )
    .await;
    let answer = peer.receive().await.unwrap();
    assert_eq!(answer.header.error, ErrorCode::UNSUPPORTED_VERSION);
    assert!(String::from_utf8_lossy(&answer.message).contains("0 to 0"));
    for api in 0..14 {
        for garbage in [&b""[..], b"\xc1", b"\xdf\xff\xff\xff\xff", b"\x81\xa1a"] {
            peer.send_raw(api, 0, Flags::REQUEST, garbage, b"").await;
            let answer = peer.receive().await.unwrap();
            let expected = if api == 13 && garbage.starts_with(b"\x81") {
                // A map whose value is cut off.
                ErrorCode::INVALID_REQUEST
            } else {
                answer.header.error
            };
            assert_eq!(answer.header.error, expected);
        }
    }
    peer.call(&MetadataRequest::default(), b"").await.unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_frame_closes_the_connection() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]).await;
    let tls: Vec<u8> = [&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01][..], &[0; 60]].concat();
    let mut damaged = Vec::new();
    {
        let message = encode(&hello());
        let header = strandline_protocol::frame::FrameHeader::encode(
            0,
            0,
            Flags::REQUEST,
            ErrorCode::NONE,
            strandline_protocol::CorrelationId(0),
            &message,
            0,
        );
        damaged.extend_from_slice(&header);
        damaged.extend_from_slice(&message);
        damaged[HEADER_BYTES + 3] ^= 1;
    }
    let too_long = [0x7f; 64];
    let wrong: [&[u8]; 5] = [
        // Shorter than the fixed part of a frame.
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost:9290\r\n\r\n",
        &tls,
        &damaged,
        &too_long,
    ];
    for bytes in wrong {
        let mut peer = Peer::silent(server.native_addr()).await;
        peer.stream.write_all(bytes).await.unwrap();
        let answer = tokio::time::timeout(std::time::Duration::from_secs(30), peer.receive());
        assert!(answer.await.unwrap().is_none(), "{bytes:?}");
    }
    // Others are served as before.
    Peer::connect(&server).await;
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_limited() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[("limits.connections_max", "2")]).await;
    let first = Peer::connect(&server).await;
    let _second = Peer::connect(&server).await;
    let mut third = Peer::silent(server.native_addr()).await;
    let mut byte = [0];
    assert!(matches!(third.stream.read(&mut byte).await, Ok(0) | Err(_)));
    drop(first);
    crate::until("there is room again", async || {
        let mut next = Peer::silent(server.native_addr()).await;
        next.stream.write_all(&[]).await.unwrap();
        let correlation = next.send(&hello(), b"").await;
        match next.receive().await {
            Some(answer) => answer.header.correlation == correlation,
            None => false,
        }
    })
    .await;
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_requests_in_flight_are_not_read() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[("limits.requests_in_flight_max", "2")]).await;
    let mut peer = Peer::connect(&server).await;
    let mut other = Peer::connect(&server).await;
    let topic = other.create("t", 1, &[]).await;
    for _ in 0..5 {
        peer.send(&fetch_request(topic, 0, 1, 60_000), b"").await;
    }
    other.produce_values(topic, &["x"]).await;
    for _ in 0..5 {
        let answer = peer.receive().await.unwrap();
        assert!(answer.header.error.is_none() && !answer.payload.is_empty());
    }
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_frames_share_the_memory() {
    let data = tempfile::tempdir().unwrap();
    let limits = [
        ("limits.memory_in_flight_bytes_max", "2MiB"),
        ("limits.frame_bytes_max", "2MiB"),
        ("topic.max.message.bytes", "2000000"),
        ("flush", "async"),
    ];
    let server = start(data.path(), &limits).await;
    let mut first = Peer::connect(&server).await;
    let topic = first.create("t", 1, &[]).await;
    let large = batch(&[&"x".repeat(1_500_000)]);
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let mut peer = Peer::connect(&server).await;
        let large = large.clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..4 {
                let produced = peer.produce(topic, Acks::All, &large).await;
                assert!(produced.failure.error.is_none(), "{produced:?}");
            }
        }));
    }
    // Who holds memory and does not go on keeps nobody from looking at metadata.
    let mut stuck = Peer::connect(&server).await;
    let request = encode(&produce_request(topic, Acks::All, &[large.len()]));
    let header = strandline_protocol::frame::FrameHeader::encode(
        9,
        0,
        Flags::REQUEST,
        ErrorCode::NONE,
        strandline_protocol::CorrelationId(0),
        &request,
        large.len(),
    );
    for task in tasks {
        task.await.unwrap();
    }
    stuck.stream.write_all(&header).await.unwrap();
    stuck.stream.write_all(&request).await.unwrap();
    first.call(&MetadataRequest::default(), b"").await.unwrap();
    drop(stuck);
    let produced = first.produce(topic, Acks::All, &large).await;
    assert!(produced.failure.error.is_none());
    let unknown = first.produce(TopicId([1; 16]), Acks::All, &large).await;
    assert_eq!(unknown.failure.error, ErrorCode::UNKNOWN_TOPIC_ID);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_frame_does_not_hold_memory_for_ever() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[("limits.write_timeout", "1s")]).await;
    let mut stuck = Peer::connect(&server).await;
    let header = strandline_protocol::frame::FrameHeader::encode(
        9,
        0,
        Flags::REQUEST,
        ErrorCode::NONE,
        strandline_protocol::CorrelationId(0),
        b"",
        1 << 20,
    );
    stuck.stream.write_all(&header).await.unwrap();
    assert!(stuck.receive().await.is_none());
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_declares_much_and_stalls_keeps_no_memory_from_others() {
    let data = tempfile::tempdir().unwrap();
    let limits = [
        ("limits.memory_in_flight_bytes_max", "2MiB"),
        ("limits.frame_bytes_max", "2MiB"),
        ("topic.max.message.bytes", "2000000"),
        ("limits.write_timeout", "5m"),
    ];
    let server = start(data.path(), &limits).await;
    let mut good = Peer::connect(&server).await;
    let topic = good.create("t", 1, &[]).await;
    let mut stuck = Vec::new();
    for sent in [0, 100, 20_000, 200_000].repeat(5) {
        let message = encode(&produce_request(topic, Acks::All, &[1_900_000]));
        let header = strandline_protocol::frame::FrameHeader::encode(
            9,
            0,
            Flags::REQUEST,
            ErrorCode::NONE,
            strandline_protocol::CorrelationId(0),
            &message,
            1_900_000,
        );
        let frame = [&header[..], &message, &vec![0; sent]].concat();
        let mut peer = Peer::connect(&server).await;
        // Nobody reads on while there is no memory.
        let write = peer.stream.write_all(&frame);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(50), write).await;
        stuck.push(peer);
    }
    let large = batch(&[&"x".repeat(1_500_000)]);
    for _ in 0..3 {
        let produced = good.produce(topic, Acks::All, &large).await;
        assert!(produced.failure.error.is_none(), "{produced:?}");
    }
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_answers_keeps_no_memory_from_others() {
    let data = tempfile::tempdir().unwrap();
    let limits = [
        ("limits.memory_in_flight_bytes_max", "2MiB"),
        ("limits.frame_bytes_max", "2MiB"),
        ("limits.write_timeout", "5m"),
    ];
    let server = start(data.path(), &limits).await;
    let names = |count: usize| MetadataRequest {
        topics: Some((0..count).map(|number| format!("t-{number}")).collect()),
        cursor: None,
    };
    let mut stuck = Vec::new();
    for _ in 0..8 {
        let mut peer = Peer::connect(&server).await;
        let many = names(2_000);
        for _ in 0..100 {
            let send = peer.send(&many, b"");
            let sent = tokio::time::timeout(std::time::Duration::from_millis(20), send).await;
            if sent.is_err() {
                break;
            }
        }
        stuck.push(peer);
    }
    let mut good = Peer::connect(&server).await;
    good.call(&names(10), b"").await.unwrap();
    let (answer, _) = good.call(&names(1_000), b"").await.unwrap();
    assert_eq!(answer.topics.len(), 1_000);
    server.shutdown().await.unwrap();
}
