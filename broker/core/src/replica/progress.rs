//! How far one follower is, as its leader knows (rules 1 to 5 and 8).

use std::time::Duration;

use strandline_protocol::{BrokerEpoch, BrokerId, Offset};

use super::facts::{Peer, Standing};
use crate::FlushMode;

/// One follower.
#[derive(Clone, Copy, Debug)]
pub(super) struct Follower {
    pub(super) peer: Peer,
    /// The incarnation that has fetched; none has in this leader epoch.
    fetched_as: Option<BrokerEpoch>,
    log_end: Option<Offset>,
    durable_end: Option<Offset>,
    /// When it last had all that the leader had.
    caught_up: Option<Duration>,
    /// When it last fetched, and how far the leader counted then.
    last_fetch: Option<(Duration, Offset)>,
    /// Whether it had all that the leader had until this went on, since the time was last told.
    was_left_behind: bool,
}

/// How far a follower is, for who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerState {
    /// The follower.
    pub broker: BrokerId,
    /// The end of its log; none if it has not fetched from this leader yet.
    pub log_end: Option<Offset>,
    /// The end of what it has made durable.
    pub durable_end: Option<Offset>,
    /// How long ago it had all that the leader had; zero if it has it now, none if it never had.
    pub behind: Option<Duration>,
}

impl Follower {
    /// Rule 4: how far it is, nobody knows yet; who is in sync gets its time to tell.
    pub(super) const fn unknown(peer: Peer, caught_up: Option<Duration>) -> Self {
        Self {
            peer,
            fetched_as: None,
            log_end: None,
            durable_end: None,
            caught_up,
            last_fetch: None,
            was_left_behind: false,
        }
    }

    /// Metadata tells of its broker. What an earlier incarnation had, a new one need not have.
    pub(super) fn learn(&mut self, peer: Peer) {
        let is_newer = self.fetched_as.is_some_and(|known| known < peer.epoch);
        if is_newer {
            let caught_up = self.caught_up;
            *self = Self::unknown(peer, caught_up);
        }
        self.peer = peer;
    }

    /// The newest incarnation of its broker that was heard of: by metadata, or by its fetches.
    pub(super) fn known_epoch(&self) -> BrokerEpoch {
        self.fetched_as
            .map_or(self.peer.epoch, |fetched| fetched.max(self.peer.epoch))
    }

    /// Rules 1 and 2: it has fetched at `log_end`, while the leader counted up to `leader_end`.
    pub(super) fn fetched(
        &mut self,
        broker_epoch: BrokerEpoch,
        (log_end, durable_end): (Offset, Offset),
        flush: FlushMode,
        leader_end: Offset,
        now: Duration,
    ) {
        self.fetched_as = Some(broker_epoch);
        self.log_end = Some(log_end);
        self.durable_end = Some(durable_end.min(log_end));
        self.advance(flush, leader_end, now);
        self.last_fetch = Some((now, leader_end));
    }

    /// It has flushed up to `durable_end`. Tells nothing before its first fetch, which says where
    /// its log ends.
    pub(super) fn flushed(
        &mut self,
        broker_epoch: BrokerEpoch,
        durable_end: Offset,
        flush: FlushMode,
        leader_end: Offset,
        now: Duration,
    ) {
        if self.fetched_as != Some(broker_epoch) {
            return;
        }
        self.durable_end = self.durable_end.max(Some(durable_end));
        self.log_end = self.log_end.max(Some(durable_end));
        self.advance(flush, leader_end, now);
    }

    /// The leader goes on from `leader_end`. A follower that is idle tells nothing: it is behind
    /// from now on, and not since its last fetch.
    pub(super) fn leader_goes_on(&mut self, flush: FlushMode, leader_end: Offset) {
        self.was_left_behind |= self.counted(flush) >= Some(leader_end);
    }

    /// It is `now`.
    pub(super) fn time_is(&mut self, now: Duration) {
        if self.was_left_behind {
            self.was_left_behind = false;
            self.caught_up = self.caught_up.max(Some(now));
        }
    }

    fn advance(&mut self, flush: FlushMode, leader_end: Offset, now: Duration) {
        let counted = self.counted(flush);
        if counted >= Some(leader_end) {
            self.caught_up = Some(now);
        } else if let Some((at, end)) = self.last_fetch
            && counted >= Some(end)
        {
            self.caught_up = self.caught_up.max(Some(at));
        }
    }

    /// How far it counts; none before its first fetch.
    pub(super) const fn counted(&self, flush: FlushMode) -> Option<Offset> {
        match flush {
            FlushMode::Ack => self.durable_end,
            FlushMode::Async => self.log_end,
        }
    }

    /// What of it survives a power cut, as far as is known.
    pub(super) const fn durable_end(&self) -> Option<Offset> {
        self.durable_end
    }

    /// Rule 5: it has been behind for longer than `lag_max`.
    pub(super) fn is_out_of_sync(
        &self,
        flush: FlushMode,
        leader_end: Offset,
        now: Duration,
        lag_max: Duration,
    ) -> bool {
        let is_behind = self.counted(flush) < Some(leader_end);
        is_behind && !self.was_caught_up(now, lag_max)
    }

    /// Rule 14: it has had all that the leader had within `lag_max`.
    pub(super) fn was_caught_up(&self, now: Duration, lag_max: Duration) -> bool {
        self.caught_up
            .is_some_and(|at| now.saturating_sub(at) <= lag_max)
    }

    /// Rule 8: its broker may be in sync, and it is that incarnation which fetches.
    pub(super) fn is_eligible(&self) -> bool {
        self.peer.standing == Standing::Eligible && self.fetched_as == Some(self.peer.epoch)
    }

    pub(super) fn state(
        &self,
        flush: FlushMode,
        leader_end: Offset,
        now: Duration,
    ) -> FollowerState {
        let behind = if self.counted(flush) >= Some(leader_end) {
            Some(Duration::ZERO)
        } else {
            self.caught_up.map(|at| now.saturating_sub(at))
        };
        FollowerState {
            broker: self.peer.broker,
            log_end: self.log_end,
            durable_end: self.durable_end,
            behind,
        }
    }
}
