//! What the benchmarks of Strandline share.
