//! Holds the rigs against bugs that are known to be there: each mutant must be found, within a
//! minute, and without one the same rigs must pass at the same seeds.
//!
//! ```text
//! RUSTC_WORKSPACE_WRAPPER=$PWD/.ci/with-mutants \
//!     cargo run -p strandline-tests --bin strandline-mutants
//! ```
//!
//! Without arguments it replays what is recorded in [`strandline_tests::mutants::REPLAYS`]. A
//! change of the code moves what a seed does: if the recorded one has lost its mutant, those behind
//! it are tried for the rest of the minute. `search` runs every rig with every mutant at seeds 1 to
//! `--seeds` and prints which finds which, `run` is one run. Each has a process of its own, so that
//! a panic is a find like any other and a hang is ended.

#[cfg(not(strandline_mutants))]
fn main() -> std::process::ExitCode {
    eprintln!(
        "error: there are no mutants in this build: run it by `cargo run` with \
         RUSTC_WORKSPACE_WRAPPER=$PWD/.ci/with-mutants, as .ci/run does"
    );
    std::process::ExitCode::from(2)
}

#[cfg(strandline_mutants)]
fn main() -> std::process::ExitCode {
    mutants::main()
}

#[cfg(strandline_mutants)]
mod mutants {
    use std::{
        collections::BTreeSet,
        process::{Command, ExitCode},
        thread,
        time::{Duration, Instant},
    };

    use anyhow::{Context as _, bail};
    use strandline_core::mutants::{Mutant, activate};
    use strandline_tests::mutants::{REPLAYS, Replay, Rig};

    const USAGE: &str = "usage: strandline-mutants [search [--mutant NAME] [--rig NAME] \
                         [--seeds N]] | run MUTANT|none RIG SEED";

    /// A mutant that lives longer has escaped.
    const LIMIT: Duration = Duration::from_secs(60);

    /// What a run in a process of its own answers.
    const PASSED: u8 = 0;
    const FOUND: u8 = 10;
    const TOO_LATE: u8 = 11;

    /// What Rust answers for a panic: an assertion of the code under test has noticed.
    const PANICKED: i32 = 101;

    /// What became of a run.
    enum Verdict {
        Passed(String),
        Found(String),
        TooLate,
    }

    pub fn main() -> ExitCode {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let outcome = match words[..] {
            [] => replay(),
            ["run", mutant, rig, seed] => run(mutant, rig, seed),
            ["search", ref flags @ ..] => search(flags),
            _ => Err(anyhow::anyhow!(USAGE)),
        };
        outcome.unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        })
    }

    /// One run, in this process.
    fn run(mutant: &str, rig: &str, seed: &str) -> anyhow::Result<ExitCode> {
        let mutant = match mutant {
            "none" => None,
            name => Some(Mutant::named(name).with_context(|| format!("no mutant is {name}"))?),
        };
        let rig = Rig::named(rig).with_context(|| format!("no rig is called {rig}"))?;
        let seed = seed.parse()?;
        thread::spawn(|| {
            thread::sleep(LIMIT);
            std::process::exit(TOO_LATE.into());
        });
        activate(mutant);
        Ok(match rig.run(seed) {
            Ok(summary) => {
                println!("{summary}");
                ExitCode::from(PASSED)
            }
            Err(what) => {
                println!("{what}");
                ExitCode::from(FOUND)
            }
        })
    }

    /// One run, in a process of its own.
    fn verdict(mutant: Option<Mutant>, rig: Rig, seed: u64) -> anyhow::Result<Verdict> {
        let name = mutant.map_or("none", Mutant::name);
        let output = Command::new(std::env::current_exe()?)
            .args(["run", name, &rig.to_string(), &seed.to_string()])
            .output()?;
        let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let code = output.status.code().context("a run was killed")?;
        Ok(match (u8::try_from(code), code) {
            (Ok(PASSED), _) => Verdict::Passed(told),
            (Ok(FOUND), _) => Verdict::Found(told),
            (Ok(TOO_LATE), _) => Verdict::TooLate,
            (_, PANICKED) => {
                let panic = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Verdict::Found(panic.lines().take(2).collect::<Vec<_>>().join(" "))
            }
            _ => bail!("a run ended with {}", output.status),
        })
    }

    fn replay() -> anyhow::Result<ExitCode> {
        let mut escaped = 0;
        let sound: BTreeSet<(Rig, u64)> = REPLAYS.iter().map(|it| (it.rig, it.seed)).collect();
        for (rig, seed) in &sound {
            let started = Instant::now();
            let verdict = verdict(None, *rig, *seed)?;
            let seconds = started.elapsed().as_secs_f64();
            let (said, what) = match &verdict {
                Verdict::Passed(summary) => ("passes", summary.as_str()),
                Verdict::Found(what) => ("FAILS", what.as_str()),
                Verdict::TooLate => ("FAILS", "it takes more than a minute"),
            };
            println!("no mutant: {rig} SEED={seed} {said} in {seconds:.1} s: {what}");
            if !matches!(verdict, Verdict::Passed(_)) {
                bail!("{rig} finds something without a mutant: fix that first");
            }
        }
        println!();
        for it in &REPLAYS {
            let started = Instant::now();
            let find = hunt(it, started)?;
            let (name, seconds) = (it.mutant.name(), started.elapsed().as_secs_f64());
            match find {
                Some((seed, what)) => {
                    let place = format!("{} SEED={seed}", it.rig);
                    println!("found    {name:<36} {place:<26} {seconds:>5.1} s");
                    println!("         {}", first_line(&what));
                    if seed != it.seed {
                        println!("         (seed {} has lost it: record this one)", it.seed);
                    }
                }
                None => {
                    escaped += 1;
                    let place = format!("{} SEED={}..", it.rig, it.seed);
                    println!("ESCAPED  {name:<36} {place:<26} {seconds:>5.1} s");
                }
            }
        }
        println!(
            "\n{} of {} mutants found",
            REPLAYS.len() - escaped,
            REPLAYS.len()
        );
        Ok(if escaped == 0 {
            ExitCode::SUCCESS
        } else {
            eprintln!("error: a mutant has escaped: mend the rig, or find a seed with `search`");
            ExitCode::FAILURE
        })
    }

    /// Tries the recorded seed, and if it has lost its mutant those behind it.
    fn hunt(replay: &Replay, started: Instant) -> anyhow::Result<Option<(u64, String)>> {
        let mut seed = replay.seed;
        while started.elapsed() < LIMIT {
            if let Verdict::Found(what) = verdict(Some(replay.mutant), replay.rig, seed)? {
                return Ok((started.elapsed() < LIMIT).then_some((seed, what)));
            }
            seed += 1;
        }
        Ok(None)
    }

    fn search(flags: &[&str]) -> anyhow::Result<ExitCode> {
        let (mut mutant, mut rig, mut seeds) = (None, None, 3_u64);
        for flag in flags.chunks(2) {
            match *flag {
                ["--mutant", name] => mutant = Some(Mutant::named(name).context("no such mutant")?),
                ["--rig", name] => rig = Some(Rig::named(name).context("no such rig")?),
                ["--seeds", count] => seeds = count.parse()?,
                _ => bail!(USAGE),
            }
        }
        let mutants = Mutant::ALL.into_iter().map(Some);
        for mutant in std::iter::once(None)
            .chain(mutants)
            .filter(|it| mutant.is_none() || *it == mutant)
        {
            for rig in Rig::all().filter(|it| rig.is_none_or(|rig| rig == *it)) {
                try_seeds(mutant, rig, seeds)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Runs a rig until it finds the mutant.
    fn try_seeds(mutant: Option<Mutant>, rig: Rig, seeds: u64) -> anyhow::Result<()> {
        let name = mutant.map_or("none", Mutant::name);
        let started = Instant::now();
        for seed in 1..=seeds {
            let run = Instant::now();
            if let Verdict::Found(what) = verdict(mutant, rig, seed)? {
                let seconds = run.elapsed().as_secs_f64();
                println!(
                    "{name:<36} {rig:<22} SEED={seed} {seconds:.1} s: {}",
                    first_line(&what)
                );
                return Ok(());
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        println!("{name:<36} {rig:<22} not at seeds 1 to {seeds}, {seconds:.1} s");
        Ok(())
    }

    fn first_line(what: &str) -> &str {
        what.lines().next().unwrap_or_default()
    }
}
