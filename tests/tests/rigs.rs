//! The rigs that mutants are held against pass where there is none: at the recorded seeds, and at
//! some more.

use strandline_core::mutants::Mutant;
use strandline_tests::mutants::{REPLAYS, Rig, quorum::Scenario};

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
fn a_retry_after_a_failover_is_recognised() {
    passes(Rig::Failover, 20);
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
fn members_of_the_quorum_decide_together() {
    passes(Rig::Membership, 20);
}

#[test]
fn one_process_of_a_broker_leads() {
    passes(Rig::Leases, 5);
}

#[test]
fn a_voter_votes_once_in_a_term() {
    passes(Rig::Voter, 10);
}

#[test]
fn a_voter_whose_disk_was_wiped_is_another_one() {
    passes(Rig::Quorum(Scenario::WipedDisk), 1);
}

#[test]
fn what_a_controller_does_alone_is_not_shown() {
    passes(Rig::Quorum(Scenario::LostMajority), 1);
}

// The log is trimmed after so few changes only where `strandline-mutants` runs the rig; here the
// newcomers read it from its beginning.
#[test]
fn who_joins_late_gets_everything() {
    passes(Rig::Quorum(Scenario::LateJoiner), 1);
}

#[test]
fn a_write_that_waits_hears_of_the_next_leader() {
    passes(Rig::Quorum(Scenario::LeaderChange), 1);
}

#[test]
fn a_partition_that_nobody_knows_is_kept() {
    passes(Rig::Quorum(Scenario::UnknownPartition), 3);
}

#[test]
fn every_mutant_has_a_replay_and_a_name_of_its_own() {
    for mutant in Mutant::ALL {
        assert_eq!(Mutant::named(mutant.name()), Some(mutant));
        assert!(REPLAYS.iter().any(|replay| replay.mutant == mutant));
    }
}
