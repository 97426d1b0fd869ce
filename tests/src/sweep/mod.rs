//! Many seeds of the simulation: one process each, on all cores.
//!
//! **Owns** the processes and what is told of them. A seed has a process of its own, as the
//! simulation promises the same trace for the same seed only there; a hang or a panic is then a
//! failure of that seed and of no other. **Never** looks into a run: it adds up what each tells.

mod processes;
mod summary;

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use processes::{Planted, Run, simulator, sweep};
pub use summary::Summary;

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanName {
    /// One broker, whose machine fails in every way.
    Single,
    /// Several brokers, their machines and the network between them.
    Cluster,
    /// The same with topics that are replicated.
    Replication,
}

impl fmt::Display for PlanName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single => "single",
            Self::Cluster => "cluster",
            Self::Replication => "replication",
        })
    }
}

/// What one run tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What must never happen, and did.
    pub violations: Vec<String>,
    /// How much simulated time has passed.
    pub lasted: Duration,
    /// How much was written down.
    pub trace_lines: usize,
    /// A hash of all of it.
    pub trace_hash: u64,
    /// How often what happened, zeros included: what never happens anywhere is not tested.
    pub counts: BTreeMap<String, u64>,
}

/// Which seeds: `A..B` without B, or `A..` for all from A on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeds {
    /// The first one.
    pub first: u64,
    /// The end, exclusive; none if something else ends the run.
    pub end: Option<u64>,
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("give A..B with A below B, or A.. with --minutes, not {text}");
        let (first, end) = text.split_once("..").ok_or_else(refused)?;
        let first = first.parse().map_err(|_| refused())?;
        let end = match end {
            "" => None,
            end => Some(end.parse().map_err(|_| refused())?),
        };
        if end.is_some_and(|end| end <= first) {
            return Err(refused());
        }
        Ok(Self { first, end })
    }
}

/// What `strandline-sim` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Orders {
    /// What is simulated.
    #[arg(long, value_enum, default_value_t = PlanName::Single)]
    pub plan: PlanName,
    /// Which seeds, as A..B (without B), or A.. together with --minutes.
    #[arg(long, value_name = "A..B", default_value = "1..9")]
    pub seeds: Seeds,
    /// One seed.
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    pub seed: Option<u64>,
    /// Begins no new seed after so many minutes.
    #[arg(long, value_name = "M")]
    pub minutes: Option<u64>,
    /// How many run at once; one per processor if it is not given.
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Runs every seed twice, and fails if the traces differ.
    #[arg(long)]
    pub twice: bool,
    /// Tells the story of one seed.
    #[arg(long, requires = "seed")]
    pub trace: bool,
    /// Plants this bug, which has to be found then: see `strandline-mutants`.
    #[arg(long, value_name = "NAME")]
    pub mutant: Option<String>,
    /// Begins no new seed once one has failed.
    #[arg(long)]
    pub until_found: bool,
}

impl Orders {
    /// The seeds that are meant.
    ///
    /// # Errors
    /// If they would never end.
    pub fn seeds(&self) -> Result<Seeds, String> {
        let seeds = match self.seed {
            Some(seed) => Seeds {
                first: seed,
                end: seed.checked_add(1),
            },
            None => self.seeds,
        };
        if seeds.end.is_none() && self.minutes.is_none() {
            return Err("A.. has no end: add --minutes, or give A..B".to_owned());
        }
        Ok(seeds)
    }
}

/// What a process of one seed is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Alone {
    /// What is simulated.
    #[arg(long, value_enum)]
    pub plan: PlanName,
    /// The seed.
    #[arg(long)]
    pub seed: u64,
    /// Where the outcome is written.
    #[arg(long)]
    pub outcome: PathBuf,
    /// Where everything that happened is written, if something is wrong.
    #[arg(long)]
    pub full: PathBuf,
    /// Tells the story on standard output.
    #[arg(long)]
    pub story: bool,
    /// The bug that is planted.
    #[arg(long)]
    pub mutant: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_read() {
        let seeds = |first, end| Ok(Seeds { first, end });
        assert_eq!("3..9".parse(), seeds(3, Some(9)));
        assert_eq!("3..".parse(), seeds(3, None));
        for wrong in ["", "3", "9..3", "3..3", "..4", "a..b", "3..9..12"] {
            let refused = wrong.parse::<Seeds>().unwrap_err();
            assert!(refused.contains("A..B"), "{refused}");
        }
    }
}
