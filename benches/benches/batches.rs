//! Instructions of a batch's life: built by a producer, validated by a broker, walked by a
//! consumer.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that fails must say so at once; gungraun's macros make public items"
)]

mod common;

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use common::{BATCH_BYTES_MAX, BYTES_HINT, NOW, batch, config, stamp, values};
use gungraun::{library_benchmark, library_benchmark_group, main};
use strandline_protocol::batch::{BatchBuilder, BatchView, Codec, NewRecord};

/// A builder as a producer has it in the long run, with a buffer to use again, and what to build.
struct Building {
    builder: BatchBuilder,
    values: Vec<Vec<u8>>,
    key: Option<&'static [u8]>,
}

fn building(codec: Codec, records: usize, bytes: usize) -> Building {
    let mut builder = BatchBuilder::new(codec, BYTES_HINT);
    builder.recycle(BytesMut::with_capacity(BYTES_HINT));
    Building {
        builder,
        values: values(records, bytes),
        key: None,
    }
}

fn keyed(codec: Codec, records: usize, bytes: usize) -> Building {
    Building {
        key: Some(b"customer-4711"),
        ..building(codec, records, bytes)
    }
}

#[library_benchmark(setup = building)]
#[bench::none_1000_x_100_b(Codec::None, 1_000, 100)]
#[bench::none_100_x_1_kib(Codec::None, 100, 1_024)]
#[bench::lz4_1000_x_100_b(Codec::Lz4, 1_000, 100)]
#[bench::lz4_100_x_1_kib(Codec::Lz4, 100, 1_024)]
#[bench::keyed_1000_x_100_b(args = (Codec::None, 1_000, 100), setup = keyed)]
fn build(mut building: Building) -> (Bytes, Building) {
    for value in &building.values {
        let record = NewRecord {
            timestamp: NOW,
            key: building.key,
            value: Some(value),
            ..NewRecord::default()
        };
        building
            .builder
            .try_append(BATCH_BYTES_MAX, black_box(record))
            .unwrap();
    }
    let bytes = building.builder.finish(stamp(0)).unwrap();
    (bytes, building)
}

fn built(codec: Codec, records: usize, bytes: usize) -> Bytes {
    batch(codec, &values(records, bytes), 0)
}

// What a broker does to every batch before it appends it.
#[library_benchmark(setup = built)]
#[bench::none_1_x_100_b(Codec::None, 1, 100)]
#[bench::none_1000_x_100_b(Codec::None, 1_000, 100)]
fn validate(bytes: Bytes) -> Bytes {
    let view = BatchView::exactly(black_box(&bytes)).unwrap();
    view.check_produced().unwrap();
    view.check_crc().unwrap();
    bytes
}

// What a consumer does to a batch that it has checked; compressed ones are decompressed first.
#[library_benchmark(setup = built)]
#[bench::none_1000_x_100_b(Codec::None, 1_000, 100)]
#[bench::none_100_x_1_kib(Codec::None, 100, 1_024)]
#[bench::lz4_1000_x_100_b(Codec::Lz4, 1_000, 100)]
#[bench::lz4_100_x_1_kib(Codec::Lz4, 100, 1_024)]
fn walk(bytes: Bytes) -> (Bytes, Vec<u8>) {
    let mut scratch = Vec::new();
    let view = BatchView::exactly(black_box(&bytes)).unwrap();
    for record in view.records(&mut scratch).unwrap() {
        black_box(record.unwrap());
    }
    (bytes, scratch)
}

library_benchmark_group!(name = life, benchmarks = [build, validate, walk]);

main!(config = config(), library_benchmark_groups = life);
