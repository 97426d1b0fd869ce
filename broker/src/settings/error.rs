//! Why the settings were refused; each message is one line and names the remedy.

use std::io;
use std::path::PathBuf;

use super::inputs::Source;

/// The broker does not start with these settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration file is not TOML.
    #[error(
        "{}, line {line}: {message}; correct that line: docs/configuration.md shows every setting",
        path.display()
    )]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What the parser expected.
        message: String,
    },
    /// There is no such key.
    #[error("unknown setting {key:?} in {origin}{}; docs/configuration.md lists them all",
        hint(nearest.as_deref()))]
    UnknownKey {
        /// What was given.
        key: String,
        /// Where.
        origin: Source,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A variable has the prefix of settings but names none.
    #[error("unknown variable {}{}; docs/configuration.md lists them all",
        name.escape_debug(), hint(nearest.as_deref()))]
    UnknownVariable {
        /// Its name.
        name: String,
        /// The known variable that looks most like it.
        nearest: Option<String>,
    },
    /// The value is not one for the key.
    #[error("{key} cannot be {value:?} ({origin}); {accepts}")]
    Invalid {
        /// Which key.
        key: String,
        /// What was given.
        value: String,
        /// Where.
        origin: Source,
        /// What is allowed, as a remedy.
        accepts: String,
    },
    /// Values that are fine alone do not go together.
    #[error("{message}")]
    Contradiction {
        /// Which ones, and what to change.
        message: String,
    },
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |key| format!(" (is {key} meant?)"))
}
