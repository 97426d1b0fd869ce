//! Text under a checksum: the form of every small file that is ours and not Kafka's.
//!
//! ```text
//! strandline-<kind> <version>
//! <lines>
//! crc32c <8 hexadecimal digits, over all of the above>
//! ```
//!
//! It can be read with any pager, and one flipped bit is noticed. The kind is under the checksum,
//! so a file that was put in the place of another is noticed too.

use std::path::Path;

use super::atomic::{read_small, write_atomically};
use crate::{
    error::StorageError,
    fs::{FileSystem, FsError},
};

/// Which file it is, and how its lines are to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// Its name in the first line.
    pub(super) name: &'static str,
    /// Raised when the meaning of the lines changes.
    pub(super) version: u32,
}

/// Writes `lines`, each of which ends with a line feed, to `path`, atomically and durably.
pub(super) fn write(
    fs: &dyn FileSystem,
    path: &Path,
    kind: Kind,
    lines: &str,
) -> Result<(), FsError> {
    write_atomically(fs, path, seal(kind, lines).as_bytes())
}

/// The lines of `path`; none if it does not exist, [`StorageError::Damaged`] if they are not what
/// was written.
pub(super) fn read(
    fs: &dyn FileSystem,
    path: &Path,
    kind: Kind,
) -> Result<Option<String>, StorageError> {
    let Some(content) = read_small(fs, path)? else {
        return Ok(None);
    };
    match unseal(kind, &content) {
        Ok(lines) => Ok(Some(lines.to_owned())),
        Err(reason) => Err(StorageError::damaged(path, reason)),
    }
}

/// The text of a file of that kind.
pub(super) fn seal(kind: Kind, lines: &str) -> String {
    let mut text = format!("strandline-{} {}\n{lines}", kind.name, kind.version);
    let sum = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("crc32c {sum:08x}\n"));
    text
}

/// The lines in the text of a file of that kind, or what is wrong with it.
pub(super) fn unseal(kind: Kind, content: &[u8]) -> Result<&str, String> {
    let text = str::from_utf8(content).map_err(|_| "it is not text".to_owned())?;
    let last = text
        .strip_suffix('\n')
        .and_then(|text| text.rfind('\n'))
        .ok_or("it has no checksum")?;
    let (sealed, seal) = text.split_at(last.saturating_add(1));
    let expected = format!("crc32c {:08x}\n", crc32c::crc32c(sealed.as_bytes()));
    if seal != expected {
        return Err("its checksum does not match".to_owned());
    }
    let (head, lines) = sealed.split_once('\n').ok_or("it has no first line")?;
    let version = head
        .strip_prefix("strandline-")
        .and_then(|head| head.strip_prefix(kind.name))
        .and_then(|head| head.strip_prefix(' '))
        .ok_or_else(|| format!("it begins with \"{head}\": another file was put in its place"))?;
    if version != kind.version.to_string() {
        let known = kind.version;
        return Err(format!(
            "its version is {version} and this program knows {known}: use the one that wrote it"
        ));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind {
        name: "test",
        version: 1,
    };

    #[test]
    fn every_flipped_bit_is_noticed() {
        let sealed = seal(KIND, "one\ntwo\n").into_bytes();
        assert_eq!(unseal(KIND, &sealed), Ok("one\ntwo\n"));
        assert_eq!(unseal(KIND, seal(KIND, "").as_bytes()), Ok(""));
        for position in 0..sealed.len() {
            for bit in 0..8 {
                let mut rotten = sealed.clone();
                rotten[position] ^= 1 << bit;
                assert!(unseal(KIND, &rotten).is_err(), "byte {position}, bit {bit}");
            }
            assert!(
                unseal(KIND, &sealed[..position]).is_err(),
                "cut at {position}"
            );
        }
    }

    #[test]
    fn another_kind_and_another_version_are_refused() {
        let sealed = seal(KIND, "one\n");
        let other = Kind {
            name: "tes",
            version: 1,
        };
        assert!(unseal(other, sealed.as_bytes()).is_err());
        let newer = Kind {
            name: "test",
            version: 2,
        };
        let refused = unseal(newer, sealed.as_bytes()).unwrap_err();
        assert!(refused.contains("version is 1"), "{refused}");
    }
}
