//! The configuration file, variables, and the configuration of topics.
//!
//! What is accepted is shown as a file (`--print-config`) that means the same; what is refused is
//! refused in one line.

use std::{cell::RefCell, collections::BTreeMap, ffi::OsString, fs, os::unix::ffi::OsStringExt};

use strandline_broker::settings::{Address, Inputs, SETTINGS, Settings};
use strandline_core::{
    TopicConfig,
    topic_config::{KEYS, check, check_all},
    topic_name,
};
use tempfile::NamedTempFile;

use super::choices::Choices;

thread_local! {
    /// The file that settings are read from; one for all inputs.
    static FILE: RefCell<NamedTempFile> = RefCell::new(NamedTempFile::new().unwrap());
}

/// The target. The first byte says what the rest is.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    match choices.below(4) {
        0 | 1 => file(choices.rest()),
        2 => variables(&mut choices),
        _ => topics(&mut choices),
    }
}

/// A configuration file.
fn file(text: &[u8]) {
    let Some(settings) = resolve_file(text) else {
        return;
    };
    let shown = settings.render_effective();
    let again = resolve_file(shown.as_bytes()).expect("what is shown is a valid file");
    let shown_again = again.render_effective();
    let table = |text: &str| text.parse::<toml::Table>().expect("what is shown is TOML");
    assert_eq!(table(&shown), table(&shown_again));
    assert_eq!(settings.topic_defaults(), again.topic_defaults());
}

fn resolve_file(text: &[u8]) -> Option<Settings> {
    FILE.with_borrow(|file| {
        fs::write(file.path(), text).unwrap();
        let mut inputs = Inputs::default();
        inputs.config(file.path().to_owned());
        resolve(&inputs)
    })
}

fn resolve(inputs: &Inputs) -> Option<Settings> {
    match Settings::resolve(inputs) {
        Ok(settings) => Some(settings),
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains('\n'), "more than a line: {message:?}");
            None
        }
    }
}

/// Variables and flags.
fn variables(choices: &mut Choices<'_>) {
    let mut variables = Vec::new();
    let mut inputs = Inputs::default();
    for _ in 0..=choices.below(4) {
        let which = choices.below(SETTINGS.len() + KEYS.len() + 1);
        let name = match (
            SETTINGS.get(which),
            KEYS.get(which.saturating_sub(SETTINGS.len())),
        ) {
            (Some(setting), _) => setting.variable(),
            (None, Some(key)) => {
                format!(
                    "STRANDLINE_TOPIC_{}",
                    key.name.to_uppercase().replace('.', "_")
                )
            }
            (None, None) => {
                let name = String::from_utf8_lossy(choices.short()).into_owned();
                format!("STRANDLINE_{name}")
            }
        };
        if name == "STRANDLINE_CONFIG" {
            // Names a file of this machine.
            continue;
        }
        variables.push((
            OsString::from(name),
            OsString::from_vec(choices.short().to_vec()),
        ));
    }
    let _ = resolve(&Inputs::from_variables(variables));
    let setting = &SETTINGS[choices.below(SETTINGS.len())];
    inputs.flag(setting.key, [String::from_utf8_lossy(choices.short())]);
    if let Some(settings) = resolve(&inputs) {
        let shown = settings.render_effective();
        let again = resolve_file(shown.as_bytes()).expect("what is shown is a valid file");
        assert_eq!(again.topic_defaults(), settings.topic_defaults());
    }
}

/// Keys and values of topics, their names, addresses.
fn topics(choices: &mut Choices<'_>) {
    let mut overrides = BTreeMap::new();
    for _ in 0..=choices.below(4) {
        let which = choices.below(KEYS.len() + 1);
        let key = match KEYS.get(which) {
            Some(key) => key.name.to_owned(),
            None => String::from_utf8_lossy(choices.short()).into_owned(),
        };
        let value = String::from_utf8_lossy(choices.short()).into_owned();
        let mut config = TopicConfig::default();
        match config.set(&key, &value) {
            Ok(()) => {
                let row = KEYS
                    .iter()
                    .find(|row| row.name == key)
                    .expect("it was found");
                let text = config.text(row);
                let mut again = TopicConfig::default();
                again.set(&key, &text).expect("what is shown can be set");
                assert_eq!(again, config);
            }
            Err(error) => {
                assert!(error.to_string().len() < 1_000);
                assert_eq!(config, TopicConfig::default());
                assert!(check(&key, &value).is_err());
            }
        }
        overrides.insert(key, value);
    }
    let resolved = TopicConfig::resolve(&TopicConfig::default(), &overrides);
    if check_all(&overrides).is_ok() {
        for (key, value) in &overrides {
            let row = KEYS
                .iter()
                .find(|row| row.name == key)
                .expect("it was checked");
            assert_eq!(row.name == key, !resolved.text(row).is_empty(), "{value}");
        }
    }
    let text = String::from_utf8_lossy(choices.rest()).into_owned();
    let _ = topic_name::check(&text);
    if let Ok(address) = text.parse::<Address>() {
        let shown = address.to_string();
        assert_eq!(shown.parse(), Ok(address));
    }
}
