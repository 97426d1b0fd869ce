//! A log as a plain list of records, with what the disk would keep of it.

use std::collections::BTreeMap;

use strandline_core::{invariants::Entry, replica::Opened};
use strandline_protocol::{LeaderEpoch, Offset};

use crate::random::Random;

/// One record: who wrote it, and what it is.
pub type Record = (LeaderEpoch, u64);

/// A log and its checkpoints.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub start: i64,
    pub end: i64,
    /// The end of what a power cut leaves.
    pub durable: i64,
    /// The high watermark that was written down last.
    pub high_watermark: i64,
    records: BTreeMap<i64, Record>,
    /// Each epoch with its start; on disk before its first record.
    epochs: Vec<(LeaderEpoch, i64)>,
}

impl Log {
    pub fn opened(&self) -> Opened {
        Opened {
            log_start: Offset(self.start),
            log_end: Offset(self.end),
            durable_end: Offset(self.durable),
            high_watermark: Offset(self.high_watermark),
        }
    }

    pub fn begin_epoch(&mut self, epoch: LeaderEpoch, start: i64) {
        if self.epochs.last().is_some_and(|last| last.0 >= epoch) {
            return;
        }
        self.epochs.retain(|entry| entry.1 < start);
        self.epochs.push((epoch, start));
    }

    pub fn append(&mut self, records: &[Record]) {
        for record in records {
            // An epoch that this replica began, and in which it wrote nothing, did not happen.
            let end = self.end;
            self.epochs
                .retain(|entry| entry.1 < end || entry.0 <= record.0);
            self.begin_epoch(record.0, self.end);
            self.records.insert(self.end, *record);
            self.end += 1;
        }
    }

    pub fn truncate(&mut self, to: i64) {
        self.records.split_off(&to);
        self.epochs.retain(|entry| entry.1 < to);
        self.end = to;
        self.durable = self.durable.min(to);
    }

    pub fn restart(&mut self, at: i64) {
        let high_watermark = self.high_watermark;
        *self = Self {
            start: at,
            end: at,
            durable: at,
            high_watermark,
            ..Self::default()
        };
    }

    pub fn delete_before(&mut self, start: i64) {
        if start <= self.start {
            return;
        }
        self.start = start;
        self.records = self.records.split_off(&start);
        let covering = self.epochs.partition_point(|entry| entry.1 <= start);
        self.epochs.drain(..covering.saturating_sub(1));
    }

    /// Of what was not flushed, any part may be there; recovery flushes what it finds.
    pub fn power_cut(&mut self, random: &mut Random) {
        let unflushed = (self.end - self.durable).max(0) as u64;
        let kept = self.durable + random.below(unflushed + 1) as i64;
        if kept < self.start {
            // The start is on disk, and nothing behind it.
            self.restart(self.start);
        } else if kept < self.end {
            self.truncate(kept);
        }
        self.durable = self.end;
    }

    pub fn last_epoch(&self) -> Option<LeaderEpoch> {
        self.records.last_key_value().map(|(_, record)| record.0)
    }

    /// Rule 23.
    pub fn end_offset_for(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let next = self.epochs.iter().find(|entry| entry.0 > epoch);
        let known = self.epochs.iter().rev().find(|entry| entry.0 <= epoch);
        match (known, next) {
            (Some(known), None) if known.0 == epoch => Some((epoch, Offset(self.end))),
            (_, None) => None,
            (None, Some(next)) => Some((epoch, Offset(next.1))),
            (Some(known), Some(next)) => Some((known.0, Offset(next.1))),
        }
    }

    pub fn read(&self, from: i64, count_max: usize) -> Vec<Record> {
        let found = self.records.range(from..).take(count_max);
        found.map(|(_, record)| *record).collect()
    }

    pub fn value(&self, offset: i64) -> Option<u64> {
        self.records.get(&offset).map(|record| record.1)
    }

    pub fn values(&self) -> impl Iterator<Item = (Offset, u64)> {
        let records = self.records.iter();
        records.map(|(offset, record)| (Offset(*offset), record.1))
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry<u64>> {
        self.records.iter().map(|(offset, record)| Entry {
            offset: Offset(*offset),
            epoch: record.0,
            value: record.1,
        })
    }
}
