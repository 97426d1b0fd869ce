//! Every kind of file that a start reads, one at a time, whatever is in it.
//!
//! The first byte says which file; the second, whether it gets a right checksum, so that what lies
//! behind the checksum is reached; the third, what else is there.

use std::{path::Path, sync::Arc};

use strandline_core::{
    TopicConfig,
    metadata::{Entry, Image, changes, metadata_page},
};
use strandline_protocol::{LeaderEpoch, messages::MetadataRequest};
use strandline_storage::{
    directory::{DataDirectory, PartitionName, read_checkpoint_file, topic_id_in},
    fs::{FileSystem, simulated::SimulatedDisk},
    log::{Log, RecoveryHint, inspect},
};

use super::{
    choices::Choices,
    disk::{NOW, PARTITION, ROOT, TOPIC, claim, config, put, put_one, seal_again, templates},
};

/// Files of a partition.
const OF_PARTITION: [&str; 8] = [
    "00000000000000000000.log",
    "00000000000000000000.index",
    "00000000000000000000.timeindex",
    "00000000000000000012.snapshot",
    "recovery.state",
    "partition.state",
    "leader-epoch-checkpoint",
    "partition.metadata",
];

/// Files of a data directory.
const OF_DIRECTORY: [&str; 8] = [
    "meta.properties",
    "meta.sealed",
    "incarnation",
    "checkpoint.sealed",
    ".kafka_cleanshutdown",
    "recovery-point-offset-checkpoint",
    "log-start-offset-checkpoint",
    "replication-offset-checkpoint",
];

/// The names of the files, in the order of the first byte.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    OF_PARTITION.into_iter().chain(OF_DIRECTORY)
}

/// The target.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let which = choices.below(18);
    let seal = choices.below(2);
    let template = choices.below(3);
    if which == 16 {
        return entries(&mut choices);
    }
    let mut bytes = choices.rest().to_vec();
    if which == 17 {
        return text(&bytes);
    }
    let partition = OF_PARTITION.get(which);
    let name = partition.unwrap_or_else(|| &OF_DIRECTORY[which - OF_PARTITION.len()]);
    if seal == 1 {
        seal_again(name, &mut bytes);
    }
    match partition {
        Some(name) => of_partition(name, template, &bytes),
        None => of_directory(name, template, &bytes),
    }
}

/// In a partition that is good or empty otherwise: looked at, then opened.
fn of_partition(name: &str, template: usize, bytes: &[u8]) {
    let path = Path::new(PARTITION).join(name);
    let mut contents = templates()[template].clone();
    contents.insert(path, bytes.to_vec());
    let disk = SimulatedDisk::new(0);
    let files = disk.file_system();
    put(files.as_ref(), &contents);
    let directory = Path::new(ROOT).join(PARTITION);
    assert!(inspect::is_known(name));
    match inspect::dump(files.as_ref(), &directory.join(name)) {
        Ok(inspect::Dump::Log(pieces)) => assert!(pieces.count() <= bytes.len()),
        Ok(inspect::Dump::OffsetIndex { entries, .. }) => {
            assert_eq!(entries.len(), bytes.len() / 8);
        }
        Ok(inspect::Dump::TimeIndex { entries, .. }) => {
            assert_eq!(entries.len(), bytes.len() / 12);
        }
        _ => {}
    }
    let hint = RecoveryHint::default();
    if let Ok((log, _)) = Log::open(files, &directory, TOPIC, config(), hint, NOW) {
        assert!(log.start() <= log.end());
    }
}

/// In a data directory that is good or empty otherwise.
fn of_directory(name: &str, template: usize, bytes: &[u8]) {
    let mut contents = templates()[template].clone();
    contents.insert(name.into(), bytes.to_vec());
    let disk = SimulatedDisk::new(0);
    let files = disk.file_system();
    put(files.as_ref(), &contents);
    let root = Path::new(ROOT);
    let opened = DataDirectory::open(Arc::clone(&files), root, &claim());
    let Ok((directory, found)) = opened else {
        return;
    };
    assert_eq!(directory.identity().node_id, claim().identity.node_id);
    // What was understood is written and understood again.
    directory.write_checkpoint(&found.checkpoint).unwrap();
    directory
        .write_checkpoint_for_kafka(&found.checkpoint)
        .unwrap();
    let identity = *directory.identity();
    drop(directory);
    let files = disk.kill().file_system();
    let (directory, again) = DataDirectory::open(files, root, &claim()).unwrap();
    assert_eq!(*directory.identity(), identity);
    assert_eq!(again.checkpoint, found.checkpoint);
}

/// Entries of the metadata log, one behind the other.
fn entries(choices: &mut Choices<'_>) {
    let mut image = Image::default();
    while !choices.is_over() {
        let before = image.clone();
        let Ok(entry) = Entry::decode(choices.long()) else {
            continue;
        };
        let again = Entry::decode(&entry.encode()).expect("what was encoded decodes");
        assert_eq!(entry, again);
        let offset = image.version().plus(1);
        if image.try_apply(offset, LeaderEpoch(1), &entry).is_err() {
            return;
        }
        assert!(image.is_consistent());
        let names = image.topics().map(|topic| topic.name.to_string()).collect();
        let defaults = TopicConfig::default();
        let _ = changes(&before, &image, &defaults, &names);
        let _ = metadata_page(&image, &defaults, &MetadataRequest::default());
    }
}

/// Small texts that have a reader of their own.
fn text(bytes: &[u8]) {
    let disk = SimulatedDisk::new(0);
    let files: Arc<dyn FileSystem> = disk.file_system();
    put_one(files.as_ref(), Path::new("checkpoint"), bytes);
    if let Ok(Some(lines)) = read_checkpoint_file(files.as_ref(), Path::new("checkpoint")) {
        assert!(lines.len() <= bytes.len());
    }
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = topic_id_in(text);
        if let Ok(name) = text.parse::<PartitionName>() {
            assert_eq!(name.to_string(), text);
        }
    }
}
