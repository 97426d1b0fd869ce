//! The target `recovery`: see `strandline_tests::fuzz::recovery`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strandline_tests::fuzz::{RECOVERY, memory::Counting};

#[global_allocator]
static COUNTING: Counting = Counting;

fuzz_target!(|input: &[u8]| RECOVERY.run(input));
