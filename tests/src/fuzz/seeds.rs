//! What the corpora begin with: small inputs that reach each part of a target, made of the
//! repository's fixtures and of what the rigs build.

use std::{
    fs,
    path::{Path, PathBuf},
};

use strandline_protocol::api::APIS;

use super::disk;

/// A name and an input.
pub type Seed = (String, Vec<u8>);

/// The seeds of a target, by its name.
///
/// # Panics
/// If there is no such target, or a fixture is missing.
#[must_use]
pub fn of(target: &str) -> Vec<Seed> {
    match target {
        "frames" => frames(),
        "messages" => messages(),
        "batches" => batches(),
        "files" => files(),
        "recovery" => recovery(),
        "configuration" => configuration(),
        _ => panic!("there is no target {target}"),
    }
}

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every `.hex` fixture of a directory, by its name.
fn fixtures(directory: &str) -> Vec<Seed> {
    let mut found: Vec<Seed> = fs::read_dir(root().join(directory))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "hex"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, from_hex(&fs::read_to_string(&path).unwrap()))
        })
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{directory} holds no fixtures");
    found
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

fn frames() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, frame) in fixtures("protocol/tests/fixtures/frames") {
        // Any limit, as it is, in pieces of 7 and 30 bytes.
        seeds.push((name, [&[0, 0, 2, 7, 30], &frame[..]].concat()));
    }
    let built = [
        &[0, 1, 1, 5, 1, 9, 0, 2, 1, 0, 0, 0, 0][..],
        &[4, 1, 2, 3, 4, 3, 7, 7, 7, 11, 2, 0, 3, 0, 4],
    ];
    seeds.push(("built".to_owned(), built.concat()));
    for (name, start) in [
        ("http", &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..]),
        ("tls", b"\x16\x03"),
    ] {
        seeds.push((name.to_owned(), [&[2, 0, 0], start].concat()));
    }
    seeds
}

fn messages() -> Vec<Seed> {
    const HEADER_BYTES: usize = 24;
    let apis = u8::try_from(APIS.len()).unwrap();
    fixtures("protocol/tests/fixtures/frames")
        .into_iter()
        .map(|(name, frame)| {
            let api: u8 = name[..2].parse().unwrap();
            let kind = match &name[3..] {
                rest if rest.contains(".error") => 3,
                rest if rest.contains(".push") => 2,
                rest if rest.contains(".response") => 1,
                _ => 0,
            };
            let bytes = u32::from_be_bytes(frame[16..20].try_into().unwrap());
            let end = HEADER_BYTES + usize::try_from(bytes).unwrap();
            (
                name,
                [&[api + kind * apis], &frame[HEADER_BYTES..end]].concat(),
            )
        })
        .collect()
}

fn batches() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    for (name, batch) in fixtures("protocol/tests/fixtures/batches") {
        let codec = codecs.iter().position(|codec| *codec == name).unwrap();
        let codec = u8::try_from(codec).unwrap();
        seeds.push((format!("raw-{name}"), [&[0], &batch[..]].concat()));
        seeds.push((
            format!("stored-{name}"),
            [&[1, codec, 1], &batch[61..]].concat(),
        ));
        seeds.push((
            format!("plain-{name}"),
            [&[1, codec, 0], &batch[..]].concat(),
        ));
        for edited in 0..4 {
            // Three records with keys, values and headers; edits of what the number says.
            let record = [5, 2, b'k', b'1', 4, b'v', b'a', b'l', b'u', 3, 1, b'h', 2];
            let stamp =
                [u8::from(edited > 1), 8, 0, 0, 1][..if edited > 1 { 5 } else { 1 }].to_vec();
            let records = [2, 2, b'k', b'1', 4, b'v', b'a', b'l', b'u', 3, 255, 0, 1];
            let edits = [1, 0, 3, 0, 16];
            let input = [
                &[2, codec][..],
                &stamp,
                &[edited],
                &records,
                &record,
                &record,
                &edits,
            ];
            seeds.push((format!("built-{name}-{edited}"), input.concat()));
        }
    }
    seeds
}

fn files() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let stopped = root().join("tests/fixtures/data-v1-stopped");
    let names = super::files::names();
    for (which, name) in (0_u8..).zip(names) {
        for seal in 0..2 {
            let path = if usize::from(which) < 8 {
                stopped.join("none-0")
            } else {
                stopped.clone()
            };
            let stored = fs::read(path.join(name)).ok();
            // Kafka's snapshot and the log are better small.
            let small = disk::file_like(name);
            if let Some(bytes) = small.or(stored).filter(|bytes| bytes.len() < 3_000) {
                let name = name.trim_start_matches(['0', '.', '1', '2']);
                seeds.push((
                    format!("{name}-{seal}"),
                    [&[which, seal, which % 3], &bytes[..]].concat(),
                ));
            }
        }
    }
    let mark = b"{\"version\":0,\"brokerEpoch\":17}";
    seeds.push(("mark".to_owned(), [&[12, 0, 1], &mark[..]].concat()));
    let entries: Vec<u8> =
        fs::read_to_string(root().join("broker/core/tests/fixtures/metadata_entries_v1.hex"))
            .unwrap()
            .lines()
            .map(from_hex)
            .flat_map(|entry| {
                let length = u16::try_from(entry.len()).unwrap().to_le_bytes();
                [&length, &entry[..]].concat()
            })
            .collect();
    seeds.push(("entries".to_owned(), [&[16, 0, 1], &entries[..]].concat()));
    let text = b"0\n2\nt 0 17\nt-x 1 4\n";
    seeds.push((
        "text-checkpoint".to_owned(),
        [&[17, 0, 1], &text[..]].concat(),
    ));
    seeds.push((
        "text-partition".to_owned(),
        [&[17, 0, 1], &b"a-b-12"[..]].concat(),
    ));
    seeds
}

fn recovery() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for template in 0..8_u8 {
        seeds.push((format!("template-{template}"), vec![template]));
        for kind in 0..8_u8 {
            for file in [0, 3, 6, 9, 13, 17, 21] {
                // One edit of a kind in one file: a flipped bit, or what the kind takes.
                let input = vec![template, 1, kind, file, 0, 40 + file, 0, 4];
                seeds.push((format!("edit-{template}-{kind}-{file}"), input));
            }
        }
    }
    // A file of its own: a recovery point without a checksum.
    let text = b"0\n1\nt 0 100\n";
    let length = u8::try_from(text.len()).unwrap();
    let input = [&[2, 0, 2, 0, length, 0][..], text, &[0]].concat();
    seeds.push(("recovery-point".to_owned(), input));
    // Few are enough: what the edits reach is found again within seconds.
    seeds
        .into_iter()
        .enumerate()
        .filter(|(at, _)| at % 8 == 0)
        .map(|(_, seed)| seed)
        .collect()
}

fn configuration() -> Vec<Seed> {
    let everything = strandline_broker::settings::Settings::with(&[])
        .unwrap()
        .render_effective();
    let uncommented: String = everything
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or(line).to_owned() + "\n")
        .filter(|line| !line.contains("is not set"))
        .collect();
    let texts = [
        ("empty", String::new()),
        ("everything", everything),
        ("uncommented", uncommented),
        (
            "lists",
            "data = [\"/a\", \"/b\"]\nlisten = \"[::1]:0\"\n[topic]\nretention.ms=-1\n".into(),
        ),
        (
            "log",
            "log = \"info,strandline=debug\"\nrack = \"a\\nb\"\nhttp = \"off\"\n".into(),
        ),
        ("unknown", "flsh = 1\n[limits]\nx = {y = [1, 2]}\n".into()),
        (
            "wrong",
            "[limits]\nframe_bytes_max = \"1KiB\"\nidle_timeout = \"1h 5ms\"\n".into(),
        ),
        ("syntax", "a = [1,\n".into()),
    ];
    let mut seeds: Vec<Seed> = texts
        .into_iter()
        .map(|(name, text)| (format!("file-{name}"), [&[0], text.as_bytes()].concat()))
        .collect();
    let variables = [
        &[2, 3, 0, 2][..],
        b"/a",
        &[1, 5],
        b"[::]:",
        &[4, 5],
        b"async",
        &[8, 1, b'x'],
    ];
    seeds.push(("variables".to_owned(), variables.concat()));
    for (which, value) in (0_u8..).zip(["zstd", "async", "5000", "CreateTime", "-1", "7", "1024"]) {
        let length = u8::try_from(value.len()).unwrap();
        let input = [&[3, 0, which, length], value.as_bytes(), b"[::1]:9290"].concat();
        seeds.push((format!("topic-{which}"), input));
    }
    seeds
}
