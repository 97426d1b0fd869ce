//! An allocated segment file, written through a mapping: the one place of this crate that maps.
#![allow(
    unsafe_code,
    reason = "a mapping is memory that others could change; here the file is private to the probe"
)]

use std::{fs, io, path::Path};

use memmap2::MmapMut;
use rustix::fs::{FallocateFlags, fallocate};

/// A file whose space is allocated and mapped whole.
pub struct MappedFile {
    map: MmapMut,
}

impl MappedFile {
    /// Creates the file anew, allocates `bytes` for it and maps them.
    ///
    /// # Errors
    /// If it cannot be created or the disk has no room for it.
    pub fn create(path: &Path, bytes: u64) -> io::Result<Self> {
        let file = fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => {}
            // A file system that cannot allocate ahead is measured as it is.
            Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(bytes)?,
            Err(error) => return Err(error.into()),
        }
        // SAFETY: the file was created by this call in a directory that belongs to the probe, is
        // never shortened, and its space is allocated, so that no access can fault or change
        // beneath the reference.
        let map = unsafe { MmapMut::map_mut(&file)? };
        Ok(Self { map })
    }

    /// The `bytes` bytes from `position` on; none if they do not fit.
    pub fn room(&mut self, position: usize, bytes: usize) -> Option<&mut [u8]> {
        let end = position.checked_add(bytes)?;
        self.map.get_mut(position..end)
    }
}
