//! What the fuzz targets do with their input, as plain functions.
//!
//! **Owns** the bodies of the targets in `tests/fuzz` (which need a nightly compiler) and of the
//! test that replays their corpora (which does not), the bound on memory that both hold them to
//! ([`memory`]), and the seeds that the corpora begin with ([`seeds`]).
//!
//! **Never** is a target's verdict a matter of taste: a panic, an input that takes for ever, memory
//! beyond the bound, or an answer that contradicts another answer. Refusing is always right.

pub mod batches;
mod choices;
pub mod configuration;
mod disk;
pub mod files;
pub mod frames;
pub mod memory;
pub mod messages;
pub mod recovery;
pub mod seeds;

use strandline_protocol::limits::DECOMPRESSED_BYTES_MAX;

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of the binary and of the corpus.
    pub name: &'static str,
    /// What it does with one input.
    body: fn(&[u8]),
    /// How much decompressed input it may hold at once, in bytes.
    decompressed_bytes_max: usize,
}

/// Frames, cut out of a stream that arrives in pieces.
pub const FRAMES: Target = Target::new("frames", frames::run);
/// Requests, responses and pushes of every API.
pub const MESSAGES: Target = Target::new("messages", messages::run);
/// Record batches of every codec, up to the append.
pub const BATCHES: Target = Target {
    decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
    ..Target::new("batches", batches::run)
};
/// Every kind of file that a start reads, one at a time.
pub const FILES: Target = Target::new("files", files::run);
/// A data directory with its logs, edited.
pub const RECOVERY: Target = Target::new("recovery", recovery::run);
/// The configuration file, variables, and the configuration of topics.
pub const CONFIGURATION: Target = Target::new("configuration", configuration::run);

/// Every target.
pub const TARGETS: [Target; 6] = [FRAMES, MESSAGES, BATCHES, FILES, RECOVERY, CONFIGURATION];

impl Target {
    const fn new(name: &'static str, body: fn(&[u8])) -> Self {
        Self {
            name,
            body,
            decompressed_bytes_max: 0,
        }
    }

    /// Runs the target on one input, and holds the memory that it took against the bound.
    ///
    /// # Panics
    /// If the target found something.
    pub fn run(&self, input: &[u8]) {
        let allowed = memory::allowed_bytes(input.len(), self.decompressed_bytes_max);
        let taken = memory::peak_bytes(|| (self.body)(input));
        assert!(
            taken <= allowed,
            "{}: an input of {} bytes took {taken} bytes of memory, {allowed} are allowed",
            self.name,
            input.len()
        );
    }
}
