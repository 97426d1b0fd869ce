//! Every input of the fuzz targets' corpora, through the targets' own code: what was once found
//! stays fixed, and the targets do what they say, without a nightly compiler.
//!
//! `WRITE_SEEDS=1 cargo test -p strandline-tests --test fuzz_corpus` writes the seeds anew.
//! Findings are files whose names begin with `regression-`; they stay.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

use std::{fs, path::PathBuf};

use strandline_tests::fuzz::{
    BATCHES, CONFIGURATION, FILES, FRAMES, MESSAGES, RECOVERY, Target, memory::Counting, seeds,
};

#[global_allocator]
static COUNTING: Counting = Counting;

/// A whole corpus in CI costs seconds, and a repository is no place for megabytes.
const CORPUS_BYTES_MAX: u64 = 200_000;

fn corpus(target: &Target) -> PathBuf {
    seeds::root().join("tests/fuzz/corpus").join(target.name)
}

fn write_seeds(target: &Target) {
    let directory = corpus(target);
    fs::create_dir_all(&directory).unwrap();
    for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
        let is_seed = entry.file_name().to_string_lossy().starts_with("seed-");
        if is_seed {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    for (name, input) in seeds::of(target.name) {
        fs::write(directory.join(format!("seed-{name}")), input).unwrap();
    }
}

fn replay(target: &Target) {
    if std::env::var_os("WRITE_SEEDS").is_some() {
        write_seeds(target);
    }
    let mut paths: Vec<PathBuf> = fs::read_dir(corpus(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let mut bytes = 0;
    for path in &paths {
        let input = fs::read(path).unwrap();
        bytes += input.len() as u64;
        println!("{}", path.display());
        target.run(&input);
    }
    assert!(paths.len() >= 10, "only {} inputs", paths.len());
    assert!(
        bytes <= CORPUS_BYTES_MAX,
        "{bytes} bytes of {}",
        target.name
    );
}

#[test]
fn frames() {
    replay(&FRAMES);
}

#[test]
fn messages() {
    replay(&MESSAGES);
}

#[test]
fn batches() {
    replay(&BATCHES);
}

#[test]
fn files() {
    replay(&FILES);
}

#[test]
fn recovery() {
    replay(&RECOVERY);
}

#[test]
fn configuration() {
    replay(&CONFIGURATION);
}

#[test]
fn memory_is_counted() {
    let taken = strandline_tests::fuzz::memory::peak_bytes(|| drop(vec![1_u8; 1 << 20]));
    assert!((1 << 20..1 << 21).contains(&taken), "{taken}");
}
