//! A few seconds of each rig on the simulated disk; `strandline-disk` runs them for longer.

use strandline_tests::disk::{
    cuts::{self, Cuts},
    failures::{self, Failures},
    kinds::Kind,
    rot::{self, Rot},
};

const SEED: u64 = 20_261_125;

#[test]
fn a_power_cut_at_any_boundary_loses_nothing_that_was_acknowledged() {
    let wanted = Cuts {
        count: 1_200,
        seed: SEED,
        kind: None,
        only: None,
    };
    let summary = cuts::run(&wanted, |_| {}).unwrap_or_else(|violation| panic!("{violation}"));
    println!("SEED={SEED}\n{summary}");
    assert!(summary.cuts() >= 1_200);
    assert_eq!(summary.kinds.len(), Kind::ALL.len());
    assert!(summary.kinds.values().all(|counts| counts.acknowledged > 0));
}

#[test]
fn an_operation_that_fails_loses_nothing_that_was_acknowledged() {
    let wanted = Failures {
        count: 240,
        seed: SEED,
        kind: None,
        operation: None,
    };
    let summary = failures::run(&wanted, |_| {}).unwrap_or_else(|violation| panic!("{violation}"));
    assert!(summary.values().map(|counts| counts.failures).sum::<u64>() >= 200);
    assert!(summary.values().any(|counts| counts.offline > 0));
    assert!(summary.values().any(|counts| counts.went_on > 0));
}

#[test]
fn rot_costs_the_batches_that_it_hits_and_no_other() {
    let wanted = Rot {
        count: 500,
        seed: SEED,
        only: None,
    };
    let summary = rot::run(&wanted, |_| {}).unwrap_or_else(|violation| panic!("{violation}"));
    println!("SEED={SEED}\n{summary}");
    assert_eq!(summary.corruptions(), 500);
    assert!(
        summary
            .kinds
            .values()
            .map(|counts| counts.damaged)
            .sum::<u64>()
            > 0
    );
}
