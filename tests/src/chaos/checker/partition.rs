//! The checks of one partition.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Check, Violations};
use crate::{chaos::event::What, history::Mark};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Undecided,
    Acknowledged { at_us: u64, offset: i64 },
    Refused,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at_us: u64,
    outcome: Outcome,
    /// Where somebody saw it first.
    seen_at: Option<i64>,
}

/// Somebody who goes from offset to offset: a reader, or whoever looks at a disk.
#[derive(Clone, Debug, Default)]
struct Walk {
    next: Option<i64>,
    /// When `next` was last moved, in microseconds.
    at_us: u64,
    /// When everything was there that had been acknowledged when all was healed.
    complete_us: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Copy {
    walk: Walk,
    start: Option<i64>,
    /// Where something else is than elsewhere.
    wrong: BTreeSet<i64>,
}

/// What had to be read by when.
#[derive(Clone, Copy, Debug)]
struct Heal {
    until_us: u64,
    end: i64,
}

#[derive(Debug)]
pub(super) struct Partition {
    number: i32,
    sent: HashMap<Mark, Sent>,
    /// What each offset holds, as who first looked at it saw, and who that was.
    holds: HashMap<i64, (Option<Mark>, Witness)>,
    readers: BTreeMap<u32, Walk>,
    copies: BTreeMap<i32, Copy>,
    heal: Option<Heal>,
}

#[derive(Clone, Copy, Debug)]
enum Witness {
    Acknowledgement,
    Reader(u32),
    Disk(i32),
}

impl std::fmt::Display for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Acknowledgement => f.write_str("the acknowledgement"),
            Self::Reader(number) => write!(f, "reader {number}"),
            Self::Disk(broker) => write!(f, "the disk of broker {broker}"),
        }
    }
}

fn name(mark: Option<Mark>) -> String {
    match mark {
        Some(Mark { producer, counter }) => format!("record {counter} of producer {producer}"),
        None => "something that nobody sent as it is".to_owned(),
    }
}

impl Partition {
    pub(super) fn new(number: i32) -> Self {
        Self {
            number,
            sent: HashMap::new(),
            holds: HashMap::new(),
            readers: BTreeMap::new(),
            copies: BTreeMap::new(),
            heal: None,
        }
    }

    pub(super) fn take(&mut self, at_us: u64, what: What, violations: &mut Violations) {
        match what {
            What::Sent(mark) => {
                let sent = Sent {
                    at_us,
                    outcome: Outcome::Undecided,
                    seen_at: None,
                };
                self.sent.insert(mark, sent);
            }
            What::Acknowledged(mark, offset) => {
                self.decide(mark, Outcome::Acknowledged { at_us, offset });
                self.see(offset, Some(mark), Witness::Acknowledgement, violations);
            }
            What::Refused(mark) => self.decide(mark, Outcome::Refused),
            What::Unknown(mark) => self.decide(mark, Outcome::Unknown),
            What::Placed { reader, offset } => self.place(at_us, reader, offset, violations),
            What::Read {
                reader,
                offset,
                mark,
            } => {
                self.walk(at_us, Witness::Reader(reader), offset, violations);
                self.see(offset, mark, Witness::Reader(reader), violations);
            }
            What::Kept {
                broker,
                offset,
                mark,
            } => {
                self.walk(at_us, Witness::Disk(broker), offset, violations);
                let agreed = self.see(offset, mark, Witness::Disk(broker), violations);
                if !agreed {
                    let copy = self.copies.entry(broker).or_default();
                    copy.wrong.insert(offset);
                }
            }
            What::KeptFrom { broker, start } => {
                self.copies.entry(broker).or_default().start = Some(start);
            }
            What::Healed { .. } => {}
        }
    }

    /// From now on everything that is acknowledged must be read by everybody until `until_us`.
    pub(super) fn heal(&mut self, until_us: u64) {
        let end = self.acknowledged_end();
        self.heal = Some(Heal { until_us, end });
        for walk in self.readers.values_mut() {
            let is_complete = walk.next.is_some_and(|next| next >= end);
            walk.complete_us = is_complete.then_some(walk.at_us);
        }
    }

    fn decide(&mut self, mark: Mark, outcome: Outcome) {
        if let Some(sent) = self.sent.get_mut(&mark) {
            sent.outcome = outcome;
        }
    }

    fn place(&mut self, at_us: u64, reader: u32, offset: i64, violations: &mut Violations) {
        let number = self.number;
        let walk = self.readers.entry(reader).or_default();
        if let Some(next) = walk.next.filter(|next| offset > *next) {
            violations.add(Check::Skip, || {
                format!("partition {number}: reader {reader} goes on at {offset}, not at {next}")
            });
        }
        walk.next = Some(offset);
        walk.at_us = at_us;
    }

    /// H5, H6: one offset after the other.
    fn walk(&mut self, at_us: u64, who: Witness, offset: i64, violations: &mut Violations) {
        let number = self.number;
        let walk = match who {
            Witness::Reader(reader) => self.readers.entry(reader).or_default(),
            Witness::Disk(broker) => &mut self.copies.entry(broker).or_default().walk,
            Witness::Acknowledgement => return,
        };
        if let Some(next) = walk.next.filter(|next| *next != offset) {
            let check = if offset > next {
                Check::Skip
            } else {
                Check::Nonmonotone
            };
            violations.add(check, || {
                format!("partition {number}: {who} shows offset {offset} where {next} is due")
            });
            if let Witness::Disk(broker) = who {
                let missing = next..offset;
                self.copies.entry(broker).or_default().wrong.extend(missing);
            }
        }
        let walk = match who {
            Witness::Disk(broker) => &mut self.copies.entry(broker).or_default().walk,
            Witness::Reader(reader) => self.readers.entry(reader).or_default(),
            Witness::Acknowledgement => return,
        };
        walk.next = Some(offset + 1);
        walk.at_us = at_us;
        let is_due = self.heal.is_some_and(|heal| offset + 1 >= heal.end);
        if is_due && walk.complete_us.is_none() {
            walk.complete_us = Some(at_us);
        }
    }

    /// H3, H4, H13: what is at an offset. Returns whether it is what others saw there.
    fn see(
        &mut self,
        offset: i64,
        mark: Option<Mark>,
        who: Witness,
        violations: &mut Violations,
    ) -> bool {
        let number = self.number;
        let (first, witness) = *self.holds.entry(offset).or_insert((mark, who));
        let agreed = first == mark;
        if !agreed {
            violations.add(Check::InconsistentOffset, || {
                format!(
                    "partition {number}: at {offset} {who} shows {}, {witness} showed {}",
                    name(mark),
                    name(first)
                )
            });
        }
        let Some(sent) = mark.and_then(|mark| self.sent.get_mut(&mark)) else {
            violations.add(Check::Unexpected, || {
                format!(
                    "partition {number}: at {offset} {who} shows {}, never sent here",
                    name(mark)
                )
            });
            return agreed && mark.is_some();
        };
        let seen_at = *sent.seen_at.get_or_insert(offset);
        if seen_at != offset {
            violations.add(Check::Duplicate, || {
                format!(
                    "partition {number}: {who} shows {} at {offset}, it was at {seen_at}",
                    name(mark)
                )
            });
        }
        agreed
    }

    fn acknowledged_end(&self) -> i64 {
        let ends = self.sent.values().filter_map(|sent| match sent.outcome {
            Outcome::Acknowledged { offset, .. } => Some(offset + 1),
            _ => None,
        });
        ends.max().unwrap_or(0)
    }

    /// What shows only in the end.
    pub(super) fn finish(&mut self, violations: &mut Violations) {
        self.find_lost(violations);
        self.find_unexpected(violations);
        self.find_unseen(violations);
        self.find_divergence(violations);
        self.find_disorder(violations);
        self.find_time_travel(violations);
    }

    /// H1: each copy holds each acknowledged record.
    fn find_lost(&self, violations: &mut Violations) {
        let number = self.number;
        for (mark, sent) in &self.sent {
            let Outcome::Acknowledged { offset, .. } = sent.outcome else {
                continue;
            };
            for (broker, copy) in &self.copies {
                let Some(start) = copy.start else { continue };
                let end = copy.walk.next.unwrap_or(start);
                let there = self
                    .holds
                    .get(&offset)
                    .is_some_and(|(it, _)| *it == Some(*mark));
                let lies_before = offset < start;
                let is_there = there && offset < end && !copy.wrong.contains(&offset);
                if !lies_before && !is_there {
                    violations.add(Check::Lost, || {
                        format!(
                            "partition {number}: {}, acknowledged at {offset}, is not on the \
                             disk of broker {broker}, which holds {start} to {end}",
                            name(Some(*mark))
                        )
                    });
                }
            }
        }
    }

    /// H13 and L2: what became of each record.
    fn find_unexpected(&self, violations: &mut Violations) {
        let number = self.number;
        for (mark, sent) in &self.sent {
            match (sent.outcome, sent.seen_at) {
                (Outcome::Refused, Some(offset)) => violations.add(Check::Unexpected, || {
                    format!(
                        "partition {number}: {} was refused, and is at {offset}",
                        name(Some(*mark))
                    )
                }),
                (Outcome::Undecided, _) => violations.add(Check::Unanswered, || {
                    format!(
                        "partition {number}: {} was never decided",
                        name(Some(*mark))
                    )
                }),
                _ => {}
            }
        }
    }

    /// H9: every reader has everything, and had what there was in time.
    fn find_unseen(&self, violations: &mut Violations) {
        let number = self.number;
        let Some(heal) = self.heal else { return };
        let end = self.acknowledged_end();
        for (reader, walk) in &self.readers {
            let next = walk.next.unwrap_or(0);
            if next < end {
                violations.add(Check::Unseen, || {
                    format!("partition {number}: reader {reader} stands at {next} of {end}")
                });
            } else if walk.complete_us.is_none_or(|at| at > heal.until_us) {
                violations.add(Check::Unseen, || {
                    format!("partition {number}: reader {reader} had everything too late")
                });
            }
        }
    }

    /// H14: copies end at the same offset.
    fn find_divergence(&self, violations: &mut Violations) {
        let number = self.number;
        let whole = self.copies.iter().filter_map(|(broker, copy)| {
            let start = copy.start?;
            Some((*broker, copy.walk.next.unwrap_or(start)))
        });
        let ends: Vec<(i32, i64)> = whole.collect();
        if ends.windows(2).any(|pair| pair[0].1 != pair[1].1) {
            violations.add(Check::Divergence, || {
                format!("partition {number}: copies end at different offsets: {ends:?}")
            });
        }
    }

    /// H6: a producer's records are in the order in which they were sent.
    fn find_disorder(&self, violations: &mut Violations) {
        let number = self.number;
        let ordered: BTreeMap<i64, Mark> = self
            .holds
            .iter()
            .filter_map(|(offset, (mark, _))| Some((*offset, (*mark)?)))
            .collect();
        let mut last_of: BTreeMap<u32, u64> = BTreeMap::new();
        for (offset, mark) in ordered {
            let last = last_of.insert(mark.producer, mark.counter);
            if let Some(last) = last.filter(|last| *last > mark.counter) {
                violations.add(Check::Nonmonotone, || {
                    format!(
                        "partition {number}: {} at {offset} comes behind its record {last}",
                        name(Some(mark))
                    )
                });
            }
        }
    }

    /// H15: what was sent after an acknowledgement lies behind what was acknowledged.
    fn find_time_travel(&self, violations: &mut Violations) {
        let number = self.number;
        let mut sent = Vec::new();
        let mut acknowledged = Vec::new();
        for (mark, it) in &self.sent {
            if let Outcome::Acknowledged { at_us, offset } = it.outcome {
                sent.push((it.at_us, offset, *mark));
                acknowledged.push((at_us, offset, *mark));
            }
        }
        sent.sort_unstable();
        acknowledged.sort_unstable();
        let mut before = acknowledged.into_iter().peekable();
        let mut furthest: Option<(i64, Mark)> = None;
        for (sent_us, offset, mark) in sent {
            while let Some((_, acked, other)) = before.next_if(|(at_us, ..)| *at_us < sent_us) {
                if furthest.is_none_or(|(offset, _)| acked > offset) {
                    furthest = Some((acked, other));
                }
            }
            if let Some((earlier, other)) = furthest.filter(|(earlier, _)| *earlier >= offset) {
                violations.add(Check::RealTime, || {
                    format!(
                        "partition {number}: {} was sent after {} was acknowledged at \
                         {earlier}, and is at {offset}",
                        name(Some(mark)),
                        name(Some(other))
                    )
                });
            }
        }
    }
}
