//! The command line as people use it: byte-exact pipes, keys, positions, tables, benchmarks.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use serde_json::Value;
use strandline_tests::{Broker, BrokerSetup, strandline_binary, wait_until};

/// Starts a command against a broker, its pipes open.
fn command(broker: &Broker, words: &str) -> Command {
    let mut command = Command::new(strandline_binary());
    command
        .args(words.split(' ').filter(|word| !word.is_empty()))
        .env("STRANDLINE_BOOTSTRAP", broker.address())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(broker: &Broker, words: &str, input: &[u8]) -> Output {
    let mut child = command(broker, words).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output
}

/// Standard output of a command that must succeed.
fn output(broker: &Broker, words: &str, input: &[u8]) -> Vec<u8> {
    let output = run(broker, words, input);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "strandline {words}: {error}");
    output.stdout
}

fn text(broker: &Broker, words: &str) -> String {
    String::from_utf8(output(broker, words, b"")).unwrap()
}

fn json(broker: &Broker, words: &str) -> Value {
    serde_json::from_str(&text(broker, &format!("{words} --output json"))).unwrap()
}

fn broker(directory: &Path) -> Broker {
    BrokerSetup::on(directory).start()
}

#[test]
fn any_bytes_but_the_newline_pass() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    let mut input = Vec::new();
    for length in [0, 1, 2, 100, 70_000, 1_000_000] {
        input.extend(
            (0..length)
                .map(|byte| (byte % 251) as u8)
                .filter(|byte| *byte != b'\n'),
        );
        input.push(b'\n');
    }
    input.extend_from_slice(b"\n\n\r\n\0\n\xff\xfe\n");
    for (number, codec) in ["none", "lz4", "zstd", "snappy", "gzip"].iter().enumerate() {
        let topic = format!("bytes-{number}");
        output(&broker, &format!("topic create {topic}"), b"");
        output(
            &broker,
            &format!("produce {topic} --compression {codec}"),
            &input,
        );
        let back = output(&broker, &format!("consume {topic} --exit-at-end"), b"");
        assert!(
            back == input,
            "{codec}: {} bytes instead of {}",
            back.len(),
            input.len()
        );
    }
}

#[test]
fn the_last_line_needs_no_newline_and_lines_reach_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    output(
        &broker,
        "topic create t --config max.message.bytes=10000",
        b"",
    );
    let refused = run(&broker, "produce t", &[b'x'; 10_000]);
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    let (_, rest) = error.split_once("overhead, ").unwrap();
    let limit: usize = rest.split(' ').next().unwrap().parse().unwrap();
    output(&broker, "produce t", &vec![b'y'; limit]);
    assert!(
        !run(&broker, "produce t", &vec![b'z'; limit + 1])
            .status
            .success()
    );
    let back = output(&broker, "consume t --exit-at-end", b"");
    assert_eq!(back, [vec![b'y'; limit], b"\n".to_vec()].concat());
}

#[test]
fn keys_headers_and_formats() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    output(&broker, "topic create t --partitions 3", b"");
    let lines = b"a:1\nb:2\nno key\na:3\n";
    output(
        &broker,
        "produce t --key-separator : --partition 1 --header from=test",
        lines,
    );
    let shown = output(
        &broker,
        "consume t --partition 1 --exit-at-end --format %t|%p|%o|%k|%v|%h",
        b"",
    );
    assert_eq!(
        String::from_utf8(shown).unwrap(),
        "t|1|0|a|1|from=test\nt|1|1|b|2|from=test\nt|1|2||no key|from=test\nt|1|3|a|3|from=test\n"
    );
    let none = output(&broker, "consume t --partition 0 --exit-at-end", b"");
    assert_eq!(none, b"");
}

#[test]
fn reading_begins_and_ends_where_it_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    output(&broker, "topic create t", b"");
    output(&broker, "produce t", b"0\n1\n2\n3\n4\n");
    let cases = [
        ("--from beginning", "0\n1\n2\n3\n4\n"),
        ("--from 3", "3\n4\n"),
        ("--from -2", "3\n4\n"),
        ("--from -99", "0\n1\n2\n3\n4\n"),
        ("--from end", ""),
        ("--from 5", ""),
        ("--from 2000-01-01T00:00:00Z", "0\n1\n2\n3\n4\n"),
        ("--from 2999-01-01T00:00:00Z", ""),
        ("--max-messages 2", "0\n1\n"),
        ("--max-messages 0", ""),
        ("--from 1 --max-messages 3", "1\n2\n3\n"),
    ];
    for (flags, expected) in cases {
        let shown = text(&broker, &format!("consume t --exit-at-end {flags}"));
        assert_eq!(shown, expected, "{flags}");
    }
    output(&broker, "topic trim t --before 2", b"");
    assert_eq!(text(&broker, "consume t --exit-at-end"), "2\n3\n4\n");
}

#[test]
fn a_consumer_waits_for_records_and_ends_with_its_reader() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    output(&broker, "topic create t", b"");
    let mut consumer = command(&broker, "consume t").spawn().unwrap();
    let mut out = consumer.stdout.take().unwrap();
    output(&broker, "produce t", b"first\n");
    let mut line = [0; 6];
    out.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"first\n");
    drop(out);
    let mut status = None;
    wait_until("the end of the consumer", || {
        status = consumer.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.unwrap().success());
    let mut error = String::new();
    consumer
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut error)
        .unwrap();
    assert_eq!(error, "");
}

#[test]
fn topics_are_created_shown_altered_and_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    output(
        &broker,
        "topic create a --partitions 2 --config flush=async",
        b"",
    );
    output(&broker, "topic create b", b"");
    let list = json(&broker, "topic list");
    let names: Vec<&str> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(list[0]["partitions"], 2);
    let setting = |key: &str| {
        let topic = json(&broker, "topic describe a");
        let configs = topic["configs"].as_array().unwrap();
        let entry = configs.iter().find(|entry| entry["key"] == key).unwrap();
        (
            entry["value"].as_str().unwrap().to_owned(),
            entry["source"].as_str().unwrap().to_owned(),
        )
    };
    assert_eq!(setting("flush"), ("async".to_owned(), "topic".to_owned()));
    output(
        &broker,
        "topic alter a --config retention.ms=1000 --delete-config flush",
        b"",
    );
    assert_eq!(setting("flush").0, "ack");
    assert_eq!(
        setting("retention.ms"),
        ("1000".to_owned(), "topic".to_owned())
    );
    output(&broker, "topic alter a --partitions 5", b"");
    let topic = json(&broker, "topic describe a");
    assert_eq!(topic["partitions"].as_array().unwrap().len(), 5);
    assert!(text(&broker, "topic describe a").contains("retention.ms"));
    output(&broker, "topic delete a", b"");
    assert_eq!(json(&broker, "topic list").as_array().unwrap().len(), 1);
}

#[test]
fn offsets_tell_where_partitions_begin_end_and_were() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    output(&broker, "topic create t --partitions 2", b"");
    output(&broker, "produce t --partition 1", b"x\ny\nz\n");
    output(&broker, "topic trim t --partition 1 --before 1", b"");
    let offsets = json(&broker, "offsets t --at 2000-01-01T00:00:00Z");
    assert_eq!(
        offsets[0],
        serde_json::json!({
            "partition": 0, "start": 0, "end": 0, "at": {"offset": null, "timestamp": null}
        })
    );
    assert_eq!(
        (&offsets[1]["start"], &offsets[1]["end"]),
        (&1.into(), &3.into())
    );
    assert_eq!(offsets[1]["at"]["offset"], 1);
    assert!(text(&broker, "offsets t").contains("PARTITION"));
}

#[test]
fn benchmarks_report_what_they_did() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    let common = "--topic bench --records 2000 --record-size 100 --partitions 2";
    let runs = [
        format!("bench produce {common} --producers 2"),
        format!("bench produce {common} --rate 20000 --acks 1 --compression lz4"),
        format!("bench consume {common} --consumers 2"),
        format!("bench end-to-end {common} --rate 4000"),
    ];
    for words in runs {
        let report = json(&broker, &words);
        let number = |key: &str| {
            report[key]
                .as_f64()
                .unwrap_or_else(|| panic!("{words}: {key}"))
        };
        assert!(number("records") >= 2_000.0, "{words}: {report}");
        assert!(
            (number("bytes") - number("records") * 100.0).abs() < 0.5,
            "{words}: {report}"
        );
        let order = ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"].map(number);
        assert!(order.is_sorted() && order[0] > 0.0, "{words}: {report}");
        for key in ["mb_per_s", "records_per_s", "seconds"] {
            assert!(number(key) > 0.0, "{words}: {key}");
        }
        assert!(number("server_cpu_s_per_gb") >= 0.0);
        assert_eq!(report.as_object().unwrap().len(), 11, "{words}: {report}");
        assert!(text(&broker, &words).contains("MB/S"));
    }
}
