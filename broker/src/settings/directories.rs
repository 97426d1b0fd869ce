//! Whether data directories are apart: each is one disk, and none holds another.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// What is wrong with directories of which one is another, or lies in it; links are followed as far
/// as there is something.
pub(super) fn overlap(directories: &[PathBuf]) -> Option<String> {
    let places: Vec<PathBuf> = directories.iter().map(|path| place(path)).collect();
    let named = || directories.iter().zip(&places).enumerate();
    for (index, (path, at)) in named() {
        for (other_index, (other, other_at)) in named() {
            if index < other_index && at == other_at {
                return Some(format!(
                    "data names a directory twice, as {path:?} and as {other:?}; name each once"
                ));
            }
            if index != other_index && at.starts_with(other_at) {
                return Some(format!(
                    "data names {path:?}, which lies in {other:?}; name directories of which none \
                     holds another"
                ));
            }
        }
    }
    None
}

/// The path without links, `.` and `..`, as far as it exists; the rest is as it is written.
fn place(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut missing: Vec<OsString> = Vec::new();
    for ancestor in absolute.ancestors() {
        if let Ok(mut found) = ancestor.canonicalize() {
            found.extend(missing.iter().rev());
            return found;
        }
        missing.extend(ancestor.file_name().map(ToOwned::to_owned));
    }
    absolute
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_directory_is_or_holds_another() {
        let parent = tempfile::tempdir().unwrap();
        let real = parent.path().join("real");
        let link = parent.path().join("link");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let (below, beside) = (link.join("a/b"), parent.path().join("real2"));
        assert_eq!(overlap(&[real.clone(), beside]), None);
        let twice = overlap(&[real.clone(), link.clone()]).unwrap();
        assert!(twice.contains("twice"), "{twice}");
        let broken = overlap(&["a\nb".into(), "a\nb".into()]).unwrap();
        assert!(!broken.contains('\n'), "{broken}");
        let missing = parent.path().join("missing");
        assert!(overlap(&[missing.clone(), missing]).is_some());
        for pair in [[real.clone(), below.clone()], [below, real]] {
            let nested = overlap(&pair).unwrap();
            assert!(nested.contains("lies in"), "{nested}");
        }
    }
}
