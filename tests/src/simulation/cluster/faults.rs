//! What goes wrong with the machines and between them, and when: drawn from the seed.

use std::{rc::Rc, time::Duration};

use strandline_storage::fs::{
    Operation,
    simulated::{Failure, Fault, SimulatedDisk},
};
use turmoil::Sim;

use super::{
    ClusterPlan, Style, Trace, Wipes,
    checks::Checks,
    machines::{Machine, Machines},
    network::{Damage, Network},
    replication::Replication,
};
use crate::random::Random;

/// How long brokers may take to stop in order: connections are cut after 2 s.
const STOP_WITHIN: Duration = Duration::from_secs(8);

/// How a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    /// Something is wrong with its network until then.
    Disturbed(Duration),
    /// Its power goes when its disk says so, or at that time at the latest.
    Doomed(Duration),
    /// The broker was asked to stop in order, and has until then.
    Stopping(Duration),
    /// It comes back at that time.
    Down(Duration),
    /// It never comes back.
    Gone,
}

/// How often what went wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wrongs {
    pub(super) power_cuts: u64,
    pub(super) cuts_within_operations: u64,
    pub(super) cuts_of_all: u64,
    pub(super) kills: u64,
    pub(super) stops: u64,
    pub(super) failed_syncs: u64,
    pub(super) wiped_disks: u64,
    pub(super) pauses: u64,
    pub(super) isolations: u64,
    pub(super) one_way_cuts: u64,
    pub(super) client_cuts: u64,
    pub(super) splits: u64,
    pub(super) clock_steps: u64,
    pub(super) gone: u64,
    pub(super) pairs_held_up: u64,
    pub(super) left_behind: u64,
}

/// Makes things go wrong.
pub(super) struct Faults {
    random: Random,
    plan: ClusterPlan,
    states: Vec<State>,
    next: Duration,
    network: Network,
    clients: Vec<String>,
    /// Whose disk was wiped while it may still be one of the voters: no other disk may be lost.
    replaced: Option<usize>,
    trace: Trace,
    /// Whose copies go bad while a machine is off.
    pub(super) copies: Option<Rc<Replication>>,
    pub(super) wrongs: Wrongs,
}

impl Faults {
    pub(super) fn new(plan: &ClusterPlan, clients: Vec<String>, trace: Trace) -> Self {
        let mut faults = Self {
            random: Random::new(plan.seed, 400),
            plan: *plan,
            states: vec![State::Up; plan.machines],
            next: Duration::ZERO,
            network: Network::default(),
            clients: Vec::new(),
            replaced: None,
            trace,
            copies: None,
            wrongs: Wrongs::default(),
        };
        faults.network.hosts = (0..plan.machines).map(super::host_of).collect();
        faults.clients(clients);
        faults
    }

    /// There are more clients.
    pub(super) fn clients(&mut self, names: Vec<String>) {
        self.network.hosts.extend(names.iter().cloned());
        self.clients.extend(names);
    }

    /// Does what is due; called once per step.
    pub(super) fn step(&mut self, sim: &mut Sim<'_>, machines: &Machines, checks: &Checks) {
        let now = sim.elapsed();
        self.network.step(sim, now, &self.trace);
        for machine in machines.all() {
            self.step_machine(sim, machine, now, checks);
        }
        if now >= self.next {
            self.next = now + self.random.ms(50..1500);
            if self.replaced.is_some() && machines.missing(checks).is_none() {
                self.replaced = None;
            }
            self.strike(sim, machines, checks, now);
        }
    }

    /// Ends all faults: every machine that is left is up, the network works.
    pub(super) fn end(&mut self, sim: &mut Sim<'_>, machines: &Machines, checks: &Checks) {
        self.trace.note("plan", "nothing goes wrong any more");
        self.network.mend_all(sim);
        if self.plan.style == Style::Forever {
            // Whoever votes is missed; that it is one of three at least, the plan sees to. A voter
            // whose disk was wiped is lost already.
            let drawn = self.random.index(self.plan.machines);
            let index = self.replaced.unwrap_or(drawn);
            self.take_away(sim, &machines.all()[index], checks);
        }
        for machine in machines.all() {
            machine.skew_ms.set(0);
            match self.states[machine.index] {
                State::Gone => {}
                State::Down(_) => self.come_back(sim, machine),
                State::Up | State::Disturbed(_) => self.states[machine.index] = State::Up,
                State::Doomed(_) | State::Stopping(_) => {
                    self.cut_power(sim, machine, Duration::ZERO);
                    self.come_back(sim, machine);
                }
            }
        }
    }

    /// The power goes everywhere at once, and comes back.
    pub(super) fn cut_power_of_all(
        &mut self,
        sim: &mut Sim<'_>,
        machines: &Machines,
        _checks: &Checks,
    ) {
        self.wrongs.cuts_of_all += 1;
        self.trace.note("plan", "the power goes everywhere");
        for machine in machines.left() {
            self.cut_power(sim, machine, Duration::ZERO);
        }
        for machine in machines.left() {
            self.come_back(sim, machine);
        }
    }

    fn take_away(&mut self, sim: &mut Sim<'_>, machine: &Machine, _checks: &Checks) {
        self.cut_power(sim, machine, Duration::ZERO);
        self.trace.note(&machine.host, "is gone for ever");
        self.wrongs.gone += 1;
        machine.is_gone.set(true);
        self.states[machine.index] = State::Gone;
    }

    fn step_machine(
        &mut self,
        sim: &mut Sim<'_>,
        machine: &Machine,
        now: Duration,
        checks: &Checks,
    ) {
        match self.states[machine.index] {
            State::Up | State::Gone => {}
            State::Disturbed(until) => {
                if now >= until {
                    self.states[machine.index] = State::Up;
                }
            }
            State::Doomed(at) => {
                if machine.disk().is_off() {
                    self.wrongs.cuts_within_operations += 1;
                    self.cut_power(sim, machine, now);
                } else if now >= at {
                    self.cut_power(sim, machine, now);
                }
            }
            State::Stopping(until) => {
                if !sim.is_host_running(machine.host.as_str()) {
                    self.wrongs.stops += 1;
                    self.switch_off(sim, machine, now);
                } else if now >= until {
                    checks.violation(format!(
                        "{} does not stop within {STOP_WITHIN:?}",
                        machine.host
                    ));
                    self.cut_power(sim, machine, now);
                }
            }
            State::Down(until) => {
                if now >= until {
                    if let Some(copies) = self.copies.clone()
                        && self.random.one_in(2)
                    {
                        copies.rot(machine, &mut self.random);
                    }
                    self.come_back(sim, machine);
                    // A recovery may be cut short as well.
                    if self.random.one_in(5) {
                        machine.disk().crash_after(self.random.within(1..120));
                        self.states[machine.index] = State::Doomed(now + self.random.ms(50..500));
                    }
                }
            }
        }
    }

    /// Whether one more machine may be disturbed.
    fn may_disturb(&self) -> bool {
        let disturbed = self.states.iter().filter(|state| **state != State::Up);
        disturbed.count() < self.plan.disturbed_max()
    }

    fn strike(&mut self, sim: &mut Sim<'_>, machines: &Machines, checks: &Checks, now: Duration) {
        let victim = &machines.all()[self.random.index(self.plan.machines)];
        let kinds = if self.copies.is_some() { 30 } else { 24 };
        let kind = self.random.within(0..kinds);
        if kind < 3 {
            return self.strike_client(sim, now);
        }
        if kind == 3 {
            return self.step_clock(victim);
        }
        if self.states[victim.index] != State::Up || !self.may_disturb() {
            return;
        }
        match kind {
            4 | 5 => self.cut_power(sim, victim, now),
            6..=9 => {
                let changes = self.random.within(1..150);
                self.trace
                    .note(&victim.host, format_args!("goes off in {changes} changes"));
                victim.disk().crash_after(changes);
                self.states[victim.index] = State::Doomed(now + self.random.ms(100..1500));
            }
            10..=12 => self.kill(sim, victim, now),
            13 => {
                self.trace.note(&victim.host, "is to stop");
                victim.ask_to_stop();
                self.states[victim.index] = State::Stopping(now + STOP_WITHIN);
            }
            14 => self.fail_sync(victim, now),
            15..=17 => self.isolate(sim, victim, now),
            18 | 19 => self.cut_one_way(sim, victim, now),
            20 | 21 => self.pause(sim, victim, now),
            22 => self.wipe(sim, machines, victim, checks, now),
            24..=26 => self.hold_up_pair(sim, victim, now),
            27.. => self.leave_behind(sim, victim, now),
            _ if self.plan.style == Style::Everything => self.strike_all(sim, machines, now),
            _ => self.isolate(sim, victim, now),
        }
    }

    fn fail_sync(&mut self, victim: &Machine, now: Duration) {
        self.trace.note(&victim.host, "a sync fails");
        self.wrongs.failed_syncs += 1;
        victim.fails.set(true);
        let after = self.random.within(0..20);
        victim.disk().inject(Fault {
            after,
            ..Fault::next(Operation::Sync, Failure::Broken)
        });
        self.states[victim.index] = State::Doomed(now + self.random.ms(50..1500));
    }

    /// A client and a machine do not hear each other, or late.
    fn strike_client(&mut self, sim: &Sim<'_>, now: Duration) {
        let client = self.clients[self.random.index(self.clients.len())].clone();
        let host = super::host_of(self.random.index(self.plan.machines));
        let damage = match self.random.within(0..3) {
            0 => Damage::Held,
            1 => Damage::OneWay,
            _ => Damage::Cut,
        };
        let until = now + self.random.ms(20..3000);
        self.wrongs.client_cuts += 1;
        self.trace
            .note(&client, format_args!("{damage:?} from {host}"));
        let pair = if self.random.one_in(2) {
            (client.as_str(), host.as_str())
        } else {
            (host.as_str(), client.as_str())
        };
        self.network.damage(sim, pair, damage, until);
    }

    fn step_clock(&mut self, victim: &Machine) {
        let skew = self.random.within(0..20_000) as i64 - 10_000;
        self.trace
            .note(&victim.host, format_args!("its clock is {skew} ms ahead"));
        self.wrongs.clock_steps += 1;
        victim.skew_ms.set(skew);
    }

    /// The other machines do not hear it, nor it them. Clients may.
    fn isolate(&mut self, sim: &Sim<'_>, victim: &Machine, now: Duration) {
        let until = now + self.random.ms(300..5000);
        self.wrongs.isolations += 1;
        self.trace.note(&victim.host, "is isolated");
        for other in (0..self.plan.machines).map(super::host_of) {
            let pair = (victim.host.as_str(), other.as_str());
            self.network.damage(sim, pair, Damage::Cut, until);
        }
        self.states[victim.index] = State::Disturbed(until);
    }

    /// Some others do not hear it, or it does not hear them.
    fn cut_one_way(&mut self, sim: &Sim<'_>, victim: &Machine, now: Duration) {
        let until = now + self.random.ms(300..5000);
        let (is_mute, some) = (self.random.one_in(2), self.random.draw());
        self.wrongs.one_way_cuts += 1;
        let what = if is_mute { "mute" } else { "deaf" };
        self.trace.note(&victim.host, format_args!("is {what}"));
        for index in 0..self.plan.machines {
            if some >> index & 1 == 0 && !some.is_multiple_of(3) {
                continue;
            }
            let other = super::host_of(index);
            let pair = if is_mute {
                (victim.host.as_str(), other.as_str())
            } else {
                (other.as_str(), victim.host.as_str())
            };
            self.network.damage(sim, pair, Damage::OneWay, until);
        }
        self.states[victim.index] = State::Disturbed(until);
    }

    /// Nothing of it is heard for a time, then everything at once. Its own time goes on, unlike
    /// that of a process that stands still: the simulated network knows no such thing.
    fn pause(&mut self, sim: &Sim<'_>, victim: &Machine, now: Duration) {
        let until = now + self.random.ms(200..4000);
        self.wrongs.pauses += 1;
        self.trace.note(&victim.host, "is held up");
        for other in self.network.hosts.clone() {
            let pair = (victim.host.as_str(), other.as_str());
            self.network.damage(sim, pair, Damage::Held, until);
        }
        self.states[victim.index] = State::Disturbed(until);
    }

    /// Two machines hear each other late.
    fn hold_up_pair(&mut self, sim: &Sim<'_>, victim: &Machine, now: Duration) {
        let until = now + self.random.ms(300..5000);
        let other = super::host_of(self.random.index(self.plan.machines));
        self.wrongs.pairs_held_up += 1;
        self.trace
            .note(&victim.host, format_args!("hears {other} late"));
        let pair = (victim.host.as_str(), other.as_str());
        self.network.damage(sim, pair, Damage::Held, until);
        self.states[victim.index] = State::Disturbed(until);
    }

    /// A leader hears of nothing for a time, and meanwhile another one is elected. Clients hear it.
    fn leave_behind(&mut self, sim: &Sim<'_>, victim: &Machine, now: Duration) {
        let until = now + self.random.ms(200..1500);
        self.wrongs.left_behind += 1;
        self.trace.note(&victim.host, "is left behind");
        for other in (0..self.plan.machines).map(super::host_of) {
            let pair = (victim.host.as_str(), other.as_str());
            self.network.damage(sim, pair, Damage::Held, until);
        }
        if let Some(copies) = &self.copies {
            copies.is_to_be_unseated(victim.broker);
        }
        self.states[victim.index] = State::Disturbed(until);
    }

    /// Another disk, if the group can do without this one: all machines run and nobody is being
    /// replaced.
    fn wipe(
        &mut self,
        sim: &mut Sim<'_>,
        machines: &Machines,
        victim: &Machine,
        checks: &Checks,
        now: Duration,
    ) {
        let is_calm = self.states.iter().all(|state| *state == State::Up);
        if self.plan.wipes == Wipes::None || !is_calm || machines.missing(checks).is_some() {
            return;
        }
        self.darken(sim, victim);
        let seed = self.random.draw();
        self.trace.note(&victim.host, "its disk is wiped");
        victim.restart(|_| SimulatedDisk::new(seed));
        victim.wiped.set(victim.wiped.get() + 1);
        self.replaced = Some(victim.index);
        self.wrongs.wiped_disks += 1;
        self.states[victim.index] = State::Down(now + self.random.ms(20..3000));
    }

    /// Something that hits all machines.
    fn strike_all(&mut self, sim: &mut Sim<'_>, machines: &Machines, now: Duration) {
        if self.random.one_in(2) {
            self.wrongs.cuts_of_all += 1;
            self.trace.note("plan", "the power goes everywhere");
            for machine in machines.all() {
                if !matches!(self.states[machine.index], State::Down(_)) {
                    self.cut_power(sim, machine, now);
                }
            }
            return;
        }
        let until = now + self.random.ms(500..4000);
        let side = self.random.draw();
        self.wrongs.splits += 1;
        self.trace.note("plan", "the machines are split");
        for a in 0..self.plan.machines {
            for b in 0..a {
                if (side >> a ^ side >> b) & 1 == 1 {
                    let (a, b) = (super::host_of(a), super::host_of(b));
                    let pair = (a.as_str(), b.as_str());
                    self.network.damage(sim, pair, Damage::Cut, until);
                }
            }
        }
    }

    /// Nothing runs on it any more, and nothing that it had sent arrives.
    fn darken(&mut self, sim: &mut Sim<'_>, machine: &Machine) {
        self.network.darken(sim, &machine.host);
        sim.crash(machine.host.as_str());
        self.trace.note_network();
    }

    fn cut_power(&mut self, sim: &mut Sim<'_>, machine: &Machine, now: Duration) {
        machine.power_losses.set(machine.power_losses.get() + 1);
        self.switch_off(sim, machine, now);
    }

    /// As a power cut, and whatever ran there has ended in order before.
    fn switch_off(&mut self, sim: &mut Sim<'_>, machine: &Machine, now: Duration) {
        self.darken(sim, machine);
        let seed = self.random.draw();
        self.trace.note(&machine.host, "power cut");
        machine.restart(|disk| disk.power_cut(seed));
        self.wrongs.power_cuts += 1;
        self.states[machine.index] = State::Down(now + self.random.ms(20..2500));
    }

    fn kill(&mut self, sim: &mut Sim<'_>, machine: &Machine, now: Duration) {
        sim.crash(machine.host.as_str());
        self.trace.note(&machine.host, "kill");
        self.trace.note_network();
        machine.restart(SimulatedDisk::kill);
        self.wrongs.kills += 1;
        self.states[machine.index] = State::Down(now + self.random.ms(5..1500));
    }

    fn come_back(&mut self, sim: &mut Sim<'_>, machine: &Machine) {
        self.network.lighten(sim, &machine.host);
        sim.bounce(machine.host.as_str());
        self.trace.note(&machine.host, "comes back");
        self.states[machine.index] = State::Up;
    }
}
