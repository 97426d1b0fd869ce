//! How one topic keeps its records, and the table that its keys are read from.
//!
//! A topic stores only what was set on it, as text ([`check`] refuses what cannot be read); whoever
//! acts on it asks for the typed whole with [`TopicConfig::resolve`]. Keys have Kafka's names where
//! Kafka has the thing.

mod error;
mod key;
pub mod nearest;

use std::{collections::BTreeMap, fmt};

use strandline_protocol::{batch::header::Codec, limits::BATCH_BYTES_MAX_DEFAULT};

pub use error::TopicConfigError;
pub use key::{FLUSH, KEYS, Key, Kind, MIN_ISR, UNCLEAN_ELECTION};

/// When a write counts as acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlushMode {
    /// Once it is fsynced on every replica that the acknowledgement counts.
    #[default]
    Ack,
    /// Once it is in the page cache; flushed in the background, as Kafka does.
    Async,
}

impl FlushMode {
    /// `ack` or `async`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Async => "async",
        }
    }
}

impl fmt::Display for FlushMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whose clock stamps the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's, when it appends.
    LogAppendTime,
}

impl TimestampType {
    /// Kafka's name of it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CreateTime => "CreateTime",
            Self::LogAppendTime => "LogAppendTime",
        }
    }
}

/// Everything that can be configured on a topic, as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// How long records are kept, in milliseconds; none keeps them for ever.
    pub retention_ms: Option<u64>,
    /// How large one partition may grow before its oldest segments go, in bytes; none has no bound.
    pub retention_bytes: Option<u64>,
    /// At which size a segment is closed, in bytes.
    pub segment_bytes: u32,
    /// At which age a segment is closed, in milliseconds.
    pub segment_ms: u64,
    /// When a write counts as acknowledged.
    pub flush: FlushMode,
    /// Advice for producers.
    pub compression: Codec,
    /// The largest batch that is accepted, in bytes.
    pub batch_bytes_max: u32,
    /// Whose clock stamps the records.
    pub timestamp_type: TimestampType,
    /// How many replicas must be in sync for a write that all acknowledge; none for a majority of
    /// the replicas. Asked for through [`TopicConfig::effective_min_isr`].
    pub min_isr: Option<u32>,
    /// Whether a replica that may lack what was acknowledged leads if no other one can.
    pub unclean_election: bool,
}

/// A week, in milliseconds.
const WEEK_MS: u64 = 7 * 24 * 60 * 60 * 1000;

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            retention_ms: Some(WEEK_MS),
            retention_bytes: None,
            segment_bytes: 1 << 30,
            segment_ms: WEEK_MS,
            flush: FlushMode::Ack,
            compression: Codec::None,
            batch_bytes_max: u32::try_from(BATCH_BYTES_MAX_DEFAULT).unwrap_or(u32::MAX),
            timestamp_type: TimestampType::CreateTime,
            min_isr: None,
            unclean_election: false,
        }
    }
}

impl TopicConfig {
    /// What is in force on a topic: `overrides` where it has them, the broker's `defaults`
    /// elsewhere.
    ///
    /// Overrides were checked before they were written. A key or a value that this version cannot
    /// read (another one wrote it) leaves the default in force instead of failing.
    #[must_use]
    pub fn resolve(defaults: &Self, overrides: &BTreeMap<String, String>) -> Self {
        let mut config = defaults.clone();
        for (key, value) in overrides {
            // Reads into a copy, so that a refused value leaves no trace.
            let mut next = config.clone();
            if next.set(key, value).is_ok() {
                config = next;
            }
        }
        config
    }

    /// How many replicas must be in sync in a partition of so many: what is set, or more than half;
    /// never more than there are, and at least one.
    #[must_use]
    pub fn effective_min_isr(&self, factor: usize) -> usize {
        let set = self.min_isr.and_then(|count| usize::try_from(count).ok());
        set.unwrap_or(factor / 2 + 1).min(factor).max(1)
    }

    /// Sets one key from its text.
    ///
    /// # Errors
    /// [`TopicConfigError`] names the key, the value and what is allowed.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), TopicConfigError> {
        Key::find(key)?.write(self, value)
    }

    /// The text of one key's value, as it would be set.
    #[must_use]
    pub fn text(&self, key: &Key) -> String {
        key.read(self)
    }
}

/// Checks one key and its value.
///
/// # Errors
/// [`TopicConfigError`] names the key, the value and what is allowed.
pub fn check(key: &str, value: &str) -> Result<(), TopicConfigError> {
    TopicConfig::default().set(key, value)
}

/// Checks every key and value of a topic to be.
///
/// # Errors
/// The first [`TopicConfigError`], in the order of the keys.
pub fn check_all(overrides: &BTreeMap<String, String>) -> Result<(), TopicConfigError> {
    overrides
        .iter()
        .try_for_each(|(key, value)| check(key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(key: &str, value: &str) -> String {
        check(key, value).expect_err("it is refused").to_string()
    }

    #[test]
    fn every_key_reads_back_its_default_and_its_bounds() {
        for key in KEYS {
            let mut config = TopicConfig::default();
            let default = config.text(key);
            assert_eq!(config.set(key.name, &default), Ok(()), "{}", key.name);
            assert_eq!(config, TopicConfig::default(), "{}", key.name);
            for value in key.kind.examples() {
                assert_eq!(config.set(key.name, &value), Ok(()), "{}", key.name);
                assert_eq!(config.text(key), value, "{}", key.name);
            }
        }
    }

    #[test]
    fn a_majority_of_the_replicas_is_in_sync_unless_it_is_said() {
        let mut config = TopicConfig::default();
        let majorities = [1, 2, 3, 4, 5].map(|factor| config.effective_min_isr(factor));
        assert_eq!(majorities, [1, 2, 2, 3, 3]);
        config.set(MIN_ISR, "3").expect("it is allowed");
        let told = [1, 2, 3, 5].map(|factor| config.effective_min_isr(factor));
        assert_eq!(told, [1, 2, 3, 3]);
    }

    #[test]
    fn keys_are_in_order_and_unique() {
        assert!(KEYS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn refusals_name_key_value_and_what_is_allowed() {
        assert_eq!(
            refusal("retention.ms", "soon"),
            "topic configuration retention.ms cannot be \"soon\": a whole number from 0 to \
             9223372036854775807 is allowed, or -1 for no limit"
        );
        assert_eq!(
            refusal("compression.type", "zip"),
            "topic configuration compression.type cannot be \"zip\": none, gzip, snappy, lz4 or \
             zstd is allowed"
        );
        assert!(refusal("segment.bytes", "1").contains("from 1024 to 2147483647"));
        assert!(refusal("max.message.bytes", "999999999").contains("to 33554432"));
        assert!(refusal("segment.ms", "-1").contains("from 1 to"));
        assert!(refusal("retention.bytes", "-2").contains("or -1 for no limit"));
        assert!(refusal("retention.bytes", "+5").contains("cannot be \"+5\""));
    }

    #[test]
    fn an_unknown_key_is_told_the_nearest() {
        let text = refusal("retention.mss", "1");
        assert!(text.starts_with("unknown topic configuration key \"retention.mss\""));
        assert!(text.contains("(is retention.ms meant?)"), "{text}");
        assert!(text.contains("segment.bytes"), "{text}");
        assert!(!refusal("zzzzzzzzzzzz", "1").contains("meant"));
        assert!(refusal(&"x".repeat(1 << 20), "1").len() < 600);
    }

    #[test]
    fn what_another_version_wrote_leaves_the_default() {
        let overrides = BTreeMap::from([
            ("from.the.future".to_owned(), "1".to_owned()),
            ("segment.bytes".to_owned(), "many".to_owned()),
            ("flush".to_owned(), "async".to_owned()),
        ]);
        let config = TopicConfig::resolve(&TopicConfig::default(), &overrides);
        assert_eq!(config.flush, FlushMode::Async);
        assert_eq!(config.segment_bytes, 1 << 30);
    }
}
