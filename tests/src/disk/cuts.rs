//! Power cuts at every operation boundary of recorded workloads.
//!
//! A workload runs once, and the disk keeps itself as it was in front of each change. At each of
//! these boundaries the power goes many times, each time with another choice of what survives and
//! where it tears; each time the broker starts on what is left.

use std::{collections::BTreeMap, fmt, path::Path};

use strandline_broker::partition::metadata_name;
use strandline_protocol::Timestamp;
use strandline_storage::{
    fs::simulated::SimulatedDisk,
    log::inspect::{self, Severity},
};

use super::{
    Violation, check,
    kinds::Kind,
    machine::{DATA, Machine, NOW, Start, Trouble},
    model::{Expected, Journal},
    workload::{self, Stop},
};
use crate::random::Random;

/// Choices of what survives, at one boundary of one recording.
const CHOICES_MAX: u64 = 16;

/// When brokers start after a cut.
pub(super) const LATER: Timestamp = Timestamp(NOW.0 + 1_000 * 24 * 3_600 * 1_000);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Cuts {
    /// How many power cuts, at least.
    pub count: u64,
    /// From where everything is drawn.
    pub seed: u64,
    /// Only this workload.
    pub kind: Option<Kind>,
    /// Only this cut.
    pub only: Option<Point>,
}

/// One cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Which recording of the workload.
    pub round: u64,
    /// Behind so many changes.
    pub boundary: u64,
    /// Which choice of what survives.
    pub choice: u64,
}

/// What was done with one workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How often it was recorded.
    pub recordings: u64,
    /// Its steps.
    pub steps: u64,
    /// Its operation boundaries.
    pub boundaries: u64,
    /// How often the power was cut.
    pub cuts: u64,
    /// How often it was cut again while the broker recovered.
    pub nested: u64,
    /// Batches that were acknowledged at the moments of the cuts, and are there.
    pub acknowledged: u64,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct CutsSummary {
    /// By workload.
    pub kinds: BTreeMap<Kind, Counts>,
}

impl CutsSummary {
    /// How many power cuts there were.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.kinds.values().map(|counts| counts.cuts).sum()
    }
}

impl fmt::Display for CutsSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<16}{:>11}{:>9}{:>12}{:>10}{:>10}{:>14}",
            "workload", "recordings", "steps", "boundaries", "cuts", "nested", "acknowledged"
        )?;
        for (kind, counts) in &self.kinds {
            writeln!(
                f,
                "{:<16}{:>11}{:>9}{:>12}{:>10}{:>10}{:>14}",
                kind.name(),
                counts.recordings,
                counts.steps,
                counts.boundaries,
                counts.cuts,
                counts.nested,
                counts.acknowledged,
            )?;
        }
        Ok(())
    }
}

/// A workload that was recorded.
struct Recording {
    kind: Kind,
    seed: u64,
    round: u64,
    boundaries: Vec<SimulatedDisk>,
    journal: Journal,
}

/// Cuts the power `cuts.count` times or a little more often, spread over all workloads and all of
/// their boundaries. `progress` hears how many are done.
///
/// # Errors
/// The first [`Violation`].
pub fn run(cuts: &Cuts, mut progress: impl FnMut(u64)) -> Result<CutsSummary, Violation> {
    let kinds: Vec<Kind> = match cuts.kind {
        Some(kind) => vec![kind],
        None => Kind::ALL.to_vec(),
    };
    let mut summary = CutsSummary::default();
    if let Some(point) = cuts.only {
        for kind in kinds {
            let recording = Recording::take(kind, cuts.seed, point.round, &mut summary)?;
            let counts = summary.kinds.entry(kind).or_default();
            recording.cut(point.boundary, point.choice, counts)?;
        }
        return Ok(summary);
    }
    let share = cuts.count.div_ceil(kinds.len() as u64).max(1);
    for kind in kinds {
        let (mut done, mut round) = (0, 0);
        while done < share {
            let recording = Recording::take(kind, cuts.seed, round, &mut summary)?;
            let counts = summary.kinds.entry(kind).or_default();
            let boundaries = recording.boundaries.len() as u64;
            let left = share - done;
            let choices = (left / boundaries).clamp(1, CHOICES_MAX);
            // Fewer cuts than boundaries: as many of them, evenly spread.
            let stride = boundaries.div_ceil(left.min(boundaries)).max(1);
            for boundary in (0..boundaries).step_by(stride as usize) {
                for choice in 0..choices {
                    recording.cut(boundary, choice, counts)?;
                    done += 1;
                }
            }
            round += 1;
            progress(summary.cuts());
        }
    }
    Ok(summary)
}

impl Recording {
    fn take(
        kind: Kind,
        seed: u64,
        round: u64,
        summary: &mut CutsSummary,
    ) -> Result<Self, Violation> {
        let disk = SimulatedDisk::new(seed);
        disk.keep_boundaries();
        let run = workload::run(kind, mix(seed, round), &disk);
        let recording = Self {
            kind,
            seed,
            round,
            boundaries: disk.take_boundaries(),
            journal: run.journal,
        };
        if let Some(Stop::Dead(what) | Stop::Violation(what)) = run.stop {
            let last = recording.boundaries.len() as u64;
            return Err(recording.violation(last, 0, format!("without a power cut: {what}")));
        }
        let counts = summary.kinds.entry(kind).or_default();
        counts.recordings += 1;
        counts.steps += run.steps;
        counts.boundaries += recording.boundaries.len() as u64;
        Ok(recording)
    }

    fn cut(&self, boundary: u64, choice: u64, counts: &mut Counts) -> Result<(), Violation> {
        let Some(disk) = self.boundaries.get(boundary as usize) else {
            return Ok(());
        };
        let expected = self.journal.at(boundary);
        let seed = mix(mix(mix(self.seed, self.round), boundary), choice);
        counts.cuts += 1;
        counts.acknowledged += expected
            .topics
            .values()
            .flat_map(|topic| &topic.lines)
            .map(|line| {
                line.batches
                    .iter()
                    .filter(|batch| batch.end <= line.durable)
                    .count() as u64
            })
            .sum::<u64>();
        let disk = disk.power_cut(seed);
        survive(disk, &expected, seed, counts)
            .map_err(|what| self.violation(boundary, choice, what))
    }

    fn violation(&self, boundary: u64, choice: u64, what: String) -> Violation {
        Violation {
            what,
            story: self.journal.story(boundary),
            replay: format!(
                "cuts --workload {} --seed {} --round {} --boundary {boundary} --choice {choice}",
                self.kind.name(),
                self.seed,
                self.round
            ),
        }
    }
}

/// Starts on what a crash has left, twice, and holds it against what is known.
///
/// # Errors
/// What must not be.
pub fn survive(
    mut disk: SimulatedDisk,
    expected: &Expected,
    seed: u64,
    counts: &mut Counts,
) -> Result<(), String> {
    let mut random = Random::new(seed, 1);
    if random.one_in(4) {
        // Again, while it recovers.
        counts.nested += 1;
        disk.crash_after(random.within(1..60));
        drop(Machine::start(&disk.file_system(), random.draw(), LATER));
        disk = disk.power_cut(random.draw());
    }
    let (machine, start) = start_on(&mut disk, random.draw())
        .map_err(|trouble| format!("it does not start: {trouble}"))?;
    let first = check::hold(&machine, &start, expected)?;
    drop(machine);
    let (how, mut disk) = if random.one_in(2) {
        ("killed", disk.kill())
    } else {
        ("cut off", disk.power_cut(random.draw()))
    };
    let (mut machine, start) = start_on(&mut disk, random.draw())
        .map_err(|trouble| format!("it does not start again: {trouble}"))?;
    let second = check::hold(&machine, &start, expected)
        .map_err(|what| format!("after it was {how} again: {what}"))?;
    if first != second {
        return Err(format!(
            "{how} right after its recovery, it is another: {}",
            differs(&first, &second)
        ));
    }
    disk.set_capacity(None);
    if random.one_in(2) {
        check::resume(&mut machine, expected)?;
    }
    if random.one_in(8) {
        verify(&machine)?;
    }
    Ok(())
}

/// Starts; where the disk is full, once somebody has made room.
fn start_on(disk: &mut SimulatedDisk, draw: u64) -> Result<(Machine, Start), Trouble> {
    let started = Machine::start(&disk.file_system(), draw, LATER);
    let is_full = match &started {
        Err(trouble) => matches!(trouble, Trouble::Full(_)),
        Ok((_, start)) => {
            let mut refused = start.opened.refused.iter();
            refused.any(|(_, trouble)| matches!(trouble, Trouble::Full(_)))
        }
    };
    if !is_full {
        return started;
    }
    drop(started);
    *disk = disk.kill();
    disk.set_capacity(None);
    Machine::start(&disk.file_system(), draw, LATER)
}

fn differs(first: &check::Seen, second: &check::Seen) -> String {
    let log = first
        .logs
        .iter()
        .find(|(name, log)| second.logs.get(*name) != Some(*log));
    match log {
        Some((name, (start, end, _))) => {
            let then = second.logs.get(name).map(|(start, end, _)| (start, end));
            format!("{name} was {start}..{end}, then {then:?}")
        }
        None => format!("{:?}, then {:?}", first.topics, second.topics),
    }
}

/// What `strandline log verify` says of every partition: nothing.
fn verify(machine: &Machine) -> Result<(), String> {
    let files = machine.data.file_system();
    let names = machine.served.keys().map(ToString::to_string);
    for name in names.chain([metadata_name().to_string()]) {
        let directory = Path::new(DATA).join(&name);
        let findings = match inspect::verify(files.as_ref(), &directory) {
            Ok(findings) => findings,
            // Nothing was ever appended to it.
            Err(_) => continue,
        };
        if let Some(found) = findings
            .iter()
            .find(|found| found.severity == Severity::Damage)
        {
            return Err(format!("verify finds damage in {name}: {}", found.what));
        }
    }
    Ok(())
}

/// A seed out of two numbers.
#[must_use]
pub fn mix(seed: u64, number: u64) -> u64 {
    Random::new(seed, number.wrapping_add(11)).draw()
}
