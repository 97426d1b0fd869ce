//! Runs the micro benchmarks and holds their instructions against `benches/instructions.toml`.
//! Started by `benches/instructions`, which brings the tools.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use strandline_benches::instructions::{Recorded, Verdict, compare, counts_of};

type Failure = Box<dyn std::error::Error>;

const BENCHMARKS: [&str; 3] = ["batches", "frames", "log"];
const USAGE: &str = "usage: benches/instructions [--update]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => check(),
        ["--update"] => update(),
        _ => Err(USAGE.into()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::from(2)
    })
}

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.toml")
}

fn read() -> Result<Recorded, Failure> {
    let text =
        fs::read_to_string(path()).map_err(|error| format!("{}: {error}", path().display()))?;
    Recorded::parse(&text).map_err(|error| format!("{}: {error}", path().display()).into())
}

fn check() -> Result<ExitCode, Failure> {
    let recorded = read()?;
    let now = count()?;
    let comparison = compare(&recorded.counts, &now.counts);
    print!("{}", comparison.table);
    for (name, version) in &now.tools {
        let before = recorded.tools.get(name).map_or("nothing", String::as_str);
        if before != version {
            println!("recorded with {before}, counted with {version}: they may count differently");
        }
    }
    Ok(match comparison.verdict {
        Verdict::Same => ExitCode::SUCCESS,
        Verdict::Shrunk => {
            println!("better than recorded; run `benches/instructions --update` to keep it so");
            ExitCode::SUCCESS
        }
        Verdict::Failed => {
            println!(
                "the counts differ by more than they may. If that is worth it, run \
                 `benches/instructions --update` and commit benches/instructions.toml with why"
            );
            ExitCode::FAILURE
        }
    })
}

fn update() -> Result<ExitCode, Failure> {
    let before = read().unwrap_or_default();
    let now = count()?;
    print!("{}", compare(&before.counts, &now.counts).table);
    fs::write(path(), now.render())?;
    Ok(ExitCode::SUCCESS)
}

fn count() -> Result<Recorded, Failure> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["bench", "--quiet", "--package", "strandline-benches"]);
    cargo.arg("--no-default-features");
    for benchmark in BENCHMARKS {
        cargo.args(["--bench", benchmark]);
    }
    cargo.args(["--", "--output-format=json"]);
    let output = cargo.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("the benchmarks ended with {}", output.status).into());
    }
    Ok(Recorded {
        tools: BTreeMap::from([
            ("machine".to_owned(), std::env::consts::ARCH.to_owned()),
            ("rustc".to_owned(), version("rustc")?),
            ("valgrind".to_owned(), version("valgrind")?),
        ]),
        counts: counts_of(&String::from_utf8(output.stdout)?)?,
    })
}

fn version(tool: &str) -> Result<String, Failure> {
    let output = Command::new(tool).arg("--version").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
