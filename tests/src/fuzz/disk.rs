//! A data directory as a broker leaves it, kept as bytes, and put on a simulated disk again with
//! edits.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use strandline_protocol::{
    BrokerEpoch, BrokerId, ClusterId, DirectoryId, LeaderEpoch, Offset, ProducerEpoch, ProducerId,
    Sequence, Timestamp, TopicId,
    batch::{BatchBuilder, BatchView, Codec, NewRecord, ProducerStamp, header_bytes},
};
use strandline_storage::{
    directory::{Checkpoint, CheckpointedOffsets, Claim, DataDirectory, Identity, RaftId},
    fs::{FileSystem, simulated::SimulatedDisk},
    log::{Log, LogConfig, RecoveryHint},
};

use super::choices::Choices;

/// The broker's time.
pub(super) const NOW: Timestamp = Timestamp(1_700_000_000_000);
/// The topic of the one partition.
pub(super) const TOPIC: TopicId = TopicId([7; 16]);
/// Where it is.
pub(super) const ROOT: &str = "data";
/// The one partition.
pub(super) const PARTITION: &str = "t-0";

/// Files by their paths below [`ROOT`].
pub(super) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// As whose the directory is opened. Without a reserve: it would only be zeros.
pub(super) fn claim() -> Claim {
    Claim {
        identity: Identity {
            cluster_id: ClusterId([1; 16]),
            node_id: BrokerId(4),
            directory_id: DirectoryId([2; 16]),
            raft_id: RaftId(5),
        },
        cluster_id: None,
        reserve_bytes: 0,
    }
}

/// A log's configuration with every bound shrunk, so that a few batches fill segments.
pub(super) fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 900,
        max_message_bytes: 100_000,
        retention_ms: None,
        ..LogConfig::test_min()
    }
}

/// Directories to begin with: empty, stopped in order, killed, killed early.
pub(super) fn templates() -> &'static [Files; 4] {
    static TEMPLATES: OnceLock<[Files; 4]> = OnceLock::new();
    TEMPLATES.get_or_init(|| {
        [
            Files::new(),
            left_by(End::Stopped, 14),
            left_by(End::Killed, 14),
            left_by(End::Killed, 3),
        ]
    })
}

/// How the broker of a template ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stopped,
    Killed,
}

fn left_by(end: End, batches: i32) -> Files {
    let disk = SimulatedDisk::new(0);
    let files = disk.file_system();
    let root = Path::new(ROOT);
    let (directory, _) = DataDirectory::open(Arc::clone(&files), root, &claim()).unwrap();
    let path = root.join(PARTITION);
    let hint = RecoveryHint::default();
    let opened = Log::open(Arc::clone(&files), &path, TOPIC, config(), hint, NOW);
    let (mut log, _) = opened.unwrap();
    for number in 0..batches {
        let epoch = LeaderEpoch(number / 5);
        log.append(&numbered_batch(number), epoch, NOW).unwrap();
        if number == batches / 2 {
            log.flush().unwrap();
            if let Some(job) = log.checkpoint_job(NOW) {
                job.run().unwrap();
            }
            directory
                .write_checkpoint(&checkpoint(log.durable()))
                .unwrap();
            directory
                .write_checkpoint_for_kafka(&checkpoint(log.durable()))
                .unwrap();
        }
    }
    if end == End::Stopped {
        let recovery_point = log.close(NOW).unwrap();
        let checkpoint = checkpoint(recovery_point);
        directory.close_clean(BrokerEpoch(9), &checkpoint).unwrap();
    }
    collect(files.as_ref(), root)
}

fn checkpoint(recovery_point: Offset) -> Checkpoint {
    let mut checkpoint = Checkpoint::default();
    let offsets = CheckpointedOffsets {
        recovery_point,
        log_start: Offset::ZERO,
        high_watermark: recovery_point,
    };
    checkpoint.insert(PARTITION.parse().unwrap(), TOPIC, offsets);
    checkpoint
}

/// The `number`-th batch of an idempotent producer: three records, of every codec in turn.
fn numbered_batch(number: i32) -> Vec<u8> {
    let codec = Codec::ALL[usize::try_from(number).unwrap() % Codec::ALL.len()];
    let mut builder = BatchBuilder::new(codec, 256);
    for record in 0..3 {
        let value = format!("{number}.{record} ").repeat(12);
        let record = NewRecord {
            timestamp: Timestamp(NOW.0 + i64::from(number)),
            value: Some(value.as_bytes()),
            ..NewRecord::default()
        };
        builder.try_append(1 << 20, record).unwrap();
    }
    let stamp = ProducerStamp {
        id: ProducerId(i64::from(number % 2)),
        epoch: ProducerEpoch(0),
        base_sequence: Sequence(number / 2 * 3),
    };
    builder.finish(stamp).unwrap().to_vec()
}

fn collect(files: &dyn FileSystem, directory: &Path) -> Files {
    let mut found = Files::new();
    for entry in files.list(directory).unwrap() {
        let path = directory.join(&entry.name);
        if entry.is_directory {
            found.extend(collect(files, &path));
            continue;
        }
        let Ok(file) = files.open(&path) else {
            continue;
        };
        let bytes = file.view(0..file.size()).unwrap().to_vec();
        found.insert(path.strip_prefix(ROOT).unwrap().to_owned(), bytes);
    }
    found.remove(Path::new(".lock"));
    found
}

/// A file of that name, or at least of that kind, from the template of a directory that was killed
/// early, or stopped.
pub(super) fn file_like(name: &str) -> Option<Vec<u8>> {
    let suffix = |path: &Path| path.extension().map(ToOwned::to_owned);
    let [_, stopped, _, early] = templates();
    let of_name = |(path, _): &(&PathBuf, &Vec<u8>)| path.file_name().is_some_and(|it| it == name);
    let of_kind = |(path, bytes): &(&PathBuf, &Vec<u8>)| {
        name.starts_with('0') && suffix(path) == suffix(Path::new(name)) && !bytes.is_empty()
    };
    let found = early
        .iter()
        .find(of_name)
        .or_else(|| stopped.iter().find(of_name));
    let found = found.filter(|(_, bytes)| !bytes.is_empty());
    let found = found.or_else(|| stopped.iter().find(of_kind));
    found.map(|(_, bytes)| bytes.clone())
}

/// Puts files on an empty disk.
pub(super) fn put(files: &dyn FileSystem, contents: &Files) {
    files.create_directory(Path::new(ROOT)).unwrap();
    for (path, bytes) in contents {
        let path = Path::new(ROOT).join(path);
        files.create_directory(path.parent().unwrap()).unwrap();
        put_one(files, &path, bytes);
    }
    files.sync_directory(Path::new(ROOT)).unwrap();
}

/// Puts one file into a directory that is there.
pub(super) fn put_one(files: &dyn FileSystem, path: &Path, bytes: &[u8]) {
    let file = files.create(path).unwrap();
    file.allocate(u64::try_from(bytes.len()).unwrap()).unwrap();
    file.write(0, &[bytes]).unwrap();
    file.sync().unwrap();
}

/// Makes the checksum of a file right again, whatever is in it.
pub(super) fn seal_again(name: &str, bytes: &mut Vec<u8>) {
    match name {
        "partition.state" | "recovery.state" => put_sum(bytes, 6, 10),
        _ if name.ends_with(".snapshot") => put_sum(bytes, 2, 6),
        _ if name.ends_with(".log") => seal_batches(bytes),
        "meta.sealed" | "checkpoint.sealed" | "incarnation" => {
            const SEAL_BYTES: usize = "crc32c 00000000\n".len();
            bytes.truncate(bytes.len().saturating_sub(SEAL_BYTES));
            if bytes.last().is_some_and(|last| *last != b'\n') {
                bytes.push(b'\n');
            }
            let sum = crc32c::crc32c(bytes);
            bytes.extend(format!("crc32c {sum:08x}\n").into_bytes());
        }
        _ => {}
    }
}

fn put_sum(bytes: &mut [u8], at: usize, from: usize) {
    if bytes.len() >= from {
        let sum = crc32c::crc32c(&bytes[from..]);
        bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    }
}

fn seal_batches(bytes: &mut [u8]) {
    let mut at = 0;
    while let Ok(view) = BatchView::first(&bytes[at..]) {
        let header = view.header().with_crc(view.stored_records());
        let header = header_bytes(&header).to_vec();
        let end = at + view.bytes().len();
        bytes[at..at + header.len()].copy_from_slice(&header);
        at = end;
    }
}

/// Edits some files: bytes, whole files, names; some get a right checksum again.
pub(super) fn edit(files: &mut Files, choices: &mut Choices<'_>) {
    for _ in 0..choices.below(6) {
        let names: Vec<PathBuf> = files.keys().cloned().collect();
        let kind = choices.below(8);
        let Some(path) = names.get(usize::from(choices.u8()) % names.len().max(1)) else {
            return;
        };
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match kind {
            0 => drop(files.remove(path)),
            1 => {
                let bytes = choices.long().to_vec();
                files.insert(path.clone(), bytes);
            }
            2 => {
                // The same under another base offset.
                let suffix = path.extension().unwrap_or_default().to_string_lossy();
                let base = choices.number();
                let other = path.with_file_name(format!("{base:020}.{suffix}"));
                let bytes = files[path].clone();
                files.insert(other, bytes);
            }
            _ => {
                let bytes = files.get_mut(path).unwrap();
                choices.edit_once(bytes);
                if kind >= 5 {
                    seal_again(&name, bytes);
                }
            }
        }
    }
}
