//! What a disk may do to a broker, on the simulated disk: power cuts at every operation boundary,
//! operations that fail, full disks, rot.
//!
//! **Owns** a broker without network (`machine`), the workloads that it is driven by (`kinds`,
//! `workload`, `changes`), what is known of each disk (`model`), and what must hold on it
//! (`check`). `cuts` is where the power goes, `failures` where operations fail, `rot` where stored
//! bytes change.
//!
//! Everything is drawn from a seed; a violation names the flags that lead to it again.

mod changes;
pub mod check;
pub mod cuts;
pub mod failures;
pub mod files;
pub mod kinds;
pub mod machine;
pub mod model;
pub mod rot;
pub mod workload;

use std::fmt;

/// Something happened that must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What.
    pub what: String,
    /// What was done last before.
    pub story: String,
    /// The flags of `strandline-disk` that lead to it again.
    pub replay: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\nbefore it:\n{}\nagain: strandline-disk {}",
            self.what, self.story, self.replay
        )
    }
}

impl std::error::Error for Violation {}
