//! What is to go wrong, and when.

use std::{io, path::Path};

use crate::fs::{FsError, Operation};

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The disk cannot (`EIO`). A sync that fails so loses what it was to write; see the module.
    Broken,
    /// The disk is full (`ENOSPC`).
    Full,
    /// It does not fail but waits, until [`SimulatedDisk::release`] or the machine goes off. For
    /// tests with threads: where there is one only, nobody could release it.
    ///
    /// [`SimulatedDisk::release`]: super::SimulatedDisk::release
    Stalled,
}

impl Failure {
    fn error(self) -> io::Error {
        match self {
            // EIO has no kind of its own.
            Self::Broken => io::Error::from_raw_os_error(libc::EIO),
            Self::Full => io::ErrorKind::StorageFull.into(),
            Self::Stalled => io::ErrorKind::TimedOut.into(),
        }
    }
}

/// A fault that waits for its operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which operations; any if none is named.
    pub operation: Option<Operation>,
    /// Only those on a path that contains this.
    pub path_contains: String,
    /// How many of them work before.
    pub after: u64,
    /// How many of them fail then.
    pub times: u64,
    /// How.
    pub failure: Failure,
}

impl Fault {
    /// The next `operation` fails, whatever it is on.
    #[must_use]
    pub const fn next(operation: Operation, failure: Failure) -> Self {
        Self {
            operation: Some(operation),
            path_contains: String::new(),
            after: 0,
            times: 1,
            failure,
        }
    }

    /// The same, on a path that contains `text`.
    #[must_use]
    pub fn on(self, text: &str) -> Self {
        Self {
            path_contains: text.to_owned(),
            ..self
        }
    }

    /// Takes note of an operation; tells whether it fails.
    pub(super) fn strikes(&mut self, operation: Operation, path: &Path) -> Option<io::Error> {
        let is_meant = self.operation.is_none_or(|meant| meant == operation)
            && path.to_string_lossy().contains(&self.path_contains);
        if !is_meant {
            return None;
        }
        if self.after > 0 {
            self.after = self.after.saturating_sub(1);
            return None;
        }
        self.times = self.times.checked_sub(1)?;
        Some(self.failure.error())
    }

    pub(super) const fn is_spent(&self) -> bool {
        self.times == 0
    }
}

/// The simulated machine has crashed: nothing works until it is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the simulated machine is off")]
pub struct MachineOff;

impl MachineOff {
    /// Whether `error` says so.
    #[must_use]
    pub fn is_cause_of(error: &FsError) -> bool {
        error
            .source
            .get_ref()
            .is_some_and(|source| source.is::<Self>())
    }

    pub(super) fn error() -> io::Error {
        io::Error::other(Self)
    }
}
