//! Why a configuration of a topic was refused.

/// Nothing was changed; the same key and value will be refused again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicConfigError {
    /// There is no such key.
    #[error(
        "unknown topic configuration key {key:?}{}: known keys are {known}",
        nearest_hint(*.nearest)
    )]
    UnknownKey {
        /// What was given, cut to a printable length.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
        /// Every known key.
        known: String,
    },
    /// The value is not one for the key.
    #[error("topic configuration {key} cannot be {value:?}: {allowed}")]
    InvalidValue {
        /// Which key.
        key: &'static str,
        /// What was given, cut to a printable length.
        value: String,
        /// What is allowed.
        allowed: String,
    },
}

fn nearest_hint(nearest: Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |key| format!(" (is {key} meant?)"))
}
