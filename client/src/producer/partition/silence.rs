//! Leaders that change, and those that say nothing any more.
//!
//! A leader that dies is noticed at once, as its connections break. One that is paused or cut off
//! says nothing: what lies with it must not hold back what its successor would take.

use std::time::Duration;

use tokio::time::Instant;

use super::{Identity, Partition, Stage};
use crate::{producer::reaction::Earlier, routing::Leader};

/// How long a broker that leads no more is waited for: one that lives answers at once.
const FORMER_LEADER_WAIT: Duration = Duration::from_millis(100);

/// After how long without an answer it is asked whether the leader leads still, and again: a broker
/// that is paused or cut off says nothing, and a watch that it held says nothing either.
const SILENCE: Duration = Duration::from_millis(500);

/// What decides whether a partition takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::producer) struct Standing {
    pub(in crate::producer) leader: Leader,
    /// How many replicas are in sync, and of how many.
    pub(in crate::producer) in_sync: Option<(usize, usize)>,
}

impl Partition {
    /// Takes in who leads now. If that has changed, no pause that was begun before counts.
    pub(in crate::producer) fn learn(&mut self, standing: Standing, now: Instant) {
        let since = match self.known {
            Some((known, _)) if known == standing => return,
            Some((known, since)) if known.leader == standing.leader => since,
            _ => now,
        };
        self.known = Some((standing, since));
        self.backoff.reset();
        self.not_before = None;
    }

    /// Looks after what is out and not answered. What lies with a broker that leads no more is
    /// given up after a moment: its answer may never come, and the new leader tells what became of
    /// the batches. Returns true if it should be asked who leads, because nothing comes back from
    /// the one that is known to.
    pub(in crate::producer) fn look_after_silence(&mut self, now: Instant) -> bool {
        if !self.any_out() {
            return false;
        }
        if let Some((standing, since)) = self.known
            && standing.leader.broker.is_some()
            && standing.leader.broker != self.sent_to
            && since + FORMER_LEADER_WAIT <= now
            && self.identity != Some(Identity::NONE)
        {
            for batch in &mut self.under_way {
                if batch.stage == Stage::Out {
                    batch.stage = Stage::Ready;
                    batch.earlier = Earlier::Lost;
                    batch.attempt = batch.attempt.wrapping_add(1);
                }
            }
            self.obstacle = Some("its former leader did not answer".to_owned());
            return false;
        }
        let silent = self.sent_at.is_some_and(|at| at + SILENCE <= now);
        if silent {
            self.sent_at = Some(now);
            if self.obstacle.is_none()
                && let Some(leader) = self.sent_to
            {
                self.obstacle = Some(format!(
                    "broker {leader}, its leader, has not answered yet: it waits for other \
                     replicas, or is cut off"
                ));
            }
        }
        silent
    }

    /// When to look after what is out again.
    pub(super) fn silence_look(&self) -> Option<Instant> {
        let sent_at = self.sent_at.filter(|_| self.any_out())?;
        let moved = self.known.filter(|(standing, _)| {
            standing.leader.broker.is_some() && standing.leader.broker != self.sent_to
        });
        let given_up = moved.map(|(_, since)| since + FORMER_LEADER_WAIT);
        given_up.into_iter().chain([sent_at + SILENCE]).min()
    }

    /// What is in the way, for people.
    pub(in crate::producer) fn obstacle(&self) -> Option<String> {
        let obstacle = self.obstacle.as_ref()?;
        let in_sync = self.known.and_then(|(standing, _)| standing.in_sync);
        match in_sync {
            Some((in_sync, replicas)) if self.lacks_replicas => Some(format!(
                "{obstacle}; {in_sync} of {replicas} replicas are in sync"
            )),
            _ => Some(obstacle.clone()),
        }
    }
}
