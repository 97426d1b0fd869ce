//! The format of `consume`: `%k %v` and the like, compiled once and filled per record.
//!
//! A newline follows every record unless the format itself ends in a newline or in a zero byte.

use std::{io::Write, str::FromStr};

use strandline_protocol::ids::{Offset, PartitionId, Timestamp};

use super::position::show_time;

/// What a template can show of a record.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a, H> {
    /// Of which topic.
    pub topic: &'a str,
    /// In which partition.
    pub partition: PartitionId,
    /// At which offset.
    pub offset: Offset,
    /// Of what time.
    pub timestamp: Timestamp,
    /// Its key, shown empty where there is none.
    pub key: Option<&'a [u8]>,
    /// Its value, shown empty where there is none.
    pub value: Option<&'a [u8]>,
    /// Its headers, each a name and a value.
    pub headers: H,
}

/// A compiled format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Headers,
    Key,
    Value,
}

/// The letters, what each stands for in the help, and its part.
const FIELDS: [(char, Part); 7] = [
    ('t', Part::Topic),
    ('p', Part::Partition),
    ('o', Part::Offset),
    ('T', Part::Timestamp),
    ('h', Part::Headers),
    ('k', Part::Key),
    ('v', Part::Value),
];

impl Template {
    /// Whether headers are asked for.
    pub fn shows_headers(&self) -> bool {
        self.0.contains(&Part::Headers)
    }

    /// Writes what the template says of `record` to `out`.
    pub fn write<'a, H>(&self, record: &Shown<'a, H>, out: &mut Vec<u8>)
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Value => out.extend_from_slice(record.value.unwrap_or_default()),
                Part::Key => out.extend_from_slice(record.key.unwrap_or_default()),
                Part::Topic => out.extend_from_slice(record.topic.as_bytes()),
                Part::Partition => write_number(out, i64::from(record.partition.0)),
                Part::Offset => write_number(out, record.offset.0),
                Part::Timestamp => out.extend_from_slice(show_time(record.timestamp).as_bytes()),
                Part::Headers => write_headers(out, record.headers.clone()),
            }
        }
    }
}

fn write_number(out: &mut Vec<u8>, number: i64) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{number}");
}

fn write_headers<'a>(
    out: &mut Vec<u8>,
    headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
) {
    for (index, (name, value)) in headers.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        out.extend_from_slice(value.unwrap_or_default());
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(format: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut letters = format.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '%' => match letters.next() {
                    Some('%') => text.push('%'),
                    Some(field) => {
                        let part = part_of(field)?;
                        if !text.is_empty() {
                            parts.push(Part::Text(std::mem::take(&mut text).into_bytes()));
                        }
                        parts.push(part);
                    }
                    None => return Err("ends in a lone %; write %% for a percent sign".to_owned()),
                },
                '\\' => text.push(escaped(letters.next())?),
                _ => text.push(letter),
            }
        }
        if !text.ends_with(['\n', '\0']) {
            text.push('\n');
        }
        parts.push(Part::Text(text.into_bytes()));
        Ok(Self(parts))
    }
}

fn part_of(field: char) -> Result<Part, String> {
    FIELDS
        .iter()
        .find(|(letter, _)| *letter == field)
        .map(|(_, part)| part.clone())
        .ok_or_else(|| {
            format!(
                "%{field} is unknown; there are %t topic, %p partition, %o offset, %T time, \
                 %h headers, %k key, %v value and %%"
            )
        })
}

fn escaped(letter: Option<char>) -> Result<char, String> {
    match letter {
        Some('n') => Ok('\n'),
        Some('t') => Ok('\t'),
        Some('r') => Ok('\r'),
        Some('0') => Ok('\0'),
        Some('\\') => Ok('\\'),
        Some(other) => Err(format!(
            "\\{other} is unknown; there are \\n \\t \\r \\0 and \\\\"
        )),
        None => Err("ends in a lone backslash; write \\\\ for a backslash".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(format: &str) -> Result<String, String> {
        let template: Template = format.parse()?;
        let headers = [("a", Some(&b"1"[..])), ("b", None)];
        let record = Shown {
            topic: "orders",
            partition: PartitionId(3),
            offset: Offset(42),
            timestamp: Timestamp(1_500),
            key: Some(b"key"),
            value: Some(b"value"),
            headers: headers.into_iter(),
        };
        let mut out = Vec::new();
        template.write(&record, &mut out);
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn every_field_is_shown() {
        let cases = [
            ("%t %p %o %k %v", "orders 3 42 key value\n"),
            ("%T", "1970-01-01T00:00:01.500Z\n"),
            ("%h", "a=1,b=\n"),
            ("100%% %v\\n", "100% value\n"),
            ("%v\\0", "value\0"),
            ("%k\\t%v\\\\", "key\tvalue\\\n"),
            ("", "\n"),
            ("é%vé", "évalueé\n"),
        ];
        for (format, text) in cases {
            assert_eq!(shown(format).as_deref(), Ok(text), "{format}");
        }
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        for (format, named) in [("%x", "%x"), ("50%", "%%"), ("\\q", "\\q"), ("a\\", "\\\\")] {
            let refused = shown(format).unwrap_err();
            assert!(refused.contains(named), "{format}: {refused}");
        }
    }

    #[test]
    fn the_default_is_the_value_and_a_newline() {
        assert_eq!("%v".parse::<Template>(), "%v\\n".parse());
        assert_eq!(shown("%v").as_deref(), Ok("value\n"));
    }
}
