//! `strandline log` over the files of a stopped broker: dump, verify, repair.

use std::{
    fs,
    process::{Command, Output},
};

use strandline_tests::{BrokerSetup, strandline_binary};

fn run(words: &[&str]) -> Output {
    Command::new(strandline_binary())
        .args(words)
        .output()
        .unwrap()
}

fn strandline(bootstrap: &str, words: &str) -> Vec<u8> {
    let words: Vec<&str> = words.split(' ').chain(["--bootstrap", bootstrap]).collect();
    let output = run(&words);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

#[test]
fn a_damaged_log_is_found_repaired_and_served_around_what_was_lost() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let setup = BrokerSetup::on(&data);
    let broker = setup.start();
    strandline(&broker.address(), "topic create t");
    for line in ["first", "second", "third"] {
        let file = directory.path().join(line);
        fs::write(&file, format!("{line}\n")).unwrap();
        strandline(
            &broker.address(),
            &format!("produce t --file {}", file.display()),
        );
    }
    let partition = data.join("t-0");
    let partition = partition.to_str().unwrap();
    let busy = run(&["log", "verify", partition]);
    assert_eq!(busy.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&busy.stderr).contains("a broker is at work"));
    broker.stop();

    assert!(run(&["log", "verify", partition]).status.success());
    let dump = run(&["log", "dump", partition, "--output", "json"]);
    let dump: serde_json::Value = serde_json::from_slice(&dump.stdout).unwrap();
    let batches: Vec<&serde_json::Value> = dump
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["kind"] == "batch")
        .collect();
    assert_eq!(batches.len(), 3, "{dump}");

    let segment = format!("{partition}/00000000000000000000.log");
    let mut bytes = fs::read(&segment).unwrap();
    let last_byte = batches[2]["position"].as_u64().unwrap() as usize - 1;
    bytes[last_byte] ^= 0xff;
    fs::write(&segment, &bytes).unwrap();
    let damaged = run(&["log", "verify", partition]);
    assert_eq!(damaged.status.code(), Some(1));
    let error = String::from_utf8_lossy(&damaged.stderr).into_owned();
    assert!(
        error.contains("damaged") && error.contains("strandline log repair"),
        "{error}"
    );

    assert!(run(&["log", "repair", partition]).status.success());
    assert_eq!(
        fs::read(&segment).unwrap(),
        bytes,
        "a dry run changes nothing"
    );
    assert!(
        run(&["log", "repair", partition, "--execute"])
            .status
            .success()
    );
    let kept = fs::read_dir(partition).unwrap().any(|entry| {
        let name = entry.unwrap().file_name();
        name.to_string_lossy().ends_with(".removed")
    });
    assert!(kept, "what was taken out is kept");
    let repaired = run(&["log", "verify", partition]);
    let note = String::from_utf8_lossy(&repaired.stdout).into_owned();
    assert!(repaired.status.success(), "{note}");
    assert!(note.contains("offsets 1 to 1 were lost"), "{note}");
    let empty = directory.path().to_str().unwrap();
    assert_eq!(run(&["log", "verify", empty]).status.code(), Some(1));
    let text = directory.path().join("first");
    let text = run(&["log", "dump", text.to_str().unwrap()]);
    assert_eq!((text.status.code(), &text.stdout[..]), (Some(1), &[][..]));
    let broker = setup.start();
    let address = broker.address();
    // What is lost is never passed over silently.
    let whole = run(&["consume", "t", "--exit-at-end", "--bootstrap", &address]);
    let warning = String::from_utf8_lossy(&whole.stderr).into_owned();
    assert_eq!(
        warning,
        "warning: offsets 1 to 1 of `t`-0 are missing: a repair of the log took them out\n"
    );
    assert!(whole.status.success());
    assert_eq!(whole.stdout, b"first\nthird\n");
    assert_eq!(
        strandline(&address, "consume t --from 1 --exit-at-end"),
        b"third\n"
    );
    let log = broker.stop().1;
    assert!(!log.contains("ERROR"), "{log}");
    // Without what the repair kept, the hole is a segment that was lost.
    fs::remove_file(format!("{segment}.removed")).unwrap();
    let broker = setup.start();
    let address = broker.address();
    let whole = run(&["consume", "t", "--exit-at-end", "--bootstrap", &address]);
    assert_eq!(whole.status.code(), Some(1));
    assert_eq!(whole.stdout, b"first\n");
    let error = String::from_utf8_lossy(&whole.stderr).into_owned();
    assert_eq!(
        error,
        "error: `t`-0 is damaged at offset 1: the log ends early\n\
         hint: go on behind the damage: strandline consume t --partition 0 --from 2\n"
    );
    assert_eq!(
        strandline(&address, "consume t --from 2 --exit-at-end"),
        b"third\n"
    );
    let told = run(&["consume", "t", "--exit-at-end", "--bootstrap", &address]);
    assert_eq!(told.status.code(), Some(1));
    let log = broker.stop().1;
    assert_eq!(log.matches("ERROR").count(), 1, "{log}");
}
