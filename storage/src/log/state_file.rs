//! Small files: written whole, replaced in one step, and, where they are ours, under a CRC.
//!
//! ```text
//! offset size                       big-endian
//!      0    4 kind                  four letters
//!      4    2 version               1
//!      6    4 CRC-32C               of bytes 10 to the end
//!     10      body
//! ```

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Buf, Bytes};

use super::units::to_u64;
use crate::{
    error::StorageError,
    fs::{File, FileSystem, FsError},
};

const VERSION: u16 = 1;

/// Puts a body under its kind, version and CRC.
#[must_use]
pub fn seal(kind: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len().saturating_add(10));
    bytes.extend_from_slice(&kind);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(body).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// The body; none if it is not of that kind, of another version, or damaged.
#[must_use]
pub fn unseal(kind: [u8; 4], mut bytes: Bytes) -> Option<Bytes> {
    if !bytes.starts_with(&kind) {
        return None;
    }
    bytes.advance(kind.len());
    let version = bytes.try_get_u16().ok()?;
    let crc = bytes.try_get_u32().ok()?;
    (version == VERSION && crc32c::crc32c(&bytes) == crc).then_some(bytes)
}

/// All of a file; none if it is not there.
///
/// # Errors
/// If the disk fails.
pub fn read_file(files: &dyn FileSystem, path: &Path) -> Result<Option<Bytes>, FsError> {
    match files.open(path) {
        Ok(file) => {
            let range = 0..file.size();
            file.populate(range.clone())?;
            file.view(range).map(Some)
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates a file, or empties the one that a failed attempt left behind.
///
/// # Errors
/// If the disk fails or is full.
pub fn create_empty(files: &dyn FileSystem, path: &Path) -> Result<Arc<dyn File>, FsError> {
    match files.create(path) {
        Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => {
            let file = files.open(path)?;
            file.truncate(0)?;
            Ok(file)
        }
        result => result,
    }
}

/// Writes a file from its beginning, without making it durable.
///
/// # Errors
/// If the disk fails or is full.
pub fn write_file(
    files: &dyn FileSystem,
    path: &Path,
    bytes: &[u8],
) -> Result<Arc<dyn File>, FsError> {
    let file = create_empty(files, path)?;
    if !bytes.is_empty() {
        file.allocate(to_u64(bytes.len()))?;
        file.write(0, &[bytes])?;
    }
    Ok(file)
}

/// Replaces a file in one step: afterwards, and after a power cut from then on, it is the old one
/// or the new one. The new one is durable once the directory has been synced.
///
/// # Errors
/// If the disk fails or is full; the old one is there still then.
pub fn replace_file(files: &dyn FileSystem, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let temporary = temporary(path);
    write_file(files, &temporary, bytes)?.sync()?;
    files.rename(&temporary, path)?;
    Ok(())
}

/// Replaces a file that is only read where a protected one is missing: nothing waits for the disk,
/// so a power cut may leave any state of it.
///
/// # Errors
/// As [`replace_file`].
pub fn replace_hint(files: &dyn FileSystem, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let temporary = temporary(path);
    write_file(files, &temporary, bytes)?;
    files.rename(&temporary, path)?;
    Ok(())
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_is_noticed() {
        let good = seal(*b"TEST", b"body");
        assert_eq!(
            unseal(*b"TEST", good.clone().into()),
            Some(Bytes::from_static(b"body"))
        );
        assert_eq!(unseal(*b"TSET", good.clone().into()), None);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(*b"TEST", bad.into()), None, "bit {bit}");
        }
        for length in 0..good.len() {
            assert_eq!(unseal(*b"TEST", good[..length].to_vec().into()), None);
        }
    }
}
