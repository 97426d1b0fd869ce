//! The driver of the metadata log: decide, append, make durable, apply, publish.
