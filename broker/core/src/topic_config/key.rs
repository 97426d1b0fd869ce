//! The table of topic configuration: one row per key, from which parsing, validation, defaults and
//! documentation are made.

use strandline_protocol::{batch::header::Codec, limits::BATCH_BYTES_MAX};

use super::{FlushMode, TimestampType, TopicConfig, TopicConfigError, nearest::nearest};

/// The longest text that an error quotes, in characters.
const QUOTE_CHARS_MAX: usize = 100;

/// What values a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number, both bounds included.
    Number {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// A whole number, or -1 for no limit.
    Limit {
        /// The largest.
        max: u64,
    },
    /// A whole number, or a word that stands for what is reckoned.
    NumberOr {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
        /// The word.
        word: &'static str,
    },
    /// One of these words.
    Word(&'static [&'static str]),
}

impl Kind {
    /// What is allowed, as a sentence of an error or of the documentation.
    #[must_use]
    pub fn allowed(self) -> String {
        match self {
            Self::Number { min, max } => format!("a whole number from {min} to {max} is allowed"),
            Self::Limit { max } => {
                format!("a whole number from 0 to {max} is allowed, or -1 for no limit")
            }
            Self::NumberOr { min, max, word } => {
                format!("a whole number from {min} to {max} is allowed, or {word}")
            }
            Self::Word(words) => match words.split_last() {
                Some((last, [])) => format!("{last} is allowed"),
                Some((last, rest)) => format!("{} or {last} is allowed", rest.join(", ")),
                None => "nothing is allowed".into(),
            },
        }
    }

    /// Values at the edges of what is allowed, for tests and documentation.
    #[must_use]
    pub fn examples(self) -> Vec<String> {
        match self {
            Self::Number { min, max } => vec![min.to_string(), max.to_string()],
            Self::Limit { max } => vec!["-1".into(), "0".into(), max.to_string()],
            Self::NumberOr { min, max, word } => {
                vec![min.to_string(), max.to_string(), word.into()]
            }
            Self::Word(words) => words.iter().map(|&word| word.into()).collect(),
        }
    }
}

/// The typed field behind a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Compression,
    Flush,
    BatchBytesMax,
    TimestampType,
    MinIsr,
    RetentionBytes,
    RetentionMs,
    SegmentBytes,
    SegmentMs,
    UncleanElection,
}

/// One key of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// What it is called, as in Kafka where Kafka has it.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// What it does and what choosing it costs.
    pub doc: &'static str,
    /// Whether Kafka has a key of this name and meaning.
    pub origin: Origin,
    field: Field,
}

/// Where a key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Kafka has it too, with this name and meaning.
    Kafka,
    /// Only Strandline has it.
    Strandline,
}

/// The largest number of milliseconds or bytes: Kafka's `long`.
const LONG_MAX: u64 = i64::MAX.unsigned_abs();

/// Every key, in the order of their names.
pub const KEYS: &[Key] = &[
    Key {
        name: "compression.type",
        kind: Kind::Word(&["none", "gzip", "snappy", "lz4", "zstd"]),
        doc: "The codec that producers are advised to use. The broker stores batches as they \
              come and never compresses again.",
        origin: Origin::Kafka,
        field: Field::Compression,
    },
    Key {
        name: FLUSH,
        kind: Kind::Word(&["ack", "async"]),
        doc: "`ack`: an acknowledgement means that the records are fsynced on every replica that \
              it counts. `async`: they are in the page cache and flushed in the background, which \
              is faster and loses the last moments in a power cut. A topic keeps the mode of its \
              creation, which is the broker's default if it does not say otherwise.",
        origin: Origin::Strandline,
        field: Field::Flush,
    },
    Key {
        name: "max.message.bytes",
        kind: Kind::Number {
            min: 128,
            max: BATCH_BYTES_MAX_U64,
        },
        doc: "The largest record batch that is accepted, in bytes, as compressed by the producer.",
        origin: Origin::Kafka,
        field: Field::BatchBytesMax,
    },
    Key {
        name: "message.timestamp.type",
        kind: Kind::Word(&["CreateTime", "LogAppendTime"]),
        doc: "Whose clock stamps the records: the producer's, or the broker's when it appends.",
        origin: Origin::Kafka,
        field: Field::TimestampType,
    },
    Key {
        name: MIN_ISR,
        kind: Kind::NumberOr {
            min: 1,
            max: 1_000,
            word: MAJORITY,
        },
        doc: "How many replicas must be in sync for a write that all of them are to acknowledge: \
              with fewer it is refused, and nothing new becomes visible to consumers. `majority` \
              is more than half of the replicas; a partition with fewer replicas than asked for \
              needs all of them.",
        origin: Origin::Kafka,
        field: Field::MinIsr,
    },
    Key {
        name: "retention.bytes",
        kind: Kind::Limit { max: LONG_MAX },
        doc: "How large one partition may grow before its oldest segments are deleted, in bytes.",
        origin: Origin::Kafka,
        field: Field::RetentionBytes,
    },
    Key {
        name: "retention.ms",
        kind: Kind::Limit { max: LONG_MAX },
        doc: "How long records are kept, in milliseconds; counted from the newest record of their \
              segment.",
        origin: Origin::Kafka,
        field: Field::RetentionMs,
    },
    Key {
        name: "segment.bytes",
        kind: Kind::Number {
            min: 1024,
            // Positions in an index are Kafka's `int`.
            max: 2_147_483_647,
        },
        doc: "At which size a segment is closed and the next one begun, in bytes. Retention \
              deletes whole closed segments.",
        origin: Origin::Kafka,
        field: Field::SegmentBytes,
    },
    Key {
        name: "segment.ms",
        kind: Kind::Number {
            min: 1,
            max: LONG_MAX,
        },
        doc: "At which age a segment is closed even if it is not full, in milliseconds.",
        origin: Origin::Kafka,
        field: Field::SegmentMs,
    },
    Key {
        name: UNCLEAN_ELECTION,
        kind: Kind::Word(&["false", "true"]),
        doc: "Whether a replica that may lack acknowledged records leads when no other one can. \
              `true` goes on sooner after the loss of brokers, and may lose records by it.",
        origin: Origin::Kafka,
        field: Field::UncleanElection,
    },
];

/// The key of [`TopicConfig::flush`].
pub const FLUSH: &str = "flush";

/// The key of [`TopicConfig::min_isr`].
pub const MIN_ISR: &str = "min.insync.replicas";

/// The key of [`TopicConfig::unclean_election`].
pub const UNCLEAN_ELECTION: &str = "unclean.leader.election.enable";

/// What stands for no number in [`MIN_ISR`].
const MAJORITY: &str = "majority";

/// [`BATCH_BYTES_MAX`] in the unit of the table; the assertion keeps the two equal.
const BATCH_BYTES_MAX_U64: u64 = 32 << 20;
const _: () = assert!(
    BATCH_BYTES_MAX == 32 << 20,
    "the table and the limit differ"
);

impl Key {
    /// The row of a key.
    ///
    /// # Errors
    /// [`TopicConfigError::UnknownKey`] lists the known ones and the nearest of them.
    pub fn find(name: &str) -> Result<&'static Self, TopicConfigError> {
        KEYS.iter()
            .find(|key| key.name == name)
            .ok_or_else(|| TopicConfigError::UnknownKey {
                key: quoted(name),
                nearest: nearest(name, KEYS.iter().map(|key| key.name)),
                known: KEYS
                    .iter()
                    .map(|key| key.name)
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    /// The built-in default, as it would be set.
    #[must_use]
    pub fn default_text(&self) -> String {
        self.read(&TopicConfig::default())
    }

    pub(super) fn read(&self, config: &TopicConfig) -> String {
        let limit =
            |value: Option<u64>| value.map_or_else(|| "-1".into(), |value| value.to_string());
        match self.field {
            Field::Compression => config.compression.name().into(),
            Field::Flush => config.flush.name().into(),
            Field::BatchBytesMax => config.batch_bytes_max.to_string(),
            Field::TimestampType => config.timestamp_type.name().into(),
            Field::MinIsr => config
                .min_isr
                .map_or_else(|| MAJORITY.into(), |count| count.to_string()),
            Field::UncleanElection => config.unclean_election.to_string(),
            Field::RetentionBytes => limit(config.retention_bytes),
            Field::RetentionMs => limit(config.retention_ms),
            Field::SegmentBytes => config.segment_bytes.to_string(),
            Field::SegmentMs => config.segment_ms.to_string(),
        }
    }

    pub(super) fn write(
        &self,
        config: &mut TopicConfig,
        text: &str,
    ) -> Result<(), TopicConfigError> {
        let refused = || TopicConfigError::InvalidValue {
            key: self.name,
            value: quoted(text),
            allowed: self.kind.allowed(),
        };
        let number = || self.number(text).ok_or_else(refused);
        let limit = || match text {
            "-1" => Ok(None),
            _ => number().map(Some),
        };
        let short = || u32::try_from(number()?).map_err(|_| refused());
        match self.field {
            Field::Compression => {
                config.compression = one_of(&Codec::ALL, Codec::name, text).ok_or_else(refused)?;
            }
            Field::Flush => {
                config.flush = one_of(&[FlushMode::Ack, FlushMode::Async], FlushMode::name, text)
                    .ok_or_else(refused)?;
            }
            Field::BatchBytesMax => config.batch_bytes_max = short()?,
            Field::TimestampType => {
                let types = [TimestampType::CreateTime, TimestampType::LogAppendTime];
                config.timestamp_type =
                    one_of(&types, TimestampType::name, text).ok_or_else(refused)?;
            }
            Field::MinIsr if text == MAJORITY => config.min_isr = None,
            Field::MinIsr => config.min_isr = Some(short()?),
            Field::UncleanElection => {
                config.unclean_election = one_of(&TRUTHS, |it| it.1, text).ok_or_else(refused)?.0;
            }
            Field::RetentionBytes => config.retention_bytes = limit()?,
            Field::RetentionMs => config.retention_ms = limit()?,
            Field::SegmentBytes => config.segment_bytes = short()?,
            Field::SegmentMs => config.segment_ms = number()?,
        }
        Ok(())
    }

    /// The number that `text` stands for, if the key takes it. Digits only: `+1` reads back as
    /// another text.
    fn number(&self, text: &str) -> Option<u64> {
        let (min, max) = match self.kind {
            Kind::Number { min, max } | Kind::NumberOr { min, max, .. } => (min, max),
            Kind::Limit { max } => (0, max),
            Kind::Word(_) => return None,
        };
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        text.parse()
            .ok()
            .filter(|value| (min..=max).contains(value))
    }
}

/// The one of `values` that is called `text`.
fn one_of<T: Copy>(values: &[T], name: fn(T) -> &'static str, text: &str) -> Option<T> {
    values.iter().copied().find(|&value| name(value) == text)
}

/// What is called how.
const TRUTHS: [(bool, &str); 2] = [(true, "true"), (false, "false")];

/// `text`, cut so that an error stays readable.
fn quoted(text: &str) -> String {
    text.chars().take(QUOTE_CHARS_MAX).collect()
}
