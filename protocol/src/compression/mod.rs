//! The codecs of record batches, each bounded.
//!
//! Compressed bytes come from peers: whatever they claim, decompressing them never takes more
//! memory than the cap that the caller gives and a constant: a codec's own buffers, at most the 12
//! MiB that LZ4 takes for blocks of 4 MiB that build on each other.

mod gzip;
mod lz4;
mod snappy;
mod zstandard;

use std::io::Read;

use crate::batch::Codec;

/// Why bytes could not be compressed or decompressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The compressed bytes are not valid.
    #[error("{codec} cannot read them: {reason}")]
    Malformed {
        /// By which codec.
        codec: &'static str,
        /// What it met.
        reason: String,
    },
    /// They are valid so far, but become larger than the caller allows.
    #[error("they exceed {cap} bytes once decompressed by {codec}: send smaller batches")]
    TooLarge {
        /// By which codec.
        codec: &'static str,
        /// What the caller allows.
        cap: usize,
    },
}

impl CompressionError {
    fn malformed(codec: Codec, reason: impl ToString) -> Self {
        let (codec, reason) = (codec.name(), reason.to_string());
        Self::Malformed { codec, reason }
    }

    const fn too_large(codec: Codec, cap: usize) -> Self {
        let codec = codec.name();
        Self::TooLarge { codec, cap }
    }
}

/// Appends `input`, compressed by `codec`, to `output`.
///
/// # Errors
/// If the codec fails, which it does not on any input.
pub fn compress(codec: Codec, input: &[u8], output: &mut Vec<u8>) -> Result<(), CompressionError> {
    match codec {
        Codec::None => {
            output.extend_from_slice(input);
            Ok(())
        }
        Codec::Gzip => gzip::compress(input, output),
        Codec::Snappy => snappy::compress(input, output),
        Codec::Lz4 => lz4::compress(input, output),
        Codec::Zstd => zstandard::compress(input, output),
    }
}

/// Replaces what `output` holds by `input`, decompressed by `codec`: at most `cap` bytes.
///
/// # Errors
/// [`CompressionError`]; what `output` then holds means nothing.
pub fn decompress(
    codec: Codec,
    input: &[u8],
    cap: usize,
    output: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    output.clear();
    match codec {
        Codec::None if input.len() > cap => Err(CompressionError::too_large(codec, cap)),
        Codec::None => {
            output.extend_from_slice(input);
            Ok(())
        }
        Codec::Gzip => gzip::decompress(input, cap, output),
        Codec::Snappy => snappy::decompress(input, cap, output),
        Codec::Lz4 => lz4::decompress(input, cap, output),
        Codec::Zstd => zstandard::decompress(input, cap, output),
    }
}

/// The first guess at the decompressed size, in bytes, and the least that a buffer grows by.
const GROWTH_BYTES_MIN: usize = 64 << 10;

/// Reads `reader` to its end into `output`, whose memory grows by doubling and never past `cap`.
fn read_capped(
    codec: Codec,
    mut reader: impl Read,
    cap: usize,
    output: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    loop {
        let room = output.len().max(GROWTH_BYTES_MIN);
        // One byte past the cap tells a reader that ends there from one that goes on.
        let room = room.min(cap.saturating_add(1).saturating_sub(output.len()));
        if output.capacity().saturating_sub(output.len()) < room {
            output.reserve_exact(room);
        }
        let limit = u64::try_from(room).unwrap_or(u64::MAX);
        let read = reader
            .by_ref()
            .take(limit)
            .read_to_end(output)
            .map_err(|error| CompressionError::malformed(codec, error))?;
        if output.len() > cap {
            return Err(CompressionError::too_large(codec, cap));
        }
        if read < room {
            return Ok(());
        }
    }
}
