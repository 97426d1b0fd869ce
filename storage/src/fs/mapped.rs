//! The default backend: bytes enter files by a copy into a mapping.
//!
//! An append of a few kilobytes costs a fifth of what `pwrite` costs, as there is no system call in
//! it. Durability comes from `fdatasync` on the descriptor all the same, never from `msync`.

use super::host::{HostFileSystem, Mapped};

/// The disk of this machine, written through mappings.
pub type MappedFileSystem = HostFileSystem<Mapped>;
