//! Reads types, fields and their documentation out of the crate's sources, as far as those go.

use std::{fs, path::PathBuf};

/// A field of a struct, or a variant of an enum.
pub struct Member {
    pub name: String,
    /// The Rust type; none for a variant that carries nothing.
    pub kind: Option<String>,
    pub doc: String,
    pub optional: bool,
}

pub struct Item {
    pub name: String,
    pub is_enum: bool,
    pub doc: String,
    pub members: Vec<Member>,
}

/// `impl Request for` …
pub struct Pair {
    pub request: String,
    pub api: String,
    pub response: String,
}

#[derive(Default)]
pub struct Source {
    pub items: Vec<Item>,
    pub pairs: Vec<Pair>,
}

impl Source {
    pub fn item(&self, name: &str) -> Option<&Item> {
        self.items.iter().find(|item| item.name == name)
    }

    /// Reads one file below `src`.
    pub fn read(&mut self, file: &str) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("src")
            .join(file);
        let text = fs::read_to_string(&path).unwrap();
        let (mut doc, mut attributes) = (String::new(), String::new());
        let mut open: Option<Item> = None;
        for line in text.lines() {
            let trimmed = line.trim();
            if let Some(sentence) = trimmed.strip_prefix("///") {
                doc.push_str(sentence);
                continue;
            }
            if trimmed.starts_with("#[") {
                attributes.push_str(trimmed);
                continue;
            }
            if let Some(item) = &mut open {
                if let Some(member) = member(item, trimmed, &doc, &attributes) {
                    item.members.push(member);
                }
            } else {
                open = start(trimmed, &doc);
                self.pair(trimmed);
            }
            if line.starts_with('}') || trimmed.ends_with("{}") {
                self.items.extend(open.take());
            }
            doc.clear();
            attributes.clear();
        }
    }

    fn pair(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("impl Request for ") {
            let request = rest.trim_end_matches(" {").to_owned();
            let (api, response) = Default::default();
            let pair = Pair {
                request,
                api,
                response,
            };
            self.pairs.push(pair);
        } else if let Some(pair) = self.pairs.last_mut() {
            let value = |start| Some(line.strip_prefix(start)?.trim_end_matches(';').to_owned());
            if let Some(api) = value("const API: ApiKey = ApiKey::") {
                pair.api = api;
            } else if let Some(response) = value("type Response = ") {
                pair.response = response;
            }
        }
    }
}

fn start(line: &str, doc: &str) -> Option<Item> {
    let (is_enum, rest) = match line.strip_prefix("pub struct ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("pub enum ")?),
    };
    let (name, _) = rest.split_once(" {")?;
    Some(Item {
        name: name.to_owned(),
        is_enum,
        doc: clean(doc),
        members: Vec::new(),
    })
}

fn member(item: &Item, line: &str, doc: &str, attributes: &str) -> Option<Member> {
    let (name, kind) = if item.is_enum {
        let line = line.strip_suffix(',')?;
        let line = line.split_once(" = ").map_or(line, |(name, _)| name);
        let parts = line.strip_suffix(')').and_then(|line| line.split_once('('));
        let (name, kind) = parts.map_or((line, None), |(name, kind)| (name, Some(kind)));
        let renamed = attributes.split_once("rename = \"");
        let renamed = renamed.and_then(|(_, rest)| rest.split('"').next());
        (renamed.map_or_else(|| snake(name), str::to_owned), kind)
    } else {
        let field = line.strip_prefix("pub ")?.strip_suffix(',')?;
        let (name, kind) = field.split_once(": ")?;
        (name.to_owned(), Some(kind))
    };
    let optional =
        attributes.contains("default") || kind.is_some_and(|it| it.starts_with("Option"));
    Some(Member {
        name,
        kind: kind.map(str::to_owned),
        doc: clean(doc),
        optional,
    })
}

fn snake(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

/// Links into the code become what a reader without the code sees.
fn clean(doc: &str) -> String {
    let values = [
        ("[`HELLO_MAGIC`]", "`strandline`"),
        ("[`ProducerId::NONE`]", "-1"),
        ("[`ErrorCode::NONE`]", "0"),
    ];
    let mut doc = doc.trim().to_owned();
    for (link, value) in values {
        doc = doc.replace(link, value);
    }
    doc.replace("[`", "`").replace("`]", "`")
}
