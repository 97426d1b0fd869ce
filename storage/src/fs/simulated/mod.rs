//! A disk in memory that does everything a real one may do to a program, on demand and by a seed.
//!
//! # Fault model
//!
//! **Power cuts** ([`SimulatedDisk::power_cut`]). What was synced is there. Of everything else,
//! each part is found or not, independently:
//! - Every 512-byte sector written since the last sync of its file: as it was at that sync, as it
//!   is now, or as it was in between (the kernel writes back when it likes, in any order). One in
//!   eight that is found is *torn*: its beginning is new, its rest is old.
//! - The size of a file: what was allocated and not synced may be gone, with the data in it; what
//!   is allocated and was never written reads as zeros.
//! - Every name created or removed and every rename since the last sync of its directory. A rename
//!   is one step, as journals make it: both names change, or neither does. Syncing a file does not
//!   make its name durable, and syncing a directory does not make that of the directory itself so.
//!
//! **Killed processes** ([`SimulatedDisk::kill`]): nothing is lost, locks are free, the boot is the
//! same.
//!
//! **Crashes at a point** ([`SimulatedDisk::crash_after`]): the machine goes off in the middle of
//! the n-th operation that changes something. That operation has been done in memory (a sync has
//! not), but its caller gets an error, and so does every caller after it, until the power cut or
//! the kill.
//!
//! **Failures** ([`Fault`]): the n-th operation of a kind, on certain paths, fails, a number of
//! times. Unless it is a sync it has done nothing then. A sync that fails has written some of what
//! it was to write; the rest is not dirty any more, so a later sync that works does not write it,
//! though it is still read (as Linux does: "fsyncgate").
//!
//! **Stalls** ([`Failure::Stalled`]): the operation waits, in its thread, until it is released
//! ([`SimulatedDisk::release`]) or the machine goes off; then it is done, or finds the machine off.
//! Other operations go on meanwhile. Only where a test asks for it: on one thread it would be for
//! ever.
//!
//! **A full disk** ([`SimulatedDisk::set_capacity`]): allocating beyond it fails; names cost
//! nothing.
//!
//! **Rot** ([`SimulatedDisk::rot`]): bits flip where they are stored, and no operation reports it.
//!
//! **Cold files** ([`SimulatedDisk::chill`]): not in memory until they are populated.
//!
//! Not modelled: sectors that are written to another place, sectors that
//! cannot be read in the middle of a view (on a real disk a signal; here [`File::view`] fails).
//!
//! The same seeds and the same operations give the same disk: there is no clock, no global
//! randomness, no map without an order in it.
//!
//! [`File::view`]: super::File::view

mod content;
mod fault;
mod file_system;
mod random;
mod stalls;
mod state;
mod tree;

use std::{path::Path, sync::Arc};

use parking_lot::{Condvar, Mutex};

pub use fault::{Failure, Fault, MachineOff};

use self::{
    file_system::{Machine, SimulatedFileSystem},
    state::State,
};
use super::{FileSystem, FsError};

/// A simulated disk with the machine around it. Clones are of the same one. See the module.
#[derive(Clone, Debug)]
pub struct SimulatedDisk {
    machine: Arc<Machine>,
}

impl SimulatedDisk {
    /// An empty disk without limits. The seed decides what a failing sync writes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with(State::new(seed))
    }

    /// What programs work on. All of them see the same files.
    #[must_use]
    pub fn file_system(&self) -> Arc<dyn FileSystem> {
        Arc::new(SimulatedFileSystem::new(Arc::clone(&self.machine)))
    }

    /// Cuts the power. What was opened on this disk gets errors from now on; the answer is the
    /// machine after its next start, with what `seed` has left of the data. Faults are gone, the
    /// capacity stays.
    #[must_use]
    pub fn power_cut(&self, seed: u64) -> Self {
        let mut state = self.machine.state.lock();
        state.switch_off();
        self.machine.released.notify_all();
        Self::with(state.after_power_cut(seed))
    }

    /// Kills every process. What was opened on this disk gets errors from now on; the answer is the
    /// same machine, with everything that was written, durable or not. Faults are gone.
    #[must_use]
    pub fn kill(&self) -> Self {
        let mut state = self.machine.state.lock();
        state.switch_off();
        self.machine.released.notify_all();
        Self::with(state.after_kill())
    }

    /// Goes off in the middle of the `changes`-th operation from now that changes something (the
    /// next one is 1).
    pub fn crash_after(&self, changes: u64) {
        self.machine.state.lock().crash_after(changes);
    }

    /// How many operations that change something there have been: how many points there are for
    /// [`SimulatedDisk::crash_after`] in what ran so far.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.machine.state.lock().changes()
    }

    /// How many operations there have been, those that only look included: how many points there
    /// are for [`Fault::after`] in what ran so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.machine.state.lock().operations()
    }

    /// From now on keeps the machine as it is in front of every operation that changes something.
    /// Costs memory for the names and sectors of the whole disk each time, so for small disks only.
    pub fn keep_boundaries(&self) {
        self.machine.state.lock().keep_boundaries();
    }

    /// The machine as it was in front of each change since [`SimulatedDisk::keep_boundaries`], and
    /// as it is now: for `n` changes, `n + 1` machines. They are independent of this one, and only
    /// good for [`SimulatedDisk::power_cut`] and [`SimulatedDisk::kill`], as often as is wanted.
    /// Keeps no more afterwards.
    #[must_use]
    pub fn take_boundaries(&self) -> Vec<Self> {
        let kept = self.machine.state.lock().take_boundaries();
        kept.into_iter().map(Self::with).collect()
    }

    /// Whether it went off: at the point that [`SimulatedDisk::crash_after`] named, or because this
    /// machine was started again since.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.machine.state.lock().is_off()
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.machine.state.lock().inject(fault);
    }

    /// How many faults still wait for their operations.
    #[must_use]
    pub fn faults(&self) -> usize {
        self.machine.state.lock().faults()
    }

    /// Takes all faults away; what is stalled goes on.
    pub fn heal(&self) {
        self.machine.state.lock().heal();
        self.machine.released.notify_all();
    }

    /// Lets everything go on that is stalled, and has nothing stall any more.
    pub fn release(&self) {
        self.machine.state.lock().stalls().release();
        self.machine.released.notify_all();
    }

    /// How many operations are stalled right now.
    #[must_use]
    pub fn stalled(&self) -> usize {
        self.machine.state.lock().stalls().waiting()
    }

    /// How many bytes fit, in blocks of 4,096 for each file; none for no limit. May be less than
    /// what is there.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.machine.state.lock().set_capacity(bytes);
    }

    /// Flips the bits of `mask` in the byte at `at` of a file, on the medium and in memory.
    ///
    /// # Errors
    /// If there is no such byte.
    pub fn rot(&self, path: &Path, at: u64, mask: u8) -> Result<(), FsError> {
        self.machine.state.lock().rot(path, at, mask)
    }

    /// Takes all files out of memory: they are not resident until they are populated.
    pub fn chill(&self) {
        self.machine.state.lock().chill();
    }

    /// How many files hold bytes, or have a size, that a power cut may take.
    #[must_use]
    pub fn files_unsynced(&self) -> usize {
        self.machine.state.lock().unsynced()
    }

    fn with(state: State) -> Self {
        Self {
            machine: Arc::new(Machine {
                state: Mutex::new(state),
                released: Condvar::new(),
            }),
        }
    }
}
