//! Zstandard frames.
//!
//! They are decompressed in one step into the final buffer, never as a stream: a stream allocates
//! the window that the frame asks for, up to 128 MiB whatever its size.

use zstd::zstd_safe::{CCtx, DCtx, compress_bound, get_error_name, get_frame_content_size};

use super::{CompressionError, GROWTH_BYTES_MIN};
use crate::batch::Codec;

/// Zstandard's own default.
const LEVEL: i32 = 3;

/// By how much the buffer grows when a frame that does not tell its size does not fit.
const GROWTH_FACTOR: usize = 4;

pub(super) fn compress(input: &[u8], output: &mut Vec<u8>) -> Result<(), CompressionError> {
    let start = output.len();
    output.resize(start + compress_bound(input.len()), 0);
    let room = output.get_mut(start..).unwrap_or_default();
    let written = CCtx::create()
        .compress(room, input, LEVEL)
        .map_err(|code| CompressionError::malformed(Codec::Zstd, get_error_name(code)))?;
    output.truncate(start + written);
    Ok(())
}

pub(super) fn decompress(
    input: &[u8],
    cap: usize,
    output: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    let mut context = DCtx::create();
    let declared = get_frame_content_size(input)
        .ok()
        .flatten()
        .and_then(|bytes| usize::try_from(bytes).ok());
    if declared.is_some_and(|bytes| bytes > cap) {
        return Err(CompressionError::too_large(Codec::Zstd, cap));
    }
    let guess = input.len().saturating_mul(GROWTH_FACTOR);
    let mut room = declared
        .unwrap_or_else(|| guess.max(GROWTH_BYTES_MIN))
        .max(output.capacity())
        .min(cap);
    loop {
        output.clear();
        output.reserve_exact(room);
        // The capacity may be larger than asked for: what the caller allows is held by the length.
        match context.decompress(output, input) {
            Ok(bytes) if bytes > cap => {
                return Err(CompressionError::too_large(Codec::Zstd, cap));
            }
            Ok(_) => return Ok(()),
            Err(code) if get_error_name(code) == TOO_SMALL => {
                if room >= cap {
                    return Err(CompressionError::too_large(Codec::Zstd, cap));
                }
                room = room.saturating_mul(GROWTH_FACTOR).min(cap);
            }
            Err(code) => {
                let reason = get_error_name(code);
                return Err(CompressionError::malformed(Codec::Zstd, reason));
            }
        }
    }
}

/// How the library names `ZSTD_error_dstSize_tooSmall`; a test holds it.
const TOO_SMALL: &str = "Destination buffer is too small";
