//! `cargo run -p strandline-tests --bin strandline-crash -- --rounds 100`: kills a broker under
//! load, again and again, and says whether anything acknowledged was lost.

#![allow(clippy::expect_used)]

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use strandline_tests::{
    BrokerSetup,
    crash::{Campaign, run},
};

/// Kills a broker under load, again and again, and says whether anything acknowledged was lost.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    campaign: Campaign,
}

fn main() -> ExitCode {
    let campaign = Arguments::parse().campaign;
    let runtime = tokio::runtime::Runtime::new().context("no runtime");
    match runtime.and_then(|runtime| runtime.block_on(report(&campaign))) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn report(campaign: &Campaign) -> anyhow::Result<ExitCode> {
    println!("SEED={}", campaign.seed);
    let directory = tempfile::tempdir().context("no temporary directory")?;
    let setup = BrokerSetup::on(directory.path());
    let shown = std::io::stderr().is_terminal();
    let findings = run(&setup, campaign, |round, ready| {
        if shown {
            eprint!(
                "\rround {round} of {}, ready after {} ms ",
                campaign.rounds,
                ready.as_millis()
            );
        }
    })
    .await?;
    let (acknowledged, unknown, refused) = findings.records;
    let at = |part: usize| {
        let index = (findings.ready_after.len().saturating_sub(1)) * part / 100;
        findings
            .ready_after
            .get(index)
            .copied()
            .unwrap_or(Duration::ZERO)
            .as_millis()
    };
    println!(
        "{} kills: {acknowledged} records acknowledged, {unknown} of unknown outcome, {refused} \
         refused; {} found",
        campaign.rounds, findings.found
    );
    println!(
        "restart to ready: median {} ms, longest {} ms",
        at(50),
        at(100)
    );
    for violation in findings.violations.iter().take(20) {
        println!("VIOLATION {violation}");
    }
    println!("{} violations", findings.violations.len());
    let clean = findings.violations.is_empty() && acknowledged > 0;
    if !clean {
        println!("the data stays in {}", directory.keep().display());
    }
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
