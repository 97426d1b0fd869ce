//! A batch whose length has rotted: it leads to the wrong place, and must hide no other batch.

use std::{fs, path::PathBuf};

use crate::common::{Rig, append, records};
use strandline_protocol::Offset;
use strandline_storage::log::Shutdown;

/// Nine batches of one record each, of which the one with the number N holds N times `growth` more
/// bytes; what `damage` makes of their bytes, given where each begins, is on the disk afterwards.
fn damaged(shutdown: Shutdown, growth: usize, damage: impl Fn(&mut [u8], &[usize])) -> Rig {
    let mut rig = Rig::mapped();
    rig.config.segment_bytes = 100_000;
    // No index entry leads past the damage.
    rig.config.index_interval_bytes = 100_000;
    let mut log = rig.open();
    let mut positions = Vec::new();
    for number in 0..9 {
        positions.push(log.bytes() as usize);
        let filling = "x".repeat(60 + number * growth);
        append(&mut log, &[&format!("record {number} {filling}")]);
    }
    rig.close(log);
    rig.hint.shutdown = shutdown;
    let path: PathBuf = rig.directory.join("00000000000000000000.log");
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes, &positions);
    fs::write(&path, bytes).unwrap();
    rig
}

/// Reads each of the nine on its own: those in `bad` must be refused, all others be as they were.
fn check_all_but(rig: &Rig, bad: &[i64], context: &str) {
    let log = rig.open();
    assert_eq!(log.end(), Offset(9), "{context}");
    for offset in 0..9 {
        let fetched = log.read(Offset(offset), 1, log.end());
        let fetched = fetched.and_then(|fetched| fetched.check().map(|()| fetched));
        if bad.contains(&offset) {
            assert!(fetched.is_err(), "{offset}: {context}");
            continue;
        }
        let fetched = fetched.unwrap_or_else(|error| panic!("{offset}: {context}: {error}"));
        let (found, text) = records(&fetched.bytes).remove(0);
        assert_eq!(found, offset, "{context}");
        assert!(text.starts_with(&format!("record {offset} ")), "{context}");
    }
}

/// The length of a batch is bytes 8 to 12 of its header. A length that had become shorter led into
/// the batch itself, and the next one was looked for with an offset above its own: it was skipped.
#[test]
fn a_wrong_length_costs_its_own_batch_only() {
    for bit in 0..32 {
        for shutdown in [Shutdown::Clean, Shutdown::Unclean] {
            let rig = damaged(shutdown, 40, |bytes, at| {
                bytes[at[4] + 8 + bit / 8] ^= 1 << (bit % 8);
            });
            check_all_but(&rig, &[4], &format!("bit {bit} after {shutdown:?}"));
        }
    }
}

/// A length that has become longer led over the next batch, which was bad itself, into the one
/// behind that: as the next one was not found, what lay before the end of the wrong length was
/// lost too.
#[test]
fn a_wrong_length_beside_a_damaged_batch_costs_these_two_only() {
    for shutdown in [Shutdown::Clean, Shutdown::Unclean] {
        let rig = damaged(shutdown, 0, |bytes, at| {
            let wrong = u32::try_from(at[6] + 70 - at[4] - 12).unwrap();
            bytes[at[4] + 8..at[4] + 12].copy_from_slice(&wrong.to_be_bytes());
            bytes[at[5] + 80] ^= 1;
        });
        check_all_but(&rig, &[4, 5], &format!("after {shutdown:?}"));
    }
}
