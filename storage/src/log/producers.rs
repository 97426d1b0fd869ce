//! What is known of producers: the newest epoch of each, and its last five batches.
//!
//! *Pattern: idempotent receiver.* A batch that comes twice gets the offsets of its first time; one
//! that leaves a gap is refused (KIP-98, rule of Kafka's `ProducerAppendInfo`).

use std::collections::BTreeMap;

use strandline_core::mutants::{self, Mutant};
use strandline_protocol::{
    Offset, ProducerEpoch, ProducerId, Sequence, Timestamp, batch::BatchHeader,
    limits::PRODUCER_WINDOW,
};

use super::errors::AppendError;

/// One batch of a producer, as it is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchMark {
    /// The sequence of its last record.
    pub last_sequence: Sequence,
    /// The offset of its last record.
    pub last_offset: Offset,
    /// How many records it has, less one.
    pub offset_delta: i32,
    /// Its largest timestamp.
    pub timestamp: Timestamp,
}

impl BatchMark {
    fn of(header: &BatchHeader) -> Self {
        let offset_delta = header.last_offset_delta();
        Self {
            last_sequence: header.base_sequence().plus(offset_delta),
            last_offset: header.last_offset(),
            offset_delta,
            timestamp: header.max_timestamp(),
        }
    }

    /// The offset of its first record.
    #[must_use]
    pub fn base_offset(&self) -> Offset {
        Offset(
            self.last_offset
                .0
                .saturating_sub(i64::from(self.offset_delta)),
        )
    }
}

/// One producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Its newest epoch.
    pub epoch: ProducerEpoch,
    /// The epoch of the coordinator that wrote its last transaction marker; -1: none.
    pub coordinator_epoch: i32,
    /// Where its open transaction begins; -1: none.
    pub transaction_start: i64,
    /// The broker's time when it was last heard of. Not on disk: a restart counts as hearing of it.
    pub last_seen: Timestamp,
    window: [BatchMark; PRODUCER_WINDOW],
    known: usize,
}

impl Producer {
    /// One that has written nothing in `epoch` yet.
    #[must_use]
    pub fn new(epoch: ProducerEpoch, last_seen: Timestamp) -> Self {
        Self {
            epoch,
            coordinator_epoch: -1,
            transaction_start: -1,
            last_seen,
            window: [BatchMark::default(); PRODUCER_WINDOW],
            known: 0,
        }
    }

    /// Its last batches of this epoch, oldest first; at most five.
    #[must_use]
    pub fn window(&self) -> &[BatchMark] {
        self.window.get(..self.known).unwrap_or_default()
    }

    /// Remembers a batch, and forgets the oldest if there are five.
    pub fn push(&mut self, mark: BatchMark) {
        if mutants::is_active(Mutant::ProducerWindowOfOne) {
            self.known = 0;
        }
        if self.known == PRODUCER_WINDOW {
            self.window.rotate_left(1);
            self.known = self.known.saturating_sub(1);
        }
        if let Some(slot) = self.window.get_mut(self.known) {
            *slot = mark;
            self.known = self.known.saturating_add(1);
        }
    }

    fn begin_epoch(&mut self, epoch: ProducerEpoch) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.known = 0;
        }
    }
}

/// What to do with a batch that is about to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Append it.
    Append,
    /// It is here already.
    Duplicate(BatchMark),
}

/// The producers of one partition. Ordered, as the order is that of the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    by_id: BTreeMap<ProducerId, Producer>,
}

impl Producers {
    /// How many are known.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_id.len()
    }

    /// Every producer, in the order of the ids.
    pub fn iter(&self) -> impl Iterator<Item = (ProducerId, &Producer)> {
        self.by_id.iter().map(|(id, producer)| (*id, producer))
    }

    /// Takes one in, as a snapshot has it.
    pub fn restore(&mut self, id: ProducerId, producer: Producer) {
        self.by_id.insert(id, producer);
    }

    /// Whether a batch that a client sent is new, a duplicate or not to be accepted. Changes
    /// nothing.
    ///
    /// # Errors
    /// If its epoch is old, or its sequence is not the one that is due.
    pub fn decide(&self, header: &BatchHeader) -> Result<Decision, AppendError> {
        let id = header.producer_id();
        let Some(known) = (id != ProducerId::NONE)
            .then(|| self.by_id.get(&id))
            .flatten()
        else {
            // Nothing is known: any sequence may come, as retention can have taken what was before.
            return Ok(Decision::Append);
        };
        let (epoch, sequence) = (header.producer_epoch(), header.base_sequence());
        if epoch < known.epoch {
            return Err(AppendError::ProducerFenced {
                producer: id,
                epoch,
                current: known.epoch,
            });
        }
        let expected = if epoch > known.epoch {
            Sequence(0)
        } else {
            let mark = BatchMark::of(header);
            let same = |known: &&BatchMark| {
                known.last_sequence == mark.last_sequence && known.offset_delta == mark.offset_delta
            };
            if let Some(known) = known.window().iter().rev().find(same) {
                return Ok(Decision::Duplicate(*known));
            }
            match known.window().last() {
                Some(last) => last.last_sequence.plus(1),
                None => return Ok(Decision::Append),
            }
        };
        if sequence == expected {
            Ok(Decision::Append)
        } else {
            Err(AppendError::OutOfOrderSequence {
                producer: id,
                sequence,
                expected,
            })
        }
    }

    /// Takes in a batch that is in the log.
    pub fn note(&mut self, header: &BatchHeader, now: Timestamp) {
        let id = header.producer_id();
        if id.0 < 0 {
            return;
        }
        let epoch = header.producer_epoch();
        let producer = self
            .by_id
            .entry(id)
            .or_insert_with(|| Producer::new(epoch, now));
        producer.begin_epoch(epoch);
        producer.last_seen = now;
        // A marker of a transaction carries no sequence.
        if header.base_sequence().0 >= 0 {
            producer.push(BatchMark::of(header));
        }
    }

    /// Forgets producers that were silent for longer than `expiration_ms`.
    pub fn expire(&mut self, now: Timestamp, expiration_ms: i64) {
        self.by_id.retain(|_, producer| {
            now.0.saturating_sub(producer.last_seen.0) <= expiration_ms
                || producer.transaction_start >= 0
        });
    }
}

#[cfg(test)]
mod tests {
    use strandline_protocol::LeaderEpoch;

    use super::*;

    fn header(epoch: i16, sequence: i32, records: i32, offset: i64) -> BatchHeader {
        BatchHeader::empty()
            .with_records(records, 100)
            .with_producer(ProducerId(7), ProducerEpoch(epoch), Sequence(sequence))
            .with_position(Offset(offset), LeaderEpoch(0))
    }

    fn after(batches: &[(i16, i32, i32)]) -> Producers {
        let mut producers = Producers::default();
        let mut offset = 0;
        for &(epoch, sequence, records) in batches {
            let header = header(epoch, sequence, records, offset);
            assert!(matches!(producers.decide(&header), Ok(Decision::Append)));
            producers.note(&header, Timestamp(0));
            offset += i64::from(records);
        }
        producers
    }

    fn duplicate_of(producers: &Producers, epoch: i16, sequence: i32, records: i32) -> Option<i64> {
        match producers.decide(&header(epoch, sequence, records, 0)) {
            Ok(Decision::Duplicate(mark)) => Some(mark.base_offset().0),
            _ => None,
        }
    }

    #[test]
    fn the_last_five_batches_are_recognised() {
        let producers = after(&[
            (0, 0, 10),
            (0, 10, 1),
            (0, 11, 5),
            (0, 16, 4),
            (0, 20, 2),
            (0, 22, 3),
        ]);
        let found: Vec<_> = [(10, 1), (11, 5), (16, 4), (20, 2), (22, 3)]
            .map(|(sequence, records)| duplicate_of(&producers, 0, sequence, records))
            .into();
        assert_eq!(found, [10, 11, 16, 20, 22].map(Some));
        assert_eq!(duplicate_of(&producers, 0, 0, 10), None);
        assert!(matches!(
            producers.decide(&header(0, 0, 10, 0)),
            Err(AppendError::OutOfOrderSequence {
                expected: Sequence(25),
                ..
            })
        ));
    }

    #[test]
    fn a_gap_is_refused_and_so_is_an_old_epoch() {
        let producers = after(&[(1, 0, 10)]);
        assert!(producers.decide(&header(1, 11, 1, 0)).is_err());
        assert!(producers.decide(&header(1, 10, 1, 0)).is_ok());
        assert!(matches!(
            producers.decide(&header(0, 10, 1, 0)),
            Err(AppendError::ProducerFenced {
                current: ProducerEpoch(1),
                ..
            })
        ));
        assert!(producers.decide(&header(2, 10, 1, 0)).is_err());
        assert!(producers.decide(&header(2, 0, 1, 0)).is_ok());
    }

    #[test]
    fn a_new_epoch_begins_its_own_window() {
        let producers = after(&[(0, 0, 10), (1, 0, 10)]);
        assert_eq!(duplicate_of(&producers, 1, 0, 10), Some(10));
    }

    #[test]
    fn sequences_wrap() {
        let producers = after(&[(0, i32::MAX - 4, 5), (0, 0, 2)]);
        assert_eq!(duplicate_of(&producers, 0, i32::MAX - 4, 5), Some(0));
        assert_eq!(duplicate_of(&producers, 0, 0, 2), Some(5));
        let across = after(&[(0, i32::MAX - 1, 5)]);
        assert!(across.decide(&header(0, 3, 1, 0)).is_ok());
        assert_eq!(duplicate_of(&across, 0, i32::MAX - 1, 5), Some(0));
    }

    #[test]
    fn an_unknown_producer_may_begin_anywhere() {
        assert!(Producers::default().decide(&header(3, 17, 1, 0)).is_ok());
    }

    #[test]
    fn the_silent_are_forgotten() {
        let mut producers = after(&[(0, 0, 1)]);
        producers.expire(Timestamp(100), 100);
        assert_eq!(producers.count(), 1);
        producers.expire(Timestamp(101), 100);
        assert_eq!(producers.count(), 0);
    }
}
