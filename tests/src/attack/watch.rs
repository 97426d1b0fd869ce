//! Looking at a broker from outside: its memory, its descriptors, and what a good client meets.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use strandline_client::protocol::{
    Offset, PartitionId, TopicId,
    batch::split_batches,
    frame::{FrameHeader, HEADER_BYTES},
    messages::{FetchPartition, FetchRequest, ProduceResponse, Request, decode},
};

use super::frames;

/// How long a good client waits for anything.
pub const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What was seen since somebody last looked.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The most anonymous memory of the process, in bytes.
    pub anonymous_bytes: u64,
    /// The most descriptors that it had open.
    pub descriptors: usize,
    /// How long `Hello`, produce and fetch took together, each time.
    pub probes: Vec<Duration>,
    /// How often no connection was to be had because all were taken.
    pub crowded_out: u32,
    /// What a good client met and must not.
    pub failures: Vec<String>,
}

impl Seen {
    /// The longest probe.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        self.probes.iter().max().copied().unwrap_or_default()
    }

    /// The median probe.
    #[must_use]
    pub fn median(&self) -> Duration {
        let mut sorted = self.probes.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

/// Looks every now and then until it is dropped.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Watches the process of that number, and the broker at `address`: a good client writes to the
    /// first partition of `topic` and reads it back. It keeps one connection, and opens another one
    /// each time.
    ///
    /// # Errors
    /// If the first connection cannot be opened.
    pub fn start(process: u32, address: SocketAddr, topic: TopicId) -> anyhow::Result<Self> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        {
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let (anonymous, descriptors) = figures(process);
                    {
                        let mut seen = seen.lock().expect("nobody panics with it");
                        seen.anonymous_bytes = seen.anonymous_bytes.max(anonymous);
                        seen.descriptors = seen.descriptors.max(descriptors);
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            }));
        }
        let mut kept = Peer::connect(address)?;
        {
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    let outcome = probe(&mut kept, address, topic);
                    let mut seen = seen.lock().expect("nobody panics with it");
                    match outcome {
                        Ok(Probe::Served) => seen.probes.push(started.elapsed()),
                        Ok(Probe::CrowdedOut) => {
                            seen.probes.push(started.elapsed());
                            seen.crowded_out += 1;
                        }
                        Err(error) => {
                            seen.failures.push(format!("{error:#}"));
                            if let Ok(peer) = Peer::connect(address) {
                                kept = peer;
                            }
                        }
                    }
                    drop(seen);
                    std::thread::sleep(Duration::from_millis(50));
                }
            }));
        }
        Ok(Self {
            seen,
            stop,
            threads,
        })
    }

    /// What was seen since the last call.
    ///
    /// # Panics
    /// If a watching thread panicked.
    #[must_use]
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().expect("nobody panics with it"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Anonymous memory in bytes and open descriptors of a process.
#[must_use]
pub fn figures(process: u32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let anonymous = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let descriptors = std::fs::read_dir(format!("/proc/{process}/fd"));
    (
        anonymous.unwrap_or(0) << 10,
        descriptors.map_or(0, Iterator::count),
    )
}

/// How a probe ended.
enum Probe {
    Served,
    /// The connection that was kept was served, but there was no other to be had.
    CrowdedOut,
}

fn probe(kept: &mut Peer, address: SocketAddr, topic: TopicId) -> anyhow::Result<Probe> {
    let written = kept.produce(topic).context("an open connection")?;
    kept.fetch(topic, written).context("an open connection")?;
    match Peer::connect(address) {
        Ok(mut peer) => {
            let written = peer.produce(topic).context("a new connection")?;
            peer.fetch(topic, written).context("a new connection")?;
            Ok(Probe::Served)
        }
        Err(error) if is_closed(&error) => Ok(Probe::CrowdedOut),
        Err(error) => Err(error.context("a new connection")),
    }
}

/// Whether the broker closed the connection at once, as it does beyond its limit.
fn is_closed(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let kind = error.downcast_ref::<std::io::Error>();
    kind.is_some_and(|error| matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
}

/// A good client that waits for each answer.
pub struct Peer(TcpStream);

impl Peer {
    /// Connects and says `Hello`.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        stream.set_nodelay(true)?;
        let mut peer = Self(stream);
        peer.exchange(&frames::hello())?;
        Ok(peer)
    }

    /// Sends a request and returns message and payload of the answer.
    ///
    /// # Errors
    /// If there is none, or it is an error.
    pub fn call<R: Request>(
        &mut self,
        request: &R,
        payload: &[u8],
    ) -> anyhow::Result<(R::Response, Vec<u8>)> {
        let (message, payload) = self.exchange(&frames::request(request, payload))?;
        Ok((decode(R::API, &message)?, payload))
    }

    fn exchange(&mut self, frame: &[u8]) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
        self.0.write_all(frame)?;
        let mut fixed = [0; HEADER_BYTES];
        self.0.read_exact(&mut fixed)?;
        let header = FrameHeader::decode(&fixed, 64 << 20)?;
        let mut body = vec![0; header.body_bytes];
        self.0.read_exact(&mut body)?;
        let payload = body.split_off(header.message_bytes);
        header.check(&fixed, &body)?;
        anyhow::ensure!(
            header.error.is_none(),
            "the broker answered {}: {}",
            header.error,
            String::from_utf8_lossy(&body)
        );
        Ok((body, payload))
    }

    fn produce(&mut self, topic: TopicId) -> anyhow::Result<Offset> {
        let batch = frames::batch(&[b"a good client's record"]);
        let request = frames::produce_request(topic, batch.len());
        let (response, _): (ProduceResponse, _) = self.call(&request, &batch)?;
        let produced = response.partitions.first().context("an empty answer")?;
        anyhow::ensure!(
            produced.failure.error.is_none(),
            "produce was answered {}: {}",
            produced.failure.error,
            produced.failure.message
        );
        Ok(produced.base_offset)
    }

    fn fetch(&mut self, topic: TopicId, from: Offset) -> anyhow::Result<()> {
        let request = FetchRequest {
            wait_ms_max: 1_000,
            bytes_min: 1,
            bytes_max: 1 << 20,
            partitions: vec![FetchPartition {
                topic_id: topic,
                partition: PartitionId(0),
                fetch_offset: from,
                bytes_max: 1 << 20,
                current_leader_epoch: None,
            }],
            rack: None,
        };
        let (response, payload) = self.call(&request, b"")?;
        let fetched = response.partitions.first().context("an empty answer")?;
        anyhow::ensure!(
            fetched.failure.error.is_none(),
            "fetch was answered {}: {}",
            fetched.failure.error,
            fetched.failure.message
        );
        let first = split_batches(&payload).next().context("nothing fetched")?;
        first?.check_crc()?;
        Ok(())
    }
}
