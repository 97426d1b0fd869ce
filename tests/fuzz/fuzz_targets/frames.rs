//! The target `frames`: see `strandline_tests::fuzz::frames`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strandline_tests::fuzz::{FRAMES, memory::Counting};

#[global_allocator]
static COUNTING: Counting = Counting;

fuzz_target!(|input: &[u8]| FRAMES.run(input));
