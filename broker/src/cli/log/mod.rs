//! `strandline log`: looks into the files of a broker that is stopped.

mod dump;
mod repair;
mod verify;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use strandline_storage::{
    StorageError,
    fs::{CacheLimits, Entry, FileSystem, Lock, mapped::MappedFileSystem},
    log::inspect,
};

use super::{error::CommandError, output::OutputArguments};
use repair::Execution;

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

/// Take what is damaged out of a log. Shows what it would do unless --execute is given.
///
/// Good batches stay, with their offsets. What is taken out is kept beside the log in files whose
/// names end in .removed.
///
/// For what no other broker has: a broker that is started fetches damaged batches again from the
/// other replicas of the partition, also what was taken out. What nobody has stays missing, in the
/// replicas that are added later, too.
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
        match self {
            Self::Dump(dump) => dump::run(&dump.paths, dump.output.output),
            Self::Verify(verify) => verify::run(&verify.directory, verify.output.output),
            Self::Repair(repair) => {
                let execution = if repair.execute {
                    Execution::Do
                } else {
                    Execution::Show
                };
                repair::run(&repair.directory, execution, repair.output.output)
            }
        }
    }
}

/// The files of this machine, to look at: that needs no right to write to them.
fn files() -> MappedFileSystem {
    MappedFileSystem::for_reading(CacheLimits::of_process())
}

/// The directories of partitions that `directory` stands for: itself, or those in it.
fn partitions(files: &dyn FileSystem, directory: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let entries = list(files, directory)?;
    if entries.iter().any(is_segment) {
        return Ok(vec![directory.to_path_buf()]);
    }
    let mut found = Vec::new();
    for entry in entries.iter().filter(|entry| entry.is_directory) {
        let path = directory.join(&entry.name);
        if list(files, &path)?.iter().any(is_segment) {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() {
        let message = format!("{} holds no log", directory.display());
        return Err(CommandError::failure(message)
            .hint("give a data directory, or a partition's directory in it"));
    }
    Ok(found)
}

fn is_segment(entry: &Entry) -> bool {
    !entry.is_directory && inspect::is_segment(&entry.name)
}

fn list(files: &dyn FileSystem, directory: &Path) -> Result<Vec<Entry>, CommandError> {
    check_there(directory)?;
    files
        .list(directory)
        .map_err(|error| storage_error(&error.into()))
}

/// Holds the lock of the data directory, so that no broker is at work in it meanwhile. A copy of a
/// partition elsewhere has no lock.
fn lock(files: &dyn FileSystem, partition: &Path) -> Result<Option<Box<dyn Lock>>, CommandError> {
    let partition = partition.canonicalize();
    let partition = partition.map_err(|error| CommandError::io("cannot lock", &error))?;
    let Some(data) = partition.parent().filter(|data| data.join(LOCK).exists()) else {
        return Ok(None);
    };
    match files.lock(&data.join(LOCK)) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.is_locked() => {
            let message = format!("a broker is at work in {}", data.display());
            Err(CommandError::failure(message).hint("stop it first"))
        }
        Err(error) => Err(storage_error(&error.into())),
    }
}

/// The lock file of a data directory.
const LOCK: &str = ".lock";

fn check_there(path: &Path) -> Result<(), CommandError> {
    match path.metadata() {
        Ok(_) => Ok(()),
        Err(error) => Err(CommandError::io(path.display(), &error).hint("check the path")),
    }
}

/// What storage says, with its remedy as the hint.
fn storage_error(error: &StorageError) -> CommandError {
    CommandError::failure_with_remedy(&error.to_string())
}
