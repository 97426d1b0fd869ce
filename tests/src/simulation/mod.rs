//! The real broker and real clients in a deterministic simulation: network, time and disk are
//! simulated, and fail by a seed.
//!
//! **Owns** the plan of a run, its faults, its workload and its verdict. One run is one thread
//! without a clock, a socket or a file of the system. The same seed gives the same trace, byte for
//! byte.
//!
//! `faults` is what goes wrong, `machine` where the broker runs, `workload` what clients do and
//! what must hold in the end, `trace` what is written down, `alone` a run in a process of its own.

mod alone;
pub mod cluster;
mod faults;
mod machine;
mod trace;
mod workload;

use std::{
    rc::Rc,
    time::{Duration, UNIX_EPOCH},
};

use strandline_client::net::seed_random;
use turmoil::Sim;

use self::{faults::Faults, machine::Machine, trace::Listener, workload::Workload};

pub use alone::run_alone;
pub use faults::Damage;
pub use trace::{Hash, Trace};

/// The name of the broker's host.
const BROKER: &str = "broker";
const PORT: u16 = 9290;

/// When simulations begin, in seconds since 1970.
const EPOCH_SECONDS: u64 = 1_800_000_000;

/// How long clients may take to end once nothing goes wrong any more.
const END_WITHIN: Duration = Duration::from_secs(120);

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// From where everything random is drawn.
    pub seed: u64,
    /// How many producers there are.
    pub producers: u32,
    /// How many partitions they write to.
    pub partitions: i32,
    /// The `flush` of their topic.
    pub flush: &'static str,
    /// How long things go wrong, in virtual time.
    pub faults_for: Duration,
}

impl Plan {
    /// The usual run of a seed.
    #[must_use]
    pub const fn of(seed: u64) -> Self {
        Self {
            seed,
            producers: 3,
            partitions: 3,
            flush: "ack",
            faults_for: Duration::from_secs(15),
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Findings {
    /// What happened.
    pub trace: Trace,
    /// What must never happen, and did.
    pub violations: Vec<String>,
    /// Records that were acknowledged, of unknown outcome, refused.
    pub records: (usize, usize, usize),
    /// Records that were there in the end.
    pub found: usize,
    /// Records that the consumer was given while things went wrong.
    pub consumed: usize,
    /// What went wrong.
    pub damage: Damage,
    /// How often a broker began to serve.
    pub starts: u32,
    /// How much virtual time has passed.
    pub lasted: Duration,
}

/// Runs a plan on this thread.
#[must_use]
pub fn run(plan: Plan) -> Findings {
    run_into(plan, Trace::default())
}

/// The same, with a trace that is there even if the run panics.
fn run_into(plan: Plan, trace: Trace) -> Findings {
    let listener = Listener(trace.clone());
    tracing::subscriber::with_default(listener, || run_listened(plan, trace))
}

fn run_listened(plan: Plan, trace: Trace) -> Findings {
    seed_random(plan.seed);
    let mut sim = turmoil::Builder::new()
        .rng_seed(plan.seed)
        .epoch(UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS))
        .simulation_duration(plan.faults_for + 4 * END_WITHIN)
        .max_message_latency(Duration::from_millis(8))
        .tcp_capacity(1024)
        .enable_random_order()
        .build();
    let machine = Rc::new(Machine::new(plan.seed, trace.clone()));
    let workload = Rc::new(Workload::new(plan, trace.clone()));
    let on = Rc::clone(&machine);
    sim.host(BROKER, move || Rc::clone(&on).serve());
    let clients = start_clients(&mut sim, &plan, &workload);
    let mut faults = Faults::new(plan.seed, clients, trace.clone());

    let ended = (|| -> turmoil::Result {
        while sim.elapsed() < plan.faults_for {
            trace.at(sim.elapsed());
            faults.step(&mut sim, &machine);
            step(&mut sim, &trace)?;
        }
        faults.end(&mut sim, &machine);
        workload.stop.set(true);
        step_to_end(&mut sim, &trace)?;
        // What is read now was on disk, and nowhere else.
        faults.end(&mut sim, &machine);
        sim.client("reader", Rc::clone(&workload).read_all());
        step_to_end(&mut sim, &trace)
    })();
    trace.note_network();
    let mut violations = workload.violations.take();
    violations.append(&mut faults.violations);
    violations.extend(ended.err().map(|error| error.to_string()));
    Findings {
        violations,
        records: workload.counts(),
        found: workload.found.get(),
        consumed: workload.consumed(),
        damage: faults.damage,
        starts: machine.starts.get(),
        lasted: sim.elapsed(),
        trace,
    }
}

fn start_clients(sim: &mut Sim<'_>, plan: &Plan, workload: &Rc<Workload>) -> Vec<String> {
    let mut names = vec!["admin".to_owned(), "consumer".to_owned()];
    sim.client("admin", Rc::clone(workload).administrate());
    sim.client("consumer", Rc::clone(workload).consume());
    for number in 0..plan.producers {
        let name = format!("producer-{number}");
        sim.client(name.as_str(), Rc::clone(workload).produce(number));
        names.push(name);
    }
    names
}

fn step(sim: &mut Sim<'_>, trace: &Trace) -> Result<bool, Box<dyn std::error::Error>> {
    trace.at(sim.elapsed());
    if sim.elapsed().as_millis().is_multiple_of(100) {
        trace.note_network();
    }
    sim.step()
}

/// Steps until every client has ended.
fn step_to_end(sim: &mut Sim<'_>, trace: &Trace) -> turmoil::Result {
    let deadline = sim.elapsed() + END_WITHIN;
    while !step(sim, trace)? {
        if sim.elapsed() > deadline {
            return Err("clients do not end although nothing goes wrong any more".into());
        }
    }
    Ok(())
}
