//! What can be set about one partition's log.

use strandline_protocol::{batch::TimestampType, limits::BATCH_BYTES_MAX_DEFAULT};

/// The configuration of one log; may change while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment does not grow beyond this; below 2 GiB, as positions are 31 bits.
    pub segment_bytes: u32,
    /// `segment.ms`: a segment takes records for at most this long.
    pub segment_ms: i64,
    /// `segment.index.bytes`: how large an index may grow before its segment is closed.
    pub index_bytes_max: u32,
    /// `index.interval.bytes`: how many bytes of log lie between two entries of the index.
    pub index_interval_bytes: u32,
    /// `retention.ms`: how long records are kept. None keeps them for ever.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`: how much of the log is kept. None keeps all.
    pub retention_bytes: Option<u64>,
    /// `max.message.bytes`: the largest batch.
    pub max_message_bytes: usize,
    /// `message.timestamp.type`: whose clock the records carry.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far a timestamp may lie behind the broker's clock.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far it may lie ahead.
    pub timestamp_after_max_ms: i64,
    /// How much is allocated ahead at first; doubles up to `allocate_bytes_max`.
    pub allocate_bytes_min: u32,
    /// How much is allocated ahead at most.
    pub allocate_bytes_max: u32,
    /// After how many bytes of log a checkpoint writes index and producers again: what a restart
    /// replays at most, beside what was never checkpointed.
    pub checkpoint_bytes: u64,
    /// After how many bytes [`super::Log::append`] asks the kernel to begin writing back, so that a
    /// later sync finds less to do.
    pub writeback_bytes: u64,
    /// `producer.id.expiration.ms`: after how long a silent producer is forgotten.
    pub producer_expiration_ms: i64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * DAY_MS,
            index_bytes_max: 10 << 20,
            index_interval_bytes: 4_096,
            retention_ms: Some(7 * DAY_MS),
            retention_bytes: None,
            max_message_bytes: BATCH_BYTES_MAX_DEFAULT,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: HOUR_MS,
            allocate_bytes_min: 64 << 10,
            allocate_bytes_max: 16 << 20,
            checkpoint_bytes: 16 << 20,
            writeback_bytes: 8 << 20,
            producer_expiration_ms: DAY_MS,
        }
    }
}

impl LogConfig {
    /// Every bound shrunk, so that rare code runs in milliseconds.
    #[must_use]
    pub fn test_min() -> Self {
        Self {
            segment_bytes: 2_000,
            segment_ms: 10_000,
            index_bytes_max: 64,
            index_interval_bytes: 200,
            max_message_bytes: 1_500,
            allocate_bytes_min: 256,
            allocate_bytes_max: 1_024,
            checkpoint_bytes: 500,
            writeback_bytes: 1_000,
            ..Self::default()
        }
    }
}

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
