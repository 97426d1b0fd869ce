//! One data directory (`--data`): who owns it, how it was left, and what lies in it.
