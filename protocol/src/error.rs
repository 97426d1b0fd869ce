//! Error codes, and what whoever receives one should do.
//!
//! Codes are Kafka's where it has them, ours start at 1000. A code is a number and not an enum, so
//! that one which a newer peer introduced survives the way through an older one; its class is then
//! [`ErrorClass::Fatal`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the receiver of an error should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// Not an error.
    None,
    /// Nothing was changed; the same request may succeed later.
    Retry,
    /// Nothing was changed; ask for metadata again, then send the request to where it belongs.
    RefreshMetadata,
    /// A newer incarnation of the sender, or of what it speaks for, has taken over: stop.
    Fenced,
    /// Nothing was changed, and the same request will be refused again.
    Fatal,
    /// The request may or may not have taken effect. Never a failure, never a success.
    OutcomeUnknown,
}

/// How a request ended.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorCode(pub u16);

macro_rules! error_codes {
    ($($(#[doc = $meaning:literal])+ $name:ident = $code:literal, $class:ident;)*) => {
        impl ErrorCode {
            $($(#[doc = $meaning])+ pub const $name: Self = Self($code);)*

            /// Every code of this version, for tables and documents.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name of the code; `UNRECOGNISED` for one of a newer version.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                    _ => "UNRECOGNISED",
                }
            }

            /// What it means, in a sentence or two; empty for a code of a newer version.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($meaning),+).trim_ascii(),)*
                    _ => "",
                }
            }

            /// What the receiver should do.
            #[must_use]
            pub const fn class(self) -> ErrorClass {
                match self {
                    $(Self::$name => ErrorClass::$class,)*
                    _ => ErrorClass::Fatal,
                }
            }
        }
    };
}

error_codes! {
    /// The request succeeded.
    NONE = 0, None;
    /// The broker met a state that it does not know; its log says more.
    UNKNOWN_SERVER_ERROR = 65535, OutcomeUnknown;
    /// The offset is not between the log start offset and the high watermark.
    OFFSET_OUT_OF_RANGE = 1, Fatal;
    /// A record batch arrived damaged: its CRC or its structure is wrong.
    CORRUPT_MESSAGE = 2, Fatal;
    /// The topic or the partition does not exist.
    UNKNOWN_TOPIC_OR_PARTITION = 3, RefreshMetadata;
    /// The partition has no leader now.
    LEADER_NOT_AVAILABLE = 5, RefreshMetadata;
    /// The broker is not, or no longer, the leader of the partition.
    NOT_LEADER_OR_FOLLOWER = 6, RefreshMetadata;
    /// The request was not finished in its time; a write may still happen.
    REQUEST_TIMED_OUT = 7, OutcomeUnknown;
    /// The batch is larger than the topic's `max.message.bytes`.
    MESSAGE_TOO_LARGE = 10, Fatal;
    /// The topic name is not one.
    INVALID_TOPIC = 17, Fatal;
    /// Fewer replicas are in sync than `min.insync.replicas` asks for; nothing was appended.
    NOT_ENOUGH_REPLICAS = 19, Retry;
    /// The in-sync replicas fell below `min.insync.replicas` after the append.
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20, OutcomeUnknown;
    /// `acks` is neither 0, 1 nor -1 (all).
    INVALID_REQUIRED_ACKS = 21, Fatal;
    /// A record's timestamp is outside of what the topic accepts.
    INVALID_TIMESTAMP = 32, Fatal;
    /// The version of the request is not supported; the message names those that are.
    UNSUPPORTED_VERSION = 35, Fatal;
    /// A topic of that name exists.
    TOPIC_ALREADY_EXISTS = 36, Fatal;
    /// The number of partitions is out of bounds, or not larger than before.
    INVALID_PARTITIONS = 37, Fatal;
    /// The replication factor is out of bounds.
    INVALID_REPLICATION_FACTOR = 38, Fatal;
    /// The replicas of a reassignment are not possible: unknown, doubled or too few.
    INVALID_REPLICA_ASSIGNMENT = 39, Fatal;
    /// A configuration key is unknown or its value is not valid.
    INVALID_CONFIG = 40, Fatal;
    /// The broker is not the controller.
    NOT_CONTROLLER = 41, RefreshMetadata;
    /// The request contradicts itself.
    INVALID_REQUEST = 42, Fatal;
    /// The sequence of an idempotent producer has a gap; what it names was not appended.
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45, Fatal;
    /// The producer epoch is older than the newest that the partition has seen.
    INVALID_PRODUCER_EPOCH = 47, Fenced;
    /// The data directory of the partition is offline after an I/O error.
    STORAGE_ERROR = 56, RefreshMetadata;
    /// The leader does not know the fetch session; open a new one.
    FETCH_SESSION_ID_NOT_FOUND = 70, Retry;
    /// A request of the fetch session is missing; open a new one.
    INVALID_FETCH_SESSION_EPOCH = 71, Retry;
    /// The leader epoch in the request is older than the partition's.
    FENCED_LEADER_EPOCH = 74, RefreshMetadata;
    /// The leader epoch in the request is newer than the broker knows.
    UNKNOWN_LEADER_EPOCH = 75, Retry;
    /// The batch is compressed by a codec that the broker does not know.
    UNSUPPORTED_COMPRESSION_TYPE = 76, Fatal;
    /// The broker epoch in the request is not the registered one.
    STALE_BROKER_EPOCH = 77, Fenced;
    /// The offset cannot be told before the leader's first own commit.
    OFFSET_NOT_AVAILABLE = 78, Retry;
    /// The preferred leader is not in sync or does not take part.
    PREFERRED_LEADER_NOT_AVAILABLE = 80, Retry;
    /// No replica may lead: none that has everything takes part.
    ELIGIBLE_LEADERS_NOT_AVAILABLE = 83, Retry;
    /// The partition has the leader that was to be elected.
    ELECTION_NOT_NEEDED = 84, Fatal;
    /// There is no reassignment to take back.
    NO_REASSIGNMENT_IN_PROGRESS = 85, Fatal;
    /// A record in the batch is not valid.
    INVALID_RECORD = 87, Fatal;
    /// The change goes on from a state of the partition that is no more the newest.
    INVALID_UPDATE_VERSION = 95, RefreshMetadata;
    /// No topic has that id; it was deleted, or has not been heard of yet.
    UNKNOWN_TOPIC_ID = 100, RefreshMetadata;
    /// A broker of that number is registered and alive.
    DUPLICATE_BROKER_REGISTRATION = 101, Fatal;
    /// No broker of that number is registered.
    BROKER_ID_NOT_REGISTERED = 102, Fatal;
    /// The client believes to talk to another cluster.
    INCONSISTENT_CLUSTER_ID = 104, Fatal;
    /// A replica cannot be in sync: its broker is fenced, stops or has started again.
    INELIGIBLE_REPLICA = 107, Retry;
    /// The change is made, and another broker leads the partition by it.
    NEW_LEADER_ELECTED = 108, RefreshMetadata;
    /// The broker votes in the metadata quorum already.
    DUPLICATE_VOTER = 126, Fatal;
    /// The broker has no vote in the metadata quorum.
    VOTER_NOT_FOUND = 127, Fatal;
    /// The log is damaged there; a fetch is told the next good offset in a field of its own.
    CORRUPT = 1000, Fatal;
    /// The disk is full: appends are refused until there is space, reads go on.
    DISK_FULL = 1001, Retry;
    /// A budget of the broker (memory in flight, connections) is used up for now.
    OVERLOADED = 1002, Retry;
    /// The broker is shutting down.
    SHUTTING_DOWN = 1003, RefreshMetadata;
    /// The first request of a connection must be `Hello`.
    HELLO_EXPECTED = 1004, Fatal;
    /// The peer's directory id is not the one that the request names: a disk was swapped or wiped.
    INCONSISTENT_DIRECTORY_ID = 1005, Fatal;
    /// The API key is not known.
    UNKNOWN_API = 1006, Fatal;
    /// A cursor of a paged answer does not belong to this request; start from the first page.
    INVALID_CURSOR = 1007, Fatal;
    /// A change of the voters is under way; another one can begin when it is done.
    VOTERS_CHANGING = 1008, Retry;
    /// Leaving would lose something (partitions, the last vote); the message says what.
    NOT_REMOVABLE = 1009, Fatal;
    /// The broker has just started and does not know the metadata of its cluster yet; others may.
    NOT_READY = 1010, RefreshMetadata;
    /// The broker stopped leading the partition after it had appended the batch; the next leader
    /// may have it or not, and tells when it is sent again.
    LEADERSHIP_LOST = 1011, OutcomeUnknown;
}

impl ErrorCode {
    /// Whether this is no error.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name() == "UNRECOGNISED" {
            write!(f, "error {}", self.0)
        } else {
            f.write_str(self.name())
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_and_names_are_unique() {
        let codes: BTreeSet<_> = ErrorCode::ALL.iter().collect();
        let names: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(
            (codes.len(), names.len()),
            (ErrorCode::ALL.len(), ErrorCode::ALL.len())
        );
    }

    #[test]
    fn a_code_of_a_newer_version_is_kept_and_fatal() {
        assert_eq!(ErrorCode(4711).to_string(), "error 4711");
        assert_eq!(ErrorCode(4711).class(), ErrorClass::Fatal);
    }
}
