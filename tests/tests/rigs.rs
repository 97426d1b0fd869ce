//! The rigs that mutants are held against pass where there is none: at the recorded seeds, and at
//! some more.

use strandline_core::mutants::Mutant;
use strandline_tests::mutants::{REPLAYS, Rig};

fn passes(rig: Rig, seeds: u64) {
    for seed in 1..=seeds {
        match rig.run(seed) {
            Ok(summary) => println!("{rig} SEED={seed}: {summary}"),
            Err(what) => panic!("{rig} SEED={seed}: {what}"),
        }
    }
}

#[test]
fn a_leader_keeps_what_it_acknowledged() {
    passes(Rig::Acknowledgements, 20);
}

#[test]
fn a_follower_is_cut_back_and_recovers() {
    passes(Rig::Follower, 20);
}

#[test]
fn rot_is_contained() {
    passes(Rig::Rot, 5);
}

#[test]
fn unsynced_files_keep_a_descriptor() {
    passes(Rig::Descriptors, 3);
}

#[test]
fn every_mutant_has_a_replay_and_a_name_of_its_own() {
    for mutant in Mutant::ALL {
        assert_eq!(Mutant::named(mutant.name()), Some(mutant));
        assert!(REPLAYS.iter().any(|replay| replay.mutant == mutant));
    }
}
