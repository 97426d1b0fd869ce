//! `cargo run -p strandline-tests --bin strandline-sim -- --seeds 1..101`: the real broker and its
//! clients in a deterministic simulation, at as many seeds as wanted, on all cores. It builds the
//! simulator that it needs; `--trace` tells the story of one seed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::IsTerminal as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use strandline_tests::sweep::{Alone, Orders, Planted, Summary, simulator, sweep};

/// How often progress is told where nobody looks on.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// Runs seeds of the simulation, and says what was found.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    orders: Orders,
    #[command(subcommand)]
    role: Option<Role>,
}

/// How this program starts itself.
#[derive(Debug, Subcommand)]
enum Role {
    /// Runs one seed in this process.
    #[command(hide = true)]
    Alone(Alone),
}

fn main() -> ExitCode {
    let Arguments { orders, role } = Arguments::parse();
    let outcome = match role {
        Some(Role::Alone(alone)) => run_alone(&alone),
        None => run_many(&orders),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

fn run_many(orders: &Orders) -> anyhow::Result<ExitCode> {
    orders.seeds().map_err(anyhow::Error::msg)?;
    let simulator = simulator(Planted::by(orders))?;
    let (started, is_watched) = (Instant::now(), std::io::stderr().is_terminal());
    let (mut summary, mut told) = (Summary::new(orders.plan), started);
    sweep(&simulator, orders, |run| {
        // A long campaign tells of a failure when it happens.
        if let Some(violation) = run.outcome.violations.first() {
            println!("FAILED seed {}: {violation}", run.seed);
        }
        summary.add(run);
        if is_watched {
            eprint!("\r{} ", summary.line(started.elapsed()));
        } else if told.elapsed() > TELL_EVERY {
            told = Instant::now();
            println!("{}", summary.line(started.elapsed()));
        }
    })?;
    if is_watched {
        eprintln!();
    }
    println!("{}", summary.line(started.elapsed()));
    print!("{summary}");
    Ok(if summary.runs() > 0 && summary.failed() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(strandline_sim)]
fn run_alone(alone: &Alone) -> anyhow::Result<ExitCode> {
    strandline_tests::simulation::run_alone(alone)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(not(strandline_sim))]
fn run_alone(_alone: &Alone) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this build cannot simulate: start it without `alone`, it builds what it needs")
}
