//! The bound on memory, and the allocator that counts against it.

#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// Memory that each byte of input may cause, in bytes. One byte of MessagePack can be an empty text
/// in a list: 24 bytes of memory, twice that while the list grows, and once more where a request
/// is answered.
const BYTES_PER_INPUT_BYTE: usize = 128;

/// What a target may take whatever its input, in bytes: the codecs' own buffers (12 MiB for the
/// largest blocks of LZ4), lists of declared length before their first entry is read (at most 1 MiB
/// each), and what the rigs themselves are made of.
const CONSTANT_BYTES: usize = 20 << 20;

/// How much memory an input of `input_bytes` may cause in all, where what is decompressed is held
/// to `decompressed_bytes_max`. A buffer that grows exists twice for a moment.
#[must_use]
pub const fn allowed_bytes(input_bytes: usize, decompressed_bytes_max: usize) -> usize {
    input_bytes * BYTES_PER_INPUT_BYTE + decompressed_bytes_max + CONSTANT_BYTES
}

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

/// The most memory that `work` held at once on this thread, in bytes. Always 0 unless [`Counting`]
/// is the global allocator.
pub fn peak_bytes(work: impl FnOnce()) -> usize {
    let before = LIVE.get();
    PEAK.set(before);
    work();
    usize::try_from(PEAK.get() - before).unwrap_or(0)
}

/// The system's allocator, which counts what each thread holds.
#[derive(Clone, Copy, Debug)]
pub struct Counting;

fn count(bytes: i64) {
    // A thread that is ending has no counters any more.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

// SAFETY: every call goes to the system's allocator as it came; counting touches two cells of the
// thread that need neither memory nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(signed(bytes) - signed(layout.size()));
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}
