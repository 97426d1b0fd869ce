//! Counted instructions held against recorded ones.
//!
//! **Owns** the file of recorded counts and the verdict: a count that has grown by more than
//! [`CHANGE_MAX_PERCENT`] fails until the file changes with it.
//!
//! **Never** counts: gungraun does, under valgrind.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::Value;

/// How much a count may change, in percent, before it has to be recorded.
pub const CHANGE_MAX_PERCENT: u64 = 5;

/// Instructions by the name of the benchmark.
pub type Counts = BTreeMap<String, u64>;

/// What was written down, and with which tools it was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Name and version of what has a say in the counts: compiler, valgrind.
    pub tools: BTreeMap<String, String>,
    /// The counts.
    pub counts: Counts,
}

/// Why the counts cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(String);

impl std::fmt::Display for Unreadable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Unreadable {}

const HEAD: &str = "\
# Instructions of each micro benchmark, as valgrind counts them. Written by
# `benches/instructions --update` and compared by `benches/instructions`, as CI does: growth of more
# than 5 % fails unless this file changes with it.
";

impl Recorded {
    /// Reads the file of recorded counts.
    ///
    /// # Errors
    /// If it is not such a file.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        let table: toml::Table = text
            .parse()
            .map_err(|error| Unreadable(format!("it is not TOML: {error}")))?;
        let section = |name: &str| {
            let section = table.get(name).and_then(toml::Value::as_table);
            section.ok_or_else(|| Unreadable(format!("it has no section [{name}]")))
        };
        let mut recorded = Self::default();
        for (name, value) in section("tools")? {
            let version = value.as_str().unwrap_or_default();
            recorded.tools.insert(name.clone(), version.to_owned());
        }
        for (name, value) in section("instructions")? {
            let count = value
                .as_integer()
                .and_then(|count| u64::try_from(count).ok());
            let count = count.filter(|count| *count > 0);
            let count = count.ok_or_else(|| Unreadable(format!("{name} is not a count")))?;
            recorded.counts.insert(name.clone(), count);
        }
        Ok(recorded)
    }

    /// The file that [`Recorded::parse`] reads: sorted, and lined up.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = HEAD.to_owned();
        text.push_str("\n[tools]\n");
        for (name, version) in &self.tools {
            let _ = writeln!(text, "{name} = \"{version}\"");
        }
        text.push_str("\n[instructions]\n");
        let widest = self.counts.keys().map(|name| name.len()).max().unwrap_or(0) + 2;
        for (name, count) in &self.counts {
            let name = format!("\"{name}\"");
            let _ = writeln!(text, "{name:<widest$} = {:>11}", grouped(*count, '_'));
        }
        text
    }
}

/// The counts in what gungraun writes with `--output-format=json`: one object per benchmark.
///
/// # Errors
/// If it is not that, if a name comes twice, or if a benchmark has executed nothing, which means
/// that it measures nothing.
pub fn counts_of(output: &str) -> Result<Counts, Unreadable> {
    let mut counts = Counts::new();
    for summary in serde_json::Deserializer::from_str(output).into_iter::<Value>() {
        let summary = summary
            .map_err(|error| Unreadable(format!("gungraun's output is not JSON: {error}")))?;
        let name = name_of(&summary)
            .ok_or_else(|| Unreadable("a benchmark has no name in gungraun's output".to_owned()))?;
        let count = instructions_of(&summary)
            .filter(|count| *count > 0)
            .ok_or_else(|| Unreadable(format!("{name} has executed no instructions")))?;
        if counts.insert(name.clone(), count).is_some() {
            return Err(Unreadable(format!(
                "there are two benchmarks of the name {name}"
            )));
        }
    }
    Ok(counts)
}

/// File, function and case: `log::append::mapped_1_x_100_b`.
fn name_of(summary: &Value) -> Option<String> {
    let file = summary.get("module_path")?.as_str()?.split("::").next()?;
    let function = summary.get("function_name")?.as_str()?;
    let case = summary.get("id")?.as_str()?;
    Some(format!("{file}::{function}::{case}"))
}

fn instructions_of(summary: &Value) -> Option<u64> {
    let profile = summary.get("profiles")?.as_array()?.first()?;
    profile
        .pointer("/data/total/metrics/Ir/values/new")?
        .as_u64()
}

/// What the comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every count is about what was recorded.
    Same,
    /// Nothing has grown too much, but something has shrunk: the gain is not guarded before it is
    /// recorded.
    Shrunk,
    /// A count has grown too much, or counts and file are not of the same benchmarks.
    Failed,
}

/// Counts beside recorded ones.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// A line for each benchmark, under a headline.
    pub table: String,
    /// What it came to.
    pub verdict: Verdict,
}

/// Holds `now` against `recorded`.
#[must_use]
pub fn compare(recorded: &Counts, now: &Counts) -> Comparison {
    let names: BTreeSet<&String> = recorded.keys().chain(now.keys()).collect();
    let widest = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut table = format!(
        "{:<widest$}  {:>11}  {:>11}  {:>8}\n",
        "", "recorded", "now", "change"
    );
    let mut verdict = Verdict::Same;
    for name in names {
        let (before, after) = (recorded.get(name).copied(), now.get(name).copied());
        let (change, note, outcome) = match (before, after) {
            (Some(before), Some(after)) => {
                let (note, outcome) = judge(before, after);
                (percent(before, after), note, outcome)
            }
            (None, _) => (String::new(), "  <- not recorded", Verdict::Failed),
            (_, None) => (
                String::new(),
                "  <- recorded, but does not exist",
                Verdict::Failed,
            ),
        };
        let shown = |count: Option<u64>| count.map_or_else(String::new, |it| grouped(it, ','));
        let (before, after) = (shown(before), shown(after));
        let line = format!("{name:<widest$}  {before:>11}  {after:>11}  {change:>8}{note}");
        let _ = writeln!(table, "{}", line.trim_end());
        if verdict != Verdict::Failed && outcome != Verdict::Same {
            verdict = outcome;
        }
    }
    Comparison { table, verdict }
}

fn judge(before: u64, after: u64) -> (&'static str, Verdict) {
    let exceeds = |larger: u64, smaller: u64| {
        larger.saturating_sub(smaller).saturating_mul(100)
            > before.saturating_mul(CHANGE_MAX_PERCENT)
    };
    if exceeds(after, before) {
        ("  <- grown", Verdict::Failed)
    } else if exceeds(before, after) {
        ("  <- shrunk", Verdict::Shrunk)
    } else {
        ("", Verdict::Same)
    }
}

/// The change with two digits behind the point.
fn percent(before: u64, after: u64) -> String {
    let difference = i128::from(after) - i128::from(before);
    let hundredths = difference * 10_000 / i128::from(before.max(1));
    let sign = match hundredths {
        0 => "",
        1.. => "+",
        _ => "-",
    };
    let hundredths = hundredths.unsigned_abs();
    format!("{sign}{}.{:02} %", hundredths / 100, hundredths % 100)
}

/// The number with a separator at the thousands.
fn grouped(number: u64, separator: char) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(separator);
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        let owned = pairs
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count));
        owned.collect()
    }

    fn verdict(before: u64, after: u64) -> Verdict {
        compare(&counts(&[("a", before)]), &counts(&[("a", after)])).verdict
    }

    #[test]
    fn growth_beyond_five_percent_fails() {
        assert_eq!(verdict(1_000, 1_000), Verdict::Same);
        assert_eq!(verdict(1_000, 1_050), Verdict::Same);
        assert_eq!(verdict(1_000, 1_051), Verdict::Failed);
        assert_eq!(verdict(1_000, 950), Verdict::Same);
        assert_eq!(verdict(1_000, 949), Verdict::Shrunk);
        assert_eq!(verdict(10, 11), Verdict::Failed);
    }

    #[test]
    fn one_that_grows_outweighs_all_that_shrink() {
        let recorded = counts(&[("a", 100), ("b", 100), ("c", 100)]);
        for now in [[50, 200, 50], [200, 50, 50], [50, 50, 200]] {
            let now = counts(&[("a", now[0]), ("b", now[1]), ("c", now[2])]);
            assert_eq!(compare(&recorded, &now).verdict, Verdict::Failed);
        }
    }

    #[test]
    fn benchmarks_that_come_and_go_are_told() {
        let (one, two) = (counts(&[("a", 5)]), counts(&[("a", 5), ("b", 5)]));
        let new = compare(&one, &two);
        assert_eq!(new.verdict, Verdict::Failed);
        assert!(new.table.contains("not recorded"), "{}", new.table);
        let gone = compare(&two, &one);
        assert_eq!(gone.verdict, Verdict::Failed);
        assert!(gone.table.contains("does not exist"), "{}", gone.table);
    }

    #[test]
    fn the_table_lines_up() {
        let recorded = counts(&[("append", 1_234_567), ("b", 10)]);
        let now = counts(&[("append", 1_334_567), ("b", 9)]);
        let expected = [
            "           recorded          now    change",
            "append    1,234,567    1,334,567   +8.10 %  <- grown",
            "b                10            9  -10.00 %  <- shrunk",
            "",
        ]
        .join("\n");
        assert_eq!(compare(&recorded, &now).table, expected);
    }

    #[test]
    fn the_file_reads_back() {
        let recorded = Recorded {
            tools: BTreeMap::from([("rustc".to_owned(), "1.95.0".to_owned())]),
            counts: counts(&[("a::b::c", 1_234_567), ("log::append::x", 10)]),
        };
        let text = recorded.render();
        assert!(
            text.contains("\"a::b::c\"        =   1_234_567\n"),
            "{text}"
        );
        assert_eq!(Recorded::parse(&text), Ok(recorded));
    }

    fn summary(case: &str, count: u64) -> String {
        let metrics = format!(r#"{{"Ir":{{"values":{{"new":{count},"old":7}}}}}}"#);
        let profile = format!(r#"{{"data":{{"total":{{"metrics":{metrics}}}}}}}"#);
        let name = r#""module_path":"log::group::append","function_name":"append""#;
        format!("{{{name},\"id\":\"{case}\",\"profiles\":[{profile}]}}\n")
    }

    #[test]
    fn counts_are_found_in_the_summaries() {
        let output = [summary("a", 5), summary("b", 6)].concat();
        let expected = counts(&[("log::append::a", 5), ("log::append::b", 6)]);
        assert_eq!(counts_of(&output), Ok(expected));
    }

    #[test]
    fn a_benchmark_that_measures_nothing_is_an_error() {
        assert!(counts_of(&summary("a", 0)).is_err());
        assert!(counts_of(&[summary("a", 5), summary("a", 5)].concat()).is_err());
        assert!(counts_of("{}").is_err());
        assert!(counts_of("log::append").is_err());
    }

    #[test]
    fn a_count_that_is_none_is_refused() {
        for value in ["0", "-1", "\"5\""] {
            let text = format!("[tools]\n[instructions]\na = {value}\n");
            assert!(Recorded::parse(&text).is_err(), "{value}");
        }
        assert!(Recorded::parse("[tools]").is_err());
    }
}
