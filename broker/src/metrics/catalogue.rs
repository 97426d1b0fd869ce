//! The catalogue: one row per metric, and nowhere else a name.
//!
//! Names follow the conventions of Prometheus: the prefix `strandline_` (`process_` where every
//! exporter has the same figure), base units, `_total` on counters. A label has few values by
//! design: APIs, error codes, directories, topics and partitions; never a client or an address.

/// What a metric's value does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up; starts again from 0 with the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in buckets, with their sum.
    Histogram,
}

impl Kind {
    /// The word of the exposition format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One row of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The full name.
    pub name: &'static str,
    /// What its value does over time.
    pub kind: Kind,
    /// What it counts or measures, in base units.
    pub unit: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it tells, in one sentence.
    pub help: &'static str,
}

macro_rules! catalogue {
    ($($constant:ident = $name:literal, $kind:ident, $unit:literal, [$($label:literal),*],
        $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: $unit,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// Every metric, in the order of the documentation.
        pub const CATALOGUE: &[&Metric] = &[$(&$constant,)*];
    };
}

catalogue! {
    BUILD = "strandline_build_info", Gauge, "1", ["version", "architecture"],
        "The build that runs: its version and what it was built for; the value is always 1.";

    REQUESTS = "strandline_requests_total", Counter, "requests", ["api"],
        "Requests that were answered, errors included.";
    REQUEST_ERRORS = "strandline_request_errors_total", Counter, "errors", ["api", "code"],
        "Errors in answers by code; a request on many partitions can have several.";
    REQUEST_PHASE = "strandline_request_phase_seconds", Histogram, "seconds", ["api", "phase"],
        "Time of a request in a phase: queue (read until handled), local (handled), wait (parked \
         for data, a flush or a replica), send (answered until written).";
    PRODUCE_BATCH = "strandline_produce_batch_bytes", Histogram, "bytes", [],
        "Sizes of the record batches that producers sent.";
    FETCH_RESPONSE = "strandline_fetch_response_bytes", Histogram, "bytes", [],
        "Sizes of the record bytes in answers to fetches that found any.";

    TOPIC_BYTES_IN = "strandline_topic_bytes_in_total", Counter, "bytes", ["topic"],
        "Bytes of record batches appended for producers, as stored.";
    TOPIC_RECORDS_IN = "strandline_topic_records_in_total", Counter, "records", ["topic"],
        "Records appended for producers.";
    TOPIC_BYTES_OUT = "strandline_topic_bytes_out_total", Counter, "bytes", ["topic"],
        "Bytes of record batches served to consumers.";
    TOPIC_RECORDS_OUT = "strandline_topic_records_out_total", Counter, "records", ["topic"],
        "Records in the batches served to consumers.";

    PARTITIONS = "strandline_partitions", Gauge, "partitions", ["state"],
        "Partitions of this broker: open, recovering (since the start), offline (could not be \
         opened; the log says why).";
    PARTITION_START = "strandline_partition_log_start_offset", Gauge, "offset",
        ["topic", "partition"],
        "The first offset that the partition still has.";
    PARTITION_END = "strandline_partition_log_end_offset", Gauge, "offset",
        ["topic", "partition"],
        "The offset that the next record gets.";
    PARTITION_HIGH_WATERMARK = "strandline_partition_high_watermark", Gauge, "offset",
        ["topic", "partition"],
        "The offset up to which consumers read.";
    PARTITION_BYTES = "strandline_partition_size_bytes", Gauge, "bytes", ["topic", "partition"],
        "Bytes of records in the partition's segments.";
    PARTITION_SEGMENTS = "strandline_partition_segments", Gauge, "segments",
        ["topic", "partition"],
        "Segments of the partition.";

    REPLICAS = "strandline_replicas", Gauge, "replicas", ["role"],
        "Replicas on this broker by role: leader, follower, idle (of a partition that nobody \
         leads).";
    REPLICA_LAG = "strandline_replica_lag_records", Gauge, "records",
        ["topic", "partition", "follower"],
        "Records that a follower lacks, as the leader of the partition knows; told by the leader. \
         All that there are, if the follower has not fetched from this leader yet.";
    REPLICA_BEHIND = "strandline_replica_lag_seconds", Gauge, "seconds",
        ["topic", "partition", "follower"],
        "Time since a follower last had all that its leader had; 0 while it has.";
    UNDER_REPLICATED = "strandline_partitions_under_replicated", Gauge, "partitions", [],
        "Partitions of the cluster that have fewer replicas in sync than they are to have, as far \
         as this broker follows the metadata.";
    UNDER_MIN_ISR = "strandline_partitions_under_min_isr", Gauge, "partitions", [],
        "Partitions of the cluster that take no acks=all writes, as fewer replicas are in sync \
         than `min.insync.replicas`; as far as this broker follows the metadata.";
    ISR_SHRINKS = "strandline_isr_shrinks_total", Counter, "changes", [],
        "Times that a partition led by this broker lost a replica from its in-sync replicas, the \
         leader before it among them.";
    ISR_EXPANDS = "strandline_isr_expands_total", Counter, "changes", [],
        "Times that a replica came back in sync with a partition led by this broker.";
    ELECTIONS = "strandline_leader_elections_total", Counter, "elections", [],
        "Times that this broker became the leader of a partition, or leads it under a new epoch.";
    REPLICATION_IN = "strandline_replication_fetched_bytes_total", Counter, "bytes", [],
        "Bytes of record batches that this broker fetched from leaders and appended.";
    REPLICATION_OUT = "strandline_replication_served_bytes_total", Counter, "bytes", [],
        "Bytes of record batches that this broker served to followers.";
    FETCH_SESSIONS = "strandline_fetch_sessions", Gauge, "sessions", [],
        "Followers that have a fetch session with this broker.";
    TRUNCATIONS = "strandline_replica_truncations_total", Counter, "truncations", [],
        "Times that a replica on this broker had diverged from its leader and was cut.";
    REPAIRS = "strandline_replica_repairs_total", Counter, "repairs", ["outcome"],
        "Damaged ranges of records on this broker that were fetched again from another replica: \
         repaired, or failed (no replica had them).";

    FLUSH = "strandline_log_flush_seconds", Histogram, "seconds", ["directory"],
        "Time of one flush of a partition's log to its disk (fdatasync).";
    DIRECTORY_ONLINE = "strandline_directory_online", Gauge, "0 or 1", ["directory"],
        "Whether the data directory serves; 0 after an I/O error, until a restart.";
    DIRECTORY_FREE = "strandline_directory_free_bytes", Gauge, "bytes", ["directory"],
        "Space left for the broker on the data directory's file system.";

    CONTROLLER_ACTIVE = "strandline_controller_active", Gauge, "0 or 1", [],
        "Whether this broker is the active controller; the sum over all brokers is 1 in a \
         cluster that works.";
    CONTROLLER_EPOCH = "strandline_controller_epoch", Gauge, "epoch", [],
        "The term of the controller as far as this broker follows the metadata; every election \
         raises it.";
    QUORUM_ROLE = "strandline_quorum_role", Gauge, "0 or 1", ["role"],
        "What this broker is in the metadata quorum: leader, voter (that does not lead), \
         learner, or none (not taken in yet); 1 for one of them.";
    QUORUM_VOTERS = "strandline_quorum_voters", Gauge, "voters", [],
        "Voters of the metadata quorum as far as this broker knows; more than half of them must \
         live.";
    METADATA_END = "strandline_metadata_log_end_offset", Gauge, "offset", [],
        "The offset that the next entry of the metadata log gets on this broker.";
    METADATA_COMMITTED = "strandline_metadata_committed_offset", Gauge, "offset", [],
        "The offset up to which this broker knows the metadata log to be committed.";
    METADATA_LAG = "strandline_metadata_applied_lag", Gauge, "entries", [],
        "Committed entries of the metadata log that the partitions of this broker do not follow \
         yet.";
    BROKERS = "strandline_brokers", Gauge, "brokers", ["state"],
        "Registered brokers by state, as far as this broker follows the metadata: active, \
         fenced (not heard of, or not caught up since they started), stopping.";
    LEADERLESS = "strandline_partitions_without_leader", Gauge, "partitions", [],
        "Partitions of the cluster that nobody leads, as far as this broker follows the \
         metadata.";
    LEASE_HELD = "strandline_lease_held", Gauge, "0 or 1", [],
        "Whether this broker holds its lease; one that is alone always does.";
    LEASE_RENEWALS = "strandline_lease_renewals_total", Counter, "renewals", [],
        "Heartbeats of this broker by which the controller renewed its lease.";
    LEASE_EXPIRIES = "strandline_lease_expiries_total", Counter, "leases", [],
        "Leases of this broker that ran out or were taken from it.";

    CONNECTIONS = "strandline_connections", Gauge, "connections", ["listener"],
        "Connections that are open.";
    CONNECTIONS_ACCEPTED = "strandline_connections_accepted_total", Counter, "connections",
        ["listener"],
        "Connections that were accepted.";
    CONNECTIONS_REFUSED = "strandline_connections_refused_total", Counter, "connections",
        ["listener", "reason"],
        "Connections that were closed on the peer: limit (too many), protocol (not ours or \
         damaged), idle (silent too long), slow (did not read its answers).";
    MEMORY = "strandline_memory_in_flight_bytes", Gauge, "bytes", [],
        "Memory reserved for requests and answers on their way.";
    MEMORY_LIMIT = "strandline_memory_in_flight_limit_bytes", Gauge, "bytes", [],
        "The most that may be reserved; requests wait beyond it.";

    RUNTIME_WORKERS = "strandline_runtime_workers", Gauge, "threads", [],
        "Threads that run tasks.";
    RUNTIME_TASKS = "strandline_runtime_alive_tasks", Gauge, "tasks", [],
        "Tasks that exist: connections, listeners, background work.";
    RUNTIME_QUEUE = "strandline_runtime_queued_tasks", Gauge, "tasks", [],
        "Tasks that wait in the runtime's global queue.";
    RUNTIME_BUSY = "strandline_runtime_busy_seconds_total", Counter, "seconds", [],
        "Time that the runtime's threads spent running tasks, summed over them.";

    PROCESS_CPU = "process_cpu_seconds_total", Counter, "seconds", [],
        "User and system CPU time of the process.";
    PROCESS_RESIDENT = "process_resident_memory_bytes", Gauge, "bytes", [],
        "Resident memory of the process, mapped log files included.";
    PROCESS_ANONYMOUS = "strandline_memory_anonymous_bytes", Gauge, "bytes", [],
        "Resident memory of the process that no file stands behind: heap and stacks.";
    PROCESS_VIRTUAL = "process_virtual_memory_bytes", Gauge, "bytes", [],
        "Virtual memory of the process, mapped log files included.";
    PROCESS_FDS = "process_open_fds", Gauge, "descriptors", [],
        "Open file descriptors.";
    PROCESS_FDS_MAX = "process_max_fds", Gauge, "descriptors", [],
        "The most file descriptors that the process may open.";
    PROCESS_START = "process_start_time_seconds", Gauge, "seconds", [],
        "When the process started, since the Unix epoch.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let names: BTreeSet<_> = CATALOGUE.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), CATALOGUE.len(), "two rows share a name");
        for metric in CATALOGUE {
            let Metric {
                name, kind, unit, ..
            } = metric;
            assert!(
                name.starts_with("strandline_") || name.starts_with("process_"),
                "{name}"
            );
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            let stem = name.trim_end_matches("_total");
            if ["bytes", "seconds"].contains(unit) && !name.contains("topic_bytes") {
                assert!(stem.ends_with(unit), "{name} does not end in {unit}");
            }
            assert!(metric.help.ends_with('.'), "{name}: help is a sentence");
        }
    }
}
