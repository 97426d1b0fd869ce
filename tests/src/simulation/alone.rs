//! One seed in a process of its own: what it tells, whatever becomes of it.

use std::{
    collections::BTreeMap,
    fs,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, OnceLock},
};

use anyhow::Context as _;

use super::{
    Findings, Plan,
    cluster::{self, ClusterPlan},
    run_into,
    trace::Trace,
};
use crate::sweep::{Alone, Outcome, PlanName};

/// Runs one seed, tells its story if that is wanted, and writes down what came of it. A panic is a
/// violation like any other.
///
/// # Errors
/// If the outcome cannot be written.
pub fn run_alone(alone: &Alone) -> anyhow::Result<()> {
    if let Some(mutant) = &alone.mutant {
        plant(mutant)?;
    }
    let trace = Trace::default();
    let run = || match alone.plan {
        PlanName::Single => outcome_of_one(&run_into(Plan::of(alone.seed), trace.clone())),
        PlanName::Cluster => cluster::run_into(ClusterPlan::of(alone.seed), &trace),
        PlanName::Replication => cluster::run_into(ClusterPlan::replicated(alone.seed), &trace),
    };
    // A panic in a task ends the runtime, which panics as well: the first one is the cause.
    let first: Arc<OnceLock<String>> = Arc::default();
    let heard = Arc::clone(&first);
    // One in a destructor ends the process at once: what is known by then must be told here.
    let (so_far, full) = (trace.clone(), alone.full.clone());
    panic::set_hook(Box::new(move |panic| {
        if heard.set(panic.to_string()).is_ok() {
            so_far.note("PANIC", panic);
            eprintln!("{panic}");
            let _ = fs::write(&full, so_far.text());
        }
    }));
    let mut outcome = panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        let words = first.get().map_or("without a word", String::as_str);
        Outcome {
            violations: vec![words.to_owned()],
            ..Outcome::default()
        }
    });
    outcome.trace_lines = trace.lines();
    outcome.trace_hash = trace.hash();
    if alone.story {
        print!("{}", trace.story());
    }
    if outcome.violations.is_empty() {
        let _ = fs::remove_file(&alone.full);
    } else {
        fs::write(&alone.full, trace.text()).context("the trace cannot be written")?;
    }
    fs::write(&alone.outcome, serde_json::to_vec(&outcome)?)
        .context("the outcome cannot be written")
}

#[cfg(strandline_mutants)]
fn plant(name: &str) -> anyhow::Result<()> {
    let mutant = strandline_core::mutants::Mutant::named(name);
    let mutant = mutant.with_context(|| format!("no mutant is {name}"))?;
    strandline_core::mutants::activate(Some(mutant));
    Ok(())
}

#[cfg(not(strandline_mutants))]
fn plant(name: &str) -> anyhow::Result<()> {
    anyhow::bail!("there are no mutants in this build, and no {name}")
}

fn outcome_of_one(findings: &Findings) -> Outcome {
    let (acknowledged, unknown, refused) = findings.records;
    let damage = &findings.damage;
    let counts = [
        ("records acknowledged", acknowledged as u64),
        ("records of unknown outcome", unknown as u64),
        ("records refused", refused as u64),
        (
            "records consumed while things went wrong",
            findings.consumed as u64,
        ),
        ("records found in the end", findings.found as u64),
        ("starts of a broker", u64::from(findings.starts)),
        ("power cuts", u64::from(damage.power_cuts)),
        (
            "power cuts within an operation",
            u64::from(damage.cuts_within_operations),
        ),
        ("kills", u64::from(damage.kills)),
        ("orderly stops", u64::from(damage.stops)),
        ("failed syncs", u64::from(damage.failed_syncs)),
        ("links cut or held", u64::from(damage.network_faults)),
        (
            "torn tails of the metadata log",
            findings.trace.told(TORN_TAIL),
        ),
    ];
    let mut violations = findings.violations.clone();
    if acknowledged == 0 {
        violations.push("nothing was acknowledged".to_owned());
    }
    Outcome {
        violations,
        lasted: findings.lasted,
        counts: named(&counts),
        ..Outcome::default()
    }
}

/// What a broker logs that found half of an entry.
const TORN_TAIL: &str = "the metadata log was recovered";

/// Counts by their names.
pub(super) fn named(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let counts = counts.iter();
    counts
        .map(|(what, count)| ((*what).to_owned(), *count))
        .collect()
}
