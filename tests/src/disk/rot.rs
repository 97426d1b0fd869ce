//! Rot below the recovery point (S14): bytes that change where they are stored, in every kind of
//! file. Bad bytes are never served, one bad batch costs that batch only, the log does not get
//! shorter, and what is wrong is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use strandline_protocol::{
    Offset, Timestamp, TopicId,
    batch::{HEADER_BYTES, split_batches},
};
use strandline_storage::{
    directory::PartitionName,
    fs::{FileSystem, simulated::SimulatedDisk},
    log::{
        Log, ReadError,
        inspect::{self, Severity},
        sealed_topic_id,
    },
};

use super::{
    Violation, check,
    cuts::{LATER, mix},
    files::{FileKind, contents, list, overwrite},
    kinds::Kind,
    machine::{Machine, Start, Trouble},
    model::{Expected, Line},
    workload::{self, Stop, index},
};
use crate::random::Random;

/// How many corruptions one data directory gets, each on a copy of its own.
const PER_BASE: u64 = 250;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Rot {
    /// How many corruptions.
    pub count: u64,
    /// From where everything is drawn.
    pub seed: u64,
    /// Only this one.
    pub only: Option<u64>,
}

/// What was done with one kind of file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RotCounts {
    /// Bits that flipped, pages that were zeroed, files that were cut, pages that became old.
    pub corruptions: [u64; 4],
    /// Batches whose bytes were damaged, and that were not served.
    pub damaged: u64,
    /// How often the start was refused, with the name of the file.
    pub refused: u64,
    /// How often `log verify`, or the start, told of it.
    pub told: u64,
    /// How often nobody did, as nothing was wrong that counts.
    pub harmless: u64,
    /// Batches that were served, all of them good.
    pub served: u64,
}

/// What was done, by kind of file.
#[derive(Clone, Debug, Default)]
pub struct RotSummary {
    /// The counts.
    pub kinds: BTreeMap<FileKind, RotCounts>,
}

impl RotSummary {
    /// How many corruptions there were.
    #[must_use]
    pub fn corruptions(&self) -> u64 {
        self.kinds
            .values()
            .flat_map(|counts| counts.corruptions)
            .sum()
    }
}

impl fmt::Display for RotSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<34}{:>7}{:>7}{:>7}{:>7}{:>9}{:>9}{:>7}{:>10}{:>10}",
            "file",
            "flips",
            "zeros",
            "cuts",
            "old",
            "damaged",
            "refused",
            "told",
            "harmless",
            "served"
        )?;
        for (kind, counts) in &self.kinds {
            let [flips, zeros, cuts, old] = counts.corruptions;
            writeln!(
                f,
                "{:<34}{flips:>7}{zeros:>7}{cuts:>7}{old:>7}{:>9}{:>9}{:>7}{:>10}{:>10}",
                kind.name(),
                counts.damaged,
                counts.refused,
                counts.told,
                counts.harmless,
                counts.served,
            )?;
        }
        Ok(())
    }
}

/// How bytes change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Flip,
    Zero,
    Cut,
    Old,
}

/// A data directory with everything durable, and what it was like before.
struct Base {
    disk: SimulatedDisk,
    earlier: Vec<SimulatedDisk>,
    expected: Expected,
    files: Vec<(PathBuf, FileKind, Bytes)>,
}

/// One file that changed.
struct Corruption {
    path: PathBuf,
    kind: FileKind,
    how: How,
    before: Bytes,
    after: Vec<u8>,
}

/// Corrupts files `rot.count` times.
///
/// # Errors
/// The first [`Violation`].
pub fn run(rot: &Rot, mut progress: impl FnMut(u64)) -> Result<RotSummary, Violation> {
    let mut summary = RotSummary::default();
    let mut base: Option<(u64, Base)> = None;
    for number in rot.only.map_or(0..rot.count, |only| only..only + 1) {
        let group = number / PER_BASE;
        let violation = |what: String| Violation {
            what,
            story: String::new(),
            replay: format!("rot --seed {} --number {number}", rot.seed),
        };
        if base.as_ref().is_none_or(|(known, _)| *known != group) {
            base = Some((group, Base::make(rot.seed, group).map_err(violation)?));
        }
        let Some((_, base)) = &base else { continue };
        let mut random = Random::new(mix(rot.seed, number), 3);
        let corruption = base.corrupt(&mut random);
        let counts = summary.kinds.entry(corruption.kind).or_default();
        counts.corruptions[corruption.how as usize] += 1;
        suffer(base, &corruption, counts, &mut random).map_err(|what| {
            let path = corruption.path.display();
            violation(format!("{path} ({:?}): {what}", corruption.how))
        })?;
        progress(number + 1);
    }
    Ok(summary)
}

impl Base {
    /// Every other one was closed in order, the others were killed.
    fn make(seed: u64, group: u64) -> Result<Self, String> {
        let kinds = [
            Kind::Everything,
            Kind::Rolls,
            Kind::Producers,
            Kind::Restarts,
            Kind::Configs,
        ];
        let kind = kinds[(group % kinds.len() as u64) as usize];
        let disk = SimulatedDisk::new(seed);
        disk.keep_boundaries();
        let mut run = workload::run(kind, mix(seed, group), &disk);
        if let Some(Stop::Dead(what) | Stop::Violation(what)) = run.stop {
            return Err(format!("without any rot: {what}"));
        }
        let earlier = disk.take_boundaries();
        let mut expected = Expected::clone(&run.expected);
        let mut machine = run.machine.take().ok_or("the broker has stopped")?;
        if let Some((name, job)) = run.checkpoint.take() {
            // Its log makes no other up to there.
            if machine.served.contains_key(&name) {
                let recovery_point = job.run().map_err(|error| error.to_string())?;
                machine.remember(&name, recovery_point);
            }
        }
        settle(&mut machine, &mut expected, run.now).map_err(|trouble| trouble.to_string())?;
        if group.is_multiple_of(2) {
            machine
                .stop(run.now, |_, _| {})
                .map_err(|trouble| trouble.to_string())?;
        } else {
            drop(machine);
        }
        let disk = disk.kill();
        let files = list(&*disk.file_system()).map_err(|error| error.to_string())?;
        Ok(Self {
            disk,
            earlier,
            expected,
            files,
        })
    }

    /// Another content for a file: first its kind is drawn, so that each has its share, and logs
    /// four times that.
    fn corrupt(&self, random: &mut Random) -> Corruption {
        let kinds: BTreeSet<FileKind> = self.files.iter().map(|(_, kind, _)| *kind).collect();
        let kinds: Vec<FileKind> = kinds.into_iter().chain([FileKind::Segment; 3]).collect();
        loop {
            let kind = kinds[random.within(0..kinds.len() as u64) as usize];
            let of_kind = self.files.iter().filter(|(_, of, _)| *of == kind);
            let of_kind: Vec<_> = of_kind.collect();
            if of_kind.is_empty() {
                continue;
            }
            let (path, _, before) = of_kind[random.within(0..of_kind.len() as u64) as usize];
            let how = [How::Flip, How::Zero, How::Cut, How::Old][random.within(0..4) as usize];
            let after = match how {
                How::Flip => flip(before, random),
                How::Zero => zero(before, random),
                How::Cut => before[..random.within(0..before.len() as u64) as usize].to_vec(),
                How::Old => self.old(path, kind, before, random),
            };
            if after != *before {
                return Corruption {
                    path: path.clone(),
                    kind,
                    how,
                    before: before.clone(),
                    after,
                };
            }
        }
    }

    /// One page as it was at some earlier time; files of a page or less, and a partition's state,
    /// whole.
    fn old(&self, path: &Path, kind: FileKind, before: &Bytes, random: &mut Random) -> Vec<u8> {
        let earlier = &self.earlier[random.within(0..self.earlier.len() as u64) as usize];
        let earlier = earlier.kill().file_system();
        let Ok(old) = contents(&*earlier, path) else {
            return before.to_vec();
        };
        let is_state = matches!(kind, FileKind::PartitionState | FileKind::RecoveryState);
        // Not done either: what a deleted topic of the same name had there. Its batches are whole,
        // and nothing in them says whose they are.
        let now = self.disk.kill().file_system();
        if topic_of(&*earlier, path) != topic_of(&*now, path) {
            return before.to_vec();
        }
        if is_state || before.len() <= PAGE && old.len() <= PAGE {
            return old.to_vec();
        }
        let at = random.within(0..before.len().div_ceil(PAGE) as u64) as usize * PAGE;
        let end = before.len().min(at + PAGE);
        let mut page = old.get(at..).unwrap_or_default().to_vec();
        page.resize(end - at, 0);
        let mut after = before.to_vec();
        after[at..end].copy_from_slice(&page);
        after
    }
}

/// The topic whose partition keeps the file at `path`, if it is one of a partition.
fn topic_of(files: &dyn FileSystem, path: &Path) -> Option<TopicId> {
    sealed_topic_id(files, path.parent()?).ok()?
}

/// Small files must have several.
const PAGE: usize = 512;

/// Where the least of a batch's length lies in its header.
const LENGTH_LAST_BYTE: usize = 11;

/// A few bits anywhere or, every other time in a log, one of the header of some batch. A length is
/// where one bad batch takes another with it, above all one that is wrong by little.
fn flip(before: &Bytes, random: &mut Random) -> Vec<u8> {
    let mut after = before.to_vec();
    let headers = headers(before);
    if !headers.is_empty() && random.one_in(2) {
        let header = headers[random.within(0..headers.len() as u64) as usize];
        let at = header
            + match random.one_in(4) {
                true => LENGTH_LAST_BYTE,
                false => random.within(0..HEADER_BYTES as u64) as usize,
            };
        after[at] ^= 1 << random.within(0..8);
        return after;
    }
    for _ in 0..random.within(1..4) {
        let at = random.within(0..after.len() as u64) as usize;
        after[at] ^= 1 << random.within(0..8);
    }
    after
}

/// Where the batches begin, in a log.
fn headers(bytes: &Bytes) -> Vec<usize> {
    let mut position = 0;
    let mut headers = Vec::new();
    for view in split_batches(bytes) {
        let Ok(view) = view else { break };
        headers.push(position);
        position += view.bytes().len();
    }
    headers
}

fn zero(before: &Bytes, random: &mut Random) -> Vec<u8> {
    let at = random.within(0..before.len().div_ceil(PAGE) as u64) as usize * PAGE;
    let mut after = before.to_vec();
    let end = after.len().min(at + PAGE);
    after[at..end].fill(0);
    after
}

/// Makes all of it durable, and tells the checkpoints so.
fn settle(machine: &mut Machine, expected: &mut Expected, now: Timestamp) -> Result<(), Trouble> {
    for (name, served) in &mut machine.served {
        let end = served.log.flush()?;
        let line = expected.line(&name.topic, index(name));
        line.durable = end.0;
        line.start = (served.log.start().0, served.log.start().0);
    }
    machine.write_checkpoints(now)?;
    Ok(machine
        .data
        .write_checkpoint_for_kafka(&machine.checkpoint)?)
}

/// Looks at it, starts on it, and reads everything.
fn suffer(
    base: &Base,
    corruption: &Corruption,
    counts: &mut RotCounts,
    random: &mut Random,
) -> Result<(), String> {
    let disk = base.disk.kill();
    let files = disk.file_system();
    overwrite(&*files, &corruption.path, &corruption.after).map_err(|error| error.to_string())?;
    let told = told_by_verify(&*files, corruption)?;
    let (machine, start) = match Machine::start(&files, random.draw(), LATER) {
        Ok(started) => started,
        Err(trouble) => {
            let text = trouble.to_string();
            let names_it = corruption.kind.may_stop_the_start()
                && corruption.names().iter().any(|name| text.contains(name));
            if !names_it {
                return Err(format!("the start is refused: {text}"));
            }
            counts.refused += 1;
            counts.told += 1;
            return Ok(());
        }
    };
    let bad = damaged(corruption);
    let seen = read(base, corruption, &bad, &machine, &start, counts)?;
    let at_start = !start.found.warnings.is_empty()
        || start
            .opened
            .reports
            .iter()
            .any(|(_, report)| !report.damage.is_empty());
    if told || at_start || seen > 0 {
        counts.told += 1;
    } else if corruption.kind.must_be_told() && corruption.how != How::Old {
        return Err("neither verify nor the start tells of it".into());
    } else {
        counts.harmless += 1;
    }
    if corruption.kind == FileKind::Segment && !bad.is_empty() && !told {
        return Err(format!("verify does not tell of the damage at {bad:?}"));
    }
    goes_on(base, corruption, &bad, machine, &disk, random)
}

/// A restart finds the same, and clients can go on.
fn goes_on(
    base: &Base,
    corruption: &Corruption,
    bad: &BTreeSet<i64>,
    mut machine: Machine,
    disk: &SimulatedDisk,
    random: &mut Random,
) -> Result<(), String> {
    if random.one_in(2) {
        drop(machine);
        let disk = disk.kill();
        let started = Machine::start(&disk.file_system(), random.draw(), LATER);
        let (again, start) =
            started.map_err(|trouble| format!("it does not start again: {trouble}"))?;
        let mut counts = RotCounts::default();
        read(base, corruption, bad, &again, &start, &mut counts)
            .map_err(|what| format!("after one more restart: {what}"))?;
        machine = again;
    }
    if bad.is_empty() {
        check::resume(&mut machine, &base.expected)?;
    }
    Ok(())
}

/// Whether `strandline log verify` says that something is wrong with the file.
fn told_by_verify(files: &dyn FileSystem, corruption: &Corruption) -> Result<bool, String> {
    let Some(directory) = corruption
        .path
        .parent()
        .filter(|_| corruption.kind.is_of_a_log())
    else {
        return Ok(false);
    };
    let findings = inspect::verify(files, directory);
    let findings = findings.map_err(|error| format!("verify fails: {error}"))?;
    let mut about = findings
        .iter()
        .filter(|finding| finding.path == corruption.path);
    Ok(match corruption.kind {
        FileKind::Segment => about.any(|finding| finding.severity == Severity::Damage),
        _ => about.next().is_some(),
    })
}

/// The batches of which bytes have changed, by their offsets.
fn damaged(corruption: &Corruption) -> BTreeSet<i64> {
    let mut bad = BTreeSet::new();
    if corruption.kind != FileKind::Segment {
        return bad;
    }
    let mut position = 0;
    for view in split_batches(&corruption.before) {
        let Ok(view) = view else { break };
        let end = position + view.bytes().len();
        if corruption.after.get(position..end) != corruption.before.get(position..end) {
            bad.insert(view.header().base_offset().0);
        }
        position = end;
    }
    bad
}

/// Reads all that is served; returns how many batches were told to be damaged.
fn read(
    base: &Base,
    corruption: &Corruption,
    bad: &BTreeSet<i64>,
    machine: &Machine,
    start: &Start,
    counts: &mut RotCounts,
) -> Result<u64, String> {
    if let Some((name, trouble)) = start.opened.refused.first() {
        return Err(format!("{name} is not served: {trouble}"));
    }
    if *machine.data.identity() != base.expected.identity.ok_or("no identity")? {
        return Err("it has another identity".into());
    }
    check::topics(machine, &base.expected)?;
    let mut lost = 0;
    for (topic, state) in &base.expected.topics {
        for (at, line) in state.lines.iter().enumerate() {
            let name = PartitionName {
                topic: topic.clone(),
                partition: strandline_protocol::PartitionId(at as i32),
            };
            let served = machine
                .served
                .get(&name)
                .ok_or(format!("{name} is not served"))?;
            let is_hit = corruption
                .path
                .starts_with(machine.data.partition_path(&name));
            let none = BTreeSet::new();
            let bad = if is_hit { bad } else { &none };
            let outcome = read_line(&served.log, line, bad, corruption.end_max(line), counts);
            lost += outcome.map_err(|what| format!("{name}: {what}"))?;
        }
    }
    counts.damaged += lost;
    Ok(lost)
}

fn read_line(
    log: &Log,
    line: &Line,
    bad: &BTreeSet<i64>,
    end_max: i64,
    counts: &mut RotCounts,
) -> Result<u64, String> {
    let (start, end) = (log.start().0, log.end().0);
    if start > line.start.1 || end < line.durable || end > end_max {
        let (from, to) = (line.start.1, line.durable);
        return Err(format!("it is {start}..{end}, and was {from}..{to}"));
    }
    let served = read_around(log, line.start.1)?;
    let mut lost = 0;
    for known in line.batches.iter().filter(|known| known.end > line.start.1) {
        match served.get(&known.base) {
            Some(bytes) if *bytes == known.stored => counts.served += 1,
            Some(_) => return Err(format!("other bytes are served at {}", known.base)),
            None if bad.contains(&known.base) => lost += 1,
            None => return Err(format!("the batch at {} is lost; bad: {bad:?}", known.base)),
        }
    }
    if bad.is_empty() {
        check::spots(log, line, start, end.min(line.end()))?;
    }
    let unknown = served.keys().find(|base| line.at(**base).is_none());
    match unknown {
        Some(base) => Err(format!(
            "a batch at {base} is served that was never written"
        )),
        None => Ok(lost),
    }
}

/// Every batch that is served, also behind damage.
fn read_around(log: &Log, from: i64) -> Result<BTreeMap<i64, Bytes>, String> {
    let mut served = BTreeMap::new();
    let mut next = Offset(from);
    while next < log.end() {
        let mut batches = Vec::new();
        let fetched = log.read(next, 700, log.end());
        let reached = match fetched.and_then(|read| read.check().map(|()| read)) {
            Ok(fetched) => {
                check::split(&fetched.bytes, &mut batches);
                fetched.end_offset
            }
            Err(ReadError::Corrupt {
                offset, next_good, ..
            }) if offset > next => {
                // The good ones before it.
                let fetched = log
                    .read(next, 700, offset)
                    .map_err(|error| error.to_string())?;
                fetched.check().map_err(|error| error.to_string())?;
                check::split(&fetched.bytes, &mut batches);
                if fetched.end_offset > next {
                    fetched.end_offset
                } else {
                    next_good
                }
            }
            Err(ReadError::Corrupt { next_good, .. }) => next_good,
            Err(error) => return Err(format!("offset {next} cannot be read: {error}")),
        };
        if reached <= next {
            return Err(format!("nobody gets beyond {next}"));
        }
        for batch in batches {
            let base = i64::from_be_bytes(batch[..8].try_into().expect("eight bytes"));
            served.insert(base, batch);
        }
        next = reached;
    }
    Ok(served)
}

impl Corruption {
    /// Where a log may end. A checkpoint or a batch of a time before it was cut back may have it
    /// end where it did then: what was cut counts as lost, and cannot be read.
    fn end_max(&self, line: &Line) -> i64 {
        match (self.kind, self.how) {
            (FileKind::Checkpoint | FileKind::Segment, How::Old) => i64::MAX,
            _ => line.end(),
        }
    }

    /// What a refusal may call it.
    fn names(&self) -> Vec<String> {
        let of = |path: &Path| {
            path.file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        let mut names: Vec<String> = of(&self.path).into_iter().collect();
        names.extend(self.path.parent().and_then(of));
        names
    }
}
