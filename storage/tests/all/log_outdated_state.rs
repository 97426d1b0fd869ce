//! A `partition.state` of an earlier time, which a disk may come up with: its checksum is right.

use std::fs;

use crate::common::{NOW, Rig, batch, expect, read_all};
use strandline_protocol::{LeaderEpoch, Offset, batch::ProducerStamp};
use strandline_storage::log::{
    Shutdown,
    inspect::{self, Severity},
};

const STATE: &str = "partition.state";

/// A closed log of the epochs 1, 2 and 3, and its state as of epoch 1.
fn rig() -> (Rig, Vec<u8>) {
    let mut rig = Rig::mapped();
    let mut log = rig.open();
    let mut earlier = Vec::new();
    for number in 0..30 {
        let epoch = LeaderEpoch(number / 10 + 1);
        let bytes = batch(&[&format!("record {number}")], NOW.0, ProducerStamp::NONE);
        log.append(&bytes, epoch, NOW).unwrap();
        if number == 0 {
            earlier = fs::read(rig.directory.join(STATE)).unwrap();
        }
    }
    rig.close(log);
    (rig, earlier)
}

fn all() -> Vec<(i64, String)> {
    expect((0..30).map(|number| format!("record {number}")))
}

/// Batches of epochs that the state did not know were refused as damaged, all of them.
#[test]
fn an_outdated_state_hides_no_batch() {
    for shutdown in [Shutdown::Clean, Shutdown::Unclean] {
        for recovery_point in [0, 15, 30] {
            let (mut rig, earlier) = rig();
            rig.hint.shutdown = shutdown;
            rig.hint.recovery_point = Offset(recovery_point);
            let path = rig.directory.join(STATE);
            let newest = fs::read(&path).unwrap();
            fs::write(&path, &earlier).unwrap();
            let files = rig.files.as_ref();
            let findings = inspect::verify(files, &rig.directory).unwrap();
            let [finding] = &findings[..] else {
                panic!("{findings:#?}");
            };
            assert_eq!((&finding.path, finding.severity), (&path, Severity::Hint));
            let log = rig.open();
            assert_eq!(read_all(&log, Offset(0), 500).unwrap(), all());
            assert_eq!(log.latest_epoch(), Some(LeaderEpoch(3)));
            assert_eq!(fs::read(&path).unwrap(), newest, "it is written again");
        }
    }
}

/// Kafka's file has no checksum: what nothing else bears out is not believed.
#[test]
fn epochs_that_only_kafkas_file_knows_are_not_believed() {
    let (rig, _) = rig();
    let path = rig.directory.join("leader-epoch-checkpoint");
    for wrong in ["0\n3\n1 0\n2 10\n7 20\n", "0\n4\n1 0\n2 10\n3 20\n4 25\n"] {
        fs::write(&path, wrong).unwrap();
        let log = rig.open();
        assert_eq!(read_all(&log, Offset(0), 500).unwrap(), all());
        assert_eq!(log.latest_epoch(), Some(LeaderEpoch(3)));
    }
}
