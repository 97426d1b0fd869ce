//! `cargo run -p strandline-tests --bin strandline-crash -- --rounds 100`: kills a broker under
//! load, again and again, and says whether anything acknowledged was lost.

#![allow(clippy::expect_used)]

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use anyhow::Context as _;
use strandline_tests::{
    BrokerSetup,
    crash::{Campaign, run},
};

const USAGE: &str = "usage: strandline-crash [--rounds N] [--producers N] [--partitions N] \
                     [--record-size BYTES] [--seed N]";

fn main() -> ExitCode {
    let outcome = campaign().and_then(|campaign| {
        let runtime = tokio::runtime::Runtime::new().context("no runtime")?;
        runtime.block_on(report(&campaign))
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn campaign() -> anyhow::Result<Campaign> {
    let since = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default();
    let mut campaign = Campaign {
        rounds: 10,
        producers: 4,
        partitions: 4,
        record_bytes: 200,
        seed: u64::from(since.subsec_nanos()),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{argument} has no value; {USAGE}"))?;
        match argument.as_str() {
            "--rounds" => campaign.rounds = value.parse()?,
            "--producers" => campaign.producers = value.parse()?,
            "--partitions" => campaign.partitions = value.parse()?,
            "--record-size" => campaign.record_bytes = value.parse()?,
            "--seed" => campaign.seed = value.parse()?,
            _ => anyhow::bail!("{argument} is not known; {USAGE}"),
        }
    }
    Ok(campaign)
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
