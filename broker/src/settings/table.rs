//! The table of settings: one row each, and nowhere else a name, a default or a bound.

use strandline_core::topic_config::nearest::nearest;

use super::forms::{
    Addresses, BackendName, Broker, Bytes, Count, Flush, Form, HostPort, HostPortOrOff, Optional,
    Paths, Text, Time,
};
use super::{Settings, SettingsError, Source};

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The key in TOML, with its table.
    pub key: &'static str,
    /// The flag of `strandline server`, if it has one.
    pub flag: Option<&'static str>,
    /// The default as text; none if it is not set by default.
    pub default: Option<&'static str>,
    /// The smallest and the largest value.
    pub bounds: Option<(&'static str, &'static str)>,
    /// What is allowed, apart from bounds.
    pub form: &'static str,
    /// What it does and what choosing it costs.
    pub doc: &'static str,
    pub(super) write: fn(&mut Settings, &[String]) -> Result<(), String>,
    pub(super) show: fn(&Settings) -> Option<String>,
}

impl Setting {
    /// The environment variable of the same meaning.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("STRANDLINE_{}", self.key.to_uppercase().replace('.', "_"))
    }

    /// What is allowed, bounds included.
    #[must_use]
    pub fn accepts(&self) -> String {
        accepts(self.form, self.bounds)
    }

    pub(super) fn find(key: &str, source: &Source) -> Result<&'static Self, SettingsError> {
        SETTINGS
            .iter()
            .find(|setting| setting.key == key)
            .ok_or_else(|| SettingsError::UnknownKey {
                key: key.to_owned(),
                origin: source.clone(),
                nearest: nearest(key, SETTINGS.iter().map(|setting| setting.key))
                    .map(str::to_owned),
            })
    }
}

fn accepts(form: &str, bounds: Option<(&str, &str)>) -> String {
    match bounds {
        Some((least, most)) => format!("{form}, from {least} to {most}"),
        None => form.to_owned(),
    }
}

/// Reads a value and holds it against its bounds; the error says what is allowed.
fn read<F: Form>(texts: &[String], bounds: Option<(&str, &str)>) -> Result<F::Value, String> {
    let refused = || format!("give {}", accepts(F::ACCEPTS, bounds));
    let value = F::read_all(texts).ok_or_else(refused)?;
    let Some((least, most)) = bounds else {
        return Ok(value);
    };
    // A bound that does not read is a mistake in the table: a test reads them all.
    let (least, most) = F::read(least).zip(F::read(most)).ok_or_else(refused)?;
    if value < least || value > most {
        return Err(refused());
    }
    Ok(value)
}

macro_rules! settings {
    ($($key:literal, $($field:ident).+: $form:ty {
        $(flag $flag:literal,)? $(default $default:literal,)?
        $(from $least:literal to $most:literal,)?
        $doc:literal
    })*) => {
        /// Every setting but those of the topic table, in the order of the documentation: those of
        /// no table first, then table by table.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            key: $key,
            flag: optional!($($flag)?),
            default: optional!($($default)?),
            bounds: optional!($(($least, $most))?),
            form: <$form as Form>::ACCEPTS,
            doc: $doc,
            write: |settings, texts| {
                settings.$($field).+ = read::<$form>(texts, optional!($(($least, $most))?))?;
                Ok(())
            },
            show: |settings| <$form as Form>::show(&settings.$($field).+),
        },)*];
    };
}

macro_rules! optional {
    () => {
        None
    };
    ($value:expr) => {
        Some($value)
    };
}

settings! {
    "data", data: Paths { flag "--data", default "./strandline-data",
        "Directories for logs, one per disk, separated by commas in a flag or a variable. The \
         first one also holds the metadata log. A disk that fails takes its directory offline; the \
         others go on." }
    "listen", listen: HostPort { flag "--listen", default "127.0.0.1:9290",
        "Where clients connect; port 0 takes any free one. A wildcard needs `advertise`." }
    "http", http: HostPortOrOff { flag "--http", default "127.0.0.1:9291",
        "Where `/metrics`, `/healthz` and `/readyz` are served. There is no authentication: keep \
         it on a network that you trust." }
    "advertise", advertise: Optional<HostPort> { flag "--advertise",
        "What clients are told to connect to. Not set, it is the address that `listen` bound." }
    "join", join: Addresses { flag "--join",
        "Brokers of a cluster that this one becomes part of, separated by commas in a flag or a \
         variable; one that answers is enough. Needed at the first start only. Not set, a broker \
         with an empty data directory founds a cluster of its own." }
    "flush", flush: Flush { flag "--flush", default "ack",
        "When a write counts as acknowledged, on topics that do not say otherwise. `ack`: once it \
         is synced to disk, one sync serving everybody who waits. `async`: once it is in the page \
         cache, which is faster and loses the last moments in a power cut." }
    "node_id", node_id: Broker { flag "--node-id", default "1", from "0" to "2147483647",
        "The number of this broker in its cluster. Fixed once a data directory was used." }
    "rack", rack: Optional<Text> { flag "--rack",
        "Where this broker stands, for spreading replicas." }
    "log", log: Text { flag "--log", default "info",
        "Which log lines are written to standard error: a level (error, warn, info, debug, trace), \
         or levels by module as in `info,strandline_broker=debug`." }
    "worker_threads", worker_threads: Optional<Count<usize>> { from "1" to "1024",
        "Threads that run connections. Not set, it is one per processor." }
    "default_partitions", default_partitions: Count<i32> { default "1", from "1" to "100000",
        "How many partitions a topic gets whose creator does not say." }
    "shutdown_timeout", shutdown_timeout: Time { default "30s", from "0s" to "1h",
        "How long an orderly shutdown waits for requests in flight before it cuts connections. \
         Logs are flushed and closed in any case." }

    "limits.connections_max", limits.connections_max: Count<usize> {
        default "10000", from "1" to "1000000",
        "Connections that may be open at once; more are closed at once. Each needs a file \
         descriptor." }
    "limits.frame_bytes_max", limits.frame_bytes_max: Bytes {
        default "64MiB", from "2MiB" to "1GiB",
        "The largest request that is read. It bounds a batch, too, whatever `max.message.bytes` \
         says." }
    "limits.memory_in_flight_bytes_max", limits.memory_in_flight_bytes_max: Bytes {
        default "256MiB", from "2MiB" to "1TiB",
        "Memory for all requests and answers on their way. Beyond it the broker stops reading from \
         connections until there is room: clients slow down, nothing fails." }
    "limits.requests_in_flight_max", limits.requests_in_flight_max: Count<usize> {
        default "128", from "1" to "10000",
        "Requests of one connection that may be unanswered; it is not read from beyond that." }
    "limits.idle_timeout", limits.idle_timeout: Time { default "10m", from "1s" to "365d",
        "How long a connection with nothing in flight may be silent before it is closed." }
    "limits.write_timeout", limits.write_timeout: Time { default "30s", from "1s" to "1h",
        "How long a peer may take to read an answer before its connection is closed, so that a \
         stuck reader pins no memory and no segment." }

    "storage.backend", storage.backend: BackendName { default "mapped",
        "How appended bytes reach the page cache: through a mapping of the segment, or by \
         `pwrite`. What is on disk is the same." }
    "storage.retention_interval", storage.retention_interval: Time {
        default "30s", from "10ms" to "1d",
        "How often logs are checked for segments past their retention or due to roll." }
    "storage.checkpoint_interval", storage.checkpoint_interval: Time {
        default "1s", from "10ms" to "1h",
        "How often recovery points are made durable after new data was synced. Recovery after a \
         crash reads what was written since." }

    "replication.lag_max", replication.lag_max: Time { default "10s", from "100ms" to "1h",
        "How long a follower may be behind its leader before it counts as out of sync: \
         acknowledgements do not wait for it any more, and it is not elected. A broker that does \
         not answer at all is taken out much sooner." }
}
