//! The target `files`: see `strandline_tests::fuzz::files`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strandline_tests::fuzz::{FILES, memory::Counting};

#[global_allocator]
static COUNTING: Counting = Counting;

fuzz_target!(|input: &[u8]| FILES.run(input));
