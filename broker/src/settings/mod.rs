//! What the broker is configured with, and where each value came from.
//!
//! **Owns** the table of settings ([`SETTINGS`]) from which parsing, bounds, names of variables,
//! the output of `--print-config` and `docs/configuration.md` are made; and the order in which
//! sources win: defaults, then the file, then `STRANDLINE_*` variables, then flags.
//!
//! **Never** ignores what it does not know: an unknown key or variable stops the start and is told
//! the nearest known one.

mod address;
mod directories;
mod effective;
mod error;
mod forms;
mod inputs;
#[cfg(test)]
mod reference;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use strandline_core::topic_config::{FlushMode, TopicConfig, TopicConfigError, check_all};
use strandline_protocol::ids::BrokerId;

pub use address::Address;
pub use error::SettingsError;
pub use inputs::{Inputs, Source};
pub use table::{SETTINGS, Setting};

/// How the log's bytes reach the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    /// Through a mapping of the segment.
    Mapped,
    /// Through `pwrite`.
    Pwrite,
}

/// Everything that one broker is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Directories for logs, one per disk; the first one also holds the metadata log.
    pub data: Vec<PathBuf>,
    /// Where clients connect.
    pub listen: Address,
    /// Where HTTP is served; none serves none.
    pub http: Option<Address>,
    /// What clients are told to connect to; none tells them the address that was bound.
    pub advertise: Option<Address>,
    /// Members of the cluster that this broker joins; none founds a cluster, or goes on in that of
    /// the data directory.
    pub join: Vec<Address>,
    /// When a write counts as acknowledged, on topics that do not say otherwise.
    pub flush: FlushMode,
    /// The number of this broker in its cluster.
    pub node_id: BrokerId,
    /// Where this broker stands; replicas of a partition are spread over racks.
    pub rack: Option<String>,
    /// The filter of log lines.
    pub log: String,
    /// Threads that run connections; none takes one per processor.
    pub worker_threads: Option<usize>,
    /// How many partitions a topic gets whose creator does not say.
    pub default_partitions: i32,
    /// How long a shutdown may take to answer what is in flight, before connections are cut.
    pub shutdown_timeout: Duration,
    /// Bounds on what clients can make the broker do.
    pub limits: Limits,
    /// Background work on logs.
    pub storage: Storage,
    /// Leaders and followers.
    pub replication: ReplicationSettings,
    /// Topic configuration, by Kafka's names, for topics that do not say otherwise.
    pub topic: BTreeMap<String, String>,
    /// Where the values came from, by key; what is missing is a default.
    sources: BTreeMap<String, Source>,
}

/// Bounds on what clients can make the broker do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections that may be open at once.
    pub connections_max: usize,
    /// The largest frame that is read, in bytes.
    pub frame_bytes_max: usize,
    /// Memory that all clients' requests and answers on their way may hold together, in bytes.
    pub memory_in_flight_bytes_max: usize,
    /// Requests of one connection that may be unanswered; it is not read from beyond that.
    pub requests_in_flight_max: usize,
    /// How long a connection may be silent, with nothing in flight, before it is closed.
    pub idle_timeout: Duration,
    /// How long a peer may take to read an answer before its connection is closed.
    pub write_timeout: Duration,
}

/// Background work on logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// How bytes reach the page cache.
    pub backend: Backend,
    /// How often logs are checked for segments past their retention or due to roll.
    pub retention_interval: Duration,
    /// How often recovery points are made durable after new data was synced.
    pub checkpoint_interval: Duration,
}

/// Leaders and followers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationSettings {
    /// How long a follower may be behind before it counts as out of sync.
    pub lag_max: Duration,
}

impl Settings {
    /// Resolves all sources into what is in force.
    ///
    /// # Errors
    /// [`SettingsError`] names the key, its source and what is allowed, or the nearest known key.
    pub fn resolve(inputs: &Inputs) -> Result<Self, SettingsError> {
        let mut settings = Self::blank();
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                settings.write(setting, &[default.to_owned()], &Source::Default)?;
            }
        }
        for value in inputs.values()? {
            if let Some(key) = value.key.strip_prefix("topic.") {
                settings.write_topic(key, &value.texts, &value.source)?;
            } else {
                let setting = Setting::find(&value.key, &value.source)?;
                settings.write(setting, &value.texts, &value.source)?;
            }
            settings.sources.insert(value.key, value.source);
        }
        settings.validate()?;
        Ok(settings)
    }

    /// The defaults with some keys set, as if by flags: for brokers inside of another program.
    ///
    /// # Errors
    /// As for [`Settings::resolve`].
    pub fn with(values: &[(&str, &str)]) -> Result<Self, SettingsError> {
        let mut inputs = Inputs::default();
        for (key, value) in values {
            inputs.flag(key, [*value]);
        }
        Self::resolve(&inputs)
    }

    /// Holds values against each other; each alone was held against its bounds when it was read.
    ///
    /// # Errors
    /// [`SettingsError::Contradiction`] says which two values, and what to change.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let refuse = |message: String| Err(SettingsError::Contradiction { message });
        if self.listen.is_wildcard() && self.advertise.is_none() {
            return refuse(format!(
                "listen = {} is a wildcard, which clients cannot connect to; say what they should \
                 connect to with --advertise HOST:PORT",
                self.listen
            ));
        }
        if let Some(address) = &self.advertise
            && (address.is_wildcard() || address.port == 0)
        {
            return refuse(format!(
                "advertise = {address} is not an address that clients can connect to; name this \
                 machine and a port",
            ));
        }
        if let Some(http) = &self.http
            && http.port != 0
            && *http == self.listen
        {
            return refuse(format!(
                "listen and http are both {http}; give each a port of its own"
            ));
        }
        if let Some(message) = directories::overlap(&self.data) {
            return refuse(message);
        }
        let limits = &self.limits;
        if limits.memory_in_flight_bytes_max < limits.frame_bytes_max {
            return refuse(
                "limits.memory_in_flight_bytes_max is less than limits.frame_bytes_max, so that \
                 the largest frame could never be read; raise the first or lower the second"
                    .to_owned(),
            );
        }
        crate::logging::check(&self.log).map_err(|error| SettingsError::Contradiction {
            message: error.to_string(),
        })?;
        check_all(&self.topic).map_err(|error| SettingsError::Contradiction {
            message: format!("in [topic]: {error}"),
        })
    }

    /// What is in force on a topic that says nothing itself.
    #[must_use]
    pub fn topic_defaults(&self) -> TopicConfig {
        let built_in = TopicConfig {
            flush: self.flush,
            ..TopicConfig::default()
        };
        TopicConfig::resolve(&built_in, &self.topic)
    }

    /// Where the value of a key came from.
    #[must_use]
    pub fn source(&self, key: &str) -> &Source {
        self.sources.get(key).unwrap_or(&Source::Default)
    }

    /// Valid TOML of what is in force, with a comment per value that says where it came from.
    #[must_use]
    pub fn render_effective(&self) -> String {
        effective::render(self)
    }

    fn write(
        &mut self,
        setting: &Setting,
        texts: &[String],
        source: &Source,
    ) -> Result<(), SettingsError> {
        (setting.write)(self, texts).map_err(|accepts| SettingsError::Invalid {
            key: setting.key.to_owned(),
            value: texts.join(","),
            origin: source.clone(),
            accepts,
        })
    }

    fn write_topic(
        &mut self,
        key: &str,
        texts: &[String],
        source: &Source,
    ) -> Result<(), SettingsError> {
        let invalid = |accepts: String| SettingsError::Invalid {
            key: format!("topic.{key}"),
            value: texts.join(","),
            origin: source.clone(),
            accepts,
        };
        let [text] = texts else {
            return Err(invalid("give one value".to_owned()));
        };
        if key == "flush" {
            return Err(invalid("set `flush`, outside of [topic]".to_owned()));
        }
        strandline_core::topic_config::check(key, text).map_err(|error| match error {
            TopicConfigError::InvalidValue { allowed, .. } => invalid(allowed),
            TopicConfigError::UnknownKey { nearest, .. } => SettingsError::UnknownKey {
                key: format!("topic.{key}"),
                origin: source.clone(),
                nearest: nearest.map(|key| format!("topic.{key}")),
            },
        })?;
        self.topic.insert(key.to_owned(), text.clone());
        Ok(())
    }

    /// Every field at nothing; the defaults of the table go over it.
    fn blank() -> Self {
        Self {
            data: Vec::new(),
            listen: Address::default(),
            http: None,
            advertise: None,
            join: Vec::new(),
            flush: FlushMode::Ack,
            node_id: BrokerId(0),
            rack: None,
            log: String::new(),
            worker_threads: None,
            default_partitions: 0,
            shutdown_timeout: Duration::ZERO,
            limits: Limits {
                connections_max: 0,
                frame_bytes_max: 0,
                memory_in_flight_bytes_max: 0,
                requests_in_flight_max: 0,
                idle_timeout: Duration::ZERO,
                write_timeout: Duration::ZERO,
            },
            storage: Storage {
                backend: Backend::Mapped,
                retention_interval: Duration::ZERO,
                checkpoint_interval: Duration::ZERO,
            },
            replication: ReplicationSettings {
                lag_max: Duration::ZERO,
            },
            topic: BTreeMap::new(),
            sources: BTreeMap::new(),
        }
    }
}
