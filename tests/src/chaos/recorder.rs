//! Writes a history as it happens.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::Mutex,
    time::Instant,
};

use anyhow::Context as _;

use super::event::{Event, What};

/// A history that is being written.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    path: PathBuf,
    file: Mutex<BufWriter<File>>,
}

impl Recorder {
    /// One in `file`, which must not exist yet.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn create(file: &Path) -> anyhow::Result<Self> {
        let created = File::create_new(file);
        let created = created.with_context(|| format!("{} cannot be written", file.display()))?;
        Ok(Self {
            began: Instant::now(),
            path: file.to_owned(),
            file: Mutex::new(BufWriter::with_capacity(1 << 18, created)),
        })
    }

    /// Where it is written.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that something happened now.
    ///
    /// # Panics
    /// If the disk is full: a history with a hole proves nothing.
    pub fn note(&self, partition: i32, what: What) {
        let mut file = self.file.lock().expect("nobody panics with it");
        // Under the lock, so that times do not go back from line to line.
        let at_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let event = Event {
            at_us,
            partition,
            what,
        };
        writeln!(file, "{event}").expect("the history can be written");
    }

    /// Notes something for people.
    ///
    /// # Panics
    /// As [`Recorder::note`].
    pub fn comment(&self, text: &str) {
        let mut file = self.file.lock().expect("nobody panics with it");
        let seconds = self.began.elapsed().as_secs_f64();
        for line in text.lines() {
            writeln!(file, "# {seconds:.3} {line}").expect("the history can be written");
        }
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// If the system does not take it.
    ///
    /// # Panics
    /// If a writer panicked.
    pub fn flush(&self) -> anyhow::Result<()> {
        let mut file = self.file.lock().expect("nobody panics with it");
        Ok(file.flush()?)
    }
}
