//! The attacker: one thread that does one thing after the other to a broker, and rests so that it
//! uses no more than its share of a processor.

use std::{
    collections::BTreeMap,
    fmt,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use strandline_client::protocol::{ApiKey, TopicId, messages::encode};

use super::frames::{self, Frames, mutate, repair};
use crate::random::Random;

/// What an attacker can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// Bytes that are no frames, with and without a `Hello` before.
    RandomBytes,
    /// Mutated frames whose checksum is wrong.
    StaleFrames,
    /// Mutated frames whose lengths and checksum are right.
    SoundFrames,
    /// Frames that arrive byte by byte.
    SlowSenders,
    /// Connections that say nothing, or no more, or have closed one half.
    HalfOpen,
    /// Frames that declare a lot and do not come.
    HugeLengths,
    /// As many connections as can be had.
    ConnectionFlood,
    /// Requests whose answers are not read.
    UnreadReplies,
    /// Requests with as many entries as allowed, which wait for as long as allowed.
    ParkedRequests,
    /// All of these, one step each.
    Mixed,
}

impl Kind {
    /// Each kind of its own.
    pub const SINGLE: [Self; 9] = [
        Self::RandomBytes,
        Self::StaleFrames,
        Self::SoundFrames,
        Self::SlowSenders,
        Self::HalfOpen,
        Self::HugeLengths,
        Self::ConnectionFlood,
        Self::UnreadReplies,
        Self::ParkedRequests,
    ];

    /// How many connections it keeps open, of `limit` that it may.
    const fn connections_max(self, limit: usize) -> usize {
        match self {
            Self::ConnectionFlood => limit,
            Self::RandomBytes | Self::StaleFrames | Self::SoundFrames => 16,
            Self::ParkedRequests | Self::UnreadReplies => 48,
            _ => 100,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RandomBytes => "random-bytes",
            Self::StaleFrames => "stale-frames",
            Self::SoundFrames => "sound-frames",
            Self::SlowSenders => "slow-senders",
            Self::HalfOpen => "half-open",
            Self::HugeLengths => "huge-lengths",
            Self::ConnectionFlood => "connection-flood",
            Self::UnreadReplies => "unread-replies",
            Self::ParkedRequests => "parked-requests",
            Self::Mixed => "mixed",
        })
    }
}

/// What an attacker is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Orders {
    /// Whom to attack.
    pub address: SocketAddr,
    /// How.
    pub kind: Kind,
    /// A topic of which it may do as it likes.
    // An identity may begin with a hyphen.
    #[arg(value_parser = topic_id, allow_hyphen_values = true)]
    pub topic: TopicId,
    /// How many connections it may have open at once.
    pub connections_max: usize,
    /// The largest frame that the broker takes, in bytes.
    pub frame_bytes_max: usize,
    /// How much of one processor it may use, in percent.
    pub share_percent: u32,
    /// From where everything is drawn.
    pub seed: u64,
}

fn topic_id(text: &str) -> Result<TopicId, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    connections: u64,
    refused: u64,
    closed: u64,
    bytes_sent: u64,
    bytes_received: u64,
}

/// Attacks for ever; prints what it has done every now and then, each time a line of JSON.
///
/// # Errors
/// If the golden frames are not there.
pub fn attack(orders: Orders) -> anyhow::Result<()> {
    let mut attacker = Attacker {
        random: Random::new(orders.seed, 2),
        frames: Frames::load(orders.topic)?,
        lines: BTreeMap::new(),
        counts: Counts::default(),
        long_metadata: frames::metadata(10_000),
        long_fetch: frames::fetch(orders.topic, 9_000, u32::MAX),
        orders,
    };
    let started = Instant::now();
    let mut told = started;
    let share = f64::from(attacker.orders.share_percent) / 100.0;
    loop {
        let kind = match attacker.orders.kind {
            Kind::Mixed => Kind::SINGLE[attacker.random.index(Kind::SINGLE.len())],
            kind => kind,
        };
        attacker.step(kind);
        let owed = processor_time().as_secs_f64() / share - started.elapsed().as_secs_f64();
        if owed > 0.0 {
            // Never less than a timer's grain, and never so long that it looks dead.
            std::thread::sleep(Duration::from_secs_f64(owed.clamp(0.001, 0.5)));
        }
        if told.elapsed() > Duration::from_millis(200) {
            told = Instant::now();
            attacker.tell();
        }
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

/// One connection of the attacker.
struct Line {
    stream: TcpStream,
    outgoing: Vec<u8>,
    sent: usize,
}

/// What became of an attempt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// All of it.
    All,
    /// The peer takes no more now.
    Stuck,
    /// The connection is gone.
    Gone,
}

struct Attacker {
    orders: Orders,
    random: Random,
    frames: Frames,
    lines: BTreeMap<Kind, Vec<Line>>,
    counts: Counts,
    long_metadata: Vec<u8>,
    long_fetch: Vec<u8>,
}

impl Attacker {
    fn tell(&self) {
        let open: usize = self.lines.values().map(Vec::len).sum();
        let Counts {
            connections,
            refused,
            closed,
            bytes_sent,
            bytes_received,
        } = self.counts;
        println!(
            "{}",
            json!({
                "connections": connections, "refused": refused, "closed": closed, "open": open,
                "bytes_sent": bytes_sent, "bytes_received": bytes_received,
                "processor_ms": processor_time().as_millis() as u64,
            })
        );
    }

    /// One step: opens a connection if there is room for one, or goes on with one that is open.
    fn step(&mut self, kind: Kind) {
        let open = self.lines.get(&kind).map_or(0, Vec::len);
        let most = kind.connections_max(self.orders.connections_max);
        let opens = open == 0 || (open < most && self.random.below(3) > 0);
        let line = if opens {
            self.open(kind)
        } else {
            let lines = self.lines.entry(kind).or_default();
            Some(lines.swap_remove(self.random.index(open)))
        };
        let Some(mut line) = line else {
            return;
        };
        if self.go_on(kind, &mut line) {
            self.lines.entry(kind).or_default().push(line);
        } else {
            self.counts.closed += 1;
        }
    }

    /// A new connection, and the first that is to be sent on it.
    fn open(&mut self, kind: Kind) -> Option<Line> {
        let timeout = Duration::from_millis(100);
        let Ok(stream) = TcpStream::connect_timeout(&self.orders.address, timeout) else {
            self.counts.refused += 1;
            return None;
        };
        self.counts.connections += 1;
        stream.set_nonblocking(true).ok()?;
        let says_hello = match kind {
            Kind::RandomBytes | Kind::HalfOpen | Kind::ConnectionFlood => self.random.below(2) == 0,
            _ => true,
        };
        let mut outgoing = if says_hello {
            frames::hello()
        } else {
            Vec::new()
        };
        match kind {
            Kind::SlowSenders => outgoing.extend(self.slow_frame()),
            Kind::HugeLengths => outgoing.extend(self.huge_frame()),
            _ => {}
        }
        Some(Line {
            stream,
            outgoing,
            sent: 0,
        })
    }

    /// Whether the connection is worth keeping.
    fn go_on(&mut self, kind: Kind, line: &mut Line) -> bool {
        let reads = !matches!(kind, Kind::HalfOpen | Kind::UnreadReplies);
        if reads && !self.read(line) {
            return false;
        }
        match kind {
            Kind::SlowSenders => {
                // The Hello and the head at once, then a byte each time.
                let count = if line.sent == 0 { 600 } else { 1 };
                self.send_some(line, count) != Sent::Gone
            }
            Kind::HugeLengths | Kind::ConnectionFlood => {
                self.send_some(line, usize::MAX) != Sent::Gone && self.random.below(200) > 0
            }
            Kind::HalfOpen => self.half_open(line),
            _ => {
                let sent = self.send_some(line, usize::MAX);
                if sent == Sent::All {
                    line.outgoing = self.more(kind);
                    line.sent = 0;
                    return self.send_some(line, usize::MAX) != Sent::Gone;
                }
                // A peer that takes no more is let be for a while, and then given up.
                sent == Sent::Stuck && self.random.below(5_000) > 0
            }
        }
    }

    fn half_open(&mut self, line: &mut Line) -> bool {
        if self.random.below(4) == 0 {
            line.outgoing.extend(self.more(Kind::UnreadReplies));
        }
        let sent = self.send_some(line, usize::MAX);
        if self.random.below(4) == 0 {
            let _ = line.stream.shutdown(Shutdown::Write);
        }
        sent != Sent::Gone && self.random.below(100) > 0
    }

    /// What is sent next on a connection whose bytes have all left.
    fn more(&mut self, kind: Kind) -> Vec<u8> {
        match kind {
            Kind::RandomBytes => {
                let count = 1 + self.random.index(16 << 10);
                self.random.bytes(count)
            }
            Kind::StaleFrames => self.mutated(),
            Kind::SoundFrames => {
                let mut many = Vec::new();
                for _ in 0..8 {
                    let mut frame = self.mutated();
                    repair(&mut frame);
                    many.extend(frame);
                }
                many
            }
            Kind::UnreadReplies => match self.random.below(3) {
                0 => self.long_metadata.clone(),
                1 => frames::fetch(self.orders.topic, 1, 0),
                _ => frames::fetch(self.orders.topic, 20, 0).repeat(20),
            },
            _ => self.long_fetch.clone(),
        }
    }

    fn mutated(&mut self) -> Vec<u8> {
        let mut frame = self.frames.any(&mut self.random);
        mutate(&mut frame, &mut self.random);
        frame
    }

    /// A produce that will take very long to arrive.
    fn slow_frame(&mut self) -> Vec<u8> {
        let bytes = 1 << (12 + self.random.below(12));
        let message = encode(&frames::produce_request(self.orders.topic, bytes));
        let head = frames::header(ApiKey::Produce, &message, bytes);
        [&head, &message[..], &vec![0; 4 << 10]].concat()
    }

    /// A head that declares much, allowed or not, and some of what it declares.
    fn huge_frame(&mut self) -> Vec<u8> {
        let allowed = self.orders.frame_bytes_max - (1 << 10);
        let bytes = [allowed, allowed / 2, 1 << 20, u32::MAX as usize, 1 << 31];
        let bytes = bytes[self.random.index(bytes.len())];
        let message = encode(&frames::produce_request(self.orders.topic, bytes));
        let api = [ApiKey::Produce, ApiKey::Produce, ApiKey::Metadata];
        let api = api[self.random.index(api.len())];
        let mut frame = frames::header(api, &message, bytes).to_vec();
        if self.random.below(8) == 0 {
            // A message that is longer than any may be.
            frame[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        }
        frame.extend(message);
        let some = [0, 0, 10 << 10, 300 << 10, 4 << 20];
        let some = some[self.random.index(some.len())];
        frame.resize(frame.len() + some, 0);
        frame
    }

    fn send_some(&mut self, line: &mut Line, most: usize) -> Sent {
        let end = line.sent.saturating_add(most).min(line.outgoing.len());
        while line.sent < end {
            match line.stream.write(&line.outgoing[line.sent..end]) {
                Ok(count) => {
                    line.sent += count;
                    self.counts.bytes_sent += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Sent::Stuck,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Sent::Gone,
            }
        }
        Sent::All
    }

    /// Takes what has arrived; false once the connection is closed.
    fn read(&mut self, line: &mut Line) -> bool {
        let mut buffer = [0; 64 << 10];
        loop {
            match line.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    self.counts.bytes_received += count as u64;
                    if count < buffer.len() {
                        return true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}
