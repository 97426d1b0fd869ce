//! `--print-config`: what is in force, as a configuration file that says where each value came
//! from.

use std::fmt::Write;

use super::forms::quoted;
use super::{SETTINGS, Settings, Source};

/// Valid TOML; a value that is not set stands in a comment.
pub(super) fn render(settings: &Settings) -> String {
    let mut text = String::new();
    let mut table = "";
    for setting in SETTINGS {
        let (prefix, name) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
        if prefix != table {
            table = prefix;
            let _ = writeln!(text, "\n[{table}]");
        }
        let source = printable(settings.source(setting.key));
        let _ = match (setting.show)(settings) {
            Some(value) => writeln!(text, "{name} = {value}  # {source}"),
            None => writeln!(text, "# {name} is not set  # {source}"),
        };
    }
    text.push_str("\n[topic]\n");
    for (name, value) in &settings.topic {
        let source = printable(settings.source(&format!("topic.{name}")));
        let _ = writeln!(text, "{} = {}  # {source}", quoted(name), quoted(value));
    }
    text
}

/// A comment ends with its line and allows no control characters.
fn printable(source: &Source) -> String {
    source.to_string().escape_debug().to_string()
}
