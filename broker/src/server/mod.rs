//! The running broker: listeners, connections, request handlers, start and shutdown.
