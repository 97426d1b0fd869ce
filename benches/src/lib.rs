//! What the benchmarks of Strandline share, and what judges their results.

pub mod instructions;
