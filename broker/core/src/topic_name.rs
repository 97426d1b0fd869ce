//! What a topic may be called.

use strandline_protocol::limits::TOPIC_NAME_BYTES_MAX;

/// Why a name is not one for a topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTopicName {
    /// There is nothing.
    #[error(
        "a topic name cannot be empty: give it 1 to {TOPIC_NAME_BYTES_MAX} of A-Z a-z 0-9 . _ -"
    )]
    Empty,
    /// It would not fit the name of a directory.
    #[error("a topic name of {bytes} characters is too long: {TOPIC_NAME_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It would be a directory of its own meaning.
    #[error("topic name `{name}` is reserved by file systems: choose another")]
    Reserved {
        /// `.` or `..`.
        name: String,
    },
    /// A character is outside of the alphabet.
    #[error("topic name {name:?} contains {character:?}: only A-Z a-z 0-9 . _ - are allowed")]
    Character {
        /// The whole name.
        name: String,
        /// The first character that is not allowed.
        character: char,
    },
}

/// Checks that `name` matches `[A-Za-z0-9._-]{1,249}` and is neither `.` nor `..`.
///
/// # Errors
/// [`BadTopicName`] says what is wrong and what is allowed.
pub fn check(name: &str) -> Result<(), BadTopicName> {
    if name.is_empty() {
        return Err(BadTopicName::Empty);
    }
    // The length comes first, so that no error quotes a name without bound.
    if name.len() > TOPIC_NAME_BYTES_MAX {
        return Err(BadTopicName::TooLong { bytes: name.len() });
    }
    if name == "." || name == ".." {
        return Err(BadTopicName::Reserved { name: name.into() });
    }
    let allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    match name.chars().find(|&character| !allowed(character)) {
        Some(character) => Err(BadTopicName::Character {
            name: name.into(),
            character,
        }),
        None => Ok(()),
    }
}

/// Whether the broker keeps the topic for itself: `__consumer_offsets` and its like. Clients can
/// read such topics, but neither create, alter nor delete them.
#[must_use]
pub fn is_internal(name: &str) -> bool {
    name.starts_with("__")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str) -> String {
        check(name).expect_err("the name is refused").to_string()
    }

    #[test]
    fn names_of_the_alphabet_pass() {
        for name in ["a", "orders", "Orders-2.v_1", "...", "-", &"x".repeat(249)] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn refusals_say_what_is_allowed() {
        assert!(refusal("").contains("cannot be empty"));
        assert!(refusal("..").contains("reserved"));
        assert!(refusal(&"x".repeat(250)).contains("250 characters is too long: 249"));
        assert_eq!(
            refusal("a b"),
            "topic name \"a b\" contains ' ': only A-Z a-z 0-9 . _ - are allowed"
        );
        assert!(refusal("grün").contains("'ü'"));
    }
}
