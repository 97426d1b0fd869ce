//! Several brokers, each on a machine and a disk of its own, and their clients.
//!
//! **Owns** the plan of such a run and its verdict. `machines` is where brokers run, `faults` what
//! goes wrong with them and `network` with the ways between them; `administrator`, `watcher` and
//! `operator` are clients that know what they were told; `checks` looks at every member after each
//! step and holds what it sees against the invariants. `replication` does all that for topics whose
//! partitions have several copies.

mod administrator;
mod checks;
mod faults;
mod machines;
mod network;
mod operator;
mod replication;
mod verdict;
mod watcher;

use std::{
    rc::Rc,
    time::{Duration, UNIX_EPOCH},
};

use strandline_client::{ClientOptions, net::seed_random};
use turmoil::Sim;

use self::{
    administrator::Administrator,
    checks::Checks,
    faults::Faults,
    machines::Machines,
    replication::{After, Replication},
    watcher::Watcher,
};
use super::{EPOCH_SECONDS, PORT, Plan as OfRecords, Trace, trace::Listener, workload::Workload};
use crate::{random::Random, sweep::Outcome};

/// How long a cluster may take to form, and to be whole again once nothing goes wrong any more.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);

/// How long the core may take to acknowledge a change once it can.
const SERVES_WITHIN: Duration = Duration::from_secs(20);

/// How long it may take until every partition takes writes, once the cluster is whole again. A
/// replica that holds the others up is out within `replication.lag_max` and half of it again.
const RESUMES_WITHIN: Duration = Duration::from_secs(30);

/// How bad it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Never more is wrong at a time than a majority survives.
    Minority,
    /// Anything, up to a power cut of all machines.
    Everything,
    /// As `Minority`, and then a minority goes for ever.
    Forever,
}

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub struct ClusterPlan {
    /// From where everything random is drawn.
    pub seed: u64,
    /// How many machines there are.
    pub machines: usize,
    /// How bad it gets.
    pub style: Style,
    /// Whether disks are wiped. What they held of topics is lost then, as topics have one replica.
    pub wipes: Wipes,
    /// Whether disks keep what they were given.
    pub disks: Disks,
    /// What is written.
    pub records: Records,
    /// How long things go wrong, in virtual time.
    pub faults_for: Duration,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// A topic whose partitions have one copy each, unless disks are wiped.
    Lone,
    /// Topics whose partitions have several.
    Replicated,
}

/// Whether disks are wiped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wipes {
    /// They are; nobody produces.
    Some,
    /// They are not, and producers hold brokers to their word.
    None,
}

/// Whether disks keep what they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disks {
    /// They do, as far as it was synced.
    Kept,
    /// Each start finds what the first one found, as if somebody restored a backup. No quorum
    /// survives that: if it was not noticed, nothing would be.
    Restored,
}

impl ClusterPlan {
    /// The usual run of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed, 300);
        let machines = [3, 3, 4, 5][random.index(4)];
        let style = match random.within(0..5) {
            0 | 1 => Style::Minority,
            2 | 3 => Style::Everything,
            _ => Style::Forever,
        };
        let wipes = if style == Style::Forever || random.one_in(2) {
            Wipes::Some
        } else {
            Wipes::None
        };
        Self {
            seed,
            machines,
            style,
            wipes,
            disks: Disks::Kept,
            records: Records::Lone,
            faults_for: Duration::from_secs(20),
        }
    }

    /// As [`ClusterPlan::of`], with replicated topics and without wiped disks.
    #[must_use]
    pub fn replicated(seed: u64) -> Self {
        Self {
            wipes: Wipes::None,
            records: Records::Replicated,
            ..Self::of(seed)
        }
    }

    /// How many machines may be disturbed at once.
    const fn disturbed_max(&self) -> usize {
        match self.style {
            // The group has three voters at first, whatever the number of machines.
            Style::Minority | Style::Forever => 1,
            Style::Everything => self.machines,
        }
    }
}

/// How a client of the simulation connects.
fn options(name: &str) -> ClientOptions {
    ClientOptions {
        client_id: name.to_owned(),
        connect_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_secs(2),
        backoff_max: Duration::from_millis(200),
        ..ClientOptions::default()
    }
}

/// The name of a machine, which is that of its host.
fn host_of(machine: usize) -> String {
    format!("broker-{}", machine + 1)
}

/// Where its broker is reached.
fn address_of(machine: usize) -> String {
    format!("{}:{PORT}", host_of(machine))
}

/// A run at work.
struct Running<'a> {
    sim: Sim<'a>,
    plan: ClusterPlan,
    trace: Trace,
    machines: Rc<Machines>,
    checks: Rc<Checks>,
    administrators: Vec<Rc<Administrator>>,
    watchers: Vec<Rc<Watcher>>,
    records: Rc<Workload>,
    replication: Option<Rc<Replication>>,
    faults: Faults,
}

/// Runs a plan on this thread.
#[must_use]
pub fn run(plan: ClusterPlan) -> Outcome {
    run_into(plan, &Trace::default())
}

/// The same, with a trace that is there even if the run panics.
pub(super) fn run_into(plan: ClusterPlan, trace: &Trace) -> Outcome {
    let listener = Listener(trace.clone());
    tracing::subscriber::with_default(listener, || {
        seed_random(plan.seed);
        let mut running = Running::new(plan, trace.clone());
        let ended = running.run();
        if let Err(error) = &ended {
            running.trace.note("VIOLATION", error);
            running.machines.tell();
        }
        running.trace.note_network();
        running.outcome(ended.err().map(|error| error.to_string()))
    })
}

impl Running<'_> {
    fn new(plan: ClusterPlan, trace: Trace) -> Self {
        trace.note("plan", format_args!("{plan:?}"));
        let mut sim = turmoil::Builder::new()
            .rng_seed(plan.seed)
            .epoch(UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS))
            .simulation_duration(plan.faults_for + 10 * WHOLE_WITHIN)
            // Nobody hears of anything before the step is over in which it happened.
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(8))
            .tcp_capacity(1024)
            .enable_random_order()
            .build();
        let checks = Rc::new(Checks::new(trace.clone()));
        let machines = Rc::new(Machines::new(&plan, &trace));
        for machine in machines.all() {
            let on = Rc::clone(machine);
            sim.host(machine.host.as_str(), move || Rc::clone(&on).serve());
        }
        let records = Rc::new(Workload::among(
            OfRecords {
                partitions: 6,
                producers: 2,
                ..OfRecords::of(plan.seed)
            },
            (0..plan.machines).map(address_of).collect(),
            trace.clone(),
        ));
        let replication = (plan.records == Records::Replicated)
            .then(|| Rc::new(Replication::new(&plan, &checks, &trace)));
        let mut running = Self {
            replication,
            administrators: Vec::new(),
            watchers: Vec::new(),
            faults: Faults::new(&plan, Vec::new(), trace.clone()),
            sim,
            plan,
            trace,
            machines,
            checks,
            records,
        };
        let clients = running.start_clients();
        running.faults = Faults::new(&running.plan, clients, running.trace.clone());
        running
    }

    fn start_clients(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        for number in 0..2 {
            let name = format!("admin-{number}");
            let admin = Administrator::new(
                &self.plan,
                number,
                Rc::clone(&self.checks),
                self.trace.clone(),
            );
            let admin = Rc::new(admin);
            self.sim.client(name.as_str(), Rc::clone(&admin).run());
            self.administrators.push(admin);
            names.push(name);
        }
        for number in 0..2 {
            let name = format!("watcher-{number}");
            let watcher = Watcher::new(
                &self.plan,
                number,
                Rc::clone(&self.checks),
                self.trace.clone(),
            );
            let watcher = Rc::new(watcher);
            self.sim.client(name.as_str(), Rc::clone(&watcher).run());
            self.watchers.push(watcher);
            names.push(name);
        }
        names
    }

    /// Those who come once the cluster has formed.
    fn start_more_clients(&mut self) {
        let mut names = vec!["operator".to_owned()];
        let operator = operator::operate(
            self.plan,
            Rc::clone(&self.machines),
            Rc::clone(&self.checks),
            self.trace.clone(),
        );
        self.sim.client("operator", operator);
        if let Some(replication) = self.replication.clone() {
            names.extend(self.start_replication(&replication));
        } else if self.plan.wipes == Wipes::None {
            let records = &self.records;
            self.sim.client("admin", Rc::clone(records).create_topic());
            self.sim.client("consumer", Rc::clone(records).consume());
            names.push("consumer".to_owned());
            for number in 0..2 {
                let name = format!("producer-{number}");
                self.sim
                    .client(name.as_str(), Rc::clone(records).produce(number));
                names.push(name);
            }
        }
        self.faults.clients(names);
    }

    fn start_replication(&mut self, replication: &Rc<Replication>) -> Vec<String> {
        let of = || Rc::clone(replication);
        self.faults.copies = Some(of());
        let mut names: Vec<_> = ["founder", "asker", "mover", "unseater"]
            .map(str::to_owned)
            .into();
        self.sim.client("founder", of().create());
        self.sim.client("asker", of().ask_for_ends());
        self.sim.client("mover", of().mend_and_move());
        self.sim.client("unseater", of().unseat());
        for number in 0..replication::PRODUCERS {
            let name = format!("writer-{number}");
            self.sim.client(name.as_str(), of().produce(number));
            names.push(name);
        }
        for number in 0..replication::CONSUMERS {
            let name = format!("reader-{number}");
            self.sim.client(name.as_str(), of().consume(number));
            names.push(name);
        }
        names
    }

    fn run(&mut self) -> turmoil::Result {
        self.step_until_whole("the cluster forms")?;
        self.start_more_clients();
        let until = self.sim.elapsed() + self.plan.faults_for;
        while self.sim.elapsed() < until {
            self.faults
                .step(&mut self.sim, &self.machines, &self.checks);
            self.step()?;
        }
        self.faults.end(&mut self.sim, &self.machines, &self.checks);
        self.step_until_served()?;
        match self.replication.clone() {
            None => self.end_alone()?,
            Some(replication) => self.end_replicated(&replication)?,
        }
        self.judge();
        Ok(())
    }

    fn end_alone(&mut self) -> turmoil::Result {
        self.stop_clients();
        self.step_to_end()?;
        self.step_until_whole("the cluster is whole again")?;
        // What is read now was on the disks of a majority, and nowhere else.
        self.cut_power_of_all()?;
        if self.plan.wipes == Wipes::None {
            let reader = Rc::clone(&self.records).read_all();
            self.sim.client("reader", reader);
            self.step_to_end()?;
        }
        Ok(())
    }

    fn end_replicated(&mut self, replication: &Rc<Replication>) -> turmoil::Result {
        self.step_until_whole("the cluster is whole again")?;
        let rescue = Rc::clone(replication).rescue();
        self.sim.client("rescuer", rescue);
        let since = self.sim.elapsed();
        self.step_until("every partition takes writes (L1)", RESUMES_WITHIN, |_| {
            replication.missing_writes(since)
        })?;
        self.stop_clients();
        self.step_to_end()?;
        self.examine(replication, "examiner-0", After::Faults)?;
        self.cut_power_of_all()?;
        self.examine(replication, "examiner-1", After::PowerCut)?;
        replication.judge();
        Ok(())
    }

    /// Looks at every copy, and reads everything.
    fn examine(
        &mut self,
        replication: &Rc<Replication>,
        name: &str,
        after: After,
    ) -> turmoil::Result {
        let machines = Rc::clone(&self.machines);
        if after == After::Faults {
            self.step_until("every copy is the same (L3)", WHOLE_WITHIN, |_| {
                replication.missing_copies(&machines)
            })?;
            for machine in machines.left() {
                let name = format!("{name}-of-{}", machine.host);
                let reader = Rc::clone(replication).read_copies_near(machine.index);
                self.sim.client(name, reader);
            }
            self.step_to_end()?;
            self.step_until("what went bad is repaired (S14)", WHOLE_WITHIN, |_| {
                replication.missing_repair(&machines)
            })?;
            replication.compare_copies(&machines);
        }
        self.sim
            .client(name, Rc::clone(replication).read_all(after));
        self.step_to_end()
    }

    fn cut_power_of_all(&mut self) -> turmoil::Result {
        self.faults
            .cut_power_of_all(&mut self.sim, &self.machines, &self.checks);
        self.step_until_whole("the cluster comes back from a power cut of all")
    }

    fn stop_clients(&self) {
        if let Some(replication) = &self.replication {
            replication.stop.set(true);
        }
        self.records.stop.set(true);
        for admin in &self.administrators {
            admin.stop.set(true);
        }
        for watcher in &self.watchers {
            watcher.stop.set(true);
        }
    }

    /// One step of everything, and a look at everybody.
    fn step(&mut self) -> Result<bool, Box<dyn std::error::Error>> {
        self.trace.at(self.sim.elapsed());
        if self.sim.elapsed().as_millis().is_multiple_of(100) {
            self.trace.note_network();
        }
        let ended = self.sim.step()?;
        let now = self.sim.elapsed();
        self.machines.meet_members(now);
        for machine in self.machines.all() {
            if let Some(observer) = machine.observer() {
                self.checks.look(machine, &observer);
            }
        }
        self.checks.check_fenced(self.machines.all(), now);
        if let Some(replication) = &self.replication {
            replication.look(&self.machines);
        }
        Ok(ended)
    }

    /// Steps until every client has ended.
    fn step_to_end(&mut self) -> turmoil::Result {
        let deadline = self.sim.elapsed() + WHOLE_WITHIN;
        while !self.step()? {
            if self.sim.elapsed() > deadline {
                return Err("clients do not end although nothing goes wrong any more".into());
            }
        }
        Ok(())
    }

    /// Steps until both administrators were told that a change is made.
    fn step_until_served(&mut self) -> turmoil::Result {
        let since = self.sim.elapsed();
        while self
            .administrators
            .iter()
            .any(|admin| admin.last_acknowledged() < since)
        {
            self.step()?;
            if self.sim.elapsed() > since + SERVES_WITHIN {
                return Err(format!(
                    "no change is acknowledged within {SERVES_WITHIN:?} after everything that was \
                     to heal has healed (L8)"
                )
                .into());
            }
        }
        Ok(())
    }

    fn step_until_whole(&mut self, what: &str) -> turmoil::Result {
        let machines = Rc::clone(&self.machines);
        self.step_until(what, WHOLE_WITHIN, |checks| machines.missing(checks))
    }

    /// Steps until nothing is missing any more.
    fn step_until(
        &mut self,
        what: &str,
        within: Duration,
        missing: impl Fn(&Checks) -> Option<String>,
    ) -> turmoil::Result {
        let since = self.sim.elapsed();
        while let Some(missing) = missing(&self.checks) {
            self.step()?;
            if self.sim.elapsed() > since + within {
                return Err(format!("not within {within:?}: {what}: {missing}").into());
            }
        }
        let took = self.sim.elapsed().saturating_sub(since);
        self.trace.note("plan", format_args!("{what}: {took:?}"));
        Ok(())
    }
}
