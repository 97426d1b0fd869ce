//! Operations that fail: each one once, in a workload that goes on if it may.
//!
//! A disk that fails takes the data directory offline, a full one only refuses. Either way nothing
//! that was acknowledged is lost, and a restart finds what a restart after a crash finds.

use std::collections::BTreeMap;

use strandline_storage::fs::simulated::{Failure, Fault, SimulatedDisk};

use super::{
    Violation,
    cuts::{Counts, mix, survive},
    kinds::Kind,
    machine::Machine,
    workload::{self, Run, Stop},
};

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Failures {
    /// How many failures, at least.
    pub count: u64,
    /// From where everything is drawn.
    pub seed: u64,
    /// Only this workload.
    pub kind: Option<Kind>,
    /// Only this operation.
    pub operation: Option<u64>,
}

/// What was done with one workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailureCounts {
    /// Its operations.
    pub operations: u64,
    /// Those that failed.
    pub failures: u64,
    /// How often the data directory went offline.
    pub offline: u64,
    /// How often the work went on.
    pub went_on: u64,
}

/// What was done, by workload.
pub type FailuresSummary = BTreeMap<Kind, FailureCounts>;

/// Runs workloads again and again, another operation failing each time.
///
/// # Errors
/// The first [`Violation`].
pub fn run(
    failures: &Failures,
    mut progress: impl FnMut(u64),
) -> Result<FailuresSummary, Violation> {
    let kinds: Vec<Kind> = match failures.kind {
        Some(kind) => vec![kind],
        None => Kind::ALL.to_vec(),
    };
    let share = failures.count.div_ceil(kinds.len() as u64).max(1);
    let mut summary = FailuresSummary::new();
    let mut done = 0;
    for kind in kinds {
        let counts = summary.entry(kind).or_default();
        let disk = SimulatedDisk::new(failures.seed);
        let whole = workload::run(kind, failures.seed, &disk);
        if let Some(Stop::Dead(what) | Stop::Violation(what)) = &whole.stop {
            return Err(violation(kind, failures.seed, 0, &whole, what.clone()));
        }
        counts.operations = disk.operations();
        let stride = (counts.operations * 2).div_ceil(share).max(1);
        let (first, stride) = failures
            .operation
            .map_or((0, stride), |only| (only, u64::MAX));
        let mut operation = first;
        while operation < counts.operations {
            for failure in [Failure::Broken, Failure::Full] {
                fail(kind, failures.seed, operation, failure, counts)?;
                done += 1;
            }
            progress(done);
            operation = operation.saturating_add(stride);
        }
    }
    Ok(summary)
}

fn fail(
    kind: Kind,
    seed: u64,
    operation: u64,
    failure: Failure,
    counts: &mut FailureCounts,
) -> Result<(), Violation> {
    let disk = SimulatedDisk::new(mix(seed, operation));
    disk.inject(Fault {
        operation: None,
        path_contains: String::new(),
        after: operation,
        times: 1,
        failure,
    });
    let mut run = workload::run(kind, seed, &disk);
    counts.failures += 1;
    let told = |what: String| format!("operation {operation} failed ({failure:?}): {what}");
    match &run.stop {
        None => counts.went_on += 1,
        Some(Stop::Dead(_)) => counts.offline += 1,
        Some(Stop::Violation(what)) => {
            return Err(violation(kind, seed, operation, &run, told(what.clone())));
        }
    }
    if let Some(mut machine) = run.machine.take() {
        let refused = refuses(&mut machine);
        refused.map_err(|what| violation(kind, seed, operation, &run, told(what)))?;
    }
    let draw = mix(mix(seed, operation), 1);
    // A process that starts on the same boot would believe what a failed sync has lost, as the
    // page cache still shows it: the power goes.
    let left = disk.power_cut(draw);
    left.set_capacity(None);
    survive(left, &run.expected, draw, &mut Counts::default())
        .map_err(|what| violation(kind, seed, operation, &run, told(what)))
}

/// A log that is offline refuses everything.
fn refuses(machine: &mut Machine) -> Result<(), String> {
    for (name, served) in &mut machine.served {
        if !served.log.is_offline() {
            continue;
        }
        if served.log.flush().is_ok() || served.log.flush_job().is_some() {
            return Err(format!("{name} is offline, and flushes"));
        }
        if served
            .log
            .read(served.log.start(), 1, served.log.end())
            .is_ok()
        {
            return Err(format!("{name} is offline, and serves"));
        }
    }
    Ok(())
}

fn violation(kind: Kind, seed: u64, operation: u64, run: &Run, what: String) -> Violation {
    Violation {
        what,
        story: run.journal.story(u64::MAX),
        replay: format!(
            "failures --workload {} --seed {seed} --operation {operation}",
            kind.name()
        ),
    }
}
