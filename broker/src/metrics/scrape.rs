//! One scrape: series that are read from live state at the moment of asking.
//!
//! What belongs to a topic, a partition or a directory is rendered from here and not from the
//! recorder, so that it costs nothing between scrapes, and a deleted topic leaves no series behind.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::Duration;

use strandline_protocol::ids::{BrokerId, LeaderEpoch, Offset, PartitionId};

use super::catalogue::{
    BROKERS, CONTROLLER_ACTIVE, CONTROLLER_EPOCH, DIRECTORY_FREE, DIRECTORY_ONLINE, LEADERLESS,
    LEASE_EXPIRIES, LEASE_HELD, LEASE_RENEWALS, MEMORY, MEMORY_LIMIT, METADATA_COMMITTED,
    METADATA_END, METADATA_LAG, Metric, PARTITION_BYTES, PARTITION_END, PARTITION_HIGH_WATERMARK,
    PARTITION_SEGMENTS, PARTITION_START, PARTITIONS, QUORUM_ROLE, QUORUM_VOTERS, REPLICA_BEHIND,
    REPLICA_LAG, REPLICAS, UNDER_MIN_ISR, UNDER_REPLICATED,
};

/// What a partition tells about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionFigures {
    /// The first offset that it still has.
    pub log_start: Offset,
    /// The offset that the next record gets.
    pub log_end: Offset,
    /// The offset up to which consumers read.
    pub high_watermark: Offset,
    /// The bytes of records in its segments.
    pub bytes: u64,
    /// How many segments it has.
    pub segments: usize,
}

/// What a leader tells about one of its followers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaFigures {
    /// The follower.
    pub follower: BrokerId,
    /// How many records it lacks; all of them if it has not been heard of.
    pub lag_records: u64,
    /// For how long it has lacked any; none if it never had everything.
    pub behind: Option<Duration>,
}

/// What a broker is for one of its replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaRole {
    /// It leads the partition.
    Leader,
    /// It follows another broker.
    Follower,
    /// Nobody leads the partition.
    Idle,
}

impl ReplicaRole {
    /// Every role, in the order of the scrape.
    pub const ALL: [Self; 3] = [Self::Leader, Self::Follower, Self::Idle];

    const fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Idle => "idle",
        }
    }
}

/// What a data directory tells about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryFigures {
    /// Whether it serves.
    pub online: bool,
    /// The bytes that the broker can still write there; none if the file system does not say.
    pub free_bytes: Option<u64>,
}

/// What a broker is in the metadata quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuorumRole {
    /// It leads the quorum: it is the active controller.
    Leader,
    /// It votes, and another one leads.
    Voter,
    /// It follows, and has no vote.
    Learner,
    /// It was not taken in yet.
    None,
}

impl QuorumRole {
    const ALL: [Self; 4] = [Self::Leader, Self::Voter, Self::Learner, Self::None];

    const fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::None => "none",
        }
    }
}

/// What a broker tells about its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterFigures {
    /// What it is itself.
    pub role: QuorumRole,
    /// The term of the controller.
    pub controller_epoch: LeaderEpoch,
    /// How many members vote.
    pub voters: usize,
    /// The end of its metadata log.
    pub log_end: Offset,
    /// The end of what is committed of that.
    pub committed: Offset,
    /// Committed entries that its partitions do not follow yet.
    pub lag: i64,
    /// Brokers that are active, fenced, stopping.
    pub brokers: [usize; 3],
    /// Partitions that nobody leads.
    pub leaderless: usize,
    /// Partitions with fewer replicas in sync than they are to have.
    pub under_replicated: usize,
    /// Partitions with fewer replicas in sync than writes need.
    pub under_min_isr: usize,
    /// Its own lease.
    pub lease: LeaseFigures,
}

/// What a broker tells about its own lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseFigures {
    /// Whether it holds.
    pub held: bool,
    /// How often it was renewed.
    pub renewals: u64,
    /// How often it was lost.
    pub expiries: u64,
}

/// Collects samples, grouped by metric as the exposition format wants them.
#[derive(Debug, Default)]
pub struct Scrape {
    families: BTreeMap<&'static str, Family>,
}

#[derive(Debug)]
struct Family {
    metric: &'static Metric,
    samples: String,
}

impl Scrape {
    /// Tells the figures of one partition.
    pub fn partition(&mut self, topic: &str, partition: PartitionId, figures: PartitionFigures) {
        let number = partition.0.to_string();
        let labels = [topic, &number];
        self.sample(&PARTITION_START, &labels, figures.log_start.0);
        self.sample(&PARTITION_END, &labels, figures.log_end.0);
        self.sample(&PARTITION_HIGH_WATERMARK, &labels, figures.high_watermark.0);
        self.sample(&PARTITION_BYTES, &labels, figures.bytes);
        self.sample(&PARTITION_SEGMENTS, &labels, figures.segments);
    }

    /// Tells how far the followers of a partition are that this broker leads.
    pub fn followers(&mut self, topic: &str, partition: PartitionId, all: &[ReplicaFigures]) {
        let number = partition.0.to_string();
        for figures in all {
            let follower = figures.follower.0.to_string();
            let labels = [topic, &number, &follower];
            self.sample(&REPLICA_LAG, &labels, figures.lag_records);
            if let Some(behind) = figures.behind {
                self.sample(&REPLICA_BEHIND, &labels, behind.as_secs_f64());
            }
        }
    }

    /// Tells how many replicas of this broker have a role.
    pub fn replicas(&mut self, role: ReplicaRole, count: usize) {
        self.sample(&REPLICAS, &[role.name()], count);
    }

    /// Tells how many partitions are in a state.
    pub fn partitions(&mut self, state: &str, count: usize) {
        self.sample(&PARTITIONS, &[state], count);
    }

    /// Tells the figures of one data directory.
    pub fn directory(&mut self, path: &str, figures: DirectoryFigures) {
        self.sample(&DIRECTORY_ONLINE, &[path], u8::from(figures.online));
        if let Some(bytes) = figures.free_bytes {
            self.sample(&DIRECTORY_FREE, &[path], bytes);
        }
    }

    /// Tells about the cluster.
    pub fn cluster(&mut self, figures: ClusterFigures) {
        let is_active = figures.role == QuorumRole::Leader;
        self.sample(&CONTROLLER_ACTIVE, &[], u8::from(is_active));
        self.sample(&CONTROLLER_EPOCH, &[], figures.controller_epoch.0);
        for role in QuorumRole::ALL {
            self.sample(&QUORUM_ROLE, &[role.name()], u8::from(role == figures.role));
        }
        self.sample(&QUORUM_VOTERS, &[], figures.voters);
        self.sample(&METADATA_END, &[], figures.log_end.0);
        self.sample(&METADATA_COMMITTED, &[], figures.committed.0);
        self.sample(&METADATA_LAG, &[], figures.lag);
        for (state, count) in ["active", "fenced", "stopping"]
            .into_iter()
            .zip(figures.brokers)
        {
            self.sample(&BROKERS, &[state], count);
        }
        self.sample(&LEADERLESS, &[], figures.leaderless);
        self.sample(&UNDER_REPLICATED, &[], figures.under_replicated);
        self.sample(&UNDER_MIN_ISR, &[], figures.under_min_isr);
        self.sample(&LEASE_HELD, &[], u8::from(figures.lease.held));
        self.sample(&LEASE_RENEWALS, &[], figures.lease.renewals);
        self.sample(&LEASE_EXPIRIES, &[], figures.lease.expiries);
    }

    /// Tells how much of the memory for requests on their way is reserved.
    pub fn memory(&mut self, reserved_bytes: u64, limit_bytes: u64) {
        self.sample(&MEMORY, &[], reserved_bytes);
        self.sample(&MEMORY_LIMIT, &[], limit_bytes);
    }

    /// Adds one sample; `labels` are the values of the metric's labels, in their order.
    pub(super) fn sample(&mut self, metric: &'static Metric, labels: &[&str], value: impl Display) {
        assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        let family = self.families.entry(metric.name).or_insert(Family {
            metric,
            samples: String::new(),
        });
        let text = &mut family.samples;
        text.push_str(metric.name);
        for (index, (label, value)) in metric.labels.iter().zip(labels).enumerate() {
            text.push(if index == 0 { '{' } else { ',' });
            text.push_str(label);
            text.push_str("=\"");
            push_escaped(text, value);
            text.push('"');
        }
        if !labels.is_empty() {
            text.push('}');
        }
        // Writing into a string cannot fail.
        let _ = writeln!(text, " {value}");
    }

    /// Appends everything in the text exposition format.
    pub(super) fn render_into(&self, text: &mut String) {
        for family in self.families.values() {
            let Metric {
                name, kind, help, ..
            } = family.metric;
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", kind.name());
            text.push_str(&family.samples);
            text.push('\n');
        }
    }
}

fn push_escaped(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped_and_families_are_grouped() {
        let mut scrape = Scrape::default();
        let figures = DirectoryFigures {
            online: true,
            free_bytes: Some(5),
        };
        scrape.directory("/a\"\\\n", figures);
        scrape.directory("/b", figures);
        let mut text = String::new();
        scrape.render_into(&mut text);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[2],
            r#"strandline_directory_free_bytes{directory="/a\"\\\n"} 5"#
        );
        assert_eq!(
            lines[3],
            r#"strandline_directory_free_bytes{directory="/b"} 5"#
        );
        assert_eq!(text.matches("# TYPE").count(), 2);
    }
}
