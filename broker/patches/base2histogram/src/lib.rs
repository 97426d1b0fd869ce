//! Takes the place of the crate `base2histogram`, with which openraft records figures of its own.
//!
//! Nobody reads those figures here (the feature `runtime-stats` is off), but the first histogram of
//! the real crate fills tables for sixteen resolutions: 25 MB of memory and tens of milliseconds at
//! every start of a broker, whose whole budget is 15 MB and 30 ms. What is recorded here is counted
//! and forgotten. `[patch.crates-io]` in the workspace's `Cargo.toml` puts it in its place; it goes
//! when openraft stops recording what it was told not to show.

use std::{fmt, marker::PhantomData};

/// Counts what is recorded, and keeps nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    total: u64,
    slots: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            total: 0,
            slots: PhantomData,
        }
    }

    /// Counts a value.
    pub const fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value `count` times.
    pub const fn record_n(&mut self, _value: u64, count: u64) {
        self.total = self.total.wrapping_add(count);
    }

    /// How many values were recorded; the percentiles are not known, and 0.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            ..PercentileStats::default()
        }
    }

    /// How many values were recorded.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }
}

/// Percentiles by their names in per cent.
#[allow(missing_docs, reason = "the names say it")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values were recorded.
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

/// A chart of nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// An empty one, which it stays.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }

    /// Takes a histogram in.
    #[must_use]
    pub fn add<T>(self, _name: &str, _histogram: Histogram<T>) -> Self {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not recorded")
    }
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} recorded", self.samples)
    }
}
