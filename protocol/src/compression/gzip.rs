//! gzip (RFC 1952); several members in a row are one stream.

use std::io::Write;

use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};

use super::{CompressionError, read_capped};
use crate::batch::Codec;

pub(super) fn compress(input: &[u8], output: &mut Vec<u8>) -> Result<(), CompressionError> {
    let mut encoder = GzEncoder::new(output, Compression::default());
    encoder
        .write_all(input)
        .and_then(|()| encoder.finish())
        .map(|_| ())
        .map_err(|error| CompressionError::malformed(Codec::Gzip, error))
}

pub(super) fn decompress(
    input: &[u8],
    cap: usize,
    output: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    read_capped(Codec::Gzip, MultiGzDecoder::new(input), cap, output)
}
