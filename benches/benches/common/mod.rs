//! What the micro benchmarks share: payloads, batches, and how valgrind is to run them.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

use bytes::Bytes;
use gungraun::{Callgrind, LibraryBenchmarkConfig};
use strandline_protocol::{
    ProducerEpoch, ProducerId, Sequence, Timestamp,
    batch::{BatchBuilder, Codec, NewRecord, ProducerStamp},
};

/// The time of every record and of the broker.
pub const NOW: Timestamp = Timestamp(1_764_000_000_000);

/// The limit on a batch, which no benchmark meets.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// What a batch under construction is expected to take: the client's default.
pub const BYTES_HINT: usize = 1 << 20;

/// How valgrind runs: only instructions, no model of caches, which has no bearing on the count.
pub fn config() -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(Callgrind::with_args(["--cache-sim=no"]));
    config
}

/// `count` values of `bytes` bytes that differ and compress about as JSON does. The same in every
/// run.
pub fn values(count: usize, bytes: usize) -> Vec<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut value = || {
        let mut text = Vec::with_capacity(bytes + 64);
        while text.len() < bytes {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let field = format!(
                "{{\"id\":{},\"value\":{}}},",
                state >> 48,
                (state >> 33) & 0xff
            );
            text.extend_from_slice(field.as_bytes());
        }
        text.truncate(bytes);
        text
    };
    (0..count).map(|_| value()).collect()
}

/// Producer 7, at that sequence.
pub fn stamp(sequence: i32) -> ProducerStamp {
    ProducerStamp {
        id: ProducerId(7),
        epoch: ProducerEpoch(0),
        base_sequence: Sequence(sequence),
    }
}

/// A finished batch of these values.
pub fn batch(codec: Codec, values: &[Vec<u8>], sequence: i32) -> Bytes {
    let mut builder = BatchBuilder::new(codec, BYTES_HINT);
    for value in values {
        let record = NewRecord {
            timestamp: NOW,
            value: Some(value),
            ..NewRecord::default()
        };
        builder.try_append(BATCH_BYTES_MAX, record).unwrap();
    }
    builder.finish(stamp(sequence)).unwrap()
}
