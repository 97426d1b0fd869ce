//! `strandline consume`: records to standard output, byte for byte.

use clap::Args;

use super::{
    connection::ConnectionArguments, error::CommandError, position::Position, template::Template,
    values::topic_name,
};

const EXAMPLES: &str = "\
Examples:
  strandline consume logs --exit-at-end > copy.log
  strandline consume logs --from -10                       the last ten records of each partition
  strandline consume logs --from 2026-11-23T08:00:00Z --format '%T %p@%o %k: %v'

Format: %t topic, %p partition, %o offset, %T time, %h headers, %k key, %v value, %% a percent sign;
\\n \\t \\r \\0 \\\\ are escapes. A newline follows each record unless the format ends in \\n or \\0.";

/// Print the records of a topic, those that are there and those that come.
///
/// Records of one partition come in their order; partitions mix.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ConsumeArguments {
    /// Which topic.
    #[arg(value_name = "TOPIC", value_parser = topic_name)]
    pub topic: String,
    /// Where to begin: at the beginning, the end, an offset, N records before the end, or a time.
    #[arg(
        long,
        value_name = "beginning|end|OFFSET|-N|RFC3339",
        default_value = "beginning"
    )]
    #[arg(allow_hyphen_values = true)]
    pub from: Position,
    /// Only this partition; all of them otherwise.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// Stop after so many records.
    #[arg(long, value_name = "N")]
    pub max_messages: Option<u64>,
    /// Stop at what is the end when the command starts, instead of waiting for more.
    #[arg(long)]
    pub exit_at_end: bool,
    /// How to print a record.
    #[arg(long, value_name = "FORMAT", default_value = "%v")]
    pub format: Template,
}

impl ConsumeArguments {
    /// Runs the command.
    ///
    /// # Errors
    /// If the topic cannot be read or standard output cannot be written.
    pub async fn run(self, connection: &ConnectionArguments) -> Result<(), CommandError> {
        let _ = connection;
        Err(CommandError::failure("consume is not there yet"))
    }
}
