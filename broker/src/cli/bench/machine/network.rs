//! Loopback: throughput of one stream, and a round trip between two threads.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::Instant,
};

use socket2::SockRef;

use super::{Probes, gigabytes_per_second, latency_histogram, record};
use crate::cli::{error::CommandError, quantity};

const TOTAL_BYTES: u64 = 1 << 30;
const ROUND_TRIPS: u32 = 20_000;
const ROUND_TRIPS_WARM: u32 = 2_000;
const MESSAGE_BYTES: usize = 32;

/// Measures the congestion control that the machine has by default, and `cubic` beside it where
/// that is another one: it decides on loopback more than the size of the writes does.
///
/// # Errors
/// If no loopback connection can be made.
pub fn measure(probes: &mut Probes) -> Result<(), CommandError> {
    let wrong = |error| CommandError::io("loopback", &error);
    let (sender, _receiver) = pair(None).map_err(wrong)?;
    let default = congestion_control(&sender);
    let mut controls = vec![(default.clone(), None)];
    if default != "cubic" && pair(Some("cubic")).is_ok() {
        controls.push(("cubic".to_owned(), Some("cubic")));
    }
    for (name, control) in controls {
        for (size_name, size) in [("64_kib", 64 << 10), ("1_mib", 1 << 20)] {
            let rate = throughput(control, size).map_err(wrong)?;
            probes.add(format!("loopback_{name}_{size_name}"), rate, "GB/s");
        }
    }
    let mut latency = latency_histogram()?;
    round_trips(&mut latency).map_err(wrong)?;
    probes.add_latency("round_trip_32_b", &latency);
    Ok(())
}

/// A connection over loopback without delay, by a given congestion control or the default one.
///
/// # Errors
/// If it cannot be made, or the kernel lacks that congestion control.
pub fn pair(control: Option<&str>) -> std::io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let sender = TcpStream::connect(listener.local_addr()?)?;
    let (receiver, _) = listener.accept()?;
    for stream in [&sender, &receiver] {
        stream.set_nodelay(true)?;
        if let Some(control) = control {
            SockRef::from(stream).set_tcp_congestion(control.as_bytes())?;
        }
    }
    Ok((sender, receiver))
}

/// The name of the congestion control of a connection.
fn congestion_control(stream: &TcpStream) -> String {
    let name = SockRef::from(stream).tcp_congestion().unwrap_or_default();
    let name: Vec<u8> = name.into_iter().take_while(|byte| *byte != 0).collect();
    match String::from_utf8(name) {
        Ok(name) if !name.is_empty() => name,
        _ => "default".to_owned(),
    }
}

fn throughput(control: Option<&str>, write_bytes: usize) -> std::io::Result<f64> {
    let (mut sender, mut receiver) = pair(control)?;
    let reader = thread::spawn(move || -> std::io::Result<u64> {
        let mut buffer = vec![0_u8; 256 << 10];
        let mut total = 0;
        loop {
            match receiver.read(&mut buffer)? {
                0 => return Ok(total),
                count => total += quantity::length(count),
            }
        }
    });
    let block = vec![7_u8; write_bytes];
    let started = Instant::now();
    let mut sent = 0;
    while sent < TOTAL_BYTES {
        sender.write_all(&block)?;
        sent += quantity::length(write_bytes);
    }
    drop(sender);
    let received = reader
        .join()
        .map_err(|_| std::io::Error::other("the reader panicked"))??;
    Ok(gigabytes_per_second(received, started.elapsed()))
}

fn round_trips(latency: &mut hdrhistogram::Histogram<u64>) -> std::io::Result<()> {
    let (mut asker, mut answerer) = pair(None)?;
    let answers = thread::spawn(move || {
        let mut message = [0_u8; MESSAGE_BYTES];
        // Ends when the other side closes.
        while answerer.read_exact(&mut message).is_ok() && answerer.write_all(&message).is_ok() {}
    });
    let mut message = [1_u8; MESSAGE_BYTES];
    for round in 0..ROUND_TRIPS_WARM + ROUND_TRIPS {
        let started = Instant::now();
        asker.write_all(&message)?;
        asker.read_exact(&mut message)?;
        if round >= ROUND_TRIPS_WARM {
            record(latency, started.elapsed());
        }
    }
    drop(asker);
    answers
        .join()
        .map_err(|_| std::io::Error::other("the answering thread panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_congestion_control_has_a_name() {
        let (sender, _receiver) = pair(None).unwrap();
        let name = congestion_control(&sender);
        assert!(
            !name.is_empty() && name.is_ascii() && !name.contains('\0'),
            "{name:?}"
        );
    }
}
