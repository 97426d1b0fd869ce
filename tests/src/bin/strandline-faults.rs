//! `cargo run -p strandline-tests --bin strandline-faults`, as root: disks that fail, are slow or
//! full under a real broker; one line for each scenario.

use std::process::ExitCode;

use anyhow::Context as _;
use strandline_tests::{
    faults::{Row, SCENARIOS, Scenario, play},
    mounts::check_mounts,
    strace::check_strace,
};

const USAGE: &str = "usage: strandline-faults [SCENARIO...]";

fn main() -> ExitCode {
    let outcome = chosen().and_then(|chosen| {
        check_mounts()?;
        check_strace()?;
        let runtime = tokio::runtime::Runtime::new().context("no runtime")?;
        runtime.block_on(report(&chosen))
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn chosen() -> anyhow::Result<Vec<&'static Scenario>> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let known = |name: &String| SCENARIOS.iter().any(|scenario| scenario.name == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        let all: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        let all = all.join(", ");
        anyhow::bail!("{unknown} is no scenario; there are {all}; {USAGE}");
    }
    let wanted =
        |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| scenario.name == name);
    Ok(SCENARIOS.iter().filter(wanted).collect())
}

async fn report(chosen: &[&Scenario]) -> anyhow::Result<ExitCode> {
    println!("{}", Row::HEAD);
    let mut failed = 0;
    for scenario in chosen {
        let row = play(scenario)
            .await
            .with_context(|| format!("scenario {} cannot be played", scenario.name))?;
        println!("{row}");
        for violation in row.violations.iter().take(20) {
            println!("    VIOLATION {violation}");
        }
        failed += usize::from(!row.violations.is_empty());
    }
    println!("{} scenarios, {failed} failed", chosen.len());
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
