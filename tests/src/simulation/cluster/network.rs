//! The ways between hosts: cut, cut one way, or held up.

use std::{collections::BTreeMap, time::Duration};

use turmoil::Sim;

use super::Trace;

/// What is wrong with the way between two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// Nothing gets through.
    Cut,
    /// Nothing gets through from the first to the second.
    OneWay,
    /// Everything gets through later, at once.
    Held,
}

/// All damaged ways.
#[derive(Default)]
pub(super) struct Network {
    /// Until when, by the two hosts.
    damaged: BTreeMap<(String, String), (Damage, Duration)>,
    /// Hosts that are without power: nothing gets through to them and from them.
    dark: Vec<String>,
    /// All hosts.
    pub(super) hosts: Vec<String>,
}

impl Network {
    fn is_damaged(&self, a: &str, b: &str) -> bool {
        let is_pair = |(c, d): &(String, String)| (c == a && d == b) || (c == b && d == a);
        self.damaged.keys().any(is_pair)
    }

    fn is_dark(&self, host: &str) -> bool {
        self.dark.iter().any(|dark| dark == host)
    }

    /// Damages the way from `a` to `b`, unless something is wrong with it already.
    pub(super) fn damage(
        &mut self,
        sim: &Sim<'_>,
        (a, b): (&str, &str),
        damage: Damage,
        until: Duration,
    ) {
        if a == b || self.is_damaged(a, b) || self.is_dark(a) || self.is_dark(b) {
            return;
        }
        match damage {
            Damage::Cut => sim.partition(a, b),
            Damage::OneWay => sim.partition_oneway(a, b),
            Damage::Held => sim.hold(a, b),
        }
        self.damaged
            .insert((a.to_owned(), b.to_owned()), (damage, until));
    }

    /// Mends what is due.
    pub(super) fn step(&mut self, sim: &Sim<'_>, now: Duration, trace: &Trace) {
        let mended = self.damaged.extract_if(.., |_, (_, until)| *until <= now);
        for ((a, b), (damage, _)) in mended {
            mend(sim, &a, &b, damage);
            trace.detail("network", format_args!("{a} - {b}: {damage:?} is over"));
        }
    }

    /// Mends everything but what is dark.
    pub(super) fn mend_all(&mut self, sim: &Sim<'_>) {
        for ((a, b), (damage, _)) in std::mem::take(&mut self.damaged) {
            mend(sim, &a, &b, damage);
        }
    }

    /// What is on its way to a host or from it is lost, and nothing follows.
    pub(super) fn darken(&mut self, sim: &Sim<'_>, host: &str) {
        self.damaged.retain(|(a, b), _| a != host && b != host);
        for other in self.hosts.iter().filter(|other| *other != host) {
            sim.partition(host, other.as_str());
        }
        if !self.is_dark(host) {
            self.dark.push(host.to_owned());
        }
    }

    /// A host has power again.
    pub(super) fn lighten(&mut self, sim: &Sim<'_>, host: &str) {
        self.dark.retain(|dark| dark != host);
        for other in &self.hosts {
            if other != host && !self.is_dark(other) && !self.is_damaged(host, other) {
                sim.repair(host, other.as_str());
            }
        }
    }
}

fn mend(sim: &Sim<'_>, a: &str, b: &str, damage: Damage) {
    match damage {
        Damage::Cut => sim.repair(a, b),
        Damage::OneWay => sim.repair_oneway(a, b),
        Damage::Held => sim.release(a, b),
    }
}
