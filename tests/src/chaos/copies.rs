//! What the disks of stopped brokers hold: every copy of every partition, read by nothing but the
//! format of batches.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use strandline_client::protocol::batch::{BatchView, split_batches};

use super::{event::What, recorder::Recorder};
use crate::history::Mark;

/// Writes into the history what broker `broker` keeps of `topic` in its data directory: one event
/// for each record, then that it is whole. Returns how many partitions it keeps.
///
/// # Errors
/// If a file cannot be read.
pub fn tell(
    data: &Path,
    broker: i32,
    topic: &str,
    partitions: i32,
    recorder: &Recorder,
) -> anyhow::Result<usize> {
    let mut kept = 0;
    for partition in 0..partitions {
        let directory = data.join(format!("{topic}-{partition}"));
        if !directory.is_dir() {
            continue;
        }
        kept += 1;
        let start = segments(&directory)?.first().map_or(0, |(base, _)| *base);
        for (offset, mark) in read(&directory)? {
            let what = What::Kept {
                broker,
                offset,
                mark,
            };
            recorder.note(partition, what);
        }
        recorder.note(partition, What::KeptFrom { broker, start });
    }
    Ok(kept)
}

/// The segments of a partition, by their base offsets.
///
/// # Errors
/// If the directory cannot be read.
pub fn segments(directory: &Path) -> anyhow::Result<Vec<(i64, PathBuf)>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let base = path.file_stem().and_then(|stem| stem.to_str());
            let base = base.and_then(|stem| stem.parse().ok());
            segments.push((base.with_context(|| format!("{}", path.display()))?, path));
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Every record of a partition in order; none for what is damaged, of which a batch counts once.
///
/// # Errors
/// If a file cannot be read.
pub fn read(directory: &Path) -> anyhow::Result<Vec<(i64, Option<Mark>)>> {
    let mut records = Vec::new();
    for (base, path) in segments(directory)? {
        let bytes = std::fs::read(&path).with_context(|| format!("{}", path.display()))?;
        let mut next = base;
        // Room that was reserved and not used, as behind a cut, is nothing.
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 1);
        let bytes = whole_batches(&bytes, used);
        for batch in split_batches(bytes) {
            let whole = batch.ok().filter(|batch| batch.check_crc().is_ok());
            match whole {
                Some(batch) => {
                    read_batch(&batch, &mut records);
                    next = batch.header().end_offset().0;
                }
                None => {
                    records.push((next, None));
                    break;
                }
            }
        }
    }
    Ok(records)
}

/// What of `bytes` is batches, if all behind `used` is zeros: up to the end of the batch that holds
/// the last byte which is none, as a batch may end in zeros itself.
fn whole_batches(bytes: &[u8], used: usize) -> &[u8] {
    let mut end = 0;
    for batch in split_batches(bytes).map_while(Result::ok) {
        if end >= used {
            break;
        }
        end += batch.bytes().len();
    }
    &bytes[..end.max(used)]
}

fn read_batch(batch: &BatchView<'_>, records: &mut Vec<(i64, Option<Mark>)>) {
    let mut scratch = Vec::new();
    let base = batch.header().base_offset().0;
    match batch.records(&mut scratch) {
        Ok(walk) => {
            for record in walk {
                records.push(match record {
                    Ok(record) => (record.offset.0, record.value.and_then(Mark::of)),
                    Err(_) => (base, None),
                });
            }
        }
        Err(_) => records.push((base, None)),
    }
}
