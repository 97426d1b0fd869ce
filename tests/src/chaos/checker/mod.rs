//! Holds a history against what a log broker promises. Reads the history and nothing else: it knows
//! neither client nor broker, and has no clock.
//!
//! | check | broken if |
//! |---|---|
//! | H1 lost | an acknowledged record is not at its offset on a disk in the end |
//! | H3 inconsistent offset | two who look at one offset see different records there |
//! | H4 duplicate | a record stands at two offsets |
//! | H5 skip | a reader, or a disk, goes from one offset to another than the next |
//! | H6 nonmonotone | a reader goes back, or a producer's records are out of their order |
//! | H9 unseen | a reader has not everything that was acknowledged, some time after the heal |
//! | H13 unexpected | a record is there that was refused, is damaged, or was never sent there |
//! | H14 divergence | the copies of a partition end at different offsets |
//! | H15 real time | a record that was sent after another was acknowledged is before it |
//! | L2 unanswered | a record is neither acknowledged nor refused nor given up |

mod partition;

use std::{
    collections::BTreeMap,
    fmt,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::Context as _;

use self::partition::Partition;
use super::event::{Event, What};

/// How many violations of a kind are told; all are counted.
const TOLD_MAX: usize = 10;

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// H1.
    Lost,
    /// H3.
    InconsistentOffset,
    /// H4.
    Duplicate,
    /// H5.
    Skip,
    /// H6.
    Nonmonotone,
    /// H9.
    Unseen,
    /// H13.
    Unexpected,
    /// H14.
    Divergence,
    /// H15.
    RealTime,
    /// L2.
    Unanswered,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "H1 lost",
            Self::InconsistentOffset => "H3 inconsistent offset",
            Self::Duplicate => "H4 duplicate",
            Self::Skip => "H5 skip",
            Self::Nonmonotone => "H6 nonmonotone",
            Self::Unseen => "H9 unseen after heal",
            Self::Unexpected => "H13 unexpected",
            Self::Divergence => "H14 copies differ",
            Self::RealTime => "H15 real time",
            Self::Unanswered => "L2 unanswered",
        })
    }
}

/// What was broken: how often, and the first cases.
#[derive(Clone, Debug, Default)]
pub struct Broken {
    /// How often.
    pub count: u64,
    /// The first cases, in words.
    pub told: Vec<String>,
}

/// Collects violations.
#[derive(Clone, Debug, Default)]
struct Violations(BTreeMap<Check, Broken>);

impl Violations {
    fn add(&mut self, check: Check, text: impl FnOnce() -> String) {
        let broken = self.0.entry(check).or_default();
        broken.count += 1;
        if broken.told.len() < TOLD_MAX {
            broken.told.push(text());
        }
    }
}

/// How much of what a history holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records that were handed to a client.
    pub sent: u64,
    /// Of these: acknowledged.
    pub acknowledged: u64,
    /// Refused.
    pub refused: u64,
    /// Of unknown outcome.
    pub unknown: u64,
    /// Records that readers were given, the same ones again included.
    pub read: u64,
    /// Records on disks.
    pub kept: u64,
    /// Copies that were told whole.
    pub copies: u64,
    /// Heals.
    pub heals: u64,
}

/// What a history is worth.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// How much was looked at.
    pub counts: Counts,
    /// What was broken.
    pub broken: BTreeMap<Check, Broken>,
}

impl Verdict {
    /// How many violations there are.
    #[must_use]
    pub fn violations(&self) -> u64 {
        self.broken.values().map(|broken| broken.count).sum()
    }

    /// How often `check` was broken.
    #[must_use]
    pub fn count(&self, check: Check) -> u64 {
        self.broken.get(&check).map_or(0, |broken| broken.count)
    }
}

/// Takes a history event by event, in the order in which it was written.
#[derive(Debug, Default)]
pub struct Checker {
    partitions: BTreeMap<i32, Partition>,
    counts: Counts,
    violations: Violations,
}

impl Checker {
    /// Takes the next event.
    pub fn take(&mut self, event: Event) {
        let counts = &mut self.counts;
        match event.what {
            What::Sent(_) => counts.sent += 1,
            What::Acknowledged(..) => counts.acknowledged += 1,
            What::Refused(_) => counts.refused += 1,
            What::Unknown(_) => counts.unknown += 1,
            What::Read { .. } => counts.read += 1,
            What::Kept { .. } => counts.kept += 1,
            What::KeptFrom { .. } => counts.copies += 1,
            What::Placed { .. } => {}
            What::Healed { bound_ms } => {
                counts.heals += 1;
                let until = event.at_us.saturating_add(bound_ms.saturating_mul(1_000));
                for partition in self.partitions.values_mut() {
                    partition.heal(until);
                }
                return;
            }
        }
        let new = || Partition::new(event.partition);
        let partition = self.partitions.entry(event.partition);
        partition
            .or_insert_with(new)
            .take(event.at_us, event.what, &mut self.violations);
    }

    /// What the whole of it is worth.
    #[must_use]
    pub fn finish(mut self) -> Verdict {
        for partition in self.partitions.values_mut() {
            partition.finish(&mut self.violations);
        }
        Verdict {
            counts: self.counts,
            broken: self.violations.0,
        }
    }
}

/// Checks the history in `file`.
///
/// # Errors
/// If it cannot be read, or a line of it is no event; a last line that was cut short is left out.
pub fn check_file(file: &Path) -> anyhow::Result<Verdict> {
    let opened = std::fs::File::open(file);
    let opened = opened.with_context(|| format!("{} cannot be read", file.display()))?;
    let mut lines = BufReader::with_capacity(1 << 20, opened);
    let mut checker = Checker::default();
    let mut line = String::new();
    let mut number = 0_u64;
    while lines.read_line(&mut line)? > 0 {
        number += 1;
        if !line.starts_with('#') && line.ends_with('\n') {
            let event = line.trim_end().parse();
            let event = event.with_context(|| format!("{}:{number}", file.display()))?;
            checker.take(event);
        }
        line.clear();
    }
    Ok(checker.finish())
}

#[cfg(test)]
mod tests;
