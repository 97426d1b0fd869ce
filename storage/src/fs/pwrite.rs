//! The plain backend: bytes enter files by `pwritev`; only reading uses mappings.
//!
//! Slower for small appends than [`super::mapped`], and the one to take where a file system maps
//! badly (some network and FUSE mounts).

use super::host::{HostFileSystem, Positional};

/// The disk of this machine, written by `pwritev`.
pub type PwriteFileSystem = HostFileSystem<Positional>;
