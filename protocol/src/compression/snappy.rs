//! Snappy in the framing of xerial's `SnappyOutputStream`, which Kafka's Java clients write:
//! sixteen bytes of magic and versions, then blocks, each behind its length (i32, big-endian).
//!
//! Some clients of other languages send one raw block; that is read too.

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::CompressionError;
use crate::batch::Codec;

/// `\x82SNAPPY\0`, then version 1, compatible with version 1.
const FRAMING: [u8; 16] = [
    0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1,
];

/// What tells the framing from a raw block; the versions behind it are not looked at.
const MAGIC_BYTES: usize = 8;

/// How much goes into one block, in bytes: xerial's default.
const BLOCK_BYTES: usize = 32 << 10;

/// No element of the format gives more bytes than this for each of its own (a copy of 64 bytes
/// takes three), so a block that claims more is refused before memory is reserved for it.
const EXPANSION_MAX: usize = 32;

pub(super) fn compress(input: &[u8], output: &mut Vec<u8>) -> Result<(), CompressionError> {
    let mut encoder = Encoder::new();
    output.extend_from_slice(&FRAMING);
    for block in input.chunks(BLOCK_BYTES) {
        let length_at = output.len();
        let block_at = length_at + 4;
        output.resize(block_at + max_compress_len(block.len()), 0);
        let room = output.get_mut(block_at..).unwrap_or_default();
        let written = encoder.compress(block, room).map_err(malformed)?;
        output.truncate(block_at + written);
        let length = u32::try_from(written).map_err(malformed)?;
        if let Some(slot) = output.get_mut(length_at..block_at) {
            slot.copy_from_slice(&length.to_be_bytes());
        }
    }
    Ok(())
}

pub(super) fn decompress(
    input: &[u8],
    cap: usize,
    output: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    if !input.starts_with(FRAMING.get(..MAGIC_BYTES).unwrap_or_default()) {
        return decompress_block(input, cap, output);
    }
    let mut rest = input
        .get(FRAMING.len()..)
        .ok_or_else(|| malformed("the framing is cut off"))?;
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(malformed)?;
        let (block, behind) = behind
            .split_at_checked(length)
            .ok_or_else(|| malformed("a block is longer than what is left"))?;
        decompress_block(block, cap, output)?;
        rest = behind;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(malformed("the length of a block is cut off"))
    }
}

fn decompress_block(
    block: &[u8],
    cap: usize,
    output: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    let bytes = decompress_len(block).map_err(malformed)?;
    let start = output.len();
    let end = start.saturating_add(bytes);
    if end > cap {
        return Err(CompressionError::too_large(Codec::Snappy, cap));
    }
    if bytes > block.len().saturating_mul(EXPANSION_MAX) {
        return Err(malformed("a block claims a size that it cannot have"));
    }
    if end > output.capacity() {
        let target = output.capacity().saturating_mul(2).min(cap).max(end);
        output.reserve_exact(target.saturating_sub(start));
    }
    output.resize(end, 0);
    let room = output.get_mut(start..).unwrap_or_default();
    Decoder::new()
        .decompress(block, room)
        .map(|_| ())
        .map_err(malformed)
}

fn malformed(reason: impl ToString) -> CompressionError {
    CompressionError::malformed(Codec::Snappy, reason)
}
