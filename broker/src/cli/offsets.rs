//! `strandline offsets`: where the partitions of a topic begin, end, or were at a time.

use clap::Args;
use strandline_protocol::ids::Timestamp;

use super::{
    connection::ConnectionArguments, error::CommandError, output::OutputArguments,
    position::parse_time, values::topic_name,
};

/// Show where each partition of a topic begins and ends, and where it was at a time.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strandline offsets orders
  strandline offsets orders --at 2026-11-23T08:00:00Z --output json")]
pub struct OffsetsArguments {
    /// Which topic.
    #[arg(value_name = "TOPIC", value_parser = topic_name)]
    pub topic: String,
    /// Also the first record of that time or later.
    #[arg(long, value_name = "RFC3339", value_parser = parse_time)]
    pub at: Option<Timestamp>,
    #[command(flatten)]
    pub output: OutputArguments,
}

impl OffsetsArguments {
    /// Runs the command.
    ///
    /// # Errors
    /// If the topic cannot be asked about.
    pub async fn run(self, connection: &ConnectionArguments) -> Result<(), CommandError> {
        let _ = connection;
        Err(CommandError::failure("offsets are not there yet"))
    }
}
