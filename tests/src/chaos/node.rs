//! One broker of a cluster that is hurt: its process, its disk and what stands in front of it.

use std::{
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{proxy::Proxy, stage::PATIENCE};
use crate::{
    Broker, BrokerSetup,
    mounts::{LoopDisk, MemoryDisk},
    strace::Injection,
};

/// The disk of one broker.
#[derive(Debug)]
pub enum Disk {
    /// The directory of the rig.
    Plain,
    /// A disk in memory.
    Memory(MemoryDisk),
    /// A file system in a file.
    Image(LoopDisk),
}

/// One broker: its machine, in a way.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub id: i32,
    /// How it is started.
    pub setup: BrokerSetup,
    /// The process; none while it is down.
    pub process: Option<Broker>,
    /// What stands in front of it.
    pub proxy: Proxy,
    /// Its disk.
    pub disk: Disk,
    /// Where its disk is.
    pub place: PathBuf,
    pub(super) injection: Option<Injection>,
    pub(super) log: PathBuf,
}

impl Node {
    /// Starts the process, and waits for nothing.
    ///
    /// # Errors
    /// If its address is taken.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        if self.process.is_none() {
            self.proxy.open()?;
            self.process = Some(self.setup.spawn());
        }
        Ok(())
    }

    /// Waits until it is ready; returns how long that took from its start.
    ///
    /// # Errors
    /// If it ends, or is not ready within [`PATIENCE`].
    pub async fn until_ready(&mut self) -> anyhow::Result<Duration> {
        let (id, http_port) = (self.id, self.setup.http_port);
        let process = self.process.as_mut();
        let process = process.with_context(|| format!("broker {id} is down"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let asked = tokio::task::spawn_blocking(move || crate::http_get(http_port, "/readyz"));
            if asked.await?.is_some_and(|(status, _)| status == 200) {
                return Ok(process.started().elapsed());
            }
            let running = process.is_running();
            anyhow::ensure!(running, "broker {id} has ended:\n{}", tail(&process.log()));
            anyhow::ensure!(
                Instant::now() < deadline,
                "broker {id} is not ready after {PATIENCE:?}:\n{}",
                tail(&process.log())
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the process at once, as `kill -9` does; its address refuses connections from then on.
    ///
    /// # Errors
    /// If its log cannot be kept.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.injection = None;
        if let Some(mut process) = self.process.take() {
            process.kill_now();
            self.keep_log(&process)?;
        }
        self.proxy.close().await;
        Ok(())
    }

    /// Stops the process in order.
    ///
    /// # Errors
    /// If it does not end well.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.injection = None;
        let id = self.id;
        if let Some(mut process) = self.process.take() {
            let deadline = Instant::now() + PATIENCE;
            if process.is_running() {
                process.terminate();
            }
            while process.is_running() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let status = process.exit_status();
            process.kill_now();
            self.keep_log(&process)?;
            self.proxy.close().await;
            let tail = tail(&process.log());
            let status = status.with_context(|| format!("broker {id} does not stop:\n{tail}"))?;
            anyhow::ensure!(status.success(), "broker {id} ended so:\n{tail}");
        }
        self.proxy.close().await;
        Ok(())
    }

    /// Stops every thread where it is.
    pub async fn pause(&mut self) {
        if let Some(process) = self.process.take() {
            let paused = tokio::task::spawn_blocking(move || {
                process.pause();
                process
            });
            self.process = paused.await.ok();
        }
    }

    /// Lets it go on.
    pub fn resume(&self) {
        if let Some(process) = &self.process {
            process.resume();
        }
    }

    /// Has a system call fail, or take long, from now on.
    ///
    /// # Errors
    /// If strace cannot be run.
    pub async fn inject(&mut self, system_call: &str, effect: &str) -> anyhow::Result<()> {
        let Some(process) = &self.process else {
            return Ok(());
        };
        let (id, call, effect) = (
            process.process_id(),
            system_call.to_owned(),
            effect.to_owned(),
        );
        let begun = tokio::task::spawn_blocking(move || Injection::begin(id, &call, &effect, &[]));
        self.injection = Some(begun.await??);
        Ok(())
    }

    /// Ends what [`Node::inject`] began.
    pub fn end_injection(&mut self) {
        self.injection = None;
    }

    /// What it has panicked with, if it has.
    #[must_use]
    pub fn panic(&self) -> Option<String> {
        let now = self.process.as_ref().map(Broker::log).unwrap_or_default();
        let before = std::fs::read_to_string(&self.log).unwrap_or_default();
        let mut lines = before.lines().chain(now.lines());
        let line = lines.find(|line| line.contains("panicked"))?;
        Some(format!("broker {} panicked: {line}", self.id))
    }

    fn keep_log(&self, process: &Broker) -> anyhow::Result<()> {
        self.append_log(&process.log())
    }

    fn append_log(&self, text: &str) -> anyhow::Result<()> {
        let mut file = std::fs::File::options();
        let mut file = file.create(true).append(true).open(&self.log)?;
        Ok(file.write_all(text.as_bytes())?)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill_now();
            // A rig that failed has told why; this is only more of it.
            let _ = self.keep_log(&process);
        }
    }
}

/// The end of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
