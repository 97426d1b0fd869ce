//! `strandline log`: looks into the files of a broker that is stopped.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{error::CommandError, output::OutputArguments};

/// Dump, verify and repair the files of a stopped broker.
#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = false)]
pub enum LogCommand {
    Dump(DumpArguments),
    Verify(VerifyArguments),
    Repair(RepairArguments),
}

/// Show what is in segment files: batches, and what is wrong with them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strandline log dump strandline-data/orders-0
  strandline log dump strandline-data/orders-0/00000000000000000000.log --output json")]
pub struct DumpArguments {
    /// Segment files, or directories of them.
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub output: OutputArguments,
}

/// Check every batch of a partition or of a whole data directory. Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strandline log verify strandline-data")]
pub struct VerifyArguments {
    /// A partition's directory, or a data directory.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    #[command(flatten)]
    pub output: OutputArguments,
}

/// Cut a damaged log at its first bad batch. Shows what it would do unless --execute is given.
///
/// What is cut off is kept beside the log under a name that says so.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strandline log repair strandline-data/orders-0
  strandline log repair strandline-data/orders-0 --execute")]
pub struct RepairArguments {
    /// A partition's directory, or a data directory.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Do it.
    #[arg(long)]
    pub execute: bool,
    #[command(flatten)]
    pub output: OutputArguments,
}

impl LogCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// If the files cannot be read, or what they hold is damaged.
    pub fn run(self) -> Result<(), CommandError> {
        Err(CommandError::failure("log tools are not there yet"))
    }
}
