//! What many runs come to.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{PlanName, Run};

/// How many failures are told in full.
const FAILURES_TOLD: usize = 10;

/// How many violations of one failure are told.
const VIOLATIONS_TOLD: usize = 3;

/// The sum of many runs.
#[derive(Clone, Debug)]
pub struct Summary {
    plan: PlanName,
    runs: u64,
    lasted: Duration,
    counts: BTreeMap<String, u64>,
    failed: Vec<Run>,
}

impl Summary {
    /// Of no runs.
    #[must_use]
    pub const fn new(plan: PlanName) -> Self {
        Self {
            plan,
            runs: 0,
            lasted: Duration::ZERO,
            counts: BTreeMap::new(),
            failed: Vec::new(),
        }
    }

    /// Adds a run.
    pub fn add(&mut self, run: Run) {
        self.runs += 1;
        self.lasted += run.outcome.lasted;
        for (what, count) in &run.outcome.counts {
            *self.counts.entry(what.clone()).or_default() += count;
        }
        if !run.outcome.violations.is_empty() {
            self.failed.push(run);
        }
    }

    /// How many runs there were.
    #[must_use]
    pub const fn runs(&self) -> u64 {
        self.runs
    }

    /// How many of them failed.
    #[must_use]
    pub const fn failed(&self) -> usize {
        self.failed.len()
    }

    /// Where it stands, in one line; `took` is the time of the clock on the wall.
    #[must_use]
    pub fn line(&self, took: Duration) -> String {
        format!(
            "plan {}: {} seeds, {} failed; {:.2} simulated hours in {:.0} s",
            self.plan,
            self.runs,
            self.failed.len(),
            self.lasted.as_secs_f64() / 3600.0,
            took.as_secs_f64(),
        )
    }

    /// How to run a seed again.
    #[must_use]
    pub fn replay(&self, seed: u64) -> String {
        format!(
            "cargo run -p strandline-tests --bin strandline-sim -- --plan {} --seed {seed} --trace",
            self.plan
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (happened, never): (Vec<_>, Vec<_>) =
            self.counts.iter().partition(|(_, count)| **count > 0);
        for (what, count) in happened {
            writeln!(f, "  {count:>9} {what}")?;
        }
        if !never.is_empty() {
            let never: Vec<_> = never.into_iter().map(|(what, _)| what.as_str()).collect();
            writeln!(f, "  never: {}", never.join(", "))?;
        }
        for run in self.failed.iter().take(FAILURES_TOLD) {
            let violations = &run.outcome.violations;
            writeln!(
                f,
                "FAILED seed {}: {} violations",
                run.seed,
                violations.len()
            )?;
            for violation in violations.iter().take(VIOLATIONS_TOLD) {
                writeln!(f, "  VIOLATION {violation}")?;
            }
            writeln!(f, "  replay: {}", self.replay(run.seed))?;
            writeln!(f, "  everything that happened: {}", run.full.display())?;
        }
        if self.failed.len() > FAILURES_TOLD {
            let more = self.failed.iter().skip(FAILURES_TOLD);
            let more: Vec<_> = more.map(|run| run.seed.to_string()).collect();
            writeln!(f, "and seeds {}", more.join(", "))?;
        }
        Ok(())
    }
}
