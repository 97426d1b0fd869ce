//! What happened in a simulation, as text: two runs of a seed must write the same.
//!
//! A line has its virtual time and who it is about. Every message on the network and every byte of
//! it goes into a running hash, which is written down often, so that the first line that differs
//! tells when two runs parted.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Under which name turmoil tells of messages.
const NETWORK: &str = "turmoil";

/// The trace of one run. Clones write to the same one.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    now: Duration,
    text: String,
    story: String,
    network: Hash,
    events: u64,
}

/// FNV-1a.
#[derive(Debug)]
pub struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    /// Takes bytes in.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// What it has come to.
    #[must_use]
    pub const fn value(&self) -> u64 {
        self.0
    }
}

impl fmt::Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add(text.as_bytes());
        Ok(())
    }
}

impl Trace {
    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the virtual time of what follows.
    pub fn at(&self, now: Duration) {
        self.recorded().now = now;
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.recorded().now
    }

    /// Writes a line that belongs to the story.
    pub fn note(&self, who: &str, what: impl fmt::Display) {
        let mut recorded = self.recorded();
        let line = line(recorded.now, who, what);
        recorded.story.push_str(&line);
        recorded.text.push_str(&line);
    }

    /// Writes a line that only matters to who compares traces, or looks into one for long.
    pub fn detail(&self, who: &str, what: impl fmt::Display) {
        let mut recorded = self.recorded();
        let line = line(recorded.now, who, what);
        recorded.text.push_str(&line);
    }

    /// Writes down what the network has carried so far.
    pub fn note_network(&self) {
        let network = {
            let recorded = self.recorded();
            format!("{} {:016x}", recorded.events, recorded.network.value())
        };
        self.detail("network", network);
    }

    /// All lines so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.recorded().text.clone()
    }

    /// What a person wants to read of it.
    #[must_use]
    pub fn story(&self) -> String {
        self.recorded().story.clone()
    }

    /// A hash of all lines so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hash = Hash::default();
        hash.add(self.recorded().text.as_bytes());
        hash.value()
    }

    /// How many lines there are.
    #[must_use]
    pub fn lines(&self) -> usize {
        self.recorded().text.lines().count()
    }

    /// In how many lines of the story `words` stand.
    #[must_use]
    pub fn told(&self, words: &str) -> u64 {
        let recorded = self.recorded();
        let lines = recorded.story.lines();
        lines.filter(|line| line.contains(words)).count() as u64
    }

    /// How many messages were sent, received or dropped.
    #[must_use]
    pub fn network_events(&self) -> u64 {
        self.recorded().events
    }
}

/// One line: seconds, who, what.
fn line(now: Duration, who: &str, what: impl fmt::Display) -> String {
    let (seconds, ms) = (now.as_secs(), now.subsec_millis());
    format!("{seconds:>4}.{ms:03} {who:<12} {what}\n")
}

/// Hears what broker, client and network log on this thread, and writes it into a trace.
pub(super) struct Listener(pub(super) Trace);

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let (target, level) = (metadata.target(), *metadata.level());
        let ours = target.starts_with("strandline") && level <= Level::DEBUG;
        metadata.is_event() && (ours || target == NETWORK)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        if metadata.target() == NETWORK {
            let mut recorded = self.0.recorded();
            recorded.events += 1;
            event.record(&mut Fields(&mut recorded.network));
        } else {
            let mut text = String::new();
            event.record(&mut Fields(&mut text));
            let text = format!("{}{text}", metadata.target());
            // What is below that is for who looks for a mistake.
            if *metadata.level() <= Level::INFO {
                self.0.note("log", text);
            } else {
                self.0.detail("log", text);
            }
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Fields<'a, W>(&'a mut W);

impl<W: fmt::Write> Visit for Fields<'_, W> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        written.expect("text takes everything");
    }
}
