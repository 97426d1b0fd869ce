//! One partition in memory, with the rules of idempotent producers (KIP-98).

use std::collections::{BTreeMap, VecDeque};

use strandline_client::protocol::{
    ErrorCode, LeaderEpoch, Offset,
    batch::{BatchView, stamp_position},
    limits::PRODUCER_WINDOW,
};

#[derive(Default)]
struct ProducerState {
    epoch: i16,
    /// First sequence, first sequence behind it, base offset.
    window: VecDeque<(i32, i32, i64)>,
}

#[derive(Default)]
pub struct FakeLog {
    pub start: i64,
    pub end: i64,
    batches: Vec<(i64, Vec<u8>)>,
    producers: BTreeMap<i64, ProducerState>,
    /// Whether what is in order is refused with `DISK_FULL`.
    pub full: bool,
    /// How many batches came twice.
    pub duplicates: usize,
    /// The epochs that batches were written under.
    pub epochs: Vec<i16>,
}

impl FakeLog {
    pub fn append(&mut self, bytes: &[u8]) -> Result<i64, ErrorCode> {
        let batch = BatchView::exactly(bytes).unwrap();
        batch.check_crc().unwrap();
        batch.check_produced().unwrap();
        let header = batch.header();
        let (id, epoch) = (header.producer_id().0, header.producer_epoch().0);
        let (first, count) = (header.base_sequence().0, header.record_count());
        let base = self.end;
        if id >= 0 {
            let known = self.producers.contains_key(&id);
            let state = self.producers.entry(id).or_default();
            if known && epoch < state.epoch {
                return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
            }
            let found = state
                .window
                .iter()
                .find(|it| (it.0, it.1) == (first, first + count));
            if epoch == state.epoch
                && let Some(&(_, _, base)) = found
            {
                self.duplicates += 1;
                return Ok(base);
            }
            let expected = match state.window.back() {
                Some(last) if epoch == state.epoch => Some(last.1),
                Some(_) => Some(0),
                None => None,
            };
            if expected.is_some_and(|expected| expected != first) {
                return Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
            }
            if self.full {
                return Err(ErrorCode::DISK_FULL);
            }
            if epoch != state.epoch {
                state.window.clear();
            }
            state.epoch = epoch;
            state.window.push_back((first, first + count, base));
            if state.window.len() > PRODUCER_WINDOW {
                state.window.pop_front();
            }
        }
        let mut bytes = bytes.to_vec();
        assert!(stamp_position(&mut bytes, Offset(base), LeaderEpoch(0)));
        self.epochs.push(epoch);
        self.batches.push((base, bytes));
        self.end += i64::from(count);
        Ok(base)
    }

    /// Forgets all producers, as if the records that told of them were gone.
    pub fn forget_producers(&mut self) {
        for state in self.producers.values_mut() {
            // The next sequence is one that nobody sends.
            state.window.clear();
            state.window.push_back((1 << 29, 1 << 30, 0));
        }
    }

    /// Batches from the one that holds `from` on, at most about `bytes_max`.
    pub fn read(&self, from: i64, bytes_max: usize) -> Vec<u8> {
        let mut read = Vec::new();
        for (base, bytes) in &self.batches {
            let count = BatchView::first(bytes).unwrap().header().record_count();
            if base + i64::from(count) > from {
                if !read.is_empty() && read.len() + bytes.len() > bytes_max {
                    break;
                }
                read.extend_from_slice(bytes);
            }
        }
        read
    }

    /// Flips a bit of the last batch.
    pub fn damage_last(&mut self) {
        let last = self.batches.last_mut().unwrap();
        *last.1.last_mut().unwrap() ^= 1;
    }

    pub fn values(&self) -> Vec<String> {
        let mut values = Vec::new();
        for (_, bytes) in &self.batches {
            let mut scratch = Vec::new();
            let batch = BatchView::first(bytes).unwrap();
            for record in batch.records(&mut scratch).unwrap() {
                let value = record.unwrap().value.unwrap_or_default();
                values.push(String::from_utf8(value.to_vec()).unwrap());
            }
        }
        values
    }
}
