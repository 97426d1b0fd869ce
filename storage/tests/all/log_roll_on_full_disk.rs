//! A roll that finds the disk full, and batches behind it that still fit into the old segment.

use std::path::PathBuf;

use crate::common::{EPOCH, NOW, Rig, append, batch, expect, read_all};
use strandline_protocol::{Offset, batch::ProducerStamp};
use strandline_storage::fs::{
    Operation,
    simulated::{Failure, Fault, SimulatedDisk},
};

/// The name of the segment that could not be made reached the disk, and its removal did not: the
/// restart ended the segment before at its base, and cut off what had been acknowledged since.
#[test]
fn a_segment_that_could_not_be_made_cuts_nothing_off() {
    for seed in 0..200 {
        let disk = SimulatedDisk::new(seed);
        let files = disk.file_system();
        files.create_directory("/data".as_ref()).unwrap();
        files.sync_directory("/".as_ref()).unwrap();
        let mut rig = Rig::on(files, PathBuf::from("/data/topic-0"));
        rig.config.segment_bytes = 1_200;
        let mut log = rig.open();
        let large = "x".repeat(400);
        append(&mut log, &[&large]);
        append(&mut log, &[&large]);
        log.flush().unwrap();
        let full = Fault::next(Operation::Allocate, Failure::Full).on("00000000000000000002.log");
        disk.inject(Fault { times: 2, ..full });
        let refused = log.append(&batch(&[&large], NOW.0, ProducerStamp::NONE), EPOCH, NOW);
        assert!(
            refused.unwrap_err().fatal().is_none(),
            "the disk is only full"
        );
        append(&mut log, &["y"]);
        assert_eq!((log.flush().unwrap(), log.segments()), (Offset(3), 1));
        let cut = disk.power_cut(seed);
        let log = Rig::on(cut.file_system(), rig.directory.clone()).open();
        let expected = expect([large.clone(), large.clone(), "y".to_owned()]);
        assert_eq!(
            read_all(&log, Offset(0), 1 << 20).unwrap(),
            expected,
            "seed {seed}"
        );
    }
}
