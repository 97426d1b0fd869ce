//! The target `messages`: see `strandline_tests::fuzz::messages`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strandline_tests::fuzz::{MESSAGES, memory::Counting};

#[global_allocator]
static COUNTING: Counting = Counting;

fuzz_target!(|input: &[u8]| MESSAGES.run(input));
