//! Replicas of one partition, as the pure decisions of [`strandline_core::replica`] and the
//! plainest driver around them: nothing that was acknowledged or shown is ever lost or changed.
//!
//! Brokers are killed and lose power, the network delays and loses messages and is cut, the
//! controller fences who is silent and moves leaders, and everybody learns of it late. In the end
//! all faults stop, and the partition has to come back with all replicas in sync.

mod checks;
mod controller;
mod counts;
mod log;
mod network;
mod plan;
mod process;
mod settled;

use std::time::Duration;

use strandline_core::{
    FlushMode,
    replica::{Flush, ProposalOutcome, Role, RoleChange},
};
use strandline_protocol::{
    BrokerId, Offset,
    messages::{Acks, Duty},
};

use self::{
    checks::Checks,
    controller::{Controller, Start},
    counts::Counts,
    log::Log,
    network::{Address, Answer, Body, CONTROLLER, Message, Network, Node, Weather},
    plan::{Plan, Spares},
    process::{Pending, Process, ms},
};
use crate::random::Random;

/// Partitions of one run, one after the other.
const HISTORIES: u64 = 12;

/// How long each is troubled, in steps of some milliseconds.
const STEPS: u64 = 1_500;

/// How many steps it has to come back in.
const QUIET_STEPS: u64 = 6_000;

/// How long a follower may be behind.
const LAG_MAX: Duration = Duration::from_millis(1_000);

/// When a request without an answer is given up, in milliseconds.
const TIMEOUT_MS: u64 = 250;

/// Runs it; tells what was done.
///
/// # Errors
/// What must not be.
pub fn run(seed: u64) -> Result<String, String> {
    let mut total = Counts::default();
    for history in 0..HISTORIES {
        let random = Random::new(seed, 700 + history);
        let mut world = World::new(random);
        let outcome = world.run();
        outcome.map_err(|what| format!("history {history}, at {} ms: {what}", world.now))?;
        total.add(&world.counts);
    }
    Ok(total.to_string())
}

/// One broker's machine.
#[derive(Debug)]
struct Machine {
    broker: BrokerId,
    log: Log,
    process: Option<Process>,
    /// What has happened to it since its last process.
    next_start: Start,
}

#[derive(Debug)]
struct World {
    now: u64,
    random: Random,
    plan: Plan,
    machines: Vec<Machine>,
    controller: Controller,
    network: Network,
    checks: Checks,
    counts: Counts,
    next_id: u64,
    next_value: u64,
}

fn happens(random: &mut Random, one_in: u64) -> bool {
    one_in > 0 && random.one_in(one_in)
}

impl World {
    fn new(mut random: Random) -> Self {
        let machine = |broker: &BrokerId| Machine {
            broker: *broker,
            log: Log::default(),
            process: None,
            next_start: Start::Lossless,
        };
        let plan = Plan::new(&mut random);
        let flush = plan.flush;
        let count = if random.one_in(4) { 5 } else { 3 };
        let brokers: Vec<_> = (1..).take(count).map(BrokerId).collect();
        let min_isr = match random.below(6) {
            0 => 1,
            _ if plan.spares == Spares::LastInSync => 1,
            1 => count,
            _ => count / 2 + 1,
        };
        let mut world = Self {
            now: 0,
            plan,
            machines: brokers.iter().map(machine).collect(),
            controller: Controller::new(brokers, min_isr, flush),
            network: Network::default(),
            checks: Checks::default(),
            counts: Counts::default(),
            next_id: 0,
            next_value: 0,
            random,
        };
        world.checks.switched(flush);
        world
    }

    fn run(&mut self) -> Result<(), String> {
        for at in 0..self.machines.len() {
            self.start(at)?;
        }
        self.network.weather = self.plan.weather;
        for _ in 0..STEPS {
            self.step()?;
            if self.controller.is_lost() {
                self.counts.lost += 1;
                return self.checks.only_async_is_lost();
            }
        }
        self.plan = Plan::quiet();
        self.network.weather = Weather::default();
        let acknowledged = self.counts.acknowledged;
        for _ in 0..QUIET_STEPS {
            self.step()?;
            if self.controller.is_lost() {
                self.counts.lost += 1;
                return self.checks.only_async_is_lost();
            }
            if self.is_settled() && self.counts.acknowledged > acknowledged {
                return self.checks.at_the_end(&self.machines);
            }
        }
        Err(self.why_unsettled())
    }

    fn step(&mut self) -> Result<(), String> {
        self.now += self.random.within(1..12);
        self.trouble()?;
        for message in self.network.due(self.now) {
            self.deliver(message)?;
        }
        self.control();
        for at in 0..self.machines.len() {
            if self.machines[at].process.is_some() && !self.random.one_in(3) {
                self.act(at)?;
                self.look(at)?;
            }
        }
        Ok(())
    }

    /// Faults, and what an operator does.
    fn trouble(&mut self) -> Result<(), String> {
        let (plan, random) = (self.plan, &mut self.random);
        let at = random.index(self.machines.len());
        if happens(random, plan.kill) {
            self.stop(at, Start::Lossless);
        }
        let is_spared = plan.spares == Spares::LastInSync
            && self.controller.isr() == [self.machines[at].broker];
        if happens(&mut self.random, plan.power) && !is_spared {
            self.stop(at, Start::Lossy);
        }
        if happens(&mut self.random, plan.blackout) {
            for at in 0..self.machines.len() {
                self.stop(at, Start::Lossy);
            }
        }
        if happens(&mut self.random, plan.start) {
            let down = (0..self.machines.len()).find(|at| self.machines[*at].process.is_none());
            if let Some(at) = down {
                self.start(at)?;
            }
        }
        if happens(&mut self.random, plan.partition) {
            let other = match self.random.index(self.machines.len() + 1) {
                other if other < self.machines.len() => other,
                _ => CONTROLLER,
            };
            self.network.cut(at, other);
        }
        if happens(&mut self.random, plan.heal) {
            self.network.cuts.clear();
        }
        if happens(&mut self.random, plan.move_leader) {
            self.move_leader(at);
        }
        if happens(&mut self.random, plan.switch_flush) {
            let to = if self.random.one_in(2) {
                FlushMode::Async
            } else {
                FlushMode::Ack
            };
            self.controller.configure("flush", to.name());
            self.checks.switched(to);
        }
        if happens(&mut self.random, plan.switch_min_isr) {
            let min_isr = self.random.within(1..self.machines.len() as u64 + 1);
            self.controller
                .configure("min.insync.replicas", &min_isr.to_string());
        }
        Ok(())
    }

    fn move_leader(&mut self, at: usize) {
        let broker = self.machines[at].broker;
        match (self.random.below(3), self.controller.leader()) {
            (0, _) => self.controller.prefer(),
            (1, Some((leader, _))) => self.controller.drain(leader, Duty::Drained),
            _ => self.controller.drain(broker, Duty::Full),
        }
    }

    fn stop(&mut self, at: usize, how: Start) {
        let machine = &mut self.machines[at];
        if how == Start::Lossy {
            machine.log.power_cut(&mut self.random);
            machine.next_start = Start::Lossy;
        }
        machine.process = None;
    }

    fn start(&mut self, at: usize) -> Result<(), String> {
        if !self.network.are_connected(at, CONTROLLER) {
            return Ok(());
        }
        let machine = &mut self.machines[at];
        let start = machine.next_start;
        let registered = self
            .controller
            .register(machine.broker, start, self.now)
            .map_err(|failure| failure.message);
        let (epoch, seen) = registered?;
        machine.next_start = Start::Lossless;
        // Recovery makes durable what it keeps.
        machine.log.durable = machine.log.end;
        let image = &self.controller.images()[seen];
        let mut process = Process::start(machine.broker, epoch, seen, image.flush, &machine.log);
        if process.learn(image, &mut machine.log, self.now) == RoleChange::Leads {
            self.counts.epochs += 1;
            self.checks.leads(&process, &machine.log)?;
        }
        machine.process = Some(process);
        self.counts.starts += 1;
        Ok(())
    }

    fn control(&mut self) {
        for (at, machine) in self.machines.iter().enumerate() {
            if let Some(process) = &machine.process
                && self.network.are_connected(at, CONTROLLER)
            {
                let (broker, epoch) = (process.broker, process.epoch);
                self.controller
                    .heartbeat(broker, epoch, process.seen, self.now);
            }
        }
        self.controller.expire(self.now);
    }

    /// What a process does by itself.
    fn act(&mut self, at: usize) -> Result<(), String> {
        self.delete(at);
        self.learn(at)?;
        let Self {
            machines, random, ..
        } = self;
        let Machine { log, process, .. } = &mut machines[at];
        let Some(process) = process else {
            return Ok(());
        };
        let flush_due = if process.wants_flush == Flush::Wanted || process.is_flushing() {
            3
        } else {
            60
        };
        if random.one_in(flush_due) {
            process.flush(log);
        }
        if random.one_in(20) {
            log.high_watermark = process.replica.marks().high_watermark.0;
        }
        if random.one_in(3) && process.replica.role() == Role::Leader {
            let count = random.within(1..4);
            let values = (self.next_value..).take(count as usize).collect();
            self.next_value += count;
            let acks = if random.one_in(3) {
                Acks::Leader
            } else {
                Acks::All
            };
            process.produce(values, acks, log);
        }
        let from = Address {
            at,
            epoch: process.epoch,
        };
        self.send_requests(from);
        Ok(())
    }

    /// A leader deletes some of what is committed.
    fn delete(&mut self, at: usize) {
        let Machine { log, process, .. } = &mut self.machines[at];
        if self.random.one_in(200)
            && let Some(process) = process
            && let Ok(target) = process.replica.delete_target(None)
            && target.0 > log.start
        {
            let count = self.random.within(1..(target.0 - log.start + 1) as u64);
            log.delete_before(log.start + count as i64);
            process.replica.log_started(Offset(log.start));
        }
    }

    /// Applies some of the images that it has not seen.
    fn learn(&mut self, at: usize) -> Result<(), String> {
        if !self.network.are_connected(at, CONTROLLER) || !self.random.one_in(self.plan.learn) {
            return Ok(());
        }
        let newest = self.controller.images().len() - 1;
        let Machine { log, process, .. } = &mut self.machines[at];
        let Some(process) = process else {
            return Ok(());
        };
        while process.seen < newest && !self.random.one_in(4) {
            process.seen += 1;
            let image = &self.controller.images()[process.seen];
            if process.learn(image, log, self.now) == RoleChange::Leads {
                self.counts.epochs += 1;
                self.checks.leads(process, log)?;
            }
        }
        Ok(())
    }

    fn send_requests(&mut self, from: Address) {
        let now = self.now;
        let Machine { log, process, .. } = &mut self.machines[from.at];
        let Some(process) = process else {
            return;
        };
        let is_late = |sent_at: u64| sent_at + TIMEOUT_MS <= now;
        let mut requests = Vec::new();
        if process.fetch.as_ref().is_none_or(|it| is_late(it.sent_at))
            && let Some((leader, fetch)) = process.fetch(log)
        {
            self.next_id += 1;
            let id = self.next_id;
            process.fetch = Some(Pending {
                id,
                sent_at: now,
                what: fetch.leader_epoch,
            });
            requests.push((Some(leader), Body::Fetch { id, fetch }));
        }
        if let Some((leader, flushed)) = process.progress() {
            requests.push((Some(leader), Body::Flushed(flushed)));
        }
        if let Some(pending) = &process.proposal
            && is_late(pending.sent_at)
        {
            process.altered(pending.id, ProposalOutcome::Unknown, now);
        }
        if let Some(proposal) = process.replica.propose(ms(now)) {
            self.next_id += 1;
            let id = self.next_id;
            process.proposal = Some(Pending {
                id,
                sent_at: now,
                what: proposal.clone(),
            });
            requests.push((None, Body::Alter { id, proposal }));
        }
        for (to, body) in requests {
            let to = to.map_or(Some(Node::Controller), |broker| self.address(broker));
            if let Some(to) = to {
                self.network
                    .send(Node::Process(from), to, body, now, &mut self.random);
            }
        }
    }

    fn address(&self, broker: BrokerId) -> Option<Node> {
        let at = self.machines.iter().position(|it| it.broker == broker)?;
        let epoch = self.machines[at].process.as_ref()?.epoch;
        Some(Node::Process(Address { at, epoch }))
    }

    fn deliver(&mut self, message: Message) -> Result<(), String> {
        let Message { from, to, body, .. } = message;
        let to = match to {
            Node::Controller => {
                self.decide(from, body);
                return Ok(());
            }
            Node::Process(to) => to,
        };
        let Machine { log, process, .. } = &mut self.machines[to.at];
        let Some(process) = process.as_mut().filter(|it| it.epoch == to.epoch) else {
            return Ok(());
        };
        match body {
            Body::Fetch { id, fetch } => {
                let answer = process.serve(&fetch, log, self.now, &mut self.random);
                let epoch = fetch.leader_epoch;
                let answer = Body::Fetched { id, epoch, answer };
                self.network
                    .send(Node::Process(to), from, answer, self.now, &mut self.random);
            }
            Body::Fetched { id, epoch, answer } => {
                if process.fetch.take_if(|it| it.id == id).is_some() {
                    self.counts.cuts += u64::from(matches!(answer, Answer::Diverging(_)));
                    process.take(epoch, answer, log)?;
                }
            }
            Body::Flushed(flushed) => {
                let _ = process.replica.follower_flushed(&flushed, ms(self.now));
            }
            Body::Altered {
                id,
                error,
                partition_epoch,
            } => {
                let outcome = ProposalOutcome::of(error, partition_epoch);
                process.altered(id, outcome, self.now);
            }
            Body::Alter { .. } => {}
        }
        self.look(to.at)
    }

    fn decide(&mut self, from: Node, body: Body) {
        let (Node::Process(address), Body::Alter { id, proposal }) = (from, body) else {
            return;
        };
        let sender = self.machines[address.at].broker;
        let (error, partition_epoch) = self.controller.alter(sender, address.epoch, &proposal);
        self.counts.isr_changes += u64::from(error.is_none());
        let answer = Body::Altered {
            id,
            error,
            partition_epoch,
        };
        self.network
            .send(Node::Controller, from, answer, self.now, &mut self.random);
    }

    /// Holds what a process shows and acknowledges against everything before.
    fn look(&mut self, at: usize) -> Result<(), String> {
        let Machine { log, process, .. } = &mut self.machines[at];
        let Some(process) = process else {
            return Ok(());
        };
        self.checks.shows(process, log)?;
        self.checks.knows(process, self.controller.leader())?;
        for acknowledged in process.acknowledge() {
            self.counts.acknowledged += 1;
            self.checks.acknowledges(&acknowledged)?;
        }
        Ok(())
    }
}
