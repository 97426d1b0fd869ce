//! Values of flags that need more than a number: `K=V`, sizes, durations, acknowledgements.

use std::{str::FromStr, time::Duration};

use clap::ValueEnum;
use strandline_protocol::{batch::header::Codec, messages::Acks};

/// A key and a value, as `K=V`; the value may be empty and may hold further equals signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// What stands before the first equals sign.
    pub key: String,
    /// What stands behind it.
    pub value: String,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err("expected KEY=VALUE".to_owned()),
        }
    }
}

/// Beyond this, a size is a typing error.
const SIZE_MAX: usize = 1 << 40;

/// Reads a number of bytes: `65536`, `64KiB`, `1MB`.
///
/// # Errors
/// What is expected, for whoever typed it.
pub fn byte_size(text: &str) -> Result<usize, String> {
    text.parse::<bytesize::ByteSize>()
        .ok()
        .and_then(|size| usize::try_from(size.as_u64()).ok())
        .filter(|size| *size <= SIZE_MAX)
        .ok_or_else(|| "expected a number of bytes such as 65536, 64KiB or 1MB".to_owned())
}

/// Reads a duration: `5ms`, `1s`, `0`.
///
/// # Errors
/// What is expected, for whoever typed it.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text)
        .map_err(|_| "expected a duration such as 5ms, 1s or 0".to_owned())
}

/// Reads the text that separates keys from values; `\t` and the like stand for what cannot be
/// typed.
///
/// # Errors
/// What is expected, for whoever typed it.
pub fn separator(text: &str) -> Result<String, String> {
    let plain = text.replace("\\t", "\t").replace("\\0", "\0");
    if plain.is_empty() || plain.contains('\n') {
        return Err("expected at least one character, and no newline".to_owned());
    }
    Ok(plain)
}

/// How many replicas must have a record before it counts as acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AcksFlag {
    /// None: the broker does not answer, and nobody knows what arrived.
    #[value(name = "0")]
    None,
    /// The leader.
    #[value(name = "1")]
    Leader,
    /// Every replica that is in sync.
    #[value(name = "all", alias = "-1")]
    All,
}

impl From<AcksFlag> for Acks {
    fn from(flag: AcksFlag) -> Self {
        match flag {
            AcksFlag::None => Self::None,
            AcksFlag::Leader => Self::Leader,
            AcksFlag::All => Self::All,
        }
    }
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompressionFlag {
    /// Not at all.
    None,
    /// Fast, and the least of it.
    Lz4,
    /// Dense, at a moderate price.
    Zstd,
    /// Fast.
    Snappy,
    /// Dense and slow.
    Gzip,
}

impl From<CompressionFlag> for Codec {
    fn from(flag: CompressionFlag) -> Self {
        match flag {
            CompressionFlag::None => Self::None,
            CompressionFlag::Lz4 => Self::Lz4,
            CompressionFlag::Zstd => Self::Zstd,
            CompressionFlag::Snappy => Self::Snappy,
            CompressionFlag::Gzip => Self::Gzip,
        }
    }
}

/// Reads a topic name and refuses what can be none, before any broker is asked.
///
/// # Errors
/// What a name is, for whoever typed it.
pub fn topic_name(text: &str) -> Result<String, String> {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let fits = (1..=strandline_protocol::limits::TOPIC_NAME_BYTES_MAX).contains(&text.len());
    if fits && text != "." && text != ".." && text.bytes().all(letters) {
        return Ok(text.to_owned());
    }
    Err("a topic name has 1 to 249 letters, digits, '.', '_' or '-', and is not '.' or '..'".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_split_at_the_first_equals_sign() {
        let pair: Pair = "a=b=c".parse().unwrap();
        assert_eq!((pair.key.as_str(), pair.value.as_str()), ("a", "b=c"));
        assert!("a=".parse::<Pair>().is_ok());
        assert!("=b".parse::<Pair>().is_err());
        assert!("ab".parse::<Pair>().is_err());
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(byte_size("100"), Ok(100));
        assert_eq!(byte_size("64KiB"), Ok(65_536));
        assert_eq!(byte_size("1MB"), Ok(1_000_000));
        for text in ["", "x", "-1", "99999999999999999999EB"] {
            assert!(byte_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("5ms"), Ok(Duration::from_millis(5)));
        assert!(duration("5").is_err());
    }

    #[test]
    fn separators_are_not_empty() {
        assert_eq!(separator("\\t"), Ok("\t".to_owned()));
        assert_eq!(separator("::"), Ok("::".to_owned()));
        assert!(separator("").is_err());
        assert!(separator("\n").is_err());
    }

    #[test]
    fn topic_names_are_checked_here() {
        for name in ["a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert!(topic_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "a b", "a/b", "ö", &"x".repeat(250)] {
            assert!(topic_name(name).is_err(), "{name}");
        }
    }
}
