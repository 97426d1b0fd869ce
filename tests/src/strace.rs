//! System calls that fail or take long: `strace` attached to a running broker. Needs root or the
//! right to trace one's own processes.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::wait_until;

/// Whether `strace` is there.
///
/// # Errors
/// What to install.
pub fn check_strace() -> anyhow::Result<()> {
    let found = Command::new("strace").arg("--version").output();
    anyhow::ensure!(found.is_ok(), "strace is missing: apt-get install strace");
    Ok(())
}

/// An injection in force; it ends when this is dropped.
#[derive(Debug)]
pub struct Injection {
    strace: Child,
    process: u32,
}

impl Injection {
    /// Has each call of `system_call` that the process makes on one of `files` (on any, if there is
    /// none) end as `effect` says, in the words of `strace -e inject`: `error=EIO`,
    /// `delay_enter=100ms`.
    ///
    /// # Errors
    /// If strace cannot be run.
    ///
    /// # Panics
    /// If it does not attach.
    pub fn begin(
        process: u32,
        system_call: &str,
        effect: &str,
        files: &[&Path],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null"]);
        for file in files {
            command.arg("-P").arg(file);
        }
        let strace = command
            .arg("-e")
            .arg(format!("trace={system_call}"))
            .arg("-e")
            .arg(format!("inject={system_call}:{effect}"))
            .arg("-p")
            .arg(process.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("strace cannot be run")?;
        let injection = Self { strace, process };
        wait_until("strace's attachment", || injection.traced().all(|by| by));
        Ok(injection)
    }

    /// Ends the injection.
    ///
    /// # Panics
    /// If strace does not let go.
    pub fn end(mut self) {
        self.detach();
        wait_until("strace's end", || !self.traced().any(|by| by));
    }

    fn detach(&mut self) {
        let id = i32::try_from(self.strace.id()).ok().and_then(Pid::from_raw);
        // Interrupted, it detaches; killed, it might leave a thread stopped.
        if let Some(id) = id {
            let _ = kill_process(id, Signal::INT);
        }
        let _ = self.strace.wait();
    }

    /// Of each thread, whether it is traced.
    fn traced(&self) -> impl Iterator<Item = bool> + use<> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process));
        tasks.into_iter().flatten().flatten().map(|task| {
            let status = std::fs::read_to_string(task.path().join("status"));
            let status = status.unwrap_or_default();
            let by = status
                .lines()
                .find_map(|line| line.strip_prefix("TracerPid:"));
            by.is_some_and(|by| by.trim() != "0")
        })
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        if matches!(self.strace.try_wait(), Ok(None)) {
            self.detach();
        }
    }
}
