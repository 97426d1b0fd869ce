//! The house rules that a machine can check: which crate may know which, how long files and lines
//! get, what every file says about itself, which names and shortcuts stay out, and that every
//! dependency has a reason.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// What a file should not exceed stands in the house style (500); beyond this it fails.
const FILE_LINES_MAX: usize = 600;
const LINE_COLUMNS_MAX: usize = 100;

/// Which of our crates each of them may depend on. Whoever is missing here is a mistake, too.
const ARROWS: &[(&str, &[&str])] = &[
    ("strandline-protocol", &[]),
    ("strandline-core", &["protocol"]),
    ("strandline-storage", &["core", "protocol"]),
    ("strandline-client", &["protocol"]),
    (
        "strandline-broker",
        &["client", "core", "protocol", "storage"],
    ),
    (
        "strandline-benches",
        &["broker", "client", "core", "protocol", "storage"],
    ),
    (
        "strandline-tests",
        &["broker", "client", "core", "protocol", "storage"],
    ),
    ("strandline-fuzz", &["tests"]),
    // Takes the place of a crate of that name: see its first lines.
    ("base2histogram", &[]),
];

/// What pure code must not reach: runtimes, sockets, files, clocks, locks, randomness.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio-util",
    "socket2",
    "rustix",
    "memmap2",
    "getrandom",
    "jiff",
    "parking_lot",
    "arc-swap",
    "metrics",
    "tracing",
];

/// What storage must not reach: it has no network, no async, no clock.
const NOT_IN_STORAGE: &[&str] = &[
    "tokio",
    "tokio-util",
    "socket2",
    "getrandom",
    "jiff",
    "axum",
];

#[test]
fn crates_point_in_one_direction() {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (path, manifest) in manifests() {
        let Some(name) = manifest.get("package").and_then(|p| p["name"].as_str()) else {
            continue;
        };
        seen.insert(name.to_owned());
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            wrong.push(format!("{}: {name} has no row of arrows", path.display()));
            continue;
        };
        let forbidden = match name {
            "strandline-protocol" | "strandline-core" => IMPURE,
            "strandline-storage" => NOT_IN_STORAGE,
            _ => &[],
        };
        for dependency in dependencies(&manifest) {
            let own = dependency.strip_prefix("strandline-");
            if own.is_some_and(|own| !allowed.contains(&own))
                || forbidden.contains(&dependency.as_str())
            {
                wrong.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    let known: BTreeSet<String> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(seen, known, "the crates and the table of arrows differ");
    report(wrong);
}

#[test]
fn pure_crates_have_no_clock_thread_file_or_socket() {
    let words = [
        "std::fs",
        "std::net",
        "std::thread",
        "std::time::Instant",
        "std::time::SystemTime",
        "SystemTime::now",
        "Instant::now",
        "std::env",
    ];
    let pure =
        |path: &Path| path.starts_with("protocol/src") || path.starts_with("broker/core/src");
    let mut wrong = Vec::new();
    for file in rust_files().iter().filter(|file| pure(&file.path)) {
        let code = before_tests(&file.text);
        for (number, line) in code.lines().enumerate() {
            let found = words.iter().find(|word| line.contains(**word));
            if let Some(word) = found.filter(|_| !is_comment(line)) {
                wrong.push(format!("{}: {word} in pure code", file.at(number)));
            }
        }
    }
    report(wrong);
}

#[test]
fn files_are_short_and_say_what_they_own() {
    let mut wrong = Vec::new();
    for file in rust_files() {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{}: {lines} lines", file.path.display()));
        }
        let code = |line: &str| !line.is_empty() && !line.starts_with(['/', '#', ' ', ')']);
        let head = file.text.lines().take_while(|line| !code(line));
        if !head.into_iter().any(|line| line.starts_with("//!")) {
            wrong.push(format!("{}: no module doc", file.path.display()));
        }
        for (number, line) in file.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > LINE_COLUMNS_MAX {
                wrong.push(format!("{}: {columns} columns", file.at(number)));
            }
        }
    }
    report(wrong);
}

#[test]
fn shortcuts_stay_out() {
    let shortcuts = [
        concat!("to", "do!"),
        concat!("unimple", "mented!"),
        concat!("#[ig", "nore"),
        concat!("db", "g!("),
    ];
    let mut wrong = Vec::new();
    for file in rust_files() {
        for (number, line) in file.text.lines().enumerate() {
            if let Some(found) = shortcuts.iter().find(|shortcut| line.contains(**shortcut)) {
                wrong.push(format!("{}: {found}", file.at(number)));
            }
            let line = line.trim_start();
            let import = line.starts_with("use ") || line.starts_with("pub use ");
            // A test module sees all of what it tests; proptest's macros need its prelude.
            let allowed = line == "use super::*;" || line.contains("prelude::*");
            if import && line.contains("::*") && !allowed {
                wrong.push(format!("{}: a glob import", file.at(number)));
            }
            // The two faces of the network seam show the types of what they stand for.
            let seam = file.path.starts_with("client/src/net");
            let root = seam
                || ["lib.rs", "mod.rs"]
                    .iter()
                    .any(|name| file.path.ends_with(name));
            if line.starts_with("pub use ") && !root {
                wrong.push(format!(
                    "{}: a re-export outside of a root",
                    file.at(number)
                ));
            }
        }
    }
    report(wrong);
}

#[test]
fn names_say_what_a_thing_is() {
    let empty = ["Manager", "Helper", "Util", "Utils", "Impl", "Data", "Info"];
    let kinds = ["struct ", "enum ", "trait ", "type "];
    let mut wrong = Vec::new();
    for file in rust_files() {
        for (number, line) in file.text.lines().enumerate() {
            let item = line.trim_start();
            // A type within an impl has the name that its trait gave it.
            if item.len() < line.len() && item.starts_with("type ") {
                continue;
            }
            let item = item.strip_prefix("pub ").unwrap_or(item);
            let item = item.strip_prefix("pub(crate) ").unwrap_or(item);
            let item = item.strip_prefix("pub(super) ").unwrap_or(item);
            let Some(rest) = kinds.iter().find_map(|kind| item.strip_prefix(kind)) else {
                continue;
            };
            let end = rest
                .find(|c: char| !c.is_alphanumeric())
                .unwrap_or(rest.len());
            let name = &rest[..end];
            if empty.iter().any(|suffix| name.ends_with(suffix)) {
                wrong.push(format!("{}: {name} says nothing", file.at(number)));
            }
        }
    }
    report(wrong);
}

#[test]
fn parameters_are_not_boolean() {
    let mut wrong = Vec::new();
    for file in rust_files() {
        for (number, line) in file.text.lines().enumerate() {
            let words = line.trim_start();
            let item = ["fn ", "pub ", "const ", "async "];
            if !item.iter().any(|start| words.starts_with(start)) || !words.contains("fn ") {
                continue;
            }
            let rest: String = file.text.lines().skip(number).take(12).collect();
            let signature = rest.split(['{', ';']).next().unwrap_or_default();
            let parameters = signature.split("->").next().unwrap_or_default();
            if parameters.contains(": bool") {
                wrong.push(format!("{}: a boolean parameter", file.at(number)));
            }
        }
    }
    report(wrong);
}

#[test]
fn unsafe_code_lives_in_one_file_per_crate() {
    let marker = concat!("#![allow(un", "safe_code");
    let mut by_crate: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for file in rust_files() {
        let joined: String = file.text.split_whitespace().collect();
        let marked = joined.contains(&marker.replace(' ', ""));
        if marked {
            let root = file
                .path
                .components()
                .take_while(|part| part.as_os_str() != "src");
            let files = by_crate.entry(root.collect()).or_default();
            files.push(file.path.display().to_string());
        }
    }
    let wrong = by_crate
        .into_values()
        .filter(|files| files.len() > 1)
        .map(|files| format!("unsafe code in several files: {}", files.join(", ")));
    report(wrong.collect());
}

#[test]
fn every_dependency_has_a_reason() {
    // The fuzz targets are a workspace of their own.
    let declared: BTreeSet<String> = manifests()
        .iter()
        .filter_map(|(_, manifest)| manifest.get("workspace")?.get("dependencies")?.as_table())
        .flat_map(toml::Table::keys)
        .filter(|name| !name.starts_with("strandline-"))
        .cloned()
        .collect();
    let page = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let rows: Vec<(&str, &str)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .collect();
    let listed: BTreeSet<String> = rows.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(
        listed, declared,
        "docs/dependencies.md and Cargo.toml differ"
    );
    assert!(
        rows.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "the table is not in order"
    );
    let reasonless = rows.iter().filter(|(_, reason)| reason.len() < 20);
    report(
        reasonless
            .map(|(name, _)| format!("{name} has no reason"))
            .collect(),
    );

    // Versions are declared once, in the workspace.
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for (path, manifest) in manifests().into_iter().skip(1) {
        for (name, value) in dependency_tables(&manifest) {
            if value.get("workspace").is_none() {
                wrong.push(format!("{}: {name} has its own version", path.display()));
            }
            used.insert(name);
        }
    }
    let unused = declared.difference(&used);
    wrong.extend(unused.map(|name| format!("{name} is declared and used by no crate")));
    report(wrong);
}

#[test]
fn links_of_documents_lead_somewhere() {
    let mut wrong = Vec::new();
    walk(&root(), &mut |path| {
        if path.extension().is_none_or(|extension| extension != "md") {
            return;
        }
        let text = fs::read_to_string(path).unwrap();
        for (number, line) in text.lines().enumerate() {
            for target in line.split("](").skip(1) {
                let target = target.split([')', '#']).next().unwrap_or_default();
                let elsewhere = target.is_empty() || target.contains("://");
                if !elsewhere && !path.parent().unwrap().join(target).exists() {
                    let page = path.strip_prefix(root()).unwrap().display();
                    wrong.push(format!("{page}:{}: no {target}", number + 1));
                }
            }
        }
    });
    report(wrong);
}

struct SourceFile {
    path: PathBuf,
    text: String,
}

impl SourceFile {
    /// The place of a line that was counted from 0.
    fn at(&self, line: usize) -> String {
        format!("{}:{}", self.path.display(), line + 1)
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust file of the repository, with paths from its root.
fn rust_files() -> Vec<SourceFile> {
    let mut files = Vec::new();
    walk(&root(), &mut |path| {
        if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(SourceFile {
                path: path.strip_prefix(root()).unwrap().to_owned(),
                text: fs::read_to_string(path).unwrap(),
            });
        }
    });
    assert!(files.len() > 50, "only {} files were found", files.len());
    files
}

/// Every manifest, the workspace's first.
fn manifests() -> Vec<(PathBuf, toml::Table)> {
    let mut found = Vec::new();
    walk(&root(), &mut |path| {
        if path.ends_with("Cargo.toml") {
            let text = fs::read_to_string(path).unwrap();
            let path = path.strip_prefix(root()).unwrap().to_owned();
            found.push((path, text.parse().unwrap()));
        }
    });
    found.sort_by_key(|(path, _)| (path.components().count(), path.clone()));
    found
}

fn walk(directory: &Path, visit: &mut impl FnMut(&Path)) {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                walk(&entry.path(), visit);
            }
        } else {
            visit(&entry.path());
        }
    }
}

fn dependencies(manifest: &toml::Table) -> Vec<String> {
    dependency_tables(manifest)
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

/// The entries of all dependency tables: normal, development, build, and those of a target.
fn dependency_tables(manifest: &toml::Table) -> Vec<(String, toml::Value)> {
    let mut entries = Vec::new();
    for (name, value) in manifest {
        match value {
            toml::Value::Table(table) if name.ends_with("dependencies") => {
                entries.extend(table.clone());
            }
            toml::Value::Table(table) if name == "target" => {
                for target in table.values().filter_map(toml::Value::as_table) {
                    entries.extend(dependency_tables(target));
                }
            }
            _ => {}
        }
    }
    entries
}

fn before_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn report(wrong: Vec<String>) {
    let mut message = String::new();
    for line in &wrong {
        writeln!(message, "  {line}").unwrap();
    }
    assert!(wrong.is_empty(), "house rules are broken:\n{message}");
}
