//! Replicas of one partition under faults, seed after seed: nothing that was acknowledged is lost,
//! no high watermark goes back, logs match, no two lead in one epoch, and once the faults are over
//! everybody is in sync again.
//!
//! `SEED=7 cargo test -p strandline-core --test replication_model` replays one; `SEEDS=5000` tries
//! more. The same model is the rig `replicas` of the mutants; in a build with mutants `MUTANT=name`
//! turns one on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    dead_code,
    missing_docs
)]

#[path = "../../../tests/src/random.rs"]
mod random;
#[path = "../../../tests/src/mutants/replicas/mod.rs"]
mod replicas;

/// How many seeds are tried if nobody says.
const SEEDS: u64 = 25;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("a number"))
}

/// In a build with mutants: turns one on.
#[cfg(strandline_mutants)]
fn activate() {
    use strandline_core::mutants::{Mutant, activate};
    if let Ok(name) = std::env::var("MUTANT") {
        activate(Some(Mutant::named(&name).expect("a mutant")));
    }
}

#[cfg(not(strandline_mutants))]
const fn activate() {}

#[test]
fn nothing_acknowledged_is_lost_and_everybody_comes_back() {
    activate();
    let seeds = match number("SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        match replicas::run(seed) {
            Ok(summary) => println!("SEED={seed}: {summary}"),
            Err(what) => panic!("SEED={seed}: {what}"),
        }
    }
}
