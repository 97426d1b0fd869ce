//! Conversions between sizes in memory and sizes on disk, and the names of files.

use std::path::{Path, PathBuf};

use strandline_protocol::Offset;

/// A length in memory as one on disk. Lossless on every machine with up to 64-bit addresses.
pub(crate) fn to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// A length on disk as one in memory; stays at the end of the range instead of wrapping.
pub(crate) fn to_usize(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// What a file of a segment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Log,
    Index,
    TimeIndex,
    Snapshot,
}

impl FileKind {
    /// Those that one segment has; the log first, as it goes first when a segment is removed.
    pub(crate) const ALL: [Self; 4] = [Self::Log, Self::Index, Self::TimeIndex, Self::Snapshot];

    /// The suffix, with its dot.
    pub(crate) const fn suffix(self) -> &'static str {
        match self {
            Self::Log => ".log",
            Self::Index => ".index",
            Self::TimeIndex => ".timeindex",
            Self::Snapshot => ".snapshot",
        }
    }

    /// The file of this kind for the segment (or as of the offset) `base`.
    pub(crate) fn path(self, directory: &Path, base: Offset) -> PathBuf {
        directory.join(format!("{:020}{}", base.0, self.suffix()))
    }

    /// Which file `name` is; none if it is no segment's.
    pub(crate) fn parse(name: &str) -> Option<(Self, Offset)> {
        let (digits, _) = name.split_once('.')?;
        let kind = Self::ALL
            .into_iter()
            .find(|kind| name.strip_prefix(digits) == Some(kind.suffix()))?;
        if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some((kind, Offset(digits.parse().ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kafkas() {
        let path = FileKind::TimeIndex.path(Path::new("t-0"), Offset(42));
        assert_eq!(path, Path::new("t-0/00000000000000000042.timeindex"));
        for kind in FileKind::ALL {
            let path = kind.path(Path::new(""), Offset(7));
            assert_eq!(
                FileKind::parse(path.to_str().unwrap()),
                Some((kind, Offset(7)))
            );
        }
        for other in [
            "7.log",
            "partition.metadata",
            "0000000000000000000a.log",
            "x",
            "",
        ] {
            assert_eq!(FileKind::parse(other), None, "{other}");
        }
        assert_eq!(FileKind::parse("00000000000000000007.log.deleted"), None);
    }
}
