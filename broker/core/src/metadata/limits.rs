//! Every bound of the controller, by name; those that a peer sees too are in the protocol's limits.

/// The largest entry of the metadata log, in bytes.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;

/// How many partitions one record lists at most: with three replicas each they stay below half of
/// an entry.
pub const PARTITIONS_PER_RECORD_MAX: usize = 4_000;

/// How many copies of partitions one record lists at most: one of four thousand partitions with
/// three replicas, or fewer partitions with more.
pub const COPIES_PER_RECORD_MAX: usize = 12_000;

/// How many partitions the topics of one cluster have at most, all together.
pub const PARTITIONS_PER_CLUSTER_MAX: usize = 200_000;

/// How many topics one cluster has at most.
pub const TOPICS_PER_CLUSTER_MAX: usize = 100_000;

/// How many producer ids a broker reserves at once, as Kafka does.
pub const PRODUCER_ID_BLOCK: u32 = 1_000;

/// The longest host name that a broker advertises, in bytes (RFC 1035).
pub const HOST_BYTES_MAX: usize = 255;

/// The longest name of a rack, in bytes.
pub const RACK_BYTES_MAX: usize = 255;

/// The most data directories of one broker.
pub const DIRECTORIES_PER_BROKER_MAX: usize = 64;

/// How many partitions one record of a snapshot lists at most: each tells more than in the log, so
/// that this stays below half of an entry, too.
pub const PARTITIONS_PER_SNAPSHOT_RECORD_MAX: usize = 1_000;

/// How many copies of partitions one record of a snapshot lists at most.
pub const COPIES_PER_SNAPSHOT_RECORD_MAX: usize = 5_000;

/// How many brokers vote in the metadata quorum at most.
pub const VOTERS_MAX: usize = 7;

/// How many brokers one cluster has at most.
pub const BROKERS_PER_CLUSTER_MAX: usize = 1_000;

/// The longest name of a broker's software, in bytes.
pub const SOFTWARE_BYTES_MAX: usize = 255;
