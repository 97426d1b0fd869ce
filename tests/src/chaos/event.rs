//! What happened to a cluster as a history keeps it: one line each, written as it happens.
//!
//! ```text
//! # anything              for people: the seed, what was run
//! s T P N C               producer N sends its record C to partition P
//! a T P N C O             it was acknowledged at offset O
//! f T P N C               it was refused: it is not there
//! u T P N C               nobody knows what became of it
//! p T P R O               reader R goes to offset O
//! c T P R O N C           reader R is given record C of producer N at offset O
//! c T P R O -             reader R is given something at offset O that nobody sent as it is
//! d T P B O N C           the disk of broker B holds record C of producer N at offset O
//! d T P B O -             it holds something that nobody sent as it is
//! e T P B O               the log of broker B begins at O, and what `d` tells of it is whole
//! h T MS                  everything is healed: readers have so many milliseconds from here on
//! ```
//!
//! T is in microseconds since the history began, P a partition.

use std::{fmt, str::FromStr};

use anyhow::{Context as _, bail};

use crate::history::Mark;

/// One line of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in microseconds since the history began.
    pub at_us: u64,
    /// In which partition; 0 where it concerns none.
    pub partition: i32,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A producer hands a record to its client.
    Sent(Mark),
    /// The client says that it is at that offset.
    Acknowledged(Mark, i64),
    /// The client says that it is not there.
    Refused(Mark),
    /// The client says that it does not know.
    Unknown(Mark),
    /// A reader begins at an offset.
    Placed {
        /// Which reader.
        reader: u32,
        /// Where it is given the next record.
        offset: i64,
    },
    /// A reader is given a record; none if it is nothing that anybody sent as it is.
    Read {
        /// Which reader.
        reader: u32,
        /// Where.
        offset: i64,
        /// What.
        mark: Option<Mark>,
    },
    /// A broker's disk holds a record, in the end.
    Kept {
        /// Which broker.
        broker: i32,
        /// Where.
        offset: i64,
        /// What.
        mark: Option<Mark>,
    },
    /// All of a broker's copy was told.
    KeptFrom {
        /// Which broker.
        broker: i32,
        /// The first offset of its log.
        start: i64,
    },
    /// Nothing is wrong any more.
    Healed {
        /// How long readers may take from here until they have everything, in milliseconds.
        bound_ms: u64,
    },
}

/// A record, or what stands for none.
struct Content(Option<Mark>);

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Mark { producer, counter }) => write!(f, "{producer} {counter}"),
            None => f.write_str("-"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, partition) = (self.at_us, self.partition);
        let of = |mark: Mark| Content(Some(mark));
        match self.what {
            What::Sent(mark) => write!(f, "s {at} {partition} {}", of(mark)),
            What::Acknowledged(mark, offset) => {
                write!(f, "a {at} {partition} {} {offset}", of(mark))
            }
            What::Refused(mark) => write!(f, "f {at} {partition} {}", of(mark)),
            What::Unknown(mark) => write!(f, "u {at} {partition} {}", of(mark)),
            What::Placed { reader, offset } => write!(f, "p {at} {partition} {reader} {offset}"),
            What::Read {
                reader,
                offset,
                mark,
            } => write!(f, "c {at} {partition} {reader} {offset} {}", Content(mark)),
            What::Kept {
                broker,
                offset,
                mark,
            } => write!(f, "d {at} {partition} {broker} {offset} {}", Content(mark)),
            What::KeptFrom { broker, start } => write!(f, "e {at} {partition} {broker} {start}"),
            What::Healed { bound_ms } => write!(f, "h {at} {bound_ms}"),
        }
    }
}

impl FromStr for Event {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let mut words = line.split_ascii_whitespace();
        let kind = words.next().context("the line is empty")?;
        let at_us = next(&mut words)?;
        if kind == "h" {
            let what = What::Healed {
                bound_ms: next(&mut words)?,
            };
            return Ok(Self {
                at_us,
                partition: 0,
                what,
            });
        }
        let partition = next(&mut words)?;
        let words = &mut words;
        let what = match kind {
            "s" => What::Sent(mark(words)?),
            "a" => What::Acknowledged(mark(words)?, next(words)?),
            "f" => What::Refused(mark(words)?),
            "u" => What::Unknown(mark(words)?),
            "p" => What::Placed {
                reader: next(words)?,
                offset: next(words)?,
            },
            "c" => What::Read {
                reader: next(words)?,
                offset: next(words)?,
                mark: content(words)?,
            },
            "d" => What::Kept {
                broker: next(words)?,
                offset: next(words)?,
                mark: content(words)?,
            },
            "e" => What::KeptFrom {
                broker: next(words)?,
                start: next(words)?,
            },
            _ => bail!("there is no event `{kind}`"),
        };
        anyhow::ensure!(words.next().is_none(), "the line goes on behind its end");
        Ok(Self {
            at_us,
            partition,
            what,
        })
    }
}

type Words<'a> = std::str::SplitAsciiWhitespace<'a>;

fn next<T: FromStr>(words: &mut Words<'_>) -> anyhow::Result<T> {
    let word = words.next().context("the line ends early")?;
    let value = word.parse().ok();
    value.with_context(|| format!("`{word}` is no number that fits here"))
}

fn mark(words: &mut Words<'_>) -> anyhow::Result<Mark> {
    Ok(Mark {
        producer: next(words)?,
        counter: next(words)?,
    })
}

fn content(words: &mut Words<'_>) -> anyhow::Result<Option<Mark>> {
    if words.clone().next() == Some("-") {
        words.next();
        return Ok(None);
    }
    mark(words).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_read_as_it_was_written() {
        let lines = [
            "s 1 2 3 4",
            "a 1 2 3 4 5",
            "f 1 2 3 4",
            "u 1 2 3 4",
            "p 1 2 3 4",
            "c 1 2 3 4 5 6",
            "c 1 2 3 4 -",
            "d 1 2 3 4 5 6",
            "d 1 2 3 4 -",
            "e 1 2 3 4",
            "h 1 2",
        ];
        for line in lines {
            let event: Event = line.parse().unwrap();
            assert_eq!(event.to_string(), line);
        }
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for line in ["", "s", "s 1 2 3", "s 1 2 3 x", "z 1 2 3 4", "s 1 2 3 4 5"] {
            assert!(line.parse::<Event>().is_err(), "{line}");
        }
    }
}
