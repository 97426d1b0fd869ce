//! What the operating system tells about this process and the runtime about its tasks.

use std::fs;
use std::time::Duration;

use rustix::process::Resource;
use rustix::time::ClockId;

use super::catalogue::{
    PROCESS_ANONYMOUS, PROCESS_CPU, PROCESS_FDS, PROCESS_FDS_MAX, PROCESS_RESIDENT, PROCESS_START,
    PROCESS_VIRTUAL, RUNTIME_BUSY, RUNTIME_QUEUE, RUNTIME_TASKS, RUNTIME_WORKERS,
};
use super::scrape::Scrape;

/// The user and system CPU time that this process has used.
#[must_use]
pub fn cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    let nanoseconds = u32::try_from(spent.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(spent.tv_sec).unwrap_or(0), nanoseconds)
}

/// What this process has used and occupies; 0 where `/proc` does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system CPU time, in microseconds.
    pub cpu_us: u64,
    /// Resident memory, mapped files included.
    pub resident_bytes: u64,
    /// Resident memory that no file stands behind: heap and stacks.
    pub anonymous_bytes: u64,
    /// Virtual memory, mapped files included.
    pub virtual_bytes: u64,
}

/// What this process uses now.
#[must_use]
pub fn usage() -> Usage {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |field: &str| {
        let mut lines = status.lines();
        let rest = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kibibytes = rest.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kibibytes.unwrap_or(0).saturating_mul(1 << 10)
    };
    Usage {
        cpu_us: u64::try_from(cpu_time().as_micros()).unwrap_or(u64::MAX),
        resident_bytes: bytes("VmRSS"),
        anonymous_bytes: bytes("RssAnon"),
        virtual_bytes: bytes("VmSize"),
    }
}

pub(super) fn collect(scrape: &mut Scrape) {
    scrape.sample(&PROCESS_CPU, &[], cpu_time().as_secs_f64());
    let usage = usage();
    scrape.sample(&PROCESS_RESIDENT, &[], usage.resident_bytes);
    scrape.sample(&PROCESS_ANONYMOUS, &[], usage.anonymous_bytes);
    scrape.sample(&PROCESS_VIRTUAL, &[], usage.virtual_bytes);
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // One of them is the listing itself.
        scrape.sample(&PROCESS_FDS, &[], entries.count().saturating_sub(1));
    }
    if let Some(most) = rustix::process::getrlimit(Resource::Nofile).current {
        scrape.sample(&PROCESS_FDS_MAX, &[], most);
    }
    if let Some(started) = start_time() {
        scrape.sample(&PROCESS_START, &[], started.as_secs_f64());
    }
    collect_runtime(scrape);
}

/// When the process started, since the Unix epoch: the boot time plus the ticks until then.
fn start_time() -> Option<Duration> {
    let kernel = fs::read_to_string("/proc/stat").ok()?;
    let boot = kernel
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?;
    let own = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the command in parentheses, which may hold blanks and parentheses; the
    // start time is the twentieth after it.
    let (_, fields) = own.rsplit_once(')')?;
    let ticks: u64 = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    let milliseconds = ticks.checked_mul(1_000)?.checked_div(per_second)?;
    let boot = Duration::from_secs(boot.trim().parse().ok()?);
    boot.checked_add(Duration::from_millis(milliseconds))
}

/// The runtime's own figures, if the scrape runs on one.
fn collect_runtime(scrape: &mut Scrape) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    let figures = runtime.metrics();
    let workers = figures.num_workers();
    let busy: Duration = (0..workers)
        .map(|worker| figures.worker_total_busy_duration(worker))
        .sum();
    scrape.sample(&RUNTIME_WORKERS, &[], workers);
    scrape.sample(&RUNTIME_TASKS, &[], figures.num_alive_tasks());
    scrape.sample(&RUNTIME_QUEUE, &[], figures.global_queue_depth());
    scrape.sample(&RUNTIME_BUSY, &[], busy.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_memory_time_and_a_start() {
        let usage = usage();
        assert!(usage.virtual_bytes >= usage.resident_bytes, "{usage:?}");
        assert!(usage.resident_bytes >= usage.anonymous_bytes, "{usage:?}");
        assert!(usage.anonymous_bytes > 0 && usage.cpu_us > 0, "{usage:?}");
        assert!(cpu_time() > Duration::ZERO);
        let age = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .checked_sub(start_time().unwrap());
        assert!(age.is_some_and(|age| age < Duration::from_secs(3_600)));
    }
}
