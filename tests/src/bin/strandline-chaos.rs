//! `cargo run -p strandline-tests --bin strandline-chaos -- run --minutes 5 --seed 1`: real
//! clusters on this machine that are hurt, and what they must stand.

#![allow(clippy::expect_used)]

use std::{
    collections::BTreeMap,
    fmt::Display,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use strandline_tests::{
    chaos::{
        checker::{Verdict, check_file},
        failover, power, rolling, rot, run, scale,
    },
    cluster::controllers::percentile,
};

/// Real clusters on this machine that are hurt, and what they must stand.
///
/// Every broker is a process of its own behind a TCP proxy of the rig, so that connections between
/// any two can be cut, delayed and reset without root. What producers are told and readers are
/// given is written into a history as it happens; in the end every copy of every partition is read
/// from the disks, and a checker that reads the history and nothing else says what was broken. A
/// run prints its seed; the same seed draws the same faults at the same times, as far as real
/// processes allow it. Exit code 0: nothing was broken; 1: something was, and the directory with
/// history and logs of the brokers stays; 2: the rig itself did not work.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where brokers keep their data and the history is written; a temporary directory if it is
    /// not given.
    #[arg(long, global = true, value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Inflicts random faults with quiet periods between them, under a load with three replicas
    /// and acks=all.
    Run(run::Campaign),
    /// Loses one leader after the other in four ways, and measures how long until acknowledged
    /// writes go on. The 99th percentiles must stay under 1 s (killed), 2.5 s (killed, the
    /// controller too) and 3 s (paused; cut off), and the history must be clean.
    Failover(failover::Campaign),
    /// Restarts every broker in order, one after the other, under a load: no record may fail, be
    /// lost or doubled, and readers go on. States the longest pause.
    Rolling(rolling::Campaign),
    /// Cuts the power of all brokers at once under a load with flush=ack, again and again:
    /// everything that was acknowledged must be there, and the cluster must take records again
    /// within 10 s by itself. As root.
    Power(power::Campaign),
    /// Damages batches on one replica of three, one after the other, while its broker runs or is
    /// down: nothing bad may be served, nothing lost, and the disk must hold again what it held.
    Rot(rot::Campaign),
    /// Ten thousand partitions over three brokers: the leaderships of one that dies must move
    /// within 2 s, and the three together must use under 5 % of a core when nothing happens.
    Scale(scale::Campaign),
    /// Checks a history that an earlier run has written.
    Check {
        /// The history: the file `history` in the directory of the run.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new().context("no runtime");
    match runtime.and_then(|runtime| runtime.block_on(report(arguments))) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn report(arguments: Arguments) -> anyhow::Result<ExitCode> {
    if let What::Check { file } = &arguments.what {
        let verdict = check_file(file)?;
        return Ok(match tell_verdict(&verdict) {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        });
    }
    let temporary = tempfile::tempdir().context("no temporary directory")?;
    let given = arguments.directory;
    let directory = given.clone().unwrap_or_else(|| temporary.path().into());
    std::fs::create_dir_all(&directory)?;
    let outcome = act(&directory, arguments.what).await;
    if given.is_none() && !matches!(outcome, Ok(true)) {
        println!("history and logs stay in {}", temporary.keep().display());
    }
    Ok(match outcome? {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

async fn act(directory: &Path, what: What) -> anyhow::Result<bool> {
    match what {
        What::Run(campaign) => inflict(directory, &campaign).await,
        What::Failover(campaign) => fail_over(directory, &campaign).await,
        What::Rolling(campaign) => roll(directory, &campaign).await,
        What::Power(campaign) => cut_power(directory, &campaign).await,
        What::Rot(campaign) => let_rot(directory, &campaign).await,
        What::Scale(campaign) => scale(directory, &campaign).await,
        What::Check { .. } => Ok(true),
    }
}

async fn fail_over(directory: &Path, campaign: &failover::Campaign) -> anyhow::Result<bool> {
    println!("SEED={}", campaign.seed);
    let (times, mut findings) = failover::measure(directory, campaign, progress).await?;
    tell_table(&times);
    for (way, times) in &times {
        let most = percentile(times, 99);
        if most > way.limit() {
            let limit = way.limit();
            let violation = format!("{way}: writes go on after {most:?} at p99, not {limit:?}");
            findings.violations.push(violation);
        }
    }
    Ok(tell_findings(&findings))
}

async fn roll(directory: &Path, campaign: &rolling::Campaign) -> anyhow::Result<bool> {
    println!("SEED={}", campaign.seed);
    let (times, findings) = rolling::run(directory, campaign, progress).await?;
    tell_times(&[
        ("acknowledged before", &times.before),
        ("acknowledged while brokers restart", &times.during),
        (
            "from the stop of a broker to its readiness",
            &times.restarts,
        ),
    ]);
    let longest = times.during.last().copied().unwrap_or_default();
    println!("the longest pause: {} ms", longest.as_millis());
    Ok(tell_findings(&findings))
}

/// Within which a cluster takes records again behind a power cut.
const UP_MAX: Duration = Duration::from_secs(10);

async fn cut_power(directory: &Path, campaign: &power::Campaign) -> anyhow::Result<bool> {
    println!("SEED={}", campaign.seed);
    let (cuts, mut findings) = power::run(directory, campaign, progress).await?;
    tell_times(&[("records again behind a cut", &cuts.up_again)]);
    let (lost, kept) = cuts.disks;
    println!("disks that lost what was not synced: {lost}; that did not: {kept}");
    if lost == 0 {
        let nothing = "no cut lost anything that was not synced: this rig proves nothing";
        findings.violations.push(nothing.to_owned());
    }
    let longest = cuts.up_again.last().copied().unwrap_or_default();
    if longest > UP_MAX {
        findings
            .violations
            .push(format!("records were taken only after {longest:?}"));
    }
    Ok(tell_findings(&findings))
}

async fn let_rot(directory: &Path, campaign: &rot::Campaign) -> anyhow::Result<bool> {
    println!("SEED={}", campaign.seed);
    let (times, findings) = rot::run(directory, campaign, progress).await?;
    println!("from the damage, or the start of its broker, until the disk was whole again:");
    tell_table(&times);
    let whole: usize = times.values().map(Vec::len).sum();
    println!("{whole} of {} cases were repaired", campaign.cases);
    Ok(tell_findings(&findings))
}

/// Within which leaderships move, and what part of a core idle brokers may use together.
const MOVE_MAX: Duration = Duration::from_secs(2);
const IDLE_MAX: f64 = 0.05;

async fn scale(directory: &Path, campaign: &scale::Campaign) -> anyhow::Result<bool> {
    println!("SEED={}", campaign.seed);
    let findings = scale::measure(directory, campaign, progress).await?;
    tell_times(&[
        ("created and in sync", &[findings.created]),
        ("leaderships of the dead moved", &findings.moved),
        ("in sync again behind its start", &findings.back),
    ]);
    let idle: f64 = findings.idle.iter().sum();
    println!("idle, the three together: {:.2} % of a core", idle * 100.0);
    let mut violations = Vec::new();
    let longest = findings.moved.last().copied().unwrap_or_default();
    if longest > MOVE_MAX {
        violations.push(format!("leaderships took {longest:?} to move"));
    }
    if idle > IDLE_MAX {
        violations.push(format!("idle brokers use {:.2} % of a core", idle * 100.0));
    }
    Ok(tell_violations(&violations) == 0)
}

fn tell_findings(findings: &run::Findings) -> bool {
    tell_counts("records that were not acknowledged", &findings.errors);
    tell_counts("readers were told", &findings.reader_errors);
    // Whatever a reader is told ends an application that has no policy for it.
    let told: u64 = findings.reader_errors.values().sum();
    println!("{told} errors were told to readers");
    let broken = tell_verdict(&findings.verdict) + tell_violations(&findings.violations) + told;
    broken == 0 && findings.verdict.counts.acknowledged > 0
}

fn progress(text: &str) {
    eprintln!("{text}");
}

async fn inflict(directory: &Path, campaign: &run::Campaign) -> anyhow::Result<bool> {
    println!("SEED={}", campaign.seed);
    let findings = run::run(directory, campaign, progress).await?;
    println!("{:<24} {:>8}", "fault", "count");
    for (kind, count) in &findings.faults {
        println!("{kind:<24} {count:>8}");
    }
    tell_times(&[("writes go on after a heal", &findings.resumed)]);
    Ok(tell_findings(&findings))
}

/// A table of times, in milliseconds.
fn tell_times(rows: &[(&str, &[Duration])]) {
    println!(
        "{:<40} {:>8} {:>9} {:>9} {:>9}",
        "in ms", "count", "p50", "p99", "longest"
    );
    for (name, sorted) in rows {
        let at = |percent| percentile(sorted, percent).as_secs_f64() * 1e3;
        let (median, most, longest) = (at(50), at(99), at(100));
        let count = sorted.len();
        println!("{name:<40} {count:>8} {median:>9.1} {most:>9.1} {longest:>9.1}");
    }
}

/// As [`tell_times`], with a row for each key.
fn tell_table<K: Display>(times: &BTreeMap<K, Vec<Duration>>) {
    let names: Vec<String> = times.keys().map(ToString::to_string).collect();
    let rows = names.iter().zip(times.values());
    let rows: Vec<(&str, &[Duration])> = rows
        .map(|(name, times)| (name.as_str(), times.as_slice()))
        .collect();
    tell_times(&rows);
}

fn tell_counts(what: &str, counts: &BTreeMap<String, u64>) {
    let mut rows: Vec<_> = counts.iter().collect();
    rows.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(**count));
    if !rows.is_empty() {
        println!("{what}:");
    }
    for (text, count) in rows.iter().take(10) {
        println!("{count:>9}  {text}");
    }
}

fn tell_violations(violations: &[impl Display]) -> u64 {
    for violation in violations.iter().take(20) {
        println!("VIOLATION {violation}");
    }
    println!("{} violations beside the history", violations.len());
    u64::try_from(violations.len()).unwrap_or(u64::MAX)
}

/// What a history holds and what is broken in it; returns how much is.
fn tell_verdict(verdict: &Verdict) -> u64 {
    let counts = &verdict.counts;
    println!("{:<24} {:>12}", "history", "count");
    for (name, count) in [
        ("records sent", counts.sent),
        ("acknowledged", counts.acknowledged),
        ("refused", counts.refused),
        ("of unknown outcome", counts.unknown),
        ("reads", counts.read),
        ("records on disks", counts.kept),
        ("copies of partitions", counts.copies),
    ] {
        println!("{name:<24} {count:>12}");
    }
    for (check, broken) in &verdict.broken {
        println!("BROKEN {check}: {} times", broken.count);
        for text in &broken.told {
            println!("  {text}");
        }
    }
    if counts.heals == 0 {
        println!("the history ends before everything was healed: what is unseen was not checked");
    }
    println!("{} violations in the history", verdict.violations());
    verdict.violations()
}
