//! A batch whose length has rotted: it leads to the wrong place, and must hide no other batch.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

mod common;

use std::{fs, path::PathBuf};

use common::{Rig, append, records};
use strandline_protocol::Offset;
use strandline_storage::log::Shutdown;

/// The length of a batch is bytes 8 to 12 of its header. A length that had become shorter led into
/// the batch itself, and the next one was looked for with an offset above its own: it was skipped.
#[test]
fn a_wrong_length_costs_its_own_batch_only() {
    for bit in 0..32 {
        for shutdown in [Shutdown::Clean, Shutdown::Unclean] {
            let mut rig = Rig::mapped();
            rig.config.segment_bytes = 100_000;
            // No index entry leads past the damage.
            rig.config.index_interval_bytes = 100_000;
            let mut log = rig.open();
            let mut positions = Vec::new();
            for number in 0..9 {
                positions.push(log.bytes() as usize);
                append(
                    &mut log,
                    &[&format!("record {number} {}", "x".repeat(number * 40))],
                );
            }
            rig.close(log);
            rig.hint.shutdown = shutdown;
            let path: PathBuf = rig.directory.join("00000000000000000000.log");
            let mut bytes = fs::read(&path).unwrap();
            bytes[positions[4] + 8 + bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            let log = rig.open();
            let context = format!("bit {bit} after {shutdown:?}");
            assert_eq!(log.end(), Offset(9), "{context}");
            for offset in (0..9).filter(|offset| *offset != 4) {
                let fetched = log.read(Offset(offset), 1, log.end());
                let fetched = fetched.unwrap_or_else(|error| panic!("{context}: {error}"));
                fetched
                    .check()
                    .unwrap_or_else(|error| panic!("{context}: {error}"));
                let (found, text) = records(&fetched.bytes).remove(0);
                assert_eq!(found, offset, "{context}");
                assert!(text.starts_with(&format!("record {offset} ")), "{context}");
            }
            let bad = log.read(Offset(4), 1, log.end());
            assert!(bad.is_err() || bad.unwrap().check().is_err(), "{context}");
        }
    }
}

/// A length that has become longer led over the next batch, which was bad itself, into the one
/// behind that: as the next one was not found, what lay before the end of the wrong length was
/// lost too.
#[test]
fn a_wrong_length_beside_a_damaged_batch_costs_these_two_only() {
    for shutdown in [Shutdown::Clean, Shutdown::Unclean] {
        let mut rig = Rig::mapped();
        rig.config.segment_bytes = 100_000;
        rig.config.index_interval_bytes = 100_000;
        let mut log = rig.open();
        let mut positions = Vec::new();
        for number in 0..9 {
            positions.push(log.bytes() as usize);
            append(&mut log, &[&format!("record {number} {}", "x".repeat(60))]);
        }
        rig.close(log);
        rig.hint.shutdown = shutdown;
        let path: PathBuf = rig.directory.join("00000000000000000000.log");
        let mut bytes = fs::read(&path).unwrap();
        let length = positions[4] + 8..positions[4] + 12;
        let wrong = positions[6] + 70 - positions[4] - 12;
        bytes[length].copy_from_slice(&u32::try_from(wrong).unwrap().to_be_bytes());
        bytes[positions[5] + 80] ^= 1;
        fs::write(&path, bytes).unwrap();
        let log = rig.open();
        assert_eq!(log.end(), Offset(9));
        for offset in 0..9 {
            let fetched = log.read(Offset(offset), 1, log.end());
            let fetched = fetched.and_then(|fetched| fetched.check().map(|()| fetched));
            let is_bad = offset == 4 || offset == 5;
            assert_eq!(fetched.is_err(), is_bad, "{offset} after {shutdown:?}");
        }
    }
}
