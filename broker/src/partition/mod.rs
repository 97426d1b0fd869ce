//! Partitions at work: one log each, who waits for it, and who flushes it.
