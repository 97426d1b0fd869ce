//! Processes of one broker, one after the other, and the controller that grants them leases: a
//! process that was replaced or fenced never believes that it leads.
//!
//! Each side judges by a clock of its own and by the rules of `strandline_core::leases`. The
//! network delays and loses, processes stand still and go on, and once a lease is over another
//! process may register under the same number while the one before is still there.

use std::time::Duration;

use strandline_core::leases::{HEARTBEAT, Heartbeat, IsFenced, Leases, OwnLease, SESSION};
use strandline_protocol::{BrokerEpoch, BrokerId, Offset, messages::Failure};

use crate::random::Random;

/// Clusters of one run.
const HISTORIES: u64 = 10;

/// How long each lives, in milliseconds.
const LIFE_MS: u64 = 20_000;

/// How long a request or an answer takes at most, in milliseconds.
const LATENCY_MS: u64 = 600;

const BROKER: BrokerId = BrokerId(1);

/// Runs it; tells what was done.
///
/// # Errors
/// What must not be.
pub fn run(seed: u64) -> Result<String, String> {
    let mut random = Random::new(seed, 601);
    let mut total = Counts::default();
    for _ in 0..HISTORIES {
        let mut history = History::new();
        for now in 0..LIFE_MS {
            history.step(now, &mut random)?;
        }
        total.fenced += history.counts.fenced;
        total.replaced += history.counts.replaced;
        total.led_ms += history.counts.led_ms;
    }
    Ok(format!(
        "fenced {} times, replaced {} times, led for {} ms",
        total.fenced, total.replaced, total.led_ms
    ))
}

/// What happened.
#[derive(Default)]
struct Counts {
    fenced: u64,
    replaced: u64,
    led_ms: u64,
}

/// One start of the broker.
struct Process {
    epoch: BrokerEpoch,
    /// What its clock shows when the controller's shows 0.
    ahead: u64,
    own: OwnLease,
    paused_until: u64,
    next_beat: u64,
}

/// A heartbeat on its way.
struct Request {
    arrives: u64,
    process: usize,
    /// By the clock of the process.
    sent: u64,
}

/// Its answer.
struct Answer {
    arrives: u64,
    to: Request,
    told: Result<Heartbeat, Failure>,
}

struct History {
    leases: Leases,
    processes: Vec<Process>,
    /// Whether the newest one is fenced.
    is_fenced: bool,
    requests: Vec<Request>,
    answers: Vec<Answer>,
    counts: Counts,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Process {
    const fn new(epoch: BrokerEpoch, ahead: u64, now: u64) -> Self {
        Self {
            epoch,
            ahead,
            own: OwnLease::new(),
            paused_until: now,
            next_beat: now,
        }
    }
}

impl History {
    fn new() -> Self {
        let first = BrokerEpoch(1);
        Self {
            leases: Leases::taken_over([(BROKER, first, IsFenced::No)], SESSION, ms(0)),
            processes: vec![Process::new(first, 12_345, 0)],
            is_fenced: false,
            requests: Vec::new(),
            answers: Vec::new(),
            counts: Counts::default(),
        }
    }

    fn step(&mut self, now: u64, random: &mut Random) -> Result<(), String> {
        for index in 0..self.processes.len() {
            if now >= self.processes[index].paused_until {
                self.runs(index, now, random);
                self.check(index, now)?;
            }
        }
        self.controller_runs(now, random);
        Ok(())
    }

    /// A process takes in answers and sends heartbeats, or begins to stand still.
    fn runs(&mut self, index: usize, now: u64, random: &mut Random) {
        let process = &mut self.processes[index];
        if random.one_in(2_000) {
            process.paused_until = now + random.below(5_000);
        }
        let here = now + process.ahead;
        self.answers.retain(|answer| {
            if answer.to.process != index || answer.arrives > now {
                return true;
            }
            match answer.told {
                Ok(Heartbeat::Granted { session }) => {
                    process.own.granted(ms(answer.to.sent), ms(here), session);
                }
                Ok(Heartbeat::Fenced) | Err(_) => process.own.ended(),
            }
            false
        });
        if now >= process.next_beat {
            process.next_beat = now + HEARTBEAT.as_millis() as u64;
            if !random.one_in(4) {
                self.requests.push(Request {
                    arrives: now + 1 + random.below(LATENCY_MS),
                    process: index,
                    sent: here,
                });
            }
        }
    }

    fn check(&mut self, index: usize, now: u64) -> Result<(), String> {
        let newest = self.processes.len() - 1;
        let process = &self.processes[index];
        if !process.own.holds(ms(now + process.ahead)) {
            return Ok(());
        }
        self.counts.led_ms += 1;
        let epoch = process.epoch;
        if index < newest {
            let present = self.processes[newest].epoch;
            return Err(format!(
                "at {now} ms the process with epoch {epoch} leads, although another one has \
                 registered with epoch {present}"
            ));
        }
        if self.is_fenced {
            return Err(format!(
                "at {now} ms the process with epoch {epoch} leads, although it is fenced"
            ));
        }
        Ok(())
    }

    fn controller_runs(&mut self, now: u64, random: &mut Random) {
        let (leases, answers, processes) = (&mut self.leases, &mut self.answers, &self.processes);
        let arrived = self.requests.extract_if(.., |it| it.arrives <= now);
        for request in arrived {
            let epoch = processes[request.process].epoch;
            let told = leases.heartbeat(BROKER, epoch, Offset(0), ms(now));
            answers.push(Answer {
                arrives: now + 1 + random.below(LATENCY_MS),
                to: request,
                told,
            });
        }
        let newest = processes[processes.len() - 1].epoch;
        if leases.expired(ms(now)).is_some() && random.one_in(20) {
            leases.fenced(BROKER, newest);
            self.is_fenced = true;
            self.counts.fenced += 1;
        }
        let is_held = leases.held(ms(now)).contains(&BROKER);
        if self.is_fenced && is_held && random.one_in(50) {
            leases.unfenced(BROKER, newest, ms(now));
            self.is_fenced = false;
        }
        // Its number is free: it is started again, on another machine.
        if self.is_fenced && !is_held && random.one_in(200) {
            let epoch = BrokerEpoch(newest.0 + 1);
            leases.registered(BROKER, epoch, IsFenced::Yes, ms(now));
            let ahead = random.below(100_000);
            self.processes.push(Process::new(epoch, ahead, now));
            self.counts.replaced += 1;
        }
    }
}
