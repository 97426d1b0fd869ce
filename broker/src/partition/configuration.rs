//! From what is configured on a topic to what a log is configured with.

use strandline_core::{TimestampType as TopicTimestampType, TopicConfig};
use strandline_protocol::batch::TimestampType;
use strandline_storage::log::LogConfig;

/// What the logs of a topic are configured with.
#[must_use]
pub fn log_config(topic: &TopicConfig) -> LogConfig {
    LogConfig {
        segment_bytes: topic.segment_bytes,
        segment_ms: milliseconds(topic.segment_ms),
        retention_ms: topic.retention_ms.map(milliseconds),
        retention_bytes: topic.retention_bytes,
        max_message_bytes: usize::try_from(topic.batch_bytes_max).unwrap_or(usize::MAX),
        timestamp_type: match topic.timestamp_type {
            TopicTimestampType::CreateTime => TimestampType::CreateTime,
            TopicTimestampType::LogAppendTime => TimestampType::LogAppendTime,
        },
        ..LogConfig::default()
    }
}

fn milliseconds(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
