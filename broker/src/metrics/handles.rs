//! What the hot paths hold: a handle costs about ten nanoseconds, a look-up by name ten times that.
//!
//! Handles are created once, when the thing that they count begins to exist, and cloned or shared
//! from then on. None of them blocks or fails.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram};

/// Handles of one API.
#[derive(Clone, Debug)]
pub struct ApiMetrics {
    /// Add one per answered request.
    pub requests: Counter,
    /// From the last byte of the request until a handler begins with it.
    pub queue: Histogram,
    /// While a handler works on it.
    pub local: Histogram,
    /// While it is parked for data, a flush or a replica; record nothing if it was not.
    pub wait: Histogram,
    /// From the finished answer until it is handed to the kernel.
    pub send: Histogram,
}

/// Handles of one listener.
#[derive(Clone, Debug)]
pub struct ConnectionMetrics {
    pub(super) open: Gauge,
    pub(super) accepted: Counter,
    pub(super) refused: [Counter; Refusal::ALL.len()],
}

/// Why the broker closed a connection on its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As many connections are open as the settings allow.
    Limit,
    /// What arrived is not a frame of ours, or is damaged.
    Protocol,
    /// Nothing arrived for longer than the settings allow.
    Idle,
    /// The peer did not read its answers in the time that the settings allow.
    Slow,
}

impl Refusal {
    pub(super) const ALL: [Self; 4] = [Self::Limit, Self::Protocol, Self::Idle, Self::Slow];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Protocol => "protocol",
            Self::Idle => "idle",
            Self::Slow => "slow",
        }
    }
}

/// Handles of replication, for leaders and for followers.
#[derive(Clone, Debug)]
pub struct ReplicationMetrics {
    /// A leader takes over a smaller ISR from the metadata: add one.
    pub isr_shrinks: Counter,
    /// A leader takes over a larger one: add one.
    pub isr_expands: Counter,
    /// This broker begins to lead a partition: add one.
    pub elections: Counter,
    /// A follower has appended: add the bytes of its batches.
    pub bytes_in: Counter,
    /// A leader has answered a follower: add the bytes of the batches.
    pub bytes_out: Counter,
    /// A leader's open fetch sessions: increment when one opens, decrement when it goes.
    pub sessions: Gauge,
    /// A follower's log was cut because it had diverged: add one.
    pub truncations: Counter,
    /// A damaged range was fetched again and written back: add one.
    pub repaired: Counter,
    /// No replica could give a damaged range: add one.
    pub repair_failed: Counter,
}

/// An open connection counts for as long as this is held.
#[derive(Debug)]
pub struct OpenConnection {
    open: Gauge,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.decrement(1.0);
    }
}

impl ConnectionMetrics {
    /// Counts a connection as accepted, and as open until the answer is dropped.
    #[must_use]
    pub fn accepted(&self) -> OpenConnection {
        self.accepted.increment(1);
        self.open.increment(1.0);
        OpenConnection {
            open: self.open.clone(),
        }
    }

    /// Counts a connection that the broker closed on its peer.
    pub fn refused(&self, reason: Refusal) {
        let place = Refusal::ALL.iter().position(|each| *each == reason);
        if let Some(counter) = place.and_then(|place| self.refused.get(place)) {
            counter.increment(1);
        }
    }
}

/// Handles of one data directory.
#[derive(Clone, Debug)]
pub struct DirectoryMetrics {
    /// The time of one `fdatasync` of a log.
    pub flush: Histogram,
}

/// Counters of one topic, shared by its partitions; its series vanish with the last of them.
#[derive(Debug, Default)]
pub struct TopicMetrics {
    pub(super) bytes_in: AtomicU64,
    pub(super) records_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) records_out: AtomicU64,
}

impl TopicMetrics {
    /// Counts what was appended for a producer; duplicates are not.
    pub fn appended(&self, bytes: u64, records: u64) {
        // Relaxed: each counter is read on its own, and no other memory hangs on it.
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
        self.records_in.fetch_add(records, Ordering::Relaxed);
    }

    /// Counts what was served to a consumer.
    pub fn served(&self, bytes: u64, records: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        self.records_out.fetch_add(records, Ordering::Relaxed);
    }
}
