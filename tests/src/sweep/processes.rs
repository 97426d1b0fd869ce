//! The processes of a sweep: the simulator is built if need be, and started once per seed.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{Orders, Outcome, PlanName, Seeds};

/// What all that the simulator consists of must be built with: tokio's order of tasks follows a
/// seed only then. The crates of this workspace are told by a wrapper what they are built for.
const CONFIGURED: &str = "--cfg tokio_unstable";

/// How long a run may take before it counts as hanging. It takes seconds on a quiet machine.
const RUN_MAX: Duration = Duration::from_secs(900);

/// How often a process is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How much of a process's last words is told, in lines.
const LAST_WORDS: usize = 12;

/// Whether bugs are to be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// None can be.
    None,
    /// One can be chosen by its name.
    Some,
}

impl Planted {
    /// What the orders need.
    #[must_use]
    pub const fn by(orders: &Orders) -> Self {
        match orders.mutant {
            Some(_) => Self::Some,
            None => Self::None,
        }
    }
}

/// What came of one seed.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its seed.
    pub seed: u64,
    /// What it told; a process that told nothing has a violation that says so.
    pub outcome: Outcome,
    /// Where its whole trace is, if something was wrong.
    pub full: PathBuf,
}

/// The program that simulates: this one if it was built so, or the one that is built now.
///
/// # Errors
/// If it cannot be built.
pub fn simulator(planted: Planted) -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("this program has no path")?;
    if cfg!(strandline_sim) {
        return Ok(own);
    }
    let own_crate = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = own
        .ancestors()
        .nth(2)
        .context("this program lies in no target directory")?;
    let (wrapper, name) = match planted {
        Planted::None => ("with-simulation", "strandline-sim"),
        Planted::Some => ("with-simulation-and-mutants", "strandline-sim-mutants"),
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--workspace", "--bin", "strandline-sim"])
        .arg("--manifest-path")
        .arg(own_crate.with_file_name("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .env("RUSTFLAGS", CONFIGURED)
        .env(
            "RUSTC_WORKSPACE_WRAPPER",
            own_crate.with_file_name(".ci").join(wrapper),
        )
        .status()
        .context("cargo cannot be started")?;
    ensure!(built.success(), "the simulator does not build");
    // It bears the name of this program, which the next build puts back in its place.
    let (found, kept) = (
        target.join("debug/strandline-sim"),
        target.join("simulators"),
    );
    let simulator = kept.join(name);
    fs::create_dir_all(&kept)
        .and_then(|()| fs::copy(&found, &simulator))
        .with_context(|| format!("cannot copy {} to {}", found.display(), kept.display()))?;
    Ok(simulator)
}

/// Runs seeds, several at once; `each` hears of every one as it ends, in no particular order.
///
/// # Errors
/// If processes cannot be started; what goes wrong in them is told by their [`Run`].
pub fn sweep(simulator: &Path, orders: &Orders, mut each: impl FnMut(Run)) -> anyhow::Result<()> {
    let seeds = orders.seeds().map_err(anyhow::Error::msg)?;
    let directory = traces(simulator)?;
    let jobs = match orders.jobs {
        Some(jobs) => jobs.max(1),
        None => thread::available_parallelism().map_or(1, Into::into),
    };
    let until = orders
        .minutes
        .map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let next = Next {
        seed: AtomicU64::new(seeds.first),
        seeds,
        until,
        is_found: AtomicBool::new(false),
    };
    let failed = Mutex::new(None);
    let (told, runs) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs {
            let (told, next, failed, directory) = (told.clone(), &next, &failed, &directory);
            scope.spawn(move || {
                while let Some(seed) = next.take() {
                    match run(simulator, orders, directory, seed) {
                        Ok(run) => {
                            let is_found = !run.outcome.violations.is_empty();
                            if orders.until_found && is_found {
                                next.is_found.store(true, Ordering::Relaxed);
                            }
                            drop(told.send(run));
                        }
                        Err(error) => {
                            *failed.lock().expect("nobody panics") = Some(error);
                            return;
                        }
                    }
                }
            });
        }
        drop(told);
        runs.into_iter().for_each(&mut each);
    });
    match failed.into_inner().expect("nobody panics") {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Gives seeds out.
struct Next {
    seed: AtomicU64,
    seeds: Seeds,
    until: Option<Instant>,
    /// Whether that is enough.
    is_found: AtomicBool,
}

impl Next {
    fn take(&self) -> Option<u64> {
        let is_late = self.until.is_some_and(|until| Instant::now() >= until);
        if is_late || self.is_found.load(Ordering::Relaxed) {
            return None;
        }
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        self.seeds.end.is_none_or(|end| seed < end).then_some(seed)
    }
}

/// Where the traces of failed runs are kept.
fn traces(simulator: &Path) -> anyhow::Result<PathBuf> {
    let target = simulator.ancestors().nth(2);
    let directory = target.context("no target directory")?.join("traces");
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    Ok(directory)
}

fn run(simulator: &Path, orders: &Orders, directory: &Path, seed: u64) -> anyhow::Result<Run> {
    let mutant = orders.mutant.as_deref();
    let planted = mutant.map_or_else(String::new, |mutant| format!("-{mutant}"));
    let first = Process {
        name: format!("{}{planted}-{seed}", orders.plan),
        mutant,
        directory,
        plan: orders.plan,
        seed,
        story: orders.trace,
    };
    let (mut outcome, full) = first.run(simulator)?;
    if orders.twice {
        let second = Process {
            name: format!("{}-again", first.name),
            story: false,
            ..first
        };
        let (again, other) = second.run(simulator)?;
        if (again.trace_hash, again.trace_lines) != (outcome.trace_hash, outcome.trace_lines) {
            let differ = format!(
                "two runs of seed {seed} differ: {} lines with hash {:016x}, and {} with {:016x}; \
                 see {}",
                outcome.trace_lines,
                outcome.trace_hash,
                again.trace_lines,
                again.trace_hash,
                other.display()
            );
            outcome.violations.push(differ);
        }
    }
    Ok(Run {
        seed,
        outcome,
        full,
    })
}

/// One process of one seed.
struct Process<'a> {
    name: String,
    mutant: Option<&'a str>,
    directory: &'a Path,
    plan: PlanName,
    seed: u64,
    story: bool,
}

impl Process<'_> {
    fn run(&self, simulator: &Path) -> anyhow::Result<(Outcome, PathBuf)> {
        let at = |ending: &str| self.directory.join(format!("{}.{ending}", self.name));
        let (told, full, words) = (at("json"), at("trace"), at("stderr"));
        let _ = fs::remove_file(&told);
        let mut command = Command::new(simulator);
        command
            .args(["alone", "--plan", &self.plan.to_string()])
            .args(["--seed", &self.seed.to_string()])
            .arg("--outcome")
            .arg(&told)
            .arg("--full")
            .arg(&full)
            .env("RUST_BACKTRACE", "0")
            .stderr(fs::File::create(&words)?);
        if let Some(mutant) = self.mutant {
            command.args(["--mutant", mutant]);
        }
        if self.story {
            command.arg("--story");
        } else {
            command.stdout(Stdio::null());
        }
        let started = command.spawn().context("the simulator cannot be started")?;
        let ended = wait(started)?;
        let outcome = match (ended, fs::read(&told)) {
            (Some(_), Ok(told)) => serde_json::from_slice(&told)?,
            (ended, _) => {
                let said = fs::read_to_string(&words).unwrap_or_default();
                let skipped = said.lines().count().saturating_sub(LAST_WORDS);
                let said: Vec<_> = said.lines().skip(skipped).collect();
                let how = match ended {
                    Some(status) => format!("its process ended with {status}"),
                    None => format!("its process did not end within {RUN_MAX:?}"),
                };
                Outcome {
                    violations: vec![format!("{how}: {}", said.join(" | "))],
                    ..Outcome::default()
                }
            }
        };
        let _ = (fs::remove_file(&told), fs::remove_file(&words));
        Ok((outcome, full))
    }
}

/// Waits until the process ends, and ends it if it does not by itself.
fn wait(mut process: Child) -> anyhow::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + RUN_MAX;
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            process.kill()?;
            process.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK_EVERY);
    }
}
