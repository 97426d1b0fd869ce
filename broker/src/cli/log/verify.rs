//! `strandline log verify`: what is wrong with a log, and what to do about it.

use std::path::Path;

use serde::Serialize;
use strandline_storage::log::inspect::{Finding, Severity, verify};

use super::{files, lock, partitions, storage_error};
use crate::cli::{
    error::CommandError,
    output::{OutputFormat, print_json, print_text},
};

#[derive(Debug, Serialize)]
struct ShownFinding {
    severity: &'static str,
    path: String,
    position: Option<u64>,
    offset: Option<i64>,
    next_good: Option<i64>,
    what: String,
    remedy: &'static str,
}

impl From<Finding> for ShownFinding {
    fn from(finding: Finding) -> Self {
        Self {
            severity: match finding.severity {
                Severity::Note => "note",
                Severity::Hint => "hint",
                Severity::Damage => "damage",
            },
            path: finding.path.display().to_string(),
            position: finding.position,
            offset: finding.offset.map(|offset| offset.0),
            next_good: finding.next_good.map(|offset| offset.0),
            what: finding.what,
            remedy: finding.remedy,
        }
    }
}

/// Checks every partition of `directory` and prints what was found.
///
/// # Errors
/// If records cannot be read, or the files cannot be looked at.
pub fn run(directory: &Path, format: OutputFormat) -> Result<(), CommandError> {
    let files = files();
    let partitions = partitions(&files, directory)?;
    let mut findings = Vec::new();
    let mut damages = 0_usize;
    for partition in &partitions {
        let _lock = lock(&files, partition)?;
        for finding in verify(&files, partition).map_err(|error| storage_error(&error))? {
            damages += usize::from(finding.severity == Severity::Damage);
            findings.push(ShownFinding::from(finding));
        }
    }
    match format {
        OutputFormat::Json => print_json(&findings)?,
        OutputFormat::Table => findings.iter().try_for_each(print)?,
    }
    let (count, notes) = (partitions.len(), findings.len() - damages);
    let [s, damage_s, note_s] = [count, damages, notes].map(plural);
    eprintln!("{count} partition{s}: {damages} damage{damage_s}, {notes} note{note_s}");
    if damages == 0 {
        return Ok(());
    }
    let message = format!(
        "{} is damaged in {damages} place{damage_s}",
        directory.display()
    );
    let hint = format!(
        "if other brokers have replicas, just start the broker; otherwise see what can be done \
         with: strandline log repair {}",
        directory.display()
    );
    Err(CommandError::failure(message).hint(hint))
}

fn print(finding: &ShownFinding) -> Result<(), CommandError> {
    let mut place = finding.path.clone();
    if let Some(position) = finding.position {
        place.push_str(&format!(", position {position}"));
    }
    if let Some(offset) = finding.offset {
        place.push_str(&format!(", offset {offset}"));
    }
    if let Some(next) = finding.next_good {
        place.push_str(&format!(" to {next} (exclusive)"));
    }
    let (severity, what, remedy) = (finding.severity, &finding.what, finding.remedy);
    print_text(&format!("{severity}: {place}: {what}\n  {remedy}\n"))
}

const fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
