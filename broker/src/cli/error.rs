//! How a command ends: the exit codes, and the line that a person reads when it failed.
//!
//! A failure is one line that names the thing, and where there is one, a second line with the
//! remedy. Exit code 2 says that the command line or the configuration is wrong whatever the state
//! of the broker, exit code 1 that the command was fine and did not succeed.

use std::{fmt, io, process::ExitCode};

use clap::error::ErrorKind;

/// Exit code of a command that was understood and failed.
pub const EXIT_FAILURE: u8 = 1;
/// Exit code of a command line or a configuration that is wrong in itself.
pub const EXIT_USAGE: u8 = 2;

/// Why a command did not succeed.
#[derive(Debug)]
pub struct CommandError {
    kind: Kind,
    message: String,
    hint: Option<String>,
    /// Another exit code than that of the kind.
    ends_with: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Usage,
    Failure,
    ClosedPipe,
    Told,
}

impl CommandError {
    /// The command line or the configuration is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Usage,
            message: message.into(),
            hint: None,
            ends_with: None,
        }
    }

    /// The command line or the configuration is wrong; what stands behind the last semicolon of
    /// `text` says what to do about it.
    pub fn usage_with_remedy(text: &str) -> Self {
        Self::usage("").split(text)
    }

    /// The command did not succeed; what stands behind the last semicolon of `text` says what to do
    /// about it.
    pub fn failure_with_remedy(text: &str) -> Self {
        Self::failure("").split(text)
    }

    fn split(mut self, text: &str) -> Self {
        let (message, hint) = match text.rsplit_once("; ") {
            Some((message, hint)) => (message, Some(hint.to_owned())),
            None => (text, None),
        };
        self.message = message.to_owned();
        self.hint = hint;
        self
    }

    /// The same error, and what else is to be known of it.
    #[must_use]
    pub fn but(mut self, more: &str) -> Self {
        self.message = format!("{}; {more}", self.message);
        self
    }

    /// The same error with what to do about it, unless it says so already.
    #[must_use]
    pub fn or_hint(self, hint: &str) -> Self {
        if self.hint.is_some() {
            self
        } else {
            self.hint(hint)
        }
    }

    /// What went wrong, without what to do about it.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The command did not succeed.
    pub fn failure(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Failure,
            message: message.into(),
            hint: None,
            ends_with: None,
        }
    }

    /// The same error with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An I/O error on the thing named `what`. A closed pipe is not a failure.
    pub fn io(what: impl fmt::Display, source: &io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe {
            return Self::closed_pipe();
        }
        Self::failure(format!("{what}: {}", reason(source)))
    }

    /// Whoever read the output has gone: the command ends, quietly.
    pub const fn closed_pipe() -> Self {
        Self {
            kind: Kind::ClosedPipe,
            message: String::new(),
            hint: None,
            ends_with: None,
        }
    }

    /// The command has done what it should and printed what there is to say, which is not good: it
    /// ends with `exit_code`, quietly.
    pub const fn told(exit_code: u8) -> Self {
        Self {
            kind: Kind::Told,
            message: String::new(),
            hint: None,
            ends_with: Some(exit_code),
        }
    }

    /// The same error with another exit code, for a command whose exit codes have a meaning of
    /// their own.
    #[must_use]
    pub const fn ends_with(mut self, exit_code: u8) -> Self {
        self.ends_with = Some(exit_code);
        self
    }

    /// Prints the error on standard error, unless it is a closed pipe, and gives the exit code.
    pub fn report(&self) -> ExitCode {
        match self.kind {
            Kind::ClosedPipe => return ExitCode::SUCCESS,
            Kind::Told => {}
            Kind::Usage | Kind::Failure => eprint!("{self}"),
        }
        ExitCode::from(self.exit_code())
    }

    /// The exit code of the process.
    pub const fn exit_code(&self) -> u8 {
        match (self.kind, self.ends_with) {
            (Kind::ClosedPipe, _) => 0,
            (_, Some(exit_code)) => exit_code,
            (Kind::Failure | Kind::Told, None) => EXIT_FAILURE,
            (Kind::Usage, None) => EXIT_USAGE,
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", one_line(&self.message))?;
        match &self.hint {
            Some(hint) => writeln!(f, "hint: {}", one_line(hint)),
            None => Ok(()),
        }
    }
}

/// What went wrong, without the error number that the standard library appends.
pub fn reason(source: &io::Error) -> String {
    let text = source.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Turns what clap says into the form of every other error: one line, and a hint. Requests for help
/// or for the version are printed and succeed.
pub fn report_clap(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is left to tell if standard output is closed.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ => from_clap(&error.render().to_string()).report(),
    }
}

/// Reads clap's paragraphs: what is wrong, tips, the usage line and a pointer to `--help`.
fn from_clap(text: &str) -> CommandError {
    let mut paragraphs = text.split("\n\n");
    let wrong = paragraphs.next().unwrap_or(text);
    let message = wrong.strip_prefix("error: ").unwrap_or(wrong);
    CommandError::usage(message).hint(remedy(text))
}

fn remedy(text: &str) -> String {
    let tip = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("tip: "));
    let usage = text.lines().find_map(|line| line.strip_prefix("Usage: "));
    match (tip, usage) {
        (Some(tip), _) => tip.to_owned(),
        (None, Some(usage)) => format!("usage: {usage} (more with --help)"),
        (None, None) => "see the command's --help".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_and_a_hint() {
        let error = CommandError::failure("a\n  thing broke").hint("mend it");
        assert_eq!(error.to_string(), "error: a thing broke\nhint: mend it\n");
        assert_eq!(error.exit_code(), EXIT_FAILURE);
    }

    #[test]
    fn a_closed_pipe_is_a_quiet_success() {
        let error = CommandError::io("standard output", &io::ErrorKind::BrokenPipe.into());
        assert_eq!(error.exit_code(), 0);
    }

    #[test]
    fn the_number_of_an_operating_system_error_is_dropped() {
        assert_eq!(
            reason(&io::Error::from_raw_os_error(2)),
            "no such file or directory"
        );
    }

    #[test]
    fn what_clap_says_becomes_one_line() {
        let text = "error: the following required arguments were not provided:\n  <NAME>\n\n\
                    Usage: strandline topic create <NAME>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            from_clap(text).to_string(),
            "error: the following required arguments were not provided: <NAME>\n\
             hint: usage: strandline topic create <NAME> (more with --help)\n"
        );
    }
}
