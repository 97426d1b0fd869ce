//! Disks that fail under a real broker: system calls that fail or are slow, disks that are full.
//!
//! A broker runs on two data directories, a producer writes to each partition, and a scenario does
//! something to one of the directories. Meanwhile the other one must go on; in the end the broker
//! is started again on sound disks, every partition is read from its start and held against what
//! the producers were told.

mod scenarios;
mod stage;

use std::fmt;

pub use scenarios::{SCENARIOS, Scenario};

use stage::Stage;

/// What a scenario showed.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Records that were acknowledged, of unknown outcome, refused.
    pub records: (usize, usize, usize),
    /// Records that are there in the end.
    pub found: usize,
    /// What was seen on the way.
    pub notes: Vec<String>,
    /// Everything that must never happen, and did.
    pub violations: Vec<String>,
}

impl Row {
    /// The head of a table of rows.
    pub const HEAD: &str = "scenario                  acked  unknown  refused    found  verdict";
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (acknowledged, unknown, refused) = self.records;
        let verdict = if self.violations.is_empty() {
            "ok"
        } else {
            "FAILED"
        };
        write!(
            f,
            "{:<22} {acknowledged:>8} {unknown:>8} {refused:>8} {:>8}  {verdict}: {}",
            self.name,
            self.found,
            self.notes.join("; ")
        )
    }
}

/// Plays one scenario.
///
/// # Errors
/// If the rig itself does not work; what the broker does wrong is in the row.
pub async fn play(scenario: &Scenario) -> anyhow::Result<Row> {
    let mut stage = Stage::set(scenario).await?;
    (scenario.act)(&mut stage).await?;
    stage.curtain(scenario.name).await
}
