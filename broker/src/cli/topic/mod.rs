//! `strandline topic`: create, list, describe, delete, alter, trim; leaders and replicas.

mod change;
mod elect;
pub(super) mod progress;
pub(in crate::cli) mod reassign;
mod show;

use clap::{Args, Subcommand};
use strandline_protocol::limits::PARTITIONS_PER_TOPIC_MAX;

use super::{
    connection::ConnectionArguments,
    error::CommandError,
    output::OutputArguments,
    position::Bound,
    values::{Pair, topic_name},
};

/// The most partitions of a topic, as clap wants bounds.
#[expect(
    clippy::as_conversions,
    reason = "a constant cannot be converted otherwise"
)]
const PARTITIONS_MAX: i64 = PARTITIONS_PER_TOPIC_MAX as i64;

/// Create, list, describe, delete, alter and trim topics; move their leaders and replicas.
#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = false)]
pub enum TopicCommand {
    Create(CreateArguments),
    List(ListArguments),
    Describe(DescribeArguments),
    Delete(DeleteArguments),
    Alter(AlterArguments),
    Trim(TrimArguments),
    ElectPreferred(elect::ElectArguments),
    Reassign(reassign::ReassignArguments),
}

/// Create a topic.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strandline topic create logs
  strandline topic create orders --partitions 8 --config retention.ms=86400000
  strandline topic create payments --replication-factor 3 --config min.insync.replicas=2

How many replicas must be in sync for acks=all is `min.insync.replicas`; more than half of them
unless it is set. docs/guarantees.md tells what that means for records.")]
pub struct CreateArguments {
    /// Its name: letters, digits, '.', '_' and '-', at most 249 of them.
    #[arg(value_name = "NAME", value_parser = topic_name)]
    pub name: String,
    /// How many partitions; the broker's default is 1.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(1..=PARTITIONS_MAX))]
    pub partitions: Option<i32>,
    /// How many brokers keep each partition, in different racks where there are any; three, or as
    /// many as there are if they are fewer.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i16).range(1..))]
    pub replication_factor: Option<i16>,
    /// A setting that differs from the default, such as retention.ms=86400000; may be repeated.
    #[arg(long, value_name = "K=V")]
    pub config: Vec<Pair>,
}

/// List the topics.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  strandline topic list\n  strandline topic list --output json")]
pub struct ListArguments {
    #[command(flatten)]
    pub output: OutputArguments,
}

/// Show a topic: its partitions with their offsets, its replicas, and its configuration.
///
/// LEADER takes writes, under its EPOCH. REPLICAS are the brokers that keep the partition, the
/// preferred leader first; IN SYNC are those that have all that was acknowledged by all, ELIGIBLE
/// those that are not in sync and may lead all the same once nobody is. ADDING and REMOVING are
/// replicas on their way. The second table tells how far each replica is, as its leader knows: LAG
/// is how many records it lacks, BEHIND how long ago it had all; `-` is what nobody knows.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strandline topic describe orders
  strandline topic describe orders --output json")]
pub struct DescribeArguments {
    /// Which topic.
    #[arg(value_name = "NAME", value_parser = topic_name)]
    pub name: String,
    #[command(flatten)]
    pub output: OutputArguments,
}

/// Delete a topic and every record in it. There is no way back.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strandline topic delete orders")]
pub struct DeleteArguments {
    /// Which topic.
    #[arg(value_name = "NAME", value_parser = topic_name)]
    pub name: String,
}

/// Change the configuration of a topic while it is in use, or add partitions.
///
/// All settings change together or none does. With more partitions, keys map to other partitions
/// than before.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strandline topic alter orders --config retention.bytes=1000000000
  strandline topic alter orders --delete-config retention.ms --partitions 16")]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub struct AlterArguments {
    /// Which topic.
    #[arg(value_name = "NAME", value_parser = topic_name)]
    pub name: String,
    /// A setting to change; may be repeated.
    #[arg(long, value_name = "K=V", group = "change")]
    pub config: Vec<Pair>,
    /// A setting that goes back to its default; may be repeated.
    #[arg(long, value_name = "K", group = "change")]
    pub delete_config: Vec<String>,
    /// How many partitions the topic shall have in all; more than it has.
    #[arg(
        long,
        value_name = "N",
        group = "change",
        allow_negative_numbers = true
    )]
    #[arg(value_parser = clap::value_parser!(i32).range(1..=PARTITIONS_MAX))]
    pub partitions: Option<i32>,
}

/// Delete the records of a topic before an offset or a time. There is no way back.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strandline topic trim orders --before 2026-11-01T00:00:00Z
  strandline topic trim orders --before 125000 --partition 3")]
pub struct TrimArguments {
    /// Which topic.
    #[arg(value_name = "NAME", value_parser = topic_name)]
    pub name: String,
    /// The first offset to keep, or the time of the first record to keep.
    #[arg(long, value_name = "OFFSET|RFC3339", allow_negative_numbers = true)]
    pub before: Bound,
    /// Only this partition; all of them otherwise.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
}

impl TopicCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What the broker refused, and why.
    pub async fn run(self, connection: &ConnectionArguments) -> Result<(), CommandError> {
        // What is wrong in itself is told without asking a broker.
        match self {
            Self::Create(create) => {
                let new = change::new_topic(create)?;
                change::create(&connection.connect().await?.admin(), new).await
            }
            Self::Alter(alter) => {
                let changes = change::changes(&alter)?;
                let client = connection.connect().await?;
                change::alter(&client.admin(), &alter, changes).await
            }
            Self::Delete(delete) => {
                change::delete(&connection.connect().await?.admin(), &delete).await
            }
            Self::Trim(trim) => change::trim(&connection.connect().await?, &trim).await,
            Self::List(list) => {
                show::list(&connection.connect().await?.admin(), list.output.output).await
            }
            Self::ElectPreferred(elect) => elect.run(connection).await,
            Self::Reassign(reassign) => reassign.run(connection).await,
            Self::Describe(topic) => {
                let client = connection.connect().await?;
                show::describe(&client, &topic.name, topic.output.output).await
            }
        }
    }
}
