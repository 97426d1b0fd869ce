//! Codecs on their own: round trips, what other writers make, caps, damage.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

use std::io::Write;

use proptest::{collection::vec, prelude::*};
use strandline_protocol::{
    batch::Codec,
    compression::{CompressionError, compress, decompress},
};

fn compressed(codec: Codec, input: &[u8]) -> Vec<u8> {
    let mut output = Vec::new();
    compress(codec, input, &mut output).unwrap();
    output
}

fn decompressed(codec: Codec, input: &[u8], cap: usize) -> Result<Vec<u8>, CompressionError> {
    let mut output = b"of the batch before".to_vec();
    decompress(codec, input, cap, &mut output).map(|()| output)
}

#[test]
fn every_size_reads_back_up_to_the_cap_and_no_further() {
    for codec in Codec::ALL {
        for size in [0, 1, 31, 32_768, 65_536, 65_537, 300_000] {
            let input: Vec<u8> = (0..size).map(|at: usize| (at / 100) as u8).collect();
            let output = compressed(codec, &input);
            assert_eq!(
                decompressed(codec, &output, size),
                Ok(input),
                "{codec:?} {size}"
            );
            if let Some(cap) = size.checked_sub(1) {
                let error = decompressed(codec, &output, cap).unwrap_err();
                assert!(
                    matches!(error, CompressionError::TooLarge { .. }),
                    "{codec:?} {error}"
                );
            }
        }
    }
}

#[test]
fn compressed_bytes_are_appended() {
    for codec in Codec::ALL {
        let mut output = b"header".to_vec();
        compress(codec, &[5; 1_000], &mut output).unwrap();
        assert_eq!(&output[..6], b"header");
        assert_eq!(decompressed(codec, &output[6..], 1_000), Ok(vec![5; 1_000]));
    }
}

#[test]
fn a_bomb_takes_no_more_memory_than_the_cap() {
    let zeros = vec![0; 64 << 20];
    for codec in Codec::ALL {
        let bomb = compressed(codec, &zeros);
        let mut output = Vec::new();
        let cap = 1 << 20;
        let error = decompress(codec, &bomb, cap, &mut output).unwrap_err();
        assert!(
            matches!(error, CompressionError::TooLarge { .. }),
            "{codec:?} {error}"
        );
        assert!(
            output.capacity() <= cap + 1,
            "{codec:?} {}",
            output.capacity()
        );
    }
}

#[test]
fn bytes_that_are_cut_off_or_left_over_are_noticed() {
    let input: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    for codec in Codec::ALL {
        if codec == Codec::None {
            continue;
        }
        let output = compressed(codec, &input);
        // Not less: an LZ4 frame that lacks nothing but its end mark is accepted.
        for cut in [0, 1, 3, 10, 20, output.len() / 2, output.len() - 5] {
            let outcome = decompressed(codec, &output[..cut], 1 << 20);
            assert_ne!(outcome, Ok(input.clone()), "{codec:?} {cut}");
        }
        let extended = [output.as_slice(), b"tail"].concat();
        assert!(
            decompressed(codec, &extended, 1 << 20).is_err(),
            "{codec:?}"
        );
    }
}

#[test]
fn raw_snappy_is_read() {
    let input = b"raw raw raw raw raw raw raw".repeat(20);
    let raw = snap::raw::Encoder::new().compress_vec(&input).unwrap();
    assert_eq!(decompressed(Codec::Snappy, &raw, 1_000), Ok(input));
}

#[test]
fn a_snappy_block_that_claims_too_much_is_refused_before_memory_is_reserved() {
    let mut output = Vec::new();
    // A length of 64 MiB, then one literal byte.
    let claim = [0x80, 0x80, 0x80, 0x20, 0, b'x'];
    assert!(decompress(Codec::Snappy, &claim, 1 << 30, &mut output).is_err());
    assert_eq!(output.capacity(), 0);
}

#[test]
fn zstd_frames_without_a_size_are_read() {
    let input: Vec<u8> = (0..2_000_000_u32).map(|at| (at / 1_000) as u8).collect();
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    for chunk in input.chunks(10_000) {
        encoder.write_all(chunk).unwrap();
    }
    let output = encoder.finish().unwrap();
    assert_eq!(decompressed(Codec::Zstd, &output, 2_000_000), Ok(input));
    let error = decompressed(Codec::Zstd, &output, 1_999_999).unwrap_err();
    assert!(
        matches!(error, CompressionError::TooLarge { .. }),
        "{error}"
    );
}

#[test]
fn linked_lz4_blocks_are_read() {
    let input = b"linked blocks ".repeat(20_000);
    let info = lz4_flex::frame::FrameInfo::new()
        .block_mode(lz4_flex::frame::BlockMode::Linked)
        .block_size(lz4_flex::frame::BlockSize::Max64KB);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(&input).unwrap();
    let output = encoder.finish().unwrap();
    assert_eq!(decompressed(Codec::Lz4, &output, 1 << 20), Ok(input));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        for codec in Codec::ALL {
            if let Ok(output) = decompressed(codec, &bytes, 10_000) {
                prop_assert!(output.len() <= 10_000);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_behind_a_good_start_never_panic(
        bytes in vec(any::<u8>(), 0..400),
        keep in 1..40_usize,
    ) {
        for codec in Codec::ALL {
            let mut start = compressed(codec, &[9; 5_000]);
            start.truncate(keep);
            start.extend_from_slice(&bytes);
            if let Ok(output) = decompressed(codec, &start, 10_000) {
                prop_assert!(output.len() <= 10_000);
            }
        }
    }

    #[test]
    fn arbitrary_input_reads_back(bytes in vec(any::<u8>(), 0..5_000)) {
        for codec in Codec::ALL {
            let output = compressed(codec, &bytes);
            prop_assert_eq!(&decompressed(codec, &output, 5_000).unwrap(), &bytes);
        }
    }
}
