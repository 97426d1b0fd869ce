//! What the cluster knows of itself: topics, partitions, brokers, producer ids.
//!
//! *Pattern: consistent core.* One log of facts, and everybody who replays it arrives at the same
//! [`Image`]. A request flows one way: [`Controller::decide`] → [`Record`]s in an [`Entry`], made
//! durable by the driver → [`Image::apply`] → [`metadata_page`] and [`changes`] for whoever asks or
//! watches. Who keeps the log is decided in [`quorum_plan`].

mod answer;
mod changes;
mod configs;
mod controller;
mod entry;
mod image;
mod lack;
pub mod limits;
mod producer_ids;
pub mod quorum_plan;
mod record;
mod snapshot_values;
mod topic;

pub use answer::metadata_page;
pub use changes::changes;
pub use configs::describe_configs;
pub use controller::{
    Command, Controller, Decision, Defaults, Random, Reply, Stopping, due_at_heartbeat, may_stop,
};
pub use entry::{ENTRY_FORMAT, Entry, EntryError};
pub use image::{
    Broker, BrokerState, Contradiction, Image, ImageBuilder, SnapshotCounts, SnapshotError,
    SnapshotPartition, SnapshotRecord,
};
pub use lack::LackOfReplicas;
pub use producer_ids::{ProducerIdBlock, ProducerIds};
pub use record::{
    ChangedTopic, METADATA_VERSION, Membership, PartitionChange, Record, Registration, Replica,
    Replicas, Voter, incarnation,
};
pub use snapshot_values::SnapshotValueError;
pub use topic::{Partition, Topic};
