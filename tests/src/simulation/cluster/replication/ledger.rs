//! What clients sent, were told and read, held against each other and against what is there in the
//! end. Knows neither broker nor client.
//!
//! The names are those of the catalogue of invariants: lost (H1), two records at one offset (H3),
//! one record twice (H4), skipped (H5), out of order (H6), never seen (H9), unexpected (H13), and
//! acknowledged out of order (H15).

use std::{collections::BTreeMap, time::Duration};

use crate::history::{Mark, Outcome};

/// A partition of the run: which of its topics, and which number.
pub(super) type Place = (usize, i32);

/// One record as its producer knows it.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Duration,
    told: Option<(Duration, Outcome)>,
}

/// What is known of one partition.
#[derive(Debug, Default)]
struct OfPartition {
    sent: BTreeMap<Mark, Sent>,
    /// What anybody has read, by offset.
    read: BTreeMap<i64, Option<Mark>>,
    /// The end (exclusive) of all that was acknowledged, whenever something was.
    ends: Vec<(Duration, i64)>,
}

/// How many records became what.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) acknowledged: u64,
    pub(super) unknown: u64,
    pub(super) refused: u64,
    pub(super) unanswered: u64,
}

/// What a partition holds in the end, as one who reads it from its start was given it.
pub(super) struct Found<'a> {
    /// Where it begins.
    pub(super) start: i64,
    pub(super) records: &'a [(i64, Option<Mark>)],
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    partitions: BTreeMap<Place, OfPartition>,
}

impl Ledger {
    fn of(&mut self, place: Place) -> &mut OfPartition {
        self.partitions.entry(place).or_default()
    }

    /// A record goes out.
    pub(super) fn sent(&mut self, place: Place, mark: Mark, at: Duration) {
        self.of(place).sent.insert(mark, Sent { at, told: None });
    }

    /// Its producer is told what became of it.
    pub(super) fn told(&mut self, place: Place, mark: Mark, outcome: Outcome, at: Duration) {
        let of = self.of(place);
        if let Some(sent) = of.sent.get_mut(&mark) {
            sent.told = Some((at, outcome));
        }
        if let Outcome::Acknowledged(offset) = outcome {
            let before = of.ends.last().map_or(0, |(_, end)| *end);
            of.ends.push((at, before.max(offset + 1)));
        }
    }

    /// Somebody was given a record.
    ///
    /// # Errors
    /// The violation.
    pub(super) fn read(
        &mut self,
        place: Place,
        offset: i64,
        mark: Option<Mark>,
    ) -> Result<(), String> {
        let before = self.of(place).read.insert(offset, mark);
        match before {
            Some(before) if before != mark => Err(format!(
                "H3: {place:?}: {offset} was read as {before:?} and as {mark:?}"
            )),
            _ => Ok(()),
        }
    }

    /// The end (exclusive) of what was acknowledged until then.
    pub(super) fn acknowledged_end(&self, place: Place, until: Duration) -> i64 {
        let of = self.partitions.get(&place);
        let ends = of.map_or(&[][..], |of| &of.ends);
        let before = ends.partition_point(|(at, _)| *at <= until);
        before.checked_sub(1).map_or(0, |last| ends[last].1)
    }

    /// When something was acknowledged last.
    pub(super) fn last_acknowledged(&self, place: Place) -> Option<Duration> {
        Some(self.partitions.get(&place)?.ends.last()?.0)
    }

    /// Every record that was acknowledged in a partition, with its offset.
    pub(super) fn acknowledged(&self, place: Place) -> Vec<(Mark, i64)> {
        let of = self.partitions.get(&place);
        of.map_or_else(Vec::new, |of| of.acknowledged().collect())
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        let sent = self.partitions.values().flat_map(|of| of.sent.values());
        for sent in sent {
            match sent.told {
                Some((_, Outcome::Acknowledged(_))) => counts.acknowledged += 1,
                Some((_, Outcome::Unknown)) => counts.unknown += 1,
                Some((_, Outcome::Refused)) => counts.refused += 1,
                None => counts.unanswered += 1,
            }
        }
        counts
    }

    /// How many different offsets were read.
    pub(super) fn offsets_read(&self) -> u64 {
        let read = self.partitions.values().map(|of| of.read.len() as u64);
        read.sum()
    }

    /// Holds what is there against all that was told; `may_be_lost` says of what was acknowledged
    /// whether it need not be there.
    pub(super) fn check(
        &self,
        place: Place,
        found: &Found<'_>,
        may_be_lost: impl Fn(Mark, i64) -> bool,
    ) -> Vec<String> {
        let nothing = OfPartition::default();
        let of = self.partitions.get(&place).unwrap_or(&nothing);
        let mut violations = of.check_found(found);
        violations.extend(of.check_told(found, &may_be_lost));
        violations.extend(of.check_order(&may_be_lost));
        violations
            .into_iter()
            .map(|what| match what.split_once(": ") {
                Some((name, rest)) => format!("{name}: {place:?}: {rest}"),
                None => what,
            })
            .collect()
    }
}

impl OfPartition {
    fn acknowledged(&self) -> impl Iterator<Item = (Mark, i64)> + '_ {
        self.sent.iter().filter_map(|(mark, sent)| match sent.told {
            Some((_, Outcome::Acknowledged(offset))) => Some((*mark, offset)),
            _ => None,
        })
    }

    /// What is there, and what was read of it before.
    fn check_found(&self, found: &Found<'_>) -> Vec<String> {
        let mut violations = Vec::new();
        let mut expected = found.start;
        let mut all = self.read.clone();
        for (offset, mark) in found.records {
            if *offset != expected {
                violations.push(format!("H5: {offset} follows where {expected} is due"));
            }
            expected = offset + 1;
            if let Some(before) = all.insert(*offset, *mark)
                && before != *mark
            {
                violations.push(format!("H3: {offset} was {before:?} and is {mark:?}"));
            }
        }
        if let Some((last, mark)) = self.read.last_key_value()
            && *last >= expected.max(found.start)
        {
            violations.push(format!(
                "H9: {mark:?} was read at {last}, and in the end nothing is from {expected} on"
            ));
        }
        let mut at: BTreeMap<Mark, i64> = BTreeMap::new();
        let mut last_of: BTreeMap<u32, Mark> = BTreeMap::new();
        for (offset, mark) in &all {
            let sent = mark.and_then(|mark| Some((mark, self.sent.get(&mark)?)));
            let Some((mark, sent)) = sent else {
                violations.push(format!(
                    "H13: {mark:?} at {offset}, which nobody sent there"
                ));
                continue;
            };
            if let Some((_, Outcome::Refused)) = sent.told {
                violations.push(format!("H13: {mark:?} at {offset}, which was refused"));
            }
            if let Some(before) = at.insert(mark, *offset) {
                violations.push(format!("H4: {mark:?} is at {before} and at {offset}"));
            }
            if let Some(earlier) = last_of.insert(mark.producer, mark)
                && earlier > mark
            {
                violations.push(format!("H6: {mark:?} at {offset} comes behind {earlier:?}"));
            }
        }
        violations
    }

    /// What was acknowledged is there.
    fn check_told(
        &self,
        found: &Found<'_>,
        may_be_lost: impl Fn(Mark, i64) -> bool,
    ) -> Vec<String> {
        let at: BTreeMap<i64, Option<Mark>> = found.records.iter().copied().collect();
        let mut violations = Vec::new();
        for (mark, offset) in self.acknowledged() {
            // What was deleted was there; that it was the right one, its readers tell.
            let is_there = offset < found.start || at.get(&offset) == Some(&Some(mark));
            let was_another = self
                .read
                .get(&offset)
                .is_some_and(|read| *read != Some(mark));
            if was_another && !may_be_lost(mark, offset) {
                violations.push(format!(
                    "H3: {mark:?} was acknowledged at {offset}, where {:?} was read",
                    self.read.get(&offset)
                ));
            } else if !is_there && !may_be_lost(mark, offset) {
                violations.push(format!("H1: {mark:?}, acknowledged at {offset}, is lost"));
            }
        }
        violations
    }

    /// H15: what was sent after something was acknowledged lies behind it.
    fn check_order(&self, may_be_lost: impl Fn(Mark, i64) -> bool) -> Vec<String> {
        let mut told: Vec<(Duration, i64)> = Vec::new();
        let mut sent: Vec<(Duration, i64, Mark)> = Vec::new();
        for (mark, record) in &self.sent {
            if let Some((at, Outcome::Acknowledged(offset))) = record.told
                && !may_be_lost(*mark, offset)
            {
                told.push((at, offset));
                sent.push((record.at, offset, *mark));
            }
        }
        told.sort_unstable();
        sent.sort_unstable();
        let (mut told, mut highest) = (told.into_iter().peekable(), None::<i64>);
        let mut violations = Vec::new();
        for (at, offset, mark) in sent {
            while let Some((_, before)) = told.next_if(|(told, _)| *told < at) {
                highest = highest.max(Some(before));
            }
            if let Some(before) = highest.filter(|before| *before >= offset) {
                violations.push(format!(
                    "H15: {mark:?} is at {offset}, and was sent after {before} was acknowledged"
                ));
            }
        }
        violations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Place = (0, 0);

    fn mark(counter: u64) -> Mark {
        Mark {
            producer: 1,
            counter,
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Records 0, 1 (unknown), 2 and 3 (refused) of one producer, the first at 0 and the third at
    /// 1.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        let outcomes = [
            Outcome::Acknowledged(0),
            Outcome::Unknown,
            Outcome::Acknowledged(1),
            Outcome::Refused,
        ];
        for (counter, outcome) in (0..).zip(outcomes) {
            ledger.sent(AT, mark(counter), ms(10 * counter));
            ledger.told(AT, mark(counter), outcome, ms(10 * counter + 5));
        }
        ledger
    }

    fn names(ledger: &Ledger, start: i64, records: &[(i64, u64)]) -> Vec<String> {
        let records: Vec<_> = records
            .iter()
            .map(|(at, it)| (*at, Some(mark(*it))))
            .collect();
        let found = Found {
            start,
            records: &records,
        };
        let violations = ledger.check(AT, &found, |_, _| false);
        let name = |it: &String| it.split(':').next().unwrap_or_default().to_owned();
        violations.iter().map(name).collect()
    }

    #[test]
    fn a_faithful_partition_has_no_violation() {
        assert_eq!(names(&ledger(), 0, &[(0, 0), (1, 2)]), [""; 0]);
        // What was deleted is not missed.
        assert_eq!(names(&ledger(), 1, &[(1, 2)]), [""; 0]);
    }

    #[test]
    fn each_kind_of_violation_is_found() {
        assert_eq!(names(&ledger(), 0, &[(0, 0)]), ["H1"]);
        assert_eq!(names(&ledger(), 0, &[(0, 0), (1, 2), (2, 2)]), ["H4"]);
        assert_eq!(names(&ledger(), 0, &[(0, 0), (1, 2), (3, 1)])[0], "H5");
        assert_eq!(names(&ledger(), 0, &[(0, 0), (1, 2), (2, 1)]), ["H6"]);
        assert_eq!(names(&ledger(), 0, &[(0, 0), (1, 2), (2, 3)]), ["H13"]);
        assert_eq!(names(&ledger(), 0, &[(0, 0), (1, 2), (2, 77)]), ["H13"]);
    }

    #[test]
    fn what_was_read_is_held_against_what_is_there() {
        let mut read = ledger();
        assert_eq!(read.read(AT, 1, Some(mark(2))), Ok(()));
        assert_eq!(names(&read, 0, &[(0, 0), (1, 2)]), [""; 0]);
        assert!(
            read.read(AT, 1, Some(mark(1)))
                .is_err_and(|it| it.starts_with("H3"))
        );
        let mut beyond = ledger();
        assert_eq!(beyond.read(AT, 2, Some(mark(1))), Ok(()));
        assert!(names(&beyond, 0, &[(0, 0), (1, 2)]).contains(&"H9".to_owned()));
    }

    #[test]
    fn acknowledgements_that_go_back_are_found() {
        let mut ledger = ledger();
        let late = Mark {
            producer: 2,
            counter: 0,
        };
        // It was sent after everything else was acknowledged, and lies before it.
        ledger.sent(AT, late, ms(100));
        ledger.told(AT, late, Outcome::Acknowledged(0), ms(105));
        let records = [(0, Some(late)), (1, Some(mark(2)))];
        let found = Found {
            start: 0,
            records: &records,
        };
        let violations = ledger.check(AT, &found, |_, _| false);
        assert!(
            violations.iter().any(|it| it.starts_with("H15")),
            "{violations:?}"
        );
    }
}
