//! Where values come from: the file, the variables, the flags; read into one list in which later
//! entries win.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use strandline_core::topic_config::KEYS;
use strandline_core::topic_config::nearest::nearest;

use super::{SETTINGS, SettingsError};

/// What every variable of ours begins with.
const PREFIX: &str = "STRANDLINE_";

/// Variables with the prefix that are not settings of the server.
const OTHERS: &[&str] = &["STRANDLINE_CONFIG", "STRANDLINE_BOOTSTRAP"];

/// Variables of tests begin with this and are left to them.
const TEST_PREFIX: &str = "STRANDLINE_TEST_";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Everything that settings are resolved from.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    config: Option<PathBuf>,
    variables: Vec<(String, String)>,
    flags: Vec<(String, Vec<String>)>,
}

/// One value as it was given.
pub(super) struct Given {
    pub(super) key: String,
    pub(super) texts: Vec<String>,
    pub(super) source: Source,
}

impl Inputs {
    /// The variables of a process; those that are not ours are left out. `STRANDLINE_CONFIG` names
    /// the configuration file, unless [`Inputs::config`] does.
    #[must_use]
    pub fn from_variables(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut inputs = Self::default();
        for (name, value) in variables {
            let name = name.to_string_lossy();
            if !name.starts_with(PREFIX) || name.starts_with(TEST_PREFIX) {
                continue;
            }
            if name == "STRANDLINE_CONFIG" {
                inputs.config = Some(PathBuf::from(value));
            } else {
                let value = value.to_string_lossy().into_owned();
                inputs.variables.push((name.into_owned(), value));
            }
        }
        inputs.variables.sort();
        inputs
    }

    /// Names the configuration file.
    pub fn config(&mut self, path: PathBuf) {
        self.config = Some(path);
    }

    /// Adds a value that was given by a flag, under the key of its setting.
    pub fn flag<T: Into<String>>(&mut self, key: &str, values: impl IntoIterator<Item = T>) {
        let values = values.into_iter().map(Into::into).collect();
        self.flags.push((key.to_owned(), values));
    }

    /// All values; of one key, the last wins.
    pub(super) fn values(&self) -> Result<Vec<Given>, SettingsError> {
        let mut values = Vec::new();
        if let Some(path) = &self.config {
            read_file(path, &mut values)?;
        }
        for (name, value) in &self.variables {
            if OTHERS.contains(&name.as_str()) {
                continue;
            }
            let key = variable_key(name)?;
            values.push(Given {
                texts: split(&key, value),
                key,
                source: Source::Variable(name.clone()),
            });
        }
        for (key, texts) in &self.flags {
            let setting = SETTINGS.iter().find(|setting| setting.key == key);
            let flag = setting.and_then(|setting| setting.flag);
            values.push(Given {
                key: key.clone(),
                texts: texts.clone(),
                source: Source::Flag(flag.unwrap_or(key).to_owned()),
            });
        }
        Ok(values)
    }
}

/// The key that a variable sets.
fn variable_key(name: &str) -> Result<String, SettingsError> {
    let known: Vec<(String, String)> = SETTINGS
        .iter()
        .map(|setting| (setting.variable(), setting.key.to_owned()))
        .chain(KEYS.iter().map(|key| {
            let variable = format!("TOPIC_{}", key.name.to_uppercase().replace('.', "_"));
            (format!("{PREFIX}{variable}"), format!("topic.{}", key.name))
        }))
        .collect();
    match known.iter().find(|(variable, _)| variable == name) {
        Some((_, key)) => Ok(key.clone()),
        None => Err(SettingsError::UnknownVariable {
            name: name.to_owned(),
            nearest: nearest(name, known.iter().map(|(variable, _)| variable.as_str()))
                .map(str::to_owned),
        }),
    }
}

/// Lists are separated by commas in variables; other values may contain them.
fn split(key: &str, value: &str) -> Vec<String> {
    if matches!(key, "data" | "join") {
        value.split(',').map(str::to_owned).collect()
    } else {
        vec![value.to_owned()]
    }
}

fn read_file(path: &Path, values: &mut Vec<Given>) -> Result<(), SettingsError> {
    let text = fs::read_to_string(path).map_err(|source| SettingsError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        SettingsError::Syntax {
            path: path.to_owned(),
            line: before.unwrap_or_default().matches('\n').count() + 1,
            message: error.message().to_owned(),
        }
    })?;
    flatten(path, "", &table, values);
    Ok(())
}

/// Walks tables into keys with points; `"retention.ms"` in quotes and without come to the same.
fn flatten(path: &Path, prefix: &str, table: &toml::Table, values: &mut Vec<Given>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        if let toml::Value::Table(inner) = value {
            if inner.is_empty() && prefix.is_empty() && is_table(name) {
                continue;
            }
            if !inner.is_empty() {
                flatten(path, &format!("{key}."), inner, values);
                continue;
            }
        }
        let texts = match value {
            toml::Value::Array(items) => items.iter().map(scalar).collect(),
            other => vec![scalar(other)],
        };
        values.push(Given {
            key,
            texts,
            source: Source::File(path.to_owned()),
        });
    }
}

fn is_table(name: &str) -> bool {
    let prefix = format!("{name}.");
    name == "topic"
        || SETTINGS
            .iter()
            .any(|setting| setting.key.starts_with(&prefix))
}

fn scalar(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
