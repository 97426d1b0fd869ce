//! The leader's side of replication: what followers fetch, how far they are, who is in sync.
//!
//! *Patterns: leader and followers, high-water mark.*

use std::{sync::Arc, time::Duration};

use strandline_core::leases::SESSION;
use strandline_core::replica::{
    Flush, FollowerFetch, FollowerFlush, FollowerState, IsrProposal, ProposalOutcome, Role,
    divergence::FetchAnswer,
};
use strandline_protocol::{
    BrokerId, ErrorCode, LeaderEpoch, Offset,
    messages::{Failure, OffsetGap},
};
use strandline_storage::log::{ColdRange, Fetched, ReadError};
use tokio::time::Instant;

use super::{
    Feed, Look, Partition, ReadFailure, ReplicaRead, ReplicaReadFailure,
    state::{Effects, Inner},
};

/// A partition as its leader knows it.
#[derive(Clone, Debug)]
pub struct Led {
    /// The epoch of the leader.
    pub leader_epoch: LeaderEpoch,
    /// Where it stands.
    pub marks: strandline_core::replica::Marks,
    /// How far its followers are.
    pub followers: Vec<FollowerState>,
    /// Who is in sync.
    pub isr: Vec<BrokerId>,
}

impl Partition {
    /// Takes in where a follower stands, and looks up what it lacks, up to the end of the log. Its
    /// session hears of news from now on, by `feed`.
    ///
    /// # Errors
    /// What to answer with, and where this replica stands if it leads.
    pub fn serve_follower(
        self: &Arc<Self>,
        fetch: &FollowerFetch,
        feed: &Arc<Feed>,
        bytes_max: usize,
        look: Look,
    ) -> Result<Result<ReplicaRead, ColdRange>, ReplicaReadFailure> {
        self.directory.check_online().map_err(refused)?;
        let now = self.surroundings.since_start(Instant::now());
        let mut inner = self.inner.lock();
        inner.check_leads().map_err(refused)?;
        let Inner { log, replica, .. } = &mut *inner;
        let end_offset_for = |epoch| log.as_ref().and_then(|log| log.end_offset_for(epoch));
        let marks = replica.marks();
        let answer = replica
            .follower_fetched(fetch, end_offset_for, now)
            .map_err(|failure| ReplicaReadFailure {
                failure,
                marks: Some(marks),
            })?;
        inner.feeds.subscribe(fetch.broker, feed);
        let effects = self.progressed(&mut inner, now);
        let read = match answer {
            FetchAnswer::Records => self.look_up(&mut inner, fetch.fetch_offset, bytes_max, look),
            FetchAnswer::Diverging(end) => Ok(Ok(ReplicaRead {
                marks: inner.replica.marks(),
                diverging: Some(end),
                fetched: None,
                gap: None,
            })),
        };
        drop(inner);
        self.perform(effects);
        read
    }

    /// Looks again for a follower whose position [`Partition::serve_follower`] has taken in.
    ///
    /// # Errors
    /// As there.
    pub fn serve_again(
        &self,
        fetch: &FollowerFetch,
        bytes_max: usize,
        look: Look,
    ) -> Result<Result<ReplicaRead, ColdRange>, ReplicaReadFailure> {
        self.directory.check_online().map_err(refused)?;
        let mut inner = self.inner.lock();
        inner.check_leads().map_err(refused)?;
        let known = Some(fetch.leader_epoch);
        inner.replica.check_epoch(known).map_err(refused)?;
        self.look_up(&mut inner, fetch.fetch_offset, bytes_max, look)
    }

    /// Looks up what a follower reads next, behind what [`Partition::serve_follower`] has found.
    /// None if there is nothing, or it is not in memory.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn serve_on(
        &self,
        from: Offset,
        bytes_max: usize,
        look: Look,
    ) -> Result<Option<Fetched>, ReadFailure> {
        let mut inner = self.inner.lock();
        inner.check_leads()?;
        let found = self
            .look_up(&mut inner, from, bytes_max, look)
            .map_err(|error| ReadFailure::from(error.failure))?;
        // What lies behind a gap comes with an answer of its own, which says so.
        let found = found.ok().filter(|read| read.gap.is_none());
        Ok(found.and_then(|read| read.fetched))
    }

    fn look_up(
        &self,
        inner: &mut Inner,
        from: Offset,
        bytes_max: usize,
        look: Look,
    ) -> Result<Result<ReplicaRead, ColdRange>, ReplicaReadFailure> {
        let marks = inner.replica.marks();
        let failed = |failure| ReplicaReadFailure {
            failure,
            marks: Some(marks),
        };
        let (_, log) = inner.open_log().map_err(failed)?;
        let mut read = ReplicaRead {
            marks,
            diverging: None,
            fetched: None,
            gap: None,
        };
        if from >= log.end() || bytes_max == 0 {
            return Ok(Ok(read));
        }
        if look == Look::Warm
            && let Some(cold) = log.cold_range(from, bytes_max)
        {
            return Ok(Err(cold));
        }
        let fetched = match log.read(from, bytes_max, log.end()) {
            Err(ReadError::Removed { offset, next }) if next < log.end() => {
                if let Some(failure) = self.being_put_back(&(offset..next)) {
                    return Err(failed(failure));
                }
                read.gap = Some(OffsetGap {
                    start: from,
                    end: next,
                });
                log.read(next, bytes_max, log.end())
            }
            fetched => fetched,
        };
        read.fetched = Some(fetched.map_err(|error| failed(self.read_error(error).failure))?);
        Ok(Ok(read))
    }

    /// Takes in what a follower has made durable. Who is no follower of this leader is not heard.
    pub fn follower_flushed(self: &Arc<Self>, flushed: &FollowerFlush) {
        let now = self.surroundings.since_start(Instant::now());
        let mut inner = self.inner.lock();
        if let Err(failure) = inner.replica.follower_flushed(flushed, now) {
            tracing::debug!(
                topic = %self.topic, partition = %self.id.partition,
                "progress of broker {}: {}", flushed.broker, failure.message
            );
            return;
        }
        let effects = self.progressed(&mut inner, now);
        drop(inner);
        self.perform(effects);
    }

    /// Refuses what only the leader may do or tell, also where another broker may have been elected
    /// without this one having heard of it.
    ///
    /// *Pattern: lease.* While the lease holds, nobody else leads. Once it is over there may be no
    /// controller at all, and no reason to serve less; or this broker is cut off from it. It is
    /// still the leader while every replica that could be elected follows it: who leads does not.
    ///
    /// # Errors
    /// `NOT_LEADER_OR_FOLLOWER`.
    pub(super) fn check_reigns(&self, inner: &Inner) -> Result<(), Failure> {
        inner.check_leads()?;
        let metadata = &self.surroundings.metadata;
        if metadata.holds_lease() {
            return Ok(());
        }
        let image = metadata.image();
        let known = image.partition(self.id);
        let known = known.map(|known| (known.isr.iter(), known.elr.iter()));
        let known = known.into_iter().flat_map(|(isr, elr)| isr.chain(elr));
        let mut electable = known.chain(inner.replica.joining());
        let since = Instant::now().checked_sub(SESSION);
        let follows = |broker: &BrokerId| {
            since.is_some_and(|since| inner.feeds.is_followed(*broker, self.id, since))
        };
        if electable.all(|broker| *broker == self.surroundings.broker || follows(broker)) {
            return Ok(());
        }
        Err(lease_is_over())
    }

    /// Asks for another set of replicas in sync, if one is due.
    pub fn look_after_isr(self: &Arc<Self>) {
        let now = self.surroundings.since_start(Instant::now());
        let mut inner = self.inner.lock();
        let proposal = inner.proposal(now);
        drop(inner);
        if let Some(proposal) = proposal {
            self.surroundings.proposals.push(self, proposal);
        }
    }

    /// A follower has come further, or time has passed.
    fn progressed(&self, inner: &mut Inner, now: Duration) -> Effects {
        let mut effects = self.settle(inner, Flush::NotNeeded);
        effects.proposal = inner.proposal(now);
        effects
    }

    /// What became of a proposal.
    pub fn proposal_answered(self: &Arc<Self>, proposal: &IsrProposal, outcome: ProposalOutcome) {
        let now = self.surroundings.since_start(Instant::now());
        let mut inner = self.inner.lock();
        inner.replica.proposal_answered(proposal, outcome, now);
        let effects = self.settle(&mut inner, Flush::NotNeeded);
        drop(inner);
        self.perform(effects);
    }

    /// How far its replicas are.
    ///
    /// # Errors
    /// `NOT_LEADER_OR_FOLLOWER`: only the leader knows.
    pub fn describe(&self) -> Result<Led, Failure> {
        let now = self.surroundings.since_start(Instant::now());
        let inner = self.inner.lock();
        inner.check_leads()?;
        Ok(Led {
            leader_epoch: inner.replica.leader_epoch(),
            marks: inner.replica.marks(),
            followers: inner.replica.followers(now).collect(),
            isr: inner.replica.isr().to_vec(),
        })
    }
}

impl Inner {
    /// Another set of replicas in sync to ask for, if one is due.
    pub(super) fn proposal(&mut self, now: Duration) -> Option<IsrProposal> {
        if !self.is_replicated() || self.replica.role() != Role::Leader {
            return None;
        }
        self.replica.propose(now)
    }
}

/// What is answered where another broker may lead by now.
pub(super) fn lease_is_over() -> Failure {
    Failure::new(
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        "the controller has not been heard for so long that another broker may lead by now: ask \
         another one for metadata, and retry",
    )
}

const fn refused(failure: Failure) -> ReplicaReadFailure {
    ReplicaReadFailure {
        failure,
        marks: None,
    }
}
