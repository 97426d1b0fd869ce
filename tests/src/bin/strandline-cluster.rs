//! `cargo run --release -p strandline-tests --bin strandline-cluster -- controllers --rounds 100`:
//! real brokers that form a cluster, and what they must stand.

#![allow(clippy::expect_used)]

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use strandline_tests::cluster::{
    controllers::{self, percentile},
    members,
};

/// Real brokers that form a cluster on this machine, and what they must stand.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Kills one controller after the other. Metadata changes must resume within 2.5 s at the 99th
    /// percentile and none that was acknowledged may be lost; on the other brokers no record may
    /// fail, and their p99 stays under twice that of the time before.
    Controllers(controllers::Campaign),
    /// Grows from one broker to three, wipes a disk, lets a stranger try, and shrinks back to one.
    Members,
}

/// Within which changes of the metadata resume, at the 99th percentile.
const RESUME_MAX: Duration = Duration::from_millis(2_500);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new().context("no runtime");
    match runtime.and_then(|runtime| runtime.block_on(report(arguments.what))) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn report(what: What) -> anyhow::Result<ExitCode> {
    let directory = tempfile::tempdir().context("no temporary directory")?;
    let violations = match what {
        What::Controllers(campaign) => kill_controllers(directory.path(), campaign).await?,
        What::Members => change_members(directory.path()).await?,
    };
    for violation in violations.iter().take(20) {
        println!("VIOLATION {violation}");
    }
    println!("{} violations", violations.len());
    if violations.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("the data stays in {}", directory.keep().display());
    Ok(ExitCode::FAILURE)
}

async fn kill_controllers(
    directory: &std::path::Path,
    campaign: controllers::Campaign,
) -> anyhow::Result<Vec<String>> {
    let shown = std::io::stderr().is_terminal();
    let findings = controllers::run(directory, campaign, |round, resumed| {
        if shown {
            eprint!(
                "\rround {round} of {}, changes resumed after {} ms ",
                campaign.rounds,
                resumed.as_millis()
            );
        }
    })
    .await?;
    let row = |name: &str, sorted: &[Duration], unit: f64, what: &str| {
        let at = |percent| percentile(sorted, percent).as_secs_f64() * unit;
        println!(
            "{name:<40} {:>8} {:>9.1} {:>9.1} {:>9.1} {what}",
            sorted.len(),
            at(50),
            at(99),
            at(100)
        );
    };
    println!(
        "{:<40} {:>8} {:>9} {:>9} {:>9}",
        "", "count", "p50", "p99", "longest"
    );
    row("metadata changes resume", &findings.resumed, 1e3, "ms");
    row("acknowledged before", &findings.before, 1e3, "ms");
    row(
        "acknowledged behind a kill, elsewhere",
        &findings.behind,
        1e3,
        "ms",
    );
    let (acknowledged, unknown, refused) = findings.records;
    println!(
        "{} metadata changes and {acknowledged} records acknowledged; {unknown} records of unknown \
         outcome, {refused} refused",
        findings.changes
    );
    let mut violations = findings.violations;
    let resumed = percentile(&findings.resumed, 99);
    if resumed > RESUME_MAX {
        violations.push(format!("metadata changes resume after {resumed:?} at p99"));
    }
    let (before, behind) = (
        percentile(&findings.before, 99),
        percentile(&findings.behind, 99),
    );
    if behind > 2 * before {
        violations.push(format!(
            "records take {behind:?} at p99 behind a kill, and {before:?} before"
        ));
    }
    if findings.changes == 0 || findings.behind.is_empty() {
        violations.push("nothing happened that could have been lost".to_owned());
    }
    Ok(violations)
}

async fn change_members(directory: &std::path::Path) -> anyhow::Result<Vec<String>> {
    let findings = members::run(directory).await?;
    for (step, took) in &findings.steps {
        println!("{:>8.1} s  {step}", took.as_secs_f64());
    }
    println!("the stranger was told: {}", findings.refusal);
    let (acknowledged, unknown, refused) = findings.records;
    println!(
        "{acknowledged} records acknowledged, {unknown} of unknown outcome, {refused} refused; {} \
         found",
        findings.found
    );
    Ok(findings.violations)
}
