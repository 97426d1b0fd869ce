//! Receive buffers that connections share: one is taken when bytes of a large frame arrive, and
//! goes back as soon as they are in the log, before the fsync that the reply waits for.
//!
//! *Pattern: object pool.* A buffer is a mapping of its own. What is freed is the system's again at
//! once; an allocator would keep it in the arena of the thread that took it, where no other thread
//! finds it, and a budget of what is in use would bound nothing.

use std::{
    alloc::{Layout, handle_alloc_error},
    collections::VecDeque,
    ops::{Deref, DerefMut},
};

use memmap2::MmapMut;
use parking_lot::Mutex;

/// The size of a receive buffer, in bytes. A frame that does not fit has one of a multiple of it.
pub const BUFFER_BYTES: usize = 256 << 10;

/// How much unused buffer memory is kept for the next frames, in bytes.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// Memory for what arrives, all initialised. It is the system's again when this is dropped.
#[derive(Debug)]
pub struct Buffer {
    map: MmapMut,
}

impl Buffer {
    /// A buffer of `bytes` bytes, all 0; its pages are taken as they are written. As with any
    /// allocation, the process ends if the system has no memory.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        match MmapMut::map_anon(bytes) {
            Ok(map) => Self { map },
            Err(_) => handle_alloc_error(Layout::array::<u8>(bytes).unwrap_or(Layout::new::<u8>())),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

/// Buffers that nobody uses now.
#[derive(Debug, Default)]
pub struct BufferPool {
    kept: Mutex<Kept>,
}

/// The one that was given back last is at the end.
#[derive(Debug, Default)]
struct Kept {
    buffers: VecDeque<Buffer>,
    bytes: usize,
}

impl BufferPool {
    /// A buffer of [`BufferPool::bytes_for`] `bytes` bytes, with any content. Its memory has been
    /// reserved by the caller: it is never larger, or whoever reserves little would hold much.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Buffer {
        let bytes = Self::bytes_for(bytes);
        let mut kept = self.kept.lock();
        // The last one's pages are the most likely to be in a cache.
        let fit = kept.buffers.iter().rposition(|kept| kept.len() == bytes);
        if let Some(buffer) = fit.and_then(|index| kept.buffers.remove(index)) {
            kept.bytes = kept.bytes.saturating_sub(buffer.len());
            return buffer;
        }
        drop(kept);
        Buffer::new(bytes)
    }

    /// The size of a buffer for `bytes` bytes: few sizes, so that buffers fit again.
    #[must_use]
    pub const fn bytes_for(bytes: usize) -> usize {
        match bytes.checked_next_multiple_of(BUFFER_BYTES) {
            Some(0) => BUFFER_BYTES,
            Some(rounded) => rounded,
            None => bytes,
        }
    }

    /// Keeps the buffer for somebody else. What is kept too much is freed, the longest unused
    /// first, so that sizes nobody asks for any more make room.
    pub fn give_back(&self, buffer: Buffer) {
        if buffer.len() > KEPT_BYTES_MAX {
            return;
        }
        let mut freed = Vec::new();
        let mut kept = self.kept.lock();
        kept.bytes = kept.bytes.saturating_add(buffer.len());
        kept.buffers.push_back(buffer);
        while kept.bytes > KEPT_BYTES_MAX
            && let Some(oldest) = kept.buffers.pop_front()
        {
            kept.bytes = kept.bytes.saturating_sub(oldest.len());
            freed.push(oldest);
        }
        drop(kept);
        // Unmapping takes a while, which nobody waits for with the lock.
        drop(freed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(bytes: usize, with: u8) -> Buffer {
        let mut buffer = Buffer::new(bytes);
        buffer.fill(with);
        buffer
    }

    #[test]
    fn a_buffer_of_the_right_size_is_used_again() {
        let pool = BufferPool::default();
        pool.give_back(filled(2 * BUFFER_BYTES, 1));
        pool.give_back(filled(BUFFER_BYTES, 2));
        assert_eq!(pool.take(10)[..], [2; BUFFER_BYTES]);
        assert_eq!(pool.take(BUFFER_BYTES + 1)[..], [1; 2 * BUFFER_BYTES]);
        assert_eq!(pool.take(3 * BUFFER_BYTES).len(), 3 * BUFFER_BYTES);
    }

    /// It would count as a small one as long as its holder pleases.
    #[test]
    fn a_large_buffer_does_not_serve_a_small_frame() {
        let pool = BufferPool::default();
        pool.give_back(filled(32 * BUFFER_BYTES, 1));
        assert_eq!(pool.take(10).len(), BUFFER_BYTES);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_newest() {
        let pool = BufferPool::default();
        pool.give_back(Buffer::new(KEPT_BYTES_MAX));
        for _ in 0..200 {
            pool.give_back(Buffer::new(BUFFER_BYTES));
            assert!(pool.kept.lock().bytes <= KEPT_BYTES_MAX);
        }
        let kept = pool.kept.lock();
        assert_eq!(kept.buffers.len(), KEPT_BYTES_MAX / BUFFER_BYTES);
        assert!(kept.buffers.iter().all(|kept| kept.len() == BUFFER_BYTES));
    }

    #[test]
    fn one_that_is_too_large_to_keep_takes_no_other_ones_place() {
        let pool = BufferPool::default();
        pool.give_back(Buffer::new(BUFFER_BYTES));
        pool.give_back(Buffer::new(2 * KEPT_BYTES_MAX));
        assert_eq!(pool.kept.lock().bytes, BUFFER_BYTES);
    }
}
