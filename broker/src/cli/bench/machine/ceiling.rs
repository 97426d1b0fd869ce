//! The ceiling of a log broker: what is left when everything that makes one useful is taken away.
//!
//! One connection over loopback carries frames of 100 KB, or of 1 KiB one at a time. The receiver
//! reads a frame, checks its CRC-32C, has it in an allocated segment (through a mapping: read
//! straight into it; or by `pwrite`), and acknowledges it. No broker can be faster on this machine
//! with one connection and as many frames in flight.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::fs::FileExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::{Probes, mapping::MappedFile, network::pair, prewarm, record, thread_cpu};
use crate::cli::quantity;

/// Name and size of the frames, and how many of them are in flight.
const CASES: [(&str, usize, usize); 3] = [
    ("100_kb", 100_000, 1),
    ("100_kb", 100_000, 8),
    ("1_kib", 1 << 10, 1),
];
const SEGMENT_BYTES: usize = 512 << 20;
const FRAMES: u32 = 10_000;
const FRAMES_WARM: u32 = 500;
/// As the client and the broker choose it on loopback, where nothing is ever lost.
const CONGESTION_CONTROL: Option<&str> = Some("reno");
/// After how much a new segment is begun over the first: what is dirty at once stays bounded.
const SEGMENTS_MAX: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Mapped,
    Written,
}

/// Measures both ways to append, with each size of frames and each number of them in flight.
///
/// # Errors
/// If loopback or the disk fails.
pub fn measure(probes: &mut Probes, directory: &Path) -> io::Result<()> {
    for (store, store_name) in [(Store::Mapped, "mapped"), (Store::Written, "pwrite")] {
        for (size_name, frame_bytes, window) in CASES {
            let name = format!("ceiling_{store_name}_{size_name}_window_{window}");
            prewarm(u64::MAX);
            let outcome = run(store, frame_bytes, window, directory)?;
            let bytes = u64::from(FRAMES) * quantity::length(frame_bytes);
            let rate = quantity::per_second(bytes, outcome.elapsed) / 1e6;
            probes.add(name.clone(), rate, "MB/s");
            probes.add_latency(&name, &outcome.latency);
            let gigabytes = quantity::float(bytes) / 1e9;
            let cpu = outcome.server_cpu.as_secs_f64() / gigabytes;
            probes.add(format!("{name}_server_cpu"), cpu, "s/GB");
        }
    }
    Ok(())
}

struct Outcome {
    elapsed: Duration,
    latency: Histogram<u64>,
    server_cpu: Duration,
}

fn run(store: Store, frame_bytes: usize, window: usize, directory: &Path) -> io::Result<Outcome> {
    let (mut sender, receiver) = pair(CONGESTION_CONTROL).or_else(|_| pair(None))?;
    let directory = directory.to_owned();
    let server = thread::spawn(move || serve(receiver, store, frame_bytes, &directory));
    let sent = send(&mut sender, frame_bytes, window);
    drop(sender);
    let served = server
        .join()
        .map_err(|_| io::Error::other("the receiver panicked"))?;
    let server_cpu = served?;
    let (elapsed, latency) = sent?;
    Ok(Outcome {
        elapsed,
        latency,
        server_cpu,
    })
}

/// Sends every frame with at most `window` of them unacknowledged.
fn send(
    stream: &mut TcpStream,
    frame_bytes: usize,
    window: usize,
) -> io::Result<(Duration, Histogram<u64>)> {
    let mut latency = Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(io::Error::other)?;
    let payload = vec![7_u8; frame_bytes];
    let mut frame = crc32c::crc32c(&payload).to_be_bytes().to_vec();
    frame.extend_from_slice(&payload);
    let mut in_flight = VecDeque::with_capacity(window);
    let mut acknowledgement = [0_u8; 8];
    let mut started = Instant::now();
    for number in 0..FRAMES_WARM + FRAMES {
        if in_flight.len() == window {
            stream.read_exact(&mut acknowledgement)?;
            take(&mut in_flight, &mut latency);
        }
        if number == FRAMES_WARM {
            started = Instant::now();
            latency.reset();
        }
        in_flight.push_back(Instant::now());
        stream.write_all(&frame)?;
    }
    while !in_flight.is_empty() {
        stream.read_exact(&mut acknowledgement)?;
        take(&mut in_flight, &mut latency);
    }
    Ok((started.elapsed(), latency))
}

fn take(in_flight: &mut VecDeque<Instant>, latency: &mut Histogram<u64>) {
    if let Some(sent) = in_flight.pop_front() {
        record(latency, sent.elapsed());
    }
}

/// Receives, checks, stores and acknowledges until the other side closes; the CPU time it took
/// after the warm-up.
fn serve(
    mut stream: TcpStream,
    store: Store,
    frame_bytes: usize,
    directory: &Path,
) -> io::Result<Duration> {
    let mut segments = Segments::new(store, frame_bytes, directory);
    let mut header = [0_u8; 4];
    let mut appended = 0_u64;
    let mut cpu_before = thread_cpu();
    while stream.read_exact(&mut header).is_ok() {
        let crc = segments.append(&mut stream)?;
        if crc != u32::from_be_bytes(header) {
            return Err(io::Error::other("a frame arrived damaged"));
        }
        appended += 1;
        if appended == u64::from(FRAMES_WARM) {
            cpu_before = thread_cpu();
        }
        stream.write_all(&appended.to_be_bytes())?;
    }
    let used = thread_cpu().saturating_sub(cpu_before);
    segments.remove()?;
    Ok(used)
}

/// Where frames go: one segment after the other, each allocated anew.
struct Segments<'a> {
    store: Store,
    directory: &'a Path,
    created: u32,
    position: usize,
    mapped: Option<MappedFile>,
    written: Option<File>,
    buffer: Vec<u8>,
}

impl<'a> Segments<'a> {
    fn new(store: Store, frame_bytes: usize, directory: &'a Path) -> Self {
        Self {
            store,
            directory,
            created: 0,
            position: SEGMENT_BYTES,
            mapped: None,
            written: None,
            buffer: vec![0; frame_bytes],
        }
    }

    /// Reads one frame into the segment and gives its CRC.
    fn append(&mut self, stream: &mut TcpStream) -> io::Result<u32> {
        let frame_bytes = self.buffer.len();
        if self.position + frame_bytes > SEGMENT_BYTES {
            self.roll()?;
        }
        let position = self.position;
        self.position += frame_bytes;
        if let Some(mapped) = self.mapped.as_mut() {
            let room = mapped
                .room(position, frame_bytes)
                .ok_or_else(|| io::Error::other("the segment is full"))?;
            stream.read_exact(room)?;
            return Ok(crc32c::crc32c(room));
        }
        stream.read_exact(&mut self.buffer)?;
        let crc = crc32c::crc32c(&self.buffer);
        if let Some(file) = self.written.as_ref() {
            file.write_all_at(&self.buffer, quantity::length(position))?;
        }
        Ok(crc)
    }

    fn roll(&mut self) -> io::Result<()> {
        self.mapped = None;
        self.written = None;
        if self.created >= SEGMENTS_MAX {
            fs::remove_file(self.path(self.created - SEGMENTS_MAX))?;
        }
        let path = self.path(self.created);
        match self.store {
            Store::Mapped => {
                let bytes = quantity::length(SEGMENT_BYTES);
                self.mapped = Some(MappedFile::create(&path, bytes)?);
            }
            Store::Written => self.written = Some(File::create_new(&path)?),
        }
        self.created += 1;
        self.position = 0;
        Ok(())
    }

    fn path(&self, number: u32) -> std::path::PathBuf {
        self.directory.join(format!("ceiling-{number}"))
    }

    fn remove(mut self) -> io::Result<()> {
        self.mapped = None;
        self.written = None;
        for number in self.created.saturating_sub(SEGMENTS_MAX)..self.created {
            fs::remove_file(self.path(number))?;
        }
        Ok(())
    }
}
