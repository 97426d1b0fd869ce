//! `strandline cluster`: describe, health, voters, brokers that are gone.

mod change;
mod health;
mod show;
#[cfg(test)]
mod tests;

use std::time::Duration;

use clap::{Args, Subcommand};
use strandline_client::Admin;

use super::{connection::ConnectionArguments, error::CommandError, output::OutputArguments};

/// How long a look at the cluster may take: whoever looks because something is wrong wants to know
/// that, and not to wait.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// See how the cluster is, and change who belongs to it.
#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = false)]
pub enum ClusterCommand {
    Describe(DescribeArguments),
    Health(HealthArguments),
    AddVoter(AddVoterArguments),
    RemoveVoter(RemoveVoterArguments),
    RemoveBroker(RemoveBrokerArguments),
}

/// Show the cluster: its controller, the members of the metadata quorum, its brokers.
///
/// The controller answers, through whichever broker is asked. If it cannot be reached, that broker
/// answers with what it knows itself, and the first line says so; what only the controller knows is
/// shown as `-`.
///
/// LAG is how many entries of the metadata log somebody is behind, HEARD how long ago the
/// controller heard of a member. A broker is active, fenced (not heard of, or not caught up since
/// it started: it leads nothing) or stopping, and may be drained: it leads nothing that another one
/// can lead. LEASE is what is left until it would be fenced. The last line counts the partitions
/// without a leader, with fewer replicas in sync than they are to have (under-replicated), and with
/// fewer than `min.insync.replicas` (under min ISR: they take no acks=all writes).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strandline cluster describe
  strandline cluster describe --bootstrap a:9290,b:9290 --output json")]
pub struct DescribeArguments {
    #[command(flatten)]
    pub output: OutputArguments,
}

/// Tell in short whether the cluster is well, and what to do if it is not.
///
/// Ends with exit code 0 if all is well, 1 if the cluster works but something is wrong (a broker is
/// fenced, a voter is silent, partitions have no leader, lack replicas, or take no acks=all
/// writes), and 2 if it cannot be used (nobody answers, there is no controller, nothing has a
/// leader). Every finding is a line, followed by what to do.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strandline cluster health
  strandline cluster health --output json || page-somebody")]
pub struct HealthArguments {
    #[command(flatten)]
    pub output: OutputArguments,
}

/// Let brokers vote in the metadata quorum.
///
/// The quorum keeps the metadata as long as more than half of its voters live: three voters survive
/// the loss of one, five that of two. A cluster makes three brokers voters by itself. The change is
/// made in one step, and the command ends once it is committed. A broker that is gone for good is
/// replaced with `--instead-of`. A change that waits for a broker that does not come can be taken
/// back with the opposite one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strandline cluster add-voter 4,5
  strandline cluster add-voter 4 --instead-of 3")]
pub struct AddVoterArguments {
    /// Which brokers, by their numbers.
    #[arg(value_name = "ID[,ID]", value_delimiter = ',', required = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    pub ids: Vec<i32>,
    /// Which brokers lose their votes in the same step.
    #[arg(long, value_name = "ID[,ID]", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    pub instead_of: Vec<i32>,
}

/// Let brokers vote in the metadata quorum no more.
///
/// They go on to serve and to follow the metadata. The last voter stays, and the voters that are
/// left are an odd number: of three, two go at once, or one is replaced with `add-voter
/// --instead-of`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strandline cluster remove-voter 2,3")]
pub struct RemoveVoterArguments {
    /// Which brokers, by their numbers.
    #[arg(value_name = "ID[,ID]", value_delimiter = ',', required = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    pub ids: Vec<i32>,
}

/// Forget a broker that is gone for good.
///
/// Refused while it lives, votes, or keeps partitions: `strandline broker decommission` does all of
/// that in order, and this last.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strandline cluster remove-broker 3")]
pub struct RemoveBrokerArguments {
    /// Which broker, by its number.
    #[arg(value_name = "ID", value_parser = clap::value_parser!(i32).range(0..))]
    pub id: i32,
}

impl ClusterCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What was refused, and why; for `health`, that the cluster is not well.
    pub async fn run(self, connection: &ConnectionArguments) -> Result<(), CommandError> {
        match self {
            Self::Describe(describe) => {
                let cluster = look(connection).await?.describe_cluster().await?;
                show::print(&cluster, describe.output.output)
            }
            Self::Health(health) => health::run(connection, health.output.output).await,
            Self::AddVoter(add) => {
                let admin = connection.connect().await?.admin();
                change::add_voters(&admin, &add.ids, &add.instead_of).await
            }
            Self::RemoveVoter(remove) => {
                let admin = connection.connect().await?.admin();
                change::remove_voters(&admin, &remove.ids).await
            }
            Self::RemoveBroker(remove) => {
                let admin = connection.connect().await?.admin();
                change::remove_broker(&admin, remove.id).await
            }
        }
    }
}

/// A connection that gives up soon.
async fn look(connection: &ConnectionArguments) -> Result<Admin, CommandError> {
    let client = connection.connect_within(LOOK_TIMEOUT).await?;
    Ok(client.admin())
}
