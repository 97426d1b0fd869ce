//! `strandline cluster` with one broker: it is a cluster of its own.

use std::process::{Command, Output};

use strandline_tests::{Broker, BrokerSetup, strandline_binary};

fn run(broker: &Broker, words: &str) -> (Option<i32>, String, String) {
    let output: Output = Command::new(strandline_binary())
        .args(words.split(' '))
        .env("STRANDLINE_BOOTSTRAP", broker.address())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn one_broker_is_a_cluster_that_is_well() {
    let directory = tempfile::tempdir().unwrap();
    let broker = BrokerSetup::on(directory.path()).start();
    let (code, _, error) = run(&broker, "topic create t --partitions 3");
    assert_eq!(code, Some(0), "{error}");

    let (code, text, error) = run(&broker, "cluster describe");
    assert_eq!(code, Some(0), "{error}");
    assert!(text.contains(": controller broker 1, epoch "), "{text}");
    assert!(text.contains("1 topics, 3 partitions"), "{text}");
    let row = |start: &str| {
        let row = text
            .lines()
            .find(|line| line.trim_start().starts_with(start));
        let row = row.unwrap_or_else(|| panic!("no {start} in {text}"));
        row.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(row("1  voter")[3..], ["0", "now"]);
    assert_eq!(row("1  -")[2], broker.address());
    assert_eq!(row("1  -").last().unwrap(), "3");

    let (code, json, _) = run(&broker, "cluster describe --output json");
    assert_eq!(code, Some(0));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["controller"], 1);
    assert_eq!(json["members"][0]["role"], "voter");
    assert_eq!(json["brokers"][0]["state"], "active");
    assert_eq!(json["brokers"][0]["leads"], 3);

    let (code, text, error) = run(&broker, "cluster health");
    assert_eq!(code, Some(0), "{error}");
    assert!(text.starts_with("healthy: cluster "), "{text}");
    assert!(
        text.contains("1 of 1 brokers active, 1 voters, 3 of 3 partitions led"),
        "{text}"
    );
    let (code, json, _) = run(&broker, "cluster health --output json");
    assert_eq!(code, Some(0));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["verdict"], "healthy");
    assert_eq!(json["findings"], serde_json::json!([]));

    for (words, says) in [
        ("cluster add-voter 7", "there is no broker 7"),
        ("cluster add-voter 1", "broker 1 votes already"),
        ("cluster remove-voter 2", "broker 2 has no vote"),
        ("cluster remove-broker 9", "there is no broker 9"),
    ] {
        let (code, _, error) = run(&broker, words);
        assert_eq!(code, Some(1), "{words}: {error}");
        assert!(error.contains(says), "{words}: {error}");
        assert!(error.contains("hint: the "), "{words}: {error}");
    }
}
