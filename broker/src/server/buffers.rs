//! Receive buffers that connections share: one is taken when bytes of a large frame arrive, and
//! goes back as soon as they are in the log, before the fsync that the reply waits for.

use parking_lot::Mutex;

/// The size of a receive buffer, in bytes. A frame that does not fit has one of its own size.
pub const BUFFER_BYTES: usize = 256 << 10;

/// How much unused buffer memory is kept for the next frames, in bytes.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// Buffers that nobody uses now.
#[derive(Debug, Default)]
pub struct BufferPool {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl BufferPool {
    /// A buffer of at least `bytes` bytes and of at least [`BUFFER_BYTES`], all initialised, with
    /// any content. Its memory has been reserved by the caller.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Vec<u8> {
        let mut kept = self.kept.lock();
        let smallest_fit = kept
            .buffers
            .iter()
            .enumerate()
            .filter(|(_, buffer)| buffer.len() >= bytes)
            .min_by_key(|(_, buffer)| buffer.len())
            .map(|(index, _)| index);
        if let Some(index) = smallest_fit {
            let buffer = kept.buffers.swap_remove(index);
            kept.bytes = kept.bytes.saturating_sub(buffer.len());
            return buffer;
        }
        drop(kept);
        vec![0; Self::bytes_for(bytes)]
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

    /// Keeps the buffer for somebody else, or frees it if enough are kept.
    pub fn give_back(&self, buffer: Vec<u8>) {
        let mut kept = self.kept.lock();
        if kept.bytes.saturating_add(buffer.len()) <= KEPT_BYTES_MAX {
            kept.bytes = kept.bytes.saturating_add(buffer.len());
            kept.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_buffer_that_fits_is_used_again() {
        let pool = BufferPool::default();
        pool.give_back(vec![1; 2 * BUFFER_BYTES]);
        pool.give_back(vec![2; BUFFER_BYTES]);
        assert_eq!(pool.take(10), vec![2; BUFFER_BYTES]);
        assert_eq!(pool.take(BUFFER_BYTES + 1), vec![1; 2 * BUFFER_BYTES]);
        assert_eq!(pool.take(3 * BUFFER_BYTES).len(), 3 * BUFFER_BYTES);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let pool = BufferPool::default();
        for _ in 0..200 {
            pool.give_back(vec![0; BUFFER_BYTES]);
        }
        assert!(pool.kept.lock().bytes <= KEPT_BYTES_MAX);
    }
}
