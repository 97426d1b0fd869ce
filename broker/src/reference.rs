//! Holds generated pages of `docs/` against the code that they are generated from.

use std::path::Path;

/// Fails if the page is not what the code says; `UPDATE=1` rewrites it instead.
pub(crate) fn assert_document(path: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, expected).unwrap();
        return;
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "{path} differs from the code: run `UPDATE=1 cargo test -p strandline-broker reference`"
    );
}
