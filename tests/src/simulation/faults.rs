//! What goes wrong, and when: drawn from the seed.

use std::time::Duration;

use strandline_storage::fs::{
    Operation,
    simulated::{Failure, Fault},
};
use turmoil::Sim;

use super::{BROKER, machine::Machine, trace::Trace};
use crate::random::Random;

/// How long a broker may take to stop in order: connections are cut after 2 s.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How the machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    /// Its power goes when its disk says so, or at that time at the latest.
    Doomed(Duration),
    /// The broker was asked to stop in order, and has until then.
    Stopping(Duration),
    /// It comes back at that time.
    Down(Duration),
}

/// What is wrong with the network between the broker and a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Cut,
    Held,
}

/// How often things went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Power cuts.
    pub power_cuts: u32,
    /// Of these, in the middle of an operation on the disk.
    pub cuts_within_operations: u32,
    /// Processes that were killed.
    pub kills: u32,
    /// Brokers that were stopped in order.
    pub stops: u32,
    /// Syncs of the disk that failed.
    pub failed_syncs: u32,
    /// Clients that were cut off, or whose messages were held back.
    pub network_faults: u32,
}

/// Makes things go wrong.
pub(super) struct Faults {
    random: Random,
    state: State,
    next: Duration,
    /// Which clients are cut off, and until when.
    links: Vec<(String, Link, Duration)>,
    clients: Vec<String>,
    trace: Trace,
    pub(super) damage: Damage,
    pub(super) violations: Vec<String>,
}

impl Faults {
    pub(super) fn new(seed: u64, clients: Vec<String>, trace: Trace) -> Self {
        Self {
            random: Random::new(seed, 200),
            state: State::Up,
            next: Duration::from_secs(1),
            links: Vec::new(),
            clients,
            trace,
            damage: Damage::default(),
            violations: Vec::new(),
        }
    }

    /// Does what is due; called once per step.
    pub(super) fn step(&mut self, sim: &mut Sim<'_>, machine: &Machine) {
        let now = sim.elapsed();
        self.step_machine(sim, machine, now);
        if self.state != State::Up && self.next < now {
            self.next = now;
        }
        if now >= self.next && self.state == State::Up {
            self.next = now + self.random.ms(50..900);
            self.strike(sim, machine, now);
        }
        let due: Vec<_> = self
            .links
            .extract_if(.., |(_, _, until)| *until <= now)
            .collect();
        for (client, link, _) in due {
            self.mend(sim, &client, link);
        }
    }

    /// Ends all faults: the machine is up, the network works. Whatever is not on disk is lost.
    pub(super) fn end(&mut self, sim: &mut Sim<'_>, machine: &Machine) {
        if !matches!(self.state, State::Down(_)) {
            self.cut_power(sim, machine, Duration::ZERO);
        }
        for (client, link, _) in std::mem::take(&mut self.links) {
            self.mend(sim, &client, link);
        }
        self.come_back(sim);
    }

    fn step_machine(&mut self, sim: &mut Sim<'_>, machine: &Machine, now: Duration) {
        match self.state {
            State::Up => {}
            State::Doomed(at) => {
                if machine.disk().is_off() {
                    self.damage.cuts_within_operations += 1;
                    self.cut_power(sim, machine, now);
                } else if now >= at {
                    self.cut_power(sim, machine, now);
                }
            }
            State::Stopping(until) => {
                if !sim.is_host_running(BROKER) {
                    self.damage.stops += 1;
                    self.cut_power(sim, machine, now);
                } else if now >= until {
                    self.violations
                        .push(format!("the broker does not stop within {STOP_WITHIN:?}"));
                    self.cut_power(sim, machine, now);
                }
            }
            State::Down(until) => {
                if now >= until {
                    self.come_back(sim);
                    // A recovery may be cut short as well.
                    if self.random.one_in(4) {
                        machine.disk().crash_after(self.random.within(1..120));
                        self.state = State::Doomed(now + self.random.ms(50..500));
                    }
                }
            }
        }
    }

    fn strike(&mut self, sim: &mut Sim<'_>, machine: &Machine, now: Duration) {
        match self.random.within(0..12) {
            0 | 1 => self.cut_power(sim, machine, now),
            2..=4 => {
                let changes = self.random.within(1..150);
                self.trace
                    .note("machine", format_args!("goes off in {changes} changes"));
                machine.disk().crash_after(changes);
                self.state = State::Doomed(now + self.random.ms(100..1500));
            }
            5 | 6 => self.kill(sim, machine, now),
            7 => {
                self.trace.note("machine", "the broker is to stop");
                machine.ask_to_stop();
                self.state = State::Stopping(now + STOP_WITHIN);
            }
            8 => {
                self.trace.note("machine", "a sync fails");
                self.damage.failed_syncs += 1;
                machine.fails.set(true);
                let after = self.random.within(0..20);
                machine.disk().inject(Fault {
                    after,
                    ..Fault::next(Operation::Sync, Failure::Broken)
                });
                self.state = State::Doomed(now + self.random.ms(50..800));
            }
            9 | 10 => self.damage_link(sim, now, Link::Cut),
            _ => self.damage_link(sim, now, Link::Held),
        }
    }

    /// Nothing that was under way leaves the machine any more, and nothing reaches it.
    fn cut_power(&mut self, sim: &mut Sim<'_>, machine: &Machine, now: Duration) {
        for client in &self.clients {
            sim.partition(BROKER, client.as_str());
        }
        self.links.clear();
        sim.crash(BROKER);
        let seed = self.random.draw();
        let line = format_args!("power cut {seed:016x}, changes {}", machine.changes());
        self.trace.note("machine", line);
        self.trace.note_network();
        machine.restart(|disk| disk.power_cut(seed));
        self.damage.power_cuts += 1;
        self.state = State::Down(now + self.random.ms(20..700));
    }

    fn kill(&mut self, sim: &mut Sim<'_>, machine: &Machine, now: Duration) {
        sim.crash(BROKER);
        let line = format_args!("kill, changes {}", machine.changes());
        self.trace.note("machine", line);
        self.trace.note_network();
        machine.restart(strandline_storage::fs::simulated::SimulatedDisk::kill);
        self.damage.kills += 1;
        self.state = State::Down(now + self.random.ms(5..200));
    }

    fn come_back(&mut self, sim: &mut Sim<'_>) {
        for client in &self.clients {
            let is_damaged = self.links.iter().any(|(damaged, ..)| damaged == client);
            if !is_damaged {
                sim.repair(BROKER, client.as_str());
            }
        }
        sim.bounce(BROKER);
        self.trace.note("machine", "comes back");
        self.state = State::Up;
    }

    fn damage_link(&mut self, sim: &Sim<'_>, now: Duration, link: Link) {
        let index = self.random.within(0..self.clients.len() as u64) as usize;
        let client = self.clients[index].clone();
        let until = now + self.random.ms(20..3000);
        if self.links.iter().any(|(damaged, ..)| *damaged == client) {
            return;
        }
        match link {
            Link::Cut => sim.partition(BROKER, client.as_str()),
            Link::Held => sim.hold(BROKER, client.as_str()),
        }
        self.damage.network_faults += 1;
        self.trace.note(&client, format_args!("{link:?}"));
        self.links.push((client, link, until));
    }

    fn mend(&self, sim: &Sim<'_>, client: &str, link: Link) {
        match link {
            Link::Cut => sim.repair(BROKER, client),
            Link::Held => sim.release(BROKER, client),
        }
        self.trace.note(client, format_args!("{link:?} is over"));
    }
}
