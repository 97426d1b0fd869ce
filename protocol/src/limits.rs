//! Every bound of the protocol, by name.
//!
//! A length that comes from a peer is held against one of these, and against what is left of its
//! container, before anything is allocated for it.

/// The largest message part of a frame, in bytes. Record batches travel in the payload instead.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The largest frame that a broker or a client accepts unless it is configured otherwise, in bytes.
pub const FRAME_BYTES_MAX_DEFAULT: usize = 64 << 20;

/// The largest record batch that a topic accepts unless `max.message.bytes` says otherwise, in
/// bytes: Kafka's default of 1 MiB and the batch header.
pub const BATCH_BYTES_MAX_DEFAULT: usize = (1 << 20) + 12;

/// The largest `max.message.bytes` that a topic can have, in bytes.
pub const BATCH_BYTES_MAX: usize = 32 << 20;

/// The largest size that the records of one batch may have once decompressed, in bytes.
pub const DECOMPRESSED_BYTES_MAX: usize = 128 << 20;

/// The most headers that one record may carry.
pub const RECORD_HEADERS_MAX: usize = 10_000;

/// The longest topic name, in bytes; Kafka's, so that `<name>-<partition>` fits a directory name.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// The most partitions that one topic may have.
pub const PARTITIONS_PER_TOPIC_MAX: i32 = 100_000;

/// The most entries that one request may list (partitions, topics, configuration keys).
pub const ENTRIES_PER_REQUEST_MAX: usize = 10_000;

/// The most topics or partitions in one page of a paged answer.
pub const PAGE_ENTRIES_MAX: usize = 2_000;

/// How many requests of one idempotent producer to one partition may be unanswered at once, and
/// how many batches back a retry is recognised (KIP-98, KAFKA-5494).
pub const PRODUCER_WINDOW: usize = 5;

/// The longest client id, in bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 249;

/// The longest error message in a response, in bytes; longer ones are cut.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 4_096;
