//! Data directories of the first version, as it left them: stopped in order, and killed. Whoever
//! changes a format hears of it here.
//!
//! `WRITE_FIXTURES=1 cargo test -p strandline-tests --test fixtures` writes them anew, for a
//! version that deserves fixtures of its own; those that are there stay.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use strandline_tests::{Broker, BrokerSetup, strandline_binary};

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// Fixtures are older than what retention keeps.
const FOR_EVER: &str = "retention.ms=-1";

/// Large files that say nothing and are made again at start.
const LEFT_OUT: [&str; 2] = [".reserve", ".lock"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}

/// What was produced: lines of many lengths, empty ones too.
fn lines(count: usize) -> String {
    (0..count).fold(String::new(), |mut text, line| {
        if line % 50 != 7 {
            let _ = write!(text, "{line} {}", "~".repeat(line * 31 % 97));
        }
        text.push('\n');
        text
    })
}

fn run(broker: &Broker, arguments: &[&str]) -> String {
    let output = Command::new(strandline_binary())
        .args(arguments)
        .args(["--bootstrap", &broker.address()])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target);
        } else if !LEFT_OUT.iter().any(|name| entry.file_name() == *name) {
            fs::copy(source, target).unwrap();
        }
    }
}

fn fill(broker: &Broker, scratch: &Path) {
    let (few, many) = (scratch.join("few"), scratch.join("many"));
    fs::write(&few, lines(300)).unwrap();
    fs::write(&many, lines(3_000)).unwrap();
    for codec in CODECS {
        run(
            broker,
            &[
                "topic",
                "create",
                codec,
                "--partitions",
                "1",
                "--config",
                FOR_EVER,
            ],
        );
        let file = few.to_str().unwrap();
        run(
            broker,
            &["produce", codec, "--file", file, "--compression", codec],
        );
    }
    let rolled = ["topic", "create", "rolled", "--partitions", "1"];
    let configs = [
        "segment.bytes=65536",
        "message.timestamp.type=LogAppendTime",
    ];
    let configs = [
        "--config", configs[0], "--config", configs[1], "--config", FOR_EVER,
    ];
    run(broker, &[&rolled[..], &configs[..]].concat());
    run(
        broker,
        &["produce", "rolled", "--file", many.to_str().unwrap()],
    );
    run(broker, &["topic", "trim", "rolled", "--before", "100"]);
    run(broker, &["topic", "create", "gone", "--partitions", "2"]);
    run(broker, &["topic", "delete", "gone"]);
    run(
        broker,
        &[
            "topic",
            "alter",
            "zstd",
            "--config",
            "segment.ms=86400000",
            "--partitions",
            "3",
        ],
    );
}

fn write(name: &str, end: impl FnOnce(Broker)) {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let broker = BrokerSetup::on(&data).start();
    fill(&broker, directory.path());
    end(broker);
    copy(&data, &fixture(name));
}

fn opens(name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    copy(&fixture(name), &data);
    // Retention would delete what is older than a week.
    let broker = BrokerSetup::on(&data).start();
    for codec in CODECS {
        let found = run(&broker, &["consume", codec, "--exit-at-end"]);
        assert_eq!(found, lines(300), "{codec}");
    }
    let rolled = lines(3_000);
    let kept = rolled.split_inclusive('\n').skip(100).collect::<String>();
    assert_eq!(run(&broker, &["consume", "rolled", "--exit-at-end"]), kept);
    let topics = run(&broker, &["topic", "list", "--output", "json"]);
    assert!(!topics.contains("gone"), "{topics}");
    let zstd = run(&broker, &["topic", "describe", "zstd", "--output", "json"]);
    assert!(zstd.contains("86400000"), "{zstd}");
    // And it goes on from there.
    let more = directory.path().join("more");
    fs::write(&more, "one more\n").unwrap();
    run(
        &broker,
        &["produce", "none", "--file", more.to_str().unwrap()],
    );
    let last = run(
        &broker,
        &["consume", "none", "--from", "300", "--exit-at-end"],
    );
    assert_eq!(last, "one more\n");
}

#[test]
fn a_directory_that_was_stopped_in_order_opens() {
    if std::env::var_os("WRITE_FIXTURES").is_some() {
        write("data-v1-stopped", |broker| {
            assert!(broker.stop().0.success())
        });
    }
    opens("data-v1-stopped");
}

#[test]
fn a_directory_that_was_killed_opens() {
    if std::env::var_os("WRITE_FIXTURES").is_some() {
        write("data-v1-killed", Broker::kill);
    }
    opens("data-v1-killed");
}
