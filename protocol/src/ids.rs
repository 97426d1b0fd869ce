//! The quantities of the domain, each a type of its own.
//!
//! *Pattern: generation clock.* Epochs only grow, and whoever holds the older one is refused.
//!
//! An integer that means something is never passed around as an integer: an offset cannot be given
//! where an epoch is due, and arithmetic names its unit. All of them encode as plain integers.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

macro_rules! integer_newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
            Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

integer_newtype! {
    /// The position of a record in its partition, counted from 0. Ends of ranges are exclusive.
    Offset(i64)
}
integer_newtype! {
    /// How many leaders a partition has had; stamped on every batch. `-1` where none is known.
    LeaderEpoch(i32)
}
integer_newtype! {
    /// How often a partition's leader, replicas or in-sync replicas have changed.
    PartitionEpoch(i32)
}
integer_newtype! {
    /// The number of a partition in its topic, counted from 0.
    PartitionId(i32)
}
integer_newtype! {
    /// The number of a broker in its cluster.
    BrokerId(i32)
}
integer_newtype! {
    /// The incarnation of a broker: the offset of its registration in the metadata log.
    BrokerEpoch(i64)
}
integer_newtype! {
    /// The identity of a producer, handed out by the controller. `-1` where there is none.
    ProducerId(i64)
}
integer_newtype! {
    /// The incarnation of a producer. `-1` where there is none.
    ProducerEpoch(i16)
}
integer_newtype! {
    /// The position of a record in what one producer sent to one partition; see [`Sequence::plus`].
    Sequence(i32)
}
integer_newtype! {
    /// Milliseconds since 1970-01-01T00:00:00Z. `-1` where there is none.
    Timestamp(i64)
}
integer_newtype! {
    /// Which response belongs to which request of a connection.
    CorrelationId(u32)
}

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Self = Self(0);

    /// The offset `records` further on; stays at the end of the range instead of wrapping.
    #[must_use]
    pub const fn plus(self, records: i64) -> Self {
        Self(self.0.saturating_add(records))
    }

    /// How many offsets lie from `earlier` (inclusive) to here (exclusive); negative if it is
    /// later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl LeaderEpoch {
    /// No epoch is known.
    pub const NONE: Self = Self(-1);

    /// The epoch of the next leader.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl ProducerId {
    /// The batch comes from a producer that is not idempotent.
    pub const NONE: Self = Self(-1);
}

impl ProducerEpoch {
    /// The batch comes from a producer that is not idempotent.
    pub const NONE: Self = Self(-1);
}

impl Sequence {
    /// The batch comes from a producer that is not idempotent.
    pub const NONE: Self = Self(-1);

    /// The sequence `records` further on; after `i32::MAX` comes 0, as Kafka counts.
    #[must_use]
    pub const fn plus(self, records: i32) -> Self {
        match self.0.checked_add(records) {
            Some(sum) => Self(sum),
            None => Self(self.0.wrapping_add(records) & i32::MAX),
        }
    }
}

impl Timestamp {
    /// No timestamp is known.
    pub const NONE: Self = Self(-1);
}

/// Sixteen random bytes that name one thing for ever; written as 22 characters of base64url.
macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = BadUuid;

            fn from_str(text: &str) -> Result<Self, BadUuid> {
                let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadUuid)?;
                Ok(Self(bytes.try_into().map_err(|_| BadUuid)?))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_bytes(UuidVisitor).map(Self)
            }
        }
    };
}

uuid_newtype! {
    /// The identity of a topic; a topic that is deleted and created again gets another.
    TopicId
}
uuid_newtype! {
    /// The identity of a cluster, drawn when it is founded.
    ClusterId
}
uuid_newtype! {
    /// The identity of a data directory, drawn when it is first used.
    DirectoryId
}

/// The text is not 22 characters of base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id: 22 characters of base64url are expected")]
pub struct BadUuid;

struct UuidVisitor;

impl de::Visitor<'_> for UuidVisitor {
    type Value = [u8; 16];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("16 bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<[u8; 16], E> {
        bytes
            .try_into()
            .map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

/// A partition, named so that a topic created again under its old name is never mixed up with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition within it.
    pub partition: PartitionId,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_wrap_from_the_largest_to_zero() {
        assert_eq!(Sequence(i32::MAX).plus(1), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 1).plus(5), Sequence(3));
        assert_eq!(Sequence(7).plus(5), Sequence(12));
        assert_eq!(Sequence(i32::MAX).plus(i32::MAX), Sequence(i32::MAX - 1));
        assert_eq!(Sequence(i32::MIN).plus(-1), Sequence(i32::MAX));
    }

    #[test]
    fn ids_read_back_what_they_print() {
        let id = TopicId([7; 16]);
        assert_eq!(id.to_string().len(), 22);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("short".parse::<TopicId>(), Err(BadUuid));
    }
}
