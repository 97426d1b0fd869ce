//! Appending through a mapping and by `pwrite`, and what `fdatasync` takes.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{FallocateFlags, fallocate};

use super::{
    Probes, gigabytes_per_second, latency_histogram, mapping::MappedFile, prewarm, record,
};
use crate::cli::{error::CommandError, quantity};

const SEGMENT_BYTES: usize = 512 << 20;
/// How much is appended in groups of one size.
const GROUPS_BYTES: u64 = 1_000_000_000;
const SYNCS: u64 = 1_000;
const SYNCS_WARM: u64 = 50;
const SYNC_TIME_MAX: Duration = Duration::from_secs(5);

/// Appends one segment by each way and chunk size, then syncs small and large appends.
///
/// # Errors
/// If the directory cannot be written or the disk is full.
pub fn measure(probes: &mut Probes, directory: &Path) -> Result<(), CommandError> {
    let wrong = |error: io::Error| no_room(directory, &error);
    for (name, chunk) in [("1_kib", 1 << 10), ("100_kb", 100_000), ("1_mib", 1 << 20)] {
        let mapped = append_mapped(directory, chunk).map_err(wrong)?;
        probes.add(format!("append_mapped_{name}"), mapped, "GB/s");
        let written = append_pwrite(directory, chunk).map_err(wrong)?;
        probes.add(format!("append_pwrite_{name}"), written, "GB/s");
    }
    for (name, chunk) in [("4_kib", 4 << 10), ("100_kb", 100_000)] {
        let mut latency = latency_histogram()?;
        syncs(directory, chunk, &mut latency).map_err(wrong)?;
        probes.add_latency(&format!("append_fdatasync_{name}"), &latency);
    }
    Ok(())
}

/// Appends [`GROUPS_BYTES`] in groups of each size, every group synced before the next.
///
/// # Errors
/// If the directory cannot be written or the disk is full.
pub fn measure_groups(
    probes: &mut Probes,
    directory: &Path,
    sizes: &[usize],
) -> Result<(), CommandError> {
    for &size in sizes {
        prewarm(2 * GROUPS_BYTES);
        let rate = synced_groups(directory, size).map_err(|error| no_room(directory, &error))?;
        probes.add(format!("sync_groups_of_{size}"), rate * 1e3, "MB/s");
    }
    Ok(())
}

fn no_room(directory: &Path, error: &io::Error) -> CommandError {
    CommandError::io(directory.display(), error)
        .hint("the probes need 1 GB of free space; choose another directory with --data DIR")
}

/// Segments are allocated before the clock starts: what is measured is writing and syncing.
fn synced_groups(directory: &Path, size: usize) -> io::Result<f64> {
    let path = directory.join("groups");
    let file = File::create_new(&path)?;
    let block = vec![7_u8; size];
    let size = quantity::length(size);
    let groups = GROUPS_BYTES.div_ceil(size);
    allocate(&file, groups * size)?;
    file.sync_all()?;
    let started = Instant::now();
    for group in 0..groups {
        file.write_all_at(&block, group * size)?;
        file.sync_data()?;
    }
    let rate = gigabytes_per_second(groups * size, started.elapsed());
    fs::remove_file(&path)?;
    Ok(rate)
}

/// A file system that cannot allocate ahead is measured as it is.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn append_mapped(directory: &Path, chunk: usize) -> io::Result<f64> {
    let path = directory.join("append");
    prewarm(2 * quantity::length(SEGMENT_BYTES));
    let block = vec![3_u8; chunk];
    let started = Instant::now();
    let mut segment = MappedFile::create(&path, quantity::length(SEGMENT_BYTES))?;
    let mut position = 0;
    while let Some(room) = segment.room(position, chunk) {
        room.copy_from_slice(&block);
        position += chunk;
    }
    let rate = gigabytes_per_second(quantity::length(position), started.elapsed());
    drop(segment);
    fs::remove_file(&path)?;
    Ok(rate)
}

fn append_pwrite(directory: &Path, chunk: usize) -> io::Result<f64> {
    let path = directory.join("append");
    prewarm(2 * quantity::length(SEGMENT_BYTES));
    let block = vec![3_u8; chunk];
    let started = Instant::now();
    let segment = File::create_new(&path)?;
    let mut position = 0;
    while position + chunk <= SEGMENT_BYTES {
        segment.write_all_at(&block, quantity::length(position))?;
        position += chunk;
    }
    let rate = gigabytes_per_second(quantity::length(position), started.elapsed());
    drop(segment);
    fs::remove_file(&path)?;
    Ok(rate)
}

/// Appends into allocated space and makes each append durable before the next.
fn syncs(
    directory: &Path,
    chunk: usize,
    latency: &mut hdrhistogram::Histogram<u64>,
) -> io::Result<()> {
    let path = directory.join("sync");
    let file = File::create_new(&path)?;
    let block = vec![5_u8; chunk];
    let chunk = quantity::length(chunk);
    allocate(&file, (SYNCS + SYNCS_WARM) * chunk)?;
    file.sync_all()?;
    let begun = Instant::now();
    for round in 0..SYNCS_WARM + SYNCS {
        let started = Instant::now();
        file.write_all_at(&block, round * chunk)?;
        file.sync_data()?;
        if round >= SYNCS_WARM {
            record(latency, started.elapsed());
        }
        if begun.elapsed() > SYNC_TIME_MAX && !latency.is_empty() {
            break;
        }
    }
    fs::remove_file(&path)
}
