//! Memory copies and checksums.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use super::{Probes, gigabytes_per_second};
use crate::cli::quantity;

/// How long one pass takes; the best of three counts, as everything that disturbs makes it slower.
const PASS: Duration = Duration::from_millis(150);

const SIZES: [(&str, usize); 3] = [
    ("16_kib", 16 << 10),
    ("1_mib", 1 << 20),
    ("256_mib", 256 << 20),
];
const CHECKED: [(&str, usize); 3] = [("100_b", 100), ("1_kib", 1 << 10), ("100_kb", 100_000)];

/// Copies and checks blocks of several sizes.
pub fn measure(probes: &mut Probes) {
    for (name, size) in SIZES {
        let source = vec![1_u8; size];
        let mut target = vec![2_u8; size];
        let rate = best_of_three(size, || {
            target.copy_from_slice(black_box(&source));
            black_box(&mut target);
        });
        probes.add(format!("memory_copy_{name}"), rate, "GB/s");
    }
    for (name, size) in CHECKED {
        let source: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
        let rate = best_of_three(size, || {
            black_box(crc32c::crc32c(black_box(&source)));
        });
        probes.add(format!("crc32c_{name}"), rate, "GB/s");
    }
}

fn best_of_three(bytes: usize, mut work: impl FnMut()) -> f64 {
    let batch = (1_usize << 20).div_euclid(bytes).max(1);
    let bytes_per_batch = quantity::length(bytes) * quantity::length(batch);
    let mut best = 0.0_f64;
    for _ in 0..3 {
        let started = Instant::now();
        let mut total = 0;
        while started.elapsed() < PASS {
            for _ in 0..batch {
                work();
            }
            total += bytes_per_batch;
        }
        best = best.max(gigabytes_per_second(total, started.elapsed()));
    }
    best
}
