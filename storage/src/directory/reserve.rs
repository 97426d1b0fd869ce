//! Room that is kept aside, so that a full disk still takes what makes room.
//!
//! Deleting needs to write: checkpoints, names, a new segment to truncate to. The file `.reserve`
//! holds that room. It is given up when the disk is full and taken again when there is plenty.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::fs::{FileSystem, FsError};

const RESERVE: &str = ".reserve";

/// The reserve is taken again only when the disk has this many times its size: appends and
/// retention, which worked for the room, come first.
const PLENTY: u64 = 4;

/// Whether the room is kept aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveState {
    /// It is there for when the disk is full.
    Held,
    /// It has been given up, or never was to be had: the disk is full, or was until lately.
    Released,
}

#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    state: Mutex<ReserveState>,
}

impl Reserve {
    /// Takes over the reserve that an earlier run left in `directory`.
    pub(super) fn open(fs: &dyn FileSystem, directory: &Path, bytes: u64) -> Result<Self, FsError> {
        let path = directory.join(RESERVE);
        let state = match fs.open(&path) {
            Ok(file) if file.size() == bytes => ReserveState::Held,
            Ok(_) => {
                fs.remove(&path)?;
                ReserveState::Released
            }
            Err(error) if error.is_not_found() => ReserveState::Released,
            Err(error) => return Err(error),
        };
        Ok(Self {
            path,
            bytes,
            state: Mutex::new(state),
        })
    }

    pub(super) fn state(&self) -> ReserveState {
        *self.state.lock()
    }

    /// Gives the room up. Tells whether there was any, so that trying again makes sense.
    pub(super) fn release(&self, fs: &dyn FileSystem) -> Result<bool, FsError> {
        let mut state = self.state.lock();
        if *state == ReserveState::Released {
            return Ok(false);
        }
        fs.remove(&self.path)?;
        *state = ReserveState::Released;
        Ok(true)
    }

    /// Takes the room again if there is plenty.
    pub(super) fn replenish(
        &self,
        fs: &dyn FileSystem,
        directory: &Path,
    ) -> Result<ReserveState, FsError> {
        let mut state = self.state.lock();
        if *state == ReserveState::Held {
            return Ok(*state);
        }
        if fs.space(directory)?.available < self.bytes.saturating_mul(PLENTY) {
            return Ok(*state);
        }
        let file = fs.create(&self.path)?;
        match file.allocate(self.bytes) {
            Ok(()) => *state = ReserveState::Held,
            Err(error) => {
                drop(file);
                fs.remove(&self.path)?;
                if !error.is_full() {
                    return Err(error);
                }
            }
        }
        Ok(*state)
    }
}
