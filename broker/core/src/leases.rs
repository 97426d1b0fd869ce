//! Who is alive, by the clock of one: the controller's view of every broker, and a broker's view of
//! itself.
//!
//! *Pattern: lease.* A broker leads as long as its lease holds, and the controller gives what it
//! leads to others only once it is over. The broker counts its lease from the time at which it
//! *sent* the heartbeat that was acknowledged, the controller from the time at which that arrived:
//! so the broker's ends first, whatever the network did, as long as both clocks run equally fast.
//!
//! *Pattern: heartbeat.* Silence for a whole session means that a broker is fenced.
//!
//! Times are durations since an arbitrary start of the clock of whoever judges, and are never
//! compared with those of another clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use strandline_protocol::{BrokerEpoch, BrokerId, ErrorCode, Offset, messages::Failure};

use crate::{
    metadata::{BrokerState, Image},
    mutants::{self, Mutant},
};

/// How often a broker sends a heartbeat.
pub const HEARTBEAT: Duration = Duration::from_millis(200);

/// How long a lease lasts without one.
pub const SESSION: Duration = Duration::from_millis(1_500);

/// What the controller knows of the lease of one broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    epoch: BrokerEpoch,
    /// Up to when the broker counts as alive; exclusive.
    until: Duration,
    standing: Standing,
    /// Up to where it follows the metadata log, as far as is known.
    applied: Option<Offset>,
}

/// What a lease is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// The broker may lead.
    Leading,
    /// The broker may lead no more, and is to be fenced. A heartbeat comes too late.
    Over,
    /// The broker is fenced. That it is alive keeps others from taking its number.
    Fenced,
}

/// What a heartbeat is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// The broker may lead for a session from the time on at which it sent the heartbeat.
    Granted {
        /// How long.
        session: Duration,
    },
    /// The broker is fenced, or about to be: it may not lead. Once it is fenced and has caught up,
    /// it is to be unfenced, which ends in [`Leases::unfenced`].
    Fenced,
}

/// A broker whose lease is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Which broker.
    pub broker: BrokerId,
    /// The epoch in which it is to be fenced.
    pub epoch: BrokerEpoch,
}

/// The leases that the active controller holds. They are known to nobody else and end with its
/// term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leases {
    session: Duration,
    leases: BTreeMap<BrokerId, Lease>,
}

impl Leases {
    /// The leases of a controller that takes over at `now`: everybody who is registered has a whole
    /// session, as nobody knows what the controller before has granted. `brokers` names each with
    /// its epoch, and whether it is fenced.
    #[must_use]
    pub fn taken_over(
        brokers: impl IntoIterator<Item = (BrokerId, BrokerEpoch, IsFenced)>,
        session: Duration,
        now: Duration,
    ) -> Self {
        let leases = brokers.into_iter().map(|(broker, epoch, fenced)| {
            let standing = match fenced {
                IsFenced::No => Standing::Leading,
                IsFenced::Yes => Standing::Fenced,
            };
            let lease = Lease {
                epoch,
                until: now.saturating_add(session),
                standing,
                applied: None,
            };
            (broker, lease)
        });
        Self {
            session,
            leases: leases.collect(),
        }
    }

    /// The same for the brokers of an image.
    #[must_use]
    pub fn of_image(image: &Image, session: Duration, now: Duration) -> Self {
        let brokers = image.brokers().map(|broker| {
            let fenced = match broker.state {
                BrokerState::Fenced => IsFenced::Yes,
                BrokerState::Active | BrokerState::Stopping => IsFenced::No,
            };
            (broker.registration.broker, broker.epoch, fenced)
        });
        Self::taken_over(brokers, session, now)
    }

    /// A broker has registered, or has done so again: the committed registration gave it `epoch`.
    pub fn registered(
        &mut self,
        broker: BrokerId,
        epoch: BrokerEpoch,
        fenced: IsFenced,
        now: Duration,
    ) {
        let known = self.leases.get(&broker).map(|lease| lease.epoch);
        if known < Some(epoch) {
            let one = Self::taken_over([(broker, epoch, fenced)], self.session, now);
            self.leases.extend(one.leases);
        }
    }

    /// A broker is unregistered.
    pub fn unregistered(&mut self, broker: BrokerId) {
        self.leases.remove(&broker);
    }

    /// A heartbeat of `broker` has arrived, which has applied the metadata up to `applied`.
    ///
    /// # Errors
    /// `BROKER_ID_NOT_REGISTERED`, `STALE_BROKER_EPOCH`: the broker must serve no more.
    pub fn heartbeat(
        &mut self,
        broker: BrokerId,
        epoch: BrokerEpoch,
        applied: Offset,
        now: Duration,
    ) -> Result<Heartbeat, Failure> {
        let session = self.session;
        let lease = self.leases.get_mut(&broker).ok_or_else(|| {
            let message = format!("broker {broker} is not registered: start it anew");
            Failure::new(ErrorCode::BROKER_ID_NOT_REGISTERED, message)
        })?;
        if lease.epoch != epoch && !mutants::is_active(Mutant::BrokerEpochNotChecked) {
            return Err(Failure::new(
                ErrorCode::STALE_BROKER_EPOCH,
                format!(
                    "broker {broker} sends heartbeats with epoch {epoch}, its present one is {}: \
                     another process has registered as broker {broker} since",
                    lease.epoch
                ),
            ));
        }
        lease.applied = lease.applied.max(Some(applied));
        if lease.standing == Standing::Leading && lease.until <= now {
            // Nobody has looked since it ended: too late all the same.
            lease.standing = Standing::Over;
        }
        lease.until = lease.until.max(now.saturating_add(session));
        Ok(match lease.standing {
            Standing::Leading => Heartbeat::Granted { session },
            Standing::Over | Standing::Fenced => Heartbeat::Fenced,
        })
    }

    /// Nobody listens at the address of `broker` any more: the process of that epoch is gone, and
    /// its lease with it.
    pub fn connection_refused(&mut self, broker: BrokerId, epoch: BrokerEpoch, now: Duration) {
        if let Some(lease) = self.current(broker, epoch) {
            lease.until = lease.until.min(now);
            if lease.standing == Standing::Leading {
                lease.standing = Standing::Over;
            }
        }
    }

    /// The next broker to be fenced: one at a time, the one whose lease ended first. It stays the
    /// next one until [`Leases::fenced`] is told, and no heartbeat saves it any more.
    pub fn expired(&mut self, now: Duration) -> Option<Expired> {
        for lease in self.leases.values_mut() {
            if lease.standing == Standing::Leading && lease.until <= now {
                lease.standing = Standing::Over;
            }
        }
        self.leases
            .iter()
            .filter(|(_, lease)| lease.standing == Standing::Over)
            .min_by_key(|(_, lease)| lease.until)
            .map(|(broker, lease)| Expired {
                broker: *broker,
                epoch: lease.epoch,
            })
    }

    /// The fencing of a broker is committed.
    pub fn fenced(&mut self, broker: BrokerId, epoch: BrokerEpoch) {
        if let Some(lease) = self.current(broker, epoch) {
            lease.standing = Standing::Fenced;
        }
    }

    /// The unfencing of a broker is committed: it has a whole session.
    pub fn unfenced(&mut self, broker: BrokerId, epoch: BrokerEpoch, now: Duration) {
        let until = now.saturating_add(self.session);
        if let Some(lease) = self.current(broker, epoch) {
            lease.standing = Standing::Leading;
            lease.until = lease.until.max(until);
        }
    }

    /// When [`Leases::expired`] has an answer at the earliest, if no heartbeat comes: zero if it
    /// has one already, none while nobody may lead.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let deadlines = self
            .leases
            .values()
            .filter_map(|lease| match lease.standing {
                Standing::Leading => Some(lease.until),
                Standing::Over => Some(Duration::ZERO),
                Standing::Fenced => None,
            });
        deadlines.min()
    }

    /// The brokers that are alive: their numbers are taken.
    #[must_use]
    pub fn held(&self, now: Duration) -> BTreeSet<BrokerId> {
        self.leases
            .iter()
            .filter(|(_, lease)| now < lease.until)
            .map(|(broker, _)| *broker)
            .collect()
    }

    /// What is left of a lease, and up to where its broker follows the metadata log; none of a
    /// broker that is not registered.
    #[must_use]
    pub fn of(&self, broker: BrokerId, now: Duration) -> Option<(Duration, Option<Offset>)> {
        let lease = self.leases.get(&broker)?;
        Some((lease.until.saturating_sub(now), lease.applied))
    }

    /// Up to where every broker but `broker` that is alive has applied the metadata; none if one of
    /// them has not told yet. [`Offset`]`(i64::MAX)` if there is no other.
    #[must_use]
    pub fn applied_by_others(&self, broker: BrokerId, now: Duration) -> Option<Offset> {
        self.leases
            .iter()
            .filter(|(other, lease)| **other != broker && now < lease.until)
            .map(|(_, lease)| lease.applied)
            .min()
            .unwrap_or(Some(Offset(i64::MAX)))
    }

    fn current(&mut self, broker: BrokerId, epoch: BrokerEpoch) -> Option<&mut Lease> {
        let lease = self.leases.get_mut(&broker);
        lease.filter(|lease| lease.epoch == epoch)
    }
}

/// Whether a broker is fenced in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsFenced {
    /// It may lead.
    No,
    /// It may not.
    Yes,
}

/// A broker's own view of its lease. Ask it before anything is served that only a leader may tell,
/// with a time that was read after the last pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnLease {
    until: Option<Duration>,
}

impl OwnLease {
    /// No lease yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { until: None }
    }

    /// The lease of a broker that is alone in its cluster: nobody else could lead.
    #[must_use]
    pub const fn without_end() -> Self {
        Self {
            until: Some(Duration::MAX),
        }
    }

    /// The heartbeat that was sent at `sent` was granted, and the answer has come at `received`.
    /// Answers may come in any order.
    pub fn granted(&mut self, sent: Duration, received: Duration, session: Duration) {
        let from = if mutants::is_active(Mutant::LeaseCountedFromAnswer) {
            received
        } else {
            sent
        };
        self.until = self.until.max(Some(from.saturating_add(session)));
    }

    /// The broker was told that it is fenced, or that its epoch is stale.
    pub const fn ended(&mut self) {
        self.until = None;
    }

    /// Whether the broker may lead at `now`.
    #[must_use]
    pub fn holds(&self, now: Duration) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// When the lease is over; none if there is none.
    #[must_use]
    pub const fn until(&self) -> Option<Duration> {
        self.until
    }
}
