//! What fuzz targets reach of the client's inside; exists under `cfg(fuzzing)` only.
//!
//! **Owns** no behaviour: it calls what a connection's bytes are given to, and asserts what must
//! hold of the result.

use std::sync::Arc;

use bytes::Bytes;
use strandline_protocol::{
    Offset, PartitionId,
    limits::DECOMPRESSED_BYTES_MAX,
    messages::{BrokerMetadata, TopicMetadata},
};

use crate::{consumer::Records, routing::Image};

/// Takes fetched bytes apart as a consumer does.
///
/// # Panics
/// If the ways to look at the records contradict each other.
pub fn walk_fetched(bytes: &[u8], from: Offset) {
    let bytes = Bytes::copy_from_slice(bytes);
    let decoded = Records::decode(Arc::from("t"), PartitionId(0), from, from, &bytes);
    assert!(decoded.next >= from);
    assert!(
        !bytes.is_empty() == (decoded.next > from || decoded.damage.is_some()),
        "neither progress nor damage"
    );
    let mut records = decoded.records;
    assert!(records.memory_bytes() <= bytes.len().saturating_add(DECOMPRESSED_BYTES_MAX));
    let walked = records.iter().filter(Result::is_ok).count();
    for record in records.iter().flatten() {
        assert!(record.offset >= from);
    }
    let owned = records.clone().into_owned().filter(Result::is_ok).count();
    assert_eq!(walked, owned);
    let _ = (records.len(), records.is_empty());
    records.cut(from.plus(1));
    for record in records.iter().flatten() {
        assert_eq!(record.offset, from);
    }
}

/// Takes over what a broker tells of itself and of topics.
///
/// # Panics
/// If a topic is known by another name than its own.
pub fn take_over(version: Offset, brokers: &[BrokerMetadata], topics: &[TopicMetadata]) {
    let mut image = Image::default();
    image.apply_brokers(version, brokers);
    for topic in topics {
        image.apply_topic(version, topic);
    }
    for (name, topic) in &image.topics {
        assert_eq!(*name, topic.name);
        for partition in [-1, 0, topic.partition_count().saturating_sub(1), i32::MAX] {
            let partition = PartitionId(partition);
            assert_eq!(
                topic.check(partition).is_ok(),
                topic.leader(partition).is_some()
            );
        }
    }
}
