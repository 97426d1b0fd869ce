//! The batches of one partition, from the first record to the last answer: pure, and in order.
//!
//! A batch is *open* (takes records), *sealed* (full), then *under way*: it has a sequence and was
//! sent at least once or is about to be. What is under way is kept in the order of sequences. When
//! one has to be sent again, nothing more is sent until every answer is in; then all that is left
//! is sent again in order, and the broker recognises what it has.
//!
//! Until the first batch of an identity is written here, nothing follows it: a broker that does not
//! know a producer takes any sequence from it, so that the second would be written if the first was
//! refused, and the first then behind it.
//!
//! A batch that ends without being written leaves a gap in the sequences. The identity under which
//! it was stamped is then *spent* for this partition: what may have been written under it is still
//! resolved under it, all else is stamped anew under the next epoch, from sequence 0.

mod silence;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use strandline_protocol::{
    BrokerId, ErrorCode, PartitionId, ProducerEpoch, ProducerId, Sequence,
    batch::{BatchBuilder, ProducerStamp, stamp_producer},
};
use tokio::time::Instant;

use super::{
    delivery::BatchOutcome,
    reaction::{Earlier, Place},
};
use crate::routing::Backoff;
pub(super) use silence::Standing;

/// A producer id in one of its epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: ProducerId,
    pub(super) epoch: ProducerEpoch,
}

impl Identity {
    /// That of a producer whose writes are not acknowledged, which cannot be idempotent.
    pub(super) const NONE: Self = Self {
        id: ProducerId::NONE,
        epoch: ProducerEpoch::NONE,
    };

    const fn stamp(self, sequence: Sequence) -> ProducerStamp {
        let base_sequence = if self.id.0 < 0 {
            Sequence::NONE
        } else {
            sequence
        };
        ProducerStamp {
            id: self.id,
            epoch: self.epoch,
            base_sequence,
        }
    }
}

/// A batch that takes records, or is full.
#[derive(Debug)]
pub(super) struct Unsent {
    pub(super) builder: BatchBuilder,
    pub(super) outcome: Arc<BatchOutcome>,
    pub(super) opened: Instant,
    /// What it counts towards the memory of the producer.
    pub(super) memory: usize,
}

/// Where a batch is that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To be sent, again perhaps.
    Ready,
    /// Sent, or just about to be; the answer is awaited.
    Out,
}

#[derive(Debug)]
struct UnderWay {
    number: u64,
    bytes: Bytes,
    records: i32,
    outcome: Arc<BatchOutcome>,
    opened: Instant,
    memory: usize,
    stage: Stage,
    earlier: Earlier,
    /// How many attempts were made: what comes back of one that was given up tells nothing more.
    attempt: u32,
}

/// A batch that is decided, to be told to who waits.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) outcome: Arc<BatchOutcome>,
    pub(super) memory: usize,
    pub(super) records: i32,
    pub(super) earlier: Earlier,
    /// To be used again.
    pub(super) bytes: Bytes,
}

/// What is to be put on the wire.
#[derive(Debug)]
pub(super) enum Job {
    /// A batch that was encoded before.
    Send {
        number: u64,
        attempt: u32,
        bytes: Bytes,
    },
    /// A batch to encode first, with this stamp.
    Encode {
        number: u64,
        builder: BatchBuilder,
        stamp: ProducerStamp,
    },
}

/// When a batch that is not full is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) linger: Duration,
    pub(super) in_flight_max: usize,
}

/// How long a batch that is not full waits at most while requests are in flight and there is no
/// linger.
const BUSY_WAIT: Duration = Duration::from_millis(5);

/// One partition of a producer.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) id: PartitionId,
    /// Whether the sender has to look at it.
    pub(super) active: bool,
    pub(super) open: Option<Unsent>,
    sealed: VecDeque<Unsent>,
    under_way: VecDeque<UnderWay>,
    next_number: u64,
    identity: Option<Identity>,
    spent: bool,
    /// Whether a batch was written under the identity, which its leader knows since then.
    is_known: bool,
    next_sequence: Sequence,
    /// Where what is out was sent.
    sent_to: Option<BrokerId>,
    /// When it was; then when it was asked last who leads, as no answer comes.
    sent_at: Option<Instant>,
    /// Who leads and what is in sync, as it was known last, and since when.
    known: Option<(Standing, Instant)>,
    backoff: Backoff,
    not_before: Option<Instant>,
    urgent: bool,
    /// What was in the way last.
    pub(super) obstacle: Option<String>,
    /// Whether that was that too few replicas are in sync.
    lacks_replicas: bool,
}

impl Partition {
    pub(super) const fn new(id: PartitionId, backoff: Backoff) -> Self {
        Self {
            id,
            active: false,
            open: None,
            sealed: VecDeque::new(),
            under_way: VecDeque::new(),
            next_number: 0,
            identity: None,
            spent: false,
            is_known: false,
            next_sequence: Sequence(0),
            sent_to: None,
            sent_at: None,
            known: None,
            backoff,
            not_before: None,
            urgent: false,
            obstacle: None,
            lacks_replicas: false,
        }
    }

    /// The open batch takes no more records.
    pub(super) fn seal(&mut self) {
        if let Some(open) = self.open.take() {
            self.sealed.push_back(open);
        }
    }

    /// Whether nothing is left to do.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_none() && self.sealed.is_empty() && self.under_way.is_empty()
    }

    /// Sends what is there without waiting for more records.
    pub(super) const fn hurry(&mut self) {
        self.urgent = true;
    }

    /// Every batch that is not decided.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = &Arc<BatchOutcome>> {
        let sealed = self.sealed.iter().chain(&self.open);
        let sealed = sealed.map(|unsent| &unsent.outcome);
        self.under_way.iter().map(|it| &it.outcome).chain(sealed)
    }

    fn any_out(&self) -> bool {
        self.under_way.iter().any(|it| it.stage == Stage::Out)
    }

    /// Whether it cannot go on under `newest`.
    pub(super) fn needs_identity_after(&self, newest: Option<Identity>) -> bool {
        newest.is_none() || (self.spent && self.identity == newest)
    }

    /// When the open batch is to be sent, full or not, provided that there is room in flight.
    fn open_due(&self, pace: Pace) -> Option<Instant> {
        let open = self.open.as_ref()?;
        let wait = if self.urgent {
            Duration::ZERO
        } else if !pace.linger.is_zero() {
            pace.linger
        } else if self.under_way.is_empty() && self.sealed.is_empty() {
            Duration::ZERO
        } else {
            BUSY_WAIT
        };
        Some(open.opened + wait)
    }

    /// When to look again if nothing happens before: for the pace, a pause or a deadline. What is
    /// due already waits for an event and not for a time.
    pub(super) fn next_look(
        &self,
        now: Instant,
        pace: Pace,
        delivery_timeout: Duration,
    ) -> Option<Instant> {
        let oldest = self.under_way.front().map(|it| it.opened);
        let unsent = self.sealed.front().or(self.open.as_ref());
        let oldest = oldest.into_iter().chain(unsent.map(|it| it.opened)).min();
        let due = if self.span() < pace.in_flight_max {
            self.open_due(pace)
        } else {
            None
        };
        let due = match (due, self.not_before) {
            (Some(due), Some(pause)) => Some(due.max(pause)),
            (None, pause) => pause,
            (due, None) => due,
        };
        let expiry = oldest.map(|opened| opened + delivery_timeout);
        let looks = due.into_iter().chain(expiry).chain(self.silence_look());
        looks.filter(|&at| at > now).min()
    }

    /// Whether anything could be sent now, if its leader can be reached.
    pub(super) fn wants_to_send(&self, now: Instant, pace: Pace) -> bool {
        if self.not_before.is_some_and(|pause| pause > now) {
            return false;
        }
        if self.under_way.iter().any(|it| it.stage == Stage::Ready) {
            return !self.any_out();
        }
        self.span() < self.in_flight_max(pace)
            && (!self.sealed.is_empty() || self.open_due(pace).is_some_and(|due| due <= now))
    }

    /// How many batches there are from the oldest that is under way on, whichever of them were
    /// answered. A broker recognises the last five of a producer: behind more, a retry of the
    /// oldest would have no answer but that its outcome is unknown.
    fn span(&self) -> usize {
        let oldest = self
            .under_way
            .front()
            .map_or(self.next_number, |it| it.number);
        usize::try_from(self.next_number.saturating_sub(oldest)).unwrap_or(usize::MAX)
    }

    /// How many batches may be under way.
    fn in_flight_max(&self, pace: Pace) -> usize {
        if self.is_known || self.identity == Some(Identity::NONE) {
            pace.in_flight_max
        } else {
            1
        }
    }

    /// Takes what is to be sent to `leader` now, in order.
    pub(super) fn take_jobs(
        &mut self,
        now: Instant,
        pace: Pace,
        newest: Identity,
        leader: BrokerId,
        jobs: &mut Vec<Job>,
    ) {
        if !self.wants_to_send(now, pace) {
            return;
        }
        if self.any_out() && self.sent_to != Some(leader) {
            // What is out at the former leader is answered first, or given up.
            return;
        }
        if newest == Identity::NONE {
            // Without sequences there are no gaps.
            self.spent = false;
        }
        self.not_before = None;
        if self.sent_to.is_some_and(|former| former != leader) {
            // It knows the producer if the former one has had its batches replicated, which may
            // have been too much to ask.
            self.is_known = false;
        }
        self.sent_to = Some(leader);
        self.sent_at = Some(now);
        if self.under_way.iter().any(|it| it.stage == Stage::Ready) {
            self.take_again(newest, jobs);
        } else {
            self.take_new(now, pace, newest, jobs);
        }
    }

    /// Everything that is under way, in order; nothing is out.
    fn take_again(&mut self, newest: Identity, jobs: &mut Vec<Job>) {
        let any_lost = self.under_way.iter().any(|it| it.earlier == Earlier::Lost);
        if self.spent && !any_lost {
            if self.identity == Some(newest) {
                return;
            }
            self.renew(newest);
        }
        let sent_max = if self.is_known || self.spent {
            usize::MAX
        } else {
            1
        };
        for batch in self.under_way.iter_mut().take(sent_max) {
            // Under a spent identity only what may have been written is asked about.
            if self.spent && batch.earlier == Earlier::Refused {
                continue;
            }
            batch.stage = Stage::Out;
            batch.attempt = batch.attempt.wrapping_add(1);
            jobs.push(Job::Send {
                number: batch.number,
                attempt: batch.attempt,
                bytes: batch.bytes.clone(),
            });
        }
    }

    /// Stamps everything that is under way anew, from sequence 0.
    fn renew(&mut self, newest: Identity) {
        self.adopt(newest);
        for batch in &mut self.under_way {
            let mut bytes = match std::mem::take(&mut batch.bytes).try_into_mut() {
                Ok(bytes) => bytes,
                Err(shared) => BytesMut::from(shared),
            };
            stamp_producer(&mut bytes, newest.stamp(self.next_sequence));
            batch.bytes = bytes.freeze();
            self.next_sequence = self.next_sequence.plus(batch.records);
        }
    }

    fn adopt(&mut self, newest: Identity) {
        self.identity = Some(newest);
        self.spent = false;
        self.is_known = false;
        self.next_sequence = Sequence(0);
    }

    fn take_new(&mut self, now: Instant, pace: Pace, newest: Identity, jobs: &mut Vec<Job>) {
        while self.span() < self.in_flight_max(pace) {
            if self.under_way.is_empty() && self.identity != Some(newest) {
                self.adopt(newest);
            }
            let (Some(identity), false) = (self.identity, self.spent) else {
                return;
            };
            if self.sealed.is_empty() && self.open_due(pace).is_some_and(|due| due <= now) {
                self.seal();
            }
            let Some(unsent) = self.sealed.pop_front() else {
                break;
            };
            let number = self.next_number;
            self.next_number += 1;
            let records = unsent.builder.record_count();
            let stamp = identity.stamp(self.next_sequence);
            self.next_sequence = self.next_sequence.plus(records);
            self.under_way.push_back(UnderWay {
                number,
                bytes: Bytes::new(),
                records,
                outcome: unsent.outcome,
                opened: unsent.opened,
                memory: unsent.memory,
                stage: Stage::Out,
                earlier: Earlier::Refused,
                attempt: 0,
            });
            jobs.push(Job::Encode {
                number,
                builder: unsent.builder,
                stamp,
            });
        }
        if self.open.is_none() && self.sealed.is_empty() {
            self.urgent = false;
        }
    }

    /// Keeps the bytes of a batch that was encoded, to send them again perhaps.
    pub(super) fn encoded(&mut self, number: u64, bytes: &Bytes) {
        if let Some(batch) = self.under_way.iter_mut().find(|it| it.number == number) {
            batch.bytes = bytes.clone();
        }
    }

    /// Where a batch stands; none if it is decided already, or if that attempt was given up.
    pub(super) fn standing(&self, number: u64, attempt: u32) -> Option<(Place, Earlier)> {
        let is_meant = |it: &UnderWay| it.number == number && it.attempt == attempt;
        let index = self.under_way.iter().position(is_meant)?;
        let place = if index == 0 {
            Place::First
        } else {
            Place::Behind
        };
        Some((place, self.under_way.get(index)?.earlier))
    }

    /// An attempt has ended, and the batch is to be sent again after a pause.
    pub(super) fn send_again(&mut self, number: u64, attempt: Earlier, now: Instant) {
        let Some(batch) = self.under_way.iter_mut().find(|it| it.number == number) else {
            return;
        };
        batch.stage = Stage::Ready;
        if attempt == Earlier::Lost {
            batch.earlier = Earlier::Lost;
        }
        // One pause for all that failed together.
        if self.not_before.is_none_or(|pause| pause <= now) {
            self.not_before = Some(now + self.backoff.next_pause());
        }
    }

    /// Keeps what is in the way: what the first batch was told. Those behind it, and what is out of
    /// order, only follow from that.
    pub(super) fn refused(&mut self, place: Place, code: ErrorCode, text: &str) {
        let follows = place == Place::Behind || code == ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;
        if !follows || self.obstacle.is_none() {
            self.obstacle = Some(text.to_owned());
            self.lacks_replicas = matches!(
                code,
                ErrorCode::NOT_ENOUGH_REPLICAS | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND
            );
        }
    }

    /// The identity cannot be used for further batches of this partition.
    pub(super) const fn spend_identity(&mut self) {
        self.spent = true;
    }

    /// The batch is decided; takes it out.
    pub(super) fn end(&mut self, number: u64) -> Option<Ended> {
        let index = self.under_way.iter().position(|it| it.number == number)?;
        self.under_way.remove(index).map(Ended::from)
    }

    /// The batch is written: the next failure begins with a short pause.
    pub(super) fn end_written(&mut self, number: u64) -> Option<Ended> {
        self.backoff.reset();
        self.obstacle = None;
        self.is_known = true;
        self.end(number)
    }

    /// Takes out what was opened before `oldest`: its time is over.
    pub(super) fn expire(&mut self, oldest: Instant, ended: &mut Vec<Ended>) {
        while let Some(front) = self.under_way.front()
            && front.opened <= oldest
        {
            // It has a sequence that nothing will fill.
            self.spent = true;
            ended.extend(self.under_way.pop_front().map(Ended::from));
        }
        while let Some(front) = self.sealed.front()
            && front.opened <= oldest
        {
            ended.extend(self.sealed.pop_front().map(Ended::from));
        }
        if self.open.as_ref().is_some_and(|open| open.opened <= oldest) {
            ended.extend(self.open.take().map(Ended::from));
        }
    }

    /// Takes everything out.
    pub(super) fn abandon(&mut self, ended: &mut Vec<Ended>) {
        ended.extend(self.under_way.drain(..).map(Ended::from));
        ended.extend(self.sealed.drain(..).map(Ended::from));
        ended.extend(self.open.take().map(Ended::from));
    }
}

impl From<UnderWay> for Ended {
    fn from(batch: UnderWay) -> Self {
        // An attempt that is not answered may still have written it.
        let earlier = match batch.stage {
            Stage::Out => Earlier::Lost,
            Stage::Ready => batch.earlier,
        };
        Self {
            outcome: batch.outcome,
            memory: batch.memory,
            records: batch.records,
            earlier,
            bytes: batch.bytes,
        }
    }
}

impl From<Unsent> for Ended {
    fn from(unsent: Unsent) -> Self {
        Self {
            outcome: unsent.outcome,
            memory: unsent.memory,
            records: unsent.builder.record_count(),
            earlier: Earlier::Refused,
            bytes: Bytes::new(),
        }
    }
}

#[cfg(test)]
mod tests;
