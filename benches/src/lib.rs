//! What the benchmarks of Strandline share, and what judges their results.

#[cfg(feature = "judge")]
pub mod instructions;
