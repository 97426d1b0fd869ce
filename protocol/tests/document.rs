//! Writes and holds `docs/protocol.md`: its tables come from the code, its text from
//! `document/protocol.md`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

#[path = "document/source.rs"]
mod source;

mod samples;

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use serde::{Deserialize, de::IgnoredAny};
use source::{Item, Source};
use strandline_protocol::{ErrorCode, api::APIS, batch::Codec, limits, messages::decode};

const FILES: [&str; 15] = [
    "mod.rs",
    "hello.rs",
    "metadata.rs",
    "topics.rs",
    "configs.rs",
    "producer_ids.rs",
    "produce.rs",
    "fetch.rs",
    "list_offsets.rs",
    "deletes.rs",
    "brokers.rs",
    "quorum.rs",
    "cluster.rs",
    "replication.rs",
    "replicas.rs",
];

/// Types that several APIs use; they stand behind all APIs.
const SHARED: [&str; 11] = [
    "Failure",
    "ErrorMessage",
    "BrokerMetadata",
    "TopicMetadata",
    "PartitionMetadata",
    "TopicResult",
    "EntryId",
    "TermVote",
    "PartitionName",
    "Duty",
    "PartitionOutcome",
];

fn messages() -> Source {
    let mut source = Source::default();
    for file in FILES {
        source.read(&format!("messages/{file}"));
    }
    source
}

/// `TopicPartition` becomes `topic partition`.
fn words(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

/// What is between the angle brackets of `outer<…>`.
fn inner<'a>(kind: &'a str, outer: &str) -> Option<&'a str> {
    kind.strip_prefix(outer)?
        .strip_prefix('<')?
        .strip_suffix('>')
}

fn type_text(source: &Source, kind: &str) -> String {
    if let Some(kind) = inner(kind, "Option") {
        return format!("{} or nil", type_text(source, kind));
    }
    if let Some(kind) = inner(kind, "Vec") {
        return format!("array of {}", type_text(source, kind));
    }
    if source.item(kind).is_some() {
        return format!("[{kind}](#{})", kind.to_lowercase());
    }
    let text = match kind {
        "BTreeMap<String, String>" => "map of str to str",
        "String" => "str",
        "bool" => "bool",
        "TopicId" | "ClusterId" | "DirectoryId" => "bin of 16 bytes",
        "[u8; 16]" => "array of 16 of int, 8 bits, unsigned",
        "u16" | "ErrorCode" => "int, 16 bits, unsigned",
        "u32" => "int, 32 bits, unsigned",
        "u64" => "int, 64 bits, unsigned",
        "i16" | "ProducerEpoch" => "int, 16 bits",
        "i32" | "BrokerId" | "PartitionId" | "LeaderEpoch" | "PartitionEpoch" => "int, 32 bits",
        "Offset" | "Timestamp" | "ProducerId" | "BrokerEpoch" => "int, 64 bits",
        other => panic!("{other}: say how this type is written"),
    };
    text.to_owned()
}

fn table(source: &Source, item: &Item) -> String {
    if item.members.is_empty() {
        return "No fields.\n".to_owned();
    }
    let first = if item.is_enum { "value" } else { "field" };
    let mut text = format!("| {first} | type | |\n|---|---|---|\n");
    for member in &item.members {
        let name = &member.name;
        let kind = match &member.kind {
            None => "str".to_owned(),
            Some(kind) if item.is_enum => {
                format!("map of `{name}` to {}", type_text(source, kind))
            }
            Some(kind) => type_text(source, kind),
        };
        let optional = if member.optional { "*Optional.* " } else { "" };
        writeln!(text, "| `{name}` | {kind} | {optional}{} |", member.doc).unwrap();
    }
    text
}

fn section(source: &Source, item: &Item) -> String {
    format!(
        "#### {}\n\n{}\n\n{}\n",
        item.name,
        item.doc,
        table(source, item)
    )
}

/// The types below `item` that are not shared, each behind the one that names it.
fn sections(source: &Source, item: &Item, done: &mut Vec<String>, text: &mut String) {
    if SHARED.contains(&item.name.as_str()) || done.contains(&item.name) {
        return;
    }
    done.push(item.name.clone());
    text.push_str(&section(source, item));
    for member in &item.members {
        let kind = member.kind.as_deref().unwrap_or_default();
        let kind = inner(kind, "Option").unwrap_or(kind);
        let kind = inner(kind, "Vec").unwrap_or(kind);
        if let Some(item) = source.item(kind) {
            sections(source, item, done, text);
        }
    }
}

fn message_sections(source: &Source) -> String {
    let (mut text, mut done) = (String::new(), Vec::new());
    for api in APIS {
        writeln!(text, "### {} ({})\n", api.name, api.key.code()).unwrap();
        let pair = source
            .pairs
            .iter()
            .find(|pair| pair.api == api.name)
            .unwrap();
        for name in [&pair.request, &pair.response] {
            sections(source, source.item(name).unwrap(), &mut done, &mut text);
        }
        if api.name == "WatchMetadata" {
            let push = source.item("MetadataPush").unwrap();
            sections(source, push, &mut done, &mut text);
        }
    }
    for item in &source.items {
        let placed = done.contains(&item.name) || SHARED.contains(&item.name.as_str());
        assert!(
            placed || item.name == "BadMessage",
            "{} is in no API",
            item.name
        );
    }
    text
}

fn api_table() -> String {
    let mut text =
        "| key | API | versions | again | permission | cost |\n|--:|---|---|---|---|---|\n"
            .to_owned();
    for api in APIS {
        let (first, last) = (api.versions.start(), api.versions.end());
        let versions = if first == last {
            first.to_string()
        } else {
            format!("{first}–{last}")
        };
        let [retry, permission, cost] = [
            format!("{:?}", api.retry),
            format!("{:?}", api.permission),
            format!("{:?}", api.cost),
        ]
        .map(|name| words(&name));
        let (key, name) = (api.key.code(), api.name);
        let link = format!("[{name}](#{}-{key})", name.to_lowercase());
        writeln!(
            text,
            "| {key} | {link} | {versions} | {retry} | {permission} | {cost} |"
        )
        .unwrap();
    }
    text
}

fn error_table() -> String {
    let mut text = "| code | name | class | meaning |\n|--:|---|---|---|\n".to_owned();
    let mut codes = ErrorCode::ALL.to_vec();
    codes.sort();
    for code in codes {
        let class = words(&format!("{:?}", code.class()));
        let (number, name, meaning) = (code.0, code.name(), code.meaning().replace("  ", " "));
        writeln!(text, "| {number} | `{name}` | {class} | {meaning} |").unwrap();
    }
    text
}

/// The variants of an enum of `src/api.rs` or `src/error.rs` as a list.
fn list(file: &str, name: &str) -> String {
    let mut source = Source::default();
    source.read(file);
    let members = &source.item(name).unwrap().members;
    let line = |name: &str, doc: &str| format!("- *{}*: {doc}\n", name.replace('_', " "));
    members
        .iter()
        .map(|member| line(&member.name, &member.doc))
        .collect()
}

fn page() -> String {
    let source = messages();
    let shared = SHARED
        .map(|name| section(&source, source.item(name).unwrap()))
        .concat();
    let codecs = Codec::ALL.map(|codec| format!("{} {}", codec.number(), codec.name()));
    let replacements = [
        ("apis", api_table()),
        ("retry", list("api.rs", "Retry")),
        ("permission", list("api.rs", "Permission")),
        ("cost", list("api.rs", "Cost")),
        ("classes", list("error.rs", "ErrorClass")),
        ("errors", error_table()),
        ("messages", message_sections(&source)),
        ("shared", shared),
        ("codecs", codecs.join(", ")),
        ("message_bytes_max", limits::MESSAGE_BYTES_MAX.to_string()),
        (
            "frame_bytes_max",
            limits::FRAME_BYTES_MAX_DEFAULT.to_string(),
        ),
        ("entries_max", limits::ENTRIES_PER_REQUEST_MAX.to_string()),
        ("producer_window", limits::PRODUCER_WINDOW.to_string()),
        (
            "decompressed_bytes_max",
            limits::DECOMPRESSED_BYTES_MAX.to_string(),
        ),
        ("headers_max", limits::RECORD_HEADERS_MAX.to_string()),
    ];
    let mut page = include_str!("document/protocol.md").to_owned();
    for (name, text) in replacements {
        let place = format!("{{{{{name}}}}}");
        assert!(page.contains(&place), "{place}");
        page = page.replace(&place, text.trim_end());
    }
    assert!(!page.contains("{{"), "a place was not filled in");
    page
}

#[test]
fn the_page_says_what_the_code_does() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &page).unwrap();
    }
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == page,
        "docs/protocol.md is out of date: run UPDATE=1 cargo test -p strandline-protocol"
    );
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Map(BTreeMap<String, Value>),
    List(Vec<Value>),
    Other(IgnoredAny),
}

/// Holds the names on the wire against the fields that the page lists.
fn check_names(source: &Source, kind: &str, value: &Value) {
    let kind = inner(kind, "Option").unwrap_or(kind);
    let element = inner(kind, "Vec").unwrap_or(kind);
    match value {
        Value::List(list) => list
            .iter()
            .for_each(|value| check_names(source, element, value)),
        Value::Map(map) => {
            let Some(item) = source.item(kind) else {
                assert!(kind.starts_with("BTreeMap"), "{kind}");
                return;
            };
            for (name, value) in map {
                let member = item.members.iter().find(|member| member.name == *name);
                let member = member.unwrap_or_else(|| panic!("{kind} has no {name}"));
                check_names(source, member.kind.as_deref().unwrap(), value);
            }
            for member in &item.members {
                let there = map.contains_key(&member.name) || member.optional || item.is_enum;
                assert!(there, "{kind} has {} on the page only", member.name);
            }
        }
        Value::Other(_) => {}
    }
}

#[test]
fn the_fields_on_the_page_are_those_on_the_wire() {
    let source = messages();
    for sample in samples::all() {
        let pair = source
            .pairs
            .iter()
            .find(|pair| pair.api == sample.api.api().name)
            .unwrap();
        let what = sample.name.rsplit('.').next().unwrap();
        let kind = match what.split('-').next().unwrap() {
            "request" => pair.request.as_str(),
            "response" => pair.response.as_str(),
            "push" => "MetadataPush",
            _ => "ErrorMessage",
        };
        let value: Value = decode(sample.api, &sample.message).unwrap();
        let is_enum = source.item(kind).is_some_and(|item| item.is_enum);
        let is_map = matches!(value, Value::Map(_));
        assert!(is_enum || is_map, "{}", sample.name);
        check_names(&source, kind, &value);
    }
}
