//! `cargo run --release -p strandline-tests --bin strandline-disk -- cuts --count 100000`: a broker
//! on a simulated disk that loses power, and whether anything acknowledged was lost.

#![allow(clippy::expect_used)]

use std::{
    io::IsTerminal,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use strandline_tests::disk::{
    Violation,
    cuts::{self, Cuts, Point},
    failures::{self, Failures},
    kinds::Kind,
    rot::{self, Rot},
};

const USAGE: &str = "usage: strandline-disk cuts [--count N] [--seed S] [--workload NAME] \
                     [--round R --boundary B --choice C], \
                     strandline-disk failures [--count N] [--seed S] [--workload NAME] \
                     [--operation N], or strandline-disk rot [--count N] [--seed S] [--number N]";

fn main() -> ExitCode {
    let outcome = Flags::read().and_then(|flags| match flags.command.as_str() {
        "cuts" => power_cuts(&flags),
        "failures" => failing(&flags),
        "rot" => rotting(&flags),
        other => anyhow::bail!("{other} is not known; {USAGE}"),
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[derive(Default)]
struct Flags {
    command: String,
    count: Option<u64>,
    seed: u64,
    kind: Option<Kind>,
    round: u64,
    boundary: Option<u64>,
    choice: u64,
    operation: Option<u64>,
    number: Option<u64>,
}

impl Flags {
    fn read() -> anyhow::Result<Self> {
        let mut arguments = std::env::args().skip(1);
        let mut flags = Self {
            command: arguments.next().context(USAGE)?,
            seed: 1,
            ..Self::default()
        };
        while let Some(argument) = arguments.next() {
            let value = arguments
                .next()
                .with_context(|| format!("{argument} has no value; {USAGE}"))?;
            match argument.as_str() {
                "--count" => flags.count = Some(value.parse()?),
                "--seed" => flags.seed = value.parse()?,
                "--workload" => {
                    let kind = Kind::from_name(&value);
                    flags.kind =
                        Some(kind.with_context(|| format!("no workload is called {value}"))?);
                }
                "--round" => flags.round = value.parse()?,
                "--boundary" => flags.boundary = Some(value.parse()?),
                "--choice" => flags.choice = value.parse()?,
                "--operation" => flags.operation = Some(value.parse()?),
                "--number" => flags.number = Some(value.parse()?),
                _ => anyhow::bail!("{argument} is not known; {USAGE}"),
            }
        }
        Ok(flags)
    }
}

fn power_cuts(flags: &Flags) -> anyhow::Result<ExitCode> {
    let wanted = Cuts {
        count: flags.count.unwrap_or(100_000),
        seed: flags.seed,
        kind: flags.kind,
        only: flags.boundary.map(|boundary| Point {
            round: flags.round,
            boundary,
            choice: flags.choice,
        }),
    };
    println!("SEED={}", wanted.seed);
    let mut progress = Progress::new(wanted.count, "power cuts");
    let started = Instant::now();
    let outcome = cuts::run(&wanted, |done| progress.show(done));
    let took = started.elapsed();
    report(outcome, |summary| {
        print!("{summary}");
        let cuts = summary.cuts();
        println!(
            "{cuts} power cuts in {took:.1?} ({:.0} a second)",
            rate(cuts, took)
        );
        println!("nothing acknowledged was lost, nothing was invented");
    })
}

fn failing(flags: &Flags) -> anyhow::Result<ExitCode> {
    let wanted = Failures {
        count: flags.count.unwrap_or(5_000),
        seed: flags.seed,
        kind: flags.kind,
        operation: flags.operation,
    };
    println!("SEED={}", wanted.seed);
    let mut progress = Progress::new(wanted.count, "failures");
    let started = Instant::now();
    let outcome = failures::run(&wanted, |done| progress.show(done));
    let took = started.elapsed();
    report(outcome, |summary| {
        println!(
            "{:<16}{:>12}{:>10}{:>10}{:>10}",
            "workload", "operations", "failures", "offline", "went on"
        );
        for (kind, counts) in summary {
            println!(
                "{:<16}{:>12}{:>10}{:>10}{:>10}",
                kind.name(),
                counts.operations,
                counts.failures,
                counts.offline,
                counts.went_on
            );
        }
        let failures: u64 = summary.values().map(|counts| counts.failures).sum();
        println!("{failures} failed operations in {took:.1?}: nothing acknowledged was lost");
    })
}

fn rotting(flags: &Flags) -> anyhow::Result<ExitCode> {
    let wanted = Rot {
        count: flags.count.unwrap_or(5_000),
        seed: flags.seed,
        only: flags.number,
    };
    println!("SEED={}", wanted.seed);
    let mut progress = Progress::new(wanted.count, "corruptions");
    let started = Instant::now();
    let outcome = rot::run(&wanted, |done| progress.show(done));
    let took = started.elapsed();
    report(outcome, |summary| {
        print!("{summary}");
        println!("{} corruptions in {took:.1?}", summary.corruptions());
        println!("0 bad bytes served, 0 batches lost but the damaged ones");
    })
}

fn rate(count: u64, took: Duration) -> f64 {
    #[allow(clippy::as_conversions)]
    let count = count as f64;
    count / took.as_secs_f64().max(0.001)
}

fn report<T>(outcome: Result<T, Violation>, tell: impl FnOnce(&T)) -> anyhow::Result<ExitCode> {
    match outcome {
        Ok(summary) => {
            tell(&summary);
            Ok(ExitCode::SUCCESS)
        }
        Err(violation) => {
            println!("VIOLATION {violation}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// How far it is, on a terminal.
struct Progress {
    total: u64,
    what: &'static str,
    last: Instant,
    shown: bool,
}

impl Progress {
    fn new(total: u64, what: &'static str) -> Self {
        Self {
            total,
            what,
            last: Instant::now(),
            shown: std::io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, done: u64) {
        if self.shown && self.last.elapsed() > Duration::from_millis(200) {
            self.last = Instant::now();
            eprint!("\r{done} of {} {} ", self.total, self.what);
        }
    }
}
