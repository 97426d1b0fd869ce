//! The target `batches`: see `strandline_tests::fuzz::batches`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strandline_tests::fuzz::{BATCHES, memory::Counting};

#[global_allocator]
static COUNTING: Counting = Counting;

fuzz_target!(|input: &[u8]| BATCHES.run(input));
