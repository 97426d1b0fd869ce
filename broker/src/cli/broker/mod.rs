//! `strandline broker`: drain, undrain, decommission.

mod decommission;
mod plan;

use clap::{Args, Subcommand};
use strandline_protocol::{BrokerId, messages::Duty};

use super::{
    connection::ConnectionArguments, error::CommandError, output::print_text, quantity::counted,
    values::byte_size,
};

/// Prepare brokers for maintenance, and retire them.
#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = false)]
pub enum BrokerCommand {
    Drain(DrainArguments),
    Undrain(UndrainArguments),
    Decommission(DecommissionArguments),
}

/// Take a broker's leaderships away before maintenance.
///
/// Other in-sync replicas lead what it led, new partitions are placed elsewhere, and it goes on to
/// keep and to follow its copies: clients do not notice when it stops. That holds over restarts
/// until `undrain`. What has no other replica in sync it leads still; the command says how much.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  strandline broker drain 2        then restart it, and give it back its duty:
  strandline broker undrain 2")]
pub struct DrainArguments {
    /// Which broker, by its number.
    #[arg(value_name = "ID", value_parser = clap::value_parser!(i32).range(0..))]
    pub id: i32,
}

/// Give a broker its duty back after maintenance: it leads again what prefers it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strandline broker undrain 2")]
pub struct UndrainArguments {
    /// Which broker, by its number.
    #[arg(value_name = "ID", value_parser = clap::value_parser!(i32).range(0..))]
    pub id: i32,
}

/// Retire a broker: everything that it keeps moves to others, then it is struck off.
///
/// In order: it is drained; its replicas move to other brokers, into racks that the partition is
/// not in yet where there are any, and to those that keep least; its vote in the metadata quorum
/// goes; the command asks you to stop it, waits until it is gone, and strikes it off. It works with
/// a broker that is dead for good too, as far as other replicas have what it kept.
///
/// Nothing is done if a partition could not be placed anywhere. If the command is interrupted, what
/// was begun goes on; run it again to continue.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strandline broker decommission 3
  strandline broker decommission 3 --throttle 50MB
  strandline broker decommission 3 --dry-run            show what would move, move nothing")]
pub struct DecommissionArguments {
    /// Which broker, by its number.
    #[arg(value_name = "ID", value_parser = clap::value_parser!(i32).range(0..))]
    pub id: i32,
    /// How many bytes a second each broker may fetch for replicas that are being added; 0 takes an
    /// earlier limit away.
    #[arg(long, value_name = "BYTES/s", value_parser = byte_size)]
    pub throttle: Option<usize>,
    /// Show the moves, and make none.
    #[arg(long)]
    pub dry_run: bool,
}

impl BrokerCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What was refused, and why.
    pub async fn run(self, connection: &ConnectionArguments) -> Result<(), CommandError> {
        match self {
            Self::Drain(drain) => set_duty(connection, drain.id, Duty::Drained).await,
            Self::Undrain(undrain) => set_duty(connection, undrain.id, Duty::Full).await,
            Self::Decommission(arguments) => decommission::run(connection, &arguments).await,
        }
    }
}

async fn set_duty(
    connection: &ConnectionArguments,
    id: i32,
    duty: Duty,
) -> Result<(), CommandError> {
    let admin = connection.connect().await?.admin();
    let answer = admin.drain_broker(BrokerId(id), duty).await?;
    let leads = counted(u64::from(answer.leads), "partition");
    let keeps = counted(u64::from(answer.keeps), "partition");
    let text = match (duty, answer.leads) {
        (Duty::Drained, 0) => {
            format!("broker {id} is drained: it leads nothing, and keeps {keeps}")
        }
        (Duty::Drained, _) => format!(
            "broker {id} is drained, and leads {leads} still, as nobody else is in sync there; it \
             keeps {keeps}"
        ),
        (Duty::Full, _) => {
            format!("broker {id} has its full duty: it leads {leads}, and keeps {keeps}")
        }
    };
    print_text(&(text + "\n"))
}
