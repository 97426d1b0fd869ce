//! Structured log lines on standard error.
//!
//! **Owns** the process-wide subscriber. What a line says is up to whoever writes it: one event,
//! its fields, a message without them.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// The filter is not one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the log filter {filter:?} is not valid ({reason}); use a level (error, warn, info, debug, \
     trace), or levels by module as in info,strandline_broker=debug"
)]
pub struct BadFilter {
    filter: String,
    reason: String,
}

/// Sends log lines that pass `filter` to standard error, in colour if that is a terminal.
///
/// The first call of a process wins: brokers inside of a test share its subscriber.
///
/// # Errors
/// [`BadFilter`] says how to write one.
pub fn start(filter: &str) -> Result<(), BadFilter> {
    let filter = parse(filter)?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .finish();
    // Fails only if there is a subscriber already.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// Checks a filter without applying it.
///
/// # Errors
/// [`BadFilter`] says how to write one.
pub fn check(filter: &str) -> Result<(), BadFilter> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, BadFilter> {
    let bad = |reason: String| BadFilter {
        filter: filter.to_owned(),
        reason,
    };
    // A word by itself would name a module, and silence all others.
    let mut words = filter.split(',').map(str::trim);
    let unknown = words.find(|word| {
        let is_word = !word.is_empty() && !word.contains(['=', '[']);
        is_word && word.parse::<LevelFilter>().is_err()
    });
    if let Some(word) = unknown {
        return Err(bad(format!("{word:?} is no level")));
    }
    // The library of the metadata quorum tells every step of its own; what matters to whoever runs
    // a broker, the broker says. A filter that names the library brings its lines back.
    EnvFilter::builder()
        .parse(format!("openraft=off,{filter}"))
        .map_err(|error| bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_levels_or_levels_by_module() {
        for good in ["info", "warn,strandline_broker=debug", "off"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "a=b=c",
            "info,strandline_broker=loud",
            "debugg",
            "info,strandline",
        ] {
            let message = check(bad).unwrap_err().to_string();
            assert!(message.contains("use a level"), "{message}");
        }
    }
}
