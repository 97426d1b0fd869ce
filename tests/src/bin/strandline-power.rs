//! `cargo run -p strandline-tests --bin strandline-power -- --rounds 50 --seed 1`, as root: cuts
//! the power of a broker's disk under load, again and again, and says whether anything
//! acknowledged was lost.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;
use strandline_tests::{
    mounts::check_mounts,
    power::{Campaign, Findings, run},
};

/// Cuts the power of a broker's disk under load, again and again, and says whether anything
/// acknowledged was lost. As root.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    campaign: Campaign,
}

fn main() -> ExitCode {
    let campaign = Arguments::parse().campaign;
    let outcome = check_mounts().and_then(|()| {
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

async fn report(campaign: &Campaign) -> anyhow::Result<ExitCode> {
    println!("SEED={}", campaign.seed);
    if campaign.flush == "ack" {
        show_that_it_can_fail(campaign).await?;
    }
    let directory = tempfile::tempdir().context("no temporary directory")?;
    let shown = std::io::stderr().is_terminal();
    let mut number = 0;
    let findings = run(directory.path(), campaign, |cut| {
        number += 1;
        if shown {
            eprint!(
                "\rcut {number} of {}, {} records there, ready after {} ms ",
                campaign.rounds,
                cut.found,
                cut.ready_after.as_millis()
            );
        } else if number % 10 == 0 {
            println!("{number} cuts, {} records there", cut.found);
        }
    })
    .await?;
    tell(campaign, &findings);
    let acknowledged = findings.cuts.last().map_or(0, |cut| cut.records.0);
    let clean = findings.violations.is_empty() && acknowledged > 0;
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One cut of a topic that does not sync before it acknowledges: if nothing is lost then, the rig
/// would not see a missing sync either.
async fn show_that_it_can_fail(campaign: &Campaign) -> anyhow::Result<()> {
    let directory = tempfile::tempdir().context("no temporary directory")?;
    let unsafe_campaign = Campaign {
        rounds: 1,
        flush: "async".to_owned(),
        ..campaign.clone()
    };
    let findings = run(directory.path(), &unsafe_campaign, |_| ()).await?;
    let lost = findings.violations.len();
    anyhow::ensure!(
        lost > 0,
        "a cut with flush=async lost nothing that was acknowledged: this rig sees no missing sync"
    );
    println!("canary: a cut with flush=async gives {lost} violations, as it must");
    Ok(())
}

fn tell(campaign: &Campaign, findings: &Findings) {
    let ((acknowledged, unknown, refused), found) = findings
        .cuts
        .last()
        .map_or(((0, 0, 0), 0), |cut| (cut.records, cut.found));
    println!(
        "{} power cuts, flush={}: {acknowledged} records acknowledged, {unknown} of unknown \
         outcome, {refused} refused; {found} found; {} topics created",
        findings.cuts.len(),
        campaign.flush,
        findings.topics,
    );
    println!(
        "{} copies discarded because the disk was written meanwhile, {} cuts not counted \
         because nothing unsynced was lost",
        findings.mixed, findings.without_loss
    );
    let mut ready: Vec<_> = findings.cuts.iter().map(|cut| cut.ready_after).collect();
    ready.sort_unstable();
    if let (Some(median), Some(longest)) = (ready.get(ready.len() / 2), ready.last()) {
        println!(
            "restart to ready: median {} ms, longest {} ms",
            median.as_millis(),
            longest.as_millis()
        );
    }
    for violation in findings.violations.iter().take(20) {
        println!("VIOLATION {violation}");
    }
    println!("{} violations", findings.violations.len());
}
