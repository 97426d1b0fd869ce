//! `strandline produce`: one record a line, byte for byte.

use std::path::PathBuf;

use clap::Args;

use super::{
    connection::ConnectionArguments,
    error::CommandError,
    values::{AcksFlag, CompressionFlag, Pair, separator, topic_name},
};

const EXAMPLES: &str = "\
Examples:
  strandline produce logs --file app.log
  tail -f app.log | strandline produce logs
  echo 'user-7:signed in' | strandline produce events --key-separator : --header source=web

Any bytes but the newline pass as they are. An empty line is an empty record, a last line without a
newline counts. A line may be as long as the topic's max.message.bytes less the batch's overhead.";

/// Send lines of a file or of standard input to a topic, one record a line.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ProduceArguments {
    /// Which topic.
    #[arg(value_name = "TOPIC", value_parser = topic_name)]
    pub topic: String,
    /// Where the lines are; standard input otherwise.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// What ends the key at the start of a line; a line without it is a record without a key.
    #[arg(long, value_name = "S", value_parser = separator)]
    pub key_separator: Option<String>,
    /// A header that every record gets; may be repeated.
    #[arg(long, value_name = "K=V")]
    pub header: Vec<Pair>,
    /// Only to this partition; otherwise by key, or in turns.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// How many replicas must have a record before it counts as sent.
    #[arg(long, value_name = "0|1|all", value_enum, default_value = "all")]
    pub acks: AcksFlag,
    /// How batches are compressed; as the topic advises otherwise.
    #[arg(long, value_name = "C", value_enum)]
    pub compression: Option<CompressionFlag>,
}

impl ProduceArguments {
    /// Runs the command.
    ///
    /// # Errors
    /// If the source cannot be read, a line is too long, or a record was not acknowledged.
    pub async fn run(self, connection: &ConnectionArguments) -> Result<(), CommandError> {
        let _ = connection;
        Err(CommandError::failure("produce is not there yet"))
    }
}
