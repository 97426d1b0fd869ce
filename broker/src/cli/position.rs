//! Where in a partition to begin, as people write it: `beginning`, `end`, an offset, a number of
//! records before the end, or a time.

use std::str::FromStr;

use jiff::Timestamp as Instant;
use strandline_protocol::ids::{Offset, Timestamp};

/// Where to begin reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// At the first record there is.
    Beginning,
    /// Behind the last record: only what is still to come.
    End,
    /// At an offset.
    Offset(Offset),
    /// So many records before the end, in each partition.
    BeforeEnd(u64),
    /// At the first record of that time or later.
    Time(Timestamp),
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "beginning" => return Ok(Self::Beginning),
            "end" => return Ok(Self::End),
            _ => {}
        }
        if let Some(count) = text.strip_prefix('-').and_then(|count| count.parse().ok()) {
            return Ok(Self::BeforeEnd(count));
        }
        match parse_bound(text) {
            Some(Bound::Offset(offset)) => Ok(Self::Offset(offset)),
            Some(Bound::Time(time)) => Ok(Self::Time(time)),
            None => Err(
                "expected beginning, end, an offset such as 42, -N for the last N records, \
                         or a time such as 2026-11-23T08:00:00Z"
                    .to_owned(),
            ),
        }
    }
}

/// A place in a partition that does not depend on where it ends: an offset or a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// An offset.
    Offset(Offset),
    /// A time.
    Time(Timestamp),
}

impl FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_bound(text).ok_or_else(|| {
            "expected an offset such as 42, or a time such as 2026-11-23T08:00:00Z".to_owned()
        })
    }
}

fn parse_bound(text: &str) -> Option<Bound> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text
            .parse()
            .ok()
            .map(|offset| Bound::Offset(Offset(offset)));
    }
    parse_time(text).ok().map(Bound::Time)
}

/// Reads a time as RFC 3339 writes it.
///
/// # Errors
/// What is expected, for whoever typed it.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse::<Instant>()
        .map(|instant| Timestamp(instant.as_millisecond()))
        .map_err(|_| "expected a time such as 2026-11-23T08:00:00Z (RFC 3339)".to_owned())
}

/// Writes a time as RFC 3339, to the millisecond; `-` where there is none.
pub fn show_time(time: Timestamp) -> String {
    match Instant::from_millisecond(time.0) {
        Ok(instant) if time != Timestamp::NONE => format!("{instant:.3}"),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_position_is_read() {
        let cases = [
            ("beginning", Position::Beginning),
            ("end", Position::End),
            ("0", Position::Offset(Offset(0))),
            ("9223372036854775807", Position::Offset(Offset(i64::MAX))),
            ("-10", Position::BeforeEnd(10)),
            ("1970-01-01T00:00:01.5Z", Position::Time(Timestamp(1_500))),
            ("1970-01-01T02:00:00+02:00", Position::Time(Timestamp(0))),
        ];
        for (text, position) in cases {
            assert_eq!(text.parse(), Ok(position), "{text}");
        }
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for text in [
            "",
            "-",
            "-x",
            "+5",
            "9223372036854775808",
            "yesterday",
            "2026-11-23",
            "1.5",
        ] {
            let refused = text.parse::<Position>();
            assert!(refused.is_err(), "{text} was read as {refused:?}");
        }
        assert!("end".parse::<Bound>().is_err());
        assert!("-3".parse::<Bound>().is_err());
    }

    #[test]
    fn a_time_is_shown_as_it_is_read() {
        let shown = show_time(Timestamp(1_500));
        assert_eq!(shown, "1970-01-01T00:00:01.500Z");
        assert_eq!(parse_time(&shown), Ok(Timestamp(1_500)));
        assert_eq!(show_time(Timestamp::NONE), "-");
    }
}
