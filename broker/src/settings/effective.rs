//! `--print-config`: what is in force, as a configuration file that says where each value came
//! from.

use std::fmt::Write;

use strandline_core::topic_config::KEYS;

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
    let in_force = settings.topic_defaults();
    for key in KEYS.iter().filter(|key| key.name != "flush") {
        let source = printable(settings.source(&format!("topic.{}", key.name)));
        let value = quoted(&in_force.text(key));
        // What is built in stands in a comment, so that the file pins nothing but what was set.
        let mark = if settings.topic.contains_key(key.name) {
            ""
        } else {
            "# "
        };
        let _ = writeln!(text, "{mark}{} = {value}  # {source}", quoted(key.name));
    }
    text
}

/// A comment ends with its line and allows no control characters.
fn printable(source: &Source) -> String {
    source.to_string().escape_debug().to_string()
}
