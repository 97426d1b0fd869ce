//! Every wrong input that a person can make at the command line: one clear line, a remedy, and exit
//! code 2 where the command or the configuration is wrong in itself, 1 where it failed.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use strandline_tests::{BrokerSetup, kept_port, strandline_binary};

const FAILURE: i32 = 1;
const USAGE: i32 = 2;

/// A command line, the exit code it ends with, and what its error must say.
struct Case<'a> {
    words: &'a str,
    code: i32,
    says: Vec<&'a str>,
}

fn case<'a>(words: &'a str, code: i32, says: &[&'a str]) -> Case<'a> {
    let says = says.to_vec();
    Case { words, code, says }
}

/// Runs every case with the given input; lists all that are wrong.
fn check(cases: &[Case<'_>], bootstrap: &str, input: &[u8]) {
    let mut wrong = Vec::new();
    for case in cases {
        let words: Vec<&str> = case
            .words
            .split(' ')
            .filter(|word| !word.is_empty())
            .collect();
        let mut child = Command::new(strandline_binary())
            .args(&words)
            .env("STRANDLINE_BOOTSTRAP", bootstrap)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that fails early does not read its input.
        let _ = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        if let Some(reason) = fault(case, output.status.code(), &error) {
            wrong.push(format!("strandline {}\n  {reason}\n{error}", case.words));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn fault(case: &Case<'_>, code: Option<i32>, error: &str) -> Option<String> {
    if code != Some(case.code) {
        return Some(format!("ends with {code:?} instead of {}", case.code));
    }
    let told: Vec<&str> = error
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    if told.len() != 1 {
        return Some(format!("{} lines of error", told.len()));
    }
    if !error.lines().any(|line| line.starts_with("hint: ")) {
        return Some("gives no hint".to_owned());
    }
    if let Some(missing) = case.says.iter().find(|said| !error.contains(**said)) {
        return Some(format!("does not say {missing:?}"));
    }
    let strange = error
        .lines()
        .find(|line| !line.starts_with("error: ") && !line.starts_with("hint: "));
    strange.map(|line| format!("says more than an error and a hint: {line:?}"))
}

#[test]
fn a_command_line_that_is_wrong_in_itself() {
    let cases = [
        case("", USAGE, &["requires a subcommand", "usage: strandline"]),
        case(
            "topic",
            USAGE,
            &["requires a subcommand", "usage: strandline topic"],
        ),
        case(
            "topc",
            USAGE,
            &["unrecognized subcommand 'topc'", "'topic'"],
        ),
        case(
            "topic list --outptu json",
            USAGE,
            &["'--outptu'", "'--output'"],
        ),
        case("topic list --output xml", USAGE, &["'xml'", "table, json"]),
        case(
            "topic list --bootstrap localhost",
            USAGE,
            &["'localhost'", "HOST:PORT"],
        ),
        case("topic create", USAGE, &["<NAME>"]),
        case("topic create a/b", USAGE, &["'a/b'", "a topic name has"]),
        case("topic create ..", USAGE, &["a topic name has"]),
        case(
            "topic create t --partitions 0",
            USAGE,
            &["'0'", "--partitions"],
        ),
        case(
            "topic create t --partitions 99999999",
            USAGE,
            &["'99999999'", "1..=100000"],
        ),
        case(
            "topic alter t --partitions 100001",
            USAGE,
            &["'100001'", "1..=100000"],
        ),
        case(
            "topic create t --config retention.ms",
            USAGE,
            &["KEY=VALUE"],
        ),
        case(
            "topic create t --config a=1 --config a=2",
            USAGE,
            &["a twice"],
        ),
        case("topic alter t", USAGE, &["--config", "--partitions"]),
        case(
            "topic alter t --config a=1 --delete-config a",
            USAGE,
            &["a is changed twice"],
        ),
        case("topic trim t", USAGE, &["--before"]),
        case(
            "topic trim t --before yesterday",
            USAGE,
            &["'yesterday'", "expected an offset"],
        ),
        case("produce", USAGE, &["<TOPIC>"]),
        case("produce t --acks 2", USAGE, &["'2'", "0, 1, all"]),
        case("produce t --compression rar", USAGE, &["'rar'", "lz4"]),
        case("produce t --header x", USAGE, &["KEY=VALUE"]),
        case("produce t --key-separator=", USAGE, &["--key-separator"]),
        case(
            "produce t --partition -1",
            USAGE,
            &["invalid value '-1'", "-1 is not in 0.."],
        ),
        case(
            "topic create t --partitions -1",
            USAGE,
            &["invalid value '-1'", "-1 is not in 1.."],
        ),
        case(
            "topic trim t --before -5",
            USAGE,
            &["invalid value '-5'", "expected an offset"],
        ),
        case(
            "consume t --max-messages -1",
            USAGE,
            &["invalid value '-1'", "--max-messages"],
        ),
        case(
            "consume t --from yesterday",
            USAGE,
            &["'yesterday'", "expected beginning, end"],
        ),
        case(
            "consume t --format %x",
            USAGE,
            &["%x is unknown", "%v value"],
        ),
        case("consume t --max-messages many", USAGE, &["'many'"]),
        case(
            "offsets t --at noon",
            USAGE,
            &["'noon'", "2026-11-23T08:00:00Z"],
        ),
        case(
            "bench",
            USAGE,
            &["requires a subcommand", "usage: strandline bench"],
        ),
        case("bench produce", USAGE, &["--topic"]),
        case(
            "bench produce --topic t --rate 0",
            USAGE,
            &["'0'", "--rate"],
        ),
        case("bench produce --topic t --linger 5", USAGE, &["'5'", "5ms"]),
        case(
            "bench end-to-end --topic t --record-size 8",
            USAGE,
            &["too small", "16 bytes"],
        ),
        case("log dump", USAGE, &["<PATH>"]),
        case("server --flush never", USAGE, &["'never'", "ack, async"]),
    ];
    check(&cases, "127.0.0.1:1", b"");
}

#[test]
fn no_broker_is_there() {
    let address = format!("127.0.0.1:{}", kept_port());
    let says = ["cannot reach", address.as_str(), "strandline server"];
    let cases = [
        case("topic list", FAILURE, &says),
        case("topic create t", FAILURE, &says),
        case("produce t", FAILURE, &says),
        case("consume t", FAILURE, &says),
        case("offsets t", FAILURE, &says),
        case("bench produce --topic t", FAILURE, &says),
        case("cluster describe", FAILURE, &says),
        case("cluster health", USAGE, &says),
        case("cluster add-voter 2", FAILURE, &says),
    ];
    check(&cases, &address, b"x\n");
    let several = format!("{address},127.0.0.1:1");
    let says = [
        "any of 2 brokers",
        address.as_str(),
        "127.0.0.1:1: connection refused",
    ];
    check(&[case("cluster health", USAGE, &says)], &several, b"");
}

#[test]
fn files_that_are_not_there() {
    let cases = [
        case(
            "produce t --file /no/such",
            FAILURE,
            &["/no/such", "no such file", "--file"],
        ),
        case(
            "produce t --file /",
            FAILURE,
            &["cannot read /", "directory"],
        ),
        case(
            "server --config /no/such",
            FAILURE,
            &["/no/such", "no such file", "--config"],
        ),
        case("log dump /no/such", FAILURE, &["/no/such", "no such file"]),
        case(
            "log verify /no/such",
            FAILURE,
            &["/no/such", "no such file"],
        ),
        case(
            "log repair /no/such",
            FAILURE,
            &["/no/such", "no such file"],
        ),
        case(
            "bench machine --data /no/such",
            FAILURE,
            &["/no/such", "--data"],
        ),
    ];
    check(&cases, "127.0.0.1:1", b"");
}

#[test]
fn what_a_broker_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let broker = BrokerSetup::on(directory.path()).start();
    let create = Command::new(strandline_binary())
        .args(["topic", "create", "there", "--partitions", "2"])
        .args([
            "--config",
            "max.message.bytes=2000",
            "--bootstrap",
            &broker.address(),
        ])
        .output()
        .unwrap();
    assert!(
        create.status.success(),
        "{}",
        String::from_utf8_lossy(&create.stderr)
    );
    let missing = [
        "topic `missing` does not exist",
        "strandline topic create missing",
    ];
    let cases = [
        case("topic create there", FAILURE, &["there", "exists"]),
        case(
            "topic create new --config retention.sm=1",
            USAGE,
            &["retention.sm", "retention.ms"],
        ),
        case(
            "topic create new --config retention.ms=soon",
            USAGE,
            &["retention.ms", "soon"],
        ),
        case(
            "topic alter there --config flush=never",
            USAGE,
            &["flush", "never"],
        ),
        case(
            "topic alter there --delete-config nothing",
            USAGE,
            &["nothing"],
        ),
        case("topic alter there --partitions 1", FAILURE, &["partitions"]),
        case("topic describe missing", FAILURE, &missing),
        case("topic delete missing", FAILURE, &missing),
        case("topic alter missing --partitions 3", FAILURE, &missing),
        case("topic trim missing --before 1", FAILURE, &missing),
        case(
            "topic trim there --before 1 --partition 2",
            FAILURE,
            &["no partition 2", "0 to 1"],
        ),
        case(
            "topic trim there --before 99 --partition 0",
            FAILURE,
            &["99"],
        ),
        case("produce missing", FAILURE, &missing),
        case(
            "produce there --partition 2",
            FAILURE,
            &["no partition 2", "0 to 1"],
        ),
        case("consume missing", FAILURE, &missing),
        case(
            "consume there --partition 7",
            FAILURE,
            &["no partition 7", "0 to 1"],
        ),
        case(
            "consume there --partition 0 --from 5 --exit-at-end",
            FAILURE,
            &["offset 5"],
        ),
        case("offsets missing", FAILURE, &missing),
        case(
            "bench consume --topic there --consumers 3",
            FAILURE,
            &["2 partitions", "3 consumers", "--partitions 3"],
        ),
    ];
    check(&cases, &broker.address(), b"a line\n");
    let long = [b"short\n".to_vec(), vec![b'x'; 2_001], b"\n".to_vec()].concat();
    let says = [
        "line 2 of standard input is too long",
        "max.message.bytes",
        "topic alter there",
    ];
    check(
        &[case("produce there", FAILURE, &says)],
        &broker.address(),
        &long,
    );
}

#[test]
fn a_server_that_cannot_start() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let broker = BrokerSetup::on(&data).start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("127.0.0.1:{}", taken.local_addr().unwrap().port());
    let busy = broker.address();
    let other = directory.path().join("other");
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let config = directory.path().join("config.toml");
    fs::write(&config, "lisen = \"127.0.0.1:1\"\n").unwrap();
    let broken = directory.path().join("broken.toml");
    fs::write(&broken, "data = [\n").unwrap();
    let on = |data: &std::path::Path| {
        format!(
            "server --listen 127.0.0.1:0 --http 127.0.0.1:0 --data {}",
            data.display()
        )
    };
    let in_use = on(&data);
    let no_directory = on(&file);
    let not_made = on(&file.join("below"));
    let other = other.display();
    let port = format!("server --listen {busy} --http 127.0.0.1:0 --data {other}");
    let http = format!("server --listen 127.0.0.1:0 --http {busy} --data {other}");
    let unknown = format!("server --config {}", config.display());
    let syntax = format!("server --config {}", broken.display());
    let data_name = data.display().to_string();
    let file_name = file.display().to_string();
    let twice = format!("{in_use},{data_name}/.");
    let nested = format!("{in_use},{data_name}/below");
    let unusable = [
        file_name.as_str(),
        "cannot be used",
        "hint: give another directory",
    ];
    let cases = [
        case(&port, FAILURE, &[&busy, "in use", "--listen"]),
        case(&http, FAILURE, &[&busy, "in use", "--http"]),
        case(&in_use, FAILURE, &[&data_name, "use"]),
        case(&no_directory, FAILURE, &unusable),
        case(&not_made, FAILURE, &unusable),
        case(&twice, USAGE, &["names a directory twice"]),
        case(&nested, USAGE, &["lies in", &data_name]),
        case("server --log debugg", USAGE, &["debugg", "use a level"]),
        case(&unknown, USAGE, &["lisen", "listen"]),
        case(&syntax, USAGE, &["broken.toml", "line"]),
        case(
            "server --listen 0.0.0.0:9290",
            USAGE,
            &["wildcard", "--advertise HOST:PORT"],
        ),
        case("server --listen nowhere", USAGE, &["nowhere", "HOST:PORT"]),
    ];
    check(&cases, &taken, b"");
    read_only(directory.path());
}

/// A directory that cannot be written to; root may write everywhere, so there it proves nothing.
fn read_only(parent: &std::path::Path) {
    let locked = parent.join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(locked.join("probe"), "").is_ok() {
        return;
    }
    let name = locked.display().to_string();
    let words = format!("server --listen 127.0.0.1:0 --http 127.0.0.1:0 --data {name}");
    check(
        &[case(&words, FAILURE, &[&name, "permission denied"])],
        "127.0.0.1:1",
        b"",
    );
}
