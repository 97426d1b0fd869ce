//! The target `configuration`: see `strandline_tests::fuzz::configuration`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strandline_tests::fuzz::{CONFIGURATION, memory::Counting};

#[global_allocator]
static COUNTING: Counting = Counting;

fuzz_target!(|input: &[u8]| CONFIGURATION.run(input));
