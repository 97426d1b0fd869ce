//! `cargo run --release -p strandline-tests --bin strandline-attack -- --seconds 300 --seed 1`: an
//! attacker that is held to a fifth of a processor against a live broker, and what a normal
//! producer and a good client notice of it.

#![allow(clippy::expect_used)]

use std::process::{Command, ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use strandline_tests::attack::{
    Campaign, Findings,
    attacker::{Kind, Orders, attack},
    run,
};

/// Attacks a live broker, and says what a normal producer and a good client notice of it.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    campaign: Campaign,
    #[command(subcommand)]
    role: Option<Role>,
}

/// How this program starts itself.
#[derive(Debug, Subcommand)]
enum Role {
    /// Attacks until it is killed.
    #[command(hide = true)]
    Attacker(Orders),
}

fn main() -> ExitCode {
    let Arguments { campaign, role } = Arguments::parse();
    let outcome = match role {
        Some(Role::Attacker(orders)) => attack(orders).map(|()| ExitCode::SUCCESS),
        None => tokio::runtime::Runtime::new()
            .context("no runtime")
            .and_then(|runtime| runtime.block_on(report(&campaign))),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The command that attacks, and the other way round.
fn command(orders: &Orders) -> Command {
    let own = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(own);
    command.arg("attacker").args([
        orders.address.to_string(),
        orders.kind.to_string(),
        orders.topic.to_string(),
        orders.connections_max.to_string(),
        orders.frame_bytes_max.to_string(),
        orders.share_percent.to_string(),
        orders.seed.to_string(),
    ]);
    command
}

async fn report(campaign: &Campaign) -> anyhow::Result<ExitCode> {
    println!("SEED={}", campaign.seed);
    let directory = tempfile::tempdir().context("no temporary directory")?;
    let mut findings = run(directory.path(), campaign, command, |round| {
        println!("{round}");
    })
    .await?;
    let ratio = findings.ratio(None);
    if ratio < f64::from(campaign.keep_percent) / 100.0 {
        let violation = format!(
            "the normal producer kept {:.0} % of its rate",
            100.0 * ratio
        );
        findings.violations.push(violation);
    }
    tell(campaign, &findings);
    Ok(if findings.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn tell(campaign: &Campaign, findings: &Findings) {
    let rounds = &findings.rounds;
    let seconds: f64 = rounds.iter().map(|round| round.time.as_secs_f64()).sum();
    let share = rounds
        .iter()
        .map(|round| round.share * round.time.as_secs_f64());
    let share: f64 = share.sum::<f64>() / seconds;
    println!(
        "{seconds:.0} s of attack by {:.1} % of a processor: the normal producer kept {:.0} % of \
         its rate",
        100.0 * share,
        100.0 * findings.ratio(None)
    );
    for kind in campaign.kinds.iter().chain([&Kind::Mixed]) {
        let ratio = 100.0 * findings.ratio(Some(*kind));
        println!("  {:<17} {ratio:>3.0} %", kind.to_string());
    }
    let memory = rounds.iter().map(|round| round.seen.anonymous_bytes).max();
    let descriptors = rounds.iter().map(|round| round.seen.descriptors).max();
    let slowest = rounds.iter().map(|round| round.seen.slowest()).max();
    println!(
        "memory at most {} MiB ({} before, {} allowed), descriptors at most {} ({} allowed), \
         slowest probe {} ms",
        memory.unwrap_or_default() >> 20,
        findings.memory.0 >> 20,
        findings.memory.1 >> 20,
        descriptors.unwrap_or_default(),
        findings.descriptors_max,
        slowest.unwrap_or_default().as_millis()
    );
    for refused in &findings.refused {
        println!("{refused}");
    }
    for violation in findings.violations.iter().take(20) {
        println!("VIOLATION {violation}");
    }
    println!("{} violations", findings.violations.len());
}
