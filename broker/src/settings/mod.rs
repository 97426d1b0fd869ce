//! What the broker is configured with, and where each value came from.
