//! What applications depend on to use Strandline: connection, producer, consumer, admin.
//!
//! **Owns** the way from an application to the leader of a partition and back: batching, order,
//! retries, uniqueness.
//!
//! **Never** knows how a broker stores anything, and never calls an unknown outcome a failure.
