//! `strandline log repair`: takes out what is damaged, and keeps it.

use std::path::Path;

use serde::Serialize;
use strandline_storage::{
    fs::{CacheLimits, FileSystem, mapped::MappedFileSystem},
    log::inspect::plan_repair,
};

use super::{files, lock, partitions, storage_error};
use crate::cli::{
    error::CommandError,
    output::{OutputFormat, print_json, print_text},
};

/// A segment with several damages needs a plan for each; more than this is a disk to give up on.
const PLANS_MAX: usize = 1_000;

/// Whether something is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// Only shown.
    Show,
    /// Done.
    Do,
}

#[derive(Debug, Serialize)]
struct ShownStep {
    partition: String,
    step: String,
    done: bool,
}

/// Plans the repair of every partition of `directory`, and does it if it shall be done.
///
/// # Errors
/// If the files cannot be read or changed; steps that were done before stay done.
pub fn run(
    directory: &Path,
    execution: Execution,
    format: OutputFormat,
) -> Result<(), CommandError> {
    let files = match execution {
        Execution::Show => files(),
        Execution::Do => MappedFileSystem::new(CacheLimits::of_process()),
    };
    let mut steps = Vec::new();
    for partition in partitions(&files, directory)? {
        let _lock = lock(&files, &partition)?;
        repair(&files, &partition, execution, &mut steps)?;
    }
    match format {
        OutputFormat::Json => print_json(&steps)?,
        OutputFormat::Table => steps.iter().try_for_each(|step| {
            let done = if step.done { "done" } else { "would" };
            print_text(&format!("{done}: {}\n", step.step))
        })?,
    }
    match (steps.len(), execution) {
        (0, _) => eprintln!("nothing to repair"),
        (count, Execution::Do) => eprintln!("{count} steps done"),
        (count, Execution::Show) => {
            eprintln!("{count} steps; nothing was changed, run it with --execute to do them");
        }
    }
    Ok(())
}

fn repair(
    files: &dyn FileSystem,
    partition: &Path,
    execution: Execution,
    steps: &mut Vec<ShownStep>,
) -> Result<(), CommandError> {
    for _ in 0..PLANS_MAX {
        let plan = plan_repair(files, partition).map_err(|error| storage_error(&error))?;
        for step in &plan {
            if execution == Execution::Do {
                step.execute(files).map_err(|error| storage_error(&error))?;
            }
            steps.push(ShownStep {
                partition: partition.display().to_string(),
                step: step.to_string(),
                done: execution == Execution::Do,
            });
        }
        if plan.is_empty() || execution == Execution::Show {
            return Ok(());
        }
    }
    let message = format!(
        "{} is still not whole after {PLANS_MAX} plans",
        partition.display()
    );
    Err(CommandError::failure(message).hint("restore it from another replica"))
}
