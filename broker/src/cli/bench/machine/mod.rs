//! `strandline bench machine`: what this machine can do, without a broker.
//!
//! Figures of a virtual machine drift from run to run, so they are compared within one run. What is
//! written here is measured warm: memory that a guest has not touched for a while comes from the
//! host page by page, which would measure the hypervisor.

mod ceiling;
mod disk;
mod mapping;
mod memory;
mod network;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::{
    error::CommandError,
    output::{OutputArguments, OutputFormat, Rows, print_json},
    quantity, values,
};

/// How much memory is touched before a probe that writes to the page cache, at most.
const PREWARM_BYTES_MAX: u64 = 3 << 30;

/// Measure memory, checksums, loopback, disk, and the ceiling of a log broker on this machine.
///
/// The ceiling is the least that any log broker does: receive a frame, check its CRC, append it
/// to an allocated segment, acknowledge it. Takes about half a minute and writes up to 1 GB to
/// --data.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strandline bench machine
  strandline bench machine --data /disk1 --output json
  strandline bench machine --sync-group 2MB      # what flush=ack could reach at best")]
pub struct MachineArguments {
    /// Where to write: a directory on the disk in question. What is written is removed.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub data: PathBuf,
    /// Also append 1 GB in groups of SIZE and sync each before the next, as `flush=ack` does with
    /// what waits when a sync ends; the group size of a broker is what it wrote divided by
    /// `strandline_log_flush_seconds_count`. May be repeated.
    #[arg(long, value_name = "SIZE", value_parser = sync_group)]
    pub sync_group: Vec<usize>,
    #[command(flatten)]
    pub output: OutputArguments,
}

/// A group is held in memory.
const SYNC_GROUP_MAX: usize = 64 << 20;

fn sync_group(text: &str) -> Result<usize, String> {
    let bytes = values::byte_size(text)?;
    if (1..=SYNC_GROUP_MAX).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!("a group has from 1 byte to {SYNC_GROUP_MAX}"))
    }
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Probe {
    /// What was measured.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
}

/// The figures so far; adding one tells whoever waits.
#[derive(Debug, Default)]
pub struct Probes(Vec<Probe>);

impl Probes {
    /// Adds a figure.
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        let probe = Probe {
            name: name.into(),
            value: quantity::rounded(value, 2),
            unit,
        };
        eprintln!("  {} {} {}", probe.name, probe.value, probe.unit);
        self.0.push(probe);
    }

    /// Adds the median and the 99th percentile of a latency in nanoseconds.
    pub fn add_latency(&mut self, name: &str, latency: &Histogram<u64>) {
        for (suffix, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            let nanoseconds = quantity::float(latency.value_at_quantile(quantile));
            self.add(format!("{name}_{suffix}"), nanoseconds / 1e3, "us");
        }
    }
}

/// An empty histogram of nanoseconds, up to a minute.
///
/// # Errors
/// Never with these bounds.
pub fn latency_histogram() -> Result<Histogram<u64>, CommandError> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3)
        .map_err(|error| CommandError::failure(format!("no histogram: {error}")))
}

/// Records a duration in nanoseconds; what exceeds the histogram counts as its largest value.
pub fn record(latency: &mut Histogram<u64>, elapsed: Duration) {
    latency.saturating_record(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
}

/// GB (10^9 bytes) per second.
pub fn gigabytes_per_second(bytes: u64, elapsed: Duration) -> f64 {
    quantity::per_second(bytes, elapsed) / 1e9
}

/// CPU time that the calling thread has used.
pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
    seconds + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Touches memory and gives it back, so that the pages that the next probe needs are at hand.
pub fn prewarm(bytes: u64) {
    let spare = memory_available().unwrap_or(0) / 2;
    let bytes = bytes.min(PREWARM_BYTES_MAX).min(spare);
    if let Ok(length) = usize::try_from(bytes) {
        std::hint::black_box(vec![1_u8; length]);
    }
}

fn memory_available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    kibibytes.checked_mul(1_024)
}

/// A directory that is removed with all that is in it when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn within(data: &Path) -> Result<Self, CommandError> {
        let path = data.join(format!("strandline-bench-machine-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| {
            CommandError::io(format_args!("cannot write to {}", data.display()), &error)
                .hint("choose a directory that can be written with --data DIR")
        })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed stays; there is nobody to tell that could do more.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl MachineArguments {
    /// Runs every probe and prints the figures.
    ///
    /// # Errors
    /// If the directory cannot be written or loopback cannot be used.
    pub fn run(self) -> Result<(), CommandError> {
        let scratch = Scratch::within(&self.data)?;
        let mut probes = Probes::default();
        let wrong = |error: io::Error| CommandError::io("a probe failed", &error);
        eprintln!("memory and checksums");
        memory::measure(&mut probes);
        eprintln!("loopback");
        network::measure(&mut probes)?;
        eprintln!("disk: {}", self.data.display());
        disk::measure(&mut probes, &scratch.0)?;
        disk::measure_groups(&mut probes, &scratch.0, &self.sync_group)?;
        eprintln!("ceiling of a log broker");
        ceiling::measure(&mut probes, &scratch.0).map_err(wrong)?;
        print(&probes.0, self.output.output)
    }
}

fn print(probes: &[Probe], format: OutputFormat) -> Result<(), CommandError> {
    match format {
        OutputFormat::Json => print_json(&probes),
        OutputFormat::Table => {
            let mut rows = Rows::new(&["PROBE", "VALUE#", "UNIT"]);
            for probe in probes {
                let value = format!("{:.2}", probe.value);
                rows.push([probe.name.clone(), value, probe.unit.to_owned()]);
            }
            rows.print()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_directory_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::within(directory.path()).unwrap();
        let path = scratch.0.clone();
        assert!(path.is_dir());
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn a_group_has_a_size_that_fits_into_memory() {
        assert_eq!(sync_group("2MB"), Ok(2_000_000));
        assert_eq!(sync_group("64MiB"), Ok(SYNC_GROUP_MAX));
        for wrong in ["0", "65MiB", "-1", "many"] {
            assert!(sync_group(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn available_memory_is_known() {
        assert!(memory_available().unwrap() > 1 << 20);
    }

    #[test]
    fn a_thread_that_works_uses_time() {
        let before = thread_cpu();
        std::hint::black_box(vec![1_u8; 16 << 20]);
        assert!(thread_cpu() > before);
    }
}
