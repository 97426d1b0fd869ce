//! Leaders and replicas in sync, of all that a broker keeps.
//!
//! *Patterns: leader and followers, generation clock.* Whoever falls silent is in sync no more,
//! even if it was the last one: nobody leads then, until somebody who has everything comes back.

use std::collections::{BTreeMap, BTreeSet};

use strandline_protocol::{BrokerId, DirectoryId, TopicPartition};

use super::{
    draft::{Changes, Draft},
    electorate::{Electorate, Loss},
};
use crate::{
    metadata::{
        record::{Record, Registration},
        topic::Topic,
    },
    mutants::{self, Mutant},
};

/// How a broker gives up what it leads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// At once: what nobody else can lead has no leader.
    AtOnce,
    /// What nobody else can lead, it goes on leading.
    Gradually,
}

/// How many leaders are moved at once to where they are preferred: as many as Kafka moves.
const MOVED_AT_ONCE_MAX: usize = 1_000;

impl Electorate<'_> {
    /// `broker` gives up what it leads, and is in sync no more where another one is.
    pub(super) fn leave(&self, broker: BrokerId, leaving: Leaving) -> Vec<Record> {
        let mut changes = Changes::default();
        for mut draft in self.kept_by(broker) {
            draft.leaves_isr(broker);
            let loss = match leaving {
                Leaving::AtOnce => Loss::AsConfigured,
                Leaving::Gradually => Loss::Avoided,
            };
            if self.is_led_on(&mut draft, broker, loss) || leaving == Leaving::AtOnce {
                changes.add(draft);
            }
        }
        changes.into_records()
    }

    /// `broker` starts anew: it leads nothing and is in sync with nobody, as if it had fallen
    /// silent. In the directories that its registration calls lossy it may have lost what was in
    /// the page cache, and is not eligible either; unless all that was acknowledged was fsynced.
    ///
    /// What lay in a directory that is gone is copied anew into another one, if somebody else has
    /// everything; else it is waited for.
    pub(super) fn start_anew(&self, registration: &Registration) -> Vec<Record> {
        let broker = registration.broker;
        let mut changes = Changes::default();
        let mut placed = BTreeMap::new();
        for mut draft in self.kept_by(broker) {
            let Some(replica) = draft.before.replica_on(broker) else {
                continue;
            };
            let directory = replica.directory;
            let is_gone = !registration.directories.contains(&directory);
            let is_lossy = registration.lossy.contains(&directory) && !draft.topic.always_fsynced;
            if is_gone && self.replicates() && draft.has_another(broker) {
                draft.distrusts(broker);
                self.place_anew(&mut draft, registration, &mut placed);
            } else if is_lossy && !is_gone && !is_spared(&draft) {
                draft.distrusts(broker);
            } else {
                draft.leaves_isr(broker);
            }
            self.is_led_on(&mut draft, broker, Loss::AsConfigured);
            changes.add(draft);
        }
        changes.into_records()
    }

    /// Puts the copy of a broker into the emptiest of the directories that it has now.
    fn place_anew(
        &self,
        draft: &mut Draft<'_>,
        registration: &Registration,
        placed: &mut BTreeMap<DirectoryId, usize>,
    ) {
        let broker = registration.broker;
        let load = |directory: &&DirectoryId| {
            let more = placed.get(*directory).copied().unwrap_or(0);
            self.image.load(broker, **directory) + more
        };
        let Some(emptiest) = registration.directories.iter().min_by_key(load) else {
            return;
        };
        let mut replicas = draft.next.replicas.iter_mut();
        if let Some(replica) = replicas.find(|replica| replica.broker == broker) {
            replica.directory = *emptiest;
            *placed.entry(*emptiest).or_default() += 1;
        }
    }

    /// The copies of `broker` in `directories`, and those of `partitions`, cannot be used or
    /// trusted: they are not in sync where another one is, and lead nothing where another one can.
    /// What is damaged is not eligible either, nor what counted before it was fsynced and lies in a
    /// directory that has failed.
    pub(super) fn take_out(
        &self,
        broker: BrokerId,
        directories: &BTreeSet<DirectoryId>,
        partitions: &BTreeSet<TopicPartition>,
    ) -> Vec<Record> {
        let mut changes = Changes::default();
        if !directories.is_empty() {
            for mut draft in self.kept_by(broker) {
                let replica = draft.before.replica_on(broker);
                let has_failed =
                    replica.is_some_and(|replica| directories.contains(&replica.directory));
                if has_failed && !partitions.contains(&draft.of) {
                    if draft.topic.always_fsynced || !draft.has_another(broker) {
                        draft.leaves_isr(broker);
                    } else {
                        draft.distrusts(broker);
                    }
                    self.is_led_on(&mut draft, broker, Loss::AsConfigured);
                    changes.add(draft);
                }
            }
        }
        for of in partitions {
            let partition = self.image.partition(*of);
            let Some(mut draft) = partition.and_then(|partition| self.draft(*of, partition)) else {
                continue;
            };
            if has_claim(&draft, broker) && draft.has_another(broker) {
                draft.distrusts(broker);
                self.is_led_on(&mut draft, broker, Loss::AsConfigured);
                changes.add(draft);
            }
        }
        changes.into_records()
    }

    /// `broker` gives away what others can lead; it goes on following.
    pub(super) fn lead_elsewhere(&self, broker: BrokerId) -> Changes {
        let mut changes = Changes::default();
        for mut draft in self.kept_by(broker) {
            if draft.before.leader == Some(broker)
                && let Some(elected) = self.leader(draft.topic, &draft.next, Loss::Avoided)
            {
                draft.led_by(elected);
                changes.add(draft);
            }
        }
        changes
    }

    /// Elects leaders for those partitions of `broker` that have none.
    pub(super) fn lead_what_it_can(&self, broker: BrokerId) -> Vec<Record> {
        let mut changes = Changes::default();
        for draft in self.kept_by(broker) {
            self.lead(&mut changes, draft);
        }
        changes.into_records()
    }

    /// Elects leaders for every partition that has none and can have one, and has others lead what
    /// brokers lead that are drained or whose disks are full.
    pub(super) fn lead_everywhere(&self) -> Vec<Record> {
        let mut changes = Changes::default();
        for broker in self.image.brokers() {
            let broker = broker.registration.broker;
            if self.image.leaderless_count() > 0 {
                for draft in self.kept_by(broker) {
                    self.lead(&mut changes, draft);
                }
            }
            let yields = self.is_drained(broker) || self.disks.is_any_full(broker);
            if yields && self.image.led_count(broker) > 0 {
                changes.merge(self.lead_elsewhere(broker));
            }
        }
        changes.into_records()
    }

    /// The minimum of a topic changes: nobody is eligible any more who is not in sync, as more may
    /// be acknowledged from then on. Where nobody is in sync nothing is acknowledged, and those who
    /// are eligible stay so.
    pub(super) fn forget_eligible(&self, topic: &Topic) -> Vec<Record> {
        let mut changes = Changes::default();
        for mut draft in self.partitions_of(topic) {
            if !draft.before.isr.is_empty() {
                draft.next.elr.clear();
                changes.add(draft);
            }
        }
        changes.into_records()
    }

    /// A topic accepts losses from now on: whatever nobody leads gets a leader.
    pub(super) fn rescue(&self, topic: &Topic) -> Vec<Record> {
        let mut changes = Changes::default();
        for mut draft in self.partitions_of(topic) {
            if draft.before.leader.is_none()
                && let Some(elected) = self.leader(draft.topic, &draft.next, Loss::Accepted)
            {
                draft.led_by(elected);
                self.complete(&mut draft);
                changes.add(draft);
            }
        }
        changes.into_records()
    }

    fn partitions_of<'t>(&self, topic: &'t Topic) -> impl Iterator<Item = Draft<'t>>
    where
        Self: 't,
    {
        let id = topic.id;
        topic.partitions().map(move |(partition, before)| {
            let of = TopicPartition {
                topic: id,
                partition,
            };
            Draft::new(of, topic, before, self.version)
        })
    }

    /// Gives partitions to their first replicas, where these can lead: all of them, or those that
    /// `broker` keeps. So many at once, and the next ones at the next time.
    pub(super) fn balance(&self, broker: Option<BrokerId>) -> Vec<Record> {
        let mut changes = Changes::default();
        let brokers = self.image.brokers().map(|known| known.registration.broker);
        let preferred = brokers.filter(|one| broker.is_none_or(|broker| broker == *one));
        for broker in preferred {
            for mut draft in self.kept_by(broker) {
                let first = draft.before.replicas.first();
                let is_first = first.is_some_and(|replica| replica.broker == broker);
                let is_elsewhere = draft.before.leader.is_some_and(|leader| leader != broker);
                let may =
                    self.is_valid(draft.before, broker) && !self.is_to_yield(draft.before, broker);
                if is_first && is_elsewhere && may {
                    draft.next.leader = Some(broker);
                    changes.add(draft);
                }
                if changes.len() == MOVED_AT_ONCE_MAX {
                    return changes.into_records();
                }
            }
        }
        changes.into_records()
    }

    fn lead(&self, changes: &mut Changes, mut draft: Draft<'_>) {
        if draft.before.leader.is_none()
            && let Some(elected) = self.leader(draft.topic, &draft.next, Loss::AsConfigured)
        {
            draft.led_by(elected);
            self.complete(&mut draft);
            changes.add(draft);
        }
    }

    /// Finds another leader if `broker` is it. Returns whether there is one now.
    fn is_led_on(&self, draft: &mut Draft<'_>, broker: BrokerId, loss: Loss) -> bool {
        if draft.before.leader != Some(broker) {
            return true;
        }
        let elected = self.leader(draft.topic, &draft.next, loss);
        match elected {
            Some(elected) => {
                draft.led_by(elected);
                self.complete(draft);
            }
            None => draft.next.leader = None,
        }
        elected.is_some()
    }
}

/// A seeded bug: whoever was the last to have everything is believed to have it still.
fn is_spared(draft: &Draft<'_>) -> bool {
    let claims = draft.before.isr.len() + draft.before.elr.len();
    claims == 1 && mutants::is_active(Mutant::LastReplicaKeptAfterLossyRestart)
}

/// Whether `broker` counts as having everything.
fn has_claim(draft: &Draft<'_>, broker: BrokerId) -> bool {
    draft.before.isr.contains(&broker) || draft.before.elr.contains(&broker)
}
