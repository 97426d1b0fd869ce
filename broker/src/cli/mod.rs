//! The command line: one binary, every command.
