//! A bound on what the kernel holds open for us: descriptors, and mappings.
//!
//! **Owns** the choice of what to close when a limit is reached: second chance, which is nearly
//! least recently used and costs one flag per use. Never closes what still matters: the owner is
//! asked each time, and refuses for a descriptor with unsynced data.

use std::{
    collections::VecDeque,
    fs,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};

/// How much a file system may hold open.
///
/// Both limits are soft: what cannot be closed (unsynced data, views that are being sent) stays, so
/// they lie well below what the kernel allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Open descriptors.
    pub descriptors: usize,
    /// Mappings of files.
    pub mappings: usize,
    /// The address space reserved at once for a mapping, so that a file that grows up to this size
    /// is mapped once. Costs no memory.
    pub mapping_bytes: u64,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            descriptors: 12_000,
            mappings: 40_000,
            mapping_bytes: 1 << 30,
        }
    }
}

impl CacheLimits {
    /// The defaults, made smaller where the process may not have as many: at most 60 % of its
    /// `RLIMIT_NOFILE` and of `vm.max_map_count`, as sockets and the allocator need theirs.
    #[must_use]
    pub fn of_process() -> Self {
        let default = Self::default();
        let share = |limit: Option<u64>, at_most: usize| {
            let usable = limit.unwrap_or(u64::MAX) / 10 * 6;
            usize::try_from(usable).map_or(at_most, |usable| usable.clamp(16, at_most))
        };
        let mappings = fs::read_to_string("/proc/sys/vm/max_map_count");
        let mappings = mappings.ok().and_then(|text| text.trim().parse().ok());
        Self {
            descriptors: share(getrlimit(Resource::Nofile).current, default.descriptors),
            mappings: share(mappings.or(Some(65_530)), default.mappings),
            ..default
        }
    }
}

/// What became of a candidate for closing.
pub(super) enum Eviction<R> {
    /// It was closed, or rather: whoever drops this closes it.
    Closed(R),
    /// It is closed already.
    Absent,
    /// It was used lately, or must stay open.
    Kept,
}

/// The owners (`T`) of open resources (`R`) of one kind, in the order in which they were opened.
#[derive(Debug)]
pub(super) struct Cache<T> {
    limit: usize,
    open: Arc<AtomicUsize>,
    ring: Mutex<VecDeque<Weak<T>>>,
}

/// Counts one open resource for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Candidates looked at in one go, so that opening one file stays cheap when none can be closed.
const CANDIDATES_MAX: usize = 256;

impl<T> Cache<T> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            open: Arc::default(),
            ring: Mutex::default(),
        }
    }

    /// Counts a resource that is being opened.
    pub(super) fn count(&self) -> Counted {
        self.open.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(&self.open))
    }

    /// How many are open, those included that only a view keeps open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Remembers that `owner` has opened its resource, and makes room by `evict`.
    pub(super) fn admit<R>(&self, owner: Weak<T>, evict: impl Fn(&T) -> Eviction<R>) {
        let mut ring = self.ring.lock();
        if ring.len() > self.open().saturating_mul(2).saturating_add(64) {
            ring.retain(|owner| owner.strong_count() > 0);
        }
        let excess = self.open().saturating_sub(self.limit);
        let closed = Self::evict_from(&mut ring, excess, evict);
        ring.push_back(owner);
        drop(ring);
        // Closing may be slow (a removed file is freed now): not under the lock.
        drop(closed);
    }

    /// Closes up to `wanted` now: the kernel has run out.
    pub(super) fn shrink<R>(&self, wanted: usize, evict: impl Fn(&T) -> Eviction<R>) {
        let closed = Self::evict_from(&mut self.ring.lock(), wanted, evict);
        drop(closed);
    }

    fn evict_from<R>(
        ring: &mut VecDeque<Weak<T>>,
        wanted: usize,
        evict: impl Fn(&T) -> Eviction<R>,
    ) -> Vec<R> {
        let mut closed = Vec::new();
        // Twice round: the first time takes away the second chance.
        let candidates = ring.len().saturating_mul(2).min(CANDIDATES_MAX);
        for _ in 0..candidates {
            if closed.len() >= wanted {
                break;
            }
            let Some(owner) = ring.pop_front() else { break };
            let Some(alive) = owner.upgrade() else {
                continue;
            };
            match evict(&alive) {
                Eviction::Closed(resource) => closed.push(resource),
                Eviction::Absent => {}
                Eviction::Kept => ring.push_back(owner),
            }
        }
        closed
    }
}
