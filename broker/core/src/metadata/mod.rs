//! What the cluster knows of itself: topics, partitions, brokers, producer ids.
//!
//! *Pattern: consistent core.* One log of facts, and everybody who replays it arrives at the same
//! [`Image`]. A request flows one way: [`Controller::decide`] → [`Record`]s in an [`Entry`], made
//! durable by the driver → [`Image::apply`] → [`metadata_page`] and [`changes`] for whoever asks or
//! watches.

mod answer;
mod changes;
mod configs;
mod controller;
mod entry;
mod image;
pub mod limits;
mod producer_ids;
mod record;
mod topic;

pub use answer::metadata_page;
pub use changes::changes;
pub use configs::describe_configs;
pub use controller::{Command, Controller, Decision, Defaults, Random, Reply};
pub use entry::{ENTRY_FORMAT, Entry, EntryError};
pub use image::{Broker, Contradiction, Image};
pub use producer_ids::{ProducerIdBlock, ProducerIds};
pub use record::{METADATA_VERSION, Membership, Record, Registration, Replica, Replicas, Voter};
pub use topic::{Partition, Topic};
