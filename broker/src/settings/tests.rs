//! Sources, their order, and what is refused.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;

use super::*;

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    let own = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
    pairs.iter().map(own).collect()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn refusal(inputs: &Inputs) -> String {
    Settings::resolve(inputs).unwrap_err().to_string()
}

fn file_refusal(text: &str) -> String {
    let file = file(text);
    let mut inputs = Inputs::default();
    inputs.config(file.path().to_owned());
    refusal(&inputs).replace(&file.path().display().to_string(), "FILE")
}

#[test]
fn the_defaults_need_nothing() {
    let settings = Settings::resolve(&Inputs::default()).unwrap();
    assert_eq!(settings.data, [PathBuf::from("./strandline-data")]);
    assert_eq!(settings.listen.to_string(), "127.0.0.1:9290");
    assert_eq!(settings.http.as_ref().map(|http| http.port), Some(9291));
    assert_eq!(settings.flush, FlushMode::Ack);
    assert_eq!(settings.limits.frame_bytes_max, 64 << 20);
    assert_eq!(settings.limits.idle_timeout, Duration::from_secs(600));
    assert_eq!(settings.topic_defaults(), TopicConfig::default());
}

#[test]
fn later_sources_win_and_are_remembered() {
    let file = file(
        "flush = \"async\"\ndefault_partitions = 3\nlisten = \"127.0.0.1:1\"\n\
         [limits]\nidle_timeout = \"5s\"\nframe_bytes_max = 4194304\n\
         [topic]\nretention.ms = 5000\n\"segment.bytes\" = 2048\n",
    );
    let mut inputs = Inputs::from_variables(variables(&[
        ("STRANDLINE_LISTEN", "127.0.0.1:2"),
        ("STRANDLINE_DEFAULT_PARTITIONS", "4"),
        ("STRANDLINE_DATA", "/a,/b"),
        ("STRANDLINE_TOPIC_SEGMENT_BYTES", "4096"),
        ("STRANDLINE_TEST_SEED", "7"),
        ("PATH", "/bin"),
    ]));
    inputs.config(file.path().to_owned());
    inputs.flag("listen", ["127.0.0.1:3"]);
    let settings = Settings::resolve(&inputs).unwrap();

    let from_file = Source::File(file.path().to_owned());
    let from_variable = |name: &str| Source::Variable(name.to_owned());
    assert_eq!(settings.flush, FlushMode::Async);
    assert_eq!(*settings.source("flush"), from_file);
    assert_eq!(settings.default_partitions, 4);
    let name = "STRANDLINE_DEFAULT_PARTITIONS";
    assert_eq!(*settings.source("default_partitions"), from_variable(name));
    assert_eq!(settings.listen.port, 3);
    assert_eq!(*settings.source("listen"), Source::Flag("--listen".into()));
    assert_eq!(*settings.source("http"), Source::Default);
    assert_eq!(settings.data, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(settings.limits.idle_timeout, Duration::from_secs(5));
    assert_eq!(settings.limits.frame_bytes_max, 4 << 20);
    let topic = settings.topic_defaults();
    assert_eq!(
        (topic.retention_ms, topic.segment_bytes),
        (Some(5_000), 4_096)
    );
    assert_eq!(topic.flush, FlushMode::Async);
    assert_eq!(*settings.source("topic.retention.ms"), from_file);
}

#[test]
fn what_is_printed_resolves_to_the_same() {
    let mut inputs = Inputs::from_variables(variables(&[
        ("STRANDLINE_DATA", "/a \"b\"\\,/c\n"),
        ("STRANDLINE_RACK", "north"),
        ("STRANDLINE_TOPIC_RETENTION_MS", "-1"),
        ("STRANDLINE_LIMITS_WRITE_TIMEOUT", "1500ms"),
        ("STRANDLINE_LIMITS_FRAME_BYTES_MAX", "3000001"),
    ]));
    inputs.flag("http", ["off"]);
    inputs.flag("advertise", ["[::1]:9290"]);
    let settings = Settings::resolve(&inputs).unwrap();
    let printed = settings.render_effective();
    assert!(
        printed.contains("http = \"off\"  # flag --http\n"),
        "{printed}"
    );
    assert!(
        printed.contains("flush = \"ack\"  # default\n"),
        "{printed}"
    );

    let file = file(&printed);
    let mut again = Inputs::default();
    again.config(file.path().to_owned());
    let mut again = Settings::resolve(&again).unwrap();
    again.sources.clone_from(&settings.sources);
    assert_eq!(again, settings);
}

#[test]
fn the_unknown_is_refused_with_what_is_nearest() {
    let cases = [
        (
            "flusch = \"ack\"",
            "unknown setting \"flusch\" in file FILE (is flush meant?)",
        ),
        (
            "[limits]\nframe_byte_max = 1",
            "(is limits.frame_bytes_max meant?)",
        ),
        (
            "[limit]\nconnections_max = 1",
            "(is limits.connections_max meant?)",
        ),
        (
            "[topic]\nretention.mss = 1",
            "(is topic.retention.ms meant?)",
        ),
        ("[unheard]", "unknown setting \"unheard\""),
        ("listen = \n", "FILE, line 1: "),
        ("log = \"a\"\nlog = \"b\"", "FILE, line 2: duplicate key"),
    ];
    for (text, expected) in cases {
        let found = file_refusal(text);
        assert!(found.contains(expected), "{text:?} gives {found:?}");
        assert!(!found.contains('\n'), "{found:?} is one line");
    }
    let inputs = Inputs::from_variables(variables(&[("STRANDLINE_LISTN", "x")]));
    let found = refusal(&inputs);
    assert!(found.contains("unknown variable STRANDLINE_LISTN (is STRANDLINE_LISTEN meant?)"));
}

#[test]
fn wrong_values_name_their_source_and_what_is_allowed() {
    let cases = [
        (
            "node_id",
            "x",
            "node_id cannot be \"x\" (flag --node-id); give a whole number",
        ),
        ("listen", "9290", "give HOST:PORT or [IPV6]:PORT"),
        ("flush", "never", "give ack or async"),
        ("data", "", "one directory or more"),
        ("limits.connections_max", "0", "from 1 to 1000000"),
        ("limits.frame_bytes_max", "64 parsecs", "from 2MiB to 1GiB"),
        ("limits.idle_timeout", "soon", "a time span like"),
        ("topic.flush", "ack", "set `flush`, outside of [topic]"),
        ("topic.segment.ms", "0", "a whole number from 1"),
        ("listen", "0.0.0.0:9290", "--advertise HOST:PORT"),
        (
            "advertise",
            "0.0.0.0:9290",
            "not an address that clients can connect to",
        ),
        (
            "http",
            "127.0.0.1:9290",
            "listen and http are both 127.0.0.1:9290",
        ),
        (
            "limits.memory_in_flight_bytes_max",
            "2MiB",
            "raise the first",
        ),
    ];
    for (key, value, expected) in cases {
        let found = Settings::with(&[(key, value)]).unwrap_err().to_string();
        assert!(
            found.contains(expected),
            "{key} = {value:?} gives {found:?}"
        );
    }
    let missing = {
        let mut inputs = Inputs::default();
        inputs.config(PathBuf::from("/nowhere/strandline.toml"));
        refusal(&inputs)
    };
    assert!(missing.starts_with("cannot read the configuration file /nowhere/strandline.toml:"));
    let twice = Settings::resolve(&{
        let mut inputs = Inputs::default();
        inputs.flag("data", ["/a", "/a"]);
        inputs
    });
    assert!(twice.unwrap_err().to_string().contains("twice"));
}

#[test]
fn the_table_is_consistent() {
    let keys: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.key).collect();
    let variables: BTreeSet<_> = SETTINGS.iter().map(Setting::variable).collect();
    assert_eq!(
        (keys.len(), variables.len()),
        (SETTINGS.len(), SETTINGS.len())
    );
    for setting in SETTINGS {
        let mut settings = Settings::blank();
        let (least, most) = setting.bounds.unzip();
        for text in [setting.default, least, most].into_iter().flatten() {
            assert_eq!((setting.write)(&mut settings, &[text.to_owned()]), Ok(()));
        }
    }
}

#[test]
fn the_command_line_has_the_flags_of_the_table() {
    let command = crate::cli::command();
    let server = command.find_subcommand("server").unwrap();
    let flags: BTreeSet<String> = server
        .get_arguments()
        .filter_map(|argument| Some(format!("--{}", argument.get_long()?)))
        .collect();
    for flag in SETTINGS.iter().filter_map(|setting| setting.flag) {
        assert!(flags.contains(flag), "{flag} is in the table only");
    }
}

#[test]
fn what_is_in_force_on_topics_is_shown_too() {
    let shown = Settings::resolve(&Inputs::default())
        .unwrap()
        .render_effective();
    assert!(
        shown.contains("# \"retention.ms\" = \"604800000\"  # default\n"),
        "{shown}"
    );
}
